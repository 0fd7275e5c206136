"""Wavelets: orthonormal on any size, their moments, numbers by hand; the l1 problem against optimality and sigpy."""

import numpy as np
import pytest
import torch
from test_tv import phantom, psnr, undersampled

from fedrecon.sites.classical import make_reconstructor
from fedrecon.sites.classical.daubechies import Sparsity, analysis, backward, corners, forward, lowpass, soft
from fedrecon.sites.classical.fista import minimise

SIZES = [(16, 16), (13, 10), (17, 32), (24, 31), (8, 40)]


def noise(*shape, seed=0, dtype=torch.complex128):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("moments", range(1, 11))
def test_filters_are_orthonormal_and_have_their_vanishing_moments(moments):
    low = lowpass(moments)
    assert len(low) == 2 * moments
    assert low.sum() == pytest.approx(2**0.5, abs=1e-12)
    for shift in range(moments):
        overlap = low[2 * shift :] @ low[: len(low) - 2 * shift]
        assert overlap == pytest.approx(float(shift == 0), abs=1e-12)
    high = low[::-1] * (-1.0) ** np.arange(len(low))
    n = (np.arange(len(low)) - moments) / moments
    for power in range(moments):
        assert high @ n**power == pytest.approx(0, abs=1e-8)
    assert abs(high @ n**moments) > 1e-4


def test_the_filter_of_two_moments_is_the_published_one():
    """Daubechies 1988, table 1: (1 + s, 3 + s, 3 - s, 1 - s) / (4 sqrt 2) with s = sqrt 3."""
    s = 3**0.5
    np.testing.assert_allclose(lowpass(2), np.array([1 + s, 3 + s, 3 - s, 1 - s]) / (4 * 2**0.5), atol=1e-12)


def test_haar_of_a_small_image_by_hand():
    image = torch.tensor([[1.0, 3.0, 5.0], [5.0, 7.0, 1.0]])
    # rows: (sum, difference) / sqrt 2 -> [6, 10, 6; -4, -4, 4] / sqrt 2; columns: the third stands alone
    s = 2**0.5
    expected = torch.tensor([[8.0, 6 / s, -2.0], [-4.0, 4 / s, 0.0]])
    torch.testing.assert_close(forward(image, 1, 1)[:, :2], expected[:, :2])
    torch.testing.assert_close(forward(image, 1, 1)[:, 2].abs(), expected[:, 2].abs())


@pytest.mark.parametrize("length", [8, 9, 16, 21])
@pytest.mark.parametrize("moments", [1, 2, 4, 7])
def test_one_level_is_an_orthonormal_matrix(length, moments):
    matrix = analysis(length, moments)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(length, dtype=matrix.dtype), rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("moments", [1, 2, 4])
def test_the_transform_is_orthonormal_on_any_size(size, moments):
    a, b = noise(2, *size), noise(2, *size, seed=1)
    there = forward(a, moments, 4)
    torch.testing.assert_close(backward(there, moments, 4), a)
    torch.testing.assert_close(torch.vdot(there.flatten(), forward(b, moments, 4).flatten()),
                               torch.vdot(a.flatten(), b.flatten()))  # fmt: skip
    assert not torch.allclose(there, a)


def test_a_ramp_has_no_details_inside():
    """Two vanishing moments: the details of a ramp vanish but where the grid closes on itself."""
    ramp = torch.arange(16, dtype=torch.float64).repeat(16, 1)
    details = forward(ramp, 2, 1)[:8, 8:]
    assert details[:, :-1].abs().max() < 1e-10
    assert (details[:, -1].abs() > 1).all()


def test_no_level_is_smaller_than_the_filter():
    assert corners(64, 50, 4, 4) == [(64, 50), (32, 25), (16, 13)]
    assert corners(64, 50, 4, 1) == [(64, 50)]
    assert corners(7, 50, 4, 4) == []


