"""Operators that each slice draws for itself: what is drawn, from which seeds, and the laws of training under them."""

import itertools
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import Federation, bits

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.overrides import apply_overrides
from fedrecon.platform.consortium.code import source_code
from fedrecon.platform.execution.executor import InProcessExecutor
from fedrecon.sites.acquisition.mix import Mix
from fedrecon.sites.acquisition.undersampling import Mixed, Undersampling
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.sites.seeding import seed
from fedrecon.sites.training.batches import Slices
from fedrecon.strategies import make_strategy

CPU = torch.device("cpu")
BOTH = {"mask": {"choice": ["random", "gaussian2d"]}, "acceleration": {"uniform": [2, 4]}, "center_fraction": 0.1}
CONTENTS = {"a": "content-a", "b": "content-b"}


def slices(path, operator, split="train", site="north"):
    return Slices({site: Shard.open(path)}, {site: operator}, split, CPU)


def experiment(operator, **changes):
    return Experiment.read({"sites": "s", "operator": operator, **changes})


def same(one, other):
    return all(torch.equal(getattr(one, key), getattr(other, key)) for key in ("kspace", "zero_filled")) and all(
        torch.equal(getattr(one.operator, key), getattr(other.operator, key)) for key in ("mask", "maps")
    )


@pytest.mark.slow
@pytest.mark.parametrize("site", ["north", "middle"])
def test_a_slice_is_measured_as_under_the_fixed_operator_that_it_drew(consortium, site):
    """Mask, k-space, coil maps and image are those of a fixed operator, bit for bit, in training and in scoring."""
    families = ["random", "gaussian2d", "radial"]
    mixed = Undersampling.read({**BOTH, "mask": {"choice": families}})
    one, drawn = slices(consortium[site], mixed, site=site), set()
    item = one.items[0]
    for epoch in range(8):
        batch = one.training([item], 0, epoch, True)
        rate = mixed.drawn(seed(0, "mask", site, *item.seeds, epoch)).acceleration
        blocks = [{"mask": name, "acceleration": rate, "center_fraction": 0.1} for name in families]
        alone = [slices(consortium[site], Undersampling.read(block), site=site) for block in blocks]
        (family,) = (at for at, own in enumerate(alone) if same(batch, own.training([item], 0, epoch, True)))
        drawn.add((family, rate))
    assert len({family for family, _ in drawn}) == 3
    assert len({rate for _, rate in drawn}) == 8
    scored = slices(consortium[site], mixed, "test", site)
    for item, own in zip(scored.items, scored.scored_with(scored.items, 3), strict=True):
        assert same(scored.scoring([item], 3), slices(consortium[site], own, "test", site).scoring([item], 3))


@pytest.mark.slow
def test_each_epoch_and_slice_draws_anew_and_a_fixed_mask_does_not(consortium):
    def masks(operator, seed_=0, epochs=(0, 1, 2)):
        one = slices(consortium["north"], Undersampling.read(operator))
        return [
            one.training([i], seed_, e, False).operator.mask.numpy().tobytes() for i in one.items[:2] for e in epochs
        ]

    fresh = masks(BOTH)
    assert len(set(fresh)) == 6
    assert fresh == masks(BOTH)
    assert not set(fresh) & set(masks(BOTH, seed_=1))
    kept = masks({**BOTH, "fixed_mask": True})
    assert len(set(kept[:3])) == len(set(kept[3:])) == 1
    assert kept[0] != kept[3]


def test_scores_draw_from_mask_seed_subject_and_slice_alone(consortium, tmp_path):
    operator = Undersampling.read(BOTH)
    shard = Shard.open(consortium["north"])
    write_shard(tmp_path / "x.h5", "x", [shard.data(v.name) for v in shard.volumes], simulated=True, phase="smooth")
    here = slices(consortium["north"], operator, "validation")
    there = slices(tmp_path / "x.h5", operator, "validation", "other")
    labels = [[s.label() for s in one.scored_with(one.items, 0)] for one in (here, there)]
    assert labels[0] == labels[1]
    assert labels[0] != [s.label() for s in here.scored_with(here.items, 1)]
    assert same(here.scoring(here.items[:1], 0), there.scoring(there.items[:1], 0))
    together = here.scoring(list(here.items), 0)
    assert torch.equal(together.operator.mask[1], here.scoring([here.items[1]], 0).operator.mask[0])


