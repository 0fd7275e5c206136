"""Faults that meet a driver at a moment of its command; ``tests/faults.py`` calls them in a process of their own.

A moment is a call of the site 'middle' (on Ray: when the driver has just sent it), a commit, the writing of the
result, or (on Ray) its end. An act changes the world of that process: it kills, stops, fills or damages something.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tampering
from drivers import before

MEMBER = "middle"
CALLS = {
    "start": ("describe", lambda *_: True),
    "fit": ("fit", lambda request, *_: request.round == 2),
    "resume": ("fit", lambda request, *_: request.round == 3),
    "scoring": ("evaluate", lambda request, task, *_: task.split == "test"),
    "artifacts": ("private_part", lambda *_: True),
    "evaluate": ("evaluate", lambda *_: True),
}
"""The call at which a phase is met, and whether it is the one, from its arguments."""
PHASES = ("start", "fit", "commit", "scoring", "artifacts", "end", "resume", "stopped", "evaluate", "sync")
"""In the phase 'stopped' no process runs: the run was stopped, and is not yet resumed.

In the phase 'sync' a finished run is sent to a store that has lost it.
"""
BALLAST = "ballast"
CLOCK = "FAULTS_CLOCK"
"""Environment: the file that holds the seconds by which the wall clock is off; ``faults.py`` compiles the library."""


@dataclass(frozen=True)
class Scene:
    """One command, and where its fault happens.

    Attributes:
        argv: the command. said, out: files for its stderr and stdout. place: the files that may be damaged.
        around: what the driver's process needs before the command: a name of :data:`AROUND`.
        server: process group of the MLflow server; 0 without one.
    """

    argv: list[str]
    said: Path
    out: Path
    place: tampering.Place
    around: str = ""
    server: int = 0
    seed: int = 0

    @property
    def on_ray(self) -> bool:
        """Whether it is a run on Ray."""
        return self.argv[0] == "run" and "--in-process" not in self.argv


executors: list[Any] = []
"""The executors on Ray that this process made."""
kept: list[Any] = []
"""What must live on until the process ends."""


def drive(scene: Scene, moment: str = "", act: str = "") -> None:
    """Runs one command in this process, in a session of its own, and ends it with its exit code."""
    from fedrecon.cli import main

    os.setsid()
    for descriptor, path in ((1, scene.out), (2, scene.said)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1) for n in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("LD_PRELOAD", None)
    argv = [*scene.argv, *(AROUND[scene.around]() if scene.around else ())]
    if moment:
        _install(moment, lambda: ACTS[act](scene), scene)
    code = main(argv)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.exit(code)


def _install(moment: str, act: Callable[[], None], scene: Scene) -> None:
    from fedrecon.platform.execution.ray_executor import RayExecutor
    from fedrecon.platform.storage.checkpoint import Checkpoints
    from fedrecon.platform.storage.tracking.sender import Sender
    from fedrecon.platform.storage.workspace import RunFolder
    from fedrecon.sites.member.site import Site

    left = [act]

    def once() -> None:
        if left:
            left.pop()()

    before(RayExecutor, "_prepare", lambda executor, *_: not executors.append(executor), lambda: None)
    if moment == "commit":
        before(Checkpoints, "save", lambda _, state, record: state.round == 2, once)
    elif moment == "end" and scene.on_ray:  # before Ray has ended
        before(RayExecutor, "close", lambda *_: True, once)
    elif moment == "end":
        before(RunFolder, "save_result", lambda *_: True, once)
    elif moment == "sync":
        entries = itertools.count()
        before(Sender, "_apply", lambda *_: next(entries) == scene.seed % 16, once)
    else:
        method, due = CALLS[moment]
        before(Site, method, lambda site, *given: site.name == MEMBER and due(*given), once)
        call = RayExecutor._call

        def called(self: Any, name: str, asked: str, given: tuple[Any, ...], delivery: Any) -> Any:
            reference = call(self, name, asked, given, delivery)
            if (name, asked) == (MEMBER, method) and due(*given):
                once()
            return reference

        RayExecutor._call = called  # type: ignore[method-assign]


def _site(number: int) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        from ray._private.state import actors

        os.kill(actors(executors[-1].actors[MEMBER]._actor_id.hex())["Pid"], number)

    return act


def _of_ray(name: str, number: int) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        import ray

        for one in ray._private.worker._global_node.all_processes[name]:
            os.kill(one.process.pid, number)

    return act


def _all_get_sigterm(scene: Scene) -> None:
    """What a service manager does: the driver and all of its Ray."""
    for one in (*psutil.Process().children(recursive=True), psutil.Process()):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.terminate()


def _fill(folder: Path) -> None:
    with (folder / BALLAST).open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def _fill_the_store(scene: Scene) -> None:
    import ray

    for size in (1_000_000, 15_000):  # below 100 kB nothing goes to the store
        for number in range(100):
            try:
                kept.append(ray.put(np.full(size, number, np.float64)))
            except ray.exceptions.RayError as error:
                print(f"(the fault: {type(error).__name__} after {number} puts)", file=sys.stderr)
                break


def _clock(seconds: int) -> Callable[[Scene], None]:
    return lambda _: set_clock(seconds)


def set_clock(seconds: int) -> None:
    """The wall clock of every process of this tool is off by so much from now on."""
    with Path(os.environ[CLOCK]).open("r+b") as file:
        file.write(struct.pack("q", seconds))


def _damage(kinds: list[tampering.Damage]) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        rng = random.Random(scene.seed)
        print(f"(the fault: {rng.choice(kinds)(rng, scene.place)})", file=sys.stderr)

    return act


def _second_driver(scene: Scene) -> None:
    done = subprocess.run([sys.executable, "-m", "fedrecon.cli", *scene.argv], capture_output=True, text=True)
    print(f"(the second driver: exit {done.returncode}: {done.stderr.strip()})", file=sys.stderr)


def _node_lost(back: bool) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        from fedrecon.platform.execution import ray_executor

        cluster, node = kept
        if back:  # a busy machine takes minutes to start one
            ray_executor.RESTART_TIMEOUT = 600.0  # type: ignore[misc]

        def lose() -> None:
            cluster.remove_node(node, allow_graceful=False)
            if back:
                from ray._private import utils

                utils.set_sigterm_handler = lambda *_: None  # it takes the main thread alone
                while True:  # Ray gives a node 30 s to start, which a busy machine does not keep
                    with contextlib.suppress(Exception):
                        cluster.add_node(num_cpus=1, labels={"site": MEMBER})
                        break
                threading.Event().wait()  # the kernel ends what Ray started with the thread that started it

        threading.Thread(target=lose, daemon=True).start()
        time.sleep(1.0)

    return act


ACTS: dict[str, Callable[[Scene], None]] = {
    "driver killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "driver interrupted": lambda _: signal.raise_signal(signal.SIGINT),
    "driver terminated": lambda _: os.killpg(0, signal.SIGTERM),
    "service terminated": _all_get_sigterm,
    "site killed": _site(signal.SIGKILL),
    "site stopped": _site(signal.SIGSTOP),
    "raylet killed": _of_ray("raylet", signal.SIGKILL),
    "raylet stopped": _of_ray("raylet", signal.SIGSTOP),
    "control store killed": _of_ray("gcs_server", signal.SIGKILL),
    "control store stopped": _of_ray("gcs_server", signal.SIGSTOP),
    "node lost": _node_lost(back=False),
    "node lost, another comes": _node_lost(back=True),
    "disk full": lambda scene: _fill(scene.place.workspace),
    "/dev/shm full": lambda _: _fill(Path("/dev/shm")),
    "object store full": _fill_the_store,
    "object store and disk full": _fill_the_store,
    "MLflow server killed": lambda scene: os.killpg(scene.server, signal.SIGKILL),
    "clock a day on": _clock(86_400),
    "clock a day back": _clock(-86_400),
    "shard damaged": _damage(tampering.SHARD),
    "memory damaged": _damage(tampering.MEMORY),
    "second driver": _second_driver,
}


def _own_shared_memory() -> list[str]:
    """A /dev/shm of 128 MiB that this process and its children alone see, with a store in it; needs root."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x20000):  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", "/dev/shm"], check=True)
    return _small_store()


