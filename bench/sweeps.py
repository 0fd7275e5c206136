"""What a sweep costs beside its trials' own work, and whether it leaks.

    python bench/sweeps.py --trials 100                    # tiny trials: memory and time per trial
    python bench/sweeps.py --trials 12 --rounds 8 --size 64 --channels 8     # trials that are worth a sweep

The same experiments run twice: as a sweep, and one by one in one process through ``fedrecon.run``, both recorded in
MLflow. Wall time is compared with the one-by-one time divided by the cores; CPU-seconds are of the whole process tree.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil


def base(arguments: argparse.Namespace, data: Path) -> dict[str, Any]:
    return {
        "name": "bench",
        "sites": str(data),
        "operator": {"mask": "random", "acceleration": 4},
        "network": {"name": "unet", "channels": arguments.channels},
        "training": {"rounds": arguments.rounds, "batch_size": 4},
        "evaluation": {"every": 1, "panels": False},
    }


def prepare(place: Path) -> None:
    """The store and the Python caches are made before the clock starts: they are no cost of a trial."""
    from fedrecon.platform.storage.tracking.store import run_store

    run_store(None, place)


def as_a_sweep(given: dict[str, Any], n: int, place: Path) -> None:
    from fedrecon.tune.sweep.run import sweep

    sweep(given, {"seed": {"grid": list(range(n))}}, name="bench", workspace=place)


def one_by_one(given: dict[str, Any], n: int, place: Path) -> None:
    import fedrecon

    for seed in range(n):
        fedrecon.run({**given, "seed": seed}, workspace=place, in_process=True)
        (place / f"done-{seed}").touch()


WAYS = {"sweep": (as_a_sweep, "sweeps/bench/trials/*.json"), "one-by-one": (one_by_one, "done-*")}


def watched(way: str, given: dict[str, Any], n: int) -> dict[str, Any]:
    """Runs one way in a process of its own; seconds, CPU-seconds, and a sample each half second."""
    function, pattern = WAYS[way]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        context = multiprocessing.get_context("spawn")
        first = context.Process(target=prepare, args=(place,))
        first.start()
        first.join()
        process = context.Process(target=function, args=(given, n, place))
        start, used, samples = time.perf_counter(), dict[int, float](), list[dict[str, Any]]()
        process.start()
        while process.is_alive():
            driver = psutil.Process(process.pid)
            tree = [driver, *_children(driver)]
            for one in tree:
                used[one.pid] = max(used.get(one.pid, 0.0), _cpu(one))
            done = sum(1 for _ in place.glob(pattern))
            samples.append({"seconds": time.perf_counter() - start, "done": done, **_memory(driver, tree)})
            process.join(0.5)
        seconds = time.perf_counter() - start
        if process.exitcode:
            raise SystemExit(f"{way} ended with {process.exitcode}")
        if n != sum(1 for _ in place.glob(pattern)):
            raise SystemExit(f"{way} did not finish its {n} trials")
    return {"way": way, "seconds": seconds, "cpu_seconds": sum(used.values()), "samples": samples}


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _memory(driver: psutil.Process, tree: list[psutil.Process]) -> dict[str, float]:
    """MiB: the driver, the store (shared memory that the raylet holds), and the processes that run trials."""
    found = {"driver": 0.0, "store": 0.0, "trials": 0.0}
    for one in tree:
        try:
            name, memory = " ".join(one.cmdline()[:1]), one.memory_info()
        except (psutil.NoSuchProcess, IndexError):
            continue
        if one.pid == driver.pid:
            found["driver"] = memory.rss / 2**20
        elif name.endswith("raylet"):
            found["store"] = memory.shared / 2**20
        elif name.startswith("ray::"):
            found["trials"] += memory.rss / 2**20
    return found


def report(found: dict[str, dict[str, Any]], n: int) -> None:
    cores = len(os.sched_getaffinity(0))
    sweep, alone = found["sweep"], found["one-by-one"]
    print(f"\n{n} trials, {cores} cores, load {os.getloadavg()[0]:.1f}")
    print(f"one by one: {alone['seconds']:.1f} s, {alone['cpu_seconds']:.1f} CPU-s")
    print(f"as a sweep: {sweep['seconds']:.1f} s, {sweep['cpu_seconds']:.1f} CPU-s")
    print(f"wall against one by one / cores: {sweep['seconds'] / (alone['seconds'] / cores):.2f}")
    print(f"CPU against one by one: {sweep['cpu_seconds'] / alone['cpu_seconds']:.2f}")
    print("\n| trials done | seconds | seconds a trial | driver MiB | store MiB | workers MiB |")
    print("|--:|--:|--:|--:|--:|--:|")
    before: dict[str, Any] | None = None
    for mark in [1, *range(max(n // 10, 1), n + 1, max(n // 10, 1))]:
        row = next((one for one in sweep["samples"] if one["done"] >= mark), sweep["samples"][-1])
        pace = "" if before is None or row["done"] == before["done"] else (
            f"{(row['seconds'] - before['seconds']) / (row['done'] - before['done']):.2f}"
        )  # fmt: skip
        sizes = " | ".join(f"{row[key]:.0f}" for key in ("driver", "store", "trials"))
        print(f"| {row['done']} | {row['seconds']:.1f} | {pace} | {sizes} |")
        before = row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from fedrecon.sites.phantom import simulate

    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        simulate(str(data), sites=("t1w", "t2w"), subjects=6, size=arguments.size, seed=0)
        found = {way: watched(way, base(arguments, data), arguments.trials) for way in WAYS}
    if arguments.json:
        arguments.json.write_text(json.dumps(found))
    report(found, arguments.trials)


if __name__ == "__main__":
    main()
