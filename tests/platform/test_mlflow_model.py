"""A model that MLflow loaded refuses what ``reconstruct`` refuses of a file, and says in one line why."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import make_volume

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.inference.given_volume import whole
from fedrecon.platform.inference.mlflow_model import LoggedNetwork
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.masks import MASKS


class Repeats:
    """A site that gives the zero-filled image back."""

    device, scoring_batch = torch.device("cpu"), 8
    plan = SimpleNamespace(images=SimpleNamespace(complex_valued=False))

    def reconstruct(self, request, measurement, subject):
        del request, subject
        return measurement.zero_filled


MODEL = LoggedNetwork(Experiment.read({"sites": "d"}), "", (), Repeats(), None)
WHOLE = make_volume("scan", "test", 3, 2, 5)
MASK = np.stack([MASKS["random"](acceleration=3, center_fraction=0.16).sample((32, 32), seed) for seed in range(3)])
KSPACE = (WHOLE.kspace * MASK[:, None]).astype(np.complex64)

SHIFTED = np.fft.ifft(np.fft.ifftshift(KSPACE, axes=-2), axis=-2)
IMAGE_IN_Y = np.fft.fftshift(SHIFTED, axes=-2).astype(np.complex64)


def test_each_kind_of_mask_gives_the_same_image_and_a_slice_does_not_see_the_others():
    image = MODEL.predict({"kspace": KSPACE, "mask": MASK})
    assert image.shape == (3, 32, 32)
    assert np.array_equal(MODEL.predict({"kspace": KSPACE.astype(np.complex128), "mask": MASK.astype(int)}), image)
    assert np.array_equal(MODEL.predict({"kspace": WHOLE.kspace, "mask": MASK}), image)
    for one in range(3):
        alone = MODEL.predict({"kspace": KSPACE[one : one + 1], "mask": MASK[one : one + 1]})
        assert np.array_equal(alone[0], image[one])


def without_centre(mask):
    mask = mask.copy()
    mask[1, 16, 16] = False
    return mask


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mask": MASK}, "missing: kspace"),
        ({"kspace": KSPACE}, "missing: mask"),
        ({"kspace": KSPACE[0], "mask": MASK[0]}, r"got \(2, 32, 32\) and"),
        ({"kspace": KSPACE, "mask": MASK[:2]}, r"and \(2, 32, 32\)"),
        ({"kspace": KSPACE.real, "mask": MASK}, "complex numbers, got float32"),
        ({"kspace": np.full(KSPACE.shape, "1"), "mask": MASK}, "complex numbers"),
        ({"kspace": KSPACE * np.nan, "mask": MASK}, "NaN or infinity"),
        ({"kspace": KSPACE.astype(np.complex128) * 1e200, "mask": MASK}, "NaN or infinity"),
        ({"kspace": KSPACE * 0, "mask": MASK}, "slice 0 of the k-space is all zero"),
        ({"kspace": KSPACE[:0], "mask": MASK[:0]}, "zero slices"),
        ({"kspace": KSPACE[:, :0], "mask": MASK}, "is empty"),
        ({"kspace": np.fft.fftshift(KSPACE, axes=-2), "mask": np.fft.fftshift(MASK, axes=-2)}, "DC is not at N//2"),
        ({"kspace": IMAGE_IN_Y, "mask": MASK}, "along y the values are those"),
        ({"kspace": KSPACE, "mask": np.ones_like(MASK)}, "slice 0: the mask says"),
        ({"kspace": KSPACE, "mask": np.where(MASK, 1.0, np.nan)}, "a mask is True where"),
        ({"kspace": KSPACE, "mask": MASK * 255}, "a mask is True where"),
        ({"kspace": KSPACE, "mask": without_centre(MASK)}, "volume 'input', slice 1: the centre"),
    ],
)
def test_what_is_no_input_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        MODEL.predict(given)


def test_a_noise_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="noise = 'abc': a number is needed"):
        MODEL.predict({"kspace": KSPACE, "mask": MASK}, {"noise": "abc"})


def test_only_a_whole_scan_is_enlarged_as_it_is():
    assert whole(WHOLE) is WHOLE
    padded = np.zeros((3, 2, 48, 48), np.complex64)
    padded[:, :, 8:40, 8:40] = WHOLE.kspace
    assert whole(replace(WHOLE, kspace=padded)).kspace is padded
    halved = WHOLE.kspace.copy()
    halved[1, :, :, 1::2] = 0  # of slice 1, 16 of 32 columns are left
    with pytest.raises(InputError, match="'scan': a slice has 50% of its samples"):
        whole(replace(WHOLE, kspace=halved))
