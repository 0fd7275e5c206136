"""``fedrecon runs`` and ``fedrecon plot``: on folders that a run left, whole, half written or damaged."""

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from command_line import Called
from memory_store import MemoryStore
from plain_pictures import plain_pictures
from safetensors.numpy import load_file
from tiny import UNET

from fedrecon.platform.catalogue import curves
from fedrecon.platform.catalogue.differences import compare
from fedrecon.platform.catalogue.overview import overviews
from fedrecon.platform.catalogue.removal import plan
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.run import steps
from fedrecon.platform.storage.journal import RunRecord
from fedrecon.platform.storage.locks import exclusive_lock
from fedrecon.platform.storage.tracking import store as stores
from fedrecon.platform.storage.workspace import RunFolder, note_trained
from fedrecon.sites.errors import InputError

PSNR = {"a" * 16: 30.0, "b" * 16: 31.5}


@pytest.fixture
def call(capsys):
    return lambda *arguments: Called(capsys, *arguments)


@dataclass(frozen=True)
class Run:
    """What is written of a run that never was."""

    digest: str
    name: str = "north"
    changes: tuple[tuple[str, object], ...] = ()
    finished: bool = True
    tags: tuple[tuple[str, str], ...] = ()
    note: tuple[tuple[str, object], ...] = ()

    def write(self, workspace: Path) -> RunFolder:
        folder = RunFolder(workspace, self.digest)
        experiment = Experiment.read({"name": self.name, "sites": "nowhere", "network": UNET, **dict(self.changes)})
        subjects = {"north": {"p1": "train", "p2": "test"}}
        given = {"run_id": f"id-{self.digest}", "experiment": experiment.as_dict(), "images": {}, "subjects": subjects}
        folder.note_run({**given, **dict(self.note)})
        record = RunRecord("fedrecon", self.name, self.digest, tags=dict(self.tags))
        folder.journal().open(record)
        folder.journal().finish("FINISHED")
        if self.finished:
            scores = {"psnr": PSNR.get(self.digest, 29.0), "ssim": 0.5, "nmse": 0.1, "n_volumes": 1, "n_slices": 2}
            whole = {"run_id": "", "digest": self.digest, "status": "finished", "rounds": 3, "bytes_up": 0}
            folder.save_result(
                {**whole, "bytes_down": 0, "name": self.name, "sites": {"north": scores}, "mean": scores}
            )
        return folder


A, B = Run("a" * 16), Run("b" * 16, "south", (("seed", 1),))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRECON_WORKSPACE", str(tmp_path / "w"))
    (tmp_path / "w").mkdir()
    return tmp_path / "w"


def test_every_kind_of_folder_is_listed_and_the_damaged_one_is_one_line(call, workspace):
    for one in (A, B, Run("c" * 16, finished=False), Run("d" * 16), Run("e" * 16), Run("f" * 16, finished=False)):
        one.write(workspace)
    runs = workspace / "runs"
    (runs / ("d" * 16) / "result.json").write_text('{"rounds": 3, ')
    (runs / ("e" * 16)).rename(runs / f"{'e' * 16}.before-1")
    (runs / ("0" * 16)).mkdir()
    with exclusive_lock(RunFolder(workspace, "f" * 16).lock, "busy"):
        found = call("runs", "list", "--json")
    assert found.code == 0
    status = {one["digest"][0]: one["status"] for one in found.json["runs"]}
    assert status == {
        "a": "finished", "b": "finished", "c": "unfinished", "d": "damaged", "e": "set aside", "f": "running",
        "0": "unfinished",
    }  # fmt: skip
    assert found.err.count("\n") == 1
    assert "d" * 16 in found.err
    listed = {one["digest"][0]: one for one in found.json["runs"]}
    assert (listed["a"]["psnr"], listed["a"]["rounds"], listed["a"]["planned"]) == (30.0, 3, 10)
    assert (listed["a"]["method"], listed["a"]["operator"]) == ("fedavg unet", "random R=4")
    assert listed["d"]["psnr"] is None
    assert listed["a"]["bytes"] > 0
    for digest in ("0" * 16, "d" * 16, f"{'e' * 8}.before-1"):
        assert call("runs", "show", digest, "--json").json["status"] == status[digest[0]]


