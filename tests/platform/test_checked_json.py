"""A JSON file that is read back as a number is what was written, or is refused in one line."""

import json
from types import SimpleNamespace

import pytest

from fedrecon.platform.federation.scorer import _kept
from fedrecon.platform.storage import checked_json
from fedrecon.platform.storage.workspace import RunFolder, find_trained, note_trained
from fedrecon.sites.errors import RunError
from fedrecon.tune.engine.searcher import read_suggested
from fedrecon.tune.trials.trial_table import TrialTable

CONTENT = {"mean": {"psnr": 30.25, "nmse": 1e-3}, "rounds": 3, "exact": float("inf"), "sites": ("a", "b"), "none": None}


def folder_files(workspace):
    """Every checked file of a workspace, with a function that reads it as the library does."""
    run = RunFolder(workspace, "a" * 12)
    run.note_run({"run_id": "x", "experiment": {"seed": 12}, "images": {}, "subjects": {}})
    result = {"run_id": "x", "digest": run.digest, "status": "finished", "bytes_up": 1, "bytes_down": 1, "sites": {}}
    run.save_result({**result, "mean": {"psnr": 30.25}, "rounds": 12})
    run.save_environment({"members": {"north": {"threads": 12}}})
    run.note_published(["north", "south"])
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "round-000001.safetensors").touch()
    note_trained(run, "b" * 12)
    part, table = run.path / "parts" / "test-0-0.json", TrialTable(workspace, "sweep")
    part.parent.mkdir()
    checked_json.write(part, {"members": ["north"], "seconds": 1.25, "columns": [{}]}, run.digest)
    verdict = table._path("c" * 12)
    verdict.parent.mkdir(parents=True)
    ended = {"status": "STOPPED", "error": None, "round": 1, "metrics": {}, "run_id": "x", "trained_rounds": 1}
    checked_json.write(verdict, {**ended, "seconds": 1.25})
    checked_json.write(table.folder / "suggested.json", {"suggested": [{"a": 1.25}]})
    return {
        run.path / "run.json": run.noted,
        run.path / "result.json": run.result,
        run.path / "environment.json": run.environment,
        run.path / "published.json": run.published,
        workspace / "trained" / f"{'b' * 12}.json": lambda: find_trained(workspace, "b" * 12).path,
        part: lambda: _kept(part, (), SimpleNamespace(take=lambda columns: None)),
        verdict: lambda: table._verdict("c" * 12),
        table.folder / "suggested.json": lambda: read_suggested(table.folder),
    }


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.json"
    checked_json.write(path, CONTENT, "me")
    assert list(json.loads(path.read_text())) == [*CONTENT, "checksum"]
    assert checked_json.read(path, "", "me") == {**CONTENT, "sites": ["a", "b"]}
    assert checked_json.read(tmp_path / "b.json", "") is None


@pytest.mark.slow
def test_no_flipped_bit_and_no_cut_gives_another_content(tmp_path):
    path = tmp_path / "a.json"
    checked_json.write(path, CONTENT, "me")
    whole, content = path.read_bytes(), checked_json.read(path, "", "me")
    flipped = [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for at in range(len(whole)) for bit in range(8)
    ]
    said = []
    for damaged in [*flipped, *(whole[:at] for at in range(len(whole)))]:
        path.write_bytes(damaged)
        try:
            assert checked_json.read(path, "Do it again.", "me") == content
        except RunError as error:
            said.append(str(error))
    assert len(said) > 0.9 * len(flipped)
    assert all(str(path) in one and one.endswith("Do it again.") and "\n" not in one for one in said)


def test_the_file_of_another_owner_or_of_another_name_is_refused(tmp_path):
    for name in ("a.json", "b.json"):
        checked_json.write(tmp_path / name, {"x": name}, "me")
    with pytest.raises(RunError, match="checksum is wrong"):
        checked_json.read(tmp_path / "a.json", "", "you")
    (tmp_path / "b.json").replace(tmp_path / "a.json")
    with pytest.raises(RunError, match="checksum is wrong"):
        checked_json.read(tmp_path / "a.json", "", "me")


def test_a_file_of_an_earlier_version_is_read_as_it_is(tmp_path):
    for path, read in folder_files(tmp_path).items():
        before = read()
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"}))
        assert read() == before
        if path.name == "suggested.json":
            path.write_text(json.dumps(before))
            assert read() == before


@pytest.mark.parametrize("content", ["{}", "[]", "null", "", '{"a": 1e999}'])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    for path, read in folder_files(tmp_path).items():
        if path.parent.name == "parts" or (content == "[]" and path.name == "suggested.json"):
            continue
        path.write_text(content)
        with pytest.raises(RunError, match=f"{path}"):
            read()


def test_every_file_of_a_workspace_that_is_read_back_is_checked(tmp_path):
    for path, read in folder_files(tmp_path).items():
        assert read()
        path.write_text(path.read_text().replace("1", "2").replace("north", "worth"))
        if path.parent.name == "parts":
            with pytest.warns(UserWarning, match=f"{path}.*checksum is wrong.*scored again"):
                assert read() is None
            continue
        with pytest.raises(RunError, match=f"{path}.*checksum is wrong.*(--rerun|Delete it|Begin)"):
            read()


def test_a_rerun_needs_none_of_the_damaged_files(tmp_path):
    for path in folder_files(tmp_path):
        path.write_text("{")
    RunFolder(tmp_path, "a" * 12).set_aside()
    assert find_trained(tmp_path, "b" * 12) is None
    assert RunFolder(tmp_path, "a" * 12).result() is None
