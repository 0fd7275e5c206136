"""Coil maps: unit length everywhere, right on known coils, safe without signal; sigpy and real k-space."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fedrecon.sites.imaging import coils
from fedrecon.sites.imaging.coils import combine, estimate_maps, rss
from fedrecon.sites.imaging.fourier import fft2c, ifft2c
from fedrecon.sites.imaging.masks import centred


def phantom(n_coils, shape=(96, 80), noise=0.0, seed=0):
    """An ellipse with structure and smooth phase, coils around it: image (y, x), maps (c, y, x), k-space."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * (1 + 0.5 * torch.sin(12 * x) * torch.cos(9 * y))
    image = torch.polar(body, 1.5 * y + 2 * x * y)
    angles = 2 * torch.pi * torch.arange(n_coils) / max(n_coils, 1)
    sy, sx = angles.sin()[:, None, None], angles.cos()[:, None, None]
    strength = torch.exp(-((y - 1.1 * sy) ** 2 + (x - 1.1 * sx) ** 2) / 1.5)
    maps = torch.polar(strength, angles[:, None, None] + 1.5 * (y * sy + x * sx))
    maps = maps / rss(maps)
    draw = torch.randn(n_coils, *shape, 2, generator=torch.Generator().manual_seed(seed))
    return image, maps, fft2c(maps * image) + noise * torch.view_as_complex(draw)


def test_hand_computed_combinations():
    images = torch.tensor([3.0, 4j]).view(2, 1, 1)
    assert rss(images).item() == pytest.approx(5)
    maps = torch.tensor([0.6, 0.8j]).view(2, 1, 1)
    assert combine(images, maps).item() == pytest.approx(5)
    assert combine(images, maps.conj()).item() == pytest.approx(1.8 - 3.2)


@pytest.mark.parametrize("phase", [True, False])
@pytest.mark.parametrize(
    ("n_coils", "shape", "box"), [(1, (9, 12), (9, 1)), (3, (33, 20), (33, 4)), (4, (8, 7), (1, 1))]
)
def test_unit_length_everywhere(phase, n_coils, shape, box):
    kspace = torch.stack([phantom(n_coils, shape, noise=0.01)[2], torch.zeros(n_coils, *shape)])
    maps = estimate_maps(kspace, box, phase=phase)
    assert maps.shape == kspace.shape
    assert maps.dtype == torch.complex64
    torch.testing.assert_close(rss(maps), torch.ones(2, *shape))


