"""Many sites in one process: what a round, a site and a run cost as their number grows. Ray is not used.

python bench/many_sites.py --sites 16 64 256 1000 [--size 32] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

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


def write_shards(folder: Path, n_sites: int, size: int, n_train: int = 2, n_validation: int = 1) -> None:
    """``n_sites`` shards of so many slices for training and validation, and one for the test; a subject a split."""
    import numpy as np

    from fedrecon.sites.data.shard_writer import write_shard
    from fedrecon.sites.data.volume import VolumeData
    from fedrecon.sites.imaging.fourier import fft2c_numpy

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


class OpenFiles(threading.Thread):
    """The most files that this process had open, looked at twenty times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        """Looks until the process ends."""
        while True:
            self.most = max(self.most, len(list(Path("/proc/self/fd").iterdir())))
            time.sleep(0.05)


def one(data: Path, workspace: Path, rounds: int, panels: bool) -> dict[str, float]:
    """One run in this process."""
    import logging

    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.runs.context import RunContext
    from fedrecon.platform.runs.run import steps

    logging.disable(logging.WARNING)
    looked, begun = OpenFiles(), time.perf_counter()
    looked.start()
    experiment = {
        "name": "many",
        "sites": str(data),
        "operator": {"mask": "random", "acceleration": 4},
        "network": {"name": "unet", "channels": 4, "pools": 2},
        "training": {"rounds": rounds, "batch_size": 2},
        "evaluation": {"every": rounds + 1, "panels": panels},
    }
    workspace.mkdir()
    cpu = [time.process_time()]
    for _ in steps(Experiment.read(experiment), RunContext(workspace, "in-process")):
        cpu.append(time.process_time())
    ended, wall = time.process_time(), time.perf_counter() - begun
    written = [path for path in workspace.rglob("*") if path.is_file()]
    n_sites = len(list(data.glob("*.h5")))
    return {
        "sites": n_sites,
        "start": 2 * cpu[1] - cpu[2],  # the first round costs about what the next one does
        "round": cpu[-1] - cpu[-2],
        "site_ms": 1000 * (cpu[-1] - cpu[-2]) / n_sites,
        "end": ended - cpu[-1],
        "wall": wall,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "files": looked.most,
        "written": len(written),
        "bytes": sum(path.stat().st_size for path in written) / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[16, 64, 256, 1000])
    parser.add_argument("--size", type=int, default=32, help="of the square images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--panels", action="store_true", help="with pictures")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(*asked.one, asked.rounds, asked.panels)))
        return
    found = []
    print("| " + " | ".join(COLUMNS.values()) + " |\n|" + "--:|" * len(COLUMNS), flush=True)
    for number in asked.sites:
        with tempfile.TemporaryDirectory() as scratch:
            data, workspace = Path(scratch, "data"), Path(scratch, "workspace")
            data.mkdir()
            write_shards(data, number, asked.size)
            command = [sys.executable, __file__, "--one", str(data), str(workspace), "--rounds", str(asked.rounds)]
            command += ["--panels"] * asked.panels
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print("| " + " | ".join(f"{found[-1][key]:.4g}" for key in COLUMNS) + " |", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
