import io

import numpy as np
import pytest
from PIL import Image

from fedrecon.sites.scoring.panel import montage, panel


@pytest.fixture(scope="module")
def drawn():
    y, x = np.mgrid[-1:1:64j, -1:1:48j]
    reference = np.exp(-3 * (x**2 + y**2))
    wrong = reference.copy()
    wrong[:, 30:] += 0.2
    return reference, wrong, panel(reference, wrong, reference, 1.0, "site a, slice 1")


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(float)


def columns(image):
    """The four image areas: a quarter each of what is left of the colour bar, without the edges."""
    width = (image.shape[1] - 70) // 4
    return [image[50:-40, i * width + 20 : (i + 1) * width - 10] for i in range(4)]


@pytest.mark.slow
def test_it_is_a_small_png_with_four_images_that_are_seen(drawn):
    reference, zero_filled, output, error = columns(pixels(drawn[2]))
    assert len(drawn[2]) < 300_000
    for image in (reference, zero_filled, output):
        assert image.min() < 60
        assert image.max() > 240
        assert np.mean(image > 250) < 0.5
    assert np.median(error) < 20


@pytest.mark.slow
def test_a_right_reconstruction_looks_like_the_reference_and_a_wrong_one_does_not(drawn):
    reference, zero_filled, output, _ = columns(pixels(drawn[2]))
    assert np.abs(reference.mean() - output.mean()) < 1.5
    assert zero_filled.mean() - reference.mean() > 5


@pytest.mark.slow
def test_the_error_map_shows_a_wrong_reconstruction(drawn):
    reference, wrong, _ = drawn
    bad = columns(pixels(panel(reference, wrong, wrong, 1.0, "")))[3]
    assert bad[:, -30:].mean() - bad[:, :30].mean() > 100


@pytest.mark.slow
def test_complex_images_are_shown_by_their_magnitude(drawn):
    reference, wrong, png = drawn
    turned = (reference * 1j).astype(np.complex64)
    assert np.abs(pixels(panel(turned, wrong, turned, 1.0, "site a, slice 1")) - pixels(png)).max() <= 2


@pytest.mark.slow
def test_one_input_one_picture(drawn):
    reference, wrong, png = drawn
    assert panel(reference, wrong, reference, 1.0, "site a, slice 1") == png


def test_a_montage_stacks(drawn):
    one = pixels(drawn[2])
    sheet = pixels(montage([drawn[2], drawn[2]], gap=4))
    assert sheet.shape == (2 * one.shape[0] + 4, one.shape[1])
    assert (sheet[: one.shape[0]] == one).all()
    assert (sheet[-one.shape[0] :] == one).all()
    with pytest.raises(ValueError, match="at least one"):
        montage([])
