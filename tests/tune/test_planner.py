"""A sweep planned: what its trials are, which of them share a training, and what is refused before anything starts."""

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from small_sweeps import base, planned, planner
from tiny import UNET, make_volume

from fedrecon.sites.data.shard import write_shard
from fedrecon.sites.errors import InputError
from fedrecon.strategies import STRATEGIES
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.tune.sweep.table import arrow
from fedrecon.tune.trials.planner import RefusedTrialError, Shape, absolute, short_keys, show
from fedrecon.tune.trials.trial_table import TrialRow

RATES = {"operator.acceleration": {"grid": [2, 3, 4]}}


class Prior(FedAvg):
    """Learns images and never sees how they are measured."""

    trains_on_operator: ClassVar[bool] = False


def refusal(experiment, search, **changes):
    with pytest.raises(InputError) as error:
        planned(experiment, search, **changes)
    return str(error.value)


def test_a_searched_block_that_takes_a_setting_of_the_base_away_is_named(consortium):
    given = base(consortium, training={"schedule": "cosine"})
    blocks = [{"rounds": 2, "batch_size": 2}, {"rounds": 2, "batch_size": 2, "schedule": "cosine"}]
    (line,) = planner(given, {"training": {"grid": blocks}}).replaced()
    assert "schedule='cosine'" in line
    assert list(planner(given, RATES).replaced()) == []


def test_trials_by_hand(consortium):
    trials = planned(base(consortium), {**RATES, "seed": {"grid": [0, 1]}})
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4, 5]
    assert [(trial.params["operator.acceleration"], trial.params["seed"]) for trial in trials] == [
        (2, 0), (3, 0), (4, 0), (2, 1), (3, 1), (4, 1),
    ]  # fmt: skip
    last = trials[-1].experiment
    assert (last.operator["acceleration"], last.operator["center_fraction"], last.seed) == (4, 0.1, 1)
    assert len({trial.digest for trial in trials}) == 6
    assert Shape.of(trials) == Shape(trials=6, trainings=6, rounds=12, evaluations=0)


def test_the_digests_are_those_of_the_experiment_run_alone(consortium):
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.consortium.shards import open_sites

    (trial,) = planned(base(consortium), {"seed": {"grid": [7]}})
    alone = Experiment.read(base(consortium, seed=7))
    contents = {name: shard.content_hash for name, shard in open_sites(alone.sites).items()}
    assert (trial.digest, trial.training_digest) == (alone.digest(contents), alone.training_digest(contents))


def test_what_touches_the_evaluation_alone_shares_its_training(consortium):
    search = {
        "evaluation.mask_seed": {"grid": [0, 1, 2]},
        "evaluation.max_slices": {"grid": [1, 2]},
        "training.rounds": {"grid": [2, 5]},
    }
    trials = planned(base(consortium), search)
    assert len({trial.digest for trial in trials}) == 12
    for rounds in (2, 5):
        assert len({t.training for t in trials if t.params["training.rounds"] == rounds}) == 1
    assert Shape.of(trials) == Shape(trials=12, trainings=2, rounds=7, evaluations=10)


def test_a_prior_that_never_sees_the_operator_is_trained_once_for_all(consortium, monkeypatch):
    monkeypatch.setitem(STRATEGIES, "prior", Prior)
    trials = planned(base(consortium), {"strategy.name": {"grid": ["fedavg", "prior"]}, **RATES})
    assert [len({t.training for t in trials if t.params["strategy.name"] == name}) for name in ("fedavg", "prior")] == [
        3, 1,
    ]  # fmt: skip
    assert Shape.of(trials) == Shape(trials=6, trainings=4, rounds=8, evaluations=2)


def test_a_classical_reconstructor_trains_nothing_and_shares_nothing(consortium):
    trials = planned(base(consortium), {"reconstructor": {"grid": ["zero_filled", "network"]}, **RATES})
    assert [trial.training_digest is None for trial in trials] == [True] * 3 + [False] * 3
    assert len({trial.training for trial in trials}) == 6
    assert trials[0].training == trials[0].digest
    assert Shape.of(trials) == Shape(trials=6, trainings=3, rounds=6, evaluations=0)


