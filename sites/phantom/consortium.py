"""Writes the shards of the simulated consortium, subject by subject."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.data.volume import VolumeData, check_name
from fedrecon.sites.errors import InputError, unknown
from fedrecon.sites.phantom.protocol import PROTOCOLS, Protocol
from fedrecon.sites.phantom.scanner import scan
from fedrecon.sites.seeding import generator

DEFAULT_SITES = tuple(PROTOCOLS)
DEFAULT_SUBJECTS = 24
DEFAULT_SIZE = 128
_SPLIT_CYCLE = ("test", "train", "validation", "train", "test", "train")
_LIMITS = {"subjects": (1, 10_000), "size": (32, 512), "coils": (1, 32)}


def simulate(
    out: Path | str,
    sites: Sequence[str] = DEFAULT_SITES,
    subjects: int = DEFAULT_SUBJECTS,
    size: int = DEFAULT_SIZE,
    coils: int | None = None,
    seed: int = 0,
) -> list[Path]:
    """Writes one shard ``NAME.h5`` for each hospital into the folder ``out`` and returns their paths.

    A subject depends only on the seed, the name of its hospital and its own number. Further hospitals or
    subjects do not change it or its split.

    Args:
        out: the folder; it is made if it does not exist.
        sites: the hospitals: a contrast (``t1w``), or ``NAME:CONTRAST`` for several hospitals of one contrast.
        subjects: number of subjects at each hospital, with six slices each. Of 6 subjects 3 train, 1 validates
            and 2 test. A single subject is a test subject.
        size: side of the square matrix, in pixels.
        coils: number of receive coils at all hospitals; None takes the number of each protocol.
        seed: the seed of the whole consortium.

    Raises:
        InputError: a contrast is unknown, a hospital's name is not allowed or given twice, or a number is out of
            range. Nothing is written then.
    """
    protocols = _hospitals(sites)
    for name, value in (("subjects", subjects), ("size", size), ("coils", coils)):
        low, high = _LIMITS[name]
        if value is not None and not low <= value <= high:
            raise InputError(f"{name} is {value}; allowed: {low} to {high}.")
    for name in protocols:
        _check_free(Path(out) / f"{name}.h5")
    return [_write(Path(out), name, contrast, subjects, size, coils, seed) for name, contrast in protocols.items()]


def split_of(index: int) -> str:
    """The split of a hospital's subject number ``index`` (from 0). It does not depend on the number of subjects."""
    return _SPLIT_CYCLE[index % len(_SPLIT_CYCLE)]


def volumes(
    site: str, contrast: str, subjects: int, size: int, coils: int | None = None, seed: int = 0
) -> Iterator[VolumeData]:
    """The subjects of a hospital, one by one. A subject has one volume, and its id begins with the hospital's name.

    Args:
        contrast: a name of :data:`PROTOCOLS`.
        subjects, size, coils, seed: as for :func:`simulate`.
    """
    protocol = PROTOCOLS[contrast]
    for index in range(subjects):
        one = scan(generator(seed, "phantom", site, index), protocol, size, coils or protocol.n_coils)
        name = f"{site}-{index + 1:03d}"
        yield VolumeData(
            name,
            subject=name,
            split=split_of(index),
            kspace=one.kspace,
            reference=one.reference,
            noise=one.noise,
            voxel_mm=_voxel_mm(protocol, size),
            acquisition=contrast,
            field_strength_t=protocol.field_strength_t,
            truth=one.truth,
        )


def _check_free(path: Path) -> None:
    """Refuses to replace a file that is not of a simulation.

    Raises:
        InputError: the file is another site's shard, or no shard.
    """
    if path.exists() and Shard.open(path).origin != "phantom":
        raise InputError(f"{path}: is the shard of a site that was not simulated; it is not replaced.")


def _write(out: Path, site: str, contrast: str, subjects: int, size: int, coils: int | None, seed: int) -> Path:
    path = out / f"{site}.h5"
    data = volumes(site, contrast, subjects, size, coils, seed)
    write_shard(path, site, data, simulated=True, phase="smooth", origin="phantom", noise_from="simulation")
    return path


def _voxel_mm(protocol: Protocol, size: int) -> tuple[float, float, float]:
    pixel = protocol.field_of_view_mm / size
    return protocol.slice_mm, pixel, pixel


def _hospitals(sites: Sequence[str]) -> dict[str, str]:
    """The contrast of each hospital by its name, in the given order.

    Raises:
        InputError: see :func:`simulate`.
    """
    if not sites:
        raise InputError(f"no sites given. Allowed: {', '.join(PROTOCOLS)}, or NAME:CONTRAST.")
    hospitals: dict[str, str] = {}
    for given in sites:
        name, _, contrast = given.partition(":")
        contrast = contrast or name
        if contrast not in PROTOCOLS:
            raise unknown("contrast", contrast, PROTOCOLS)
        check_name("site", name)
        if name in hospitals:
            raise InputError(f"the site '{name}' is given twice; give each its own name, as in 'north:{contrast}'.")
        hospitals[name] = contrast
    return hospitals
