"""Images from one shard or k-space file with a trained run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrecon.platform import atomic
from fedrecon.platform.trained import Trained
from fedrecon.platform.workspace import default_workspace
from fedrecon.sites.errors import InputError
from fedrecon.sites.importing import read_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedrecon.sites.site import Site
    from fedrecon.sites.volume import VolumeData

SUFFIXES = (".h5", ".hdf5", ".png")


@dataclass(frozen=True)
class Images:
    """Magnitude images (slices, y, x) of one volume by stage, and the mask (slices, y, x) it was measured under."""

    volume: VolumeData
    stages: dict[str, NDArray[np.float32]]
    mask: NDArray[np.bool_]
    prospective: bool


def reconstruct(
    run: str,
    source: Path | str,
    output: Path | str,
    *,
    site: str | None = None,
    workspace: Path | str | None = None,
) -> dict[str, Any]:
    """Reconstructs every volume of ``source`` and writes the images.

    K-space with samples left out is taken as measured so; fully sampled k-space is undersampled by the run's operator.

    Args:
        run: run id, digest or ``latest``.
        source: a shard, a fastMRI file or raw k-space (.npy).
        output: .h5 (one group a volume: ``reconstruction``, ``data_consistency``, ``zero_filled``, ``mask``, and
            ``reference`` where there is one) or .png (zero-filled, reconstruction and reference of up to four slices).
        site: whose operator and, where each site has its own, whose network.

    Raises:
        InputError: no such run, an input that cannot be read, or an output of another kind.
    """
    output, source = Path(output), Path(source)
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(f"{output}: images are written as {', '.join(SUFFIXES)}, not '{output.suffix}'")
    if not output.parent.is_dir():
        raise InputError(f"{output}: the folder {output.parent} does not exist")
    trained = Trained.load(Path(workspace) if workspace else default_workspace(), run)
    model = trained.one_model(site)
    where = site or trained.images.sites[0]
    worker = trained.site(model, {}, {})
    done = [_volume(trained, worker, where, volume, site is not None) for volume in read_input(source)]
    write = _write_png if output.suffix.lower() == ".png" else _write_hdf5
    write(output, done, trained.folder.digest)
    return {
        "output": str(output),
        "digest": trained.folder.digest,
        "model": model,
        "volumes": [
            {
                "name": one.volume.name,
                "n_slices": len(one.mask),
                "sampling": "as measured" if one.prospective else f"simulated by the run's operator at '{where}'",
                "measured_acceleration": one.mask.size / max(int(one.mask.sum()), 1),
            }
            for one in done
        ],
    }


def _volume(trained: Trained, worker: Site, where: str, volume: VolumeData, named: bool) -> Images:
    from fedrecon.sites.training import threads

    sampled = np.any(volume.kspace != 0, axis=1)
    prospective = volume.reference is None and not sampled.all()
    with threads(trained.experiment.resources.threads):
        parts = list(_batches(trained, worker, where, volume, sampled if prospective else None, named))
    stages = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    return Images(volume, stages, np.concatenate([part[1] for part in parts]), prospective)


def _batches(
    trained: Trained,
    worker: Site,
    where: str,
    volume: VolumeData,
    sampled: NDArray[np.bool_] | None,
    named: bool,
) -> Iterator[tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]]:
    import torch

    from fedrecon.sites.imaging.coils import estimate_maps
    from fedrecon.sites.imaging.measurement import measure
    from fedrecon.sites.method import Subject
    from fedrecon.sites.scoring import stages
    from fedrecon.sites.seeding import seed

    experiment = trained.experiment
    operator = experiment.operator_at(where)
    order, size = trained.order, worker.scoring_batch
    adapts = experiment.trains and experiment.method.network_kind == "prior"
    code = where if named or not adapts else ""  # a prior then takes the mean of all codes
    shape = (volume.kspace.shape[-2], volume.kspace.shape[-1])
    phase = trained.images.complex_valued if experiment.trains else getattr(experiment.classical, "phase", True)
    for start in range(0, len(volume.kspace), size):
        indices = range(start, min(start + size, len(volume.kspace)))
        if sampled is None:
            seeds = [seed(experiment.evaluation.mask_seed, "mask", volume.subject, index) for index in indices]
            masks = np.stack([operator.mask.sample(shape, one) for one in seeds])
            box = operator.mask.calibration(shape)
        else:
            masks = sampled[start : indices.stop]
            box = calibration_box(np.asarray(masks.all(axis=0)))
        kspace = torch.from_numpy(np.array(volume.kspace[start : indices.stop], dtype=np.complex64)).to(worker.device)
        maps = estimate_maps(kspace, box, phase=phase)
        batch = measure(kspace, torch.from_numpy(masks[:, None]).to(worker.device), maps)
        subject = Subject(code, (volume.subject,) * len(indices), tuple(indices), experiment.seed)
        image = worker.reconstruct(order, batch, subject)
        if adapts:
            print(f"{volume.name}: {indices.stop} of {len(volume.kspace)} slices adapted", file=sys.stderr, flush=True)
        yield {name: x.float().cpu().numpy() for name, x in stages(batch, image).items()}, masks


def calibration_box(sampled: NDArray[np.bool_]) -> tuple[int, int]:
    """Size (y, x) of the largest centred box of the mask (y, x) that is fully sampled, grown side by side.

    Raises:
        InputError: DC itself was not measured.
    """
    from fedrecon.sites.imaging.masks.mask import centred

    def full(size: tuple[int, int]) -> bool:
        rows, columns = (centred(n, s) for n, s in zip(sampled.shape, size, strict=True))
        return bool(sampled[rows, columns].all())

    size = (1, 1)
    if not full(size):
        raise InputError("the centre of k-space (DC at N//2) was not measured: is the k-space centred?")
    grown = True
    while grown:
        grown = False
        for larger in ((size[0] + 1, size[1]), (size[0], size[1] + 1)):
            if larger[0] <= sampled.shape[0] and larger[1] <= sampled.shape[1] and full(larger):
                size, grown = (max(size[0], larger[0]), max(size[1], larger[1])), True
    return size


def _write_hdf5(output: Path, done: list[Images], digest: str) -> None:
    import h5py

    with atomic.replacing(output) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["fedrecon_digest"] = digest
        for one in done:
            group = file.create_group(one.volume.name)
            group.attrs["subject"] = one.volume.subject
            group.attrs["sampling"] = "measured" if one.prospective else "simulated"
            names = {"output": "reconstruction"}
            for name, image in one.stages.items():
                group.create_dataset(names.get(name, name), data=image.astype(np.float32))
            group.create_dataset("mask", data=one.mask)
            if one.volume.reference is not None:
                group.create_dataset("reference", data=one.volume.reference)


def _write_png(output: Path, done: list[Images], _: str) -> None:
    from matplotlib.image import imsave

    rows = []
    for one in done[:1]:
        columns = [one.stages["zero_filled"], one.stages["output"]]
        columns += [one.volume.reference] if one.volume.reference is not None else []
        white = float(np.quantile(one.stages["output"], 0.999)) or 1.0
        picks = np.unique(np.linspace(0, len(one.mask) - 1, min(4, len(one.mask)) + 2).round().astype(int)[1:-1])
        rows = [np.hstack([column[index] for column in columns]) / white for index in picks]
    with atomic.replacing(output) as temporary:
        imsave(temporary, np.clip(np.vstack(rows), 0, 1), cmap="gray", vmin=0, vmax=1, format="png")
