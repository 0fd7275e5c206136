"""Gains are between twins alone: methods of the same network and settings, of which only the strategy differs."""

from pathlib import Path

import pytest
from small_studies import found, score
from tiny import UNET

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.overrides import apply_values
from fedrecon.tune.study.analysis.analyse import analyse
from fedrecon.tune.study.analysis.grid import TestOperator
from fedrecon.tune.study.analysis.inputs import Method
from fedrecon.tune.study.config import Study
from fedrecon.tune.study.matrix import Matrix
from fedrecon.tune.study.report.sentences import in_short
from fedrecon.tune.study.report.tables import all_tables
from fedrecon.tune.study.twins import twin_digest
from fedrecon.tune.trials.planner import Planner

R4 = TestOperator("random", 4.0, "random R=4")


@pytest.fixture(scope="module")
def paths(consortium):
    return {site: str(path) for site, path in consortium.items()}


def rows(method, values, **changes):
    return [
        score(method, value, f"s{i}", **{"seed": seed, **changes})
        for seed in (0, 1, 2)
        for i, value in enumerate(values)
    ]


@pytest.mark.slow
def test_gains_are_over_twins_alone_and_the_report_says_who_has_none():
    """By hand: a is 1 dB over its local twin and 2 below its pooled one, b is 3 and 1 dB over its own twins.

    c has the network of a with another loss, and d one that no control has: neither has a gain.
    """
    psnr = {"local": 20, "pooled": 23, "a": 21, "local-b": 26, "pooled-b": 28, "b": 29, "c": 30, "d": 31}
    like = {"local-b": "unrolled", "pooled-b": "unrolled", "b": "unrolled", "c": "unet, l2", "d": "style"}
    values = [row for name, by in psnr.items() for row in rows(name, [float(by)] * 2)]
    methods = [
        Method(
            name, "", True, name.startswith("pooled"), False, False,
            alone=name.startswith("local"), network=like.get(name, "unet").partition(",")[0], like=like.get(name, ""),
        )
        for name in psnr
    ]  # fmt: skip
    findings = found(values, methods=methods, references=["local"])
    statistics = analyse(findings)
    gains = {(one.over, one.method): (one.alone, one.mean[R4].mean) for one in statistics.payoffs}
    assert gains == {
        ("local", "pooled"): ("local", 3.0),
        ("local", "a"): ("local", 1.0),
        ("local", "pooled-b"): ("local-b", 2.0),
        ("local", "b"): ("local-b", 3.0),
        ("pooled", "a"): ("pooled", -2.0),
        ("pooled", "b"): ("pooled-b", 1.0),
    }
    assert {len(statistics.over("local")), len(statistics.over("pooled"))} == {4, 2}
    lines = [line for own in in_short(findings, statistics).values() for line in own if line.startswith("No gain")]
    assert [[kind in line and "c, d:" in line for line in lines] for kind in ("local", "pooled")] == [
        [True, False],
        [False, True],
    ]
    assert [table.name for table in all_tables(findings, statistics) if table.name.startswith("federation")] == [
        "federation",
        "federation-pooled",
    ]


@pytest.mark.slow
def test_a_gain_is_over_the_local_network_of_as_many_slices():
    """By hand: with 4 slices a site 23 - 20, with 12 slices 25 - 24. Local training ran at all sites alone."""
    values = []
    for limit, federated, local in ((4, 23.0, 20.0), (12, 25.0, 24.0)):
        words = f"({limit} slices a site)"
        away = {"trained_on": f"A and B {words}", "seen_site": False, "slices_per_site": float(limit)}
        values += rows("fedavg", [federated] * 2, tested_on="C", **away)
        values += rows("local", [local] * 2, tested_on="C", trained_on=f"all {words}", n_sites=3)
    methods = [
        Method("fedavg", "", True, False, False, False, network="unet"),
        Method("local", "", True, False, False, True, alone=True, network="unet"),
    ]
    paid = analyse(found(values, methods=methods)).over("local")
    assert {one.group.training.limit: one.mean[R4].mean for one in paid} == {4: 3.0, 12: 1.0}
    # Without the local network of 12 slices there is no gain of 12 slices.
    left = [one for one in values if one.method != "local" or one.sites.limit == 4]
    paid = analyse(found(left, methods=methods)).over("local")
    assert {one.group.training.limit: one.mean[R4].mean for one in paid} == {4: 3.0}


def test_a_twin_without_scores_is_named_apart():
    values = [*rows("local", [20.0] * 2), *rows("a", [21.0] * 2), *rows("b", [22.0] * 2, trained_with="random R=8")]
    findings = found(values)
    statistics = analyse(findings)
    assert [one.method for one in statistics.payoffs] == ["a"]
    (line,) = [line for own in in_short(findings, statistics).values() for line in own if line.startswith("No gain")]
    assert " b:" in line
    assert "no scores" in line