def test_two_points_may_come_to_one_experiment(consortium):
    trials = planned(base(consortium), {"operator": {"grid": [{"acceleration": 2}, {"acceleration": 2, "noise": 1}]}})
    assert trials[0].digest == trials[1].digest
    assert Shape.of(trials) == Shape(trials=2, trainings=1, rounds=2, evaluations=0)


def test_a_key_of_one_method_alone_is_searched_where_it_is(consortium):
    search = {
        "strategy.name": {"grid": ["fedavg", "fedprox"]},
        "strategy.mu": {"loguniform": [1e-4, 1], "when": {"strategy.name": "fedprox"}},
    }
    trials = planned(base(consortium), search, samples=2)
    assert [trial.experiment.strategy["name"] for trial in trials] == ["fedavg", "fedprox", "fedprox"]
    assert trials[1].experiment.strategy["mu"] == trials[1].params["strategy.mu"]
    said = refusal(base(consortium), {"strategy.name": search["strategy.name"], "strategy.mu": {"grid": [0.1]}})
    assert 'trial 0 ({"strategy.name": "fedavg", "strategy.mu": 0.1})' in said
    assert "unknown key 'mu'" in said
    assert "strategy.mu: {..., when: {strategy.name: NAME}}" in said


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"trainig.rounds": {"grid": [1]}}, "Did you mean 'training'?"),
        ({"training.learning_rat": {"grid": [0.1]}}, "Did you mean 'learning_rate'?"),
        ({"operator.accelaration": {"grid": [4]}}, "Did you mean 'acceleration'?"),
        ({"strategy.name": {"grid": ["fedavg", "fedporx"]}}, "Did you mean 'fedprox'?"),
        ({"operator.mask": {"grid": ["random", "gausian2d"]}}, "Did you mean 'gaussian2d'?"),
        ({"training.learning_rate": {"grid": [0.1, -1]}}, "more than 0"),
        ({"training.rounds": {"uniform": [1, 2]}}, "training.rounds"),
        ({"operator.acceleration": {"grid": [2, 400]}}, "cannot be reached"),
        ({"operator.per_site": {"grid": [{"nroth": {"acceleration": 2}}]}}, "Did you mean 'north'?"),
        ({"seed.x": {"grid": [1]}}, "seed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_experiment_refuses_is_refused_with_the_trial_s_name(consortium, search, message):
    said = refusal(base(consortium, seed=0), search)
    (key,) = search
    assert said.startswith("trial ")
    assert f'"{key}"' in said.split("): ")[0]
    assert message in said
    assert "needs a condition" not in said


def test_a_refusal_has_fields_so_that_nobody_reads_its_text(consortium):
    """The unknown name goes through the validators of pydantic, and the error through a pickle to another process."""
    with pytest.raises(RefusedTrialError) as caught:
        planned(base(consortium), {"strategy.name": {"grid": ["fedavg", "fedporx"]}})
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.number, error.params, error.unknown) == (1, {"strategy.name": "fedporx"}, ("fedporx",))
        assert error.reason.unknown == ("fedporx",)
        assert str(error) == str(caught.value)
    with pytest.raises(RefusedTrialError) as caught:
        planned(base(consortium, strategy={"name": "fedavg"}), {"strategy.mu": {"grid": [0.1]}})
    assert caught.value.unknown == ("mu",)
    with pytest.raises(RefusedTrialError) as caught:
        planned(base(consortium), {"training.learning_rate": {"grid": [-1]}})
    assert caught.value.unknown == ()


def test_a_wrong_base_is_refused_before_its_trials(consortium):
    said = refusal(base(consortium, trainig={"rounds": 1}), RATES)
    assert "Did you mean 'training'?" in said
    assert "trial" not in said.replace("training", "")


@pytest.mark.parametrize(
    ("when", "near"),
    [({"strategy.nmae": "fedprox"}, "strategy.name"), ({"strategy.name": "fedporx"}, "fedprox")],
    ids=["key", "value"],
)
def test_a_condition_that_can_never_hold_is_refused(consortium, when, near):
    search = {
        "strategy.name": {"grid": ["fedavg", "fedprox"]},
        "strategy.mu": {"grid": [0.1, 1.0], "when": when},
    }
    said = refusal(base(consortium), search)
    assert "strategy.mu" in said
    assert near in said


