"""Losses by hand: two slices of two pixels."""

from dataclasses import replace

import pytest
import torch

from fedrecon.sites.imaging.measurement import Held, Measurement
from fedrecon.sites.imaging.operator import Cartesian
from fedrecon.sites.training import losses
from fedrecon.sites.training.losses import LOSSES


def batch(reference=True, target=True):
    ones = torch.ones(2, 1, 1, 2, dtype=torch.complex64)
    return Measurement(
        kspace=ones,
        operator=Cartesian(ones.abs() > 0, ones),
        zero_filled=ones[:, 0],
        scale=torch.tensor([1.0, 2.0]),
        target=torch.tensor([[[1 + 1j, 0]], [[2, 2j]]]) if target else None,
        reference=torch.tensor([[[5.0, 1.0]], [[2.0, 2.0]]]) if reference else None,
    )


IMAGE = torch.tensor([[[3 + 4j, 0]], [[-4, 6j]]])  # magnitudes 5, 0 and 4, 6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", (0 + 1 + 2 / 2 + 4 / 2) / 4),
        ("mse", (0 + 1 + 1**2 + 2**2) / 4),
        ("complex_l1", ((2 + 3) + 0 + 6 / 2 + 4 / 2) / 4),
    ],
)
def test_by_hand(name, expected):
    assert LOSSES[name](IMAGE, batch()).item() == pytest.approx(expected)


def drawn(shape=(2, 5, 4)):
    """An image, and a batch with another reference and target, whose samples are held in every second column."""
    draws = torch.Generator().manual_seed(0)
    image, target = (torch.randn(shape, dtype=torch.complex64, generator=draws) for _ in range(2))
    ones = torch.ones(shape[0], 1, *shape[1:], dtype=torch.complex64)
    operator = Cartesian(ones.abs() > 0, ones)
    return image, Measurement(
        ones, operator, ones[:, 0], torch.tensor([1.0, 2.0]), target, target.abs(), held=held(target)
    )


def held(target):
    """The samples of an image of one coil in every second column."""
    mask = (torch.arange(target.shape[-1]) % 2 == 0).expand(len(target), 1, *target.shape[1:])
    operator = Cartesian(mask, torch.ones(len(target), 1, *target.shape[1:], dtype=target.dtype))
    return Held(operator, operator.forward(target))


@pytest.mark.parametrize("name", LOSSES)
def test_laws(name):
    """Zero at the truth, a gradient elsewhere, and no change when image, truth and scale change their unit."""
    start, given = drawn()
    image = start.clone().requires_grad_()
    LOSSES[name](image, given).backward()
    assert image.grad.abs().sum() > 0
    truth = given.target if name.startswith("complex") or name == "ssdu" else given.reference.to(torch.complex64)
    assert LOSSES[name](truth, given).item() == pytest.approx(0, abs=1e-6)
    scaled = replace(
        given,
        scale=8 * given.scale,
        target=8 * given.target,
        reference=8 * given.reference,
        held=held(8 * given.target),
    )
    assert LOSSES[name](8 * start, scaled).item() == pytest.approx(LOSSES[name](start, given).item())


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    image, given = drawn((2, 4, 3))
    real = image.abs().double() + 0.5
    target = given.target.to(torch.complex128)
    doubled = replace(given, target=target, reference=given.reference.double(), held=held(target))
    function = LOSSES[name]
    assert torch.autograd.gradcheck(lambda x: function(x, doubled), (real.requires_grad_(),), atol=1e-4, rtol=1e-3)


def square(values, reference, scale=1.0):
    """One slice of a real image and its reference."""
    image, truth = (torch.tensor([one], dtype=torch.float32) for one in (values, reference))
    ones = torch.ones(1, 1, *truth.shape[1:], dtype=torch.complex64)
    batch = Measurement(ones, Cartesian(ones.abs() > 0, ones), ones[:, 0], torch.tensor([scale]), None, truth)
    return image.to(torch.complex64), batch


def test_gradient_profiles_by_hand():
    """[[0, 1], [2, 5]] against [[0, 1], [1, 1]].

    Differences down: image (2, 4), reference (1, 0), one row of two and two columns of one. The row's cosine is
    2 / sqrt(20); the columns' are 1 and (4 against 0) 0. Differences across: image (1; 3), reference (1; 0): the
    column's cosine is 1 / sqrt(10); the rows' are 1 and 0.
    """
    image, batch = square([[0, 1], [2, 5]], [[0, 1], [1, 1]])
    down = (1 - 2 / 20**0.5) + (0 + 1) / 2
    across = (1 - 1 / 10**0.5) + (0 + 1) / 2
    assert LOSSES["gradient_profile"](image, batch).item() == pytest.approx(down + across, abs=1e-3)


def test_gradient_profiles_know_neither_brightness_nor_contrast():
    """A constant added and a positive factor change nothing; a mirrored image does."""
    _, batch = drawn()
    for moved in (batch.reference + 3, 5 * batch.reference):
        assert LOSSES["gradient_profile"](moved.to(torch.complex64), batch).item() == pytest.approx(0, abs=1e-5)
    assert LOSSES["gradient_profile"](batch.reference.flip(-1).to(torch.complex64), batch).item() > 0.5


def test_profiles_without_gradients_agree():
    image, batch = square([[2.0] * 3] * 3, [[7.0] * 3] * 3)
    assert LOSSES["gradient_profile"](image, batch).item() == pytest.approx(0, abs=1e-6)


def test_gradient_magnitudes_by_hand():
    """A 3 x 3 image has one inner pixel: central differences (6 / 2, 8 / 2) make 5; the reference is flat; scale 2."""
    image, batch = square([[9, 1, 9], [2, 9, 10], [9, 7, 9]], [[1.0] * 3] * 3, scale=2.0)
    assert LOSSES["gradient_magnitude"](image, batch).item() == pytest.approx(5 / 2, abs=1e-3)
    inverted, same = square([[9, 7, 9], [10, 9, 2], [9, 1, 9]], [[9, 1, 9], [2, 9, 10], [9, 7, 9]])
    assert LOSSES["gradient_magnitude"](inverted, same).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_a_sum_of_losses_is_the_weighted_sum():
    image, given = drawn()
    weights = {"l1": 2.0, "gradient_profile": 0.5}
    parts = losses.terms(weights, image, given)
    assert list(parts) == list(weights)
    expected = 2 * LOSSES["l1"](image, given) + 0.5 * LOSSES["gradient_profile"](image, given)
    torch.testing.assert_close(losses.of(weights, image, given), expected)
    torch.testing.assert_close(losses.of("mse", image, given), LOSSES["mse"](image, given))


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="reference"):
        LOSSES["l1"](IMAGE, batch(reference=False))
    with pytest.raises(ValueError, match="fully sampled complex"):
        LOSSES["complex_l1"](IMAGE, batch(target=False))
