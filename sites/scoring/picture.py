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
    from fedrecon.sites.scoring.spread import Spread
    from fedrecon.sites.training.batches import Slices


def draw(
    slices: Slices,
    sites: Sequence[str],
    reconstruct: Reconstruct,
    mask_seed: int,
    note: str,
    spread: Spread | None = None,
    small: bool = False,
) -> dict[str, bytes]:
    """PNG by site: the panel of one slice, which is always the same.

    Args:
        slices: the slices of one split. A site without slices gets no picture.
        sites: the sites whose shards are drawn.
        reconstruct: maps a measurement and its slices to images (b, y, x) complex64.
        mask_seed: seed of the masks and of the noise.
        note: last part of the caption, for example the round.
        spread: gives the spread of the error, which the panel then shows; None: the method tells none.
        small: draws :func:`tile` in place of :func:`panel`; a tile shows no spread.
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
            made = stages(batch, reconstruct(batch, [item]))
            if spread is not None and not small:
                made["spread"] = spread(batch, [item])
            images = {name: central(x[0], item.volume.crop).cpu().numpy() for name, x in made.items()}
        assert batch.reference is not None
        reference = central(batch.reference[0], item.volume.crop).cpu().numpy()
        if small:
            pictures[site] = tile(reference, images["zero_filled"], images["output"], item.volume.maximum, site)
            continue
        measured = slices.scored_with([item], mask_seed)[0].described()
        caption = f"{site} · {item.volume.subject} · slice {item.index} · {measured} · {note}"
        before = "Zero-padded" if batch.low is not None else "Zero-filled"
        given = reference, images["zero_filled"], images["output"], item.volume.maximum, caption
        pictures[site] = panel(*given, before=before, spread=images.get("spread"))
    return pictures
