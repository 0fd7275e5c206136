"""MLflow's own SQLite file: what is damaged is seen, set aside and made anew; what is busy or another's is left."""

import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from fedrecon.platform.storage.journal import Journal, RunRecord
from fedrecon.platform.storage.tracking import mlflow_store
from fedrecon.platform.storage.tracking import sender as sending
from fedrecon.platform.storage.tracking.sender import Sender
from fedrecon.platform.storage.tracking.sqlite_file import damage, holds_run
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.sites.errors import InputError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.01)


def recorded(place: Path) -> Journal:
    journal = Journal(place / "runs" / "abcdef" / "record")
    journal.open(RunRecord("study", "run", "abcdef"))
    for number in (1, 2, 3):
        journal.metrics(number, {"mean/loss": 1.0})
    path = place / "report.md"
    path.write_text("hello")
    journal.artifact(path)
    journal.finish("FINISHED")
    return journal


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def database(mlflow_template, tmp_path):
    return Path(shutil.copy(mlflow_template / "mlflow.db", tmp_path / "mlflow.db"))


def torn(path):
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\0" * 4096 + content[8192:])


def half_made(path):
    path.unlink()
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE _alembic_tmp_latest_metrics (a)")


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "no database": lambda path: path.write_bytes(b"hello" * 999),
    "cut": lambda path: os.truncate(path, 50_000),
    "torn": torn,
    "half made": half_made,
}


@pytest.mark.slow
@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_seen_and_a_sound_or_busy_file_is_none(database, what):
    assert damage(database) is None
    busy = sqlite3.connect(database, isolation_level=None)
    busy.execute("BEGIN EXCLUSIVE")
    assert damage(database) is None
    assert holds_run(f"sqlite:///{database}", "abc")
    busy.close()
    assert not holds_run(f"sqlite:///{database}", "abc")
    DAMAGES[what](database)
    assert damage(database)


@pytest.mark.slow
def test_a_damaged_file_is_set_aside_and_a_new_one_gets_all(database, tmp_path, mlflow_template, monkeypatch):
    def made(path, artifacts):
        if not path.exists():
            shutil.copy(mlflow_template / "mlflow.db", path)

    monkeypatch.setattr(mlflow_store, "create_database", made)
    said = []
    journal = recorded(tmp_path)
    sender = Sender(tmp_path, store=run_store(None, tmp_path), say=said.append)
    assert (sender.deliver(journal.folder).uri, said) == ("", [])
    for damaged in (lambda: database.unlink(), lambda: database.write_bytes(b"hello" * 999)):
        damaged()
        journal.set_tags({"t": "y"})
        journal.flush()
        sender.notify(journal.folder)
        wait_for(sender.drain)
        client = sender.store.client
        assert len(client.get_metric_history(journal.run_id, "mean/loss")) == 3
        assert client.get_run(journal.run_id).info.status == "FINISHED"
        assert [one.path for one in client.list_artifacts(journal.run_id)] == ["report.md"]
    database.write_bytes(b"bye")  # after the last write: the end of the run looks once more
    sender.close()
    assert holds_run(f"sqlite:///{database}", journal.run_id)
    assert (tmp_path / "mlflow.db.damaged-1").read_bytes() == b"hello" * 999
    assert any("mlflow.db.damaged-1" in line for line in said)


def test_a_damaged_file_that_is_not_the_workspaces_own_is_refused_and_left(database, tmp_path):
    other = tmp_path / "notes.txt"
    other.write_bytes(b"hello" * 999)
    with pytest.raises(InputError, match=r"notes\.txt"):
        run_store(f"sqlite:///{other}", tmp_path)
    assert other.read_bytes() == b"hello" * 999