@pytest.mark.parametrize("experiment", ["null", "3", "[1]", '{"reconstructor": {"name": "network"}, "training": 3}'])
def test_a_note_of_an_old_version_that_makes_no_sense_hides_no_other_run(call, workspace, experiment):
    A.write(workspace)
    odd = workspace / "runs" / ("0" * 16)
    odd.mkdir()
    (odd / "run.json").write_text(f'{{"run_id": "", "experiment": {experiment}, "images": {{}}, "subjects": {{}}}}')
    found = call("runs", "list", "--json")
    assert found.code == 0
    assert {one["digest"][0]: one["status"] for one in found.json["runs"]} == {"a": "finished", "0": "damaged"}
    assert call("runs", "show", "0" * 16, "--json").json["status"] == "damaged"
    assert call("runs", "show", "north", "--json").json["digest"] == A.digest


def test_a_workspace_that_does_not_exist_is_refused_and_an_empty_one_is_empty(call, workspace):
    assert call("runs", "list", "--workspace", workspace / "typo").code == 2
    assert call("runs", "list", "--json").json == {"runs": []}


@pytest.mark.slow
def test_only_what_differs_is_compared_and_the_difference_is_b_minus_a(call, workspace):
    A.write(workspace)
    B.write(workspace)
    found = call("runs", "compare", "aaaaaa", "bbbbbb", "--json").json
    assert found["settings"] == {"name": ["north", "south"], "seed": ["0", "1"]}
    assert found["scores"]["north"]["psnr"] == {"a": 30.0, "b": 31.5, "difference": 1.5}
    assert set(found["scores"]) == {"north", "mean"}
    assert found["notes"] == []
    assert call("runs", "compare", "aaaaaa", "aaaaaa").code == 2
    assert "test PSNR (dB) B−A" in call("runs", "compare", "aaaaaa", "bbbbbb").out


def test_a_classical_run_beside_a_network_has_no_settings_of_a_training_and_a_version_of_its_own(workspace):
    versions = (("science_version", 2),), (("science_version", 1),)
    network = replace(A, note=versions[0]).write(workspace)
    classical = replace(B, changes=(("reconstructor", "tv"),), note=versions[1]).write(workspace)
    found = compare(network, classical)
    assert found["notes"] == []
    assert found["settings"]["network.channels"] == [str(UNET["channels"]), None]
    other = replace(B, note=versions[1]).write(workspace)
    assert "other versions of the science: 2 and 1" in str(compare(network, other)["notes"])


def test_scores_that_cannot_be_compared_are_said(workspace):
    truth = (("evaluation", {"reference": "truth"}),)
    runs = [A.write(workspace), replace(B, changes=truth, finished=False).write(workspace)]
    found = compare(*runs)
    assert len(found["notes"]) == 2  # no result, another reference
    assert found["scores"]["north"]["psnr"] == {"a": 30.0, "b": None, "difference": None}


