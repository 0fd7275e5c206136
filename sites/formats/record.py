"""What an import did: a record of each file, and the summary that is printed, given as JSON and kept in the shard."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedrecon.sites.data.volume import SPLITS, Volume, usable_for

SUFFIXES = """
    .bmp .bval .bvec .cfl .csv .dat .db .dcm .doc .docx .gif .gz .h5 .hdf5 .hdr .html .ima .img .ismrmrd .jpeg .jpg
    .json .json.gz .log .mat .md .mgz .mha .mhd .mrd .nii .nii.gz .npy .npz .nrrd .par .pdf .pkl .png .pt .py .raw
    .rec .tar .tar.gz .tgz .tif .tiff .tsv .txt .xls .xlsx .xml .yaml .yml .zip
"""
"""The kinds of other files that a shard keeps by their suffix. What follows the last dot of a name may be any text."""

SHOWN = 5
"""How many names or files a printed line lists; the JSON lists all."""


@dataclass(frozen=True)
class Note:
    """Something that a reader of the summary must know.

    Attributes:
        kind: its name, in words joined by ``-``; it is the same for all files.
        text: what was found in this file or import, and what was done. It may hold names, so no shard keeps it.
    """

    kind: str
    text: str


@dataclass
class FileRecord:
    """What a format found in one file, and what it did with it. A format fills what it knows; None is unknown.

    Attributes:
        slices: slices of the file, in the plane of the images.
        dropped: numbers of the slices that were left out, by the rule that left them out.
        plane: ``axial``, ``coronal`` or ``sagittal``; ``rule`` says what decided it.
        orientation: where the file's voxel axes point, such as ``LPS``.
        field_of_view_mm: field of view (y, x) of the images.
        crop: the matrix before and after the crop of k-space.
        scale: factor and offset of the stored numbers.
        replaced: number of values that were set to zero, by kind.
        sampled: the smallest share of samples that a slice has within the measured box.
        notes: what a reader must know.
        volume: the labels of the volume, once it was read.
        facts: what only this format knows, by its name in the summary; text with units, and no name of a person.
    """

    slices: int | None = None
    dropped: dict[str, list[int]] = field(default_factory=dict)
    plane: str | None = None
    rule: str | None = None
    orientation: str | None = None
    field_of_view_mm: tuple[float, float] | None = None
    crop: tuple[tuple[int, int], tuple[int, int]] | None = None
    scale: tuple[float, float] | None = None
    replaced: dict[str, int] = field(default_factory=dict)
    sampled: float | None = None
    notes: list[Note] = field(default_factory=list)
    volume: Volume | None = None
    facts: dict[str, str] = field(default_factory=dict)

    def note(self, kind: str, text: str) -> None:
        """Adds a note."""
        self.notes.append(Note(kind, text))


@dataclass
class ImportSummary:
    """What one import read, left out, decided and wrote. It stands for the path of its shard.

    Attributes:
        site, format: as they were given.
        path: the shard.
        written: False for a dry run.
        overwrote: whether a shard was replaced.
        phase: origin of the image phase: ``none``, ``smooth`` or ``measured``.
        simulated: whether the k-space was computed from magnitude images.
        read: the record of each file.
        subjects: subject of each file that was read.
        skipped: the reason for each file that was refused.
        other_files: number of files of other kinds in the folders, by suffix.
        notes: what concerns the import as a whole.
    """

    site: str
    format: str
    path: Path
    phase: str
    simulated: bool
    written: bool = False
    overwrote: bool = False
    read: dict[Path, FileRecord] = field(default_factory=dict)
    subjects: dict[Path, str] = field(default_factory=dict)
    skipped: dict[Path, str] = field(default_factory=dict)
    other_files: dict[str, int] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def __fspath__(self) -> str:
        """The path of the shard."""
        return os.fspath(self.path)

    def note(self, kind: str, text: str) -> None:
        """Adds a note on the import as a whole."""
        self.notes.append(Note(kind, text))

    @property
    def splits(self) -> dict[str, list[str]]:
        """The subjects of each split, by their own ids."""
        found: dict[str, set[str]] = {split: set() for split in SPLITS}
        for path, record in self.read.items():
            if record.volume:
                found[record.volume.split].add(self.subjects[path])
        return {split: sorted(names) for split, names in found.items()}

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON types, for who imports: it holds the names of files and subjects."""
        files = [
            {"file": str(path), "subject": self.subjects[path], **_record(record)} for path, record in self.read.items()
        ]
        return {
            **self._totals(),
            "other_files": self.other_files,
            "shard": str(self.path),
            "written": self.written,
            "overwrote": self.overwrote,
            "splits": self.splits,
            "files": files,
            "skipped": [{"file": str(path), "reason": reason} for path, reason in self.skipped.items()],
            "warnings": [asdict(note) for note in self.notes],
        }

    def kept(self) -> dict[str, Any]:
        """The summary that the shard keeps. It holds pseudonyms, numbers and the kinds of notes, and no other name."""
        files, others, known = [], Counter[str](), {"", "shards of fedrecon", *SUFFIXES.split()}
        for record in self.read.values():
            shown = _record(record)
            files.append({**shown, "notes": sorted({note.kind for note in record.notes})})
        for suffix, count in self.other_files.items():
            others[suffix if suffix in known else "other"] += count
        return {
            **self._totals(),
            "other_files": dict(others),
            "splits": {split: len(names) for split, names in self.splits.items()},
            "files": files,
            "skipped": len(self.skipped),
            "warnings": sorted({note.kind for note in self.notes}),
        }

    def _totals(self) -> dict[str, Any]:
        records = list(self.read.values())
        volumes = [record.volume for record in records if record.volume]
        dropped: Counter[str] = Counter()
        replaced: Counter[str] = Counter()
        for record in records:
            dropped.update({rule: len(numbers) for rule, numbers in record.dropped.items()})
            replaced.update(record.replaced)
        return {
            "site": self.site,
            "format": self.format,
            "n_files": len(records),
            "n_subjects": len({self.subjects[path] for path in self.read}),
            "slices": {
                "kept": sum(volume.n_slices for volume in volumes),
                "found": sum(record.slices or 0 for record in records),
                "dropped": dict(dropped),
            },
            "replaced": dict(replaced),
            "simulated": self.simulated,
            "phase": self.phase,
            "references": sum(volume.has_reference for volume in volumes),
            "usable_for": usable_for(volumes),
        }

    def lines(self) -> Iterator[str]:
        """The summary as it is printed, one line a subject matter."""
        totals, records = self._totals(), list(self.read.values())
        volumes = [record.volume for record in records if record.volume]
        left = f", {len(self.skipped)} refused" if self.skipped else ""
        others = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in self.other_files.items())
        yield f"{self.site}: {self.format}, {len(records)} file{'s' * (len(records) != 1)} read{left}" + (
            f", not read: {others}" if others else ""
        )
        for path, reason in self.skipped.items():
            yield f"  refused      {path}: {reason}"
        for split, names in self.splits.items():
            yield f"  {split:<12} {len(names)} subject{'s' * (len(names) != 1)}" + (
                f": {_some(names)}" if names else ""
            )
        slices = totals["slices"]
        dropped = ", ".join(f"{count} {rule}" for rule, count in slices["dropped"].items())
        yield f"  slices       {slices['kept']} of {slices['found']}" + (f"; left out: {dropped}" if dropped else "")
        yield from _counted("plane", records, lambda one: one.plane and f"{one.plane} ({one.rule})")
        yield from _counted("orientation", records, lambda one: one.orientation)
        yield from _counted("matrix", records, lambda one: one.volume and "x".join(map(str, one.volume.shape)))
        yield from _counted("view mm", records, lambda one: _joined(one.field_of_view_mm))
        yield from _counted("voxel mm", records, lambda one: one.volume and _joined(one.volume.voxel_mm))
        yield from _counted("k-space crop", records, _crop)
        yield from _counted("scale", records, lambda one: one.scale and f"{one.scale[0]:g} x + {one.scale[1]:g}")
        yield from _counted("coils", records, lambda one: one.volume and str(one.volume.n_coils))
        for fact in sorted({fact for record in records for fact in record.facts}):
            yield from _counted(fact, records, lambda one, fact=fact: one.facts.get(fact))  # type: ignore[misc]
        noise = sorted(volume.noise for volume in volumes if volume.noise is not None)
        origin = "simulated" if self.simulated else "measured"
        level = f"{noise[0]:.3g} to {noise[-1]:.3g}" if noise else "unknown"
        yield f"  noise        {level} ({origin} k-space, phase {self.phase})"
        for kind, count in totals["replaced"].items():
            yield f"  set to zero  {count} {kind} values"
        for kind in sorted({note.kind for record in records for note in record.notes}):
            texts = [note.text for record in records for note in record.notes if note.kind == kind]
            more = f" (and {len(texts) - 1} files more)" if len(texts) > 1 else ""
            yield f"  note         {kind}: {texts[0]}{more}"
        yield f"  reference    {totals['references']} of {len(volumes)}; usable for {', '.join(totals['usable_for'])}"


def _record(record: FileRecord) -> dict[str, Any]:
    return asdict(record)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _joined(values: tuple[float, ...] | None) -> str | None:
    return None if values is None else " x ".join(f"{value:.4g}" for value in values)


def _crop(record: FileRecord) -> str | None:
    return record.crop and " to ".join("x".join(map(str, shape)) for shape in record.crop)


def _counted(name: str, records: list[FileRecord], value: Callable[[FileRecord], Any]) -> Iterator[str]:
    """One line with the values of all files: each value once, the commonest first; with counts if they differ."""
    found = Counter(str(value(record)) for record in records if value(record) is not None)
    if len(found) == 1:
        yield f"  {name:<12} {next(iter(found))}"
    elif found:
        common = [f"{one} ({count})" for one, count in found.most_common(SHOWN)]
        more = f" and {len(found) - SHOWN} other values" if len(found) > SHOWN else ""
        yield f"  {name:<12} {', '.join(common)}{more}"
