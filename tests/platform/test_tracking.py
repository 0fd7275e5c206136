"""One contract, two implementations: tests with ``store`` run in memory and on MLflow's SQLite store."""

import io
import json
import multiprocessing
import os
import shutil
import sqlite3
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from memory_store import MemoryStore
from PIL import Image

from fedrecon.platform.storage.journal import RunRecord
from fedrecon.platform.storage.tracking import tracker as tracking
from fedrecon.platform.storage.tracking.address import DATABASE, tracking_uri
from fedrecon.platform.storage.tracking.mlflow_store import create_database
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.tracking.tracker import TAG_DIGEST, TAG_SUPERSEDED
from fedrecon.sites.errors import InputError, RunError

NUMBER = count()


@pytest.fixture(scope="module", params=["memory", "mlflow"])
def store(request):
    if request.param == "memory":
        return MemoryStore()
    return run_store(None, request.getfixturevalue("mlflow_workspace"))


@pytest.fixture
def name():
    """An experiment name and a digest of the test's own."""
    return f"experiment {next(NUMBER)}"


def start(store, name, digest="", params=None, tags=None, fresh=False):
    record = RunRecord(name, "run", digest or f"digest-of-{name[11:]}", params or {}, tags or {})
    return store.open(record, fresh)


def points(store, run_id):
    """All (key, step, value) that are really stored, duplicates included."""
    if isinstance(store, MemoryStore):
        run = next(run for run in store.runs if run.info.run_id == run_id)
        return sorted((point.key, point.step, point.value) for point in run.points)
    keys = store.client.get_run(run_id).data.metrics
    return sorted((key, m.step, m.value) for key in keys for m in store.client.get_metric_history(run_id, key))


