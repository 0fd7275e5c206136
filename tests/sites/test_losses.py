"""Losses by hand: two slices of two pixels."""

import pytest
import torch

from fedrecon.sites.imaging.measurement import Measurement
from fedrecon.sites.imaging.operator import Cartesian
from fedrecon.sites.losses import LOSSES


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


@pytest.mark.parametrize("name", LOSSES)
def test_laws(name):
    """Zero at the truth, a gradient elsewhere, and no change when image, truth and scale change their unit."""
    image = IMAGE.clone().requires_grad_()
    LOSSES[name](image, batch()).backward()
    assert image.grad.abs().sum() > 0
    given = batch()
    truth = given.target if name.startswith("complex") else given.reference.to(torch.complex64)
    assert LOSSES[name](truth, given).item() == 0
    scaled = Measurement(
        given.kspace, given.operator, given.zero_filled, 8 * given.scale, 8 * given.target, 8 * given.reference
    )
    assert LOSSES[name](8 * IMAGE, scaled).item() == pytest.approx(LOSSES[name](IMAGE, given).item())


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="reference"):
        LOSSES["l1"](IMAGE, batch(reference=False))
    with pytest.raises(ValueError, match="fully sampled complex"):
        LOSSES["complex_l1"](IMAGE, batch(target=False))
