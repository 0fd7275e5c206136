"""Two grids over one field of view: where their pixels lie, by waves whose values are known everywhere."""

import pytest
import torch

from fedrecon.sites.imaging.fourier import fft2c, ifft2c
from fedrecon.sites.imaging.masks.mask import centred
from fedrecon.sites.imaging.resampling import bicubic, bicubic_upsampled, blurred, low_resolution, zero_padded

SIZES = [(2, 16, 24), (2, 10, 6), (3, 15, 24), (3, 9, 18), (4, 16, 36), (4, 20, 12)]


def wave(y, x, rows, columns, turns=(1, -2), phase=0.3):
    """cos(2 pi (turns . (place + 1/2) / size) + phase) at these places of a field of y x pixels."""
    down = turns[0] * (rows + 0.5) / y
    across = turns[1] * (columns + 0.5) / x
    return torch.cos(2 * torch.pi * (down[:, None] + across[None]) + phase)


def fine(y, x, **options):
    return wave(y, x, torch.arange(y), torch.arange(x), **options)


def coarse(y, x, scale, **options):
    """The same wave at the centres of blocks of scale x scale pixels."""
    rows, columns = (torch.arange(n // scale) * scale + (scale - 1) / 2 for n in (y, x))
    return wave(y, x, rows, columns, **options)


@pytest.mark.parametrize(("scale", "y", "x"), SIZES)
def test_truncated_k_space_samples_a_wave_at_the_centres_of_the_blocks(scale, y, x):
    turns = (1, 0) if min(y, x) // scale <= 4 else (1, -2)
    low = low_resolution(fft2c(fine(y, x, turns=turns).to(torch.complex64)), scale)
    torch.testing.assert_close(low.real, coarse(y, x, scale, turns=turns), rtol=0, atol=1e-5)
    assert low.imag.abs().max() < 1e-5


@pytest.mark.parametrize(("scale", "y", "x"), SIZES)
def test_zero_padding_undoes_it(scale, y, x):
    kspace = torch.randn(2, y, x, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    box = torch.zeros(y, x, dtype=torch.bool)
    box[centred(y, y // scale), centred(x, x // scale)] = True
    low = low_resolution(kspace, scale)
    torch.testing.assert_close(zero_padded(low, scale), ifft2c(box * kspace), rtol=0, atol=1e-5)
    torch.testing.assert_close(low_resolution(fft2c(zero_padded(low, scale)), scale), low, rtol=0, atol=1e-5)


def test_a_constant_stays_the_same_constant():
    ones = torch.full((12, 12), 3.0, dtype=torch.complex64)
    torch.testing.assert_close(low_resolution(fft2c(ones), 3), torch.full((4, 4), 3.0 + 0j))
    torch.testing.assert_close(zero_padded(torch.full((4, 4), 3.0), 3), ones)


@pytest.mark.parametrize(("scale", "size"), [(2, 22), (3, 27), (4, 36)])
def test_a_mirrored_image_has_the_mirrored_low_resolution(scale, size):
    """The centres of blocks are symmetric; samples at every scale-th pixel would not be. Any image, odd coarse size."""
    image = torch.randn(size, size, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    low = low_resolution(fft2c(image), scale)
    for axes in ((-1,), (-2,)):
        torch.testing.assert_close(low_resolution(fft2c(image.flip(axes)), scale), low.flip(axes), rtol=0, atol=1e-5)
    torch.testing.assert_close(low_resolution(fft2c(image.mT), scale), low.mT, rtol=0, atol=1e-5)


def test_of_an_even_size_all_but_the_line_without_a_partner_is_mirrored():
    image = torch.randn(24, 24, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    one, other = (fft2c(low_resolution(fft2c(x), 2)) for x in (image.flip(-1), image))
    mirrored = fft2c(ifft2c(other).flip(-1))
    torch.testing.assert_close(one[:, 1:], mirrored[:, 1:], rtol=0, atol=1e-5)
    assert (one[:, 0] - mirrored[:, 0]).abs().max() > 0.1


def test_the_cubic_kernel_by_hand():
    """Keys with a = -1/2 at distances 5/4, 1/4, 3/4, 7/4: what lies a quarter beside a pixel."""
    expected = torch.tensor([-0.0703125, 0.8671875, 0.2265625, -0.0234375])
    torch.testing.assert_close(bicubic(8, 16)[9, 3:7], expected)
    torch.testing.assert_close(bicubic(8, 16)[8, 2:6], expected.flip(0))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_interpolation_keeps_constants_and_slopes(scale):
    ramp = torch.arange(12) * 1.0
    up = bicubic_upsampled(ramp[None, :].expand(12, 12), scale)
    inside = up[scale * 6, 2 * scale : -2 * scale]
    expected = (torch.arange(12 * scale) + 0.5) / scale - 0.5
    torch.testing.assert_close(inside, expected[2 * scale : -2 * scale], rtol=0, atol=1e-4)
    torch.testing.assert_close(bicubic(12, 12 * scale).sum(dim=1), torch.ones(12 * scale))
    torch.testing.assert_close(bicubic(12 * scale, 12).sum(dim=1), torch.ones(12))


@pytest.mark.parametrize("scale", [2, 4])
def test_interpolation_of_truncated_k_space_moves_nothing(scale):
    """A wave comes back to a hundredth; half a coarse pixel aside it would be wrong by more than ten times that."""
    size, turns = 64, (2, 1)
    image = fine(size, size, turns=turns)
    up = bicubic_upsampled(low_resolution(fft2c(image.to(torch.complex64)), scale).real, scale)
    error = (up - image)[8:-8, 8:-8].abs().max()
    shift = (scale - 1) / 2
    moved = wave(size, size, torch.arange(size) + shift, torch.arange(size) + shift, turns=turns)
    assert error < 0.02
    assert (moved - image).abs().max() > 5 * error


def test_the_blur_by_hand():
    """Two coarse pixels of 2, a Gaussian of deviation 1 around 1/2 and 5/2."""
    weights = torch.exp(-0.5 * torch.tensor([0.5, 0.5, 1.5, 2.5]) ** 2)
    expected = weights / weights.sum()
    torch.testing.assert_close(blurred(4, 2, 1.0), torch.stack([expected, expected.flip(0)]))
