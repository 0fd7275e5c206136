"""The tracker is never on the way of a run: journals, and a sender whose store fails, hangs, is lost or another's."""

import shutil
import threading
import time
from pathlib import Path

import pytest
from memory_store import MemoryStore, MemoryTracker
from recorded_run import RECORD, WHOLE, deliver, held, recorded

from fedrecon.platform.runs.sync import sync
from fedrecon.platform.storage import journal as journals
from fedrecon.platform.storage.journal import Journal, RunRecord
from fedrecon.platform.storage.tracking import sender as sending
from fedrecon.platform.storage.tracking.address import check_reachable, noted, public
from fedrecon.platform.storage.tracking.sender import Sender
from fedrecon.platform.storage.workspace import RunFolder, owner_of
from fedrecon.sites import atomic
from fedrecon.sites.errors import DiskFullError, InputError, RunError


class Trouble(Exception):
    pass


class Server(MemoryStore):
    """A store in memory that can be gone, and that keeps its artifacts' content."""

    gone = False
    local = False

    def _run(self, run_id):
        if self.gone:
            raise Trouble("connection refused")
        return super()._run(run_id)

    def _runs(self, digest, experiment_name):
        self._run("")
        return super()._runs(digest, experiment_name)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sending, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sending, "LAST_TRIES", 0.05)


@pytest.fixture
def server(monkeypatch):
    store = Server()
    write = MemoryTracker._write_points

    def points(self, points):
        store._run("")
        write(self, points)

    monkeypatch.setattr(MemoryTracker, "_write_points", points)
    return store


def test_a_journal_is_sent_whole_and_only_once(server, tmp_path):
    journal = recorded(tmp_path)
    sent = deliver(server, tmp_path, journal)
    assert held(server) == WHOLE
    assert (sent.offset, sent.run_id, journal.run_id) == (journal.size, "memory-0", "memory-0")
    assert deliver(server, tmp_path, journal) == sent
    assert (len(server.runs), held(server)) == (1, WHOLE)


def test_times_are_those_of_the_recording(server, tmp_path, monkeypatch):
    monkeypatch.setattr(journals.time, "time_ns", lambda: 5_000_000)
    journal = recorded(tmp_path)
    monkeypatch.undo()
    deliver(server, tmp_path, journal)
    assert {point.milliseconds for point in server.runs[0].points} == {5}


def test_a_lost_store_gets_everything_again(server, tmp_path):
    journal = recorded(tmp_path)
    deliver(server, tmp_path, journal)
    server.runs.clear()
    deliver(server, tmp_path, journal)
    assert held(server) == WHOLE


def test_another_store_gets_everything_and_the_run_has_its_id_there(server, tmp_path):
    journal = recorded(tmp_path)
    deliver(server, tmp_path, journal)
    other = MemoryStore()
    other.uri = "http://other:1"
    other._create("study", "stranger", {})
    deliver(other, tmp_path, journal)
    assert (held(other), journal.run_id) == (WHOLE, "memory-1")
    folder = RunFolder(tmp_path, RECORD.digest)
    folder.save_result({"run_id": "old"})
    assert folder.result()["run_id"] == "memory-1"


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_a_crash_cut_off_is_passed_over(server, tmp_path, cut):
    journal = Journal(tmp_path / "runs" / RECORD.digest / "record")
    journal.open(RECORD)
    journal.metrics(1, {"mean/loss": 1.0})
    journal.flush()
    file = journal.folder / "journal.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert deliver(server, tmp_path, journal).offset < journal.size
    for number in (1, 2):
        journal.metrics(number, {"mean/loss": 1.0})
    journal.finish("FINISHED")
    deliver(server, tmp_path, journal)
    assert (held(server)["steps"], held(server)["status"]) == ([1, 2], "FINISHED")


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_server_that_goes_and_comes_back_costs_one_line_and_no_value(server, tmp_path):
    said = []
    sender = Sender(tmp_path, store=server, say=said.append)
    journal = Journal(tmp_path / "runs" / RECORD.digest / "record")
    journal.open(RECORD)
    sender.begin(journal)
    journal.notify = sender.notify
    server.gone = True
    for number in (1, 2, 3):
        journal.metrics(number, {"mean/loss": 1.0})
        journal.flush()  # returns at once
    wait_for(lambda: said)
    time.sleep(0.1)
    assert len(said) == 1
    assert str(journal.folder) in said[0]
    server.gone = False
    journal.finish("FINISHED")
    sender.close()
    assert (held(server)["steps"], held(server)["status"], len(said)) == ([1, 2, 3], "FINISHED", 1)


