"""Imports files of a known format into a site's shard."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fedrecon.sites import atomic
from fedrecon.sites.data.pseudonyms import KEY_FILE, SCHEME, Pseudonyms
from fedrecon.sites.data.shard import VolumeData, write_shard
from fedrecon.sites.data.shard_file import is_shard
from fedrecon.sites.data.shard_writer import IMPORT
from fedrecon.sites.data.volume import check_name, check_text
from fedrecon.sites.errors import FileError, FilesError, InputError, unknown
from fedrecon.sites.extension.plugin_file import PluginFile
from fedrecon.sites.extension.registry import Registry
from fedrecon.sites.formats import FORMATS, Format, Label
from fedrecon.sites.formats.finding import volume_names
from fedrecon.sites.formats.record import ImportSummary
from fedrecon.sites.formats.subjects import Subjects, assign, by_list, by_person, doubts
from fedrecon.sites.phases import phase
from fedrecon.sites.plugin import choose


def import_data(
    format: str,  # noqa: A002 - the command line's word
    sources: Sequence[Path | str] | Path | str,
    site: str,
    out: Path | str,
    contrast: str | None = None,
    subject_pattern: str | None = None,
    subjects_from: Path | str | None = None,
    validation_subjects: Sequence[str] = (),
    test_subjects: Sequence[str] = (),
    key: Path | str | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    dry_run: bool = False,
    plugins: Sequence[Path | str] = (),
    **options: Any,
) -> ImportSummary:
    """Write the files ``sources`` as the shard ``out``/``site``.h5.

    Args:
        format: a name in :data:`fedrecon.sites.formats.FORMATS`, of an installed plug-in or of one of ``plugins``.
        sources: files, or folders, in and below which files with the format's suffixes lie; each file is one volume.
        site: name of the site.
        out: folder of the shard; it is made if it is missing.
        contrast: name of the contrast; default: the name in the files.
        subject_pattern: regular expression, see :func:`fedrecon.sites.formats.subjects.by_person`.
        subjects_from: a list of files, subjects and splits, see :func:`fedrecon.sites.formats.subjects.by_list`.
        validation_subjects, test_subjects: see :func:`fedrecon.sites.data.splits.assign_splits`.
        key: file of the consortium's key, made at first use; default ``consortium.key`` beside the shard. Subjects and
            volumes have pseudonyms under it: no name of a file reaches the shard.
        overwrite: replace a shard that is there.
        skip_bad: import the good files, although others are refused.
        dry_run: read and check everything, and write nothing.
        plugins: Python files that add formats, by ``FORMATS = {...}``.
        options: options of the format; None is its default.

    Returns:
        What was read, left out, decided and written.

    Raises:
        FilesError: files are refused; all of them are named.
        InputError: an option does not belong to the format, a name is refused, the splits are wrong, the shard is there
            already, or it would replace a source.
    """
    reader = chosen_format(format, plugins, options)
    check_name("site", site)
    if contrast is not None:
        check_text("contrast", contrast)
    target = Path(out) / f"{site}.h5"
    given = [Path(one) for one in ([sources] if isinstance(sources, Path | str) else sources)]
    with phase("looking for files"):
        paths, others = reader.find(given)
    summary = ImportSummary(site, format, target, reader.phase_kind, reader.simulated, other_files=others)
    key = Path(key) if key is not None else Path(out) / KEY_FILE
    used = [
        *(file for path in paths for file in reader.files(path)),
        key,
        *(Path(one) for one in [subjects_from] if one),
    ]
    summary.overwrote = _check_target(target, used, overwrite)
    names = volume_names(reader.stem, paths)
    keyed = _Keyed(key, reader.hides_persons, no_key=dry_run and not key.exists())
    if subjects_from is not None:
        if subject_pattern is not None:
            raise InputError("--subjects-from and --subject-pattern both say who was scanned; give one of them.")
        subjects = by_list(Path(subjects_from), paths, reader, summary)
    else:
        with phase(f"asking {len(paths)} files who was scanned"):
            subjects = Subjects(by_person(paths, names, reader, subject_pattern, summary, keyed.shown), {})
    known = sorted(set(subjects.of.values()))
    if subjects.splits and (validation_subjects or test_subjects):
        raise InputError("--subjects-from has splits; leave --validation-subjects and --test-subjects out.")
    validation, test = keyed.named(validation_subjects), keyed.named(test_subjects)
    subjects.splits = subjects.splits or assign(known, validation, test, summary)

    hidden = keyed.pseudonyms
    if keyed.persons and keyed.no_key:
        summary.note("no-key", "a dry run makes no key: the import's pseudonyms, and its splits by them, are others")
    summary.subjects = subjects.of

    def label(path: Path) -> Label:
        subject = subjects.of[path]
        return Label(hidden.volume(names[path]), keyed.subject(subject), subjects.splits[subject])

    volumes = _good_volumes(reader, paths, label, summary, skip_bad)

    def finish() -> None:
        good = [path for path in paths if path in summary.read]
        left = Subjects({path: subjects.of[path] for path in good}, {})
        left.splits = {name: split for name, split in subjects.splits.items() if name in left.of.values()}
        said = subjects_from is not None or subject_pattern is not None or any(map(reader.person, good))
        doubts({path: names[path] for path in good}, left, reader, said, summary)

    if dry_run:
        for _ in volumes:
            pass
        finish()
        return summary

    def kept() -> dict[str, str]:
        finish()
        return {IMPORT: json.dumps(summary.kept())}

    write_shard(
        target,
        site,
        volumes,
        contrast=contrast,
        simulated=reader.simulated,
        phase=reader.phase_kind,
        after=kept,
        imported_from=format,
        noise_from="estimate" if options.get("noise_sigma") is None else "given",
        pseudonyms=SCHEME,
        pseudonym_key=hidden.fingerprint,
    )
    summary.written = True
    return summary


def chosen_format(name: str, plugins: Sequence[Path | str], options: Mapping[str, Any]) -> Format:
    """The format of this name, of fedrecon, of an installed plug-in or of one of these files. Options of None are left.

    Raises:
        InputError: a plug-in file is refused, or the format or one of its options is unknown or wrong.
    """
    formats = Registry("formats", FORMATS, [PluginFile.read(Path(one)) for one in plugins], Format)
    given = {option: value for option, value in options.items() if value is not None}
    if name not in formats:
        raise InputError(f"{unknown('format', name, formats)} (a format of your own: --plugins FILE)", [name])
    reader: Format = choose("format", formats, name, given)
    return reader


class _Keyed:
    """The consortium's key, which is read or made when it is first needed, and the persons whose ids it hides.

    Attributes:
        path: its file.
        hides: whether ids of persons are hidden before anybody sees them.
        no_key: a dry run without a key makes none: any key gives the same summary of names, which are not shown.
        persons: pseudonyms that stand for ids of persons.
    """

    def __init__(self, path: Path, hides: bool, no_key: bool) -> None:
        self.path, self.hides, self.no_key = path, hides, no_key
        self.persons: set[str] = set()

    @cached_property
    def pseudonyms(self) -> Pseudonyms:
        return Pseudonyms(secrets.token_bytes(32)) if self.no_key else Pseudonyms.of(self.path)

    def shown(self, person: str) -> str:
        """What may be seen of a person's id."""
        if not self.hides:
            return person
        self.persons.add(word := self.pseudonyms.subject(person))
        return word

    def named(self, given: Sequence[str]) -> list[str]:
        """The subjects that a user names, by what is shown of them: whoever imports may name a person by the id."""
        words = {name: self.pseudonyms.subject(name) for name in given if self.persons}
        return [words[name] if words.get(name) in self.persons else name for name in given]

    def subject(self, name: str) -> str:
        """The pseudonym of a subject, by what is shown of it."""
        return name if name in self.persons else self.pseudonyms.subject(name)


