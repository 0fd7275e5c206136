"""What a scanner undersampled is measured slice by slice: no image depends on the slices beside it."""

import numpy as np
import pytest
import torch

from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.sites.imaging.masks.mask import calibration_box, slice_boxes
from fedrecon.sites.imaging.measurement import as_measured


def undersampled(n_slices=5, n_coils=3, size=40):
    """K-space (slices, coils, y, x) complex64 of smooth objects, each slice with a mask of its own."""
    family = MASKS["gaussian2d"](acceleration=3, center_fraction=0.12, width=1.5)
    masks = np.stack([family.sample((size, size), seed) for seed in range(n_slices)])
    rng = np.random.default_rng(0)
    far = np.hypot(*(np.mgrid[:size, :size] - size // 2))
    values = rng.normal(size=(n_slices, n_coils, size, size, 2)) @ [1, 1j] / (1 + far)
    return (values * masks[:, None]).astype(np.complex64), masks


def measured(kspace, masks):
    return as_measured(torch.from_numpy(kspace), masks, True, slice_boxes("v", masks))


def test_a_slice_alone_and_among_others_are_the_same_bits():
    kspace, masks = undersampled()
    boxes = slice_boxes("v", masks)
    assert boxes == [calibration_box(one) for one in masks]
    assert len(set(boxes)) > 1
    whole = measured(kspace, masks)
    for one in range(len(kspace)):
        alone = measured(kspace[one : one + 1], masks[one : one + 1])
        assert torch.equal(alone.zero_filled[0], whole.zero_filled[one])
        assert torch.equal(alone.operator.maps[0], whole.operator.maps[one])
    turned = measured(kspace[::-1].copy(), masks[::-1].copy())
    assert torch.equal(turned.zero_filled.flip(0), whole.zero_filled)


def test_a_slice_without_its_centre_is_named():
    _, masks = undersampled()
    masks[3, 20, 20] = False
    with pytest.raises(InputError, match=r"volume 'v', slice 3: .* was not measured"):
        slice_boxes("v", masks)
    with pytest.raises(InputError, match="slice 7:"):
        slice_boxes("v", masks[3:], first=7)
