"""The matrix of a study, counted by hand: trainings once, tests apart, and each cell filled by the right trial."""

import shutil
from collections import Counter

import pytest
from tiny import NETWORKS, PARAMETERS, UNET, make_volume

from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.data.shard import write_shard
from fedrecon.sites.errors import InputError
from fedrecon.tune.study import panels
from fedrecon.tune.study.analysis.inputs import UNTRAINED
from fedrecon.tune.study.campaign import StudyCampaign
from fedrecon.tune.study.config import Study, expanded

SITES = ("middle", "north", "south")
UNET_METHOD = {"strategy.name": "fedavg", "network": UNET}


@pytest.fixture(scope="module")
def paths(consortium):
    return {site: str(path) for site, path in consortium.items()}


def planned_campaign(paths, tmp_path, **changes):
    given = {
        "name": "one",
        "experiment": {
            "sites": paths,
            "operator": {"mask": "random", "acceleration": 3},
            "training": {"rounds": 1},
            **changes.pop("experiment", {}),
        },
        "methods": {"unet": UNET_METHOD},
        **changes,
    }
    return StudyCampaign(*Study.read(given), tmp_path, None, None, rerun=False)


def planned(paths, tmp_path, **changes):
    return planned_campaign(paths, tmp_path, **changes).matrix


def elsewhere(matrix):
    return [trial for trial in matrix.trials if trial.experiment.test is not None]


def trainings(matrix):
    return {trial.training_digest for trial in matrix.trials if trial.training_digest}


def test_a_method_that_takes_a_setting_of_the_base_away_is_named(paths, tmp_path, capsys):
    methods = {"unet": UNET_METHOD, "long": {**UNET_METHOD, "training": {"rounds": 2}}}
    experiment = {"training": {"rounds": 1, "schedule": "cosine"}}
    campaign = planned_campaign(paths, tmp_path, methods=methods, experiment=experiment)
    (line,) = campaign.replaced()
    assert line.startswith("methods.long: training ")
    assert "schedule='cosine'" in line
    campaign.go(dry_run=True)
    assert line in capsys.readouterr().err


def test_by_default_everything_is_trained_and_tested_under_the_experiment_s_own_operator(paths, tmp_path):
    matrix = planned(paths, tmp_path)
    assert [len(matrix.trials), len(trainings(matrix)), len(elsewhere(matrix))] == [1, 1, 0]
    assert [(cell.tested_on, cell.seen_site, cell.seen_operator) for cell in matrix.cells] == [
        (site, True, True) for site in SITES
    ]


@pytest.mark.slow
def test_leave_one_out_trains_each_fold_once_and_tests_the_site_that_was_left_out(paths, tmp_path):
    operators = [{"mask": "random", "acceleration": [3, 2]}]
    matrix = planned(paths, tmp_path, train={"sites": "leave-one-out"}, test={"operators": operators}, seeds=[0, 1])
    assert len(trainings(matrix)) == 3 * 2
    # of each training: the site that was left out at its own R=3, and all sites at R=2
    assert len(elsewhere(matrix)) == 6 * 2
    assert len(matrix.cells) == 3 * 2 * 3 * 2
    for cell in matrix.cells:
        assert cell.seen_site == (cell.trained_on != f"all but {cell.tested_on}")
        assert cell.seen_operator == (cell.acceleration == 3)
        trial = next(one for one in matrix.trials if one.digest == cell.digest)
        assert (trial.experiment.test is None) == (cell.seen_site and cell.seen_operator)
        assert trial.experiment.seed == cell.seed
        assert trial.experiment.tested_at(cell.tested_on).acceleration == cell.acceleration
        assert set(trial.experiment.sites) == set(cell.learned.names)


@pytest.mark.slow
def test_trainings_stand_before_the_tests_that_take_them_over(paths, tmp_path):
    matrix = planned(paths, tmp_path, train={"sites": "each"}, test={"operators": {"acceleration": [2, 3]}})
    kinds = [trial.experiment.test is not None for trial in matrix.trials]
    assert kinds == sorted(kinds)
    assert [trial.number for trial in matrix.trials] == list(range(len(kinds)))
    assert len({trial.digest for trial in matrix.trials}) == len(kinds)


