"""A sweep of a thousand tiny trials whose driver is killed twice, and what a trial costs from the first to the last.

    python bench/soak.py --trials 1000 --kills 2 --seed 0 --workspace FOLDER --json FILE

One command, ``fedrecon sweep``, is ended by ``kill -9`` at moments that the seed draws, and given again until the sweep
is finished. Its table must be that of the same experiments run one by one (``--calm`` of them, drawn by the seed), to
the last bit, and MLflow must hold one finished run for each digest. Seconds and CPU-seconds are of the driver and all
processes below it, between the first and the last trial of each start: Ray's start belongs to the call.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from many_sites import write_shards

COLUMNS = {
    "trials": "trials done",
    "seconds": "s a trial",
    "cpu": "CPU s a trial",
    "driver": "driver MiB",
    "workers": "trial processes MiB",
    "ray": "Ray MiB",
    "files": "files a trial",
    "kib": "KiB a trial",
    "database": "mlflow.db KiB a trial",
    "lookup": "lookup ms",
    "store": "MLflow lookup ms",
}
"""The columns of the table. Files and bytes are those of the workspace, with what the sweep itself has written."""


def sweep_file(folder: Path, data: Path, trials: int, panels: bool) -> Path:
    """A sweep of so many trials: two methods at two accelerations, and as many seeds as it takes."""
    import yaml

    content = {
        "name": "soak",
        "experiment": {
            "sites": str(data),
            "operator": {"mask": "random", "acceleration": 2},
            "network": {"name": "unet", "channels": 2, "pools": 1},
            "training": {"rounds": 1, "batch_size": 4},
            "evaluation": {"every": 1, "panels": panels},
            "resources": {"crew": "in-process", "threads": 1},
        },
        "search": {
            "seed": {"grid": list(range(-(-trials // 4)))},
            "strategy.name": {"grid": ["fedavg", "local"]},
            "operator.acceleration": {"grid": [2, 3]},
        },
        "metric": "mean/psnr",
        "mode": "max",
        "budget": {"trials": trials},
    }
    path = folder / "soak.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class Soak:
    """The sweep in its workspace, looked at from outside.

    Attributes:
        samples: one a second: seconds, the trials that are done, CPU-seconds and memory of the whole tree by process.
        again: how often a start may fail yet.
        marks: files, bytes and lookups, each time when another ``window`` trials are done.
    """

    def __init__(self, workspace: Path, window: int) -> None:
        self.workspace, self.window, self.again = workspace, window, 5
        self.samples: list[dict[str, Any]] = []
        self.marks: list[dict[str, float]] = []

    @property
    def done(self) -> list[str]:
        """The digests of the trials that have a result."""
        runs = self.workspace / "runs"
        return [path.parent.name for path in runs.glob("*/result.json")] if runs.is_dir() else []

    def start(self, number: int, command: Sequence[str], stop_at: float) -> int | None:
        """Runs the command once, and kills it when ``stop_at`` trials are done. Returns its exit code."""
        log = self.workspace.with_name(f"start-{number}.log")
        with log.open("ab") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            done = self.done
            self.samples.append({"start": number, "at": time.perf_counter(), "done": len(done), **_used(driver)})
            if len(done) >= self.window * (len(self.marks) + 1):
                self.marks.append(self._look(done))
                part = {"windows": windows(self.samples, self.marks, self.window)}
                self.workspace.with_name("so-far.json").write_text(json.dumps(part, indent=1))
            if len(done) >= stop_at:
                time.sleep(stop_at % 1)
                process.kill()  # the driver alone, as the kernel does when memory is short
                process.wait()
                return None
            time.sleep(1)
        return process.returncode

    def _look(self, done: Sequence[str]) -> dict[str, float]:
        """What the workspace holds, and how long it takes to find a run in it: median ms over 20 drawn digests."""
        from fedrecon.platform.storage.run_lookup import find_run
        from fedrecon.platform.storage.tracking.store import run_store

        # os.walk goes on where a folder has gone since it was listed: the sweep runs meanwhile.
        sizes = [_size(Path(folder, name)) for folder, _, names in os.walk(self.workspace) for name in names]
        databases = [_size(path) or 0 for path in self.workspace.glob("mlflow.db*")]
        drawn, store = (
            random.Random(len(done)).sample(sorted(done), min(20, len(done))),
            run_store(None, self.workspace),
        )
        return {
            "trials": len(done),
            "files": sum(size is not None for size in sizes),
            "bytes": sum(size or 0 for size in sizes),
            "database": sum(databases),
            "lookup": _median_ms(lambda digest: find_run(self.workspace, digest), drawn),
            "store": _median_ms(store.find, drawn),
        }


def _size(path: Path) -> int | None:
    """The bytes of a file; None if it is none, or gone."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _median_ms(find: Any, given: Sequence[str]) -> float:
    """The median over what is found of the milliseconds to find it; what is not there yet does not count."""
    took = []
    for one in given:
        begun = time.perf_counter()
        try:
            find(one)
        except Exception:  # noqa: BLE001 - MLflow has not got this run yet
            continue
        took.append(1000 * (time.perf_counter() - begun))
    return median(took) if took else float("nan")


