"""TV by FISTA against scikit-image, a long run of itself, numbers by hand, and its gain on a phantom."""

import dataclasses

import numpy as np
import pytest
import torch

from fedrecon.sites.classical import make_reconstructor
from fedrecon.sites.classical.fista import minimise
from fedrecon.sites.classical.variation import Variation, divergence, gradient, proximal, total_variation
from fedrecon.sites.imaging.fourier import fft2c
from fedrecon.sites.imaging.masks import make_mask
from fedrecon.sites.imaging.measurement import measure


def phantom(size=64):
    """Flat ellipses on a dark ground, (1, y, x), maximum 1."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    ellipses = (
        (0, 0, 0.9, 0.7, 0.5),
        (0.1, 0.2, 0.3, 0.2, 0.5),
        (-0.4, -0.2, 0.2, 0.3, -0.3),
        (0.5, -0.1, 0.1, 0.2, 0.2),
    )
    image = torch.zeros(size, size)
    for cy, cx, ry, rx, value in ellipses:
        image += value * (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1)
    return image[None]


def unit_maps(n_coils, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij"))
    centres = torch.randn(n_coils, 2, generator=generator)
    distance = ((grid[None] - centres[..., None, None]) ** 2).sum(1)
    maps = torch.polar(torch.exp(-distance), 2 * distance)
    return (maps / torch.linalg.vector_norm(maps, dim=0))[None]


def undersampled(image, n_coils=1, acceleration=3.0, seed=3, noise=0.0, complete=False):
    size = image.shape[-1]
    maps = unit_maps(n_coils, size) if n_coils > 1 else torch.ones(1, 1, size, size, dtype=torch.complex64)
    mask = torch.as_tensor(make_mask("gaussian2d", acceleration=acceleration).sample((size, size), seed))
    mask = torch.ones_like(mask) if complete else mask
    kspace = fft2c(maps * image.to(torch.complex64)[:, None])
    generator = torch.Generator().manual_seed(seed)
    kspace = kspace + noise * torch.randn(kspace.shape, dtype=torch.complex64, generator=generator)
    batch = len(image)
    return measure(kspace, mask.expand(batch, 1, size, size), maps.expand(batch, -1, -1, -1))


def psnr(reference, image):
    return float(10 * torch.log10(reference.max() ** 2 / (reference - image.abs()).square().mean()))


def test_total_variation_of_two_by_two_pixels():
    image = torch.tensor([[[1, 4], [1, 5j]]], dtype=torch.complex64)
    # (0, 0): dy 0, dx 3 -> 3; (0, 1): dy 5j - 4 -> sqrt(41); (1, 0): dx 5j - 1 -> sqrt(26); (1, 1): 0
    assert total_variation(image).item() == pytest.approx(3 + 41**0.5 + 26**0.5)


def test_divergence_is_minus_the_adjoint_of_the_gradient():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, 5, dtype=torch.complex128, generator=generator)
    p = torch.randn(2, 2, 7, 5, dtype=torch.complex128, generator=generator)
    torch.testing.assert_close((gradient(x).conj() * p).sum(), -(x.conj() * divergence(p)).sum())


@pytest.mark.slow
def test_the_proximal_step_is_scikit_images_denoiser():
    from skimage.restoration import denoise_tv_chambolle

    generator = torch.Generator().manual_seed(0)
    noisy = phantom(32) + 0.1 * torch.randn(1, 32, 32, generator=generator)
    ours, _ = proximal(noisy.to(torch.complex64), 0.1, 300)
    # its weight multiplies TV against 1/2 |x - b|^2 as ours does
    theirs = denoise_tv_chambolle(noisy[0].numpy().astype(np.float64), weight=0.1, eps=1e-9, max_num_iter=3000)
    np.testing.assert_allclose(ours[0].real.numpy(), theirs, atol=2e-3)
    assert not ours.imag.any()


@pytest.mark.slow
def test_with_every_sample_the_minimiser_is_the_proximal_step():
    generator = torch.Generator().manual_seed(0)
    image = phantom(32) * torch.exp(1j * torch.rand(1, 32, 32, generator=generator))
    measurement = undersampled(image, n_coils=4, complete=True)
    ours = minimise(measurement, Variation(0.05, 10), 40).image
    unit = measurement.scale[:, None, None]
    expected, _ = proximal(measurement.zero_filled / unit, 0.05, 400)
    torch.testing.assert_close(ours / unit, expected, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_the_objective_is_the_stated_one_and_never_rises():
    image = torch.cat([phantom(), 100 * phantom().flip(-1)])
    measurement = undersampled(image, n_coils=4, noise=0.01)
    found = minimise(measurement, Variation(0.01, 5), 50)
    x, k = (t / s for t, s in ((found.image, measurement.scale[:, None, None]),
                               (measurement.kspace, measurement.scale[:, None, None, None])))  # fmt: skip
    residual = measurement.operator.forward(x) - k
    stated = residual.abs().square().sum((1, 2, 3)) / 2 + 0.01 * total_variation(x)
    torch.testing.assert_close(found.objective[-1], stated.double(), rtol=1e-4, atol=0)
    assert (found.objective.diff(dim=0) <= 0).all()
    assert (found.objective[-1] < 0.7 * found.objective[0]).all()


@pytest.mark.slow
def test_the_default_iterations_are_close_to_the_minimum():
    measurement = undersampled(phantom(32), noise=0.01)
    long = minimise(measurement, Variation(0.005, 10), 300)
    default = make_reconstructor("tv", weight=0.005)
    short = minimise(measurement, Variation(0.005, default.dual_iterations), default.iterations)
    assert short.objective[-1].item() == pytest.approx(long.objective[-1].item(), rel=0.02)
    assert (short.image - long.image).abs().square().mean().sqrt() < 0.01 * phantom().max()


def test_weight_zero_leaves_the_zero_filled_image_of_one_coil():
    measurement = undersampled(phantom(), noise=0.01)
    image = make_reconstructor("tv", weight=0.0).reconstruct(measurement)
    torch.testing.assert_close(image, measurement.zero_filled)


@pytest.mark.slow
def test_weight_zero_solves_least_squares_for_several_coils():
    measurement = undersampled(phantom(), n_coils=6, acceleration=2.0)
    image = make_reconstructor("tv", weight=0.0, iterations=200).reconstruct(measurement)
    residual = measurement.operator.forward(image) - measurement.kspace
    assert residual.abs().square().sum() < 1e-5 * measurement.kspace.abs().square().sum()


@pytest.mark.slow
@pytest.mark.parametrize("n_coils", [1, 4])
def test_a_piecewise_constant_image_gains_many_decibels(n_coils):
    measurement = undersampled(phantom(), n_coils, noise=0.002)
    image = make_reconstructor("tv", weight=0.002).reconstruct(measurement)
    assert psnr(phantom(), image) > psnr(phantom(), measurement.zero_filled) + 6


@pytest.mark.slow
def test_real_images_only_helps_where_the_image_is_real():
    measurement = undersampled(phantom(), acceleration=8.0, noise=0.02)
    free, real = (make_reconstructor("tv", real=real).reconstruct(measurement) for real in (False, True))
    assert not real.imag.any()
    assert free.imag.any()
    assert psnr(phantom(), real) > psnr(phantom(), free) + 0.5


@pytest.mark.slow
def test_slices_are_solved_apart_and_the_unit_does_not_matter():
    image = torch.cat([phantom(32), 1e-5 * phantom(32).flip(-1)])
    together = make_reconstructor("tv").reconstruct(undersampled(image))
    for n, factor in enumerate((1.0, 1e-5)):
        alone = make_reconstructor("tv").reconstruct(undersampled(image[n : n + 1] / factor))
        torch.testing.assert_close(together[n] / factor, alone[0], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_an_empty_slice_stays_empty():
    image = make_reconstructor("tv").reconstruct(undersampled(torch.zeros(1, 16, 16)))
    assert not image.any()


def test_only_measured_data_is_read():
    measurement = undersampled(phantom(32))
    told = dataclasses.replace(measurement, target=phantom(32).to(torch.complex64), reference=phantom(32))
    tv = make_reconstructor("tv", iterations=3)
    torch.testing.assert_close(tv.reconstruct(told), tv.reconstruct(measurement), rtol=0, atol=0)
