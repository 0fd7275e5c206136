"""What a killed process leaves is swept at the next start: only its own, and only when it is dead."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedrecon.sites import atomic, debris

DIES = """
import os, sys
from pathlib import Path
from fedrecon.sites import atomic, debris
folder = Path(sys.argv[1])
def die():
    print(debris.owner(), flush=True)
    os.kill(os.getpid(), 9)
with atomic.replacing(folder / "deep" / "a.json") as half, debris.scratch(folder) as scratch, debris.scratch() as other:
    half.write_bytes(b"half")
    half.with_name(half.name + "-journal").write_bytes(b"half")
    (scratch / "weights").write_bytes(b"half")
    print(other, flush=True)
    die()
"""


@pytest.fixture
def dead(tmp_path, monkeypatch):
    """The folder in which a process was killed, and its name. It used another folder for temporary files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (folder := tmp_path / "folder").mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DIES, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    other, name = done.stdout.split()
    monkeypatch.setattr(debris.tempfile, "gettempdir", lambda: str(temporary))
    return folder, Path(other), name


def test_only_what_is_own_and_dead_is_swept(dead):
    folder, other, name = dead
    assert debris.is_dead(name)
    assert not debris.is_dead(debris.owner())
    living = folder / "deep" / debris.temporary_name("b.json")
    elsewhere = folder / f".c.json.00000000-{name.split('-', 1)[1]}.0123abcd.tmp"
    foreign = [folder / ".their.tmp", folder / f"a.json.{name}.0123abcd.tmp", folder / "deep" / ".a.json.swp"]
    for path in (living, elsewhere, *foreign):
        path.touch()
    assert len(debris.sweep(folder, deep=True)) == 3
    assert {path for path in folder.rglob("*") if path.is_file()} == {living, elsewhere, *foreign}
    assert debris.sweep(folder, deep=True) == []

    assert other.is_dir()
    assert debris.sweep() == [other]
    assert not other.exists()


def test_the_next_writer_of_a_folder_sweeps_it(dead):
    folder, other, _ = dead
    atomic.write_text(folder / "deep" / "another.json", "{}")
    assert [path.name for path in (folder / "deep").iterdir()] == ["another.json"]
    for place, left in ((folder, {"deep"}), (None, set())):
        with debris.scratch(place) as scratch:
            assert {path.name for path in scratch.parent.iterdir()} == {scratch.name, *left}
    assert not other.exists()


def test_a_process_of_the_same_number_is_another_one():
    machine, process, started = debris.owner().split("-")
    assert debris.is_dead(f"{machine}-{process}-{int(started) + 1}")
    assert not debris.is_dead(f"00000000-{process}-{int(started) + 1}")


def test_a_body_that_ends_leaves_nothing(tmp_path):
    with debris.scratch(tmp_path) as scratch:
        (scratch / "file").touch()
        assert debris.sweep(tmp_path) == []
    atomic.write_text(tmp_path / "a", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_start_of_a_run_sweeps_its_folder_and_the_workspace(dead):
    from fedrecon.platform.runs.context import locked
    from fedrecon.platform.storage.workspace import RunFolder

    workspace, _, name = dead
    folder = RunFolder(workspace, "0123456789abcdef")
    places = [workspace, workspace / "trained", folder.path, folder.memory("a"), folder.path / "checkpoints"]
    halves = [place / f".half.{name}.0123abcd.tmp" for place in places]
    for path in halves:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with locked(folder):
        assert not any(path.exists() for path in halves)


def test_sessions_of_ray_are_swept_when_their_driver_and_their_processes_are_gone(dead, monkeypatch):
    from fedrecon.platform.execution import ray_cluster

    folder, _, name = dead
    sessions = {one: folder / "ray" / f"session_{one}" for one in ("own", "dead", "living", "beside", "foreign")}
    for path in sessions.values():
        path.mkdir(parents=True)
    (sessions["dead"] / ray_cluster.OWNER).write_text(name)
    (sessions["living"] / ray_cluster.OWNER).write_text(name)  # its raylet has not ended yet
    (sessions["beside"] / ray_cluster.OWNER).write_text(debris.owner())
    monkeypatch.setattr(ray_cluster, "_lives", lambda session: session == "session_living")
    ray_cluster._sweep_sessions(sessions["own"])
    assert sorted(path.name for path in (folder / "ray").iterdir()) == [
        "session_beside",
        "session_foreign",
        "session_living",
        "session_own",
    ]
    assert not debris.is_dead((sessions["own"] / ray_cluster.OWNER).read_text())
