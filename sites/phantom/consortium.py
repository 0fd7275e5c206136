"""Writes the shards of the simulated consortium, subject by subject."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.data.volume import VolumeData, check_name
from fedrecon.sites.errors import InputError, unknown
from fedrecon.sites.phantom.anatomy import N_SLICES
from fedrecon.sites.phantom.protocol import PROTOCOLS, Protocol, own_scanner
from fedrecon.sites.phantom.scanner import ANATOMIES, scan
from fedrecon.sites.phases import phase, told
from fedrecon.sites.seeding import generator

DEFAULT_SITES = tuple(PROTOCOLS)
DEFAULT_SUBJECTS = 24
DEFAULT_SIZE = 128
_SPLIT_CYCLE = ("test", "train", "validation", "train", "test", "train")
SCANNERS = ("protocol", "own")
"""Whether sites of one contrast share the protocol's scanner, or each has its own."""
_LIMITS = {"subjects": (1, 10_000), "size": (32, 512), "coils": (1, 32), "slices": (1, 10_000)}


@dataclass(frozen=True)
class Population:
    """What the subjects of a consortium are.

    Attributes:
        anatomy: a name of :data:`~fedrecon.sites.phantom.scanner.ANATOMIES`: ``atlas`` deforms one atlas, ``varied``
            synthesises each subject.
        scanners: ``protocol``: sites of one contrast measure alike. ``own``: each has its own scanner, the contrast
            stays.
        slices: number of training slices of each site in their order, or one number for all; empty: those of
            ``subjects``.
    """

    anatomy: str = "atlas"
    scanners: str = "protocol"
    slices: Sequence[int] = ()


def simulate(
    out: Path | str,
    sites: Sequence[str] = DEFAULT_SITES,
    subjects: int = DEFAULT_SUBJECTS,
    size: int = DEFAULT_SIZE,
    coils: int | None = None,
    seed: int = 0,
    population: Population | None = None,
    dry_run: bool = False,
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
        coils: number of receive coils at all hospitals; None takes the number of each scanner.
        seed: the seed of the whole consortium.
        population: the anatomies, the scanners and the number of training slices; None takes the default one.
        dry_run: check all that is given, and write nothing.

    Raises:
        InputError: a contrast, an anatomy or a kind of scanners is unknown, a hospital's name is not allowed or given
            twice, a number is out of range, or there is not one number of slices for each hospital. Nothing is written
            then.
    """
    chosen = population or Population()
    contrasts = _hospitals(sites)
    for what, name, known in (("anatomy", chosen.anatomy, ANATOMIES), ("scanners", chosen.scanners, SCANNERS)):
        if name not in known:
            raise unknown(what, name, known)
    slices = list(chosen.slices)
    given: list[tuple[str, Any]] = [
        ("subjects", subjects),
        ("size", size),
        ("coils", coils),
        *(("slices", one) for one in slices),
    ]
    for name, value in given:
        low, high = _LIMITS[name]
        if value is not None and not (isinstance(value, numbers.Integral) and low <= int(value) <= high):
            raise InputError(f"{name} is {value}; allowed: {low} to {high}, whole numbers.")
    if len(slices) > 1 and len(slices) != len(contrasts):
        raise InputError(f"slices has {len(slices)} numbers for {len(contrasts)} sites; allowed: one, or one a site.")
    n_train: Sequence[int | None] = slices * len(contrasts) if len(slices) == 1 else slices or [None] * len(contrasts)
    for name in contrasts:
        _check_free(Path(out) / f"{name}.h5")
    if dry_run:
        return [Path(out) / f"{name}.h5" for name in contrasts]
    with phase("simulating subjects", sum(1 for most in n_train for _ in members(subjects, most))) as done:
        return [
            _write(Path(out), name, told(volumes(name, contrast, subjects, size, coils, seed, chosen, most), done))
            for (name, contrast), most in zip(contrasts.items(), n_train, strict=True)
        ]


def split_of(index: int) -> str:
    """The split of a hospital's subject number ``index`` (from 0). It does not depend on the number of subjects."""
    return _SPLIT_CYCLE[index % len(_SPLIT_CYCLE)]


def volumes(
    site: str,
    contrast: str,
    subjects: int,
    size: int,
    coils: int | None = None,
    seed: int = 0,
    population: Population | None = None,
    slices: int | None = None,
) -> Iterator[VolumeData]:
    """The subjects of a hospital, one by one. A subject has one volume, and its id begins with the hospital's name.

    Args:
        contrast: a name of :data:`PROTOCOLS`.
        subjects, size, coils, seed, population: as for :func:`simulate`.
        slices: number of training slices; None takes all of the training subjects among ``subjects``. The last
            training subject keeps as many of its slices as are left, from its middle.
    """
    chosen, protocol = population or Population(), PROTOCOLS[contrast]
    if chosen.scanners == "own":
        protocol = own_scanner(protocol, generator(seed, "scanner", site))
    for index, kept in members(subjects, slices):
        random = generator(seed, "phantom", site, index)
        one = scan(random, protocol, size, coils or protocol.n_coils, ANATOMIES[chosen.anatomy])
        name = f"{site}-{index + 1:03d}"
        start = (N_SLICES - kept) // 2
        shown = slice(start, start + kept)
        yield VolumeData(
            name,
            subject=name,
            split=split_of(index),
            kspace=one.kspace[shown],
            reference=one.reference[shown],
            noise=one.noise,
            voxel_mm=_voxel_mm(protocol, size),
            acquisition=contrast,
            field_strength_t=protocol.field_strength_t,
            truth=one.truth[shown],
        )


def members(subjects: int, slices: int | None) -> Iterator[tuple[int, int]]:
    """The numbers of a hospital's subjects (from 0), each with its number of slices.

    With a number of training slices, the subjects below ``subjects`` that do not train stay, and as many subjects train
    as are needed.
    """
    left = slices
    for index in count():
        trains = split_of(index) == "train"
        if index >= subjects and not left:
            return
        if left is None or (not trains and index < subjects):
            yield index, N_SLICES
        elif trains and left:
            yield index, min(left, N_SLICES)
            left -= min(left, N_SLICES)


def _check_free(path: Path) -> None:
    """Refuses to replace a file that is not of a simulation.

    Raises:
        InputError: the file is another site's shard, or no shard.
    """
    if path.exists() and Shard.open(path).origin != "phantom":
        raise InputError(f"{path}: is the shard of a site that was not simulated; it is not replaced.")


def _write(out: Path, site: str, data: Iterator[VolumeData]) -> Path:
    path = out / f"{site}.h5"
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
