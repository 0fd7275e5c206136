"""Batches from shards: masks, noise, augmentation, choice of slices; and nothing is ever written back."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from tiny import NOISE, STYLE, UNET, Federation, make_volume

from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.seeding import generator
from fedrecon.sites.training.batches import Slices
from fedrecon.strategies import make_strategy

CPU = torch.device("cpu")


def slices(paths, split="train", limit=None, **operator):
    block = {"mask": "random", "acceleration": 3, **operator}
    operators = {name: Undersampling.read(block) for name in paths}
    return Slices(
        {name: Shard.open(path) for name, path in paths.items()}, operators, split, CPU, dict.fromkeys(paths, limit)
    )


@pytest.fixture
def north(consortium):
    return {"north": consortium["north"]}


def mask(batch):
    return batch.operator.mask.numpy().copy()


@pytest.mark.slow
def test_training_masks_are_fresh_in_every_epoch_site_slice_and_seed(consortium, north):
    both = slices({name: consortium[name] for name in ("north", "south")})
    item, other = both.items[0], both.items[1]
    first = mask(both.training([item], 0, 0, False))
    assert np.array_equal(first, mask(both.training([item], 0, 0, True)))  # whether or not augmented
    assert np.array_equal(first, mask(slices(north).training([item], 0, 0, False)))  # whoever is beside it
    changed = [([item], 0, 1), ([item], 1, 0), ([other], 0, 0)]
    drawn = [first, *(mask(both.training(*one, False)) for one in changed)]
    assert len({one.tobytes() for one in drawn}) == 4
    together = mask(both.training([other, item], 0, 0, False))
    assert np.array_equal(together[1], first[0])


def test_a_fixed_mask_is_one_per_slice(north):
    one = slices(north, fixed_mask=True)
    masks = [mask(one.training([item], 0, epoch, True)).tobytes() for item in one.items[:2] for epoch in (0, 1, 5)]
    assert len(set(masks[:3])) == len(set(masks[3:])) == 1
    assert masks[0] != masks[3]
    assert mask(one.training([one.items[0]], 1, 0, True)).tobytes() != masks[0]


def test_scoring_masks_follow_from_mask_seed_subject_and_slice_alone(north, tmp_path):
    one = slices(north, "validation")
    masks = [mask(one.scoring([item], 0)).tobytes() for item in one.items]
    assert len(set(masks)) == len(masks)
    assert masks == [mask(slices(north, "validation").scoring([item], 0)).tobytes() for item in one.items]
    assert masks[0] != mask(one.scoring([one.items[0]], 1)).tobytes()
    # the same subject at a site of another name
    shard = Shard.open(north["north"])
    write_shard(tmp_path / "x.h5", "other", [shard.data(v.name) for v in shard.volumes], simulated=True, phase="smooth")
    elsewhere = slices({"other": tmp_path / "x.h5"}, "validation")
    assert masks == [mask(elsewhere.scoring([item], 0)).tobytes() for item in elsewhere.items]


@pytest.mark.slow
def test_added_noise_has_the_variance_that_is_missing(consortium):
    """noise=2: the shard's own variance and three times as much again, so sqrt(3) of its deviation is added."""
    added = []
    for name in consortium:
        clean, noisy = (slices({name: consortium[name]}, acceleration=1, noise=level) for level in (1, 2))
        items = [item for item in clean.items if item.site == name]
        difference = noisy.training(items, 0, 0, False).kspace - clean.training(items, 0, 0, False).kspace
        added.append(torch.view_as_real(difference).flatten().numpy())
        again = noisy.training(items, 0, 1, False).kspace - clean.training(items, 0, 1, False).kspace
        assert not torch.equal(difference, again)  # fresh in every epoch
    values = np.concatenate(added)
    assert len(values) > 10_000
    assert values.std() == pytest.approx(3**0.5 * NOISE, rel=0.02)
    assert abs(values.mean()) < 5 * NOISE / len(values) ** 0.5
    scored = slices({"north": consortium["north"]}, "test", acceleration=1, noise=2)
    one, same = scored.scoring([scored.items[0]], 0), scored.scoring([scored.items[0]], 0)
    assert torch.equal(one.kspace, same.kspace)