def images(store, run_id):
    if isinstance(store, MemoryStore):
        run = next(run for run in store.runs if run.info.run_id == run_id)
        return sorted((key, step) for key, step, _ in run.images)
    names = [Path(item.path).name for item in store.client.list_artifacts(run_id, "images")]
    parts = [name.split("+") for name in names if name.endswith(".png")]
    return sorted((part[0].replace("~", "/"), int(part[2])) for part in parts)


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((12, 30), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_a_new_run_has_its_params_and_tags(store, name):
    tracker = start(store, name, params={"training.rounds": "30"}, tags={"fedrecon.git_commit": "abc"})
    info = store.find(tracker.run_id)
    assert not tracker.continued
    assert (info.experiment_name, info.name, info.status) == (name, "run", "RUNNING")
    assert info.tags["fedrecon.git_commit"] == "abc"
    assert info.digest == info.tags[TAG_DIGEST] == f"digest-of-{name[11:]}"
    assert dict(info.params) == {"training.rounds": "30"}


def test_metrics_are_buffered_until_a_flush(store, name):
    tracker = start(store, name)
    tracker.metrics(1, {"site/a/psnr": 20.5, "mean/psnr": 21.0})
    assert points(store, tracker.run_id) == []
    tracker.flush()
    tracker.metrics(2, {"site/a/psnr": 22.0})
    tracker.finish("FINISHED")
    assert points(store, tracker.run_id) == [
        ("mean/psnr", 1, 21.0),
        ("site/a/psnr", 1, 20.5),
        ("site/a/psnr", 2, 22.0),
    ]
    assert store.find(tracker.run_id).status == "FINISHED"


@pytest.mark.slow
def test_more_than_one_batch_is_written_whole(store, name):
    tracker = start(store, name, params={f"p{i}": str(i) for i in range(230)})
    tracker.set_tags({f"t{i}": "x" for i in range(130)})
    for step in range(5):
        tracker.metrics(step, {f"m{i}": i for i in range(450)})
    tracker.flush()
    assert len(points(store, tracker.run_id)) == 2250
    info = store.find(tracker.run_id)
    assert len(info.params) == 230
    assert {f"t{i}" for i in range(130)} <= set(info.tags)


@pytest.mark.parametrize("ended", [None, "FINISHED", "FAILED", "KILLED"])
def test_the_same_digest_continues_the_run(store, name, ended):
    first = start(store, name, params={"a": "1"}, tags={"t": "old"})
    if ended:
        first.finish(ended)
    again = start(store, name, params={"a": "2", "b": "3"}, tags={"t": "new"})
    assert again.run_id == first.run_id
    assert again.continued
    info = store.find(again.run_id)
    assert info.status == "RUNNING"
    assert dict(info.params) == {"a": "1", "b": "3"}
    assert info.tags["t"] == "new"
    assert store.find(info.digest).run_id == first.run_id


@pytest.mark.slow
def test_a_continued_run_skips_what_is_there(store, name):
    first = start(store, name)
    first.metrics(1, {"loss": 0.5, "psnr": 20.0})
    first.metrics(2, {"loss": 0.4})
    first.image("site/a", 1, png(1))
    first.flush()
    again = start(store, name)
    again.metrics(1, {"loss": 9.0, "psnr": 9.0})
    again.metrics(2, {"loss": 9.0, "psnr": 21.0})
    again.metrics(3, {"loss": 0.3})
    again.image("site/a", 1, png(2))
    again.image("site/a", 2, png(3))
    again.finish("FINISHED")
    expected = [("loss", 1, 0.5), ("loss", 2, 0.4), ("loss", 3, 0.3), ("psnr", 1, 20.0), ("psnr", 2, 21.0)]
    assert points(store, again.run_id) == expected
    assert images(store, again.run_id) == [("site/a", 1), ("site/a", 2)]


def test_one_tracker_logs_a_pair_once(store, name):
    tracker = start(store, name)
    tracker.metrics(1, {"loss": 0.5})
    tracker.flush()
    tracker.metrics(1, {"loss": 0.6})
    tracker.flush()
    assert points(store, tracker.run_id) == [("loss", 1, 0.5)]


def test_what_was_not_flushed_is_written_by_the_next(store, name):
    start(store, name).metrics(1, {"loss": 0.5})
    again = start(store, name)
    again.metrics(1, {"loss": 0.5})
    again.flush()
    assert points(store, again.run_id) == [("loss", 1, 0.5)]


@pytest.mark.slow
def test_fresh_makes_a_new_run_and_marks_the_older(store, name):
    first = start(store, name)
    second = start(store, name, fresh=True)
    assert second.run_id != first.run_id
    assert not second.continued
    old = store.find(first.run_id)
    assert old.tags[TAG_SUPERSEDED] == second.run_id
    assert old.status == "KILLED"
    assert start(store, name).run_id == second.run_id
    assert store.find(old.digest).run_id == second.run_id


def test_fresh_leaves_the_status_of_an_ended_run(store, name):
    first = start(store, name)
    first.finish("FINISHED")
    start(store, name, fresh=True)
    assert store.find(first.run_id).status == "FINISHED"


def test_digests_and_experiments_are_kept_apart(store, name):
    one = start(store, name, digest="feed01")
    longer = start(store, name, digest="feed012")
    elsewhere = start(store, name + " b", digest="feed01")
    assert len({one.run_id, longer.run_id, elsewhere.run_id}) == 3
    assert start(store, name, digest="feed01").run_id == one.run_id


@pytest.mark.slow
def test_a_run_is_tagged_without_being_opened_and_none_is_left_running(store, name):
    tracker = start(store, name, digest="d16e57aa")
    assert store.tag("d16e57aa", {"sweep": "one"}) == tracker.run_id
    info = store.find(tracker.run_id)
    assert (info.status, info.tags["sweep"]) == ("KILLED", "one")
    tracker.finish("FINISHED")
    store.tag("d16e57aa", {"sweep": "two"})
    assert (store.find(tracker.run_id).status, store.find(tracker.run_id).tags["sweep"]) == ("FINISHED", "two")
    assert store.tag("d16e57ab", {"sweep": "one"}) is None


def test_a_view_is_saved_with_the_experiment(store, name):
    number = store.save_view(name, "mine", {"selectedColumns": ["metrics.`mean/psnr`"]})
    assert store.save_view(name, "mine", {"selectedColumns": []}) == number
    saved = getattr(store, "views", None)
    if saved is None:
        tag = store.client.get_experiment(number).tags["mlflow.sharedViewState.mine"]
        saved = {"mine": json.loads(tag)}
    assert saved["mine"] == {"selectedColumns": []}


def test_artifacts_are_found_again(store, name, tmp_path):
    path = tmp_path / "scores.parquet"
    path.write_bytes(b"rows")
    tracker = start(store, name)
    tracker.artifact(path)
    tracker.artifact(path, "private")
    assert store.local_artifact(tracker.run_id, "scores.parquet").read_bytes() == b"rows"
    assert store.local_artifact(tracker.run_id, "private/scores.parquet").read_bytes() == b"rows"
    with pytest.raises(RunError, match=r"no artifact 'weights\.safetensors'"):
        store.local_artifact(tracker.run_id, "weights.safetensors")


@pytest.mark.slow
def test_find_by_prefix_and_latest(store, name):
    start(store, name, digest=f"abcdef{name[11:]}x").finish("FINISHED")
    newest = start(store, name, digest=f"abcdef{name[11:]}y")
    assert store.find(f"abcdef{name[11:]}y").run_id == newest.run_id
    assert store.find("latest").run_id == newest.run_id
    assert store.find("latest", status="FINISHED").run_id != newest.run_id
    with pytest.raises(InputError, match="fits several digests"):
        store.find(f"abcdef{name[11:]}")
    with pytest.raises(InputError, match="its status is RUNNING, not FINISHED"):
        store.find(f"abcdef{name[11:]}y", status="FINISHED")


@pytest.mark.parametrize("reference", ["nothing-like-it", "abc", "", "a'b\"%"])
def test_an_unknown_run_is_the_users_error(store, name, reference):
    start(store, name)
    with pytest.raises(InputError, match="Digests here: "):
        store.find(reference)


def test_nan_and_infinity_do_not_stop_a_run(store, name):
    tracker = start(store, name)
    tracker.metrics(1, {"nan": float("nan"), "inf": float("inf")})
    tracker.finish("FAILED")
    assert [key for key, _, _ in points(store, tracker.run_id)] == ["inf", "nan"]


def test_a_flush_that_fails_keeps_its_values(name, monkeypatch):
    store = MemoryStore()
    tracker = start(store, name)
    tracker.metrics(1, {"loss": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr(tracker, "_write_points", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tracker.flush()
    tracker.flush()
    assert points(store, tracker.run_id) == [("loss", 1, 0.5)]


# MLflow alone


def test_a_run_is_deleted_once_and_its_digest_then_makes_a_new_one(store, name):
    tracker = start(store, name)
    tracker.finish("FINISHED")
    assert store.delete(tracker.run_id)
    assert store.deleted(tracker.run_id)
    assert not store.delete(tracker.run_id)
    assert not store.delete("0" * 32)
    assert store.attach(tracker.run_id) is None
    assert start(store, name).run_id != tracker.run_id


@pytest.mark.slow
def test_a_deleted_run_is_not_continued(mlflow_workspace, name):
    store = run_store(None, mlflow_workspace)
    first = start(store, name)
    store.client.delete_run(first.run_id)
    assert start(store, name).run_id != first.run_id
    with pytest.raises(InputError):
        store.find(first.run_id)


def test_a_deleted_experiment_is_the_users_error(mlflow_workspace, name):
    store = run_store(None, mlflow_workspace)
    start(store, name)
    store.client.delete_experiment(store.client.get_experiment_by_name(name).experiment_id)
    with pytest.raises(InputError, match="was deleted: restore it"):
        start(store, name)


def test_the_functions_keep_everything_in_the_workspace(mlflow_workspace, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    tracker = run_store(None, mlflow_workspace).open(RunRecord(name, "run", f"digest-{name}".replace(" ", "-")))
    path = tmp_path / "note.txt"
    path.write_text("hello")
    tracker.artifact(path)
    found = run_store(None, mlflow_workspace).find(tracker.run_id)
    local = run_store(None, mlflow_workspace).local_artifact(found.run_id, "note.txt")
    assert local.is_relative_to(mlflow_workspace / "artifacts")
    assert (mlflow_workspace / DATABASE).is_file()
    assert list(tmp_path.iterdir()) == [path]


def test_a_workspace_that_was_copied_or_moved_does_not_send_artifacts_to_the_first_place(mlflow_workspace, tmp_path):
    start(run_store(None, mlflow_workspace), "copied")
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(mlflow_workspace / DATABASE, copy)
    link = tmp_path / "link"
    link.symlink_to(mlflow_workspace)
    assert run_store(None, link).mended is None  # the same place by another path
    said = run_store(None, copy).mended
    assert f"{mlflow_workspace}/artifacts: the workspace was moved or copied" in said
    assert said.endswith("kept as mlflow.db.copied-1, a new one is made")
    start(run_store(None, copy), "moved")
    other = tmp_path / "moved"
    copy.rename(other)
    database = sqlite3.connect(other / DATABASE)
    with database:  # as it is if the first place is gone
        database.execute("UPDATE experiments SET artifact_location = 'file:///gone/artifacts/x'")
    database.close()
    assert "sends artifacts to /gone/artifacts: the workspace was moved" in run_store(None, other).mended


def test_telemetry_is_off(mlflow_workspace):
    run_store(None, mlflow_workspace)
    assert (os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["DO_NOT_TRACK"]) == ("true", "true")


def test_precedence_of_the_uri(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path / DATABASE}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(None, tmp_path) == "http://server:5000"
    assert tracking_uri("sqlite:////elsewhere/a.db", tmp_path) == "sqlite:////elsewhere/a.db"


@pytest.mark.parametrize("uri", ["mlruns", "file:///somewhere", "./runs"])
def test_a_uri_that_cannot_hold_runs_is_refused(uri, tmp_path):
    with pytest.raises(InputError, match="cannot hold runs: give http"):
        run_store(uri, tmp_path)


def test_a_server_that_is_not_there_is_found_out_at_once(tmp_path):
    with pytest.raises(InputError, match=r"no MLflow server answers at .http://127\.0\.0\.1:9"):
        run_store("http://127.0.0.1:9", tmp_path)


def test_a_creation_that_is_killed_leaves_no_database(monkeypatch, tmp_path):
    from mlflow.store.tracking import sqlalchemy_store

    def half(uri, _):
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"half a database")
        raise KeyboardInterrupt

    monkeypatch.setattr(sqlalchemy_store, "SqlAlchemyStore", half)
    with pytest.raises(KeyboardInterrupt):
        create_database(tmp_path / DATABASE, tmp_path / "artifacts")
    assert not (tmp_path / DATABASE).exists()


def open_in_process(workspace, results):
    results.put(run_store(None, workspace).open(RunRecord("race", "run", "digest-race")).run_id)


@pytest.mark.kill
def test_processes_that_open_one_digest_together_share_one_run(tmp_path):
    """On a fresh store: MLflow itself breaks the file for good when two processes create it together."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    other = context.Process(target=open_in_process, args=(tmp_path, results))
    other.start()
    here = run_store(None, tmp_path).open(RunRecord("race", "run", "digest-race")).run_id
    assert results.get(timeout=200) == here
    other.join()
    assert len(run_store(None, tmp_path).client.search_runs(["1"])) == 1


@pytest.mark.slow
def test_importing_the_contract_loads_no_mlflow():
    import subprocess

    store = "fedrecon.platform.storage.tracking.mlflow_store"
    code = f"import sys, {tracking.__name__}, {store}, fedrecon.platform.terminal.mlflow_ui; "
    code += "raise SystemExit(int(any(name in sys.modules for name in ('mlflow', 'torch', 'pyarrow'))))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
