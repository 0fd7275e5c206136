"""Writes a site's shard: one HDF5 file, volume by volume, atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fedrecon.sites import atomic
from fedrecon.sites.data.volume import VolumeData, check_name, check_text, check_volume
from fedrecon.sites.errors import InputError

FORMAT = "fedrecon shard"
SCHEMA_VERSION = 1
HASHES = ("content_hash", "attributes_hash")
IMPORT = "import_summary"
"""Attribute of an imported shard: what the import did, as JSON text. It is no part of the content hash."""

PHASES = ("none", "smooth", "measured")
TRUTH = "truth"
"""Name of the dataset of the noise-free image, (slices, y, x) float32, and ``truth_max`` is its maximum."""
_ALIGNMENT = 4096  # bytes of a memory page: mapped arrays are then aligned for every instruction set


def write_shard(
    path: Path | str,
    site: str,
    volumes: Iterable[VolumeData],
    *,
    contrast: str | None = None,
    field_strength_t: float | None = None,
    voxel_mm: tuple[float, float, float] | None = None,
    simulated: bool,
    phase: str,
    compression: str | None = None,
    after: Callable[[], Mapping[str, str]] = dict,
    **attributes: str | float,
) -> str:
    """Write ``volumes`` as the shard of ``site`` and return its content hash.

    Each volume is one group with the layout and the attributes of a fastMRI file: ``kspace`` (slices, coils, y, x)
    complex64, and the reference ``reconstruction_rss``. A volume of one coil has no coil axis, and its reference is
    named ``reconstruction_esc``. A phantom also has ``truth``, its noise-free image. The file appears under its name
    only when it is complete.

    Args:
        path: the file to write; its folder is made if it is missing.
        site: name of the site.
        volumes: the volumes, read one at a time; all volumes of a subject must be in one split.
        contrast: name of the contrast; default: the name in the volumes (``unknown`` if they have none, ``mixed`` if
            they differ).
        field_strength_t: field strength in tesla; default: the value of the volumes if they agree.
        voxel_mm: voxel size (slice, y, x) in mm; default: the median of the volumes.
        simulated: True if the k-space was computed from magnitude images or from a phantom.
        phase: origin of the image phase: ``none`` or ``smooth`` if it was simulated, ``measured`` if a scanner
            measured it.
        compression: an HDF5 filter (``gzip``) instead of the uncompressed layout, which can be memory-mapped.
        after: further root attributes, asked for when all volumes were read.
        attributes: further root attributes, stored unchanged.

    Raises:
        InputError: the name of the site or contrast, or the phase is not allowed, a volume cannot be right, a name is
            used twice, a subject is in two splits, or there is no volume.
    """
    check_name("site", site)
    if phase not in PHASES:
        raise InputError(f"site '{site}': phase '{phase}' is none of {', '.join(PHASES)}.")
    path = Path(path)
    labels = {"contrast": contrast, "field_strength_t": field_strength_t, "voxel_mm": voxel_mm}
    layout: Any = {
        "libver": ("v110", "v110"),
        "alignment_threshold": _ALIGNMENT,
        "alignment_interval": _ALIGNMENT,
    }
    with atomic.replacing(path) as temporary, h5py.File(temporary, "w", **layout) as file:
        digests, found = _write_volumes(file, site, volumes, compression)
        known = {key: value for key, value in (found | _given(labels)).items() if value is not None}
        check_text("contrast", str(known["contrast"]))
        content = content_hash(site, str(known["contrast"]), simulated, phase, digests)
        file.attrs.update({**attributes, **after(), **known, "format": FORMAT, "schema_version": SCHEMA_VERSION})
        file.attrs.update({"site": site, "simulated": simulated, "phase": phase, "content_hash": content})
        file.attrs["attributes_hash"] = attributes_hash(file)
    return content


def content_hash(site: str, contrast: str, simulated: bool, phase: str, digests: Mapping[str, str]) -> str:
    """SHA-256 of the site's labels and of each volume's digest by name, independent of layout and order of writing."""
    parts = [site, contrast, bool(simulated), phase, sorted(digests.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def attributes_hash(file: h5py.File) -> str:
    """SHA-256 of all attributes of the file and of its volumes, but not of the two hashes.

    It seals what is outside the content hash: origin, key, voxels, field strength and further attributes. It enters no
    digest, so an experiment keeps its digest when a shard of an earlier version gets this seal.
    """
    owners = {"": file, **{name: file[name] for name in file}}
    parts = [
        (name, key, plain(owner.attrs[key]))
        for name, owner in sorted(owners.items())
        for key in sorted(owner.attrs)
        if name or key not in HASHES
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def plain(value: Any) -> Any:
    """An HDF5 attribute as a JSON type."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _given(labels: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in labels.items() if value is not None}


def _write_volumes(
    file: h5py.File, site: str, volumes: Iterable[VolumeData], compression: str | None
) -> tuple[dict[str, str], dict[str, Any]]:
    digests: dict[str, str] = {}
    splits: dict[str, str] = {}
    contrasts, fields, voxels = set(), set(), []
    for data in volumes:
        check_volume(data)
        if data.name in digests:
            raise InputError(f"site '{site}': the volume '{data.name}' is there twice.")
        if splits.setdefault(data.subject, data.split) != data.split:
            raise InputError(
                f"site '{site}': the subject '{data.subject}' is there twice, in the splits "
                f"'{splits[data.subject]}' and '{data.split}'; subjects are split as a whole."
            )
        digests[data.name] = data.digest()
        _write_volume(file.create_group(data.name), data, compression)
        contrasts.add(data.acquisition or "unknown")
        fields.add(data.field_strength_t)
        voxels += [data.voxel_mm] if data.voxel_mm else []
    if not digests:
        raise InputError(f"site '{site}': there is no volume to write.")
    found = {
        "contrast": contrasts.pop() if len(contrasts) == 1 else "mixed",
        "field_strength_t": fields.pop() if len(fields) == 1 else None,
        "voxel_mm": np.median(voxels, axis=0) if voxels else None,
    }
    return digests, found


def _write_volume(group: h5py.Group, data: VolumeData, compression: str | None) -> None:
    about = data.about()
    kspace = data.kspace if about.n_coils > 1 else data.kspace[:, 0]  # as fastMRI's single-coil files
    group.create_dataset("kspace", data=kspace, compression=compression)
    if data.reference is not None:
        key = reference_key(about.n_coils)
        group.create_dataset(key, data=data.reference, compression=compression)
    if data.truth is not None:
        group.create_dataset(TRUTH, data=data.truth, compression=compression)
        group.attrs["truth_max"] = about.truth_maximum
    group.attrs.update({"max": about.maximum, "norm": norm_of(data), "acquisition": data.acquisition})
    group.attrs.update({"patient_id": data.subject, "split": data.split})
    group.attrs["noise"] = np.nan if about.noise is None else about.noise
    if data.crop is not None:
        group.attrs["crop"] = data.crop
    if data.voxel_mm is not None:
        group.attrs["voxel_mm"] = data.voxel_mm


def norm_of(data: VolumeData) -> float:
    """The Euclidean norm of the reference; 0 if there is none."""
    return 0.0 if data.reference is None else float(np.linalg.norm(data.reference[:].astype(np.float64)))


def reference_key(n_coils: int) -> str:
    """The name that fastMRI gives to the fully sampled image: root sum of squares, or emulated single coil."""
    return "reconstruction_rss" if n_coils > 1 else "reconstruction_esc"
