"""A committed round: what the tracker gets, and that the checkpoint comes last."""

import io
import math

import numpy as np
import pytest
from memory_store import MemoryStore

from fedrecon.platform.federation.aggregate import diverged, exact_note, flat_metrics, summarise
from fedrecon.platform.federation.mlflow_metrics import mlflow_metrics
from fedrecon.platform.federation.progress import Progress
from fedrecon.platform.federation.recorder import Recorder, Round, ValidationResult, loss_metrics
from fedrecon.platform.storage.checkpoint import Checkpoints
from fedrecon.platform.storage.journal import RunRecord
from fedrecon.sites.errors import RunError
from fedrecon.sites.wire import State
from fedrecon.strategies import STRATEGIES

LOSSES = {"a": {"loss": 0.25, "prior": 2.0}, "b": {"loss": 0.75}}


def finished(number=1):
    return Round(number, ("a", "b"), 1, 2.5, 80, 60, LOSSES)


def scores():
    """Two sites; a has two volumes of one slice, b one of two; per pixel errors chosen for round numbers."""
    rows = []
    for site, volume, error, slices in (("a", "v", 1.0, 1), ("a", "w", 100.0, 1), ("b", "x", 10.0, 2)):
        for index in range(slices):
            for stage, factor in (("output", 1.0), ("data_consistency", 0.1), ("zero_filled", 10.0)):
                rows.append(
                    {
                        "site": site,
                        "split": "validation",
                        "subject": volume,
                        "volume": volume,
                        "slice": index,
                        "stage": stage,
                        "volume_maximum": 10.0,
                        "mask": "random",
                        "acceleration": 4.0,
                        "measured_acceleration": 3.9,
                        "model": "global",
                        "squared_error": factor * error,
                        "squared_norm": 1000.0,
                        "n_pixels": 100,
                        "ssim": 0.5,
                    }
                )
    return {key: tuple(row[key] for row in rows) for key in rows[0]}


@pytest.fixture
def parts(tmp_path):
    store = MemoryStore()
    tracker = store.open(RunRecord("study", "run", "abcdef0123456789"))
    stream = io.StringIO()
    record = Recorder(tracker, Checkpoints(tmp_path), Progress(2, stream=stream), {})
    return record, store, stream


def state(number=1):
    return State(number, np.ones(2, np.float32), {}, {"a": number, "b": number})


def test_volume_scores_by_hand():
    summary = summarise(scores())
    # psnr of a volume: 10 log10(max^2 / mean squared error), 100 / (error / 100)
    assert summary["sites"]["a"]["psnr"] == pytest.approx((40 + 20) / 2)
    assert summary["sites"]["b"]["psnr"] == pytest.approx(30)
    assert summary["mean"]["psnr"] == pytest.approx(30)
    assert summary["sites"]["a"]["nmse"] == pytest.approx((0.001 + 0.1) / 2)
    assert summary["mean"]["nmse"] == pytest.approx((0.0505 + 0.01) / 2)
    assert summary["sites"]["a"]["zero_filled"]["psnr"] == pytest.approx(20)
    assert summary["sites"]["a"]["with_data_consistency"]["psnr"] == pytest.approx(40)
    assert (summary["sites"]["a"]["n_volumes"], summary["sites"]["a"]["n_slices"]) == (2, 2)
    assert (summary["mean"]["n_volumes"], summary["mean"]["n_slices"]) == (3, 4)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"squared_error": math.nan}, "psnr = nan"),
        ({"squared_error": math.inf}, "psnr = -inf"),
        ({"ssim": math.nan}, "ssim = nan"),
        ({"squared_norm": 0.0}, "its reference is 0 everywhere"),
        ({"volume_maximum": math.inf}, "psnr = inf"),
    ],
)
def test_a_score_that_is_not_finite_is_no_result(changed, says):
    given = {**scores(), **{name: (value,) * len(scores()[name]) for name, value in changed.items()}}
    refused = pytest.raises(RunError, match=f"site 'a': volume 'v', stage output.*{says}")
    with refused, np.errstate(all="ignore"):
        summarise(given)


def test_the_psnr_of_an_exact_reconstruction_is_infinite_and_said_so():
    given = scores()
    exact = [
        0.0 if stage == "data_consistency" and site == "b" else error
        for site, stage, error in zip(given["site"], given["stage"], given["squared_error"], strict=True)
    ]
    summary = summarise({**given, "squared_error": exact})
    assert summary["sites"]["b"]["with_data_consistency"]["psnr"] == math.inf
    assert exact_note(summary).endswith("exact reconstruction (no error): b (with_data_consistency)")
    assert exact_note(summarise(given)) == ""


def test_metric_names():
    flat = flat_metrics(summarise(scores()), prefix="test/")
    assert flat["test/site/a/psnr"] == pytest.approx(30)
    assert flat["test/mean/zero_filled/psnr"] == pytest.approx(20)
    assert flat["test/site/b/with_data_consistency/nmse"] == pytest.approx(0.001)
    assert len(flat) == 3 * 3 * 3
    assert flat_metrics({}) == {}


