"""The benchmark's columns do the same work, and its figures are what they say. No timing is asserted."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench"
MODULES = ("column", "jobs", "measure", "run", "synthetic")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The benchmark's modules at a tiny size, forgotten again afterwards: their names are everybody's."""
    import importlib

    monkeypatch.syspath_prepend(str(BENCH))
    kept = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    modules = {name: importlib.import_module(name) for name in MODULES}
    monkeypatch.setattr(modules["synthetic"], "IMAGES", 16)
    monkeypatch.setattr(modules["synthetic"], "WIDTH", 20)
    yield modules
    for name in MODULES:
        del sys.modules[name]
    sys.modules.update(kept)


def job(bench: dict[str, Any], variant: str, folder: Path) -> Any:
    if variant == "mri":
        return bench["jobs"].Mri("mri", folder, n_train=16, channels=2)
    return bench["jobs"].Job(variant, folder)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["train", "comm", "mri"])
def test_bare_and_in_process_do_the_same_work(bench: dict[str, Any], variant: str, tmp_path: Path) -> None:
    bare, ours = (
        bench["column"].run(job(bench, variant, tmp_path), executor, rounds=2) for executor in ("bare", "in-process")
    )
    assert len(bare["round_end"]) == len(ours["round_end"]) == 2
    assert f"{bare['check']:.6f}" == f"{ours['check']:.6f}"
    if variant != "comm":
        before = job(bench, variant, tmp_path)
        assert before.check(before.model()) != pytest.approx(bare["check"], rel=1e-3), "nothing was trained"


def test_a_column_that_did_other_work_is_named(bench: dict[str, Any]) -> None:
    same = {"bare": [{"check": 0.12345671}], "ours": [{"check": 0.12345674}]}
    other = {"bare": [{"check": 0.123456}], "ours": [{"check": 0.123458}]}
    assert bench["run"].disagreement(same) == ""
    assert "0.123456, 0.123458" in bench["run"].disagreement(other)


def test_figures_of_a_known_course(bench: dict[str, Any]) -> None:
    tree = bench["measure"].Tree(root=None, memory=False)
    tree.times, tree.cpu = [0.0, 10.0, 20.0], [0.0, 5.0, 25.0]
    figures = bench["measure"].figures([4.0, 6.0, 10.0, 15.0], begun=1.0, tree=tree, warm=2)
    # rounds 3 and 4 took 4 s and 5 s; CPU at t=4 is 2, at t=6 3, at t=15 15
    assert figures == {"seconds": 4.5, "cpu": 6.0, "start_up": -1.5, "start_up_cpu": -4.0, "peak": 0}


def test_ratios_are_formed_within_a_pass(bench: dict[str, Any]) -> None:
    def one(seconds: float, cpu: float) -> dict[str, float]:
        return {"seconds": seconds, "cpu": cpu, "start_up": 1.0, "check": 0.5}

    measured = {"bare": [one(1, 2), one(10, 20), one(1, 1)], "ours": [one(2, 6), one(10, 20), one(3, 2)]}
    row = bench["run"].summarise(measured, {"ours": 2.0**21})["ours"]
    assert (row["seconds_ratio"], row["cpu_ratio"], row["cpu_low"], row["cpu_high"]) == (2, 2, 1, 3)
    assert "| ours | 3.00 | 2.00 | 6.00 | 2.00 (1.00-3.00) | 1.0 | 2 | 0.500000 |" in bench["run"].table({"ours": row})
