"""A picture that compares methods on one test slice: the image, a crop with the sharpest details, the error times 3."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.inference.tuned_by_run import use_tuned

if TYPE_CHECKING:
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.member.site import Site

COLOURS = 64
"""Number of grey levels of the picture: enough for the eye, and a third of the bytes."""
WIDE = 7
"""Largest number of columns in a strip. One of them is the reference."""
GAIN = 3
"""Factor by which the error is amplified."""
BACK, TEXT = "#101216", "#f2f2f2"


@dataclass(frozen=True)
class ComparedMethod:
    """One method of a comparison.

    Attributes:
        hospital: the site that holds the test slice, with the method's network.
        trained: the finished run of the method.
        stage: the shown image: ``output``, ``data_consistency`` or ``zero_filled``.
    """

    hospital: Site
    trained: TrainedRun
    stage: str = "output"

    @classmethod
    def at(cls, trained: TrainedRun, site: str, operator: Acquisition, stage: str = "output") -> ComparedMethod:
        """A run at one of its own sites, under ``operator``."""
        sites = trained.experiment.sites
        shard = f"{sites}/{site}.h5" if isinstance(sites, str) else sites[site]
        return cls(trained.site(trained.models(site)[0], {site: shard}, {site: operator}), trained, stage)


def reconstructed(
    methods: Mapping[str, ComparedMethod], site: str, before: str
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Reconstructs one slice with every method: the middle slice of the site's first test volume.

    Args:
        methods: the methods, by the name that the picture shows.
        before: the name for the zero-filled image.

    Returns:
        the magnitude images (y, x) by name, the reference first, and the maximum of the reference volume.
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
    """Draws the comparison as a grey PNG: rows of images with their PSNR, crops and errors; one column per method.

    Args:
        methods, site, before: see :func:`reconstructed`.
    """
    images, maximum = reconstructed(methods, site, before)
    return draw(images, sharpest(images["reference"]), maximum, site)


def sharpest(image: NDArray[Any]) -> tuple[slice, slice]:
    """The square with the largest sum of gradients. Its side is a third of the image height; ``image`` is (y, x)."""
    side = image.shape[0] // 3
    steep = np.hypot(*np.gradient(image))
    sums = np.lib.stride_tricks.sliding_window_view(steep, (side, side)).sum(axis=(2, 3))
    y, x = np.unravel_index(sums.argmax(), sums.shape)
    return slice(int(y), int(y) + side), slice(int(x), int(x) + side)


def draw(images: Mapping[str, NDArray[Any]], crop: tuple[slice, slice], maximum: float, site: str) -> bytes:
    """Draws strips of three rows: images with their PSNR, crops and errors. All share the reference's grey window.

    Args:
        images: magnitude images (y, x) by name, with ``reference`` among them.
        maximum: maximum of the reference volume, the data range of the PSNR (dB).

    Returns:
        the PNG file.
    """
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
    figure.savefig(file, format="png", facecolor=figure.get_facecolor(), pil_kwargs={"compress_level": 0})
    Image.open(file).convert("L").quantize(COLOURS).save(small, "PNG")
    return small.getvalue()


def _reconstructed(hospital: Site, trained: TrainedRun, site: str) -> tuple[dict[str, NDArray[np.float32]], float]:
    import torch

    from fedrecon.sites.data.volume import central
    from fedrecon.sites.scoring.slice_scores import stages

    slices = hospital.slices("test")
    first = slices.items[0].volume
    item = slices.items[sum(one.volume is first for one in slices.items) // 2]
    if trained.experiment.trains:
        hospital.load(trained.request)  # loads the weights
    elif slices.shards[site].split("validation"):
        hospital.tune_reconstructor()
    else:
        use_tuned(trained, hospital, site, f"site '{site}' is none of the run")
    with torch.no_grad():
        batch = slices.scoring([item], trained.experiment.evaluation.mask_seed)
        made = stages(batch, hospital.image(batch, [item]))
    assert batch.reference is not None
    drawn = {"reference": batch.reference, **made}
    return {
        name: central(image[0], item.volume.crop).cpu().numpy() for name, image in drawn.items()
    }, item.volume.maximum
