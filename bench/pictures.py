"""One test slice under every method: the whole, a crop around its sharpest place, and three times the error."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.platform.trained import Trained


def side_by_side(methods: Mapping[str, tuple[Trained, Any, str]], site: str, before: str, out: Path) -> None:
    """Writes a grey PNG of a few colours.

    Args:
        methods: by name a trained run, how the site measures, and the stage that is shown.
        before: what to call the zero-filled image.
    """
    images, maximum = reconstructed(methods, site, before)
    reference = images["reference"]
    side = reference.shape[0] // 3
    steep = np.hypot(*np.gradient(reference))
    sums = np.lib.stride_tricks.sliding_window_view(steep, (side, side)).sum(axis=(2, 3))
    y, x = np.unravel_index(sums.argmax(), sums.shape)
    draw(images, (slice(y, y + side), slice(x, x + side)), maximum, site, out)


def reconstructed(
    methods: Mapping[str, tuple[Trained, Any, str]], site: str, before: str
) -> tuple[dict[str, Any], float]:
    """The middle slice of the site's first test volume by name, and the volume's maximum."""
    import torch

    from fedrecon.sites.scoring import stages

    images: dict[str, Any] = {}
    maximum = 0.0
    for name, (trained, operator, stage) in methods.items():
        path = trained.experiment.sites
        shard = f"{path}/{site}.h5" if isinstance(path, str) else path[site]
        place = trained.site(trained.models(site)[0], {site: shard}, {site: operator})
        slices = place.slices("test")
        first = slices.items[0].volume
        item = slices.items[sum(one.volume is first for one in slices.items) // 2]
        if trained.experiment.trains:
            place.private_parameters(trained.order)  # loads the weights
        elif slices.shards[site].split("validation"):
            place.tune()
        with torch.no_grad():
            batch = slices.scoring([item], trained.experiment.evaluation.mask_seed)
            made = stages(batch, place._reconstruct(batch, [item]))
        assert batch.reference is not None
        images.setdefault("reference", batch.reference[0].cpu().numpy())
        images.setdefault(before, made["zero_filled"][0].cpu().numpy())
        images[name] = made[stage][0].cpu().numpy()
        maximum = item.volume.maximum
    return images, maximum


def draw(images: Mapping[str, Any], crop: tuple[slice, slice], maximum: float, site: str, out: Path) -> None:
    """Three rows: images with their PSNR, crops, errors."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    reference = images["reference"]
    white = np.percentile(reference, 99)
    figure = Figure(figsize=(1.3 * len(images), 4.2), dpi=80, facecolor="#101216")
    FigureCanvasAgg(figure)
    for j, (name, image) in enumerate(images.items()):
        error = float(np.mean((image - reference) ** 2))
        score = f"{20 * np.log10(maximum) - 10 * np.log10(error):.1f} dB" if error else site
        for i, shot in enumerate((image, image[crop], 3 * np.abs(image - reference))):
            axes = figure.add_subplot(3, len(images), i * len(images) + j + 1)
            axes.imshow(shot, cmap="gray", vmin=0, vmax=white, interpolation="nearest")
            axes.set_axis_off()
            if i == 0:
                axes.set_title(f"{name}\n{score}", color="#f2f2f2", fontsize=6.5, pad=2)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.93, 0.03, 0.03)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=figure.get_facecolor())
    Image.open(file).convert("L").quantize(64).save(out, optimize=True)