def test_soft_threshold_meets_the_subgradient_condition():
    """c minimises 1/2 |c - v|^2 + t |c|: v - c = t c / |c| where c is not 0, and |v| <= t where it is."""
    values, threshold = noise(200), 0.8
    c = soft(values, threshold)
    kept = c != 0
    assert 20 < kept.sum() < 180
    torch.testing.assert_close((values - c)[kept], threshold * c[kept] / c[kept].abs())
    assert (values[~kept].abs() <= threshold).all()
    assert soft(torch.zeros(3, dtype=torch.complex64), 0.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("real", [False, True])
def test_the_proximal_step_is_the_minimiser(real):
    """No nearby image has a lower value."""
    image, penalty = noise(1, 16, 12), Sparsity(0.5, 2, 2, real)

    def value(x):
        return (x - image).abs().square().sum() / 2 + penalty.value(x)[0]

    best, _ = penalty.proximal(image, None)
    assert bool(best.imag.any()) is not real
    for seed in range(20):
        change = 0.01 * noise(1, 16, 12, seed=seed)
        assert value(best + (change.real + 0j if real else change)) > value(best)


def test_with_every_sample_the_minimiser_is_the_proximal_step():
    measurement = undersampled(phantom(32), n_coils=4, complete=True)
    penalty = Sparsity(0.05, 4, 4)
    unit = measurement.scale[:, None, None]
    ours = minimise(measurement, penalty, 20).image
    torch.testing.assert_close(ours / unit, penalty.proximal(measurement.zero_filled / unit, None)[0])


@pytest.mark.slow
def test_the_minimiser_meets_the_optimality_condition():
    """For g = W A^H (y - A x) and c = W x: g = weight c / |c| where c is not 0, |g| <= weight where it is."""
    measurement = undersampled(phantom(32), n_coils=4, noise=0.01)
    weight = 0.02
    x = make_reconstructor("wavelet", weight=weight, iterations=600).reconstruct(measurement)
    unit = measurement.scale[:, None, None]
    gradient = forward((measurement.zero_filled - measurement.operator.normal(x)) / unit, 4, 4)
    c = forward(x / unit, 4, 4)
    kept = c.abs() > 1e-3
    assert 0.05 < kept.double().mean() < 0.95
    torch.testing.assert_close(gradient[kept], weight * c[kept] / c[kept].abs(), rtol=0, atol=0.05 * weight)
    assert gradient.abs().max() < 1.05 * weight


@pytest.mark.slow
def test_the_default_iterations_are_close_to_the_minimum():
    measurement = undersampled(phantom(48), n_coils=4, noise=0.01)
    default = make_reconstructor("wavelet")
    penalty = Sparsity(default.weight, default.moments, default.levels)
    short, long = (minimise(measurement, penalty, n).objective[-1].item() for n in (default.iterations, 400))
    assert short == pytest.approx(long, rel=0.02)


def test_the_objective_is_at_least_as_low_as_sigpys():
    app = pytest.importorskip("sigpy.mri.app", reason="sigpy, the oracle, is not installed")
    measurement = undersampled(phantom(48), n_coils=4, noise=0.01)
    scale, weight = measurement.scale.item(), 0.01
    theirs = app.L1WaveletRecon(
        measurement.kspace[0].numpy() / scale, measurement.operator.maps[0].numpy(), weight, wave_name="db4",
        weights=measurement.operator.mask[0].float().numpy(), max_iter=200, show_pbar=False,
    ).run()  # fmt: skip
    penalty = Sparsity(weight, 4, 4)
    ours = minimise(measurement, penalty, 200)

    def objective(x):
        residual = measurement.operator.forward(x) - measurement.kspace / scale
        return (residual.abs().square().sum() / 2 + penalty.value(x)[0]).item()

    theirs = torch.from_numpy(theirs).to(torch.complex64)[None]
    assert objective(ours.image / scale) == pytest.approx(ours.objective[-1].item(), rel=1e-4)
    assert ours.objective[-1].item() <= objective(theirs) * (1 + 1e-4)
    # their wavelets end at the border, ours go round it: much the same image
    assert (ours.image / scale - theirs).norm() < 0.1 * theirs.norm()


@pytest.mark.slow
@pytest.mark.parametrize(("n_coils", "decibels"), [(1, 2), (4, 5)])
def test_a_piecewise_constant_image_gains_decibels(n_coils, decibels):
    measurement = undersampled(phantom(48), n_coils, noise=0.002)
    image = make_reconstructor("wavelet", moments=1).reconstruct(measurement)
    assert psnr(phantom(48), image) > psnr(phantom(48), measurement.zero_filled) + decibels
