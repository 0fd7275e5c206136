"""``key.path=value`` on a raw experiment."""

import copy

import pytest

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.overrides import apply_overrides
from fedrecon.platform.config.replaced import read_patched, replaced
from fedrecon.sites.errors import InputError

RAW = {
    "strategy": {"name": "fedprox", "mu": 0.5},
    "network": {"name": "unet", "channels": 16},
    "operator": {"mask": "random", "acceleration": 4, "per_site": {"b": {"acceleration": 2}}},
    "training": {"rounds": 3},
}


def apply(*overrides, raw=RAW):
    return apply_overrides(raw, overrides)


def test_values_are_yaml():
    changed = apply("training.rounds=5", "a.b=[1, x]", "c=null", "d=1e-3", "e=true", "f= x = y", "g=")
    assert changed["training"] == {"rounds": 5}
    assert (changed["a"], changed["c"], changed["e"]) == ({"b": [1, "x"]}, None, True)
    assert changed["f"] == "x = y"
    assert changed["g"] is None


def test_what_was_given_stays():
    before = copy.deepcopy(RAW)
    apply("training.rounds=5", "operator.acceleration=8", "strategy.name=fedavg")
    assert before == RAW


def test_another_name_replaces_its_block():
    assert apply("strategy.name=fedavg")["strategy"] == {"name": "fedavg"}
    assert apply("network.name=unrolled")["network"] == {"name": "unrolled"}
    assert apply("strategy.name=fedprox")["strategy"] == {"name": "fedprox", "mu": 0.5}
    assert apply("reconstructor=tv")["reconstructor"] == {"name": "tv"}
    assert apply("strategy={name: fedprox}")["strategy"] == {"name": "fedprox"}


@pytest.mark.parametrize("order", [1, -1])
def test_a_name_comes_before_its_parameters_whatever_the_order(order):
    changed = apply(*["network.name=unrolled", "network.cascades=3"][::order])
    assert changed["network"] == {"name": "unrolled", "cascades": 3}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("given", "key", "made"),
    [
        (["training={batch_size: 4}", "training.rounds=5"], "training", {"batch_size": 4, "rounds": 5}),
        (
            ["operator.acceleration=8", "operator.per_site.b.acceleration=3"],
            "operator",
            {"mask": "random", "acceleration": 8, "per_site": {"b": {"acceleration": 3}}},
        ),
    ],
)
def test_no_override_undoes_a_narrower_one_whatever_the_order(given, key, made, order):
    assert apply(*given[::order])[key] == made


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["seed=1", "seed=2"], "'seed'"),
        (["training.rounds=3", "training.rounds=3"], "'training.rounds'"),
        (["strategy.name=fedprox", "strategy={name: fedavg}"], "'strategy' and 'strategy.name'"),
    ],
)
def test_a_setting_that_is_given_twice_is_refused(given, named):
    with pytest.raises(InputError, match=f"^{named}: a setting is given twice; give it once"):
        apply(*given)


def test_another_strategy_keeps_the_local_rounds():
    raw = {"strategy": {"name": "fedprox", "mu": 0.5, "personalise": {"rounds": 2}}}
    kept = {"name": "fedavg", "personalise": {"rounds": 2}}
    assert apply("strategy.name=fedavg", raw=raw)["strategy"] == kept
    assert apply("strategy={name: fedavg}", raw=raw)["strategy"] == {"name": "fedavg"}


@pytest.mark.parametrize("given", [None, "seed=7", [("seed", 7)], [7]])
def test_overrides_of_another_type_are_refused(given):
    with pytest.raises(InputError, match=r"key\.path=value"):
        apply_overrides(RAW, given)


def test_a_value_that_is_no_value_is_refused():
    with pytest.raises(InputError, match="no text, number, list or mapping"):
        apply(raw={"search": (one for one in "ab")})


def test_a_parameter_alone_stays_beside_the_others():
    assert apply("strategy.mu=1")["strategy"] == {"name": "fedprox", "mu": 1}
    raw = {"reconstructor": "tv"}
    assert apply("reconstructor.weight=0.1", raw=raw)["reconstructor"] == {"name": "tv", "weight": 0.1}