@pytest.mark.parametrize("site", ["north", "middle"])
def test_augmentation_moves_image_maps_and_reference_together(site, consortium):
    """At acceleration 1 the measurement of the moved slice is the moved measurement, for one flip and shift."""
    one = slices({site: consortium[site]}, acceleration=1)
    items = list(one.items)[:1]
    still = one.training(items, 0, 0, False)
    seen = set()
    for epoch in range(12):
        moved = one.training(items, 0, epoch, True)
        found = []
        for flips, y, x in itertools.product([(), (-2,), (-1,), (-2, -1)], range(-2, 3), range(-2, 3)):
            placed = torch.roll(torch.flip(still.reference, flips), (y, x), (-2, -1))
            if torch.equal(placed, moved.reference):
                found.append((flips, y, x))
        assert len(found) == 1
        flips, y, x = found[0]
        seen.add(found[0])
        for name in ("zero_filled", "target"):
            expected = torch.roll(torch.flip(getattr(still, name), flips), (y, x), (-2, -1))
            torch.testing.assert_close(getattr(moved, name), expected, rtol=0, atol=1e-5)
        maps = torch.roll(torch.flip(still.operator.maps, flips), (y, x), (-2, -1))
        assert torch.equal(moved.operator.maps, maps)
        error = (moved.operator.forward(moved.target) - moved.kspace).norm() / moved.kspace.norm()
        assert error < 0.01  # the maps are estimates
        torch.testing.assert_close(moved.scale, still.scale)
    assert len(seen) > 6


def test_each_slice_of_a_batch_is_moved_for_itself(north):
    """A slice moves alone as it does in a batch, so two slices of a batch move differently."""
    one = slices(north, acceleration=1)
    items, differ = list(one.items), 0
    assert len(items) > 1
    for epoch in range(6):
        together = one.training(items, 0, epoch, True)
        for i, item in enumerate(items):
            alone = one.training([item], 0, epoch, True)
            torch.testing.assert_close(together.reference[i], alone.reference[0], rtol=0, atol=0)
            torch.testing.assert_close(together.kspace[i], alone.kspace[0])
            assert torch.equal(together.operator.maps[i], alone.operator.maps[0])
        maps = together.operator.maps
        still = one.training(items, 0, epoch, False).operator.maps
        undone = [_moves(a, b) for a, b in zip(still, maps, strict=True)]
        differ += len(set(undone)) > 1
    assert differ >= 5  # 36 moves: two of three slices are alike in one epoch of twelve


def _moves(still, moved):
    """The flip and the shift that were drawn."""
    return next(
        (flips, y, x)
        for flips, y, x in itertools.product([(), (-2,), (-1,), (-2, -1)], range(-2, 3), range(-2, 3))
        if torch.equal(torch.roll(torch.flip(still, flips), (y, x), (-2, -1)), moved)
    )


@pytest.mark.slow
def test_a_prior_trains_under_the_phase_that_a_few_calibration_samples_leave(tmp_path):
    """From a 32 x 32 box hardly any phase is left. That of a mask leaves several times more."""
    write_shard(tmp_path / "a.h5", "a", [make_volume("v", "train", 4, 2, 3)], simulated=True, phase="smooth")
    shard = {"a": Shard.open(tmp_path / "a.h5")}

    def left(batch):
        target = batch.target
        return float(target.imag.norm() / target.norm())

    def made(mask, acceleration=4, **more):
        operator = {"a": Undersampling.read({"mask": mask, "acceleration": acceleration})}
        return Slices(shard, operator, "train", CPU, **more)

    full, small = made("random", 1), made("random", 1, small_boxes=True)
    items = list(full.items)
    before = left(full.training(items, 0, 0, False))
    used = [left(made(mask).training(items, 0, 0, False)) for mask in ("random", "gaussian2d")]
    after = [left(small.training(items, 0, epoch, False)) for epoch in range(8)]
    assert before < 0.5 * min(used)
    assert min(used) / 1.5 < np.median(after) < 1.5 * max(used)
    assert len(set(after)) == 8  # a new box in each epoch
    assert after[0] == left(small.training(items, 0, 0, False))
    for one in (full, small):  # the maps that score, and the magnitude, are the same
        batch = one.training(items, 0, 0, False)
        torch.testing.assert_close(batch.target.abs(), full.training(items, 0, 0, False).target.abs())
        assert torch.equal(one.maps(items), full.maps(items))


