"""A zero-padded scan has fewer samples than its matrix: noise and the measured acceleration are of those alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import NOISE, make_volume

from fedrecon.sites.acquisition.degraded import Degraded
from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.formats.importing import import_data
from fedrecon.sites.imaging.masks.mask import centred
from fedrecon.sites.scoring.slice_scores import score
from fedrecon.sites.seeding import seed
from fedrecon.sites.training.batches import Slices
from fedrecon.sites.training.splitting import Splitting

CPU = torch.device("cpu")
ROWS, COLUMNS = slice(5, 32), slice(8, 24)
"""The samples of a matrix of 32 x 32: the first rows are missing as in a partial acquisition."""


def rss(kspace):
    axes = (-2, -1)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)
    return np.sqrt((np.abs(images) ** 2).sum(axis=1)).astype(np.float32)


def padded(volume):
    kspace = np.zeros_like(volume.kspace)
    kspace[:, :, ROWS, COLUMNS] = volume.kspace[:, :, ROWS, COLUMNS]
    return replace(volume, kspace=kspace, reference=rss(kspace))


@pytest.fixture
def site(tmp_path):
    """A site whose first volume of each split is zero-padded, and the second one is not."""
    volumes = []
    for at, split in enumerate(("train", "validation", "test")):
        volumes += [padded(make_volume(f"p-{split}", split, 2, 2, at)), make_volume(f"w-{split}", split, 2, 2, 9 + at)]
    write_shard(tmp_path / "s.h5", "s", volumes, simulated=True, phase="smooth", origin="phantom")
    return Shard.open(tmp_path / "s.h5")


def slices(shard, split, setting=None, **operator):
    block = {"mask": "random", "acceleration": 3, **operator}
    return Slices({"s": shard}, {"s": setting or Undersampling.read(block)}, split, CPU)


def test_noise_is_added_to_what_was_measured(site):
    """noise=3 adds 3^2 - 1 = 8 times the variance of the scan."""
    clean, noisy = (slices(site, "test", acceleration=1, noise=level) for level in (1, 3))
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[ROWS, COLUMNS] = True
    items = list(clean.items)[:2]
    added = []
    for mask_seed in range(8):
        one = noisy.scoring(items, mask_seed).kspace - clean.scoring(items, mask_seed).kspace
        assert (one[..., ~inside] == 0).all()
        added.append(torch.view_as_real(one[..., inside]).flatten().numpy())
    assert np.concatenate(added).std() == pytest.approx(8**0.5 * NOISE, rel=0.02)
    assert torch.equal(noisy.scanned(items), inside.expand(2, 32, 32))


def test_noise_follows_the_samples_of_an_augmented_slice(site):
    clean, noisy = (slices(site, "train", acceleration=1, noise=level) for level in (1, 3))
    item, seen = clean.items[0], set()
    for epoch in range(8):
        before = clean.training([item], 0, epoch, True).kspace
        noise = (noisy.training([item], 0, epoch, True).kspace - before)[0]
        where = (noise != 0).any(dim=0)
        assert int(where.sum()) == 27 * 16
        assert before[0, :, ~where].abs().max() < 1e-5 < before[0, :, where].abs().amax(dim=0).min()
        seen.add(tuple(np.flatnonzero(where.any(dim=1).numpy())[[0, -1]]))
    assert seen == {(5, 31), (1, 27)}  # mirrored at row 16, row r is row 32 - r


def test_a_whole_scan_keeps_its_bits(site):
    noisy = slices(site, "test", acceleration=1, noise=2)
    item = noisy.items[2]
    generator = torch.Generator().manual_seed(seed(0, "noise", *item.seeds))
    draw = torch.view_as_complex(torch.randn((2, 32, 32, 2), generator=generator) * (NOISE * 3**0.5))
    kspace = torch.from_numpy(site.kspace("w-test")[0].copy())
    assert torch.equal(noisy.scoring([item], 0).kspace[0], kspace + draw)


@pytest.mark.parametrize("mask", ["random", "gaussian2d"])
def test_the_measured_acceleration_is_that_of_the_samples_of_the_scan(site, mask):
    one = slices(site, "test", mask=mask)
    items = list(one.items)
    columns = score(one, [items], "test", lambda batch, _: batch.zero_filled, 0, "m", "s").columns
    found = [
        r for r, stage in zip(columns["measured_acceleration"], columns["stage"], strict=True) if stage == "output"
    ]
    masks = one.scoring(items, 0).operator.mask[:, 0].numpy()
    expected = [27 * 16 / own[ROWS, COLUMNS].sum() for own in masks[:2]] + [32 * 32 / own.sum() for own in masks[2:]]
    assert found == expected
    assert found[0] != 32 * 32 / masks[0].sum()


def test_a_lower_resolution_is_measured_as_before(site):
    setting = Degraded.read({"kind": "bicubic", "scale": 2})
    one = slices(site, "test", setting)
    columns = score(one, [list(one.items)], "test", lambda batch, _: batch.zero_filled, 0, "m", "s").columns
    assert set(columns["measured_acceleration"]) == {4.0}


def test_an_import_says_what_was_measured(tmp_path):
    for name, volume in (("p", padded(make_volume("v", "test", 2, 2, 0))), ("w", make_volume("v", "test", 2, 2, 0))):
        np.save(tmp_path / f"{name}.npy", volume.kspace)
        (record,) = import_data("npy", tmp_path / f"{name}.npy", "s", tmp_path / "out", dry_run=True).read.values()
        notes = {note.kind: note.text for note in record.notes}
        assert notes.keys() == ({"zero-padded"} if name == "p" else set())
        assert all("measured 27 x 16 of 32 x 32" in text for text in notes.values())


@pytest.mark.parametrize("selection", ["gaussian", "uniform"])
def test_self_supervision_compares_its_share_of_the_samples_that_the_scan_has(site, selection):
    """And no others; a whole scan, and an empty slice, are split by their masks."""
    setting = Undersampling.read({"mask": "random", "acceleration": 2, "fixed_mask": True})
    given = Slices({"s": site}, {"s": setting}, "train", CPU, splitting=Splitting(ratio=0.25, selection=selection))
    inside, box = torch.zeros(2, 32, 32, dtype=torch.bool)
    inside[ROWS, COLUMNS] = True
    box[tuple(centred(32, size) for size in setting.calibration((32, 32)))] = True
    for item, real in zip(given.items, 2 * [inside] + 2 * [inside | True], strict=True):
        one = given.training([item], 0, 0, False)
        held = one.held.operator.mask[0, 0]
        mask = one.operator.mask[0, 0] | held
        assert not (held & ~(real & ~box)).any()
        assert int(held.sum()) == round(0.25 * int((mask & real & ~box).sum()))
    empty = given.items[0]
    given._scanned[empty] = torch.zeros(32, 32, dtype=torch.bool)
    assert given.training([empty], 0, 0, False).held.operator.mask.any()
