"""Many sites, in one process or each as an actor: what a round, a site and a run cost as their number grows.

python bench/many_sites.py --sites 16 64 256 1000 [--size 32] [--json FILE]
python bench/many_sites.py --actors --sites 8 16 32 64 --channels 24 --pools 3 --rounds 5 [--nodes 3]
"""

from __future__ import annotations

import argparse
import atexit
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

MEMORY_LEFT = 3 * 2**30
"""Free bytes of the machine below which a run is ended: sites as actors are a process with torch each."""

COLUMNS = {
    "sites": "sites",
    "start": "CPU s before round 1",
    "round": "CPU s of the last round",
    "site_ms": "of it ms a site",
    "end": "CPU s after it",
    "wall": "whole run, wall s",
    "peak": "peak RSS MiB",
    "files": "most open files",
    "written": "files written",
    "bytes": "MiB written",
}
"""The columns of the table. CPU-seconds are of this process alone, with its start; the last round is validated."""

OF_ACTORS = {
    "sites": "sites",
    "wall_start": "s to the end of round 1",
    "start": "CPU s of it",
    "seconds": "wall s a round",
    "actor_ms": "CPU of the actors, ms a site and round",
    "driver_ms": "of the driver",
    "daemons": "CPU of Ray's other processes, s a second",
    "own": "driver's own memory, peak MiB",
    "mapped": "driver's shared buffers, MiB",
    "peak": "driver's peak RSS MiB",
    "tree": "PSS of all processes, MiB",
}
"""The columns with actors. A round is the median of those before the last one, which is validated, without the first.
Ray's other processes spend CPU whether or not there are rounds, so theirs is a share of the time that passed."""


def write_shards(folder: Path, n_sites: int, size: int, n_train: int = 2, n_validation: int = 1) -> None:
    """``n_sites`` shards of so many slices for training and validation, and one for the test; a subject a split."""
    import numpy as np

    from fedrecon.sites.data.shard_writer import write_shard
    from fedrecon.sites.data.volume import VolumeData
    from fedrecon.sites.imaging.numpy_fourier import fft2c_numpy

    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    for number in range(n_sites):
        name = f"s{number:04}"
        rng = np.random.default_rng(number)

        def volume(split: str, n: int, name: str = name, rng: Any = rng) -> VolumeData:
            waves = np.cos(3 * x[None] * rng.uniform(1, 2, (n, 1, 1)) + 2 * y)
            image = np.ascontiguousarray((1 + waves) * (x**2 + y**2 < 0.8), dtype=np.float32)
            kspace = fft2c_numpy(image.astype(np.complex64))[:, None]
            return VolumeData(f"{name}-{split}", f"{name}-{split}", split, kspace, image, noise=0.0)

        volumes = [volume("train", n_train), volume("validation", n_validation), volume("test", 1)]
        write_shard(folder / f"{name}.h5", name, volumes, simulated=True, phase="none")


class Looked(threading.Thread):
    """What this process had at most, looked at twenty times a second: open files, and memory that is its own alone."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.files, self.own = 0, 0

    def run(self) -> None:
        """Looks until the process ends. Ends it, with its actors, when the machine runs out of memory."""
        while True:
            self.files = max(self.files, len(list(Path("/proc/self/fd").iterdir())))
            self.own = max(self.own, memory()["RssAnon"])
            if psutil.virtual_memory().available < MEMORY_LEFT:
                print("the machine runs out of memory", file=sys.stderr, flush=True)
                os._exit(1)
            time.sleep(0.05)


def memory() -> dict[str, int]:
    """Bytes of this process by kind: RssAnon (its own), RssShmem (shared buffers), RssFile, VmHWM (the peak of all)."""
    rows = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[-1] == "kB"}


def whole() -> list[psutil.Process]:
    """This process and all below it: Ray's processes and the actors."""
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def spent(processes: list[psutil.Process]) -> dict[str, float]:
    """CPU-seconds up to now of the driver, of the actors and of Ray's other processes; of one that has ended, none."""
    total = dict.fromkeys(("driver", "actors", "daemons"), 0.0)
    for one in processes:
        try:
            kind = "actors" if one.cmdline()[:1] and one.cmdline()[0].startswith("ray::SiteActor") else "daemons"
            total["driver" if one.pid == os.getpid() else kind] += sum(one.cpu_times()[:2])
        except psutil.Error:
            continue
    return total