@pytest.mark.parametrize("name", ["fedavg", "fedgimp"])
def test_only_a_training_that_sees_no_operator_draws_small_boxes(name, consortium):
    one = Federation(make_strategy(name, {}), consortium, network=STYLE if name == "fedgimp" else UNET)
    site = one.executor().sites["north"]
    assert site.slices("train").small_boxes is (name == "fedgimp")
    assert not site.slices("test").small_boxes


def test_only_training_is_augmented(north):
    one = slices(north, "validation", acceleration=1)
    batch = one.scoring(list(one.items), 0)
    expected = np.stack([Shard.open(north["north"]).reference(item.volume.name)[item.index] for item in one.items])
    assert np.array_equal(batch.reference.numpy(), expected)
    assert batch.target is None  # what is scored never sees it


@pytest.mark.parametrize(("limit", "picked"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10)))])
def test_a_limit_takes_evenly_spaced_slices(limit, picked, tmp_path):
    volumes = [make_volume("a", "test", 4, 1, 0), make_volume("b", "test", 6, 1, 1)]
    write_shard(tmp_path / "a.h5", "a", volumes, simulated=True, phase="smooth")
    one = slices({"a": tmp_path / "a.h5"}, "test", limit)
    every = [("a", i) for i in range(4)] + [("b", i) for i in range(6)]
    assert [(item.volume.name, item.index) for item in one.items] == [every[i] for i in picked]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "m.h5"
    volumes = [
        make_volume("a", "train", 3, 1, 0),
        make_volume("b", "train", 3, 2, 1),
        make_volume("c", "train", 3, 1, 2, shape=(32, 24)),
    ]
    write_shard(path, "m", volumes, simulated=True, phase="smooth")
    return {"m": path}


@pytest.mark.slow
def test_matrix_sizes_and_coil_counts_batch_apart(mixed):
    one = slices(mixed)
    for order in (None, generator(0, "order")):
        batches = one.batches(2, order)
        assert sorted(len(batch) for batch in batches) == [1, 1, 1, 2, 2, 2]
        assert sorted(item.volume.name + str(item.index) for batch in batches for item in batch) == [
            name + str(i) for name in "abc" for i in range(3)
        ]
        for batch in batches:
            made = one.training(batch, 0, 0, True)
            about = batch[0].volume
            assert made.kspace.shape == (len(batch), about.n_coils, *about.shape)
            assert made.operator.maps.shape == made.kspace.shape
            assert made.target.shape == made.reference.shape == (len(batch), *about.shape)
            norm = made.operator.maps.abs().square().sum(1)
            torch.testing.assert_close(norm, torch.ones_like(norm))


def test_shuffled_batches_follow_from_the_generator(mixed):
    one = slices(mixed)

    def names(order):
        return [[(item.volume.name, item.index) for item in batch] for batch in one.batches(2, order)]

    assert names(generator(0, 1)) == names(generator(0, 1))
    assert len({str(names(generator(0, k))) for k in range(5)}) > 1
    assert names(None) == [[(b, i) for i in part] for b in "cab" for part in ((0, 1), (2,))]


def test_volumes_are_opened_once(north, monkeypatch):
    one, opened = slices(north), []
    original = Shard.stored
    monkeypatch.setattr(Shard, "stored", lambda self, *of: opened.append(of) or original(self, *of))
    for epoch in range(3):
        one.training(list(one.items), 0, epoch, True)
    assert len(opened) == len(set(opened)) == 2  # k-space and reference


@pytest.mark.slow
def test_training_and_scoring_write_nothing_back(consortium, tmp_path):
    def contents():
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in consortium.items()}

    before = contents()
    federation = Federation(make_strategy("fedavg", {}), consortium, tmp_path, rounds=1, operator={"noise": 2.0, **R3})
    executor = federation.executor()
    state = federation.train(executor)
    executor.evaluate(federation.method.request(state), "test")
    assert contents() == before
    for site in executor.sites.values():
        for made in site._slices.values():
            views = list(made._views.values())
            assert views
            assert not any(view[0].flags.writeable for view in views)
    for name, path in consortium.items():
        Shard.open(path).verify()
        assert name in before


R3 = {"mask": "random", "acceleration": 3}


def test_batches_are_torch_owned_copies(north):
    one = slices(north, acceleration=1)
    batch = one.training(list(one.items), 0, 0, False)
    assert not np.shares_memory(batch.kspace.numpy(), one._view(one.items[0])[:])
    assert not np.shares_memory(batch.reference.numpy(), one._view(one.items[0], "reference")[:])
