"""Assigns subjects to training, validation and test. A subject is in one split as a whole, at all sites."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from math import floor, inf, isclose, log
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from fedrecon.sites.errors import InputError, unknown

if TYPE_CHECKING:
    from fedrecon.sites.data.shard import Shard
    from fedrecon.sites.data.volume import Volume

T = TypeVar("T")
NORM, MAXIMUM = 2e-7, 1e-6
"""Up to which part of them two norms, and two maxima, are those of one image."""


def subject_of(stem: str, pattern: str | None = None) -> str:
    """The subject in a file's name: the text before the first ``_``, or the text that ``pattern`` finds.

    Args:
        stem: the file's name without its suffix.
        pattern: a regular expression; its first group is the subject, or its whole match if it has no group.

    Raises:
        InputError: the pattern is not a regular expression, or finds nothing in the name.
    """
    if pattern is None:
        return stem.split("_", 1)[0] or stem
    try:
        found = re.search(pattern, stem)
    except re.error as error:
        raise InputError(f"--subject-pattern '{pattern}' is no regular expression: {error}.") from None
    subject = found and (found[1] if found.re.groups else found[0])
    if not subject:
        raise InputError(f"--subject-pattern '{pattern}' finds no subject in '{stem}'.")
    return subject


def assign_splits(subjects: Iterable[str], validation: Sequence[str] = (), test: Sequence[str] = ()) -> dict[str, str]:
    """The split of each subject.

    If ``validation`` or ``test`` names a subject, exactly the named subjects validate and test, and the rest trains.
    If both are empty, the sorted subjects are divided: the last fifth (at least one subject) tests, the subject before
    it validates (from three subjects on), and the rest trains. A single subject tests.

    Raises:
        InputError: a named subject does not exist, or a subject is named for validation and for test.
    """
    known = sorted(set(subjects))
    for name in (*validation, *test):
        if name not in known:
            raise unknown("subject", name, known)
    both = sorted(set(validation) & set(test))
    if both:
        raise InputError(
            f"subjects named for validation and for test: {', '.join(both)}; a subject belongs to one split."
        )
    if not validation and not test:
        validation, test = _default(known)
    chosen = dict.fromkeys(validation, "validation") | dict.fromkeys(test, "test")
    return {subject: chosen.get(subject, "train") for subject in known}


def _default(known: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    n_test = max(1, round(len(known) / 5))
    rest = known[:-n_test]
    return rest[-1:] if len(rest) > 1 else (), known[-n_test:]


def check_consortium(shards: Collection[Shard]) -> None:
    """Refuse shards that cannot be in one experiment.

    Raises:
        InputError: two shards have the same site name, or a subject is in different splits at two sites.
    """
    problems = consortium_problems(shards)
    if problems:
        raise InputError("\n".join(problems))


def key_problems(keys: Iterable[tuple[str, str | None]]) -> Iterator[str]:
    """Sites whose subjects have pseudonyms under different keys: the same person would look like two.

    Args:
        keys: names of sites, each with the fingerprint of its key; None if it was imported without a key.
    """
    first: dict[str, str] = {}
    for site, key in keys:
        if key:
            first.setdefault(key, site)
    if len(first) > 1:
        one, other = list(first.values())[:2]
        yield (
            f"sites '{one}' and '{other}' were imported with different keys, so a person who is at both "
            "would not be found: import both with the same --key FILE."
        )


def subject_problems(shards: Iterable[tuple[str, Shard]]) -> Iterator[str]:
    """What makes subjects unfit for one experiment: different keys, or one subject or one scan in different splits.

    Args:
        shards: names of sites, each with its shard.
    """
    shards = list(shards)
    yield from key_problems((name, shard.pseudonym_key) for name, shard in shards)
    known: dict[str, tuple[str, str]] = {}
    for name, shard in shards:
        for subject, split in sorted(shard.subjects.items()):
            other, where = known.setdefault(subject, (split, name))
            if other != split:
                yield (
                    f"the subject '{subject}' is in the split '{other}' at site '{where}' and in "
                    f"'{split}' at site '{name}': a subject is in one split at all sites "
                    "(--validation-subjects, --test-subjects)."
                )
    yield from scans_in_two_splits(shards)


def scans_in_two_splits(shards: Iterable[tuple[str, Shard]]) -> Iterator[str]:
    """One scan under two names: volumes with one image, of two subjects in two splits. It would train and be tested.

    A subject of one id in two splits is found by its id. A person with two ids has nothing but the image. This finds it
    from the labels alone: no image is read, and none leaves its site. See :class:`Scans` for which images are one.

    Args:
        shards: names of sites, each with its shard.
    """
    labelled = ((site, volume, scan_of(volume)) for site, shard in shards for volume in shard.volumes)
    yield from _problems(((site, volume, scan) for site, volume, scan in labelled if scan), Scans())


def scan_of(volume: Volume) -> str | None:
    """The labels of a volume that nearly agree for equal images, see :class:`Scans`; None if it has no norm."""
    known = 0 < volume.norm < inf
    return f"{volume.norm!r} {volume.maximum!r} {volume.n_slices} {volume.shape}" if known else None


class Scans(Generic[T]):
    """What belongs to scans, by the labels of :func:`scan_of`.

    Images of one size are one image if their norms agree within 2e-7 and their maxima within 1e-6, as parts of the
    larger one. The last bits of both follow from the processor and the libraries of the import: one file gave norms
    that differ by up to 6e-8, and maxima that differ by up to 2e-7. Nothing is rounded, so no border parts equal scans.
    """

    def __init__(self, known: Iterable[tuple[str, T]] = ()) -> None:
        self._near: dict[tuple[str, int], list[tuple[float, float, T]]] = {}
        for scan, value in known:
            self.setdefault(scan, value)

    def get(self, scan: str) -> T | None:
        """What belongs to this scan; None if it is not here."""
        norm, maximum, size, cell = self._parts(scan)
        for near in (cell, cell - 1, cell + 1):
            for known, highest, value in self._near.get((size, near), ()):
                if isclose(norm, known, rel_tol=NORM) and isclose(maximum, highest, rel_tol=MAXIMUM):
                    return value
        return None

    def setdefault(self, scan: str, value: T) -> T:
        """What belongs to this scan; ``value`` from now on if nothing does."""
        found = self.get(scan)
        if found is None:
            norm, maximum, size, cell = self._parts(scan)
            self._near.setdefault((size, cell), []).append((norm, maximum, value))
        return value if found is None else found

    def _parts(self, scan: str) -> tuple[float, float, str, int]:
        """Norm, maximum and size, and the number of the cell of norms that are near: two cells hold equal scans."""
        norm, maximum, size = scan.split(" ", 2)
        return float(norm), float(maximum), size, floor(log(float(norm)) / (2 * NORM))


def unlabelled_scans_in_two_splits(shards: Iterable[tuple[str, Shard]]) -> Iterator[str]:
    """The same for volumes whose labels have no norm, because they have no reference: their data are compared.

    Args:
        shards: names of sites, each with its shard.
    """

    def content(shard: Shard, volume: Volume) -> str:
        found = hashlib.sha256()
        for one in shard.stored(volume.name, "reference" if volume.has_reference else "kspace"):
            found.update(np.ascontiguousarray(one).data)
        return found.hexdigest()

    unlabelled = ((site, shard, volume) for site, shard in shards for volume in shard.volumes if not scan_of(volume))
    return _problems(((site, volume, content(shard, volume)) for site, shard, volume in unlabelled), {})


def _problems(
    images: Iterable[tuple[str, Volume, str]], known: Scans[tuple[str, Volume]] | dict[str, tuple[str, Volume]]
) -> Iterator[str]:
    """What is wrong with these volumes, each with its site and what says which image it is."""
    for site, volume, image in images:
        where, other = known.setdefault(image, (site, volume))
        if other.split != volume.split and other.subject != volume.subject:
            yield (
                f"the volumes '{other.name}' (site '{where}', split '{other.split}') and '{volume.name}' (site "
                f"'{site}', split '{volume.split}') hold the same image, and are of two subjects: one scan under two "
                "names. Import it once, or both with one subject (--subjects-from)."
            )


def consortium_problems(shards: Collection[Shard]) -> list[str]:
    """One message for each problem that :func:`check_consortium` refuses."""
    problems: list[str] = []
    sites: dict[str, Shard] = {}
    for shard in shards:
        if shard.site in sites:
            problems.append(f"the site name '{shard.site}' is used twice: {sites[shard.site].path} and {shard.path}.")
        sites.setdefault(shard.site, shard)
    return [*problems, *subject_problems((shard.site, shard) for shard in shards)]