@pytest.mark.slow
def test_each_trial_is_checked_with_what_decides_what_it_needs(consortium, tmp_path):
    """The data of patients may be pooled where that is said, and not in the next trial, where it is not."""
    volumes = [make_volume(split, split, 1, 1, k) for k, split in enumerate(("train", "validation", "test"))]
    write_shard(tmp_path / "a.h5", "a", volumes, simulated=False, phase="measured")
    real = base({"a": tmp_path / "a.h5"}, strategy={"name": "pooled"})
    assert len(planned(real, {"allow_pooling": {"grid": [True]}})) == 1
    assert "allow_pooling" in refusal(real, {"allow_pooling": {"grid": [False]}})
    assert "allow_pooling" in refusal(real, {"allow_pooling": {"grid": [True, False]}})


@pytest.mark.slow
def test_a_trial_that_trains_needs_training_subjects_though_the_one_before_did_not(tmp_path):
    volumes = [make_volume(split, split, 1, 1, k) for k, split in enumerate(("validation", "test"))]
    write_shard(tmp_path / "a.h5", "a", volumes, simulated=True, phase="measured", origin="phantom")
    experiment = base({"a": tmp_path / "a.h5"})
    assert len(planned(experiment, {"reconstructor": {"grid": ["zero_filled"]}})) == 1
    assert "'a'" in refusal(experiment, {"reconstructor": {"grid": ["network"]}})
    assert "'a'" in refusal(experiment, {"reconstructor": {"grid": ["zero_filled", "network"]}})


@pytest.mark.slow
def test_only_trials_of_one_problem_compare(consortium):
    search = {
        **RATES,
        "evaluation.mask_seed": {"grid": [0, 1]},
        "training.learning_rate": {"grid": [0.1, 0.01]},
        "seed": {"grid": [0, 1]},
        "strategy.name": {"grid": ["fedavg", "local"]},
    }
    trials = planned(base(consortium), search)
    problems = {trial.problem for trial in trials}
    assert len(trials) == 48
    assert len(problems) == 6
    first = [trial for trial in trials if trial.problem == trials[0].problem]
    assert {(t.params["operator.acceleration"], t.params["evaluation.mask_seed"]) for t in first} == {(2, 0)}
    assert len(first) == 8


def test_a_sweep_over_mixes_names_them_as_labels_do_and_compares_each_with_its_like(consortium):
    mixes = [3, {"uniform": [2, 3]}, {"choice": [2, 3]}]
    search = {"operator.acceleration": {"grid": mixes}, "training.learning_rate": {"grid": [0.1, 0.01]}}
    trials = planned(base(consortium), search)
    names = [trial.name for trial in trials]
    assert names == [f"R={rate} lr={lr}" for rate in ("3", "2-3", "2/3") for lr in ("0.1", "0.01")]
    assert [one.experiment.operator_at("").acceleration for one in trials[::2]] == [3, 2.5, 2.5]
    assert len({one.digest for one in trials}) == 6
    assert len({one.problem for one in trials}) == 3
    shown = arrow([TrialRow(one) for one in trials], list(search)).column("params.operator.acceleration").to_pylist()
    assert shown == ["3", "3", "2-3", "2-3", "2/3", "2/3"]
    block = {"mask": {"choice": ["random", "radial"]}, "acceleration": {"uniform": [2, 3]}}
    (whole,) = planned(base(consortium), {"operator": {"grid": [block]}})
    assert whole.name == "random/radial R=2-3"
    assert "low must be below high" in refusal(
        base(consortium), {"operator.acceleration": {"grid": [{"uniform": [3, 2]}]}}
    )