def test_what_trains_nothing_is_one_trial_for_each_operator_whatever_was_trained(paths, tmp_path):
    matrix = planned(
        paths,
        tmp_path,
        methods={"none": {"reconstructor": "zero_filled"}},
        train={"sites": "leave-one-out", "operators": [{"acceleration": [2, 3]}]},
        test={"operators": [{"acceleration": [2, 3, 2.5]}]},
        seeds=[0, 1, 2],
    )
    assert len(matrix.trials) == 3
    assert Counter(cell.acceleration for cell in matrix.cells) == {2: 3, 2.5: 3, 3: 3}
    assert {(cell.trained_on, cell.seed) for cell in matrix.cells} == {(UNTRAINED, None)}
    assert {cell.seen_operator for cell in matrix.cells} == {True}


def test_operators_of_training_and_of_the_test_are_a_matrix(paths, tmp_path):
    both = [{"acceleration": [2, 3]}]
    matrix = planned(paths, tmp_path, train={"operators": both}, test={"operators": both})
    assert len(trainings(matrix)) == 2
    assert len(elsewhere(matrix)) == 2  # each training under the other's operator
    found = {(cell.trained_with, cell.acceleration, cell.seen_operator) for cell in matrix.cells}
    assert found == {
        ("random R=2", 2, True), ("random R=2", 3, False), ("random R=3", 2, False), ("random R=3", 3, True)
    }  # fmt: skip


@pytest.mark.slow
def test_a_mix_trains_once_and_knows_every_operator_that_it_draws(paths, tmp_path):
    mixed = {"mask": {"choice": ["random", "gaussian2d"]}, "acceleration": {"uniform": [2, 3]}}
    train = {"operators": [{"mask": "random", "acceleration": [3, {"choice": [2, 3]}]}, mixed]}
    test = {"operators": [{"mask": ["random", "gaussian2d"], "acceleration": [3, 2.5]}]}
    matrix = planned(paths, tmp_path, train=train, test=test)
    assert len(trainings(matrix)) == 3
    known = {(cell.trained_with, cell.operator) for cell in matrix.cells if cell.seen_operator}
    whole = "random/gaussian2d R=2-3"
    assert known == {
        ("random R=3", "random R=3"), ("random R=2/3", "random R=3"),
        *((whole, f"{mask} R={rate}") for mask in ("random", "gaussian2d") for rate in ("3", "2.5")),
    }  # fmt: skip
    assert len({(cell.trained_with, cell.operator) for cell in matrix.cells}) == 12
    own = planned(paths, tmp_path, train=train)  # each is tested under its own operator: no test apart
    assert len(own.trials) == 3
    assert {(one.mask, one.acceleration) for one in own.cells} == {("random", 3), ("random R=2/3", 2.5), (whole, 2.5)}
    assert all(cell.trained_with == cell.operator and cell.seen_operator for cell in own.cells)


@pytest.mark.slow
def test_a_prior_is_trained_once_for_every_operator(paths, tmp_path):
    prior = {"strategy.name": "fedgimp", "strategy.adaptation": PARAMETERS["fedgimp"]["adaptation"]}
    matrix = planned(
        paths,
        tmp_path,
        methods={"prior": {**prior, "network": NETWORKS["fedgimp"]}},
        train={"operators": [{"acceleration": [2, 3]}]},
        test={"operators": [{"acceleration": [2, 2.5, 3]}]},
    )
    assert len(trainings(matrix)) == 1
    assert {(cell.trained_with, cell.seen_operator) for cell in matrix.cells} == {("", True)}
    assert Counter(cell.acceleration for cell in matrix.cells) == {2: 3, 2.5: 3, 3: 3}


def test_without_test_operators_each_training_is_tested_under_its_own(paths, tmp_path):
    matrix = planned(paths, tmp_path, train={"operators": [{"acceleration": [2, 3]}]})
    assert not elsewhere(matrix)
    assert {(cell.trained_with, cell.acceleration) for cell in matrix.cells} == {
        ("random R=2", 2), ("random R=3", 3)
    }  # fmt: skip


