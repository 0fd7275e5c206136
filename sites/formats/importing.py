"""Imports files of a known format into a site's shard, and reads the input of a reconstruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py

from fedrecon.sites.data.pseudonyms import KEY_FILE, SCHEME, Pseudonyms
from fedrecon.sites.data.shard import VolumeData, open_sealed, write_shard
from fedrecon.sites.data.shard_writer import FORMAT
from fedrecon.sites.data.splits import assign_splits, subject_of
from fedrecon.sites.data.volume import check_name, check_volume
from fedrecon.sites.errors import InputError
from fedrecon.sites.extension.plugin_file import PluginFile
from fedrecon.sites.extension.registry import Registry
from fedrecon.sites.formats import FORMATS, Format, Label
from fedrecon.sites.plugin import choose


def import_data(
    format: str,  # noqa: A002 - the command line's word
    sources: Sequence[Path | str] | Path | str,
    site: str,
    out: Path | str,
    contrast: str | None = None,
    size: int | None = None,
    phase: str | None = None,
    subject_pattern: str | None = None,
    validation_subjects: Sequence[str] = (),
    test_subjects: Sequence[str] = (),
    seed: int | None = None,
    key: Path | str | None = None,
    plugins: Sequence[Path | str] = (),
    noise_sigma: float | None = None,
) -> Path:
    """Write the files ``sources`` as the shard ``out``/``site``.h5 and return its path.

    Args:
        format: a name in :data:`fedrecon.sites.formats.FORMATS`, of an installed plug-in or of one of ``plugins``.
        sources: files, or folders of files with the format's suffixes; each file is one volume.
        site: name of the site.
        out: folder of the shard; it is made if it is missing.
        contrast: name of the contrast; default: the name in the files.
        size: matrix size N of N x N (nifti only; default: the native size).
        phase: ``none`` or ``smooth`` (nifti only; default ``smooth``).
        subject_pattern: regular expression, see :func:`fedrecon.sites.data.splits.subject_of`.
        validation_subjects, test_subjects: see :func:`fedrecon.sites.data.splits.assign_splits`.
        seed: seed of the simulated phase (nifti only; default 0).
        key: file of the consortium's key, made at first use; default ``consortium.key`` beside the shard. Subjects and
            volumes have pseudonyms under it: no name of a file reaches the shard.
        plugins: Python files that add formats, by ``FORMATS = {...}``.
        noise_sigma: standard deviation of the noise in the real and in the imaginary part of a sample of the shard's
            k-space (orthonormal transform, units of the file); default: it is estimated where that is possible.

    Raises:
        InputError: an option does not belong to the format, a file or a name is refused, or the splits are wrong; see
            the format, the splits and :func:`fedrecon.sites.data.shard.write_shard`.
    """
    given = {"size": size, "phase": phase, "seed": seed, "noise_sigma": noise_sigma}
    formats = Registry("formats", FORMATS, [PluginFile.read(Path(one)) for one in plugins], Format)
    reader = choose("format", formats, format, {key: value for key, value in given.items() if value is not None})
    check_name("site", site)
    paths = find_files(reader, [sources] if isinstance(sources, Path | str) else sources)
    subjects = {path: subject_of(reader.stem(path), subject_pattern) for path in paths}
    splits = assign_splits(subjects.values(), validation_subjects, test_subjects)

    names = Pseudonyms.of(Path(key) if key is not None else Path(out) / KEY_FILE)
    volumes = {path: names.volume(reader.stem(path)) for path in paths}

    def label(path: Path) -> Label:
        return Label(volumes[path], names.subject(subjects[path]), splits[subjects[path]])

    target = Path(out) / f"{site}.h5"
    try:
        write_shard(
            target,
            site,
            reader.read(paths, label),
            contrast=contrast,
            simulated=reader.simulated,
            phase=reader.phase_kind,
            imported_from=format,
            noise_from="estimate" if noise_sigma is None else "given",
            pseudonyms=SCHEME,
            pseudonym_key=names.fingerprint,
        )
    except InputError as error:
        # Who imports knows the files by their names, and sees this error alone.
        text = str(error)
        for path, pseudonym in volumes.items():
            text = text.replace(pseudonym, reader.stem(path))
        raise InputError(text) from None
    return target


def find_files(reader: Format, sources: Sequence[Path | str]) -> list[Path]:
    """The files in ``sources`` and in the folders among them, sorted by name.

    Raises:
        InputError: a path is missing, a file or all files of a folder lack the format's suffix, no source is given, or
            two files have the same name.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if not source.exists():
            raise InputError(f"{source}: there is no such file or folder.")
        inside = sorted(path for path in source.iterdir() if _fits(reader, path)) if source.is_dir() else [source]
        if not inside or not _fits(reader, inside[0]):
            raise InputError(f"{source}: there is no file that ends in {' or '.join(reader.suffixes)}.")
        found += inside
    if not found:
        raise InputError("nothing to import: no source was given.")
    names = [reader.stem(path) for path in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        twice = ", ".join(str(path) for path in found if reader.stem(path) == name)
        raise InputError(f"the volume '{name}' is there twice: {twice}.")
    return sorted(found, key=lambda path: path.name)


def read_input(path: Path | str) -> Iterator[VolumeData]:
    """The checked volumes of one file that is to be reconstructed: a shard, a fastMRI file or a raw k-space array.

    The file's content and suffix give the format. A NIfTI volume is refused, because it holds no k-space.

    Raises:
        InputError: the file is missing, has another format, or is refused by its reader.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    if not _is_shard(path):
        reader = _reader_of(path)
        name = reader.stem(path)
        yield from reader.read([path], lambda _: Label(name, subject_of(name), "test"))
        return
    shard = open_sealed(path)
    for volume in shard.volumes:
        data = shard.data(volume.name)
        check_volume(data)
        yield data


def _reader_of(path: Path) -> Format:
    readers: list[Any] = [kind() for kind in FORMATS.values() if not kind.simulated]
    for reader in readers:
        if _fits(reader, path):
            return reader  # type: ignore[no-any-return]
    allowed = sorted({suffix for reader in readers for suffix in reader.suffixes})
    raise InputError(f"{path}: is no k-space that can be reconstructed; expected a shard, or {', '.join(allowed)}.")


def _fits(reader: Format, path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.is_file() and not hidden and path.name.lower().endswith(reader.suffixes)


def _is_shard(path: Path) -> bool:
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r", locking=False) as file:
            return bool(file.attrs.get("format") == FORMAT)
    except OSError:
        return False  # a truncated file: its reader refuses it with a clear message