def _small_store() -> list[str]:
    """The smallest object store that Ray makes. All messages go through it: this system has no memfd_create."""
    os.environ["RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"] = "80000000"
    del os.memfd_create
    return []


def _small_store_and_disk() -> list[str]:
    """As before, and Ray holds the disk for full: nothing that is in the store goes there."""
    os.environ["RAY_local_fs_capacity_threshold"] = "0.01"  # noqa: SIM112 - Ray's name
    return _small_store()


def _two_nodes() -> list[str]:
    """A cluster of two nodes on this machine; MEMBER lives on the second. A lost node is waited for for 20 s."""
    from ray.cluster_utils import Cluster

    from fedrecon.platform.execution import ray_executor

    ray_executor.RESTART_TIMEOUT = 20.0  # type: ignore[misc]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    kept[:] = [cluster, cluster.add_node(num_cpus=1, labels={"site": MEMBER})]
    atexit.register(cluster.shutdown)
    return ["--address", cluster.address]


AROUND = {
    "shm": _own_shared_memory,
    "store": _small_store,
    "store and disk": _small_store_and_disk,
    "cluster": _two_nodes,
}

CLOCK_LIBRARY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile long *off;
__attribute__((constructor)) static void map_it(void) {
    int file = open(getenv("FAULTS_CLOCK"), O_RDONLY);
    if (file >= 0) off = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
}
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (!failed && off && id == CLOCK_REALTIME) now->tv_sec += *off;
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec here;
    clock_gettime(CLOCK_REALTIME, &here);
    now->tv_sec = here.tv_sec, now->tv_usec = here.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


@contextlib.contextmanager
def clock(folder: Path) -> Iterator[None]:
    """Every process that is started in the body has a wall clock that :func:`set_clock` moves; needs ``cc``."""
    file, source, library = folder / "clock", folder / "clock.c", folder / "clock.so"
    file.write_bytes(bytes(8))
    source.write_text(CLOCK_LIBRARY)
    os.environ[CLOCK] = str(file)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    os.environ["LD_PRELOAD"] = str(library)
    yield
    os.environ.pop("LD_PRELOAD", None)
