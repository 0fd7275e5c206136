"""A site's data: one HDF5 file, opened where it lies. It never travels. ``shard_writer`` defines its layout."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedrecon.sites.data.self_contained import check_self_contained
from fedrecon.sites.data.shard_file import (
    OPTIONAL,
    ROOT,
    StoredArray,
    check_root,
    plain_offset,
    read_volumes,
    read_voxel,
    reading,
)
from fedrecon.sites.data.shard_writer import (
    IMPORT,
    TRUTH,
    attributes_hash,
    content_hash,
    plain,
    reference_key,
    write_shard,
)
from fedrecon.sites.data.stamp import Stamp, note, noted
from fedrecon.sites.data.volume import (
    SPLITS,
    Complex,
    Real,
    Volume,
    VolumeData,
    check_name,
    check_scored_size,
    check_text,
    check_volume,
    split_summary,
    usable_for,
    without_reference,
)
from fedrecon.sites.errors import InputError, unknown

__all__ = ["Shard", "Volume", "VolumeData", "open_sealed", "write_shard"]


@dataclass(frozen=True)
class Shard:
    """The labels of a shard. Its data are read only when a method asks for them.

    A pickled shard holds only its path and content hash. Another process opens the file again (:func:`open_sealed`),
    and refuses it if the hash of its content differs. No file handle is kept, so any number of processes may hold the
    same shard.

    Attributes:
        path: absolute path of the file.
        site: name of the site.
        contrast: name that the site gives to its contrast.
        field_strength_t: field strength in tesla, or None where unknown.
        voxel_mm: typical voxel (slice, y, x) in mm, or None where unknown.
        simulated: True if the k-space was computed from magnitude images or from a phantom.
        phase: origin of the image phase: ``none``, ``smooth`` (both simulated) or ``measured``.
        content_hash: SHA-256 of labels and data, independent of compression and layout.
        schema_version: version of the file's layout.
        volumes: labels of the volumes, sorted by name.
        attributes: further attributes that the writer stored.
        attributes_hash: SHA-256 of all attributes, which seals those that are outside the content hash; empty in a
            shard of an earlier version, whose other attributes are not compared.
    """

    path: Path
    site: str
    contrast: str
    field_strength_t: float | None
    voxel_mm: tuple[float, float, float] | None
    simulated: bool
    phase: str
    content_hash: str
    schema_version: int
    volumes: tuple[Volume, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    attributes_hash: str = ""

    def __post_init__(self) -> None:
        """Refuses names that could lead out of a folder, from a file or from another node."""
        try:
            check_name("site", self.site)
            check_text("contrast", self.contrast)
            for volume in self.volumes:
                check_name("volume", volume.name)
                check_name("subject", volume.subject)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None

    @classmethod
    def open(cls, path: Path | str) -> Shard:
        """Read the labels of the shard at ``path``, but none of its data.

        Raises:
            InputError: the file is missing, is not HDF5, is truncated, is not a shard, has a newer schema, lacks an
                attribute or a dataset, holds an array of a wrong shape or a name that is not allowed, or takes values
                from elsewhere (:func:`fedrecon.sites.data.self_contained.check_self_contained`).
        """
        path = Path(path).absolute()
        with reading(path) as file:
            check_self_contained(path, file)
            root = dict(file.attrs)
            check_root(path, root)
            tesla = root.get("field_strength_t")
            return cls(
                path=path,
                site=str(root["site"]),
                contrast=str(root["contrast"]),
                field_strength_t=None if tesla is None else float(tesla),
                voxel_mm=read_voxel(root),
                simulated=bool(root["simulated"]),
                phase=str(root["phase"]),
                content_hash=str(root["content_hash"]),
                schema_version=int(root["schema_version"]),
                volumes=read_volumes(path, file),
                attributes={key: plain(root[key]) for key in sorted(root.keys() - {*ROOT, *OPTIONAL})},
                attributes_hash=str(root.get("attributes_hash", "")),
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), self.content_hash)

    @property
    def n_coils(self) -> int:
        """The number of receive coils; the largest one where volumes differ."""
        return max(volume.n_coils for volume in self.volumes)

    @property
    def origin(self) -> str:
        """Where its images come from: ``phantom``, or what its writer noted, or nothing."""
        return str(self.attributes.get("origin", ""))

    @property
    def imported(self) -> dict[str, Any] | None:
        """What its import did (:mod:`fedrecon.sites.formats.record`), or None if it was not imported."""
        text = self.attributes.get(IMPORT)
        return None if text is None else json.loads(text)

    @property
    def pseudonym_key(self) -> str:
        """Fingerprint of the key under which subjects have pseudonyms; empty where they keep their ids."""
        return str(self.attributes.get("pseudonym_key", ""))

    @property
    def subjects(self) -> dict[str, str]:
        """The split of each subject."""
        return {volume.subject: volume.split for volume in self.volumes}

    def split(self, name: str) -> tuple[Volume, ...]:
        """The volumes of the split ``train``, ``validation`` or ``test``, sorted by name."""
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        return tuple(volume for volume in self.volumes if volume.split == name)

    def kspace(self, volume_name: str) -> Complex:
        """K-space (slices, coils, y, x) complex64, READ-ONLY."""
        return self.stored(volume_name)[:]  # type: ignore[no-any-return]

    def reference(self, volume_name: str) -> Real:
        """Fully sampled magnitude image (slices, y, x) float32, READ-ONLY.

        Raises:
            InputError: the volume has no reference.
        """
        return self.stored(volume_name, "reference")[:]  # type: ignore[no-any-return]

    def truth(self, volume_name: str) -> Real:
        """Noise-free magnitude image (slices, y, x) float32, READ-ONLY.

        Raises:
            InputError: the volume has no truth.
        """
        return self.stored(volume_name, "truth")[:]  # type: ignore[no-any-return]

    def stored(self, volume_name: str, what: Literal["kspace", "reference", "truth"] = "kspace") -> Any:
        """K-space, reference or noise-free truth of a volume, to be read slice by slice by its index.

        It is a :class:`fedrecon.sites.data.shard_file.StoredArray`; an array in memory if it is compressed.

        Raises:
            InputError: the volume has no reference or truth, or the file cannot be read.
        """
        volume = self._by_name(volume_name)
        if what == "reference" and not volume.has_reference:
            raise InputError(
                f"{self.path}: volume '{volume_name}' has no reference: it {without_reference(volume.split)}."
            )
        if what == "truth" and volume.truth_maximum is None:
            raise InputError(f"{self.path}: nobody knows the noise-free truth of volume '{volume_name}'.")
        keys = {"kspace": "kspace", "reference": reference_key(volume.n_coils), "truth": TRUTH}
        coils = (volume.n_coils,) if what == "kspace" else ()
        shape = (volume.n_slices, *coils, *volume.shape)
        with reading(self.path) as file:
            dataset = file[volume.name][keys[what]]
            offset = plain_offset(dataset)
            if offset is not None:
                return StoredArray(self.path, dataset.dtype, shape, offset)
            array = dataset[()].reshape(shape)
        array.flags.writeable = False
        return array

    def data(self, volume_name: str) -> VolumeData:
        """The volume ``volume_name`` with its data."""
        data = self.unread(volume_name)
        reference, truth = (None if one is None else one[:] for one in (data.reference, data.truth))
        return replace(data, kspace=data.kspace[:], reference=reference, truth=truth)

    def unread(self, volume_name: str) -> VolumeData:
        """The volume ``volume_name``, whose arrays are those of :meth:`stored`."""
        volume = self._by_name(volume_name)
        reference = self.stored(volume_name, "reference") if volume.has_reference else None
        kspace = self.stored(volume_name)
        return VolumeData(
            volume.name,
            volume.subject,
            volume.split,
            kspace,
            reference,
            volume.noise,
            volume.voxel_mm,
            self.contrast,
            self.field_strength_t,
            None if volume.truth_maximum is None else self.stored(volume_name, "truth"),
            volume.crop,
        )

    def verify(self) -> None:
        """Read all data and check them.

        Raises:
            InputError: a volume cannot be right (:func:`fedrecon.sites.data.volume.check_volume`), or see
                :meth:`check_hash`.
        """
        self._check(values=True)

    def check_hash(self) -> None:
        """Read all data and compare them with the labels that follow from them.

        Raises:
            InputError: the maximum of a reference differs from its label, or a hash differs: the file changed after it
                was written. The message names both hashes, and the command that seals it anew.
        """
        self._check(values=False)

    def _check(self, values: bool) -> None:
        digests = {}
        for volume in self.volumes:
            try:
                data = self.unread(volume.name)
                if values:
                    check_volume(data)
            except InputError as error:
                raise InputError(f"{self.path}: {error}") from None
            about = data.about()
            maxima = {"max": about.maximum == volume.maximum, "truth_max": about.truth_maximum == volume.truth_maximum}
            for key, right in maxima.items():
                if not right:
                    raise InputError(
                        f"{self.path}: volume '{volume.name}': its attribute '{key}' is not its maximum; {self._anew}"
                    )
            digests[volume.name] = data.digest()
        found = content_hash(self.site, self.contrast, self.simulated, self.phase, digests)
        if found != self.content_hash:
            raise InputError(
                f"{self.path}: its content is not what was written (the content hash differs: the attribute says "
                f"{self.content_hash}, the content has {found}); {self._anew}"
            )
        with reading(self.path) as file:
            found = attributes_hash(file)
        if self.attributes_hash not in ("", found):
            raise InputError(
                f"{self.path}: its attributes are not what was written (their hash differs: written was "
                f"{self.attributes_hash}, they have {found}); {self._anew}"
            )

    @property
    def _anew(self) -> str:
        return f"if the change is meant: fedrecon data seal {self.path}"

    def scorable(self, split: str) -> tuple[Volume, ...]:
        """The volumes of a split that can be scored: those with a fully sampled reference."""
        return tuple(volume for volume in self.split(split) if volume.has_reference)

    def require_training(self, references: bool = True) -> None:
        """Refuse a shard that cannot train; ``references`` says whether the loss needs fully sampled references.

        Raises:
            InputError: the shard has no training subject, or a training volume without a reference that is needed.
        """
        if not self.split("train"):
            splits = ", ".join(f"{subject}: {split}" for subject, split in sorted(self.subjects.items()))
            raise InputError(
                f"{self.path}: site '{self.site}' has no training subject ({splits}); it is usable for "
                f"{', '.join(usable_for(self.volumes))}. To train, import more subjects, or give --subject-pattern, "
                "--validation-subjects or --test-subjects."
            )
        if references:
            self.require_references("train")

    def require_references(self, split: str, truth: bool = False, all_volumes: bool = True) -> None:
        """Refuse a split that cannot be scored.

        Args:
            split: the split that is scored. truth: whether it is compared with the noise-free truth.
            all_volumes: whether every volume needs a reference; if not, volumes without one are not scored.

        Raises:
            InputError: the split holds no volume, or one that is too small, or has no fully sampled reference or truth.
        """
        volumes, bare = self.scorable(split), [one.name for one in self.split(split) if not one.has_reference]
        if bare and (all_volumes or not volumes):
            raise InputError(
                f"{self.path}: no fully sampled reference in {', '.join(bare)} (split '{split}'): "
                f"a volume without reference {without_reference(split)}."
            )
        if not volumes:
            raise InputError(f"{self.path}: site '{self.site}' has no subject in the split '{split}'.")
        check_scored_size(f"{self.path} (split '{split}')", volumes)
        if truth and any(volume.truth_maximum is None for volume in volumes):
            raise InputError(
                f"{self.path}: evaluation.reference=truth, but site '{self.site}' has no noise-free truth in the split "
                f"'{split}'. Only phantoms that 'fedrecon data simulate' wrote have it. Allowed for others: measured."
            )

    @cached_property
    def mapped(self) -> bool:
        """Whether every slice can be read where it lies. Ten readers on a node then share one copy of the data."""
        with reading(self.path) as file:
            return all(plain_offset(item) is not None for group in file.values() for item in group.values())

    def summary(self) -> dict[str, Any]:
        """All labels as JSON types, with counts for each split."""
        return {
            **{key: value for key, value in asdict(self).items() if key != "volumes"},
            "attributes": {key: value for key, value in self.attributes.items() if key != IMPORT},
            "import": self.imported,
            "path": str(self.path),
            "voxel_mm": None if self.voxel_mm is None else list(self.voxel_mm),
            "n_coils": self.n_coils,
            "n_subjects": len(self.subjects),
            "n_slices": sum(volume.n_slices for volume in self.volumes),
            "matrix": sorted([list(shape) for shape in {volume.shape for volume in self.volumes}]),
            "noise": self._noise(),
            "splits": {name: split_summary(self.split(name)) for name in SPLITS},
            "usable_for": usable_for(self.volumes),
            "mapped": self.mapped,
            "bytes": self.path.stat().st_size,
        }

    def _noise(self) -> float | None:
        known = [volume.noise for volume in self.volumes if volume.noise is not None]
        return float(np.median(known)) if len(known) == len(self.volumes) else None

    def _by_name(self, name: str) -> Volume:
        for volume in self.volumes:
            if volume.name == name:
                return volume
        raise unknown(f"volume at site '{self.site}'", name, [volume.name for volume in self.volumes])


def open_sealed(path: Path | str) -> Shard:
    """The shard at ``path``, whose content is what its attribute says.

    All data are read once. The hash is then kept in the user's cache folder for as long as the file's stamp stays the
    same, so a second opening reads labels only.

    Raises:
        InputError: see :meth:`Shard.open` and :meth:`Shard.check_hash`, or the file changed while it was read.
    """
    stamp = Stamp.of(Path(path).absolute())
    shard = Shard.open(path)
    if noted(stamp) != shard.content_hash:
        start = time.time_ns()
        shard.check_hash()
        if Stamp.of(shard.path) != stamp:
            raise InputError(f"{shard.path}: it was changed while it was read; try again when nobody writes to it.")
        note(stamp, shard.content_hash, start)
    return shard


def _reopen(path: str, expected: str) -> Shard:
    shard = open_sealed(path)
    if shard.content_hash != expected:
        raise InputError(f"{path}: the shard was replaced by another while it was in use.")
    return shard
