"""Small volumes with known k-space."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrecon.sites.data.pseudonyms import KEY_FILE, Pseudonyms
from fedrecon.sites.data.shard import Shard, VolumeData


def centred_fft(image: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Written out here so that the library's own transform is not its own oracle."""
    axes = (-2, -1)
    shifted = np.fft.ifftshift(image, axes=axes)
    return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=axes).astype(np.complex64)


def make_kspace(slices: int = 3, coils: int = 1, ny: int = 24, nx: int = 20, seed: int = 0) -> NDArray[np.complex64]:
    """K-space (slices, coils, y, x) of a bright box with texture, complex."""
    rng = np.random.default_rng(seed)
    image = np.zeros((slices, coils, ny, nx), np.complex64)
    inside = image[..., ny // 4 : -ny // 4, nx // 4 : -nx // 4]
    inside[...] = (2 + rng.random(inside.shape)) * np.exp(0.3j * np.arange(1, coils + 1))[:, None, None]
    return centred_fft(image)


def make_volume(name: str = "a_1", subject: str = "a", split: str = "train", **size: int) -> VolumeData:
    kspace = make_kspace(**size)
    axes = (-2, -1)
    shifted = np.fft.ifftshift(kspace, axes=axes)
    coil_images = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=axes)
    reference = np.sqrt((np.abs(coil_images) ** 2).sum(axis=1)).astype(np.float32)
    return VolumeData(name, subject, split, kspace, reference, 0.25, voxel_mm=(3.0, 1.0, 1.5))


class Imported(Shard):
    """A shard under the names of the files that it was made of; its key is beside it."""

    @classmethod
    def of(cls, path: Path) -> "Imported":
        return cls.open(path)

    @property
    def names(self) -> Pseudonyms:
        beside = self.path.with_name(KEY_FILE)
        return Pseudonyms.of(beside if beside.exists() else beside.parents[1] / KEY_FILE)

    def _by_name(self, name):
        known = {volume.name for volume in self.volumes}
        return super()._by_name(name if name in known else self.names.volume(name))
