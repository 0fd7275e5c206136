"""The fork server: what a forked worker is, when nothing is forked, what ends with what, and that no GPU is asked."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from clusters import local_cluster
from ray_executors import wait_for

from fedrecon.platform.execution.forking import client
from fedrecon.platform.execution.forking.start import SITE, SWITCH, ForkServer, end, forking, own_threads
from fedrecon.tune.engine.tuner import LOADED

WORKER = """
import json, os, pathlib, sys
try:
    folder = os.getcwd()
except FileNotFoundError:
    folder = "none"
found = {
    "arguments": sys.argv, "name": __name__, "environment": dict(os.environ), "folder": folder,
    "nice": os.nice(0), "leads": os.getpgid(0) == os.getpid(), "first": sys.path[0],
    "loaded": "colorsys" in sys.modules,
}
pathlib.Path(sys.argv[1]).write_text(json.dumps(found))
print("the worker's own output")
"""

Start = Callable[..., tuple[dict[str, Any] | None, str]]


@pytest.fixture
def server() -> Iterator[ForkServer]:
    """One that loads next to nothing."""
    one = ForkServer(("colorsys",))
    yield one
    one.close()


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Runs the client as Ray would. Returns what the worker wrote, None if it was not forked, and the output."""
    (tmp_path / "worker.py").write_text(WORKER)

    def started(place: str, *options: str, gone: str = "", **environment: str) -> tuple[dict[str, Any] | None, str]:
        out = tmp_path / "found.json"
        out.unlink(missing_ok=True)
        code = (
            f"import os, sys; sys.path.insert(0, {str(Path(client.__file__).parent)!r}); import client; os.nice(3); "
            f"{gone!r} and (os.mkdir('gone'), os.chdir('gone'), os.rmdir('../gone')); "
            "sys.exit(0 if client.forked(sys.argv[1:]) else 9)"
        )
        arguments = [str(tmp_path / "worker.py"), str(out), "--language=PYTHON", *options]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, client.PLACE: place, **environment},
            cwd=tmp_path,
            capture_output=True,  # a pipe that the worker holds too: it is read to the worker's end
            text=True,
            check=False,
        )
        assert done.returncode in (0, 9), done.stderr
        return (json.loads(out.read_text()) if done.returncode == 0 else None), done.stdout

    return started


def place(server: ForkServer) -> str:
    with server.serving():
        return os.environ[client.PLACE]


def test_a_fork_is_the_worker_that_ray_asked_for(server: ForkServer, start: Start, tmp_path: Path) -> None:
    found, output = start(place(server), "--x=1", RAY_JOB_ID="01", MINE="a word")
    assert found is not None
    assert found["arguments"] == [str(tmp_path / "worker.py"), str(tmp_path / "found.json"), "--x=1"]
    assert (found["name"], found["leads"], found["loaded"]) == ("__main__", True, True)
    assert (found["folder"], found["nice"], found["first"]) == (str(tmp_path), os.nice(0) + 3, str(tmp_path))
    own = found["environment"]
    assert (own["RAY_JOB_ID"], own["MINE"]) == ("01", "a word")
    assert own.get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")
    assert output == "the worker's own output\n"
    context = {"command_prefix": [], "env_vars": {"ITS": "${MINE} more"}, "py_executable": sys.executable}
    again, _ = start(place(server), f"--serialized-runtime-env-context={json.dumps(context)}", MINE="a second")
    assert again is not None
    assert (again["environment"]["MINE"], again["environment"]["ITS"]) == ("a second", "a second more")


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ([], {"PYTHONPATH": "elsewhere"}),
        ([], {"OMP_NUM_THREADS": "7"}),
        (['--serialized-runtime-env-context={"py_executable": "another"}'], {}),
        (['--serialized-runtime-env-context={"command_prefix": ["nice"]}'], {}),
        ([], {client.PLACE: "nowhere"}),
    ],
)
def test_a_worker_of_another_kind_is_left_to_ray(
    server: ForkServer, start: Start, options: list[str], environment: dict[str, str]
) -> None:
    there = place(server)
    assert start(there, "--serialized-runtime-env-context={}")[0] is not None
    assert start(environment.pop(client.PLACE, there), *options, **environment)[0] is None


def test_what_is_left_to_ray_has_the_variables_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(client.PLACE, "nowhere")
    monkeypatch.setenv("FOLDERS", "a")
    before = dict(os.environ)
    wanted = json.dumps({"env_vars": {"FOLDERS": "${FOLDERS}:b", "NEW": "1"}})
    assert not client.forked([f"--serialized-runtime-env-context={wanted}"])
    assert dict(os.environ) == before


def test_a_folder_that_was_deleted_and_a_client_that_says_nothing_stop_no_worker(
    server: ForkServer, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(place(server))
        silent.close()
        found, _ = start(place(server), gone="yes")
    assert found is not None
    assert found["folder"] == "none"


def test_what_runs_a_thread_is_not_forked(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    server = ForkServer(("threaded",))
    assert start(place(server))[0] is None
    assert server._process.wait(30) == 1
    server.close()


def test_the_server_ends_with_its_driver_however_that_ends() -> None:
    code = (
        "import os, signal; from fedrecon.platform.execution.forking.start import ForkServer; "
        "print(ForkServer(('json',))._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: not psutil.pid_exists(int(done.stdout)), "the end of the server", every=0.05)


def test_nothing_that_is_loaded_asks_for_a_gpu_runs_a_thread_or_loads_ray() -> None:
    """CUDA cannot be used in a fork of a process that has used it; Ray would draw the same names in all forks."""
    code = """
import importlib, sys, threading, torch
def asked(*_, **__):
    raise AssertionError("a GPU is asked for")
for name in ("is_available", "device_count", "current_device", "init", "_lazy_init", "get_device_name"):
    setattr(torch.cuda, name, asked)
for name in sys.argv[1:]:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
assert not {"ray", "grpc"} & {name.partition(".")[0] for name in sys.modules}
"""
    done = subprocess.run([sys.executable, "-c", code, *SITE, *LOADED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_switch_and_an_error_leave_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    before = psutil.Process().children()

    def failing() -> None:
        with forking(True):
            assert client.PLACE in os.environ
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    monkeypatch.setenv(SWITCH, "0")
    with forking(True):
        assert client.PLACE not in os.environ
    end()
    assert psutil.Process().children() == before


def test_a_worker_takes_its_threads_from_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        own_threads()
        assert torch.get_num_threads() == before  # no fork
        monkeypatch.setenv(client.PLACE, "there")
        own_threads()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.ray
def test_ray_s_workers_are_forks_that_have_loaded_torch() -> None:
    with local_cluster(num_cpus=2):
        import ray

        class Seen:
            def of(self) -> dict[str, Any]:
                loaded = "torch" in sys.modules
                import numpy as np

                parent = psutil.Process(os.getppid()).cmdline()
                put = ThreadPoolExecutor(1).submit(lambda: ray.put(0).hex()).result()
                return {"loaded": loaded, "parent": parent, "drawn": [float(np.random.random()), random.random(), put]}

        actors = [ray.remote(Seen).options(num_cpus=0.5).remote() for _ in range(2)]
        found = ray.get([one.of.remote() for one in actors])
        for actor in actors:
            ray.kill(actor)
    assert all(one["loaded"] and "fedrecon.platform.execution.forking.server" in one["parent"] for one in found)
    assert all(a != b for a, b in zip(*(one["drawn"] for one in found), strict=True))
