"""The axes of a file that does not name them: they are read from the samples and said, or refused."""

import h5py
import numpy as np
import pytest
from small_files import write_fastmri
from small_volumes import make_kspace

from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.importing import import_data
from fedrecon.sites.formats.one_file import read_input


def matlab(path, kspace):
    """As save -v7.3 writes it: records, and the attribute that names the class."""
    stored = np.zeros(kspace.shape, [("real", "f4"), ("imag", "f4")])
    stored["real"], stored["imag"] = kspace.real, kspace.imag
    write_fastmri(path, stored)
    with h5py.File(path, "r+") as file:
        file["kspace"].attrs["MATLAB_class"] = np.bytes_(b"single")
    return path


@pytest.mark.parametrize("coils", [1, 2])
def test_matlab_axes_are_read_as_the_samples_say(coils, tmp_path):
    kspace = make_kspace(slices=9, coils=coils)
    kspace = kspace if coils > 1 else kspace[:, 0]
    for given, said in ((kspace, "in reverse"), (kspace.transpose(), "as they stand")):
        (found,) = read_input(path := matlab(tmp_path / "a_1.mat", given))
        np.testing.assert_array_equal(found.kspace, kspace if coils > 1 else kspace[:, None])
        (record,) = import_data("fastmri", path, "s", tmp_path / "out", dry_run=True).read.values()
        (note,) = [note for note in record.notes if note.kind == "matlab-axes"]
        assert said in note.text
        assert (f"{kspace.shape[::-1]}" if given is kspace else f"{kspace.shape}") in note.text


def test_matlab_axes_of_which_the_samples_say_nothing_are_refused(tmp_path):
    depth = np.exp(-(((np.arange(16) - 8) / 1.5) ** 2))  # k-space along the first axis too: a slab
    slab = (depth[:, None, None] * make_kspace(slices=1)[0]).astype(np.complex64)
    with pytest.raises(InputError, match=r"of the shape \(16, 24, 20\), and its samples do not say"):
        import_data("fastmri", matlab(tmp_path / "a_1.mat", slab), "s", tmp_path / "out")


def test_three_axes_are_slices_and_it_is_said(tmp_path):
    slices = make_kspace(coils=1)[:, 0]
    for datasets, noted in (({}, True), ({"reconstruction_esc": np.abs(slices)}, False)):
        source = write_fastmri(tmp_path / "a_1.h5", slices, **datasets)
        (record,) = import_data("fastmri", source, "s", tmp_path / "out", dry_run=True).read.values()
        texts = [note.text for note in record.notes if note.kind == "three-axes"]
        assert texts == ["the shape (3, 24, 20) is read as (slices, y, x): one coil"] * noted
