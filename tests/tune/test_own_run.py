"""The run of a sweep or study in MLflow, and its files, are of the last call alone."""

from collections import Counter
from types import SimpleNamespace

import pytest
from memory_store import MemoryStore
from small_sweeps import planner

from fedrecon.platform.storage.journal import RunRecord
from fedrecon.platform.storage.tracking.sender import Sender
from fedrecon.platform.storage.tracking.tracker import SUMMARIES, TAG_SUPERSEDED
from fedrecon.tune.engine.records import CampaignRecords
from fedrecon.tune.sweep.outputs import _files
from fedrecon.tune.trials.trial_table import TrialTable


class Calls:
    """Calls of one sweep, each with a record of its own."""

    def __init__(self, workspace):
        self.workspace, self.store = workspace, MemoryStore()
        self.folder = workspace / "sweeps" / "one"

    def __call__(self, status, search="[1, 2]", best=None, files=()):
        given = []
        for name in files:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            given.append((path, str(path.parent.relative_to(self.folder)).removeprefix(".")))
        table = SimpleNamespace(
            folder=self.folder, rows=[], workspace=self.workspace, count=lambda *names: sum(status[n] for n in names)
        )
        sender = Sender(self.workspace, store=self.store, say=print)
        records = CampaignRecords(table, sender, None)
        values = {} if best is None else {"best/mean/psnr": best}
        records.conclude(RunRecord(SUMMARIES, "one", "sweep-one", {"search.x": search}, {}), values, given)
        sender.close()
        return self.shown()

    def shown(self):
        """What MLflow shows of the run that is not superseded."""
        (run,) = (one for one in self.store.runs if TAG_SUPERSEDED not in one.info.tags)
        last = {point.key: point.value for point in sorted(run.points, key=lambda point: point.step)}
        return last, run.params, sorted(run.artifacts)


@pytest.fixture
def calls(tmp_path):
    return Calls(tmp_path)


def test_the_same_call_again_changes_nothing_and_makes_no_run(calls):
    first = calls(Counter(FINISHED=4), best=30.0, files=["a.png"])
    assert calls(Counter(FINISHED=4), best=30.0, files=["a.png"]) == first
    assert len(calls.store.runs) == 1
    (run,) = calls.store.runs
    assert {point.step for point in run.points} == {4}


@pytest.mark.parametrize("status", [Counter(FINISHED=6), Counter(FINISHED=3), Counter(FINISHED=4, FAILED=2)])
def test_numbers_are_those_of_the_last_call(status, calls):
    calls(Counter(FINISHED=4, FAILED=2), best=30.0)
    last, _, _ = calls(status, best=33.0)
    assert last["best/mean/psnr"] == 33.0
    assert (last["trials/finished"], last["trials/failed"]) == (status["FINISHED"], status["FAILED"])
    assert len(calls.store.runs) == 1


def test_what_a_call_has_no_more_stays_in_no_run(calls):
    calls(Counter(FINISHED=4), best=30.0, files=["a.png", "scores/m/old.parquet"])
    _, params, _ = calls(Counter(FINISHED=4), "[3]", best=30.0, files=["a.png", "scores/m/old.parquet"])
    assert params == {"search.x": "[3]"}
    _, _, artifacts = calls(Counter(FINISHED=4), "[3]", best=30.0, files=["a.png", "scores/m/new.parquet"])
    assert artifacts == ["a.png", "scores/m/new.parquet"]
    last, _, _ = calls(Counter(FAILED=4), "[3]", files=["a.png", "scores/m/new.parquet"])
    assert "best/mean/psnr" not in last
    assert len(calls.store.runs) == 4


def test_a_new_run_that_was_begun_and_not_written_is_begun_again(calls):
    calls(Counter(FINISHED=4), best=30.0)
    (calls.folder / "record").rename(calls.folder / "record.old")  # a crash, before the first line of the new one
    last, params, _ = calls(Counter(FINISHED=2), "[3]", best=31.0)
    assert (last["best/mean/psnr"], params) == (31.0, {"search.x": "[3]"})
    assert not (calls.folder / "record.old").exists()


def test_a_sweep_without_a_score_has_no_best_and_no_figure_of_an_earlier_call(consortium, tmp_path):
    base = {"name": "tiny", "sites": {name: str(path) for name, path in consortium.items()}}
    base |= {"operator": {"mask": "random", "acceleration": 4}, "reconstructor": "zero_filled"}
    for accelerations, status in (([2, 4], "FINISHED"), ([6, 8], "FAILED")):
        own = planner(base, {"operator.acceleration": {"grid": accelerations}})
        table = TrialTable(tmp_path, "one")
        table.folder.mkdir(parents=True, exist_ok=True)
        for trial in own.trials():
            row = table.add(trial)
            row.status, at = status, trial.params["operator.acceleration"]
            if status == "FINISHED":
                row.metrics = {"mean/psnr": 36.0 - at, "test/mean/psnr": 35.0 - at}
        written = {path.relative_to(tmp_path / "sweeps" / "one").as_posix() for path, _ in _files(own.sweep, table)}
        assert ("best.yaml" in written) == (status == "FINISHED")
        left = {path.relative_to(table.folder).as_posix() for path in table.folder.rglob("*") if path.is_file()}
        assert {one for one in left if one == "best.yaml" or one.startswith("figures")} <= written
