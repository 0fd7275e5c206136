"""The registry of the formats that can be imported: one file and one line for each format."""

from fedrecon.sites.formats.dicom import DICOM
from fedrecon.sites.formats.fastmri import FastMRI
from fedrecon.sites.formats.format import Format, Label
from fedrecon.sites.formats.ismrmrd import ISMRMRD
from fedrecon.sites.formats.nifti import NIfTI
from fedrecon.sites.formats.npy import Npy

__all__ = ["FORMATS", "Format", "Label"]

FORMATS: dict[str, type[Format]] = {
    "nifti": NIfTI,
    "fastmri": FastMRI,
    "npy": Npy,
    "ismrmrd": ISMRMRD,
    "dicom": DICOM,
}
