"""One test slice under every method: the whole, a crop around its sharpest place, and three times the error."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrecon.platform.inference.trained_run import TrainedRun

if TYPE_CHECKING:
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.member.site import Site

COLOURS = 64
"""Greys of a picture: enough for the eye, and a third of the bytes."""
WIDE = 7
"""Columns of a strip, the reference among them."""
GAIN = 3
BACK, TEXT = "#101216", "#f2f2f2"


@dataclass(frozen=True)
class ComparedMethod:
    """One method of a comparison.

    Attributes:
        place: the site, with the method's network. trained: the method's run. stage: which image is shown.
    """

    hospital: Site
    trained: TrainedRun
    stage: str = "output"

    @classmethod
    def at(cls, trained: TrainedRun, site: str, operator: Acquisition, stage: str = "output") -> ComparedMethod:
        """A run at one of its own sites."""
        sites = trained.experiment.sites
        shard = f"{sites}/{site}.h5" if isinstance(sites, str) else sites[site]
        return cls(trained.site(trained.models(site)[0], {site: shard}, {site: operator}), trained, stage)


def reconstructed(
    methods: Mapping[str, ComparedMethod], site: str, before: str
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Magnitude images (y, x) of the middle slice of the site's first test volume by name, and the volume's maximum.

    Args:
        before: what to call the zero-filled image; the reference is the first.
    """
    images: dict[str, NDArray[np.float32]] = {}
    maximum = 0.0
    for name, one in methods.items():
        made, maximum = _reconstructed(one.hospital, one.trained, site)
        images.setdefault("reference", made["reference"])
        images.setdefault(before, made["zero_filled"])
        images[name] = made[one.stage]
    return images, maximum


def side_by_side(methods: Mapping[str, ComparedMethod], site: str, before: str) -> bytes:
    """The comparison as a grey PNG of few colours: images with their PSNR, crops, errors; one column a method."""
    images, maximum = reconstructed(methods, site, before)
    return draw(images, sharpest(images["reference"]), maximum, site)


def sharpest(image: NDArray[Any]) -> tuple[slice, slice]:
    """The square, a third of the image high, that holds most of its gradients."""
    side = image.shape[0] // 3
    steep = np.hypot(*np.gradient(image))
    sums = np.lib.stride_tricks.sliding_window_view(steep, (side, side)).sum(axis=(2, 3))
    y, x = np.unravel_index(sums.argmax(), sums.shape)
    return slice(int(y), int(y) + side), slice(int(x), int(x) + side)


def draw(images: Mapping[str, NDArray[Any]], crop: tuple[slice, slice], maximum: float, site: str) -> bytes:
    """Strips of three rows: images with their PSNR, crops, errors; one grey window, taken from the reference."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    reference = images["reference"]
    white = np.percentile(reference, 99)
    others = [name for name in images if name != "reference"]
    n_strips = -(-len(others) // (WIDE - 1))
    wide = -(-len(others) // n_strips) + 1  # each strip begins with the reference
    strips = [["reference", *others[at : at + wide - 1]] for at in range(0, len(others), wide - 1)]
    figure = Figure(figsize=(1.3 * wide, 4.4 * n_strips), dpi=100, facecolor=BACK)
    FigureCanvasAgg(figure)
    for part, names in zip(figure.subfigures(n_strips, 1, squeeze=False).flat, strips, strict=True):
        part.set_facecolor(BACK)
        for j, name in enumerate(names):
            image = images[name]
            error = float(np.mean((image - reference) ** 2))
            score = f"{20 * np.log10(maximum) - 10 * np.log10(error):.1f} dB" if error else site
            for i, shot in enumerate((image, image[crop], GAIN * np.abs(image - reference))):
                axes = part.add_subplot(3, wide, i * wide + j + 1)
                axes.imshow(shot, cmap="gray", vmin=0, vmax=white, interpolation="nearest")
                axes.set_axis_off()
                if i == 0:
                    axes.set_title(f"{name}\n{score}", color=TEXT, fontsize=8, pad=2)
        part.subplots_adjust(0.005, 0.01, 0.995, 0.91, 0.03, 0.03)
    file, small = io.BytesIO(), io.BytesIO()
    figure.savefig(file, format="png", facecolor=figure.get_facecolor())
    Image.open(file).convert("L").quantize(COLOURS).save(small, "PNG", optimize=True)
    return small.getvalue()


def _reconstructed(hospital: Site, trained: TrainedRun, site: str) -> tuple[dict[str, NDArray[np.float32]], float]:
    import torch

    from fedrecon.sites.scoring.slice_scores import stages

    slices = hospital.slices("test")
    first = slices.items[0].volume
    item = slices.items[sum(one.volume is first for one in slices.items) // 2]
    if trained.experiment.trains:
        hospital.load(trained.request)  # loads the weights
    elif slices.shards[site].split("validation"):
        hospital.tune_reconstructor()
    with torch.no_grad():
        batch = slices.scoring([item], trained.experiment.evaluation.mask_seed)
        made = stages(batch, hospital.image(batch, [item]))
    assert batch.reference is not None
    images = {name: image[0].cpu().numpy() for name, image in made.items()}
    return {"reference": batch.reference[0].cpu().numpy(), **images}, item.volume.maximum