def _used(driver: psutil.Process) -> dict[str, Any]:
    """CPU-seconds by process, and MiB of the driver, of the processes that hold trials, and of Ray's own."""
    cpu, memory = dict[int, float](), {"driver": 0.0, "workers": 0.0, "ray": 0.0}
    try:
        tree = [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        tree = []
    for one in tree:
        try:
            times, name, size = one.cpu_times(), " ".join(one.cmdline()[:1]), one.memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            continue
        cpu[one.pid] = times.user + times.system
        kind = "driver" if one.pid == driver.pid else "workers" if name.startswith("ray::") else "ray"
        memory[kind] += size
    return {"cpu": cpu, **memory}


def windows(samples: Sequence[Mapping[str, Any]], marks: Iterable[Mapping[str, float]], size: int) -> list[Any]:
    """One row for each window of ``size`` trials. A trial counts where both samples around it are of one start.

    The first trials of a start are left out: they wait for the processes that hold trials.
    """
    rows = [dict.fromkeys(("n", "seconds", "cpu", "driver", "workers", "ray"), 0.0) for _ in marks]
    pairs = pairwise(samples)
    first = {one["start"]: one["done"] for one in reversed(samples)}
    for before, after in pairs:
        place = (after["done"] - 1) // size
        if before["start"] != after["start"] or before["done"] == first[before["start"]] or place >= len(rows):
            continue
        row = rows[place]
        row["n"] += after["done"] - before["done"]
        row["seconds"] += after["at"] - before["at"]
        row["cpu"] += sum(max(used - before["cpu"].get(pid, 0.0), 0.0) for pid, used in after["cpu"].items())
        for key in ("driver", "workers", "ray"):
            row[key] = max(row[key], after[key])
    found = []
    last: Mapping[str, float] = {"trials": 0, "files": 0, "bytes": 0, "database": 0}
    for row, mark in zip(rows, marks, strict=True):
        n = mark["trials"] - last["trials"]
        grown = {key: (mark[key] - last[key]) / n for key in ("files", "bytes", "database")}
        times = {key: row[key] / row["n"] if row["n"] else float("nan") for key in ("seconds", "cpu")}
        disk = {"files": grown["files"], "kib": grown["bytes"] / 1024, "database": grown["database"] / 1024}
        found.append({**row, **times, **disk, **{key: mark[key] for key in ("trials", "lookup", "store")}})
        last = mark
    return found


def slope(rows: Sequence[Mapping[str, float]], key: str) -> float:
    """The change of a column a thousand trials, by least squares over the windows."""
    points = [(row["trials"], row[key]) for row in rows if row[key] == row[key]]
    if len(points) < 2:
        return float("nan")
    x, y = (sum(column) / len(points) for column in zip(*points, strict=True))
    spread = sum((a - x) ** 2 for a, _ in points)
    return 1000 * sum((a - x) * (b - y) for a, b in points) / spread


def calm(file: Path, workspace: Path, number: int, seed: int) -> dict[str, Any]:
    """So many of the trials, drawn and run one by one in this process: results by digest, and what each cost."""
    from fedrecon.platform.runs.run import run
    from fedrecon.tune.search.config import Sweep
    from fedrecon.tune.trials.planner import Planner

    trials = Planner.of(*Sweep.read(file)).trials()
    drawn = random.Random(f"calm {seed}").sample(list(trials), min(number, len(trials)))
    found, wall, cpu = {}, [], []
    for one in drawn:
        begun, used = time.perf_counter(), time.process_time()
        done = run(one.experiment, workspace=workspace, in_process=True)
        wall.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - used)
        tests = {f"test/mean/{key}": value for key, value in done.mean.items() if isinstance(value, float)}
        found[done.digest] = {**done.validation, **tests}
    return {"results": found, "seconds": median(wall), "cpu": median(cpu)}


