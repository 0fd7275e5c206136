"""Scores: hand-computed numbers, scikit-image as oracle, and slices that add up to volumes."""

import numpy as np
import pytest
import torch

from fedrecon.sites.imaging.metrics import (
    nmse,
    psnr,
    squared_error,
    squared_norm,
    ssim,
    ssim_slices,
    volume_scores,
)


def volumes(seed=0, shape=(5, 33, 40)):
    """A smooth positive reference whose slices differ in brightness, and a noisy copy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[1], : shape[2]]
    reference = 1 + np.sin(y / 4)[None] * np.cos(x / 5)[None] * np.linspace(0.2, 1, shape[0])[:, None, None]
    reference *= np.linspace(0.3, 2, shape[0])[:, None, None]
    return reference, np.abs(reference + 0.1 * rng.standard_normal(shape))


def test_hand_computed():
    reference = np.array([[[0.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    image = np.array([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]])
    assert nmse(reference, image) == pytest.approx(2 / 5)
    assert psnr(reference, image) == pytest.approx(10 * np.log10(4 / (2 / 8)))
    assert psnr(reference, image, maximum=1) == pytest.approx(10 * np.log10(1 / (2 / 8)))
    assert psnr(reference, reference) == float("inf")


def test_ssim_of_one_window_by_hand():
    """7 x 7, reference 48 zeros and a one, image zero: only the reference's mean and variance enter."""
    reference, image = np.zeros((1, 7, 7)), np.zeros((1, 7, 7))
    reference[0, 2, 3] = 1
    mean, variance = 1 / 49, (1 - 49 / 49**2) / 48
    c1, c2 = 0.01**2, 0.03**2
    expected = c1 / (mean**2 + c1) * c2 / (variance + c2)
    assert ssim(reference, image) == pytest.approx(expected, rel=1e-9)
    assert ssim(reference, reference) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_to_scikit_image(dtype):
    metrics = pytest.importorskip("skimage.metrics")
    reference, image = (x.astype(dtype) for x in volumes())
    peak = reference.max()
    expected = np.mean(
        [metrics.structural_similarity(a, b, data_range=peak) for a, b in zip(reference, image, strict=True)]
    )
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    assert ssim(reference, image) == pytest.approx(expected, abs=tolerance)
    assert psnr(reference, image) == pytest.approx(
        metrics.peak_signal_noise_ratio(reference, image, data_range=peak), abs=tolerance
    )
    root = metrics.normalized_root_mse(reference, image, normalization="euclidean")
    assert nmse(reference, image) == pytest.approx(root**2, rel=1e-5)


def test_the_data_range_is_the_volume_maximum():
    reference, image = volumes()
    per_slice = np.mean([ssim(a[None], b[None]) for a, b in zip(reference, image, strict=True)])
    assert abs(ssim(reference, image) - per_slice) > 0.01
    again = [ssim(a[None], b[None], reference.max()) for a, b in zip(reference, image, strict=True)]
    assert ssim(reference, image) == pytest.approx(np.mean(again), abs=1e-12)


def test_slices_on_a_device_add_up_to_the_volume():
    """Float32 on the way in, batches of any size, and maxima that differ within a batch."""
    reference, image = (x.astype(np.float32) for x in volumes(1))
    a, b = torch.from_numpy(reference), torch.from_numpy(image)
    peak = torch.full((5,), float(reference.max()))
    slices = torch.cat([ssim_slices(a[:2], b[:2], peak[:2]), ssim_slices(a[2:], b[2:], peak[2:])])
    assert slices.dtype == squared_error(a, b).dtype == squared_norm(a).dtype == torch.float64
    scores = volume_scores(
        squared_error(a, b).numpy(), squared_norm(a).numpy(), slices.numpy(), float(reference.max()), 33 * 40
    )
    assert scores["psnr"] == pytest.approx(psnr(reference, image), abs=1e-10)
    assert scores["nmse"] == pytest.approx(nmse(reference, image), rel=1e-12)
    assert scores["ssim"] == pytest.approx(ssim(reference, image), abs=1e-12)
    mixed = ssim_slices(a[:2], b[:2], torch.tensor([1.0, 2.0]))
    assert mixed[1].item() == pytest.approx(ssim(reference[1:2], image[1:2], 2.0), abs=1e-12)


def test_no_image_is_rescaled():
    reference, image = volumes()
    assert nmse(reference, 2 * reference) == pytest.approx(1)
    assert psnr(reference, 2 * image) < psnr(reference, image)


def test_ssim_has_a_gradient():
    reference, image = (torch.from_numpy(x[:1]) for x in volumes(shape=(1, 9, 9)))
    image = image.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ssim_slices(reference, x, torch.ones(1)), (image,))


def test_wrong_input_is_refused():
    flat = np.ones((8, 8))
    with pytest.raises(ValueError, match="two volumes"):
        nmse(flat, flat)
    with pytest.raises(ValueError, match="two volumes"):
        ssim(flat[None], np.ones((1, 8, 9)))
    with pytest.raises(ValueError, match="magnitude"):
        psnr(flat[None], flat[None] * 1j)
    with pytest.raises(ValueError, match="at least 7 x 7"):
        ssim(np.ones((1, 6, 9)), np.ones((1, 6, 9)))
