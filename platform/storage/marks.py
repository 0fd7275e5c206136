"""The mark of a file that ``reconstruct`` wrote: only such a file is replaced by another reconstruction."""

from __future__ import annotations

import zlib
from pathlib import Path

MARK = "fedrecon_digest"
"""The attribute of an HDF5 file and the key of a PNG text that hold the digest of the run."""
_PNG = b"\x89PNG\r\n\x1a\n"
_HEAD = len(_PNG) + 25
"""The bytes of a PNG file up to the end of its first chunk, IHDR."""


def nifti_mark(digest: str) -> str:
    """The text in the header field ``descrip`` of a NIfTI file, at most 79 characters."""
    return f"{MARK} {digest}"


def marked_png(png: bytes, digest: str) -> bytes:
    """The PNG file with the digest as its first text (a chunk tEXt behind IHDR); the pixels stay."""
    chunk = b"tEXt" + f"{MARK}\0{digest}".encode("latin-1")
    text = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return png[:_HEAD] + text + png[_HEAD:]


def is_marked(path: Path) -> bool:
    """Whether the file is a reconstruction in HDF5, PNG or NIfTI that has the mark. What cannot be read has none."""
    import h5py
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    unreadable = (ImageFileError, HeaderDataError)
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r", locking=False) as file:
                return MARK in file.attrs
        with path.open("rb") as opened:
            head = opened.read(_HEAD + 8 + len(MARK))
        if head.startswith(_PNG):
            return head.endswith(b"tEXt" + MARK.encode())
        header = nibabel.load(path).header
        return bytes(header["descrip"]).startswith(MARK.encode())  # type: ignore[index]
    except (OSError, EOFError, ValueError, KeyError, zlib.error, *unreadable):
        return False
