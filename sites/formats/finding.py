"""Finds the files of an import: below folders too, with the names of their volumes."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fedrecon.sites.data.shard_file import is_shard
from fedrecon.sites.errors import InputError


def find_files(
    fits: Callable[[Path], bool], suffixes: Sequence[str], sources: Sequence[Path]
) -> tuple[list[Path], dict[str, int]]:
    """The files in ``sources`` and below the folders among them, sorted by name, and the number of others by suffix.

    Links are followed. Hidden files and folders are not looked at, and shards of fedrecon are left out of folders. A
    link that leads nowhere is found too, and a folder that may not be read: their reader refuses them.

    Args:
        fits: whether a file's name is one of the format; ``suffixes`` are its endings, for the message.

    Raises:
        InputError: a path is missing, a file or all files below a folder lack the format's suffix, no source is given,
            or a file is given twice.
    """
    found: list[Path] = []
    others: Counter[str] = Counter()
    for source in sources:
        if not source.exists() and not source.is_symlink():
            raise InputError(f"{source}: there is no such file or folder.")
        inside = list(_below(source)) if source.is_dir() else [source]
        fitting = [path for path in inside if fits(path) or path.is_dir()]
        kinds = Counter(_suffix(path) for path in set(inside).difference(fitting))
        if source.is_dir() and (shards := {path for path in fitting if is_shard(path)}):
            fitting = [path for path in fitting if path not in shards]
            kinds["shards of fedrecon"] = len(shards)
        if not fitting:
            there = ", ".join(f"{count} {kind or 'without suffix'}" for kind, count in sorted(kinds.items()))
            raise InputError(
                f"{source}: there is no file that ends in {' or '.join(suffixes)}"
                + (f" here or in a folder below (found: {there or 'nothing'})." if source.is_dir() else ".")
            )
        found += fitting
        others += kinds
    if not found:
        raise InputError("nothing to import: no source was given.")
    places = Counter(path.absolute() for path in found)
    twice = sorted(str(path) for path, count in places.items() if count > 1)
    if twice:
        raise InputError(f"the file is there twice: {', '.join(twice)}.")
    return sorted(found, key=lambda path: (path.name, path)), dict(sorted(others.items()))


def volume_names(stem: Callable[[Path], str], paths: Sequence[Path]) -> dict[Path, str]:
    """The name of each volume: its file's name without suffix. If two are the same, all names begin with the folders.

    Folders that all files share are left out: ``in/p1/T1.nii`` and ``in/p2/T1.nii`` are ``p1_T1`` and ``p2_T1``.

    Raises:
        InputError: two names are still the same.
    """
    names = {path: _nfc(stem(path)) for path in paths}
    if len(set(names.values())) < len(paths):
        names = {path: place.replace("/", "_") for path, place in places_of(stem, paths).items()}
    counts = Counter(names.values())
    for name in sorted(name for name, count in counts.items() if count > 1):
        twice = ", ".join(str(path) for path in paths if names[path] == name)
        raise InputError(f"the volume '{name}' is there twice: {twice}.")
    return names


def places_of(stem: Callable[[Path], str], paths: Sequence[Path]) -> dict[Path, str]:
    """Each file below the folder that all of them share, without suffix: ``p1/anat/T1``."""
    shared = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return {path: _nfc((path.absolute().parent.relative_to(shared) / stem(path)).as_posix()) for path in paths}


def _below(folder: Path) -> Iterator[Path]:
    """The files below a folder, and folders that may not be read. Links to folders are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    closed: list[Path] = []
    for here, folders, files in os.walk(
        folder, onerror=lambda error: closed.append(Path(error.filename)), followlinks=True
    ):
        known = os.stat(here)  # noqa: PTH116
        place = (known.st_dev, known.st_ino)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here) / name for name in sorted(files) if not name.startswith("."))
    yield from closed


def _suffix(path: Path) -> str:
    return "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]).lower()


def _nfc(text: str) -> str:
    """One spelling of an umlaut: file systems store it as one character or as two."""
    return unicodedata.normalize("NFC", text)