def test_a_method_may_have_seeds_of_its_own(paths, tmp_path):
    methods = {"unet": UNET_METHOD, "wide": {**UNET_METHOD, "network": {**UNET, "channels": 3}}}
    matrix = planned(paths, tmp_path, methods=methods, seeds=[0, 1], seeds_of={"wide": [4]})
    assert {(cell.method, cell.seed) for cell in matrix.cells} == {
        ("unet", 0),
        ("unet", 1),
        ("wide", 4),
    }


def test_an_operator_that_stands_there_twice_is_tested_once(paths, tmp_path):
    twice = [{"acceleration": 3}, {"mask": "random", "acceleration": [3, 3]}]
    matrix = planned(paths, tmp_path, test={"operators": twice})
    assert len(matrix.cells) == 3
    with pytest.raises(InputError, match="two operators have the name random R=3 at noise 1"):
        planned(paths, tmp_path, test={"operators": [{"acceleration": 3}, {"center_fraction": 0.2}]})


def test_trainings_that_differ_in_noise_are_told_apart(paths, tmp_path):
    matrix = planned(paths, tmp_path, train={"operators": [{"noise": [1, 2]}]}, test={"noise": [1.0]})
    assert {(cell.trained_with, cell.seen_operator) for cell in matrix.cells} == {
        ("random R=3", True), ("random R=3 noise 2", False)
    }  # fmt: skip


@pytest.mark.slow
def test_who_agreed_to_publish_is_named_among_those_that_train(paths, tmp_path):
    methods = {"fedbn": {"strategy.name": "fedbn", "network": NETWORKS["fedbn"]}}
    asked = {"methods": methods, "train": {"sites": "leave-one-out"}, "test": {"unseen": "nearest"}}
    matrix = planned(paths, tmp_path, experiment={"publish_private": ["north", "south"]}, **asked)
    found = {tuple(trial.experiment.sites): trial.experiment.publish_private for trial in matrix.trials}
    assert found[("middle", "north")] == ("north",)


@pytest.mark.slow
def test_a_limit_that_leaves_test_subjects_out_is_refused(tmp_path):
    shard = tmp_path / "one.h5"
    splits = [("train", 1), ("validation", 1), ("test", 1), ("test", 1)]
    volumes = [make_volume(f"p{k}", split, n, 1, k) for k, (split, n) in enumerate(splits)]
    write_shard(shard, "one", volumes, simulated=True, phase="smooth", origin="phantom")
    planned({"one": str(shard)}, tmp_path, experiment={"evaluation": {"max_slices": 2}})
    with pytest.raises(InputError, match=r"leave out p3 of the 2 test subjects of site 'one'"):
        planned({"one": str(shard)}, tmp_path, experiment={"evaluation": {"max_slices": 1}})
    uneven = [*volumes[:2], *(make_volume(f"q{k}", "test", n, 1, 9 + k) for k, n in enumerate((12, 2, 2)))]
    write_shard(shard, "one", uneven, simulated=True, phase="smooth", origin="phantom")
    with pytest.raises(InputError, match=r"leave out q1 of the 3 test subjects"):  # slices 0, 8 and 15 of 16
        planned({"one": str(shard)}, tmp_path, experiment={"evaluation": {"max_slices": 3}})


def test_noise_is_a_condition_of_its_own(paths, tmp_path):
    matrix = planned(paths, tmp_path, test={"noise": [1.0, 2.0]})
    assert {(cell.noise, cell.seen_operator) for cell in matrix.cells} == {(1.0, True), (2.0, False)}
    assert [trial.experiment.test.operator["noise"] for trial in elsewhere(matrix)] == [2.0]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("trained", {"north"}), ("untrained", {"middle", "south"}), (["south"], {"south"}), ("all", set(SITES))],
)
def test_where_it_is_tested(asked, expected, paths, tmp_path):
    matrix = planned(paths, tmp_path, train={"sites": [["north"]]}, test={"sites": asked})
    assert {cell.tested_on for cell in matrix.cells} == expected


def test_sites_in_words(paths, tmp_path):
    matrix = planned(paths, tmp_path, train={"sites": ["all", ["south", "north"], ["south"]]})
    assert list(dict.fromkeys(cell.trained_on for cell in matrix.cells)) == ["all", "north and south", "south"]


