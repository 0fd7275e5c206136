"""Small good files of every format."""

import tempfile
from functools import cache
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


MRD = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{subject}
 <acquisitionSystemInformation><systemVendor>Acme</systemVendor><systemModel>Big {field}</systemModel>
  <systemFieldStrength_T>{field}</systemFieldStrength_T>
  <relativeReceiverNoiseBandwidth>{band}</relativeReceiverNoiseBandwidth></acquisitionSystemInformation>
 <encoding><encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>
   <fieldOfView_mm><x>{x}</x><y>{y}</y><z>{z}</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>{keep}</x><y>{y}</y><z>{z}</z></matrixSize>
   <fieldOfView_mm><x>{keep}</x><y>{y}</y><z>{z}</z></fieldOfView_mm></reconSpace>
  <encodingLimits/><trajectory>{trajectory}</trajectory>
  <parallelImaging><calibrationMode>{mode}</calibrationMode></parallelImaging></encoding>
</ismrmrdHeader>"""


def write_mrd(
    path, lines, shape, *, keep=None, subject="", field=1.5, band=1.0, mode="embedded", trajectory="cartesian"
):
    """An ISMRMRD file by the library ``ismrmrd``; all lines at once, of which it would append one after the other.

    Args:
        lines: samples (coils, samples) and the labels of each line: ``flags``, ``sample_time_us``, ``center_sample``,
            ``discard_pre``, ``discard_post``, and ``idx`` by name.
        shape: encoded matrix (x, y, z), voxels of 1 mm. keep: readout without oversampling.
    """
    import ismrmrd
    from ismrmrd.hdf5 import acquisition_dtype, acquisition_header_dtype

    x, y, z = shape
    path.unlink(missing_ok=True)
    file = ismrmrd.Dataset(str(path), "dataset", create_if_needed=True)
    text = MRD.format(
        x=x, y=y, z=z, keep=keep or x, subject=subject, field=field, band=band, mode=mode, trajectory=trajectory
    )
    file.write_xml_header(text.encode())
    rows = np.empty(len(lines), acquisition_dtype)
    for row, (samples, labels) in zip(rows, lines, strict=True):
        one = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, dtype=np.complex64))
        one.center_sample, one.sample_time_us = samples.shape[1] // 2, 5.0
        for name, value in labels.items():
            if name == "flags":
                for flag in value:
                    one.setFlag(flag)
            elif hasattr(one.idx, name):
                setattr(one.idx, name, value)
            else:
                setattr(one, name, value)
        row["head"] = np.frombuffer(one.getHead(), acquisition_header_dtype)[0]
        row["data"], row["traj"] = one.data.view(np.float32).reshape(-1), one.traj.view(np.float32).reshape(-1)
    file._dataset.create_dataset("data", data=rows, maxshape=(None,))
    file.close()
    return path


def mrd_lines(kspace, steps=None, **labels):
    """The lines of 2-D k-space (slices, coils, readout, encoding)."""
    return [
        (kspace[one, :, :, step], {"slice": one, "kspace_encode_step_1": step, **labels})
        for one in range(len(kspace))
        for step in (range(kspace.shape[-1]) if steps is None else steps)
    ]


@cache
def _mrd() -> bytes:
    """One file for all tests: the library writes a line at a time, which is slow."""
    kspace = make_kspace(coils=2)
    with tempfile.TemporaryDirectory() as folder:
        return write_mrd(Path(folder) / "a.h5", mrd_lines(kspace), (*kspace.shape[-2:], 1)).read_bytes()


def rss(kspace):
    axes = (-2, -1)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)
    return np.sqrt((np.abs(images) ** 2).sum(axis=1))


def image(ny=20, nx=16):
    """A picture that is not symmetric, uint16."""
    made = np.zeros((ny, nx), np.uint16)
    made[4:15, 3:12] = 100 + np.arange(11)[:, None] * 9 + np.arange(9)
    return made


def write_dicom(path: Path, pixels, series=None, position=(0.0, 0.0, 0.0), **elements) -> Path:
    """An axial MR image, or with three axes an enhanced one whose frames are 5 mm apart. None leaves an element out."""
    from pydicom import config, uid
    from pydicom.dataset import Dataset, FileMetaDataset

    made, made.file_meta = Dataset(), FileMetaDataset()
    pixels = np.asarray(pixels)
    own = {
        "SOPClassUID": uid.MRImageStorage if pixels.ndim == 2 else uid.EnhancedMRImageStorage,
        "SOPInstanceUID": uid.generate_uid(entropy_srcs=[str(path)]),
        "SeriesInstanceUID": uid.generate_uid(entropy_srcs=[str(series or path)]),
        "Modality": "MR",
        "PatientID": "anonymous",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": list(position),
        "PixelSpacing": [1.5, 2.0],
        "SliceThickness": 5.0,
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelData": pixels.tobytes(),
    }
    if pixels.ndim == 3:
        own["NumberOfFrames"] = len(pixels)
        own["PerFrameFunctionalGroupsSequence"] = [Dataset() for _ in pixels]
        for number, frame in enumerate(own["PerFrameFunctionalGroupsSequence"]):
            place = Dataset()
            place.ImagePositionPatient = [position[0], position[1], position[2] + 5.0 * number]
            frame.PlanePositionSequence = [place]
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = own["SOPClassUID"]
    made.file_meta.MediaStorageSOPInstanceUID = own["SOPInstanceUID"]
    with config.disable_value_validation():  # a test writes wrong values too
        for name, value in (own | elements).items():
            if value is not None:
                setattr(made, name, value)
        made.save_as(path, enforce_file_format=True)
    return path


def write_any(name: str, folder: Path, stem: str) -> Path:
    """A good file of the format ``name``."""
    import nibabel

    if name == "dicom":
        return write_dicom(folder / f"{stem}.dcm", image())
    if name == "fastmri":
        return write_fastmri(folder / f"{stem}.h5", make_kspace(coils=2))
    if name == "ismrmrd":
        (folder / f"{stem}.h5").write_bytes(_mrd())
        return folder / f"{stem}.h5"
    if name == "npy":
        np.save(folder / f"{stem}.npy", make_kspace(coils=2))
        return folder / f"{stem}.npy"
    volume = np.zeros((16, 20, 4), np.int16)
    volume[4:12, 5:15] = 100
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 2.0, 5.0, 1.0])), folder / f"{stem}.nii.gz")
    return folder / f"{stem}.nii.gz"
