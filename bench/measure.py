"""What a program and all its processes cost, seen from outside: CPU-seconds over time, and peak memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

INTERVAL = 0.2
"""Seconds between two looks at the processes; CPU-seconds in between are interpolated."""

WARM = 2
"""Rounds at the start that are not counted by default."""

TIMEOUT = 600.0


@dataclass
class Tree:
    """A process with all its descendants, daemons included.

    Attributes:
        times: when it was looked at. cpu: user and system seconds up to then, of ended processes too. peak: bytes of
            proportional set size (shared pages count once), where ``memory``.
    """

    root: psutil.Process
    memory: bool
    times: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0
    _spent: dict[tuple[int, float], float] = field(default_factory=dict)

    def look(self) -> None:
        """Adds a point."""
        total = 0
        try:
            processes = [self.root, *self.root.children(recursive=True)]
        except psutil.Error:
            return
        for process in processes:
            try:
                spent = process.cpu_times()
                self._spent[process.pid, process.create_time()] = spent.user + spent.system
                total += process.memory_full_info().pss if self.memory else 0
            except (psutil.Error, OSError):
                continue  # it has just ended; what it spent up to the last look counts
        self.peak = max(self.peak, total)
        self.times.append(time.time())
        self.cpu.append(sum(self._spent.values()))

    def cpu_at(self, when: float) -> float:
        """CPU-seconds at a time."""
        after = min(max(bisect_left(self.times, when), 1), len(self.times) - 1)
        (t0, t1), (c0, c1) = self.times[after - 1 : after + 1], self.cpu[after - 1 : after + 1]
        return c0 + (c1 - c0) * min(max((when - t0) / max(t1 - t0, 1e-9), 0.0), 1.0)


def measure(command: Sequence[str], rounds: int, warm: int = WARM, memory: bool = False) -> dict[str, Any]:
    """Runs a column (see ``column.py``) and returns its figures, all in seconds, bytes, or as it reported them.

    Raises:
        RuntimeError: the column failed; with the end of what it said.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        out = Path(folder) / "report.json"
        begun = time.time()
        full = [*command, "--rounds", str(rounds), "--out", str(out)]
        process = subprocess.Popen(full, env=environment, stdout=log, stderr=log)
        tree = Tree(psutil.Process(process.pid), memory)
        while process.poll() is None:
            tree.look()
            time.sleep(INTERVAL)
            if time.time() - begun > TIMEOUT:
                process.terminate()
        if process.returncode != 0:
            log.seek(0)
            raise RuntimeError(f"{' '.join(full)} ended with {process.returncode}:\n{log.read()[-2000:]}")
        report = json.loads(out.read_text())
    return {**figures(report["round_end"], begun, tree, warm), "check": report["check"], "load": os.getloadavg()[0]}


def figures(ends: Sequence[float], begun: float, tree: Tree, warm: int) -> dict[str, float]:
    """Seconds and CPU-seconds of a round (of those after the warm ones) and of the start-up, and peak memory."""
    warm = max(1, min(warm, len(ends) - 1))
    steady = statistics.median(b - a for a, b in zip(ends[warm - 1 :], ends[warm:], strict=False))
    cpu = (tree.cpu_at(ends[-1]) - tree.cpu_at(ends[warm - 1])) / (len(ends) - warm)
    start = {"start_up": ends[0] - begun - steady, "start_up_cpu": tree.cpu_at(ends[0]) - cpu}
    return {"seconds": steady, "cpu": cpu, **start, "peak": tree.peak}