@pytest.mark.slow
def test_what_is_drawn_has_the_distribution_that_was_asked_for():
    drawn = [Undersampling.read(BOTH).drawn(n) for n in range(400)]
    rates = np.array([one.acceleration for one in drawn])
    assert 2 <= rates.min() < 2.05
    assert 3.95 < rates.max() <= 4
    assert rates.mean() == pytest.approx(3, abs=4 * (2 / 12**0.5) / 400**0.5)
    for found in (
        Counter(one.family for one in drawn),
        Counter(Undersampling.read({"acceleration": {"choice": [8, 2]}}).drawn(n).acceleration for n in range(400)),
    ):
        assert len(found) == 2
        assert min(found.values()) > 200 - 4 * 100**0.5
    families = np.array([one.family == "random" for one in drawn])  # drawn apart from the accelerations
    assert abs(rates[families].mean() - rates[~families].mean()) < 5 * (2 / 12**0.5) / 200**0.5 * 2**0.5


class Drawing(Federation):
    """A federation whose operator is a mix that the file of an experiment would write as one value."""

    def acquisition(self, site):
        one = super().acquisition(site)
        rates = Mix("choice", (one.acceleration,))
        return Mixed(masks=(one.mask,), rates=rates, noise=one.noise, fixed_mask=one.fixed_mask)


@pytest.mark.slow
def test_a_mix_of_one_value_trains_to_the_bits_of_that_value(consortium):
    one = experiment({"mask": {"choice": ["random"]}, "acceleration": {"choice": [4]}})
    assert one == experiment({"mask": "random", "acceleration": 4})
    given = (make_strategy("fedavg", {}), {"north": consortium["north"], "middle": consortium["middle"]})
    assert isinstance(Drawing(*given).acquisition("north"), Mixed)
    assert bits(Drawing(*given, rounds=2).train()) == bits(Federation(*given, rounds=2).train())


@pytest.mark.slow
def test_training_over_a_mix_has_the_same_bits_from_sent_plans_and_when_it_goes_on(consortium):
    """A Ray actor starts from a pickled plan; a resumed run from a committed round, in a new process."""
    paths = {"north": consortium["north"], "middle": consortium["middle"]}
    whole = Federation(make_strategy("fedavg", {}), paths, operator=BOTH, rounds=3)
    expected = bits(whole.train())
    sent = InProcessExecutor(pickle.loads(pickle.dumps(whole.plans())))
    assert bits(whole.train(sent)) == expected
    assert bits(whole.train(state=replace(whole, rounds=2).train())) == expected
    assert bits(replace(whole, operator={**BOTH, "mask": "random"}).train()) != expected


def test_the_digest_knows_the_mix_and_not_how_it_is_written():
    def digest(operator):
        one = experiment(operator)
        assert Experiment.read(one.as_dict()) == one
        return one.digest(CONTENTS), one.training_digest(CONTENTS)

    fixed = digest({"acceleration": 4})
    assert digest({"acceleration": {"choice": [4]}}) == fixed
    mixes = [{"uniform": [2, 8]}, {"uniform": [2, 6]}, {"choice": [2, 8]}, {"choice": [2, 4, 8]}]
    assert len({fixed, *(digest({"acceleration": one}) for one in mixes)}) == 5
    assert digest({"acceleration": {"choice": [8, 2.0, 4]}}) == digest({"acceleration": {"choice": [2, 4, 8]}})
    masks = [
        digest({"acceleration": 4, "mask": {"choice": one}}) for one in itertools.permutations(["random", "radial"])
    ]
    assert masks[0] == masks[1]
    assert masks[0] != fixed


