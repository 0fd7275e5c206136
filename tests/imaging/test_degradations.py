"""Laws of every degradation of the registry: a linear operator, its low-resolution image, what it refuses."""

import pytest
import torch

from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.coils import rss
from fedrecon.sites.imaging.degradations import DEGRADATIONS
from fedrecon.sites.imaging.fourier import fft2c
from fedrecon.sites.imaging.operator import Cartesian
from fedrecon.sites.imaging.resampling import zero_padded

SHAPE = (36, 48)
EVERY = [(name, scale) for name in DEGRADATIONS for scale in (2, 3, 4)]


def measured(name, scale, coils=1, factor=1.0, shape=SHAPE):
    draws = torch.Generator().manual_seed(0)
    smooth = torch.ones(2, coils, *shape) + 0.3 * torch.linspace(-1, 1, shape[1])
    maps = torch.polar(smooth, 0.2 * torch.arange(coils)[None, :, None, None] * torch.ones_like(smooth))
    maps = maps / rss(maps).unsqueeze(1)
    image = torch.randn(2, *shape, dtype=torch.complex64, generator=draws)
    image = image + 4 * torch.hann_window(shape[1])
    one = DEGRADATIONS[name](scale=scale).measure(factor * fft2c(maps * image.unsqueeze(1)), maps)
    return one, factor * image


def vdot(a, b):
    return torch.vdot(a.flatten().to(torch.complex128), b.flatten().to(torch.complex128))


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_shapes_and_that_all_of_it_follows_from_the_samples(name, scale, coils):
    one, _ = measured(name, scale, coils)
    small = (2, SHAPE[0] // scale, SHAPE[1] // scale)
    assert one.low.shape == small
    assert one.factor == scale
    assert one.zero_filled.shape == (2, *SHAPE)
    torch.testing.assert_close(one.scale, one.zero_filled.abs().amax(dim=(1, 2)))
    n_samples = one.operator.mask.expand(one.kspace.shape)[:, :1].sum()
    assert n_samples == 2 * small[1] * small[2]
    assert one.operator.zero_filled(one.kspace).shape == (2, *SHAPE)


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_the_operator_made_the_samples_and_is_linear(name, scale):
    one, image = measured(name, scale)
    a = one.operator
    torch.testing.assert_close(a.forward(image), one.kspace, rtol=0, atol=1e-4)
    samples = torch.randn(one.kspace.shape, dtype=torch.complex64) * a.mask
    left, right = vdot(a.forward(image), samples), vdot(image, a.adjoint(samples))
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(a.normal(image), a.adjoint(a.forward(image)))


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_the_largest_singular_value_is_one(name, scale):
    one, image = measured(name, scale)
    for _ in range(200):
        image = image / image.norm()
        image = one.operator.normal(image)
    assert float(image.norm()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_a_projected_image_agrees_with_the_samples_and_stays_where_it_is(name, scale):
    one, _ = measured(name, scale)
    a = one.operator
    other = torch.randn(2, *SHAPE, dtype=torch.complex64)
    projected = a.project(other, one.kspace)
    torch.testing.assert_close(a.forward(projected), one.kspace, rtol=0, atol=1e-4 * float(one.kspace.abs().max()))
    torch.testing.assert_close(a.project(projected, one.kspace), projected, rtol=0, atol=1e-4)


def test_what_a_wide_blur_all_but_loses_is_left_alone():
    """Half of the singular values are below 0.01 then: putting the samples back must not blow noise up."""
    kspace = torch.randn(1, 1, 32, 32, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    one = DEGRADATIONS["blur-downsample"](scale=2, deviation=2.0).measure(kspace, torch.ones_like(kspace))
    noisy = one.kspace + 1e-3 * one.kspace.abs().max()
    moved = one.operator.project(one.zero_filled, noisy) - one.operator.project(one.zero_filled, one.kspace)
    assert moved.abs().max() < 0.5 * one.kspace.abs().max()


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_scaled_data_has_the_scaled_low_resolution(name, scale):
    one, _ = measured(name, scale, coils=2)
    thousand, _ = measured(name, scale, coils=2, factor=1e3)
    torch.testing.assert_close(thousand.low, 1e3 * one.low, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_an_image_of_low_resolution_is_taken_as_it_is(name, scale):
    low = torch.rand(3, 12, 10).to(torch.complex64)
    one = DEGRADATIONS[name](scale=scale).given(low)
    torch.testing.assert_close(one.low, low, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.zero_filled, zero_padded(low, scale), rtol=0, atol=1e-5)
    torch.testing.assert_close(one.operator.zero_filled(one.kspace), one.zero_filled.abs(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_constant_keeps_its_intensity(name):
    ones = torch.ones(1, 1, *SHAPE, dtype=torch.complex64)
    one = DEGRADATIONS[name](scale=2).measure(fft2c(5 * ones), ones)
    torch.testing.assert_close(one.low, torch.full_like(one.low, 5), rtol=0, atol=1e-4)


def test_only_truncated_k_space_is_k_space():
    for name, kind in DEGRADATIONS.items():
        assert kind.in_kspace == isinstance(measured(name, 2)[0].operator, Cartesian)


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize(
    ("shape", "scale", "message"),
    [
        ((64, 64), 3, "does not divide the matrix 64 x 64; scale 2 or 4 does"),
        ((35, 35), 2, "no scale of 2, 3, 4 does"),
        ((24, 24), 4, "would leave 6 x 6 of 24 x 24"),
    ],
)
def test_what_cannot_be_is_refused(name, shape, scale, message):
    with pytest.raises(InputError, match=message):
        DEGRADATIONS[name](scale=scale).check(shape)
