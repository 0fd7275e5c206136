"""Compares the images that a prior draws with a site's own slices: distances, and a grid of pictures.

The distances need no downloaded network. Their features: each image is divided by its peak, pooled to 32 x 32 pixels
and projected on the first principal components of the site's training slices, in units of the overall deviation of
these slices. The features belong to one site. So the distances can be compared between rounds and between methods at
one site, but not between sites.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from fedrecon.sites.seeding import torch_generator

if TYPE_CHECKING:
    from torch import Tensor

    from fedrecon.sites.training.batches import Slices

Draw = Callable[[int, torch.Generator], "Tensor"]

COUNT = 128
"""Number of drawn images that are compared."""
BATCH = 16
"""Number of images that are drawn, or slices that are read, at once."""
COMPONENTS = 32
"""Largest number of principal components."""
SIDE = 32
"""Pixels of a pooled image along each side."""
SHOWN = 8
"""Number of drawn images in a grid; below them are as many training slices."""


def compare(draw: Draw, known: Tensor, fresh: Tensor, seed: int, site: str) -> dict[str, float]:
    """The distances of drawn images from real images.

    Args:
        draw: draws a number of images (n, y, x) with a generator.
        known, fresh: training and validation slices (n, y, x), see :func:`images`.
        seed, site: the drawn images follow from these.

    Returns:
        ``kernel_distance``: unbiased squared maximum mean discrepancy from the drawn images to the validation slices
        under the cubic kernel (x y / d + 1)^3, as in the kernel inception distance, but with the features above.
        ``kernel_distance_real``: the same distance from the training slices to the validation slices; a perfect prior
        of few patients would have this distance.
        ``nearest``: the median distance from a drawn image to its nearest training slice (pixel by pixel after
        pooling), divided by the median distance from a validation slice to its nearest training slice. A value far
        below 1 means that the prior copies training slices.
        The result is empty with fewer than 3 training slices or fewer than 2 validation slices, and if these differ in
        matrix size: pooling would compare two fields of view.
    """
    if len(known) < 3 or len(fresh) < 2 or known.shape[1:] != fresh.shape[1:]:
        return {}
    generator = torch_generator(seed, "compare", site)
    drawn = torch.cat([draw(BATCH, generator) for _ in range(COUNT // BATCH)])
    drawn = torch.stack([_cut(one, *known.shape[1:]) for one in drawn.cpu()]).to(known.device)
    a, b, c = (pooled(one) for one in (drawn, fresh, known))
    components = _Components(c)
    usual = torch.cdist(b, c).min(dim=1).values.median().clamp_min(1e-12)
    return {
        "kernel_distance": kernel_distance(components(a), components(b)),
        "kernel_distance_real": kernel_distance(components(c), components(b)),
        "nearest": float(torch.cdist(a, c).min(dim=1).values.median() / usual),
    }


def grid(draw: Draw, known: Tensor, seed: int, site: str) -> bytes:
    """A PNG with two rows: images drawn from the same latents in every round; evenly spaced training slices."""
    from PIL import Image

    drawn = draw(SHOWN, torch_generator(seed, "grid", site)).cpu()
    known = known.cpu()
    picks = torch.linspace(0, len(known) - 1, SHOWN).round().long() if len(known) else torch.zeros(0, dtype=torch.long)
    height, width = drawn.shape[-2:]
    rows = [torch.cat([_cut(one, height, width) for one in part], dim=1) for part in (drawn, known[picks]) if len(part)]
    sheet = (torch.cat(rows).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    factor = max(1, 96 // width)
    buffer = io.BytesIO()
    picture = Image.fromarray(sheet)
    picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def images(slices: Slices, shape: tuple[int, int] | None = None) -> Tensor:
    """(n, y, x) magnitude of every slice of one matrix size, divided by its peak.

    Args:
        slices: the slices of a split.
        shape: the matrix size (y, x); None takes the one that most slices have.
    """
    batches = [slices.scoring(items, 0) for items in slices.iterate(BATCH)]
    parts = [one.zero_filled.abs() / one.scale[:, None, None] for one in batches]
    sizes: Counter[tuple[int, ...]] = Counter()
    for one in parts:
        sizes[tuple(one.shape[1:])] += len(one)
    wanted = shape or (sizes.most_common(1)[0][0] if sizes else (1, 1))
    fitting = [one for one in parts if tuple(one.shape[1:]) == wanted]
    return torch.cat(fitting) if fitting else torch.zeros(0, *wanted)


def pooled(values: Tensor) -> Tensor:
    """(n, d): images divided by their peaks, pooled to SIDE x SIDE pixels, flat."""
    values = values / values.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    small = F.interpolate(values[:, None], (SIDE, SIDE), mode="area")
    return small.flatten(1)


class _Components:
    """The principal components of some images, and the projection of other images on them."""

    def __init__(self, known: Tensor) -> None:
        self.mean = known.mean(dim=0)
        _, values, vectors = torch.linalg.svd((known - self.mean).double(), full_matrices=False)
        kept = min(COMPONENTS, len(known) - 1)
        self.vectors = vectors[:kept].mT
        spread = values[:kept].square().sum() / (len(known) * kept)
        self.unit = spread.sqrt().clamp_min(1e-12)

    def __call__(self, values: Tensor) -> Tensor:
        """Coordinates (n, components); over the images that gave the components, their mean square is 1."""
        components: Tensor = (values - self.mean).double() @ self.vectors / self.unit
        return components


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of (n, d) and (m, d) under (x y / d + 1)^3; may be below 0."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        values: Tensor = (x @ y.mT / x.shape[1] + 1) ** 3
        return values

    def within(x: Tensor) -> Tensor:
        values, n = kernel(x, x), len(x)
        total: Tensor = values.sum() - values.diagonal().sum()
        return total / (n * (n - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def _cut(image: Tensor, height: int, width: int) -> Tensor:
    """The image cropped or zero-padded to height x width around its centre."""
    frame = torch.zeros(height, width)
    y, x = min(height, image.shape[0]), min(width, image.shape[1])
    top, left = height // 2 - y // 2, width // 2 - x // 2
    from_top, from_left = image.shape[0] // 2 - y // 2, image.shape[1] // 2 - x // 2
    frame[top : top + y, left : left + x] = image[from_top : from_top + y, from_left : from_left + x]
    return frame