def test_training_slices_are_a_dimension(paths, tmp_path):
    matrix = planned(paths, tmp_path, train={"slices": [1, None]})
    found = {(cell.trained_on, cell.slices_per_site) for cell in matrix.cells}
    assert found == {("all (1 slices a site)", 1.0), ("all (all slices a site)", 2.0)}  # 3, 1 and 2 slices
    assert {trial.experiment.training.max_slices for trial in matrix.trials} == {1, None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "unet", "pooled"),
    [({}, "2 to 6", "12"), ({"slices": [1, None]}, "2 to 6", "6 to 12"), ({"slices": [1]}, "2", "6"),
     ({"sites": "leave-one-out"}, "2 to 6", "6 to 10"), ({"sites": [["middle", "south"]]}, "2 to 4", "6")],
)  # fmt: skip
def test_updates_and_passes_are_those_of_the_planned_trainings(train, unet, pooled, paths, tmp_path):
    """By hand: 2 rounds of one pass in batches of one, at sites of 3 (north), 1 and 2 slices."""
    matrix = planned(
        paths,
        tmp_path,
        experiment={"training": {"rounds": 2, "batch_size": 1}},
        methods={"unet": UNET_METHOD, "pooled": {"strategy.name": "pooled", "network": UNET}},
        train=train,
        seeds=[0, 1],
    )
    n_trials = len(matrix.trials)
    found = {one.name: (one.updates, one.passes) for one in matrix.methods}
    assert found == {"unet": (unet, "2"), "pooled": (pooled, "2")}
    assert len(matrix.trials) == n_trials


@pytest.mark.slow
def test_a_site_that_measures_in_its_own_way_does_so_where_it_did_not_train(paths, tmp_path):
    operator = {"mask": "random", "acceleration": 3, "per_site": {"south": {"acceleration": 2}}}
    matrix = planned(paths, tmp_path, experiment={"operator": operator}, train={"sites": "leave-one-out"})
    assert {cell.tested_on: cell.acceleration for cell in matrix.cells} == {"middle": 3, "north": 3, "south": 2}
    assert all(cell.seen_operator for cell in matrix.cells)
    without = next(trial for trial in matrix.trials if "south" not in trial.experiment.sites)
    assert not without.experiment.operator.get("per_site")


