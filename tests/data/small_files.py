"""Small good files of every format."""

from pathlib import Path

import h5py
import numpy as np
from small_volumes import make_kspace

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
 <acquisitionSystemInformation><systemFieldStrength_T>2.89</systemFieldStrength_T></acquisitionSystemInformation>
 <encoding>
  <encodedSpace><matrixSize><x>24</x><y>20</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>48</x><y>60</y><z>4.5</z></fieldOfView_mm></encodedSpace>
  <encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>15</maximum><center>8</center>
   </kspace_encoding_step_1></encodingLimits>
 </encoding>
</ismrmrdHeader>"""


def write_fastmri(path: Path, kspace, **datasets) -> Path:
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        for key, value in datasets.items():
            file[key] = value
        file.attrs.update({"acquisition": "AXT2", "max": 1.0, "norm": 1.0, "patient_id": "anonymous"})
    return path


def rss(kspace):
    axes = (-2, -1)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)
    return np.sqrt((np.abs(images) ** 2).sum(axis=1))


def write_any(name: str, folder: Path, stem: str) -> Path:
    """A good file of the format ``name``."""
    import nibabel

    if name == "fastmri":
        return write_fastmri(folder / f"{stem}.h5", make_kspace(coils=2))
    if name == "npy":
        np.save(folder / f"{stem}.npy", make_kspace(coils=2))
        return folder / f"{stem}.npy"
    volume = np.zeros((16, 20, 4), np.int16)
    volume[4:12, 5:15] = 100
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 2.0, 5.0, 1.0])), folder / f"{stem}.nii.gz")
    return folder / f"{stem}.nii.gz"