def _good_volumes(
    reader: Format, paths: Sequence[Path], label: Any, summary: ImportSummary, skip_bad: bool
) -> Iterator[VolumeData]:
    """The volumes of the files that are not refused.

    Raises:
        FilesError: at the end, with all refused files: if there is one, or with ``skip_bad`` if no file is good.
    """
    contents: dict[str, Path] = {}
    for path, found, record in reader.read(paths, label):
        if isinstance(found, FileError):
            summary.skipped[Path(found.path)] = found.reason
            continue
        summary.read[path] = record
        image = found.kspace if found.reference is None else found.reference
        same = contents.setdefault(hashlib.sha256(image.tobytes()).hexdigest(), path)
        if same != path and summary.subjects[same] != summary.subjects[path]:
            summary.note("one-as-people", f"{same} and {path} hold the same image, and are two subjects")
        if skip_bad or not summary.skipped:
            yield found
    if summary.skipped and (not skip_bad or not summary.read):
        refused = [FileError(path, reason) for path, reason in summary.skipped.items()]
        others = f"--skip-bad imports the others: {len(summary.read)}." if summary.read else "No file is left."
        if len(refused) == 1 and not summary.read:
            raise refused[0]
        raise FilesError(refused, f"Refused: {len(refused)} files. {others}")


def _check_target(target: Path, sources: Sequence[Path], overwrite: bool) -> bool:
    """Whether there is a shard to replace.

    Raises:
        InputError: the target is a source, is there and must not be replaced, or is no shard.
    """
    for source in sources:
        if atomic.same_file(source, target) or source.absolute() == target.absolute():
            raise InputError(f"{target}: is a source of this import; nothing is written onto a source.")
    if not target.exists() and not target.is_symlink():
        return False
    if not is_shard(target):
        raise InputError(f"{target}: is there already and is no shard, so it is not replaced; choose another --site.")
    if not overwrite:
        raise InputError(f"{target}: is there already; --overwrite replaces it.")
    return True
