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
OF_A_TILE = f"reference · zero-filled or zero-padded · reconstruction · |error| × {ERROR_GAIN:g}"
"""What the four images of a tile are, from left to right."""

_INCH = 2.3  # one image's side
_DPI = 110
_TOP, _BOTTOM, _LEFT, _GAP, _BAR = 0.36, 0.30, 0.06, 0.11, 0.62  # inches around the images
_BACK, _TEXT, _FAINT = "#101216", "#f2f2f2", "#a7adb8"
_SIDE, _HEAD, _SPACE = 96, 16, 2  # pixels of a tile: the height of an image and of the line above, between images
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


def tile(
    reference: NDArray[Any],
    zero_filled: NDArray[Any],
    reconstruction: NDArray[Any],
    maximum: float,
    site: str,
) -> bytes:
    """The images of :func:`panel`, small and side by side, below the site's name and two PSNR, as PNG.

    :func:`montage` says once for all tiles of a sheet what the images are (:data:`OF_A_TILE`).
    """
    from matplotlib import colormaps
    from PIL import Image

    from fedrecon.sites.imaging.metrics import psnr

    truth, before, after = (np.abs(image).astype(np.float64) for image in (reference, zero_filled, reconstruction))
    white, error = _white(truth, maximum), np.abs(truth - after) / maximum
    drawn = [
        np.repeat((np.clip(one / white, 0, 1) * 255).astype(np.uint8)[..., None], 3, 2)
        for one in (truth, before, after)
    ]
    drawn.append(np.asarray(colormaps["magma"](error * ERROR_GAIN, bytes=True))[..., :3])
    height, width = truth.shape
    size = (max(round(_SIDE * width / height), 1), _SIDE)
    sheet = Image.new("RGB", (4 * size[0] + 3 * _SPACE, _HEAD + _SIDE), _BACK)
    for number, one in enumerate(drawn):
        small = Image.fromarray(np.ascontiguousarray(one)).resize(size, Image.Resampling.BOX)
        sheet.paste(small, (number * (size[0] + _SPACE), _HEAD))
    scores = f"{psnr(truth[None], before[None], maximum):.1f} → {psnr(truth[None], after[None], maximum):.1f} dB"
    _write(sheet, (2, 1), site, _TEXT)
    _write(sheet, (sheet.width - 2, 1), scores, _FAINT, anchor="ra")
    return _png(sheet)


def montage(panels: Sequence[bytes], gap: int = 4, columns: int = 1, head: str = "") -> bytes:
    """PNG panels in rows, as one PNG. Each stands at the upper left of its cell; the cells are ``gap`` pixels apart.

    Args:
        panels: the pictures, row by row.
        columns: pictures in a row. head: a line above them.

    Raises:
        ValueError: there is no panel.
    """
    from PIL import Image

    images = [Image.open(io.BytesIO(item)).convert("RGB") for item in panels]
    if not images:
        raise ValueError("a montage needs at least one panel")
    rows = [images[first : first + columns] for first in range(0, len(images), columns)]
    widths = [max(row[column].width for row in rows if len(row) > column) for column in range(len(rows[0]))]
    heights, top = [max(image.height for image in row) for row in rows], _HEAD + gap if head else 0
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) - 1), top + sum(heights) + gap * (len(rows) - 1)), _BACK)
    if head:
        _write(sheet, (2, 2), head, _FAINT)
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(image, (sum(widths[:column]) + gap * column, top))
        top += height + gap
    return _png(sheet)


def _write(sheet: Any, place: tuple[int, int], text: str, colour: str, anchor: str = "la") -> None:
    """Writes one line into a picture, in the font that comes with matplotlib."""
    from matplotlib import get_data_path
    from PIL import ImageDraw, ImageFont

    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", 11)
    ImageDraw.Draw(sheet).text(place, text, fill=colour, font=font, anchor=anchor)


def _show(axes: Axes, image: NDArray[Any], title: str, scores: str, **options: Any) -> Any:
    shown = axes.imshow(image, interpolation="nearest", **options)
    axes.set_axis_off()
    # With y given, matplotlib does not look for room above ticks that are not shown: half of the time of a picture.
    axes.set_title(title, color=_TEXT, fontsize=10, loc="left", pad=5, y=1.0)
    if scores:
        axes.set_title(scores, color=_FAINT, fontsize=7.5, loc="right", pad=5, y=1.0)
    return shown


def _white(reference: NDArray[Any], maximum: float) -> float:
    return float(np.percentile(reference, _WHITE)) or maximum or 1.0


def _scores(reference: NDArray[Any], image: NDArray[Any], maximum: float) -> str:
    from fedrecon.sites.imaging.metrics import WINDOW, psnr, ssim

    pair = (reference[np.newaxis], image[np.newaxis])
    similar = f"   SSIM {ssim(*pair, maximum):.3f}" if min(image.shape) >= WINDOW else ""
    return f"{psnr(*pair, maximum):.1f} dB{similar}"


def _compressed(figure: Any) -> bytes:
    from PIL import Image

    figure.canvas.draw()
    return _png(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB"))


def _png(image: Any) -> bytes:
    """The image as PNG. Pillow's ``optimize`` takes several times as long, for a few per cent of the bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