def test_names_are_short_where_they_are_plain():
    assert short_keys({"operator.acceleration": 4, "strategy.name": "fedavg", "seed": 1, "reconstructor": "tv"}) == {
        "acceleration": 4, "strategy": "fedavg", "seed": 1, "reconstructor": "tv",
    }  # fmt: skip
    assert short_keys({"operator.noise": 1, "operator.per_site.a.noise": 2, "network.name": "unet"}) == {
        "operator.noise": 1, "operator.per_site.a.noise": 2, "network": "unet",
    }  # fmt: skip
    assert [show(value) for value in (0.000123456, 4, "x", None, True)] == ["0.0001235", "4", "x", "None", "True"]
    assert show({"a": "x/a.h5", "b": "y/b.h5"}) == "a+b"
    assert show({"kind": "bicubic"}) == "kind=bicubic"
    assert show({"name": "edsr", "blocks": 5}) == "name=edsr blocks=5"


def test_a_trial_is_named_by_what_is_searched(consortium):
    search = {"strategy.name": {"grid": ["fedprox"]}, "training.learning_rate": {"grid": [0.00123456]}}
    (trial,) = planned(base(consortium), search)
    assert trial.name == "fedprox lr=0.001235"


def test_grid_takes_grids_only(consortium):
    rate = {"training.learning_rate": {"loguniform": [1e-4, 1e-2]}}
    said = refusal(base(consortium), {**RATES, **rate}, algorithm="grid")
    assert "algorithm: grid allows only grids" in said
    assert "training.learning_rate" in said
    assert "operator.acceleration" not in said
    assert len(planned(base(consortium), RATES, algorithm="grid")) == 3


def test_optuna_has_no_plan_but_every_value_is_tried_first(consortium):
    experiment = base(consortium)
    assert planned(experiment, RATES, algorithm="optuna") == []
    for search in (
        {"training.learning_rate": {"uniform": [-1, 1]}},
        {"training.learning_rate": {"choice": [0.1, 0.2, -1]}},
        {"strategy.name": {"grid": ["fedavg", "fedprox", "fedporx"]}},
    ):
        (key,) = search
        assert key in refusal(experiment, search, algorithm="optuna")


def test_optuna_s_conditional_values_are_tried_too(consortium):
    methods = {"strategy.name": {"choice": ["fedavg", "fedprox"]}}
    for values, ok in ([0.1, 1.0], True), ([-1.0, 0.1], False), ([0.1, -1.0], False):
        search = {**methods, "strategy.mu": {"choice": values, "when": {"strategy.name": "fedprox"}}}
        if ok:
            assert planned(experiment := base(consortium), search, algorithm="optuna") == []
        else:
            assert "mu" in refusal(experiment, search, algorithm="optuna")


def test_optuna_s_values_between_the_bounds_are_tried_too(consortium):
    search = {"training.batch_size": {"uniform": [1, 8]}}
    assert "batch_size" in refusal(base(consortium), search, algorithm="optuna")


@pytest.mark.parametrize("metric", ["site/nroth/psnr", "site/nroth/loss"])
def test_a_metric_of_an_unknown_site_is_refused(consortium, metric):
    assert "Did you mean 'north'?" in refusal(base(consortium), RATES, metric=metric)
    assert planned(base(consortium), RATES, metric=metric.replace("nroth", "north"))


def test_slices_are_those_of_all_sites(consortium):
    one = planner(base(consortium), RATES)
    (trial, *_) = one.trials()
    assert [one.slices(trial, split) for split in ("train", "validation", "test")] == [6, 6, 6]


@pytest.mark.parametrize(
    ("strategy", "members"),
    [("fedavg", ["middle", "north", "south"]), ("local", ["middle", "north", "south"]), ("pooled", ["pooled"])],
)
def test_the_roster_is_the_method_s(consortium, strategy, members):
    from fedrecon.tune.engine.packing import roster

    one = planner(base(consortium), {"strategy.name": {"grid": [strategy]}})
    (trial,) = one.trials()
    assert roster(trial.experiment, list(one.shards(trial.experiment))) == members


