"""Who was scanned, and in which split: from a list, from the files, from a pattern, or from the files' names."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from fedrecon.sites.data.splits import assign_splits, subject_of
from fedrecon.sites.data.volume import SPLITS
from fedrecon.sites.errors import InputError, unknown
from fedrecon.sites.formats.finding import places_of
from fedrecon.sites.formats.format import Format
from fedrecon.sites.formats.record import SHOWN, ImportSummary

COLUMNS = ("file", "subject", "split")
_BIDS = re.compile(r"/(sub-[^_/]+)/(?:ses-[^/]+/)?(?:(?:anat|func|dwi|fmap|perf)/)?[^/]+$")
_NOBODY = {"", "0", "anon", "anonymous", "anonymized", "anonymised", "n/a", "na", "none", "unknown"}
_CONTRASTS = re.compile(
    r"(?<![a-z0-9])(t1|t1w|t1c|t1ce|t1gd|t2|t2w|t2star|t2s|flair|pd|pdw|dwi|adc|bold|swi|mra|axt1|axt1pre|axt1post|"
    r"axt2|axflair|mask|dseg|seg)(?![a-z0-9])"
)
_ANYBODY = {
    "file",
    "image",
    "img",
    "scan",
    "volume",
    "vol",
    "data",
    "brain",
    "head",
    "knee",
    "mri",
    "mr",
    "anat",
    "nii",
    "mprage",
}
_VISIT = re.compile(r"[-. ]?(ses|session|visit|study|scan|run|v)[-. ]?\d+$")
_DATE = re.compile(r"(19|20)\d\d([-.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])")


class Subjects:
    """The subject of each file, and the split of each subject.

    Attributes:
        of: subject by file.
        splits: split by subject.
    """

    def __init__(self, of: Mapping[Path, str], splits: Mapping[str, str]) -> None:
        self.of, self.splits = dict(of), dict(splits)


def by_list(path: Path, paths: Sequence[Path], reader: Format, summary: ImportSummary) -> Subjects:
    """The subjects and splits of a file with the columns file, subject and, if it has splits, split.

    A row belongs to the file whose path ends with its ``file``; the suffix may be left out. Rows without a file are
    counted: one list may serve several sites.

    Raises:
        InputError: the list cannot be read, a column is missing or unknown, a row is not complete, a file has no row or
            two rows, a row fits two files, or a subject has two splits.
    """
    rows = _rows(path)
    of: dict[Path, str] = {}
    splits: dict[str, str] = {}
    unused = []
    for number, row in rows:
        wanted = Path(_nfc(row["file"])).parts
        mine = [one for one in paths if wanted in (_end(one, one.name, wanted), _end(one, reader.stem(one), wanted))]
        if len(mine) > 1:
            raise InputError(f"{path}, line {number}: '{row['file']}' fits {mine[0]} and {mine[1]}; give the folders.")
        if not mine:
            unused.append(row["file"])
            continue
        if mine[0] in of:
            raise InputError(f"{path}, line {number}: the file {mine[0]} has two rows.")
        subject, split = _nfc(row["subject"]), row.get("split", "train")
        if split not in SPLITS:
            raise InputError(f"{path}, line {number}: {unknown('split', split, SPLITS)}")
        if splits.setdefault(subject, split) != split:
            raise InputError(f"{path}, line {number}: the subject '{subject}' is in '{splits[subject]}' and '{split}'.")
        of[mine[0]] = subject
    missing = [str(one) for one in paths if one not in of]
    if missing:
        raise InputError(f"{path}: no row for {_some(missing)}.")
    if unused:
        summary.note(
            "rows-without-file", f"{path}: {len(unused)} rows belong to no file of this import: {_some(unused)}"
        )
    return Subjects(of, splits if "split" in rows[0][1] else {})


def by_person(
    paths: Sequence[Path],
    names: Mapping[Path, str],
    reader: Format,
    pattern: str | None,
    summary: ImportSummary,
    shown: Callable[[str], str] = str,
) -> dict[Path, str]:
    """The subject of each file: by ``pattern``; else the id of the person in the file; else by the file's name.

    The pattern is searched in the volumes' names; if one of them has no match, in the paths below the folder that all
    files share. ``shown`` makes of a person's id what may be seen of it; nothing else of the id leaves this function.

    Raises:
        InputError: the pattern is wrong or finds nothing, or it makes several subjects of a person.
    """
    named = _named(paths, names, reader, pattern)
    persons = {path: shown(person) for path, person in _persons(paths, reader)}
    if not persons:
        return named
    if pattern is None:
        if len(persons) < len(paths):
            summary.note("person-unknown", f"{len(paths) - len(persons)} files hold no patient id: named by the file")
        return {path: persons.get(path, named[path]) for path in paths}
    subjects, people = defaultdict(set), defaultdict(set)
    for path, person in persons.items():
        subjects[person].add(named[path])
        people[named[path]].add(person)
    for person, several in sorted(subjects.items()):
        if len(several) > 1:
            raise InputError(
                f"the patient '{person}' of the files would be {len(several)} subjects, {_some(sorted(several))}, "
                f"by --subject-pattern '{pattern}': leave the pattern out, and each patient is one subject."
            )
    for subject, ids in sorted(people.items()):
        if len(ids) > 1:
            summary.note("people-as-one", f"the subject '{subject}' has {len(ids)} patient ids: {_some(sorted(ids))}")
    return named


def assign(
    subjects: Collection[str], validation: Sequence[str], test: Sequence[str], summary: ImportSummary
) -> dict[str, str]:
    """The split of each subject. A named subject that is not here is a warning if another of its list is here.

    Raises:
        InputError: no subject of a list is here, or see :func:`assign_splits`.
    """
    here = []
    for option, given in (("--validation-subjects", validation), ("--test-subjects", test)):
        given = [_nfc(name) for name in given]
        present = [name for name in given if name in subjects]
        away = sorted(set(given) - set(present))
        if away and not present:
            error = unknown("subject", away[0], subjects)
            raise InputError(f"{option}: none of {_some(away)} is here: {error}", away)
        if away:
            summary.note("subject-not-here", f"{option}: not here: {_some(away)}; used: {', '.join(present)}")
        here.append(present)
    return assign_splits(subjects, *here)


def doubts(names: Mapping[Path, str], subjects: Subjects, reader: Format, given: bool, summary: ImportSummary) -> None:
    """Notes where names suggest that subjects are not persons, or that the import mixes contrasts.

    Args:
        names: name of the volume of each file.
        given: whether a list, a pattern or the files themselves say who was scanned.
    """
    paths, stems = list(names), list(names.values())
    known = sorted(set(subjects.of.values()))
    if not given:
        _each_file(names, subjects.of, reader, summary)
        _several_persons(paths, subjects.of, reader, summary)
        if any(name != _nfc(reader.stem(path)) for path, name in names.items()):
            _in_two_folders(paths, subjects.of, reader, summary)
    alike = defaultdict(list)
    for one in known:
        alike[_plain(one)].append(one)
    for several in alike.values():
        if len(several) > 1:
            summary.note("one-as-people", f"these subjects may be one person: {_some(several)}")
    contrasts = Counter(tuple(sorted(set(_CONTRASTS.findall(stem.casefold())))) for stem in stems)
    if len(contrasts) > 1:
        found = ", ".join(f"{' '.join(words) or 'none'} ({count})" for words, count in contrasts.most_common(SHOWN))
        summary.note("mixed-contrasts", f"the file names hold different contrasts: {found}")
    counts = Counter(subjects.splits.values())
    for split in ("train", "test"):
        if not counts[split]:
            summary.note(f"no-{split}-subject", f"no subject is in the split '{split}'")


def _each_file(names: Mapping[Path, str], of: Mapping[Path, str], reader: Format, summary: ImportSummary) -> None:
    """Notes that files or dates are subjects: a person with several files would be several subjects."""
    ask = "if a person has several files, here or at another site, give --subject-pattern or --subjects-from"
    known, wide = sorted(set(of.values())), _folders_of_several(list(names), of, reader)
    if len(names) < 2:
        return
    if not any("_" in name for name in names.values()):
        summary.note(
            "each-file-a-subject",
            f"no name has a '_', so each of {len(names)} files is a subject by itself, as '{known[0]}'; {ask}",
        )
    elif dates := [one for one in known if _DATE.fullmatch(one)]:
        within = f", and folders hold several of them: {_some(wide)}" if wide else ""
        summary.note("each-file-a-subject", f"subjects have the names of dates: {_some(dates)}{within}; {ask}")
    elif wide and len(known) == len(names):
        summary.note(
            "each-file-a-subject",
            f"each of {len(names)} files is a subject by itself, and folders hold several: {_some(wide)}; {ask}",
        )


def _folders_of_several(paths: Sequence[Path], of: Mapping[Path, str], reader: Format) -> list[str]:
    """Folders of several subjects, but for folders of BIDS subjects, and for folders around others of the list."""
    within = defaultdict(set)
    for path, place in places_of(reader.stem, paths).items():
        for folder in Path(place).parents[:-1]:
            within[folder].add(of[path])
    wide = [one for one, several in within.items() if sum(not name.startswith("sub-") for name in several) > 1]
    return sorted(one.as_posix() for one in wide if not any(one in other.parents for other in wide))


def _several_persons(paths: Sequence[Path], of: Mapping[Path, str], reader: Format, summary: ImportSummary) -> None:
    """Notes subjects that lie in several folders, or have the name of a contrast or of anything."""
    places = places_of(reader.stem, paths)
    folders = defaultdict(set)
    for path in paths:
        folders[of[path]].add(places[path].split("/", 1)[0] if "/" in places[path] else "")
    wide = sorted(subject for subject, several in folders.items() if len(several) > 1)
    common = [one for one in sorted(folders) if one.casefold() in _ANYBODY or _CONTRASTS.fullmatch(one.casefold())]
    for subject in [*wide, *(one for one in common if one not in wide)]:
        summary.note(
            "people-as-one",
            f"the subject '{subject}' may be several persons ({list(of.values()).count(subject)} files); "
            "give --subject-pattern or --subjects-from",
        )


def _in_two_folders(paths: Sequence[Path], of: Mapping[Path, str], reader: Format, summary: ImportSummary) -> None:
    """Notes names of persons that several subjects hold: of files, or of folders that have a number in their name.

    For volumes that are named by their folders, because names repeat: folders of visits or scanners
    (``baseline/p01``, ``followup/p01``) become subjects then. A file ``T1`` or a folder ``ses-1`` names nobody.
    """
    holders = defaultdict(set)
    for path, place in places_of(reader.stem, paths).items():
        *folders, stem = place.split("/")
        for own in {subject_of(stem), *(one for one in folders[1:] if re.search(r"\d", one))}:
            if own.casefold() not in _ANYBODY and _plain(own) and not _DATE.fullmatch(own):
                holders[own].add(of[path])
    twice = sorted(own for own, several in holders.items() if len(several) > 1)
    if twice:
        several = _some(sorted(set.union(*(holders[own] for own in twice))))
        summary.note(
            "one-as-people",
            f"the subjects {several} are named by their folders, and {_some(twice)} lies in several of them: if "
            "that is one person, it trains and is tested; give --subject-pattern, which finds it, or --subjects-from",
        )


def _named(paths: Sequence[Path], names: Mapping[Path, str], reader: Format, pattern: str | None) -> dict[Path, str]:
    try:
        named = {path: _nfc(subject_of(names[path], pattern)) for path in paths}
        bids = {path: _BIDS.search(_nfc(path.absolute().as_posix())) for path in paths} if pattern is None else {}
        return named | {path: found[1] for path, found in bids.items() if found}
    except InputError:
        if pattern is None:
            raise
        places = places_of(reader.stem, paths)
        return {path: _nfc(subject_of(places[path], pattern)) for path in paths}


def _persons(paths: Sequence[Path], reader: Format) -> Iterator[tuple[Path, str]]:
    for path in paths:
        try:
            person = reader.person(path) if all(file.is_file() for file in reader.files(path)) else None
        except InputError:
            continue  # the file is refused when it is read, with all other refused files
        if person is not None and person.strip().casefold() not in _NOBODY:
            yield path, _nfc(person.strip())


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--subjects-from {path}: cannot be read: {error}") from None
    head = [name.strip() for name in lines[0]] if lines else []
    for name in head:
        if name not in COLUMNS:
            raise InputError(f"--subjects-from {path}: {unknown('column', name, COLUMNS)} Columns are parted by tabs.")
    for name in COLUMNS[:2]:
        if name not in head:
            raise InputError(f"--subjects-from {path}: the column '{name}' is missing.")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if len(cells) != len(head) or not all(cells):
            raise InputError(f"--subjects-from {path}, line {number}: expected a value for each of {', '.join(head)}.")
        rows.append((number, dict(zip(head, cells, strict=True))))
    if not rows:
        raise InputError(f"--subjects-from {path}: holds no row.")
    return rows


def _end(path: Path, name: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The last parts of a file's path, as many as are wanted."""
    parts = Path(_nfc(str(path.absolute().with_name(name)))).parts
    return parts[-len(wanted) :]


def _plain(subject: str) -> str:
    """A subject without case, visit, contrast, leading zeros and marks: equal for ids that may be one person."""
    text = _VISIT.sub("", _CONTRASTS.sub("", subject.casefold()).strip("-. "))
    return re.sub(r"[^a-z0-9\u0080-\uffff]", "", re.sub(r"(?<!\d)0+(?=\d)", "", text))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