def test_what_a_server_did_not_get_before_the_end_is_said_and_sent_by_sync(server, tmp_path, monkeypatch):
    said = []
    sender = Sender(tmp_path, store=server, say=said.append)
    server.gone = True
    journal = recorded(tmp_path)
    sender.notify(journal.folder)
    sender.close()
    assert len(said) == 2
    assert "fedrecon sync" in said[1]
    monkeypatch.setattr(sending, "run_store", lambda uri, workspace: server)
    with pytest.raises(RunError, match="connection refused; 0 are complete, and the same command"):
        sync(tmp_path)
    server.gone = False
    name = f"runs/{RECORD.digest}"
    assert sync(tmp_path) == {"sent": [name], "complete": [], "running": []}
    assert held(server) == WHOLE
    assert sync(tmp_path) == {"sent": [], "complete": [name], "running": []}


def test_sync_takes_sweeps_and_studies_and_leaves_what_runs_or_was_set_aside(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "run_store", lambda uri, workspace: server)
    journal = recorded(tmp_path)
    for name in ("sweeps/mine", "studies/other", "runs/abc.before-1"):
        shutil.copytree(journal.folder, tmp_path / name / "record")
    held_lock = RunFolder(tmp_path, RECORD.digest).lock
    from fedrecon.platform.storage.locks import exclusive_lock

    with exclusive_lock(held_lock, "busy"):
        report = sync(tmp_path)
    assert report == {"sent": ["sweeps/mine", "studies/other"], "complete": [], "running": [f"runs/{RECORD.digest}"]}


def test_sync_of_an_empty_workspace_is_the_users_error(tmp_path):
    with pytest.raises(InputError, match="no journal"):
        sync(tmp_path)


@pytest.mark.slow
def test_a_call_that_hangs_does_not_hold_the_run(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "STUCK", 0.1)
    free = threading.Event()
    monkeypatch.setattr(server, "open", lambda *_: free.wait(20))
    sender = Sender(tmp_path, store=server, say=lambda line: None)
    journal = recorded(tmp_path)
    start = time.monotonic()
    sender.notify(journal.folder)
    sender.close()
    assert time.monotonic() - start < 5
    free.set()


def test_a_server_that_is_gone_at_the_start_is_the_users_error_at_once(server, tmp_path):
    sender = Sender(tmp_path, store=server, say=lambda line: None)
    server.gone = True
    with pytest.raises(InputError, match="connection refused"):
        sender.begin(recorded(tmp_path))
    sender.close()


def test_a_file_that_is_busy_at_the_start_does_not_stop_the_run(server, tmp_path):
    server.local = True
    said = []
    sender = Sender(tmp_path, store=server, say=said.append)
    server.gone = True
    sender.begin(recorded(tmp_path))
    server.gone = False
    sender.close()
    assert (len(said), held(server)) == (1, WHOLE)


def test_what_the_store_refuses_is_said_and_the_rest_is_sent(server, tmp_path, monkeypatch):
    class Refused(Exception):
        error_code = "INVALID_PARAMETER_VALUE"

    def refuse(self, key, step, png):
        raise Refused("the picture is too large")

    monkeypatch.setattr(MemoryTracker, "_write_image", refuse)
    said = []
    sender = Sender(tmp_path, store=server, say=said.append)
    sender.deliver(recorded(tmp_path).folder)
    sender.close()
    assert (len(said), "too large" in said[0]) == (1, True)
    assert held(server) == {**WHOLE, "images": []}


def test_two_workspaces_on_one_server_have_two_runs(server, tmp_path):
    for name in ("one", "two", "one"):
        (tmp_path / name).mkdir(exist_ok=True)
        journal = recorded(tmp_path / name) if not (tmp_path / name / "runs").exists() else None
        deliver(server, tmp_path / name, journal or Journal(tmp_path / name / "runs" / RECORD.digest / "record"))
    assert len(server.runs) == 2
    assert [held(server, number) for number in (0, 1)] == [WHOLE, WHOLE]
    owners = {run.info.tags["fedrecon.owner"] for run in server.runs}
    assert owners == {owner_of(tmp_path / "one"), owner_of(tmp_path / "two")}


