"""The loader of a trained network that a run logged in MLflow: ``mlflow.pyfunc.load_model`` calls it.

It reads the weights (safetensors) and the settings (JSON) beside them, needs no workspace, and loads no MLflow itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.checks import NO_BETTER, check_box
from fedrecon.platform.consortium.code import carried_code
from fedrecon.platform.consortium.network import site_plan
from fedrecon.platform.inference.given_volume import whole
from fedrecon.platform.storage.tracking.models import SETTINGS
from fedrecon.sites.data.fitting import COMPLETE, measured_box
from fedrecon.sites.data.volume import VolumeData, check_volume
from fedrecon.sites.errors import InputError, RunError, tell, unknown
from fedrecon.sites.finite import first_not_finite
from fedrecon.sites.imaging.masks.mask import slice_boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedrecon.sites.member.site import Site
    from fedrecon.sites.wire import TrainRequest


EXPERIMENT = "experiment.json"
INPUT = "input"
"""What messages call the volume that a model is given."""
WEIGHTS, PRIVATE = "weights.safetensors", "private.safetensors"
"""The files of a model beside :data:`SETTINGS`: the experiment, the shared weights, and those of one site alone."""


@dataclass(frozen=True)
class LoggedNetwork:
    """A trained network, with the ``predict`` that MLflow calls.

    Attributes:
        experiment: the experiment that trained it.
        site: the member whose network it is; empty if all share one.
        sites: names of the sites that trained.
        worker: a site without a shard, with this network. request: its weights.
    """

    experiment: Experiment
    site: str
    sites: tuple[str, ...]
    worker: Site
    request: TrainRequest

    def predict(self, model_input: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> NDArray[np.float32]:
        """The magnitude images of undersampled k-space; the same pixels as those of ``fedrecon reconstruct``.

        Args:
            model_input: ``kspace``, complex64 (slice, coil, y, x), centred, unitary; and ``mask``, bool (slice, y, x),
                True where a sample was measured. A network of super-resolution takes the low-resolution ``kspace``
                alone.
            params: for a prior only: ``site`` for which it draws (empty takes the mean of all sites), ``subject``, from
                which the seed of its adaptation follows, and ``noise``, the standard deviation of the noise in the real
                and in the imaginary part of a sample, in the units of the k-space; 0 says that nobody knows it.

        Returns:
            float32 (slice, y, x).

        Raises:
            InputError: an array that is missing, or of another shape or kind; what a file is refused for (see
                :func:`fedrecon.sites.data.volume.check_volume`); a mask that is not that of the k-space; an unknown
                site; or a noise that is no such number. RunError: a pixel is NaN or infinite.
        """
        from fedrecon.sites.training.local_loop import threads

        code, subject = (str((params or {}).get(key) or "") for key in ("site", "subject"))
        if code and code not in self.sites:
            raise unknown("site", code, self.sites)
        noise = _number("noise", (params or {}).get("noise") or 0.0)
        if not 0 <= noise < math.inf:
            raise InputError(f"noise = {noise}: a standard deviation is needed; 0 says that nobody knows it")
        kspace, mask = _given(model_input, self.experiment.task == "super-resolution")
        size = self.worker.scoring_batch
        with threads(self.experiment.resources.threads):
            parts = [
                self._batch(range(start, min(start + size, len(kspace))), kspace, mask, code, subject, noise)
                for start in range(0, len(kspace), size)
            ]
        image = np.concatenate(parts)
        if found := first_not_finite({"image": image}):
            raise RunError(f"the reconstruction holds {found} pixels")
        return image

    def _batch(
        self, indices: range, kspace: Any, mask: Any, code: str, subject: str, noise: float
    ) -> NDArray[np.float32]:
        import torch

        from fedrecon.sites.imaging.coils import combine, estimate_maps
        from fedrecon.sites.imaging.fourier import ifft2c
        from fedrecon.sites.imaging.measurement import as_measured
        from fedrecon.sites.training.method import Subject

        # Measured k-space has phase, whatever the training images had: without it in the maps, another image is scored.
        device = self.worker.device
        given = torch.from_numpy(kspace[indices.start : indices.stop].copy()).to(device)
        if mask is None:
            image = combine(ifft2c(given), estimate_maps(given, tuple(kspace.shape[-2:]), phase=True))
            batch = self.experiment.operator_at(self.site).plugin.given(image)
        else:
            known = torch.full((len(indices),), noise, device=device) if noise else None
            own = mask[indices.start : indices.stop]
            boxes, shape = slice_boxes(INPUT, own, indices.start), (own.shape[-2], own.shape[-1])
            for box in sorted(set(boxes)) if given.shape[1] > 1 else ():
                check_box(f"'{INPUT}'", box, shape, NO_BETTER)
            batch = replace(as_measured(given, own, True, boxes), noise=known)
        drawn = Subject(code, (subject,) * len(indices), tuple(indices), self.experiment.seed)
        made = self.worker.reconstruct(self.request, batch, drawn)
        return np.asarray(made.abs().float().cpu().numpy(), np.float32)


def _given(model_input: Mapping[str, Any], enlarges: bool) -> tuple[NDArray[np.complex64], NDArray[np.bool_] | None]:
    """The k-space and its mask, through the gate of a file; super-resolution has no mask."""
    wanted = ("kspace",) if enlarges else ("kspace", "mask")
    if missing := [name for name in wanted if name not in model_input]:
        raise InputError(f"a model takes arrays named {' and '.join(wanted)}; missing: {', '.join(missing)}")
    given = np.asarray(model_input["kspace"])
    mask = None if enlarges else np.asarray(model_input["mask"])
    if given.ndim != 4 or (mask is not None and mask.shape != (len(given), *given.shape[2:])):
        raise InputError(
            f"k-space is (slice, coil, y, x) and its mask (slice, y, x), got {given.shape} and "
            f"{None if mask is None else mask.shape}"
        )
    if given.dtype.kind != "c":
        raise InputError(f"k-space holds complex numbers, got {given.dtype}")
    with np.errstate(over="ignore"):  # what complex64 cannot hold is infinite there, and refused
        kspace = given.astype(np.complex64)
    volume = VolumeData(INPUT, INPUT, "test", kspace, None, None)
    check_volume(volume)
    if mask is None:
        return whole(volume).kspace, None
    if mask.dtype.kind not in "biu" or not ((mask == 0) | (mask == 1)).all():
        raise InputError(f"a mask is True where a sample was measured, and False elsewhere; got {mask.dtype}")
    sampled, mask = np.any(kspace != 0, axis=1), mask.astype(bool)
    for index, (found, said) in enumerate(zip(sampled, mask, strict=True)):
        inside = said[measured_box(found[None])]
        if np.count_nonzero(found & said) < COMPLETE * np.count_nonzero(inside):
            raise InputError(f"slice {index}: the mask says that samples were measured where the k-space is zero")
    return kspace, mask


def _number(name: str, given: Any) -> float:
    try:
        return float(given)
    except (TypeError, ValueError):
        raise InputError(f"{name} = {given!r}: a number is needed") from None


def _load_pyfunc(path: str) -> LoggedNetwork:
    """The network in the folder ``path`` of a model; MLflow finds this function by its name."""
    from safetensors.numpy import load_file

    from fedrecon.sites.imaging.measurement import Images
    from fedrecon.sites.member.site import Site
    from fedrecon.sites.wire import TrainRequest

    folder = Path(path)
    described = json.loads((folder / SETTINGS).read_text())
    noted = json.loads((folder / EXPERIMENT).read_text())
    for line in carried_code(noted, f"the model in {folder}"):
        tell(line)
    experiment = Experiment.read(noted)
    given = described["images"]
    images = Images(**{**given, "size": tuple(given["size"]), "sites": tuple(given["sites"])})
    member = described["site"]
    worker = Site(site_plan(experiment, images, member or images.sites[0], {}, {}))
    shared = worker.parameters.joined(load_file(folder / WEIGHTS), shared=True)
    if member:
        worker.adopt(load_file(folder / PRIVATE))
    return LoggedNetwork(experiment, member, images.sites, worker, TrainRequest(1, shared))
