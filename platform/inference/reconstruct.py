"""Reconstructs the images of one file (a shard, k-space or a NIfTI volume) with a trained run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from fedrecon.platform.config.tasks import TASKS
from fedrecon.platform.federation.coverage import uncertainty
from fedrecon.platform.inference.given_volume import Batches, batches, check_volume, measured_at, whole
from fedrecon.platform.inference.pictures import volume_picture
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.inference.tuned_by_run import use_tuned
from fedrecon.platform.storage.marks import MARK, is_marked, marked_png, nifti_mark
from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.sites import atomic
from fedrecon.sites.data.fitting import measured_box
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.data.shard_file import is_shard
from fedrecon.sites.data.volume import central
from fedrecon.sites.errors import InputError, RunError, tell
from fedrecon.sites.finite import first_not_finite
from fedrecon.sites.formats.one_file import read_input
from fedrecon.sites.imaging.numpy_fourier import fft2c_numpy
from fedrecon.sites.phases import phase

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedrecon.sites.data.volume import VolumeData
    from fedrecon.sites.member.site import Site

SUFFIXES = (".h5", ".hdf5", ".png", ".nii", ".nii.gz")
NIFTI = (".nii", ".nii.gz")


class ReconstructionResult(TypedDict):
    """The result of a reconstruction: the JSON of ``fedrecon reconstruct --json``.

    Attributes:
        output: path of the written file.
        digest: digest of the run. run_id: its id.
        model: the network that reconstructed: ``global``, or the name of the site that owns it.
        site: the site whose operator and network are used; None if the input names none of the run's sites.
        volumes: one entry for each volume of the input: name, n_slices, sampling, operator, measured_acceleration and
            split (what the run used the subject for).
        uncertainty: if the method tells the spread of its error: its ``temperature`` (None: not calibrated) and the
            ``nominal`` coverage; else empty.
    """

    output: str
    digest: str
    run_id: str | None
    model: str
    site: str | None
    volumes: list[dict[str, Any]]
    uncertainty: dict[str, Any]


@dataclass(frozen=True)
class Images:
    """The images of one volume, and its sampling mask.

    Attributes:
        volume: the input volume.
        stages: magnitude images (slices, y, x) by stage; ``uncertainty`` is the spread, in the unit of the images.
        mask: the sampling mask (slices, y, x). For a degradation of the image it is (slices, y / scale, x / scale).
        prospective: True if the given samples are used as they are, False if samples are simulated from full k-space.
        sampling: a text for the user that says how the samples were made.
        site: the site whose operator and network are used; empty if none is named.
        measured: the operator that made the samples, or ``as measured``, for captions.
        split: ``train subject``, ``validation subject`` or ``test subject`` of the run, or ``not of the run``; for
            a file that is no shard and has no such name ``subject unknown``.
        enlarged: whether the images are enlarged (super-resolution).
    """

    volume: VolumeData
    stages: dict[str, NDArray[np.float32]]
    mask: NDArray[np.bool_]
    prospective: bool
    sampling: str
    site: str
    measured: str
    split: str
    enlarged: bool

    @property
    def factor(self) -> float:
        """Number of samples of the scan over those that are measured; of an image that is enlarged, of its pixels.

        A scan that was undersampled does not say which samples it left out: those within the box around its samples.
        """
        scanned = np.any(self.volume.kspace != 0, axis=1)
        if scanned.shape != self.mask.shape or (self.prospective and self.enlarged):
            return float(self.stages["output"].size / max(int(self.mask.sum()), 1))
        if self.prospective:
            scanned = np.zeros_like(self.mask)
            scanned[:, *measured_box(self.mask)] = True
        return float(scanned.sum() / max(int((scanned & self.mask).sum()), 1))


def reconstruct(
    run: str,
    source: Path | str,
    output: Path | str,
    overrides: Sequence[str] = (),
    *,
    site: str | None = None,
    as_is: bool = False,
    workspace: Path | str | None = None,
    dry_run: bool = False,
) -> ReconstructionResult:
    """Reconstructs every volume of ``source`` and writes the images.

    A reconstruction run takes undersampled k-space as it was measured. It undersamples fully sampled k-space with its
    own operator. A super-resolution run first degrades fully sampled k-space with its own degradation, so that the
    result can be compared with the original. A NIfTI volume already has the low resolution: it is enlarged slice by
    slice. ``as_is`` does the same with any other input.

    Args:
        run: run id, digest or its beginning, name, or ``latest``.
        source: a shard, a fastMRI file or raw k-space (.npy); for super-resolution also a NIfTI volume.
        output: a file .h5 (one group per volume: ``reconstruction``, ``data_consistency``, ``zero_filled``, ``mask``,
            ``uncertainty`` if the method tells the spread of its error, and ``reference`` if the volume has one; the
            attribute ``crop`` (y, x) is the central part that is scored, where that is not all) or
            .png (the panel that a run draws, of up to four slices of the first volume of a test subject, else of the
            first volume). A NIfTI volume can also be written as .nii or .nii.gz, in the same space; the spread is then
            written beside it, as ``NAME-uncertainty``.
        overrides: changes to the run's experiment that concern no training, each as ``key.path=value``: see
            :data:`fedrecon.platform.inference.trained_run.CHANGEABLE`.
        site: the site whose operator is used, and whose network if each site has its own; None takes the site that the
            shard names. An input that names no site of the run needs it, where the sites of the run differ.
        as_is: enlarge the given k-space instead of degrading it first; for a super-resolution run only.
        workspace: the folder of the runs; None takes FEDRECON_WORKSPACE or ./workspace.
        dry_run: check all that is given and reconstruct nothing; ``volumes`` is then empty.

    Raises:
        InputError: no such run, sites that differ and none is named, an input that cannot be read, or an output of
            another kind or in the place of a file that is no reconstruction.
        RunError: a checkpoint or a private part of the run is lost, or an image would hold NaN or infinity.

    Example:
        >>> import fedrecon
        >>> found = fedrecon.reconstruct("latest", "data/demo/t1w.h5", "t1w-reconstructed.h5")
        >>> found["output"]
        't1w-reconstructed.h5'
    """
    output, source = Path(output), Path(source)
    if not output.name.lower().endswith(SUFFIXES):
        raise InputError(f"{output}: images are written as {', '.join(SUFFIXES)}, not '{output.suffix}'")
    from_nifti, to_nifti = (path.name.lower().endswith(NIFTI) for path in (source, output))
    if to_nifti and not from_nifti:
        raise InputError(f"{output}: only a NIfTI volume can be written as NIfTI, because its space is needed")
    if not output.parent.is_dir():
        raise InputError(f"{output}: the folder {output.parent} does not exist")
    if not os.access(output.parent, os.W_OK) or output.is_dir():
        raise InputError(f"{output}: no file can be written there (a folder, or no permission)")
    if atomic.same_file(source, output):
        raise InputError(f"{output}: is the input; nothing is written onto a source")
    if is_shard(output):
        raise InputError(f"{output}: is the shard of a site; images do not replace it")
    _check_replaced(output)
    as_run = TrainedRun.chosen(Path(workspace) if workspace else default_workspace(), run)
    trained = as_run.changed(overrides)
    spread = spread_beside(output) if to_nifti and trained.experiment.method.has_spread else None
    if spread is not None and atomic.same_file(source, spread):
        raise InputError(f"{spread}: is the input; the spread is written beside {output.name}, never onto a source")
    if spread is not None:
        _check_replaced(spread)
    shard = Shard.open(source) if is_shard(source) else None
    named = site or _site_of(shard, trained)
    model = trained.one_model(named)
    worker = trained.site(model, {}, {})
    chosen = use_tuned(as_run, worker, named, "say with --site whose parameters to take")
    if chosen and as_run.experiment.measured != trained.experiment.measured:  # a file has no subjects to tune on
        name = trained.experiment.reconstructor["name"]
        tell(f"note: '{name}' keeps the parameters of the run ({chosen}), tuned at the run's own operator")
    enlarges = trained.experiment.task == "super-resolution"
    if as_is and not enlarges:
        raise InputError("--as-is enlarges low-resolution images, but this is a reconstruction run")
    volumes = low_volumes(source) if from_nifti and enlarges else read_input(source)
    low = enlarges and (as_is or from_nifti)
    if as_is and not from_nifti:
        volumes = map(whole, volumes)
    if dry_run:
        for volume in volumes:
            where, prospective = measured_at(trained, named, volume, low)
            check_volume(worker.plan.reconstructor, trained.experiment.operator_at(where), volume, prospective, low)
    done = [] if dry_run else [_volume(trained, worker, named, volume, low, shard) for volume in volumes]
    if to_nifti and done:
        _write_nifti(output, done[0], source, "output", trained.folder.digest)
        if spread is not None:
            _write_nifti(spread, done[0], source, "uncertainty", trained.folder.digest)
    elif done:
        write = _write_png if output.suffix.lower() == ".png" else _write_hdf5
        write(output, done, trained.folder.digest)
    return {
        "output": str(output),
        "digest": trained.folder.digest,
        "run_id": (trained.folder.noted() or {}).get("run_id"),
        "model": model,
        "site": named,
        "volumes": [
            {
                "name": one.volume.name,
                "n_slices": len(one.mask),
                "sampling": one.sampling,
                "operator": one.measured,
                "split": one.split,
                "measured_acceleration": one.factor,
            }
            for one in done
        ],
        "uncertainty": uncertainty(trained.temperature) if any("uncertainty" in one.stages for one in done) else {},
    }


def _site_of(shard: Shard | None, trained: TrainedRun) -> str | None:
    """The site of the run whose data a shard holds: by its content, else by the hospital that it names.

    A run can call a site by another name than its shard does. None: a hospital of no site or of several, or a file that
    is no shard.
    """
    if shard is None:
        return None
    sites = trained.members or trained.images.sites
    members = (trained.folder.environment() or {}).get("members", {}).values()
    held = {site: one for member in members for site, one in (member.get("shards") or {}).items()}
    same = [site for site in sites if held.get(site) == shard.content_hash]
    named = [site for site in sites if trained.hospitals.get(site, {"site": site})["site"] == shard.site]
    return next((found[0] for found in (same, named) if len(found) == 1), None)


def spread_beside(output: Path) -> Path:
    """Where the spread of a NIfTI volume is written: ``NAME-uncertainty.nii.gz`` beside ``NAME.nii.gz``."""
    length = next(len(kind) for kind in reversed(NIFTI) if output.name.lower().endswith(kind))
    return output.with_name(f"{output.name[:-length]}-uncertainty{output.name[-length:]}")


def _check_replaced(output: Path) -> None:
    """Refuses a file that is there already, unless :func:`reconstruct` wrote it, so that it can be made again."""
    if output.exists() and not is_marked(output):
        raise InputError(f"{output}: is there already and holds no reconstruction, so it is not replaced")


def low_volumes(source: Path) -> Iterator[VolumeData]:
    """Yields a NIfTI volume of low resolution as k-space of one coil, without a reference.

    Raises:
        InputError: the file does not exist.
    """
    from fedrecon.sites.data.volume import VolumeData
    from fedrecon.sites.formats.nifti import load_magnitude

    if not source.is_file():
        raise InputError(f"{source}: there is no such file.")
    images, voxel_mm = load_magnitude(source)
    name = source.name[: source.name.lower().rindex(".nii")]
    kspace = fft2c_numpy(images.astype(np.complex64))[:, None]
    yield VolumeData(name, name, "test", kspace, None, 0.0, voxel_mm=voxel_mm)


def _volume(
    trained: TrainedRun, worker: Site, named: str | None, volume: VolumeData, low: bool, shard: Shard | None
) -> Images:
    from fedrecon.sites.training.local_loop import threads

    enlarges = trained.experiment.task == "super-resolution"
    where, prospective = measured_at(trained, named, volume, low)
    measured = trained.experiment.operator_at(where)
    check_volume(worker.plan.reconstructor, measured, volume, prospective, low)
    sampling = f"simulated by the run's {TASKS[trained.experiment.task].block} at '{where}' ({measured.described()})"
    if prospective:
        sampling = f"enlarged by {measured.scale} as it is" if low else "as measured"
    if low:
        # The reference has the low resolution too: the result cannot be compared with it.
        volume = replace(volume, reference=None, crop=None)
    with phase(f"reconstructing {volume.name}"), threads(trained.experiment.resources.threads):
        given = batches(trained, worker, where, volume, shard.phase if shard else "measured", prospective, low)
        parts = list(_reconstructed(trained, worker, named or "", volume, given))
    stages = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    if found := first_not_finite(stages):
        raise RunError(f"'{volume.name}': the reconstruction holds {found} pixels; nothing was written.")
    masks = np.concatenate([part[1] for part in parts])
    label = sampling if prospective else measured.described()
    split = next((own[volume.subject] for own in trained.subjects.values() if volume.subject in own), None)
    # Only a shard tells the subject as the run knows it: a file may be of a patient under another name.
    used = f"{split} subject" if split else "not of the run" if shard else "subject unknown"
    return Images(volume, stages, masks, prospective, sampling, named or "", label, used, enlarges)


def _reconstructed(
    trained: TrainedRun, worker: Site, code: str, volume: VolumeData, batches: Batches
) -> Iterator[tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]]:
    """Yields the images by stage and the masks of each batch.

    Args:
        code: the site for which a prior draws; empty takes the mean of all sites' codes.
    """
    from fedrecon.sites.scoring.slice_scores import stages
    from fedrecon.sites.training.method import Subject

    experiment = trained.experiment
    adapts = experiment.trains and experiment.method.is_prior
    for indices, batch in batches:
        subject = Subject(code, (volume.subject,) * len(indices), tuple(indices), experiment.seed)
        image = worker.reconstruct(trained.request, batch, subject)
        if adapts:
            tell(f"{volume.name}: {indices.stop} of {len(volume.kspace)} slices reconstructed")
        made = stages(batch, image)
        if (spread := worker.spread(trained.request, batch, subject)) is not None:
            made["uncertainty"] = spread
        shown = {name: x.float().cpu().numpy() for name, x in made.items()}
        yield shown, batch.operator.mask[:, 0].cpu().numpy()


def _write_hdf5(output: Path, done: list[Images], digest: str) -> None:
    import h5py

    with atomic.replacing(output) as temporary, h5py.File(temporary, "w") as file:
        file.attrs[MARK] = digest
        for one in done:
            group = file.create_group(one.volume.name)
            group.attrs["subject"] = one.volume.subject
            group.attrs["operator"] = one.measured
            group.attrs["sampling"] = "measured" if one.prospective else "simulated"
            names = {"output": "reconstruction"}
            for name, image in one.stages.items():
                group.create_dataset(names.get(name, name), data=image.astype(np.float32))
            group.create_dataset("mask", data=one.mask)
            if one.volume.crop is not None:
                group.attrs["crop"] = one.volume.crop
            if one.volume.reference is not None:
                group.create_dataset("reference", data=one.volume.reference)


def _write_nifti(output: Path, one: Images, source: Path, stage: str, digest: str) -> None:
    from fedrecon.sites.formats.nifti import save_enlarged

    made = one.stages[stage]
    # nibabel chooses the format by the suffix, and atomic's temporary name has another suffix
    with atomic.replacing(output) as temporary:
        beside = temporary.with_name(f"{temporary.name}{''.join(output.suffixes[-2:])}")
        try:
            save_enlarged(beside, source, made, made.shape[-1] // one.volume.kspace.shape[-1], nifti_mark(digest))
            beside.replace(temporary)
        finally:
            beside.unlink(missing_ok=True)


def _write_png(output: Path, done: list[Images], digest: str) -> None:
    one = next((one for one in done if one.split == "test subject"), done[0])
    parts = (one.site, one.volume.name, "slice {slice}", one.measured, one.split, f"run {digest[:8]}")
    caption = " · ".join(filter(None, parts))
    before = "Zero-padded" if one.enlarged else "Zero-filled"
    # Of an oversampled scan the part is shown, and compared, that is scored.
    shown = {name: central(images, one.volume.crop) for name, images in one.stages.items()}
    png = volume_picture(shown, central(one.volume.reference, one.volume.crop), caption, before)
    atomic.write_bytes(output, marked_png(png, digest))