def differences(table: Sequence[Mapping[str, Any]], alone: Mapping[str, Mapping[str, float]], trials: int) -> list[str]:
    """What of a finished sweep's table is not as it must be: empty if all is."""
    found = [f"{len(table)} rows, not {trials}"] if len(table) != trials else []
    found += [
        f"trial {row['number']} is {row['status']}: {row['error']}" for row in table if row["status"] != "FINISHED"
    ]
    if len(known := {row["digest"]: row for row in table}) != len(table):
        found.append("two rows have the same digest")
    for digest, values in alone.items():
        own = known.get(digest, {}).get("metrics", {})
        found += [
            f"{digest}: {key} {own.get(key)} is {value} alone" for key, value in values.items() if own.get(key) != value
        ]
    return found


def recorded(workspace: Path, digests: Iterable[str]) -> list[str]:
    """What of MLflow is not as it must be: one finished run for each digest, and the sweep's own."""
    from fedrecon.platform.storage.tracking.store import run_store

    client, statuses = run_store(None, workspace).client, dict[str, list[str]]()  # type: ignore[attr-defined]
    token: str | None = ""
    while token is not None:
        places = [one.experiment_id for one in client.search_experiments()]
        part = client.search_runs(places, max_results=1000, page_token=token or None)
        for one in part:
            statuses.setdefault(one.data.tags["fedrecon.digest"], []).append(one.info.status)
        token = part.token
    wanted = {**{digest: ["FINISHED"] for digest in digests}, "sweep-soak": ["FINISHED"]}
    return [
        f"MLflow holds {statuses.get(one)} of {one}, not {wanted.get(one)}"
        for one in {*statuses, *wanted}
        if statuses.get(one) != wanted.get(one)
    ]


def report(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    rows, lines = (
        found["windows"],
        [f"load {found['load']:.1f} at the end; killed at {found['killed']} trials done", ""],
    )
    lines += ["| " + " | ".join(COLUMNS.values()) + " |", "|" + "--:|" * len(COLUMNS)]
    lines += ["| " + " | ".join(f"{row[key]:.4g}" for key in COLUMNS) + " |" for row in rows]
    slopes = ", ".join(f"{COLUMNS[key]} {slope(rows, key):+.3g}" for key in COLUMNS if key != "trials")
    alone = found["alone"]
    lines += [
        "",
        f"change a thousand trials: {slopes}",
        f"one by one: {alone['seconds']:.2f} s, {alone['cpu']:.2f} CPU s",
    ]
    lines += [f"whole: {found['seconds']:.0f} s; {found['trials']} trials, {len(found['wrong'])} differences"]
    return "\n".join([*lines, *found["wrong"][:20]])


def main() -> int:
    """Runs the soak. Returns 1 if a table, a status or a number is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--calm", type=int, default=12, help="trials that are run alone as well")
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--size", type=int, default=16, help="of the square images")
    parser.add_argument("--panels", action="store_true", help="with pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workspace", type=Path, required=True, help="a folder that is made, and stays")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    # Ray starts its workers at nice 15: beside other work they would wait, and their time would say nothing.
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    (asked.workspace / "data").mkdir(parents=True)
    workspace = asked.workspace.resolve() / "workspace"
    write_shards(asked.workspace / "data", 2, asked.size)
    file = sweep_file(asked.workspace, (asked.workspace / "data").resolve(), asked.trials, asked.panels)
    drawn = random.Random(f"kills {asked.seed}")
    stops = sorted(drawn.uniform(0.05, 0.95) * asked.trials for _ in range(asked.kills))
    code = "import sys; from fedrecon.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "sweep", str(file), "--workspace", str(workspace)]
    begun, soak, ended = time.perf_counter(), Soak(workspace, asked.window), None
    for number, stop_at in enumerate([*stops, float("inf")]):
        ended = soak.start(number, command, stop_at)
        while ended and soak.again:  # a Ray that does not start beside other work: give the same command again
            soak.again -= 1
            ended = soak.start(number, command, stop_at)
    seconds = time.perf_counter() - begun
    if ended:
        print(workspace.with_name(f"start-{asked.kills}.log").read_text(errors="replace")[-3000:])
        return 1
    from fedrecon.tune.sweep.run import load_sweep

    table = load_sweep("soak", workspace).as_dict()["trials"]
    alone = calm(file, asked.workspace / "calm", asked.calm, asked.seed)
    shutil.rmtree(asked.workspace / "calm")
    wrong = differences(table, alone["results"], asked.trials)
    wrong += recorded(workspace, [row["digest"] for row in table])
    found = {
        "trials": asked.trials,
        "killed": [round(one) for one in stops],
        "windows": windows(soak.samples, soak.marks, asked.window),
        "alone": {key: alone[key] for key in ("seconds", "cpu")},
        "seconds": seconds,
        "load": os.getloadavg()[0],
        "wrong": wrong,
    }
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    print(report(found))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
