"""Augmentations of a discriminator's images: none at probability 0, all at 1, differentiable, air stays air."""

import pytest
import torch

from fedrecon.strategies import augmentation
from fedrecon.strategies.augmentation import augmented


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def head(n=6):
    """Air is -1; an off-centre block is bright."""
    images = torch.full((n, 1, 32, 32), -1.0)
    images[..., 10:20, 6:16] = 0.6
    return images


def test_at_probability_zero_nothing_changes_and_the_draws_move_all_the_same():
    generator, other = draws(), draws()
    images = head()
    assert torch.equal(augmented(images, 0.0, generator, -1.0), images)
    augmented(images, 1.0, other, -1.0)
    assert torch.equal(generator.get_state(), other.get_state())


def test_half_the_images_change_at_half_the_probability(monkeypatch):
    for name in ("TURN", "SCALE", "SHIFT", "BRIGHTNESS"):
        monkeypatch.setattr(augmentation, name, 0.0)
    images = head(400)
    mirrored = (augmented(images, 0.5, draws(), -1.0) != images).flatten(1).any(1)
    assert 0.15 < mirrored.float().mean() < 0.35  # a mirror is drawn half the time
    again = augmented(images, 1.0, draws(), -1.0)
    flipped = images.flip(-1)
    is_flip = torch.isclose(again, flipped, atol=1e-5).flatten(1).all(1)
    is_same = torch.isclose(again, images, atol=1e-5).flatten(1).all(1)
    assert (is_flip | is_same).all()
    assert 0.4 < is_flip.float().mean() < 0.6


@pytest.mark.parametrize("empty", [-1.0, 0.0])
def test_air_stays_air(empty):
    images = torch.full((8, 2, 32, 32), empty)
    torch.testing.assert_close(augmented(images, 1.0, draws(), empty), images)


def test_brightness_scales_what_lies_above_air(monkeypatch):
    for name in ("TURN", "SCALE", "SHIFT"):
        monkeypatch.setattr(augmentation, name, 0.0)
    monkeypatch.setattr(augmentation, "BRIGHTNESS", 1.0)
    changed = augmented(head(), 1.0, draws(), -1.0)
    assert (changed.amin((1, 2, 3)) == -1).all()
    peaks = changed.amax((1, 2, 3)) + 1
    assert len({round(float(one), 4) for one in peaks}) == 6


def test_a_gradient_flows_to_every_image():
    images = head().requires_grad_()
    augmented(images, 1.0, draws(), -1.0).square().sum().backward()
    assert images.grad.flatten(1).any(1).all()


def test_images_draw_for_themselves():
    changed = augmented(head(), 1.0, draws(), -1.0)
    assert len({one.sum().item() for one in changed}) == 6
    assert changed.shape == (6, 1, 32, 32)
