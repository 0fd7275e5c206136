"""Low-rank completion: what is of low rank is recovered, and each step is that of the Hankel matrix."""

import pytest
import torch
from torch.nn import functional as F

from fedrecon.sites.classical import make_reconstructor
from fedrecon.sites.classical.hankel import averages, complete, gram
from fedrecon.sites.imaging.fourier import fft2c, ifft2c


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def hankel(kspace, kernel):
    """(b, c kernel^2, y x): a window of all coils a column, going round the border."""
    k = kernel - 1
    around = torch.cat([kspace, kspace[..., :k, :]], dim=-2)
    return F.unfold(torch.cat([around, around[..., :k]], dim=-1), kernel)


def step_written_out(kspace, mask, kernel, rank):
    """One iteration as the paper has it: truncated SVD of the Hankel matrix, averages, measured samples."""
    (y, x), k = kspace.shape[-2:], kernel - 1
    u, s, vh = torch.linalg.svd(hankel(kspace, kernel), full_matrices=False)
    truncated = u[..., :rank] * s[:, None, :rank] @ vh[:, :rank]
    summed = F.fold(truncated, (y + k, x + k), kernel)
    summed[..., :k, :] += summed[..., y:, :]
    summed[..., :k] += summed[..., x:]
    return torch.where(mask, kspace, summed[..., :y, :x] / kernel**2)


@pytest.mark.parametrize("size", [(12, 12), (13, 10), (9, 16)])
@pytest.mark.parametrize(("n_coils", "kernel"), [(1, 3), (3, 3), (2, 4)])
def test_an_iteration_is_that_of_the_hankel_matrix(size, n_coils, kernel):
    mask = noise(2, 1, *size, seed=1).real < 0
    kspace = mask * noise(2, n_coils, *size)
    expected = step_written_out(step_written_out(kspace, mask, kernel, 5), mask, kernel, 5)
    torch.testing.assert_close(complete(kspace, mask, kernel, 5, 2), expected, rtol=0, atol=1e-4)


def test_the_gram_matrix_and_the_averages_of_two_samples_a_window():
    """One coil, one row of windows: lags -1, 0, 1 hold conj(r), s, r."""
    correlations = torch.zeros(1, 1, 1, 3, 3, dtype=torch.complex64)
    correlations[0, 0, 0, 1] = torch.tensor([2 - 1j, 7, 2 + 1j])
    found = gram(correlations)[0]
    # rows and columns of the matrix are (0, 0), (0, 1), (1, 0), (1, 1); windows of other rows have nothing in common
    block = torch.tensor([[7, 2 - 1j], [2 + 1j, 7]])
    torch.testing.assert_close(found, torch.block_diag(block, block))
    torch.testing.assert_close(
        averages(torch.eye(4)[None], 2)[0, 0, 0], torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    )


@pytest.mark.slow
def test_few_bright_pixels_are_recovered_from_one_coil():
    """The k-space of r pixels is a sum of r waves, so its Hankel matrix has rank r."""
    image = torch.zeros(1, 1, 24, 21, dtype=torch.complex64)
    for n, (y, x) in enumerate([(3, 4), (10, 15), (20, 8), (13, 2), (6, 19)]):
        image[..., y, x] = 5 * torch.polar(torch.tensor(1.0 + n / 4), torch.tensor(float(n)))
    kspace = fft2c(image)
    assert torch.linalg.matrix_rank(hankel(kspace, 5), rtol=1e-4) == 5
    mask = noise(1, 1, 24, 21).real > 0.3
    assert mask.double().mean() < 0.5
    found = complete(mask * kspace, mask, kernel=5, rank=5, iterations=100)
    torch.testing.assert_close(ifft2c(found), image, rtol=0, atol=1e-3)
    assert (mask * kspace - kspace).norm() > 0.5 * kspace.norm()


@pytest.mark.slow
def test_smooth_coils_make_the_rank_low_and_are_recovered():
    """Maps of 2 x 2 harmonics: windows of 4 coils, 5 x 5, are combinations of the 6 x 6 samples of one image."""
    size = (32, 30)
    image = noise(1, 1, *size)
    y, x = torch.meshgrid(*(2j * torch.pi * torch.arange(n) / n for n in size), indexing="ij")
    harmonics = torch.stack([torch.ones_like(y), y.exp(), x.exp(), (x + y).exp()])
    maps = torch.einsum("ch,hyx->cyx", noise(4, 4), harmonics)
    kspace = fft2c(maps * image)
    assert torch.linalg.matrix_rank(hankel(kspace, 5), rtol=1e-4) == 36
    # of a checkerboard every sample of the image is seen by some measured one
    mask = (noise(1, 1, *size, seed=5).real > 1) | ((torch.arange(32)[:, None] + torch.arange(30)) % 2 == 0)
    found = make_reconstructor("low_rank", rank=36, iterations=300).complete(mask * kspace, mask)
    assert (found - kspace).norm() < 0.01 * kspace.norm()
    assert (mask * kspace - kspace).norm() > 0.5 * kspace.norm()


def test_a_rank_that_says_nothing_leaves_what_was_measured():
    mask = noise(1, 1, 9, 8).real > 0
    kspace = mask * noise(1, 2, 9, 8, seed=1)
    assert torch.equal(torch.view_as_real(complete(kspace, mask, 3, 18, 5)), torch.view_as_real(kspace))
    assert not torch.equal(torch.view_as_real(complete(kspace, mask, 3, 17, 5)), torch.view_as_real(kspace))


def test_many_slices_are_solved_in_parts(monkeypatch):
    from fedrecon.sites.classical import hankel as module

    mask = noise(3, 1, 12, 11).real > 0
    kspace = mask * noise(3, 2, 12, 11, seed=1)
    whole = complete(kspace, mask, 3, 6, 4)
    monkeypatch.setattr(module, "_NUMBERS", 2 * 2 * 12 * 11)
    torch.testing.assert_close(complete(kspace, mask, 3, 6, 4), whole, rtol=0, atol=1e-5)