@pytest.mark.slow
def test_named_limits_and_marks(paths, tmp_path):
    matrix = planned(
        paths,
        tmp_path,
        experiment={"training": {"rounds": 1, "max_slices": {"south": 1}}, "publish_private": "all"},
        methods={
            "pooled": {"strategy.name": "pooled", "network": UNET},
            "local": {"strategy.name": "local", "network": UNET},
            "fedbn": {"strategy.name": "fedbn", "network": NETWORKS["fedbn"]},
            "unet": UNET_METHOD,
        },
        train={"sites": "leave-one-out"},
        test={"unseen": "average"},
    )
    marks = {one.name: (one.moved_data, one.published_private, one.personal) for one in matrix.methods}
    assert marks == {
        "pooled": (True, False, False),
        "local": (False, True, True),
        "fedbn": (False, True, True),
        "unet": (False, False, False),
    }
    rules = {trial.name.split(" ")[0]: trial.experiment.test.unseen for trial in elsewhere(matrix)}
    assert rules == {"pooled": None, "local": None, "fedbn": "average", "unet": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"tv": {"reconstructor": "tvv"}}}, "methods.tv: .*unknown reconstructor 'tvv'. Did you mean 'tv'"),
        ({"methods": {"x": {"strategy.name": "fedavgg"}}}, "methods.x: .*Did you mean 'fedavg'"),
        ({"methods": {"up": {"reconstructor": "bicubic"}}}, "methods.up: .*task=super-resolution"),
        ({"methods": {"x": {"operator.acceleration": 2}}}, "a method cannot set 'operator.acceleration'"),
        ({"methods": {"a/b": {}}}, "letters, digits"),
        ({"methods": {}}, "1 or more values"),
        ({"train": {"sites": [["nord"]]}}, "unknown site in the study 'nord'. Did you mean 'north'"),
        ({"train": {"sites": "leave-one"}}, "train.sites"),
        ({"train": {"operators": [{"mask": "randm"}]}}, "Did you mean 'random'"),
        ({"test": {"operators": [{"acceleration": 60}]}}, "methods.unet: site 'middle'"),
        ({"test": {"sites": "untrained"}}, "nothing is tested"),
        ({"test": {"noise": [0.5]}}, "at least 1"),
        ({"references": ["unett"]}, "Did you mean 'unet'"),
        (
            {"train": {"operators": [{"center_fraction": [0.1, 0.2]}]}},
            "train.operators: two operators have the name random R=3",
        ),
        ({"experiment": {"test": {"operator": {"noise": 3}}}}, "experiment.test: not allowed in a study"),
        ({"experiment": {"evaluation": {"max_slices": {"test": 0}}}}, "max_slices"),
        ({"methods": {"x": {"evaluation.mask_seed": 2}}}, "a method cannot set 'evaluation.mask_seed'"),
        ({"concurrency": 0}, "concurrency"),
        ({"seeds": [1, 1]}, "twice"),
        ({"seeds_of": {"unett": [0]}}, "Did you mean 'unet'"),
        ({"seeds_of": {"unet": []}}, "at least one seed"),
        ({"traim": {}}, "Did you mean 'train'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(changes, message, paths, tmp_path):
    with pytest.raises(InputError, match=message):
        _ = planned(paths, tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_a_private_part_that_would_come_from_nowhere_is_refused(paths, tmp_path):
    methods = {"fedbn": {"strategy.name": "fedbn", "network": NETWORKS["fedbn"]}}
    with pytest.raises(InputError, match=r"methods\.fedbn: site 'middle' does not train"):
        planned(paths, tmp_path, methods=methods, train={"sites": "leave-one-out"})


def test_a_test_subject_that_trained_anything_is_refused(paths, tmp_path):
    other = tmp_path / "other.h5"
    splits = [make_volume(f"o-{split}", split, 1, 1, 5 + k) for k, split in enumerate(("train", "validation"))]
    write_shard(
        other, "other", [*splits, make_volume("north-train", "test", 1, 1, 0)],
        simulated=True, phase="smooth", origin="phantom",
    )  # fmt: skip
    with pytest.raises(InputError, match="north-train"):
        planned({**paths, "other": str(other)}, tmp_path, train={"sites": "leave-one-out"})


def test_values_in_lists_stand_for_each_of_them():
    assert list(expanded([{"mask": "random", "acceleration": [2, 4]}, {"mask": ["a", "b"], "noise": [1, 2]}])) == [
        {"mask": "random", "acceleration": 2},
        {"mask": "random", "acceleration": 4},
        {"mask": "a", "noise": 1},
        {"mask": "a", "noise": 2},
        {"mask": "b", "noise": 1},
        {"mask": "b", "noise": 2},
    ]


@pytest.mark.slow
def test_the_plan_does_not_know_where_the_files_lie(paths, tmp_path):
    moved = {}
    for site, path in paths.items():
        moved[site] = str(tmp_path / f"{site}-moved.h5")
        shutil.copy(path, moved[site])
    asked = {"train": {"sites": "leave-one-out"}, "test": {"operators": [{"acceleration": [2, 3]}]}}
    here, there = planned(paths, tmp_path, **asked), planned(moved, tmp_path, **asked)
    assert [trial.digest for trial in here.trials] == [trial.digest for trial in there.trials]


@pytest.mark.slow
def test_a_picture_is_drawn_once_for_each_run_of_a_trial(paths, tmp_path, monkeypatch):
    """A rerun has the same digest and another network: the picture of the first run is not its own."""
    campaign = planned_campaign(paths, tmp_path)
    cell = campaign.matrix.cells[0]
    drawn = iter([b"first", b"second"])
    monkeypatch.setattr(panels, "_shown", lambda campaign, cell: cell)
    monkeypatch.setattr("fedrecon.platform.inference.comparison.side_by_side", lambda *given: next(drawn))
    folder = RunFolder(campaign.workspace, cell.digest)
    folder.path.mkdir(parents=True)

    def picture():
        return panels._drawn(campaign, cell.tested_on, {"unet": cell})

    folder.save_result({"run_id": "1"})
    assert (picture(), picture()) == (b"first", b"first")
    folder.save_result({"run_id": "2"})
    assert (picture(), picture()) == (b"second", b"second")