def test_a_copy_of_a_workspace_owns_its_runs_and_a_moved_one_keeps_them(server, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    deliver(server, one, recorded(one))
    owner = owner_of(one)
    copy = Path(shutil.copytree(one, tmp_path / "copy"))
    moved = one.rename(tmp_path / "moved")
    assert owner_of(moved) == owner != owner_of(copy)
    deliver(server, copy, Journal(copy / "runs" / RECORD.digest / "record"))
    assert len(server.runs) == 2
    deliver(server, moved, Journal(moved / "runs" / RECORD.digest / "record"))
    assert len(server.runs) == 2


def test_a_run_without_an_owner_is_continued_under_its_own_id_alone(server, tmp_path):
    server._create("study", "run", {"fedrecon.digest": RECORD.digest})
    journal = Journal(tmp_path / "runs" / RECORD.digest / "record")
    journal.open(RunRecord("study", "run", RECORD.digest, run_id="memory-0"))
    assert deliver(server, tmp_path, journal).run_id == "memory-0"
    server._create("study", "run", {"fedrecon.digest": "fedcba"})
    stranger = Journal(tmp_path / "runs" / "fedcba" / "record")
    stranger.open(RunRecord("study", "run", "fedcba"))
    assert deliver(server, tmp_path, stranger).run_id == "memory-2"


def test_a_full_disk_is_the_journals_own_error_and_a_later_line_is_whole(server, tmp_path, monkeypatch):
    journal = recorded(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journals.os, "fsync", full)
        journal.metrics(4, {"mean/loss": 1.0})
        with pytest.raises(DiskFullError, match=str(tmp_path)):
            journal.flush()
    journal.metrics(4, {"mean/loss": 1.0})
    journal.finish("FINISHED")
    deliver(server, tmp_path, journal)
    assert held(server)["steps"] == [1, 2, 3, 4]


def test_a_damaged_note_of_what_was_sent_sends_all_again(server, tmp_path):
    journal = recorded(tmp_path)
    deliver(server, tmp_path, journal)
    (journal.folder / "sent.json").write_text('{"uri": ')
    assert deliver(server, tmp_path, journal).run_id == "memory-0"
    assert (held(server), len(server.runs)) == (WHOLE, 1)


def test_an_artifact_costs_no_second_copy(tmp_path):
    path = tmp_path / "weights.safetensors"
    atomic.write_bytes(path, b"weights")
    journal = Journal(tmp_path / "record")
    journal.artifact(path, "private")
    kept = journal.artifact_path("private/weights.safetensors")
    assert kept.stat().st_ino == path.stat().st_ino
    assert journal.artifact_path("weights.safetensors") is None
    journal.artifact(path, "private")  # the same file once more, as a finished study records its scores
    assert [one.name for one in kept.parent.iterdir()] == ["weights.safetensors"]
    atomic.write_bytes(path, b"others")
    journal.artifact(path, "private")
    assert kept.read_bytes() == b"others"
    assert [one.name for one in kept.parent.iterdir()] == ["weights.safetensors"]


def test_a_uri_is_noted_without_its_password(tmp_path):
    for uri, shown in {
        "https://me:secret@host:5/x": "https://host:5/x",
        "https://me:se/secret@host:5": "https://host:5",
        "https://me:se?secret@host": "https://...",
        "https://host/?token=secret": "https://host/",
        "https://host/?token=a@secret": "https://...",
        "postgresql://db/mlflow?user=u&password=secret": "postgresql://db/mlflow",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3DODBC%3BPWD%3Dsecret": "mssql+pyodbc:///",
        "me:secret@host/db": "host/db",
        "sqlite:////a@b/mlflow.db": "sqlite:////a@b/mlflow.db",
    }.items():
        assert (public(uri), noted(uri, tmp_path)) == (shown, shown)
    for refused in (
        "me:secret@host/db",
        "https://secret/x@host:port",
        "gopher://me:secret@host",
        "https://me:secret@h:99999",
    ):
        with pytest.raises(InputError) as error:
            check_reachable(refused, tmp_path)
        assert "secret" not in str(error.value)
    assert noted(f"sqlite:///{tmp_path}/mlflow.db", tmp_path) == ""


def test_a_server_that_accepts_and_never_answers_is_found_out(tmp_path):
    import socket

    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(InputError, match="no MLflow server answers"):
            check_reachable(f"http://127.0.0.1:{mute.getsockname()[1]}", tmp_path, seconds=0.1)


def test_of_a_run_that_has_ended_no_tracker_is_kept(server, tmp_path):
    """A sweep of a thousand trials would keep a thousand. What comes after the end, a verdict, still arrives."""
    journal = recorded(tmp_path)
    sender = Sender(tmp_path, store=server, say=lambda line: None)
    sender.deliver(journal.folder)
    assert sender._trackers == {journal.folder: None}
    journal.set_tags({"fedrecon.sweep.status": "FINISHED"})
    journal.flush()
    sender.deliver(journal.folder)
    sender.close()
    assert server.runs[0].info.tags["fedrecon.sweep.status"] == "FINISHED"
    assert held(server) == WHOLE
