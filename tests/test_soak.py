"""The figures of the soak, by hand. The soak itself is run by people: python bench/soak.py."""

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module("soak")
    for name in ("soak", "many_sites"):
        sys.modules.pop(name, None)


def sample(start: int, at: float, done: int, cpu: dict[int, float], driver: float = 100.0) -> dict[str, Any]:
    return {"start": start, "at": at, "done": done, "cpu": cpu, "driver": driver, "workers": 1.0, "ray": 2.0}


def mark(trials: int, files: int, size: int, database: int) -> dict[str, float]:
    return {"trials": trials, "files": files, "bytes": size, "database": database, "lookup": 1.0, "store": 2.0}


def test_a_window_counts_the_trials_between_two_looks_of_one_start(soak: Any) -> None:
    samples = [
        sample(0, 0.0, 0, {1: 0.0}),
        sample(0, 9.0, 2, {1: 5.0}),  # the first trials of a start: they waited for it
        sample(0, 11.0, 6, {1: 6.0, 2: 1.0}),  # 4 trials, 2 s, 2 CPU-s
        sample(0, 13.0, 10, {1: 7.0, 2: 2.0}, driver=120.0),  # 4 trials, 2 s, 2 CPU-s
        sample(1, 40.0, 10, {3: 4.0}),
        sample(1, 50.0, 12, {3: 9.0}),
        sample(1, 53.0, 18, {3: 12.0}, driver=110.0),  # 6 trials, 3 s, 3 CPU-s
    ]
    first, second = soak.windows(samples, [mark(10, 100, 10240, 2048), mark(20, 300, 51200, 6144)], 10)
    assert (first["n"], first["seconds"], first["cpu"], first["driver"]) == (8, 0.5, 0.5, 120.0)
    assert (first["files"], first["kib"], first["database"]) == (10, 1.0, 0.2)
    assert (second["n"], second["seconds"], second["cpu"], second["driver"]) == (6, 0.5, 0.5, 110.0)
    assert (second["files"], second["kib"], second["database"]) == (20, 4.0, 0.4)


def test_a_slope_is_of_a_thousand_trials(soak: Any) -> None:
    rows = [{"trials": 100 * n, "cpu": 0.5 + 0.0001 * 100 * n} for n in (1, 2, 3, 4)]
    assert soak.slope(rows, "cpu") == pytest.approx(0.1)
    assert math.isnan(soak.slope(rows[:1], "cpu"))
    assert soak.slope([*rows, {"trials": 500, "cpu": math.nan}], "cpu") == pytest.approx(0.1)


def test_a_table_that_is_not_that_of_the_calm_run_is_named(soak: Any) -> None:
    rows = [
        {"number": n, "status": "FINISHED", "error": None, "digest": d, "metrics": {"psnr": 20.0}}
        for n, d in enumerate("ab")
    ]
    assert soak.differences(rows, {"a": {"psnr": 20.0}}, 2) == []
    assert len(soak.differences(rows, {"a": {"psnr": 20.000001}}, 2)) == 1
    assert len(soak.differences(rows, {"c": {"psnr": 20.0}}, 3)) == 2
    assert len(soak.differences([{**rows[0], "status": "FAILED"}, {**rows[1], "digest": "a"}], {}, 2)) == 2
