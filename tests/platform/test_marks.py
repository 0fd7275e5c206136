"""Only a file that ``reconstruct`` wrote is replaced: HDF5, PNG and NIfTI say so themselves."""

import io

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from fedrecon.platform.inference.reconstruct import _check_replaced
from fedrecon.platform.storage.marks import MARK, is_marked, marked_png, nifti_mark
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.nifti import save_enlarged

DIGEST = "0123456789abcdef"


def png():
    into = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(into, "PNG")
    return into.getvalue()


def nifti(path):
    nibabel.save(nibabel.Nifti1Image(np.ones((6, 5, 2), np.float32), np.eye(4)), path)
    return path


def written(path, marked):
    """A file of this kind, as ``reconstruct`` writes it or as anybody does."""
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.attrs.update({MARK: DIGEST} if marked else {})
    elif path.suffix == ".png":
        path.write_bytes(marked_png(png(), DIGEST) if marked else png())
    elif marked:
        source = nifti(path.with_name("source.nii"))
        save_enlarged(path, source, np.ones((2, 12, 10), np.float32), 2, nifti_mark(DIGEST))
    else:
        nifti(path)
    return path


@pytest.mark.parametrize("name", ["a.h5", "a.png", "a.nii", "a.nii.gz"])
def test_a_file_of_each_kind_is_replaced_only_with_the_mark(tmp_path, name):
    path = tmp_path / name
    _check_replaced(path)
    assert is_marked(written(path, marked=True))
    _check_replaced(path)
    assert not is_marked(written(path, marked=False))
    with pytest.raises(InputError, match="holds no reconstruction"):
        _check_replaced(path)


@pytest.mark.parametrize("name", ["a.h5", "a.png", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("content", [b"", b"notes", b"\x89PNG\r\n\x1a\n"])
def test_what_cannot_be_read_is_kept(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="not replaced"):
        _check_replaced(tmp_path / name)


def test_the_mark_of_a_picture_is_a_text_and_leaves_its_pixels():
    with Image.open(io.BytesIO(marked_png(png(), DIGEST))) as found, Image.open(io.BytesIO(png())) as plain:
        assert np.array_equal(np.asarray(found), np.asarray(plain))
        assert found.text == {MARK: DIGEST}
