"""Tunes the parameters of a classical reconstructor on validation subjects, never on test subjects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedrecon.sites.data.volume import central
from fedrecon.sites.imaging.metrics import squared_error

if TYPE_CHECKING:
    from fedrecon.sites.classical import Reconstructor
    from fedrecon.sites.training.batches import Slices
    from fedrecon.sites.wire import TunedReconstructor

MAX_SLICES = 12
"""Largest number of a site's validation slices that the search uses."""

_LEAST = 1e-30
"""Smallest mean squared error, as a part of the squared maximum: an exact reconstruction has 300 dB."""


def tune(reconstructor: Reconstructor, slices: Slices, mask_seed: int) -> tuple[Reconstructor, list[dict[str, Any]]]:
    """Finds the setting with the highest mean PSNR over at most 12 evenly spaced validation slices.

    The data range of PSNR is each volume's maximum.

    Args:
        reconstructor: the classical method; its settings ``tried()`` are compared.
        slices: the site's validation slices.
        mask_seed: seed of the masks and of the noise.

    Returns:
        The best candidate, and a table with the parameters and the mean ``psnr`` (dB) of each candidate. The table is
        empty if there is only one candidate.

    Raises:
        InputError: no candidate can work on the site's validation and test volumes.
    """
    conditions = {
        one
        for site, shard in slices.shards.items()
        for one in slices.operators[site].conditions([*shard.split("validation"), *shard.split("test")])
    }
    candidates = reconstructor.tried(conditions)
    if len(candidates) == 1:
        return candidates[0], []
    picks = np.unique(np.linspace(0, len(slices.items) - 1, min(MAX_SLICES, len(slices.items))).astype(int))
    table = []
    for candidate in candidates:
        scores = []
        for index in picks:
            item = slices.items[index]
            batch = slices.scoring([item], mask_seed)
            assert batch.reference is not None
            with torch.no_grad():
                images = batch.reference, candidate.reconstruct(batch).abs()
            reference, image = (central(one, item.volume.crop) for one in images)
            mean = float(squared_error(reference, image)[0]) / reference[0].numel()
            power = item.volume.maximum**2
            scores.append(10 * np.log10(power / max(mean, _LEAST * power)))
        table.append({**candidate.model_dump(), "psnr": float(np.mean(scores))})
    best = max(range(len(candidates)), key=lambda i: table[i]["psnr"])
    return candidates[best], table


def tie(tuned: TunedReconstructor) -> str:
    """Says that the validation subjects decided nothing, because all candidates score the same; else empty."""
    if len(tuned.table) < 2 or len({row["psnr"] for row in tuned.table}) > 1:
        return ""
    return f"warning: site '{tuned.site}': all {len(tuned.table)} settings of '{tuned.name}' score the same"
