"""A sweep's file: what it needs, what it refuses, and where its experiment is looked for."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from small_sweeps import described

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.overrides import apply_values
from fedrecon.sites.errors import InputError
from fedrecon.tune.search.config import Sweep
from fedrecon.tune.search.space import points, read_space
from fedrecon.tune.sweep.outputs import view

ROOT = Path(__file__).parents[2]

SEARCH = {"operator.acceleration": {"grid": [2, 4]}}
BASE = {"sites": "data", "training": {"rounds": 3}}


def read(*overrides, **changes):
    return Sweep.read(described(SEARCH, experiment=BASE, **changes), overrides)


def refusal(*overrides, **changes):
    with pytest.raises(InputError) as error:
        read(*overrides, **changes)
    return str(error.value)


def test_five_keys_are_enough():
    sweep, base = read()
    assert base == BASE
    assert (sweep.samples, sweep.algorithm, sweep.scheduler, sweep.concurrency) == (1, "random", None, "auto")
    assert (sweep.max_failures, sweep.budget.trials, sweep.budget.hours, sweep.seed) == (2, None, None, 0)
    assert (sweep.metrics, sweep.modes) == (("mean/psnr",), ("max",))


@pytest.mark.parametrize("key", ["name", "experiment", "search", "metric", "mode"])
def test_each_of_the_five_is_needed(key):
    given = {k: v for k, v in described(SEARCH).items() if k != key}
    with pytest.raises(InputError, match=f"'{key}' is missing"):
        Sweep.read(given)


def test_a_sweep_does_not_change():
    with pytest.raises(ValidationError):
        read()[0].samples = 2


@pytest.mark.parametrize(
    ("wrong", "right"), [("serach", "search"), ("sample", "samples"), ("max_failure", "max_failures")]
)
def test_an_unknown_key_is_answered_with_the_nearest_right_one(wrong, right):
    said = refusal(**{wrong: 1})
    assert f"unknown key '{wrong}'" in said
    assert f"Did you mean '{right}'?" in said


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"scheduler": {"name": "asha", "grace_round": 3}}, "Did you mean 'grace_rounds'?"),
        ({"budget": {"trails": 3}}, "Did you mean 'trials'?"),
    ],
)
def test_so_is_one_of_an_inner_block(block, message):
    assert message in refusal(**block)


@pytest.mark.parametrize("metric", ["test/mean/psnr", "test/site/north/psnr", ["mean/psnr", "test/mean/ssim"]])
def test_a_test_metric_never_steers(metric):
    modes = ["max"] * len(metric) if isinstance(metric, list) else "max"
    assert "never steer a sweep" in refusal(metric=metric, mode=modes, algorithm="optuna")


@pytest.mark.parametrize("metric", ["psnr", "mean/psrn", "mean/", "site/psnr", "mean/seconds", "site/a/b/psnr", ""])
def test_an_unknown_metric_is_refused_with_those_that_there_are(metric):
    said = refusal(metric=metric)
    assert f"'{metric}' is no validation metric" in said
    assert "mean/psnr, mean/ssim, mean/nmse, mean/with_data_consistency/psnr" in said


@pytest.mark.parametrize(
    "metric", ["mean/ssim", "mean/loss", "site/north/nmse", "site/north/loss", "mean/with_data_consistency/psnr"]
)
def test_every_validation_metric_may_steer(metric):
    assert read(metric=metric)[0].metrics == (metric,)


def test_there_is_at_least_one_metric():
    assert "at least one metric" in refusal(metric=[], mode=[])


def test_there_is_one_mode_for_each_metric():
    two = {"metric": ["mean/psnr", "mean/loss"], "algorithm": "optuna"}
    assert "2 metrics and 1 modes" in refusal(**two, mode="max")
    sweep, _ = read(**two, mode=["max", "min"])
    assert (sweep.metrics, sweep.modes) == (("mean/psnr", "mean/loss"), ("max", "min"))


def test_several_metrics_are_for_optuna_without_a_scheduler():
    two = {"metric": ["mean/psnr", "mean/loss"], "mode": ["max", "min"]}
    assert all(name in refusal(**two) for name in ("metric", "optuna", "'random'"))
    assert "a scheduler compares one metric" in refusal(**two, algorithm="optuna", scheduler="asha")


def test_a_scheduler_may_be_its_name_alone():
    assert read(scheduler="none")[0].scheduler is read(scheduler=None)[0].scheduler is None
    scheduler = read(scheduler="median")[0].scheduler
    assert (scheduler.name, scheduler.grace_rounds, scheduler.reduction_factor, scheduler.min_trials) == (
        "median", 1, 3, 3,
    )  # fmt: skip
    assert read(scheduler={"name": "asha", "grace_rounds": 3, "reduction_factor": 2})[0].scheduler.reduction_factor == 2
    assert "'asha' or 'median'" in refusal(scheduler="ahsa")


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": 0}, {"max_failures": -1}, {"concurrency": 0}, {"concurrency": "many"}, {"mode": "maximum"},
        {"algorithm": "bayes"}, {"budget": {"hours": 0}}, {"budget": {"trials": 0}},
        {"scheduler": {"name": "asha", "reduction_factor": 1}},
    ],
    ids=lambda changes: ",".join(changes),
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_its_key(changes):
    (key,) = changes
    assert key in refusal(**changes)


@pytest.mark.parametrize("name", ["a/b", "", "..", ".hidden", "two words", "-x", "é"])
def test_a_name_must_name_a_folder(name):
    assert "as it names a folder" in refusal(name=name)


def test_overrides_are_the_sweep_s_own_or_the_experiment_s():
    sweep, base = read(
        "samples=4", "budget.trials=9", "experiment.training.rounds=7", "experiment.strategy.name=fedprox"
    )
    assert (sweep.samples, sweep.budget.trials) == (4, 9)
    assert base == {"sites": "data", "training": {"rounds": 7}, "strategy": {"name": "fedprox"}}
    assert "training" in BASE
    assert BASE["training"] == {"rounds": 3}
    assert "unknown key 'training'" in refusal("training.rounds=7")


def test_an_override_may_name_a_searched_key():
    sweep, _ = read("search.operator.acceleration={grid: [8]}", "search.seed={grid: [0, 1]}")
    assert sweep.search == {"operator.acceleration": {"grid": [8]}, "seed": {"grid": [0, 1]}}


def written(folder, name, content):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(content))
    return folder / name


def test_the_experiment_is_looked_for_here_and_then_beside_the_sweep(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    monkeypatch.chdir(here)
    path = written(there, "sweep.yaml", described(SEARCH))
    written(there, "base.yaml", {"seed": 1})
    assert Sweep.read(path)[1] == {"seed": 1}
    written(here, "base.yaml", {"seed": 2})
    assert Sweep.read(path)[1] == {"seed": 2}
    other = written(tmp_path, "other.yaml", {"seed": 3})
    assert Sweep.read(path, [f"experiment={other}", "experiment.name=x"])[1] == {"seed": 3, "name": "x"}


def test_what_is_no_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such sweep file"):
        Sweep.read("nowhere.yaml")
    path = written(tmp_path, "sweep.yaml", described(SEARCH))
    with pytest.raises(InputError, match=r"base\.yaml: no such experiment file"):
        Sweep.read(path)
    written(tmp_path, "base.yaml", [1, 2])
    with pytest.raises(InputError, match=r"base\.yaml: a mapping of keys is needed, got list"):
        Sweep.read(path)
    path.write_text("name: [")
    with pytest.raises(InputError, match=r"sweep\.yaml: not valid YAML"):
        Sweep.read(path)
    path.write_text("just text")
    with pytest.raises(InputError, match=r"sweep\.yaml: a mapping of keys is needed, got str"):
        Sweep.read(path)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_that_are_there_make_experiments(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep, base = Sweep.read(path)
    found = points(read_space(sweep.search), sweep.samples, sweep.seed, lambda key: None)
    assert found
    for params in found:
        Experiment.read(apply_values(base, params))


def test_the_saved_view_shows_the_keys_that_mlflow_has():
    """Values of whole blocks are logged by their entries."""
    search = {
        "degradation": {"grid": [{"kind": "bicubic", "scale": 2}, {"kind": "kspace-truncation", "scale": 2}]},
        "reconstructor": {"grid": ["network", "bicubic"]},
        "training.loss": {"grid": ["l1", {"l1": 1, "gradient_profile": 0.1}]},
        "training.learning_rate": {"grid": [0.1, 0.2]},
    }
    sweep = Sweep(name="x", experiment={"sites": "data"}, search=search, metric="mean/psnr", mode="max")
    assert [one for one in view(sweep)["selectedColumns"] if one.startswith("params")] == [
        "params.`degradation.kind`",
        "params.`degradation.scale`",
        "params.`reconstructor.name`",
        "params.`training.loss.l1`",
        "params.`training.loss.gradient_profile`",
        "params.`training.loss`",
        "params.`training.learning_rate`",
    ]


@pytest.mark.parametrize("key", ["training.loss", "strategy.name", "strategy"])
def test_a_loss_that_is_searched_is_no_measure(key):
    search = {key: {"grid": ["a", "b"]}}
    with pytest.raises(InputError, match=f"{key} makes another measure of it; choose mean/psnr"):
        Sweep.read(described(search, metric="mean/loss", mode="min", experiment={"sites": "data"}))
    two = {"metric": ["mean/psnr", "site/a/loss"], "mode": ["max", "min"], "algorithm": "optuna"}
    with pytest.raises(InputError, match="makes another measure"):
        Sweep.read(described(search, **two, experiment={"sites": "data"}))
    Sweep.read(described({"training.learning_rate": {"grid": [1, 2]}}, metric="mean/loss", mode="min", experiment={}))