def logical_nodes(count: int, n_sites: int) -> str:
    """The address of a Ray of so many nodes on this machine, with a CPU for each site. It ends with this process.

    Messages to and from sites of another node go through Ray's store, as they would on another machine.
    """
    from ray.cluster_utils import Cluster

    each = -(-n_sites // count)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": each, "include_dashboard": False})
    for _ in range(count - 1):
        cluster.add_node(num_cpus=each)
    atexit.register(cluster.shutdown)
    return str(cluster.address)


def one(data: Path, workspace: Path, asked: argparse.Namespace) -> dict[str, float]:
    """One run: its rounds, and what they took."""
    import logging

    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.runs.context import RunContext
    from fedrecon.platform.runs.run import steps

    logging.disable(logging.WARNING)
    looked, begun = Looked(), time.perf_counter()
    looked.start()
    experiment = {
        "name": "many",
        "sites": str(data),
        "operator": {"mask": "random", "acceleration": 4},
        "network": {"name": "unet", "channels": asked.channels, "pools": asked.pools},
        "training": {"rounds": asked.rounds, "batch_size": 2},
        "evaluation": {"every": asked.rounds + 1, "panels": asked.panels},
        "resources": {"start_timeout": 600},
    }
    workspace.mkdir()
    cpu, wall = [spent(whole())], [begun]
    address = logical_nodes(asked.nodes, len(list(data.glob("*.h5")))) if asked.nodes > 1 else None
    context = RunContext(workspace, "actors" if asked.actors else "in-process", address=address)
    found: dict[str, float] = {}
    for _ in steps(Experiment.read(experiment), context):
        wall.append(time.perf_counter())
        cpu.append(spent(processes := whole()))
        if asked.actors and len(wall) == asked.rounds:  # before the last round, which is validated
            found = {"tree": sum(process.memory_full_info().pss for process in processes) / 2**20}
            found |= {"mapped": memory()["RssShmem"] / 2**20}
    n_sites = len(list(data.glob("*.h5")))
    found |= {"sites": n_sites, "own": looked.own / 2**20, "files": looked.files}
    found |= {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if asked.actors:
        passed, by_kind = _steps(wall), {kind: _steps([one[kind] for one in cpu]) for kind in cpu[0]}
        return found | {
            "wall_start": wall[1] - wall[0],
            "start": sum(cpu[1].values()) - sum(cpu[0].values()),
            "seconds": statistics.median(passed),
            "actor_ms": 1000 * statistics.median(by_kind["actors"]) / n_sites,
            "driver_ms": 1000 * statistics.median(by_kind["driver"]) / n_sites,
            "daemons": sum(by_kind["daemons"]) / sum(passed),
        }
    own = [one["driver"] for one in cpu]
    ended, written = spent([psutil.Process()])["driver"], [path for path in workspace.rglob("*") if path.is_file()]
    return found | {
        "start": 2 * own[1] - own[2],  # the first round costs about what the next one does
        "round": own[-1] - own[-2],
        "site_ms": 1000 * (own[-1] - own[-2]) / n_sites,
        "end": ended - own[-1],
        "wall": time.perf_counter() - begun,
        "written": len(written),
        "bytes": sum(path.stat().st_size for path in written) / 2**20,
    }


def _steps(ends: list[float]) -> list[float]:
    """From one end of a round to the next: without the start, the first round and the last."""
    return [after - before for before, after in itertools.pairwise(ends[1:-1])]


def row(found: Mapping[str, float], columns: Mapping[str, str]) -> str:
    """The figures in Markdown."""
    return "| " + " | ".join(f"{found[key]:.4g}" for key in columns) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[16, 64, 256, 1000])
    parser.add_argument("--size", type=int, default=32, help="of the square images")
    parser.add_argument("--channels", type=int, default=4, help="of the U-Net")
    parser.add_argument("--pools", type=int, default=2, help="of the U-Net")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--actors", action="store_true", help="each site as an actor; needs four rounds or more")
    parser.add_argument("--nodes", type=int, default=1, help="Ray nodes on this machine, with --actors")
    parser.add_argument("--panels", action="store_true", help="with pictures")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(*asked.one, asked)))
        return
    found, columns = [], OF_ACTORS if asked.actors else COLUMNS
    print("| " + " | ".join(columns.values()) + " |\n|" + "--:|" * len(columns), flush=True)
    for number in asked.sites:
        with tempfile.TemporaryDirectory() as scratch:
            data, workspace = Path(scratch, "data"), Path(scratch, "workspace")
            data.mkdir()
            write_shards(data, number, asked.size)
            command = [sys.executable, __file__, "--one", str(data), str(workspace), *sys.argv[1:]]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(row(found[-1], columns), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