def test_a_run_is_deleted_only_with_yes_and_takes_its_training_along(call, workspace):
    note_trained(A.write(workspace), "t1")
    note_trained(B.write(workspace), "t2")
    asked = call("runs", "rm", "aaaaaa")
    assert asked.code == 2
    assert RunFolder(workspace, A.digest).path.exists()
    would = call("runs", "rm", "aaaaaa", "--dry-run", "--json").json
    assert (would["removed"], would["would_remove"]) == ([], [A.digest])
    done = call("runs", "rm", "aaaaaa", "--yes", "--json").json
    assert (done["removed"], done["bytes"]) == ([A.digest], would["bytes"])
    assert [one.digest for one in overviews(workspace)] == [B.digest]
    assert [path.name for path in (workspace / "trained").iterdir()] == ["t2.json"]
    assert not list(workspace.glob(".*.tmp"))


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("\n", 1), ("no\n", 1), ("", 1)])
def test_a_terminal_is_asked(call, workspace, monkeypatch, answer, left):
    class Terminal:
        isatty = staticmethod(lambda: True)
        readline = staticmethod(lambda: answer)

    A.write(workspace)
    monkeypatch.setattr(sys, "stdin", Terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert call("runs", "rm", "aaaaaa").code == 0
    assert len(overviews(workspace)) == left


USERS = {
    "transfer": Run("c" * 16, note=(("trained_by", A.digest),)),
    "warm start": Run("c" * 16, changes=(("training", {"start": A.digest}),)),
    "training cache": Run("c" * 16, tags=(("fedrecon.trained_by", A.digest),)),
}


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
def test_a_run_that_another_one_builds_on_stays_unless_both_go(call, workspace, user):
    A.write(workspace)
    user.write(workspace)
    refused = call("runs", "rm", "aaaaaa", "--yes")
    assert refused.code == 2
    assert user.digest in refused.err
    assert RunFolder(workspace, A.digest).path.exists()
    assert call("runs", "rm", "aaaaaa", "cccccc", "--yes").code == 0
    assert overviews(workspace) == []


def test_a_run_that_came_into_use_while_a_person_was_asked_stays(workspace):
    removal = plan(workspace, [A.write(workspace)])
    USERS["transfer"].write(workspace)
    with pytest.raises(InputError, match="c" * 16):
        removal.go()
    assert RunFolder(workspace, A.digest).path.exists()


@pytest.mark.slow
def test_a_run_at_work_or_of_a_sweep_at_work_stays(call, workspace):
    folder = A.write(workspace)
    with exclusive_lock(folder.lock, "busy"):
        assert call("runs", "rm", "aaaaaa", "--yes").code == 1
    Run("c" * 16, tags=(("fedrecon.sweep", "s"), ("fedrecon.sweep.s", "3"))).write(workspace)
    with exclusive_lock(workspace / "sweeps" / "s" / ".lock", "busy"):
        assert call("runs", "rm", "cccccc", "--yes").code == 1
    assert len(overviews(workspace)) == 2
    assert call("runs", "rm", "aaaaaa", "cccccc", "--yes").code == 0


def test_the_run_is_marked_as_deleted_in_mlflow_too(call, workspace, monkeypatch):
    store = MemoryStore()
    monkeypatch.setattr(stores, "run_store", lambda uri, workspace: store)
    (workspace / "mlflow.db").touch()
    for one in (A, B):
        folder = one.write(workspace)
        run = store.open(RunRecord("fedrecon", one.name, one.digest))
        folder.journal().note_sent(replace(folder.journal().sent, run_id=run.run_id, offset=folder.journal().size))
    assert list(call("runs", "rm", "aaaaaa", "--yes", "--json").json["mlflow"].values()) == [["memory-0"]]
    assert call("runs", "rm", "bbbbbb", "--yes", "--keep-mlflow", "--json").json["mlflow"] == {}
    assert [one.info.deleted for one in store.runs] == [True, False]
    assert store.delete("memory-0") is False


def test_the_runs_of_another_workspace_on_a_server_are_left_alone(call, workspace, monkeypatch):
    """A copy of a workspace knows the ids of the original's runs."""
    monkeypatch.setattr(stores, "run_store", lambda uri, workspace: pytest.fail("nothing is to be deleted there"))
    journal = A.write(workspace).journal()
    journal.note_sent(replace(journal.sent, uri="http://127.0.0.1:9", owner="the original", run_id="1"))
    assert call("runs", "rm", "aaaaaa", "--yes", "--json").json["mlflow"] == {}


def test_a_rerun_finds_a_free_name_after_a_removal(call, workspace):
    for _ in range(2):
        A.write(workspace).set_aside()
    assert call("runs", "rm", f"{A.digest}.before-1", "--yes").code == 0
    A.write(workspace).set_aside()
    assert {path.name for path in (workspace / "runs").glob("a*")} == {f"{A.digest}.before-{n}" for n in (1, 2)}


@pytest.fixture(scope="module")
def trained(consortium, tmp_path_factory):
    """A workspace with a finished training of two rounds and one of a method that trains nothing."""
    workspace = tmp_path_factory.mktemp("workspace")
    given = {
        "name": "tiny",
        "sites": {name: str(path) for name, path in consortium.items()},
        "operator": {"mask": "random", "acceleration": 2, "center_fraction": 0.1},
        "network": UNET,
        "training": {"rounds": 2, "batch_size": 2},
        "evaluation": {"every": 1, "panels": True},
    }
    context = RunContext(workspace, "in-process", records_only=True)
    found = {}
    for name, changes in {"fedavg": {}, "fedper": {"strategy": {"name": "fedper", "private": ["head"]}}}.items():
        going = steps(Experiment.read({**given, "name": name, **changes}), context)
        curve = []
        with plain_pictures():
            while True:
                try:
                    curve.append(next(going))
                except StopIteration as end:
                    found[name] = (end.value, curve)
                    break
    return workspace, found


@pytest.mark.slow
def test_an_export_scores_elsewhere_as_here_and_holds_nothing_private(call, trained, consortium, tmp_path):
    workspace, found = trained
    result, _ = found["fedavg"]
    out = tmp_path / "export"
    done = call("runs", "export", result.digest, "--out", out, "--workspace", workspace, "--json")
    assert done.code == 0
    files = set(done.json["files"])
    assert files >= {
        "README.md", "experiment.json", "weights.safetensors", "result.json", "environment.json", "scores.parquet",
        "rounds.parquet", "report.md",
    }  # fmt: skip
    assert not [name for name in files if name.endswith((".png", ".jsonl")) and "history" not in name]
    record = {name.split("/")[2] for name in files if name.startswith("runs/")}
    assert record <= {"run.json", "result.json", "environment.json", "missed.json", "checkpoints"}  # docs/privacy.md
    assert json.loads((out / "result.json").read_text())["mean"]["psnr"] == result.mean["psnr"]
    assert load_file(out / "weights.safetensors")
    rows = evaluate("latest", sites={"north": str(consortium["north"])}, workspace=out)["rows"]
    assert rows[0]["psnr"] == pytest.approx(result.sites["north"]["psnr"])
    assert call("runs", "export", result.digest, "--out", out, "--workspace", workspace).code == 2


@pytest.mark.slow
def test_a_run_that_was_set_aside_is_exported_under_its_digest(call, trained, consortium, tmp_path):
    workspace, found = trained
    digest = found["fedavg"][0].digest
    shutil.copytree(workspace / "runs" / digest, tmp_path / "w" / "runs" / f"{digest}.before-1")
    given = ("--out", tmp_path / "out", "--workspace", tmp_path / "w")
    assert call("runs", "export", f"{digest[:8]}.before-1", *given).code == 0
    assert evaluate(digest, sites={"north": str(consortium["north"])}, workspace=tmp_path / "out")["rows"]


@pytest.mark.slow
def test_private_parts_are_exported_with_consent_alone(call, trained, tmp_path):
    workspace, _ = trained
    out = tmp_path / "export"
    assert call("runs", "export", "fedper", "--out", out, "--workspace", workspace).code == 0
    assert not list(out.glob("**/private*"))
    again = call("runs", "export", "fedper", "--out", tmp_path / "other", "--private", "--workspace", workspace)
    assert again.code == 2
    assert not (tmp_path / "other").exists()


def test_an_unfinished_run_is_not_exported(call, workspace, tmp_path):
    replace(A, finished=False).write(workspace)
    assert call("runs", "export", "aaaaaa", "--out", tmp_path / "out").code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_curves_are_the_scores_and_losses_of_the_rounds(trained):
    workspace, found = trained
    result, curve = found["fedavg"]
    rows = curves.rounds_of(RunFolder(workspace, result.digest))
    psnr = curves.series(rows, "scores", "psnr")
    assert psnr["north"] == ([1, 2], [one.metrics["site/north/psnr"] for one in curve])
    assert curves.mean_of(psnr)[1] == pytest.approx([one.metrics["mean/psnr"] for one in curve])
    assert curves.series(rows, "losses", "loss")["north"][1] == [one.metrics["site/north/loss"] for one in curve]


@pytest.mark.slow
def test_the_curves_of_a_run_without_a_table_come_from_its_checkpoint(trained, monkeypatch):
    workspace, found = trained
    folder = RunFolder(workspace, found["fedavg"][0].digest)
    written = curves.rounds_of(folder)
    monkeypatch.setattr(curves, "read_rounds", lambda path: [])
    assert [row["scores"] for row in curves.rounds_of(folder)] == [row["scores"] for row in written]


def test_the_mean_is_of_the_rounds_that_all_sites_have():
    points = {"a": ([1, 2, 3], [1.0, 2.0, 3.0]), "b": ([2, 3], [4.0, 5.0])}
    assert curves.mean_of(points) == ([2, 3], [3.0, 4.0])
    assert curves.mean_of({}) == ([], [])


@pytest.mark.slow
def test_plot_writes_a_png_and_an_svg(call, trained, tmp_path):
    workspace, _ = trained
    done = call("plot", "fedavg", "--out", tmp_path / "p", "--workspace", workspace, "--json").json
    assert done["rounds"] == 2
    assert Path(done["png"]).read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in Path(done["svg"]).read_bytes()


def test_a_run_without_rounds_has_no_plot(call, workspace):
    A.write(workspace)
    assert call("plot", "aaaaaa").code == 2
    replace(B, changes=(("reconstructor", "zero_filled"),)).write(workspace)
    assert call("plot", "bbbbbb").code == 2
    with pytest.raises(InputError, match="zero_filled"):
        curves.plot(RunFolder(workspace, B.digest))