@pytest.mark.parametrize(
    ("operator", "label", "family", "acceleration"),
    [
        ({"acceleration": {"uniform": [2, 8]}}, "random R=2-8", "random R=2-8", 5),
        ({"acceleration": {"choice": [2, 4, 9]}}, "random R=2/4/9", "random R=2/4/9", 5),
        ({"mask": {"choice": ["radial", "random"]}, "acceleration": 4}, "random/radial R=4", "random/radial", 4),
        (BOTH, "random/gaussian2d R=2-4", "random/gaussian2d R=2-4", 3),
        ({"acceleration": 4}, "random R=4", "random", 4),
    ],
)
def test_names_in_tables(operator, label, family, acceleration):
    one = experiment(operator).operator_at("")
    assert (one.label(), one.family, one.acceleration) == (label, family, acceleration)
    assert Undersampling.read(one.flat()) == one


def test_mlflow_has_the_mix_under_the_key_itself():
    per_site = {"uniform": {"acceleration": {"choice": [2, 3]}}}
    shown = experiment({**BOTH, "per_site": per_site}, test={"operator": {"acceleration": {"uniform": [3, 5]}}}).flat()
    assert (shown["operator.mask"], shown["operator.acceleration"]) == ("random/gaussian2d", "2-4")
    assert shown["operator.per_site.uniform.acceleration"] == "2/3"
    assert shown["test.operator.acceleration"] == "3-5"


def test_other_settings_replace_a_mix_and_a_mix_replaces_them():
    given = {"sites": "s", "operator": {"acceleration": 4, "per_site": {"b": {"acceleration": 2}}}}

    def labels(*overrides):
        one = Experiment.read(apply_overrides(given, overrides))
        return [one.operator_at(site).label() for site in "ab"] + [one.tested_at("b").label()]

    assert labels("operator.acceleration={uniform: [2, 8]}") == ["random R=2-8"] * 3
    assert labels("operator.per_site.b.acceleration={choice: [2, 3]}") == ["random R=4", *["random R=2/3"] * 2]
    assert labels("operator={acceleration: {uniform: [2, 8]}}", "test.operator.acceleration=3")[1:] == [
        "random R=2-8", "random R=3",
    ]  # fmt: skip
    given = {**given, "operator": {"mask": {"choice": ["random", "radial"]}, "acceleration": {"uniform": [2, 8]}}}
    assert labels("operator.mask=gaussian2d") == ["gaussian2d R=2-8"] * 3
    assert labels("test={operator: {mask: radial}}") == [*["random/radial R=2-8"] * 2, "radial R=2-8"]


