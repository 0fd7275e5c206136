"""Pictures of a reconstruction. The site draws them, because the images are there."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ERROR_GAIN = 5.0
_INCH = 2.3  # one image's side
_DPI = 110
_TOP, _BOTTOM, _LEFT, _GAP, _BAR = 0.36, 0.30, 0.06, 0.11, 0.62  # inches around the images
_BACK, _TEXT, _FAINT = "#101216", "#f2f2f2", "#a7adb8"
_WHITE = 98.5  # percentile of the reference slice that is shown white: bright fat saturates, tissue is visible


def panel(
    reference: NDArray[Any] | None,
    zero_filled: NDArray[Any],
    reconstruction: NDArray[Any],
    maximum: float,
    caption: str,
    *,
    before: str = "Zero-filled",
    spread: NDArray[Any] | None = None,
) -> bytes:
    """Reference, zero-filled, reconstruction, 5 |error| and 5 spreads side by side, with the slice's scores, as PNG.

    All images share one grey window, which follows from the reference. No image is scaled by its own extremes. Without
    a reference the window follows from the reconstruction.

    Args:
        reference: magnitude, (y, x); None where there is none: then only the two images are shown, without scores.
        zero_filled: magnitude, (y, x).
        reconstruction: magnitude, (y, x).
        maximum: maximum of the reference volume: the data range of PSNR and SSIM. Without a reference, that of the
            reconstructed volume.
        caption: one line under the images: site, subject, slice, operator, round.
        before: title of the second image.
        spread: the standard deviation that is expected of each pixel's error, (y, x), shown as the error is; None where
            the method tells none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    zero_filled, reconstruction = (np.abs(image).astype(np.float64) for image in (zero_filled, reconstruction))
    reference = None if reference is None else np.abs(reference).astype(np.float64)
    window = reconstruction if reference is None else reference
    grey = {"cmap": "gray", "vmin": 0.0, "vmax": _white(window, maximum)}
    hot = {"cmap": "magma", "vmin": 0.0, "vmax": 1 / ERROR_GAIN}
    scores = ["" if reference is None else _scores(reference, one, maximum) for one in (zero_filled, reconstruction)]
    shown = [(zero_filled, before, scores[0], grey), (reconstruction, "Reconstruction", scores[1], grey)]
    if reference is not None:
        error = np.abs(reference - reconstruction) / maximum
        shown = [(reference, "Reference", "", grey), *shown, (error, f"|Error| × {ERROR_GAIN:g}", "", hot)]
    if spread is not None:
        shown.append((spread.astype(np.float64) / maximum, f"Spread × {ERROR_GAIN:g}", "", hot))
    height, width = reconstruction.shape
    tall = _INCH * height / width
    n_images = len(shown)
    size = (_LEFT + n_images * _INCH + (n_images - 1) * _GAP + _BAR, _TOP + tall + _BOTTOM)
    figure = Figure(figsize=size, dpi=_DPI, facecolor=_BACK)
    FigureCanvasAgg(figure)

    def axes(column: int) -> Axes:
        left = _LEFT + column * (_INCH + _GAP)
        return figure.add_axes((left / size[0], _BOTTOM / size[1], _INCH / size[0], tall / size[1]))

    figure.text(_LEFT / size[0], 0.1 / size[1], caption, color=_FAINT, fontsize=8, va="bottom")
    for column, (image, title, beside, options) in enumerate(shown):
        drawn = _show(axes(column), image, title, beside, **options)
    if shown[-1][-1] is not hot:
        return _compressed(figure)
    left = size[0] - _BAR + 0.07
    bar = figure.add_axes((left / size[0], _BOTTOM / size[1], 0.09 / size[0], tall / size[1]))
    figure.colorbar(drawn, cax=bar, ticks=[0.0, 0.1, 0.2], format=lambda value, _: f"{100 * value:.0f} %")
    bar.tick_params(colors=_FAINT, labelsize=7, length=2)
    bar.spines["outline"].set_visible(False)
    return _compressed(figure)


def montage(panels: Sequence[bytes], gap: int = 4) -> bytes:
    """PNG panels below one another, left aligned, ``gap`` pixels apart, as one PNG.

    Raises:
        ValueError: there is no panel.
    """
    from PIL import Image

    images = [Image.open(io.BytesIO(item)).convert("RGB") for item in panels]
    if not images:
        raise ValueError("a montage needs at least one panel")
    size = (max(image.width for image in images), sum(image.height + gap for image in images) - gap)
    sheet = Image.new("RGB", size, _BACK)
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height + gap
    return _png(sheet)


def _show(axes: Axes, image: NDArray[Any], title: str, scores: str, **options: Any) -> Any:
    shown = axes.imshow(image, interpolation="nearest", **options)
    axes.set_axis_off()
    axes.set_title(title, color=_TEXT, fontsize=10, loc="left", pad=5)
    if scores:
        axes.set_title(scores, color=_FAINT, fontsize=7.5, loc="right", pad=5)
    return shown


def _white(reference: NDArray[Any], maximum: float) -> float:
    return float(np.percentile(reference, _WHITE)) or maximum or 1.0


def _scores(reference: NDArray[Any], image: NDArray[Any], maximum: float) -> str:
    from fedrecon.sites.imaging.metrics import psnr, ssim

    pair = (reference[np.newaxis], image[np.newaxis])
    return f"{psnr(*pair, maximum):.1f} dB   SSIM {ssim(*pair, maximum):.3f}"


def _compressed(figure: Any) -> bytes:
    from PIL import Image

    figure.canvas.draw()
    return _png(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB"))


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
