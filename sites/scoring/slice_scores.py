"""Scores slices: one row per slice and stage. Every volume score follows exactly from these rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedrecon.sites.data.volume import central
from fedrecon.sites.imaging.metrics import squared_error, squared_norm, ssim_slices
from fedrecon.sites.score_columns import KINDS, SCORES, SPREADS
from fedrecon.sites.scoring.spread import compared
from fedrecon.sites.wire import Scores

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.imaging.measurement import Measurement
    from fedrecon.sites.scoring.spread import Spread
    from fedrecon.sites.training.batches import Slice, Slices

NO_SPREAD: dict[str, Any] = {name: "" if kind == "string" else 0 for name, kind in SPREADS.items()}
"""The values of a row whose image has no spread."""

Reconstruct = Callable[["Measurement", "Sequence[Slice]"], "Tensor"]


def score(
    slices: Slices,
    batches: Iterable[Sequence[Slice]],
    split: str,
    reconstruct: Reconstruct,
    mask_seed: int,
    model: str,
    site: str,
    spread: Spread | None = None,
) -> Scores:
    """Reconstructs and scores slices of one split.

    Args:
        slices: the member's slices of the split.
        batches: the slices to score; the slices of one batch are reconstructed together.
        split: name of the split, for the table.
        reconstruct: maps a measurement and its slices to images (b, y, x) complex64.
        mask_seed: seed of the masks and of the noise.
        model: name of the network, for the table.
        site: name of the member that scores.
        spread: gives the spread of a batch, which is compared with the error; its time does not count. None: the
            method tells none, and the table has no such columns.

    Raises:
        ValueError: a volume has no reference.
    """
    columns: dict[str, list[Any]] = {name: [] for name in (SCORES if spread is None else KINDS)}
    seconds = 0.0
    with torch.no_grad():
        for items in batches:
            batch = slices.scoring(items, mask_seed)
            start = time.perf_counter()
            image = reconstruct(batch, items)
            if image.is_cuda:
                torch.cuda.synchronize()
            seconds += time.perf_counter() - start
            images = stages(batch, image)
            spreads = [] if spread is None else compared(slices, items, images["output"], spread(batch, items))
            _rows(columns, slices, items, split, batch, images, model, spreads)
    return Scores(site, split, {name: tuple(values) for name, values in columns.items()}, seconds)


def stages(batch: Measurement, image: Tensor) -> dict[str, Tensor]:
    """Magnitude images (b, y, x) by stage: the output, the output after hard data consistency, and zero-filled."""
    return {
        "output": image.abs(),
        "data_consistency": batch.operator.project(image, batch.kspace).abs(),
        "zero_filled": batch.operator.zero_filled(batch.kspace),
    }


def _rows(
    columns: dict[str, list[Any]],
    slices: Slices,
    items: Sequence[Slice],
    split: str,
    batch: Measurement,
    images: dict[str, Tensor],
    model: str,
    spreads: Sequence[dict[str, Any]],
) -> None:
    reference = batch.reference
    if reference is None:
        raise ValueError("a volume without a reference cannot be scored")
    mask = batch.operator.mask[:, 0]
    cartesian = mask.shape == reference.shape
    # A sample that the scan has not is measured by no mask.
    scanned = slices.scanned(items) if cartesian else torch.ones_like(reference, dtype=torch.bool)
    measured = (mask & scanned if cartesian else mask).flatten(1).sum(dim=1).tolist()
    measured_of = scanned.flatten(1).sum(dim=1).tolist()
    crop = items[0].volume.crop  # a batch has one
    reference = central(reference, crop)
    maximum = torch.tensor([item.volume.maximum for item in items], device=reference.device)
    norm = squared_norm(reference).tolist()
    pixels = int(np.prod(reference.shape[1:]))
    for stage, whole in images.items():
        image = central(whole, crop)
        error = squared_error(reference, image).tolist()
        similarity = ssim_slices(reference, image, maximum).tolist()
        for i, item in enumerate(items):
            operator = slices.operators[item.site]
            row = {
                "site": item.site,
                "split": split,
                "subject": item.volume.subject,
                "volume": item.volume.name,
                "slice": item.index,
                "stage": stage,
                "volume_maximum": item.volume.maximum,
                "mask": operator.family,
                "acceleration": operator.acceleration,
                "measured_acceleration": measured_of[i] / max(measured[i], 1),
                "model": model,
                "squared_error": error[i],
                "squared_norm": norm[i],
                "n_pixels": pixels,
                "ssim": similarity[i],
            }
            row |= spreads[i] if spreads and stage == "output" else NO_SPREAD
            for name, values in columns.items():
                values.append(row[name])
