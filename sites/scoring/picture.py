"""One picture for each shard: the middle slice of its first volume, with scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fedrecon.sites.data.volume import central
from fedrecon.sites.scoring.panel import panel, tile
from fedrecon.sites.scoring.slice_scores import stages

if TYPE_CHECKING:
    from fedrecon.sites.scoring.slice_scores import Reconstruct
    from fedrecon.sites.training.batches import Slices


def draw(
    slices: Slices, sites: Sequence[str], reconstruct: Reconstruct, mask_seed: int, note: str, small: bool = False
) -> dict[str, bytes]:
    """PNG by site: reference, zero-filled image, reconstruction and error of one slice. The slice is always the same.

    Args:
        slices: the slices of one split. A site without slices gets no picture.
        sites: the sites whose shards are drawn.
        reconstruct: maps a measurement and its slices to images (b, y, x) complex64.
        mask_seed: seed of the masks and of the noise.
        note: last part of the caption, for example the round.
        small: draws :func:`tile` in place of :func:`panel`.
    """
    pictures = {}
    for site in sites:
        own = [item for item in slices.items if item.site == site]
        first = [item for item in own if item.volume.name == own[0].volume.name] if own else []
        if not first:
            continue
        item = first[len(first) // 2]
        with torch.no_grad():
            batch = slices.scoring([item], mask_seed)
            images = {
                name: central(x[0], item.volume.crop).cpu().numpy()
                for name, x in stages(batch, reconstruct(batch, [item])).items()
            }
        assert batch.reference is not None
        reference = central(batch.reference[0], item.volume.crop).cpu().numpy()
        if small:
            pictures[site] = tile(reference, images["zero_filled"], images["output"], item.volume.maximum, site)
            continue
        measured = slices.scored_with([item], mask_seed)[0].label()
        caption = f"{site} · {item.volume.subject} · slice {item.index} · {measured} · {note}"
        before = "Zero-padded" if batch.low is not None else "Zero-filled"
        pictures[site] = panel(
            reference, images["zero_filled"], images["output"], item.volume.maximum, caption, before=before
        )
    return pictures