@pytest.mark.parametrize("scale", [1e-7, 1e6])
def test_the_scale_of_the_data_changes_nothing(scale):
    kspace = phantom(4, noise=0.01)[2][None]
    torch.testing.assert_close(
        estimate_maps(kspace * scale, (24, 24)), estimate_maps(kspace, (24, 24)), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("power", [-100, -60, 58, 61, 100])
def test_samples_whose_products_no_float32_holds_have_the_same_maps(power):
    """A power of two is exact. At 2^60 the calibration matrix overflowed, without a word."""
    kspace = phantom(3, (24, 20), noise=0.01)[2][None]
    expected = estimate_maps(kspace, (12, 12))
    torch.testing.assert_close(estimate_maps(kspace * 2.0**power, (12, 12)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 3e11])
def test_usual_samples_keep_their_bits(scale, monkeypatch):
    kspace = phantom(3, (24, 20), noise=0.01)[2][None] * scale
    found = estimate_maps(kspace, (12, 12))
    monkeypatch.setattr(coils, "_in_range", lambda box: box)
    assert torch.equal(estimate_maps(kspace, (12, 12)), found)


@pytest.mark.parametrize("box", [(96, 9), (12, 9), (9, 80)])
def test_only_the_calibration_box_is_read(box):
    kspace = phantom(3, noise=0.01)[2][None]
    rows, columns = centred(96, box[0]), centred(80, box[1])
    kept = torch.zeros_like(kspace)
    kept[..., rows, columns] = kspace[..., rows, columns]
    assert torch.equal(estimate_maps(kept, box), estimate_maps(kspace, box))


@pytest.mark.slow
def test_batches_are_slices_side_by_side():
    kspace = torch.stack([phantom(3, noise=0.02, seed=s)[2] * (s + 1) for s in range(2)])
    alone = torch.cat([estimate_maps(one[None], (20, 20)) for one in kspace])
    torch.testing.assert_close(estimate_maps(kspace, (20, 20)), alone)


@pytest.mark.parametrize(("box", "allowed"), [((24, 24), 0.001), ((96, 8), 0.005), ((9, 9), 0.005)])
@pytest.mark.parametrize("n_coils", [4, 8])
def test_known_coils_are_found(box, allowed, n_coils):
    """The part of the true coil vector that lies outside the estimate, mean over the object."""
    image, true, kspace = phantom(n_coils, noise=0.005)
    maps = estimate_maps(kspace[None], box)[0]
    missed = 1 - combine(true, maps).abs().square()
    assert missed[image.abs() > 0.1].mean() < allowed


@pytest.mark.parametrize("n_coils", [1, 4])
def test_phase_is_removed_or_kept(n_coils):
    image, _, kspace = phantom(n_coils)
    inside = image.abs() > 0.3
    removed, kept = (
        combine(ifft2c(kspace), estimate_maps(kspace[None], (24, 24), phase=phase)[0])[inside]
        for phase in (True, False)
    )
    assert removed.imag.norm() < 0.1 * removed.norm()
    assert removed.real.min() > 0
    assert kept.imag.norm() > 0.4 * kept.norm()
    torch.testing.assert_close(removed.abs(), image.abs()[inside], atol=0.05, rtol=0)
    torch.testing.assert_close(kept.abs(), removed.abs(), atol=1e-4, rtol=1e-4)


def test_bands_of_rows_change_nothing(monkeypatch):
    kspace = phantom(4, noise=0.01)[2][None]
    whole = estimate_maps(kspace, (24, 24))
    monkeypatch.setattr(coils, "_BAND", 1)
    torch.testing.assert_close(estimate_maps(kspace, (24, 24)), whole, atol=1e-4, rtol=0)


def test_one_coil_without_phase_is_ones():
    kspace = phantom(1)[2][None]
    assert torch.equal(estimate_maps(kspace, (24, 24), phase=False), torch.ones_like(kspace))


def test_against_the_espirit_of_sigpy():
    """Oracle, skipped where sigpy is not installed: the same subspace of coils inside the object."""
    apps = pytest.importorskip("sigpy.mri.app", reason="sigpy (an optional oracle) is not installed")
    image, _, kspace = phantom(4, noise=0.005)
    theirs = apps.EspiritCalib(kspace.numpy(), calib_width=24, crop=0, show_pbar=False).run()
    ours = estimate_maps(kspace[None], (24, 24))[0]
    overlap = combine(torch.from_numpy(theirs), ours).abs()
    assert overlap[image.abs() > 0.1].min() > 0.995


@pytest.fixture(scope="module")
def raw():
    """The folder of real k-space."""
    if "FEDRECON_REAL_DATA" not in os.environ:
        pytest.skip("FEDRECON_REAL_DATA is unset: no real k-space to test on")
    return Path(os.environ["FEDRECON_REAL_DATA"]) / "raw-kspace"


@pytest.mark.real
@pytest.mark.parametrize("name", ["head_sagittal_t1_1ch.npy", "brain_8ch_poisson_r8.npy"])
def test_dc_of_real_kspace_is_in_the_middle(raw, name):
    energy = np.abs(np.load(raw / name)) ** 2
    energy = energy.reshape(-1, *energy.shape[-2:]).sum(0)
    peak = np.unravel_index(energy.argmax(), energy.shape)
    assert all(abs(int(p) - n // 2) <= 2 for p, n in zip(peak, energy.shape, strict=True))


@pytest.mark.slow
@pytest.mark.real
def test_real_coils_combine(raw):
    """Eight real coils, 24 x 24 calibration: the combined image keeps nearly all of the energy that RSS has.

    Energy is compared at the resolution of the calibration region, where the data is fully sampled.
    """
    kspace = torch.from_numpy(np.load(raw / "brain_8ch_poisson_r8.npy"))
    assert kspace.shape == (8, 230, 180)
    rows, columns = centred(230, 24), centred(180, 24)
    assert (kspace[:, rows, columns].abs().amax(0) > 0).all()
    maps = estimate_maps(kspace[None], (24, 24))[0]
    torch.testing.assert_close(rss(maps), torch.ones(230, 180))
    low = torch.zeros_like(kspace)
    low[:, rows, columns] = kspace[:, rows, columns]
    images = ifft2c(low)
    combined = combine(images, maps)
    head = rss(images) > 0.2 * rss(images).max()
    ratio = combined.abs()[head].square().sum() / rss(images)[head].square().sum()
    assert 0.97 < ratio <= 1.0001
    # the maps carry the phase: what is left is close to real and positive
    assert combined.real[head].square().sum() > 0.95 * combined[head].abs().square().sum()
    wrong = combine(images, maps.flip(0))[head].abs().square().sum() / rss(images)[head].square().sum()
    assert wrong < 0.7


@pytest.mark.parametrize("times", [2.0**-130, 2.0**-100, 2.0**-60, 1.0, 2.0**60, 2.0**120])
def test_the_root_sum_of_squares_of_extreme_values_is_that_of_others_times_a_power_of_two(times):
    """Float32 holds no squares of them."""
    from fedrecon.sites.imaging.numpy_fourier import ifft2c_numpy, root_sum_of_squares

    values = np.random.default_rng(0).uniform(1, 2, (2, 3, 8, 6, 2)) @ [1, 1j]
    wanted = np.sqrt((np.abs(values) ** 2).sum(axis=1))
    found = rss(torch.from_numpy((values * times).astype(np.complex64))).numpy().astype(np.float64) / times
    np.testing.assert_allclose(found, wanted, rtol=1e-6 if times > 2.0**-126 else 0.1)
    images = np.sqrt((np.abs(ifft2c_numpy(values)) ** 2).sum(axis=1))
    found = root_sum_of_squares((values * times).astype(np.complex64)).astype(np.float64) / times
    np.testing.assert_allclose(found, images, atol=images.max() * (1e-6 if times > 2.0**-126 else 0.1))


def test_the_root_sum_of_squares_of_ordinary_values_keeps_its_bits_and_its_slices_apart():
    images = torch.randn(3, 4, 9, 7, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rss(images), torch.linalg.vector_norm(images, dim=-3))
    images[1] *= 1e-25
    assert torch.equal(rss(images)[1], rss(images[1:2])[0])
    assert torch.equal(rss(torch.zeros(1, 2, 3, 3, dtype=torch.complex64)), torch.zeros(1, 3, 3))
