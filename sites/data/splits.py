"""Assigns subjects to training, validation and test. A subject is in one split as a whole, at all sites."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrecon.sites.errors import InputError, unknown

if TYPE_CHECKING:
    from fedrecon.sites.data.shard import Shard
    from fedrecon.sites.data.volume import Volume


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
    from the labels alone: no image is read, and none leaves its site. Two images of one size whose maximum and
    norm are equal to the last bit are taken for the same one.

    Args:
        shards: names of sites, each with its shard.
    """
    labelled = ((site, volume, scan_of(volume)) for site, shard in shards for volume in shard.volumes)
    return _problems((site, volume, scan) for site, volume, scan in labelled if scan)


def scan_of(volume: Volume) -> str | None:
    """What is equal for equal images, by the labels of a volume; None if it has no norm."""
    return f"{volume.norm!r} {volume.maximum!r} {volume.n_slices} {volume.shape}" if volume.norm else None


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

    unlabelled = ((site, shard, volume) for site, shard in shards for volume in shard.volumes if not volume.norm)
    return _problems((site, volume, content(shard, volume)) for site, shard, volume in unlabelled)


def _problems(images: Iterable[tuple[str, Volume, Any]]) -> Iterator[str]:
    """What is wrong with these volumes, each with its site and what is equal for equal images."""
    known: dict[Any, tuple[str, Volume]] = {}
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