def test_a_round_reaches_the_tracker_the_disk_and_the_person(parts):
    record, store, stream = parts
    record.commit(finished(), state(), ValidationResult(scores(), {"a": b"png"}, {"site/a/kernel_distance": 0.5}))
    run = store.runs[0]
    points = {point.key: point.value for point in run.points}
    assert {point.step for point in run.points} == {1}
    assert points["train/site/a/loss"] == 0.25
    assert "train/site/a/prior" not in points  # rounds.parquet has it
    assert points["validation/site/a/kernel_distance"] == 0.5
    assert points["train/mean/loss"] == 0.5
    assert points["validation/mean/psnr"] == pytest.approx(30)
    assert (points["traffic/bytes_up"], points["traffic/bytes_down"]) == (80, 60)
    assert (points["seconds"], points["restarts"]) == (2.5, 1)
    assert next(iter(points)) == "validation/mean/psnr"  # the metric on which MLflow's page that compares runs opens
    assert run.images == []
    record.picture(1, {"panels": b"png"})
    assert run.images == [("panels", 1, b"png")]
    found, kept = record.checkpoints.latest()
    assert found.round == 1
    assert kept["rounds"] == [finished().row()]
    (point,) = kept["curve"]
    assert (point["round"], point["metrics"]["mean/psnr"], point["metrics"]["mean/loss"]) == (1, 30.0, 0.5)
    assert not any(key.startswith(("bytes", "seconds")) for key in point["metrics"])
    assert stream.getvalue().startswith("round 1/2  loss 0.5000  validation PSNR 30.00 dB (a 30.00, b 30.00)")


def test_a_round_without_scores(parts):
    record, store, stream = parts
    record.commit(finished(), state(), ValidationResult())
    assert not any("psnr" in point.key for point in store.runs[0].points)
    assert "PSNR" not in stream.getvalue()


def test_the_commit_is_the_last_write(parts, monkeypatch):
    """What fails before it leaves no committed round; the flush is before it, the person hears after it."""
    record, _, stream = parts
    order = []
    monkeypatch.setattr(record.tracker, "flush", lambda: order.append("flush"))
    save = record.checkpoints.save
    monkeypatch.setattr(record.checkpoints, "save", lambda *given: order.append("save") or save(*given))
    monkeypatch.setattr(record.progress, "round", lambda *given: order.append("told"))
    record.commit(finished(), state(), ValidationResult())
    assert order == ["flush", "save", "told"]

    def fails():
        raise OSError("the server is away")

    monkeypatch.setattr(record.tracker, "flush", fails)
    with pytest.raises(OSError, match="away"):
        record.commit(finished(2), state(2), ValidationResult())
    assert record.checkpoints.latest()[0].round == 1
    assert stream.getvalue() == ""


def test_mlflow_shows_at_most_40_metrics_of_four_sites_and_names_their_split():
    one = {"psnr": 30.0, "ssim": 0.9, "nmse": 0.1}
    whole = {**one, "zero_filled": one, "with_data_consistency": one}
    summary = {"sites": dict.fromkeys(("a", "b", "c", "d"), whole), "mean": whole}
    losses = loss_metrics({site: {"loss": 1.0, "prior": 2.0} for site in "abcd"})
    traffic = [f"traffic/{part}bytes_{way}" for part in ("", "extra_") for way in ("up", "down")]
    machines = [
        f"system/{site}/{one}" for site in "abcd" for one in ("cpu_utilization_percentage", "memory_usage_megabytes")
    ]
    others = dict.fromkeys(["seconds", "restarts", "test/seconds_per_slice", *traffic, *machines], 1.0)
    shown = mlflow_metrics({**flat_metrics(summary), **losses, **flat_metrics(summary, "test/"), **others})
    assert len(shown) == 38
    assert {"validation/mean/psnr", "test/mean/psnr", "train/mean/loss", "test/site/a/psnr"} <= shown.keys()
    assert not [key for key in shown if key.startswith(("mean/", "site/"))]
    assert not [key for key in shown if "prior" in key]


def losses(*means):
    """Rows of rounds whose two members have these losses in the mean."""
    return [
        {"round": k, "losses": {"a": {"loss": mean - 0.1}, "b": {"loss": mean + 0.1}}}
        for k, mean in enumerate(means, 1)
    ]


def test_a_training_whose_loss_rises_again_far_above_its_lowest_diverged():
    """Twenty rounds, so means over two: 0.3 in the rounds 9 and 10, 0.9 in the last two."""
    falling = [2.0 - 0.2 * k for k in range(8)] + [0.3, 0.3]
    said = diverged(losses(*falling, *[0.9] * 10))
    assert "mean loss of the last 2 rounds is 0.9, and it was 0.3 from round 9" in said
    assert not diverged(losses(*falling, *[0.5] * 10))  # less than twice the lowest
    assert not diverged(losses(*falling))
    assert not diverged(losses(0.3, *[0.9] * 8))  # nine rounds
    assert not diverged([{"round": k, "losses": {}} for k in range(20)])


def test_an_adversarial_loss_may_rise():
    assert [name for name, one in STRATEGIES.items() if not one.loss_falls] == ["fedgimp"]
