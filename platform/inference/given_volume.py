"""The volumes of a file as a finished run measures them: by the code of a site that scores, or as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedrecon.platform.consortium.checks import NO_BETTER, check_box
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.sites.data.fitting import COMPLETE, sampled_share
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.masks.mask import slice_boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.classical import Reconstructor
    from fedrecon.sites.data.volume import VolumeData
    from fedrecon.sites.imaging.measurement import Measurement
    from fedrecon.sites.member.site import Site

Batches = Iterator[tuple[range, "Measurement"]]


def measured_at(trained: TrainedRun, named: str | None, volume: VolumeData, low: bool) -> tuple[str, bool]:
    """The site whose operator measures the volume, and whether its samples are used as they are.

    An input that names no site of the run takes the operator that all sites have.

    Raises:
        InputError: the sites measure differently (a guess would be another image), samples are missing, or the
            operator adds noise to a volume whose own noise nobody knows.
    """
    complete = bool(np.any(volume.kspace != 0, axis=1).all())
    if trained.experiment.task == "super-resolution" and not low and volume.reference is None and not complete:
        raise InputError(f"'{volume.name}': samples are missing: only fully sampled k-space can be degraded")
    prospective = low or (volume.reference is None and not complete)
    sites = trained.images.sites
    labels = {site: trained.experiment.operator_at(site) for site in sites}
    if named is None and (low or not prospective) and len({repr(one.science()) for one in labels.values()}) > 1:
        listed = ", ".join(f"{site} ({one.described()})" for site, one in labels.items())
        raise InputError(
            f"'{volume.name}' names no site of the run, and these measure differently: say with --site which: {listed}"
        )
    where = named or sites[0]
    if not prospective and (times := trained.experiment.operator_at(where).noise) > 1 and volume.noise is None:
        raise InputError(
            f"'{volume.name}': noise {times:g} is a multiple of the scan's own noise, and nobody knows that of this "
            "file; set operator.noise=1"
        )
    return where, prospective


def whole(volume: VolumeData) -> VolumeData:
    """The volume itself; refuses undersampled k-space where all samples of a low resolution are expected.

    Zeros around the measured box are no missing samples.

    Raises:
        InputError: a slice has less than :data:`fedrecon.sites.data.fitting.COMPLETE` of its samples.
    """
    if (share := sampled_share(volume.kspace)) < COMPLETE:
        raise InputError(
            f"'{volume.name}': a slice has {share:.0%} of its samples: only fully sampled k-space is enlarged as it is"
        )
    return volume


def check_volume(
    method: Reconstructor | None, operator: Acquisition, volume: VolumeData, prospective: bool, low: bool
) -> None:
    """Refuses a volume from which a method can make nothing, or whose calibration box is of one sample.

    It warns of a box in which coil maps cannot be estimated well.

    Args:
        method: with the parameters that the run chose; None for a network. operator: the setting of the measurement.
        prospective: whether the samples are used as they are. low: whether they are all of a low-resolution grid.

    Raises:
        InputError: the message names the volume, and says what the method needs.
    """
    n_coils, *size = volume.kspace.shape[1:]
    shape = size[0], size[1]
    if prospective and not low:
        boxes = {*slice_boxes(volume.name, np.any(volume.kspace != 0, axis=1))}
    else:
        boxes = {shape} if low else operator.boxes(shape)
    try:
        if method is not None:
            for box in boxes:
                method.check(n_coils, box)
    except InputError as error:
        raise InputError(f"'{volume.name}': {error}") from None
    for box in sorted(boxes) if n_coils > 1 and not low else ():
        check_box(f"'{volume.name}'", box, shape, NO_BETTER)


def batches(
    trained: TrainedRun, worker: Site, where: str, volume: VolumeData, origin: str, prospective: bool, low: bool
) -> Batches:
    """Yields the slice numbers and the measurement of each batch.

    Args:
        worker: the site that reconstructs. where: the site whose operator measures.
        origin: origin of the phase of the volume, as a shard states it.
        prospective: whether the samples are used as they are; else the run's operator measures, as for a score.
        low: whether the volume already has the low resolution.
    """
    experiment, size, count = trained.experiment, worker.scoring_batch, len(volume.kspace)
    operator = experiment.operator_at(where)
    # A network of images without phase estimates that of a scan which has one, as it does when it is scored.
    phase = True if experiment.trains else bool(getattr(experiment.classical, "phase", True))
    if prospective:
        yield from _as_it_is(operator, worker, volume, size, phase and origin != "none", low)
        return
    from fedrecon.sites.data.loose_volume import LooseVolume
    from fedrecon.sites.training.batches import Slices

    operator.check((volume.kspace.shape[-2], volume.kspace.shape[-1]))
    source = {where: LooseVolume(volume, origin)}
    slices = Slices(source, {where: operator}, volume.split, worker.device, phase=phase, resident=False)
    for start, batch in zip(range(0, count, size), slices.iterate(size), strict=True):
        yield range(start, start + len(batch)), slices.scoring(batch, experiment.evaluation.mask_seed)
        slices.forget()


def _as_it_is(operator: Acquisition, worker: Site, volume: VolumeData, size: int, phase: bool, low: bool) -> Batches:
    import torch

    from fedrecon.sites.imaging.coils import combine, estimate_maps
    from fedrecon.sites.imaging.fourier import ifft2c
    from fedrecon.sites.imaging.measurement import as_measured

    count, shape = len(volume.kspace), (volume.kspace.shape[-2], volume.kspace.shape[-1])
    sampled: NDArray[np.bool_] = np.any(volume.kspace != 0, axis=1)
    for start in range(0, count, size):
        indices = range(start, min(start + size, count))
        kspace = torch.from_numpy(np.array(volume.kspace[start : indices.stop], dtype=np.complex64)).to(worker.device)
        if low:
            image = combine(ifft2c(kspace), estimate_maps(kspace, shape, phase=phase))
            yield indices, operator.plugin.given(image)
            continue
        own = sampled[start : indices.stop]
        measured = as_measured(kspace, own, phase, slice_boxes(volume.name, own, start))
        known = None if volume.noise is None else torch.full((len(indices),), volume.noise, device=worker.device)
        yield indices, replace(measured, noise=known)
