"""The split of measured samples for the loss ``ssdu``: sizes, seeds, refusals, sites without reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import Federation, make_volume

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.checks import check_experiment
from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.coils import estimate_maps
from fedrecon.sites.imaging.measurement import Held, Measurement
from fedrecon.sites.imaging.operator import Cartesian
from fedrecon.sites.training.batches import Slices
from fedrecon.sites.training.losses import LOSSES
from fedrecon.sites.training.settings import Training
from fedrecon.sites.training.splitting import Splitting, split
from fedrecon.strategies import make_strategy

BOX = (2, 2)
TRAINING = {"loss": "ssdu", "augment": False}
OPERATOR = {"mask": "random", "acceleration": 3, "fixed_mask": True}
BASE = {
    "name": "x",
    "sites": "data",
    "operator": OPERATOR,
    "strategy": {"name": "fedavg"},
    "network": {"name": "unrolled", "cascades": 1, "channels": 2, "pools": 1},
    "training": TRAINING,
}


def held(mask, ratio=0.25, selection="gaussian", seed=0):
    return Splitting(ratio=ratio, selection=selection).held(mask, BOX, np.random.default_rng(seed))


@pytest.mark.parametrize("selection", ["gaussian", "uniform"])
def test_the_share_is_that_of_the_samples_outside_the_box(selection):
    """A full 4 x 4 grid has 12 samples outside its 2 x 2 box, a quarter is 3; without a column of 4 there are 8."""
    mask = np.ones((4, 4), bool)
    for ratio, count in ((0.25, 3), (0.5, 6), (0.999, 11), (0.001, 1)):
        found = held(mask, ratio, selection)
        assert found.sum() == count
        assert not found[1:3, 1:3].any()
    mask[:, 0] = False
    found = held(mask, 0.25, selection)
    assert found.sum() == 2
    assert not (found & ~mask).any()


def test_gaussian_compares_more_of_the_centre_than_uniform():
    mask, far = np.ones((32, 32), bool), np.hypot(*np.mgrid[-16:16, -16:16])
    assert far[held(mask)].mean() < far[held(mask, selection="uniform")].mean() - 2


def test_too_few_samples_outside_the_box_are_refused():
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = mask[0, 0] = True
    with pytest.raises(InputError, match=r"'ssdu' compares .*2 x 2.* 1 were measured there"):
        held(mask)


def test_given_and_held_are_disjoint_and_make_the_measured_samples():
    mask = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.7
    some = torch.from_numpy(held(mask[0, 0].numpy()))[None, None]
    kspace = torch.randn(1, 2, 8, 8, dtype=torch.complex64)
    maps = torch.full((1, 2, 8, 8), 0.5**0.5, dtype=torch.complex64)
    both = split(kspace, mask, some, maps)
    assert not (both.operator.mask & both.held.operator.mask).any()
    assert torch.equal(both.operator.mask | both.held.operator.mask, mask)
    assert not both.kspace[some.expand_as(kspace)].any()
    torch.testing.assert_close(both.kspace + both.held.kspace, mask * kspace)


def test_loss_by_hand():
    """Held are 3 and 4 in the upper row; an empty image misses all: 5 / 5 + 7 / 7. Half of it misses a half: 1."""
    mask = torch.tensor([[[[True, True], [False, False]]]])
    ones = torch.ones(1, 1, 2, 2, dtype=torch.complex64)
    kspace = torch.tensor([[[[3, 4], [0, 0]]]], dtype=torch.complex64)
    compared = Held(Cartesian(mask, ones), kspace)
    batch = Measurement(0 * ones, Cartesian(~mask, ones), 0 * ones[:, 0], torch.ones(1), None, None, held=compared)
    image = compared.operator.adjoint(kspace)
    for share, loss in ((0, 2), (0.5, 1), (1, 0), (2, 2)):
        assert LOSSES["ssdu"](share * image, batch).item() == pytest.approx(loss, abs=1e-6)


def slices(path, site="north"):
    operators = {site: Undersampling.read(OPERATOR)}
    return Slices({site: Shard.open(path)}, operators, "train", torch.device("cpu"), splitting=Splitting())


def samples(path, which, seed, epoch):
    one = slices(path)
    batch = one.training([one.items[which]], seed, epoch, False)
    assert batch.reference is None
    assert batch.target is None
    return (batch.operator.mask | batch.held.operator.mask).numpy(), batch.held.operator.mask.numpy()


@pytest.mark.slow
def test_splits_are_new_in_each_epoch_slice_and_seed_and_else_the_same(consortium):
    path = consortium["north"]
    (mask, first), (same_mask, same), (later_mask, later) = (samples(path, 0, 0, epoch) for epoch in (3, 3, 4))
    assert np.array_equal(first, same)
    assert np.array_equal(mask, same_mask)
    assert np.array_equal(mask, later_mask)
    drawn = [first, later, samples(path, 1, 0, 3)[1], samples(path, 0, 1, 3)[1]]
    assert len({one.tobytes() for one in drawn}) == 4


def test_the_maps_come_from_the_samples_that_are_measured(consortium):
    """With much noise added: the box of the measured samples gives the maps, in each epoch and for each seed."""
    setting = Undersampling.read({**OPERATOR, "noise": 60.0})
    shards = {"middle": Shard.open(consortium["middle"])}
    given = Slices(shards, {"middle": setting}, "train", torch.device("cpu"), splitting=Splitting())
    items, found = list(given.items), []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        one = given.training(items, seed, epoch, False)
        own = estimate_maps(one.kspace + one.held.kspace, setting.calibration((32, 32)))
        assert torch.equal(one.operator.maps, own)
        found.append(own)
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-3)


@pytest.mark.parametrize("mask_seed", [0, 1])
def test_the_maps_of_a_score_are_those_of_its_own_noise(consortium, mask_seed):
    setting = Undersampling.read({**OPERATOR, "noise": 60.0})
    shards = {"middle": Shard.open(consortium["middle"])}
    given = Slices(shards, {"middle": setting}, "test", torch.device("cpu"))
    given.scoring(given.items, 7)  # under another seed before
    one = given.scoring(given.items, mask_seed)
    assert torch.equal(one.operator.maps, estimate_maps(one.kspace, setting.calibration((32, 32))))
    assert torch.equal(one.operator.maps, given.maps(given.items, mask_seed))


def test_the_loss_has_digests_of_its_own_since_it_compares_measured_samples():
    assert Training(**TRAINING).science()["ssdu_samples"] == "measured"
    assert "ssdu_samples" not in Training().science()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.loss=l1", "training.ssdu={ratio: 0.3}"], "training.ssdu.*only loss: ssdu"),
        (["training.loss={ssdu: 1, l1: 1}"], "loss: ssdu stands alone"),
        (["training.augment=true"], "augment.*augment=false"),
        (["training.ssdu.ratio=1"], "ratio"),
        (["training.ssdu.ratio=0"], "ratio"),
        (["training.ssdu.selection=even"], "selection"),
        (["operator.acceleration=1"], "operator.acceleration 1"),
        (["operator.fixed_mask=false"], "operator.fixed_mask=true"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(overrides, message):
    Experiment.read(BASE)
    with pytest.raises(InputError, match=message):
        Experiment.read(BASE, overrides)


@pytest.fixture
def bare(tmp_path):
    """A site of two coils whose scanner measured every third column and the centre, so that it has no references."""
    columns = (np.arange(32) % 3 == 0) | (abs(np.arange(32) - 16) < 4)
    volumes = []
    for k, part in enumerate(("train", "validation", "test")):
        full = make_volume(part, part, 3, 2, k)
        volumes.append(replace(full, kspace=full.kspace * columns, reference=None) if part == "train" else full)
    path = tmp_path / "bare.h5"
    write_shard(path, "bare", volumes, simulated=True, phase="smooth", origin="phantom")
    return path


@pytest.mark.slow
def test_a_site_without_references_trains(bare):
    federation = Federation(
        make_strategy("fedavg", {}),
        {"bare": bare},
        network=BASE["network"],
        training=TRAINING,
        operator=OPERATOR,
        rounds=2,
    )
    start, end = federation.begin(), federation.train()
    assert np.isfinite(end.shared).all()
    assert not np.array_equal(start.shared, end.shared)


def test_a_site_without_references_needs_the_loss(bare):
    shards = {"bare": Shard.open(bare)}
    check_experiment(Experiment.read(BASE), shards)
    with pytest.raises(InputError, match=r"no fully sampled reference in train .*ssdu"):
        check_experiment(Experiment.read(BASE, ["training.loss=l1"]), shards)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "super-resolution", "operator": None, "degradation": {"scale": 2}}, "task=reconstruction"),
        ({"strategy": {"name": "fedgimp"}, "network": {"name": "style"}}, "has its own .*ssdu"),
        ({"network": {**BASE["network"], "sensitivity_channels": 2}}, "network.sensitivity_channels=0"),
    ],
)
def test_what_has_no_samples_to_split_is_refused(changes, message):
    fields = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    if "degradation" in fields:
        fields["network"] = {"name": "unet"}
    with pytest.raises(InputError, match=f"loss: .*{message}"):
        Experiment.read(fields)
