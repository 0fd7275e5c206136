"""Crews on Ray for the tests: what an actor is asked, how it is killed, and what a federation came to."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file
from tiny import Commits, Federation, bits

from fedrecon.platform.config.resources import Resources
from fedrecon.platform.execution.ray_executor import RayExecutor
from fedrecon.platform.execution.site_actor import ActorPool

PATIENCE = 150.0
"""Seconds for a thing that takes one on a machine that is not busy."""


@contextmanager
def ray_executor(federation: Federation, pool: ActorPool | None = None, **resources: Any) -> Iterator[RayExecutor]:
    executor = RayExecutor(federation.plans(), Resources(**resources), pool=pool)
    try:
        yield executor
    finally:
        executor.close()


def outcome(federation: Federation, executor: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the rounds, and every bit that a run leaves: shared vector, memory on disk, scores."""
    record = Commits(None)
    state = federation.train(executor, record)
    scores = executor.evaluate(federation.method.request(state), "test")
    return [one.row() for one in record.rounds], {
        "state": bits(state),
        "standing": dict(state.standing),
        "memory": memory_bits(federation.memory, state.round),
        "scores": [(one.site, {k: v for k, v in one.columns.items() if k != "seconds"}) for one in scores],
    }


def memory_bits(folder: Path | None, number: int) -> dict[str, dict[str, bytes]]:
    """The private memory of a round on disk, by member and name."""
    assert folder is not None
    found = sorted(folder.glob(f"*/round-{number:06d}.safetensors"))
    return {path.parent.name: {k: v.tobytes() for k, v in sorted(load_file(path).items())} for path in found}


def title(process: int) -> str:
    """What a process calls itself; Ray names an actor's process after what it does."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def wait_for(condition: Any, what: str, seconds: float = PATIENCE, every: float = 0.002) -> None:
    """Asks every two milliseconds, or more seldom what takes long to find out: it would take a processor from Ray."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(every)


@contextmanager
def killed_in_fit(process: int, number: int = signal.SIGKILL) -> Iterator[None]:
    """Kills a process with -9 as soon as it fits, or sends it another signal."""
    died = threading.Event()

    def kill() -> None:
        wait_for(lambda: "SiteActor.fit" in title(process), f"a fit of process {process}")
        os.kill(process, number)
        died.set()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield
    thread.join(PATIENCE)
    assert died.is_set()