def test_unlike_networks_are_marked_beside_each_other():
    """Of two pairs of twins and a method without training: each table of tests, and the table of the best method."""
    like = {"tv": "", "a": "unet", "b": "unet", "c": "unrolled", "d": "unrolled"}
    values = [row for at, name in enumerate(like) for row in rows(name, [20.0 + at] * 2)]
    methods = [Method(name, "", bool(net), False, False, False, network=net, like=net) for name, net in like.items()]
    findings = found(values, methods=methods, references=["a", "tv"])
    tables = {one.name: one for one in all_tables(findings, analyse(findings))}
    for name in ("tests-1", "tests-ssim-1"):
        pairs = {(row.values[0].text, row.values[1].key): row.values[1].text for row in tables[name].rows}
        marked = {pair for pair, text in pairs.items() if "§" in text}
        assert marked == {("c", "a"), ("d", "a")}
        assert pairs["b", "a"] == "a"
        assert "§" in tables[name].note
    assert "all others§" in {value.text for row in tables["which"].rows for value in row.values}
    twins = [one for one in methods if one.network == "unet"]
    same = found([row for row in values if row.method in ("a", "b")], methods=twins, references=["a"])
    assert not any("§" in value.text for one in all_tables(same, analyse(same)) for r in one.rows for value in r.values)


STUDIES = sorted(Path(__file__).parents[3].glob("studies/*.yaml"))
ABLATED = ("profile-0.002", "profile-0.01", "magnitude")
"""Variants of a loss, which are compared with each other."""


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_network_of_a_ready_study_has_its_local_and_its_pooled_twin(path, monkeypatch):
    """But a prior, which trains on no operator, and the variants of a loss in an ablation."""
    monkeypatch.chdir(path.parents[1])
    study, base = Study.read(path)
    every = {name: Experiment.read(apply_values(base, patch)) for name, patch in study.methods.items()}
    trained = {name: one for name, one in every.items() if one.trains and one.method.trains_on_operator}
    twins: dict[str, set[str]] = {"local": set(), "pooled": set()}
    for one in trained.values():
        twins.get(one.strategy["name"], set()).add(twin_digest(one, [""], study.searched))
    federated = [name for name, one in trained.items() if one.strategy["name"] not in twins and name not in ABLATED]
    assert federated or study.train.sites == "each"
    for name in federated:
        for kind, own in twins.items():
            assert twin_digest(trained[name], [""], study.searched) in own, f"{name} has no {kind} twin"


def test_twins_differ_in_nothing_but_the_strategy(paths):
    base = {"sites": paths, "operator": {"mask": "random", "acceleration": 3}, "training": {"rounds": 1}}
    one = {**base, "strategy": {"name": "fedprox", "mu": 0.1}, "network": UNET}

    def digest(**changes):
        return twin_digest(Experiment.read({**one, **changes}), paths)

    assert digest() == digest(strategy={"name": "local"}) == digest(strategy={"name": "pooled"}, allow_pooling=True)
    others = [
        {"network": {**UNET, "channels": 3}},
        {"training": {"rounds": 2}},
        {"training": {"rounds": 1, "loss": "mse"}},
        {"operator": {"mask": "random", "acceleration": 3, "per_site": {"north": {"acceleration": 2}}}},
    ]
    assert len({digest(), *(digest(**other) for other in others)}) == 1 + len(others)
    assert twin_digest(Experiment.read({**base, "reconstructor": "zero_filled"}), paths) == ""


def test_a_network_that_averages_over_turns_is_no_twin_of_one_that_does_not(paths):
    base = {"sites": paths, "task": "super-resolution", "network": {"name": "srcnn"}}
    base |= {"degradation": {"kind": "kspace-truncation", "scale": 2}}
    turned, plain, local = (
        twin_digest(Experiment.read({**base, **one}), paths)
        for one in ({"evaluation": {"self_ensemble": True}}, {}, {"strategy": {"name": "local"}})
    )
    assert plain == local != turned


def test_twins_differ_in_a_searched_key_alone(paths):
    def like(searched, **training):
        one = {"sites": paths, "network": UNET, "training": {"rounds": 2, **training}}
        return twin_digest(Experiment.read(one), paths, searched)

    rate = ["training.learning_rate"]
    assert like([]) != like([], learning_rate=0.1)
    assert like(rate) == like(rate, learning_rate=0.1)
    assert like(rate) != like(rate, schedule="cosine")
    assert like([*rate, "training.schedule"]) == like([*rate, "training.schedule"], schedule="cosine")
    assert like(rate) != like(rate, rounds=3)


def test_a_personalised_method_has_gains_and_is_no_control(paths):
    """After local rounds of all parts each site has its own network, as under local training."""
    methods = {
        "local": {"strategy.name": "local"},
        "tuned": {"strategy": {"name": "fedavg", "personalise": {"rounds": 1, "parts": "all"}}},
    }
    base = {"sites": paths, "network": UNET, "training": {"rounds": 2}}
    study, experiment = Study.read({"name": "s", "experiment": base, "methods": methods})
    found = {one.name: one for one in Matrix(study, experiment, Planner(study, experiment)).plan().methods}
    assert {name: (one.personal, one.alone) for name, one in found.items()} == {
        "local": (True, True),
        "tuned": (True, False),
    }
    assert found["tuned"].is_twin(found["local"])