def test_an_operator_key_goes_to_every_site_too():
    changed = apply("operator.acceleration=8", "operator.noise=2")["operator"]
    assert changed == {
        "mask": "random",
        "acceleration": 8,
        "noise": 2,
        "per_site": {"b": {"acceleration": 8, "noise": 2}},
    }
    one = apply("operator.per_site.b.acceleration=6", "operator.per_site.c.noise=2")["operator"]
    assert one["acceleration"] == 4
    assert one["per_site"] == {"b": {"acceleration": 6}, "c": {"noise": 2}}


def test_another_mask_family_keeps_what_both_know():
    raw = {"operator": {"mask": "gaussian2d", "acceleration": 4, "width": 5, "per_site": {"b": {"width": 3}}}}
    changed = apply("operator.mask=random", raw=raw)["operator"]
    assert changed == {"mask": "random", "acceleration": 4, "per_site": {"b": {"mask": "random"}}}
    both = apply("operator.width=7", "operator.mask=gaussian2d", raw=raw)["operator"]
    assert (both["width"], both["per_site"]["b"]["width"]) == (7, 7)


@pytest.mark.parametrize(
    "raw", [{}, {"operator": None}, {"operator": {"per_site": None}}, {"operator": {"per_site": {"b": None}}}]
)
def test_an_operator_key_where_little_is_said(raw):
    assert apply("operator.acceleration=8", raw=raw)["operator"]["acceleration"] == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.rounds", "is no override: key.path=value"),
        ("=3", "is no override"),
        ("training..rounds=3", "is no override"),
        ("training.rounds.x=3", r"'training.rounds' is a value \(3\) and has no keys"),
        ("training.rounds=[", "not valid YAML"),
    ],
)
def test_what_is_no_override_is_refused(override, message):
    with pytest.raises(InputError, match=message):
        apply(override)


@pytest.mark.parametrize("given", ["random", 3, [1]])
def test_a_block_that_is_none_is_refused_by_name(given):
    with pytest.raises(InputError, match="operator"):
        apply("operator.acceleration=8", raw={"operator": given})
    with pytest.raises(InputError, match="per_site"):
        apply("operator.acceleration=8", raw={"operator": {"per_site": given}})


BASE = {
    "sites": {"a": "a.h5"},
    "strategy": {"name": "fedprox", "mu": 0.5},
    "training": {"rounds": 3, "schedule": "cosine", "local_steps": 4, "loss": "l1"},
}


def test_a_block_that_takes_a_setting_of_the_base_away_says_which():
    (line,) = replaced(BASE, {"training": {"rounds": 60, "local_steps": 4}})
    assert line.startswith("training ")
    assert "schedule='cosine'" in line
    assert "rounds" not in line  # the new block has it
    assert "loss" not in line  # l1 is the default: nothing is lost


@pytest.mark.parametrize(
    "patch",
    [
        {"training.rounds": 60},  # one key
        {"training": {"rounds": 60, "schedule": "cosine", "local_steps": 4}},  # all that the base says
        {"training": {"rounds": 60, "local_steps": 4}, "training.schedule": "cosine"},
        {"strategy": {"name": "fedavg"}},  # another plug-in has other keys
        {"sites": {"b": "b.h5"}},
    ],
)
def test_nothing_is_said_where_nothing_is_lost(patch):
    assert list(replaced(BASE, patch)) == []


def test_the_same_plug_in_without_a_parameter_of_the_base_says_it():
    (line,) = replaced(BASE, {"strategy": {"name": "fedprox"}})
    assert "mu=0.5" in line


def test_a_command_says_it_too(capsys):
    whole = read_patched(BASE, ["training={rounds: 60}"])
    assert whole == Experiment.read(BASE, ["training={rounds: 60}"])
    said = capsys.readouterr().err
    assert "schedule='cosine'" in said
    assert "local_steps=4" in said
    read_patched({"training": {"rounds": 3}}, ["sites={a: a.h5}", "training.rounds=60"])
    assert capsys.readouterr().err == ""