def test_a_searched_operator_key_goes_to_every_site_of_its_own(consortium):
    own = {"mask": "random", "acceleration": 2, "per_site": {"south": {"noise": 2, "acceleration": 3}}}
    trials = planned(base(consortium, operator=own), {"operator.acceleration": {"grid": [2, 4]}})
    for trial, rate in zip(trials, (2, 4), strict=True):
        rates = {site: trial.experiment.operator_at(site).mask.acceleration for site in consortium}
        assert rates == {"north": rate, "middle": rate, "south": rate}
        assert trial.experiment.operator_at("south").noise == 2
        assert trial.experiment.operator_at("north").noise == 1


def test_one_site_s_own_operator_can_be_searched_alone(consortium):
    trials = planned(base(consortium), {"operator.per_site.south.acceleration": {"grid": [3, 4]}})
    assert [
        [trial.experiment.operator_at(site).mask.acceleration for site in ("north", "middle", "south")]
        for trial in trials
    ] == [[2, 2, 3], [2, 2, 4]]
    assert len({trial.problem for trial in trials}) == 2


def test_trials_decide_themselves_where_their_sites_run_unless_told_otherwise(consortium):
    (trial,) = planned(base(consortium), {"seed": {"grid": [0]}})
    assert trial.experiment.resources.crew == "auto"
    (trial,) = planned(base(consortium, resources={"crew": "actors"}), {"seed": {"grid": [0]}})
    assert trial.experiment.resources.crew == "actors"


def test_a_whole_block_is_named_by_its_family(consortium):
    operator = {"mask": "equispaced_fraction", "acceleration": 3}
    network = {**UNET, "norm": "batch"}
    (trial,) = planned(base(consortium), {"operator": {"grid": [operator]}, "network": {"grid": [network]}})
    assert trial.name == "equispaced_fraction R=3 unet channels=2 pools=1 norm=batch"


def leaving_out(consortium, site, **changes):
    """One trial that trains at the other sites, and its planner."""
    paths = {name: str(path) for name, path in consortium.items() if name != site}
    one = planner(
        base(paths, test={"sites": {site: str(consortium[site])}}, **changes),
        {"seed": {"grid": [0]}},
        metric="mean/ssim",
    )
    return one, one.trials()[0]


def hide(planner, site):
    """As if the shard lay on another node: its labels are known, its file is not here."""
    for shards in planner._shards.values():
        if site in shards:
            shards[site] = replace(shards[site], path=Path(f"nowhere/{site}.h5"))


def test_a_test_asks_for_bundles_where_a_shard_lies_on_another_node(consortium, tmp_path, monkeypatch):
    from fedrecon.tune.engine import tuner

    planner, trial = leaving_out(consortium, "north")
    one = tuner.TrialTuner(planner, SimpleNamespace(workspace=tmp_path), None, None, False, lambda _: {}, False)
    assert one._members(trial) == []
    hide(planner, "north")
    assert one._members(trial) == one._members(trial, now=True) == ["middle", "south", "north"]
    monkeypatch.setattr(tuner, "find_trained_run", lambda *_: "a folder")
    assert one._members(trial) == ["middle", "south", "north"]
    assert one._members(trial, now=True) == ["north"]


def test_one_process_does_not_open_what_lies_on_another_node(consortium):
    planner, trial = leaving_out(consortium, "north", resources={"crew": "in-process"})
    hide(planner, "north")
    planner._checked.clear()
    with pytest.raises(InputError, match=r"in-process.*\bnorth\b.*\bactors\b"):
        planner.trial(0, trial.params)


def test_how_long_it_takes_is_not_guessed_without_a_shard(consortium):
    from fedrecon.tune.trials.estimate import seconds

    one = planner(base({"north": consortium["north"]}), {"seed": {"grid": [0]}})
    trials = one.trials()
    hide(one, "north")
    assert seconds(one, trials, 1) is None


def test_paths_of_a_test_hold_from_any_working_directory_too():
    moved = absolute({"sites": "shards", "test": {"sites": {"a": "a.h5"}, "unseen": None}})
    assert moved["sites"] == str(Path("shards").absolute())
    assert moved["test"] == {"sites": {"a": str(Path("a.h5").absolute())}, "unseen": None}
    assert absolute({"sites": "shards", "test": {"sites": None}})["test"] == {"sites": None}