@pytest.mark.parametrize(
    ("one", "other", "known"),
    [
        ({"acceleration": {"uniform": [2, 8]}}, {"acceleration": 4}, True),
        ({"acceleration": {"uniform": [2, 8]}}, {"acceleration": 8}, True),
        ({"acceleration": {"uniform": [2, 8]}}, {"acceleration": 9}, False),
        ({"acceleration": {"uniform": [2, 8]}}, {"acceleration": {"uniform": [3, 8]}}, True),
        ({"acceleration": {"uniform": [2, 8]}}, {"acceleration": {"choice": [3, 9]}}, False),
        ({"acceleration": {"choice": [2, 4, 8]}}, {"acceleration": {"choice": [2, 8]}}, True),
        ({"acceleration": {"choice": [2, 4, 8]}}, {"acceleration": 3}, False),
        ({"acceleration": {"choice": [2, 8]}}, {"acceleration": {"uniform": [2, 8]}}, False),
        (BOTH, {"mask": "gaussian2d", "acceleration": 3, "center_fraction": 0.1, "fixed_mask": True}, True),
        (BOTH, {"mask": "gaussian2d", "acceleration": 3, "center_fraction": 0.08}, False),
        (BOTH, {"mask": "gaussian2d", "acceleration": 3, "center_fraction": 0.1, "width": 3}, False),
        (BOTH, {"mask": "radial", "acceleration": 3, "center_fraction": 0.1}, False),
        (BOTH, {"mask": "random", "acceleration": 3, "center_fraction": 0.1, "noise": 2}, False),
        ({"acceleration": 3}, {"acceleration": 3, "fixed_mask": True}, True),
        ({"acceleration": 3}, {"acceleration": {"uniform": [2, 4]}}, False),
    ],
)
def test_what_a_training_knows_of_a_tested_operator(one, other, known):
    assert Undersampling.read(one).covers(Undersampling.read(other)) is known


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        ({"acceleration": {"uniform": [8, 2]}}, "low.*high.*8, 2"),
        ({"acceleration": {"uniform": [4, 4]}}, "low.*high"),
        ({"acceleration": {"uniform": [2, 4, 8]}}, "two numbers"),
        ({"acceleration": {"choice": []}}, r"acceleration\.choice"),
        ({"acceleration": {"choice": [2, 2.0]}}, "twice"),
        ({"acceleration": {"choice": list(range(2, 103))}}, "100.*101"),
        ({"acceleration": {"choise": [2, 4]}}, "Did you mean 'choice'"),
        ({"acceleration": {"uniform": [2, 4], "choice": [2]}}, "exactly one"),
        ({"acceleration": {}}, "exactly one"),
        ({"acceleration": {"uniform": [0.5, 8]}}, "at least 1.*0.5"),
        ({"acceleration": {"choice": [2, True]}}, "acceleration.*not true or false"),
        ({"acceleration": {"choice": [2, "x"]}}, "acceleration.*number"),
        ({"acceleration": {"choice": [2, {"uniform": [2, 3]}]}}, "acceleration.*one value"),
        ({"acceleration": {"uniform": "28"}}, "a list"),
        ({"acceleration": [2, 8]}, "acceleration.*choice"),
        ({"acceleration": 2, "mask": ["random", "radial"]}, "mask.*choice"),
        ({"acceleration": 2, "mask": {"uniform": ["random", "radial"]}}, "Allowed: choice"),
        ({"acceleration": 2, "mask": {"choice": ["random", "radal"]}}, "Did you mean 'radial'"),
        ({"acceleration": 2, "mask": {"choice": ["random", "random"]}}, "twice"),
        ({"acceleration": 2, "mask": {"choice": ["random", "gaussian2d"]}, "width": 3}, r"mask 'random'\): 'width'"),
        ({"acceleration": 2, "center_fraction": {"uniform": [0.1, 0.2]}}, "center_fraction.*mask and acceleration"),
        ({"acceleration": 2, "per_site": {"b": {"acceleration": {"uniform": [8, 2]}}}}, "per_site.b.acceleration"),
    ],
)
def test_a_wrong_mix_is_refused_in_one_line(operator, said):
    with pytest.raises(InputError, match=said) as refused:
        experiment(operator)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("block", [{"scale": {"choice": [2, 3]}}, {"kind": {"choice": ["bicubic"]}, "scale": 2}])
def test_a_degradation_cannot_be_mixed(block):
    (key,) = (key for key, value in block.items() if isinstance(value, dict))
    with pytest.raises(InputError, match=f"degradation.{key}.*nothing in degradation"):
        Experiment.read({"sites": "s", "task": "super-resolution", "degradation": block})


def test_every_value_of_a_mix_is_checked_on_the_matrix():
    for operator in ({"acceleration": {"uniform": [2, 20]}}, {"acceleration": {"choice": [20, 2]}}):
        with pytest.raises(InputError, match="acceleration 20 cannot be reached on 32 x 32"):
            Undersampling.read(operator).check((32, 32))
    mask = {"choice": ["gaussian2d", "random"]}
    with pytest.raises(InputError, match="acceleration 14"):  # the ellipse fits, the columns do not
        Undersampling.read({"mask": mask, "acceleration": 14}).check((32, 32))
    Undersampling.read({"mask": "gaussian2d", "acceleration": 14}).check((32, 32))


def test_every_family_is_cited_and_its_source_noted():
    one = experiment({"mask": {"choice": ["random", "gaussian2d"]}, "acceleration": 4})
    paper = one.operator_at("").paper
    assert all(MASKS[name].paper in paper for name in ("random", "gaussian2d"))
    noted = source_code(one)
    assert {name for name in noted if name.endswith(("/random.py", "/gaussian2d.py", "/radial.py"))} == {
        "sites/imaging/masks/random.py", "sites/imaging/masks/gaussian2d.py",
    }  # fmt: skip
