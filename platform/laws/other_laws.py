"""The laws of masks, degradations, classical reconstructors and formats, at their default parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fedrecon.platform.laws.law import Law, difference, drawn, not_an_image, numbers, picked
from fedrecon.sites.imaging.degradations import DEGRADATIONS
from fedrecon.sites.imaging.fourier import fft2c
from fedrecon.sites.imaging.masks import centred, measured_acceleration

SHAPES = ((64, 64), (63, 48))
LARGE = (32, 256)


def _described(kind: Any) -> str:
    return "" if (kind.__dict__.get("__doc__") or "").strip() else "it has no docstring"


def _mask_is_bool(kind: Any) -> str:
    for shape in SHAPES:
        mask = kind(acceleration=4).sample(shape, 7)
        if not isinstance(mask, np.ndarray) or mask.shape != shape or mask.dtype != bool:
            what = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            return f"it is {what} instead of bool of shape {shape}"
    return ""


def _mask_repeats(kind: Any) -> str:
    first = kind(acceleration=4).sample(SHAPES[0], 7)
    np.random.seed(99)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    again = kind(acceleration=4).sample(SHAPES[0], 7)
    if words := difference({"the mask": again}, {"the mask": first}):
        return words
    after = np.random.get_state()[1].tolist()  # type: ignore[index]
    return "" if before == after else "it draws from numpy's global generator; use the `random` that it gets"


def _mask_varies(kind: Any) -> str:
    one = kind(acceleration=4)
    first = one.sample(SHAPES[0], 7)
    return (
        "" if any((first != one.sample(SHAPES[0], seed)).any() for seed in range(8, 16)) else "nine seeds give one mask"
    )


def _mask_centre(kind: Any) -> str:
    for shape in SHAPES:
        one = kind(acceleration=4)
        size = one.calibration(shape)
        if min(size) < 1 or any(a > b for a, b in zip(size, shape, strict=True)):
            return f"calibration({shape}) is {size}, which is no box inside"
        box = tuple(centred(n, length) for n, length in zip(shape, size, strict=True))
        if missing := int((~one.sample(shape, 3)[box]).sum()):
            return f"on {shape[0]} x {shape[1]}, {missing} samples of the box {size[0]} x {size[1]} are missing"
    return ""


def _mask_rate(kind: Any) -> str:
    for acceleration in (2.0, 4.0):
        one = kind(acceleration=acceleration)
        found = 1 / np.mean([1 / measured_acceleration(one.sample(LARGE, seed)) for seed in range(40)])
        if abs(found / acceleration - 1) > 0.05:
            return f"acceleration {acceleration:g} is {found:.3f} on average on {LARGE[0]} x {LARGE[1]}"
    return ""


def _mask_everything(kind: Any) -> str:
    missing = int((~kind(acceleration=1, center_fraction=1).sample((9, 12), 0)).sum())
    return f"{missing} samples of 108 are missing" if missing else ""


def _degraded(kind: Any, factor: float = 1.0) -> Any:
    one = drawn(2, (36, 48))
    maps: Any = one.operator
    return kind(scale=2).measure(factor * one.kspace, maps.maps)


def _degradation_shapes(kind: Any) -> str:
    one = _degraded(kind)
    return not_an_image(one.low, (2, 18, 24)) or not_an_image(one.zero_filled, (2, 36, 48))


def _degradation_adjoint(kind: Any) -> str:
    one, draws = _degraded(kind), torch.Generator().manual_seed(1)
    x = torch.randn(2, 36, 48, dtype=torch.complex64, generator=draws)
    y = one.operator.forward(torch.randn(2, 36, 48, dtype=torch.complex64, generator=draws))
    left, right = (
        torch.vdot(a.flatten(), b.flatten()) for a, b in ((one.operator.forward(x), y), (x, one.operator.adjoint(y)))
    )
    return difference(
        {"<Ax, y> and <x, A^H y>": numbers(left)}, {"<Ax, y> and <x, A^H y>": numbers(right)}, 1e-3 * float(left.abs())
    )


def _degradation_scales(kind: Any) -> str:
    found, wanted = _degraded(kind, 1e3).low / 1e3, _degraded(kind).low
    return difference({"low": numbers(found)}, {"low": numbers(wanted)}, 1e-4 * float(wanted.abs().max()))


def _degradation_constant(kind: Any) -> str:
    ones = torch.ones(1, 1, 36, 48, dtype=torch.complex64)
    low = kind(scale=2).measure(fft2c(5 * ones), ones).low
    return difference({"low": numbers(low)}, {"low": np.full((1, 18, 24), 5)}, 1e-3)


def _input_of(kind: Any, coils: int, size: tuple[int, int], factor: float = 1.0) -> Any:
    one = drawn(coils, size, factor=factor)
    maps: Any = one.operator
    return DEGRADATIONS["kspace-truncation"](scale=2).measure(one.kspace, maps.maps) if kind.needs_low else one


def _reconstructor_sizes(kind: Any) -> str:
    for coils, size in ((4, (24, 20)), (4, (32, 32))):
        if words := not_an_image(kind().reconstruct(_input_of(kind, coils, size)), (2, *size)):
            return words
    return ""


def _reconstructor_scales(kind: Any) -> str:
    wanted = kind().reconstruct(_input_of(kind, 4, (24, 20)))
    found = kind().reconstruct(_input_of(kind, 4, (24, 20), 2.0**13)) / 2.0**13
    return difference({"the image": numbers(found)}, {"the image": numbers(wanted)}, 1e-3 * float(wanted.abs().max()))


def _reconstructor_apart(kind: Any) -> str:
    if kind.needs_low:
        return ""
    one = drawn(4, (24, 20), batch=3)
    wanted, found = kind().reconstruct(one)[:1], kind().reconstruct(picked(one, slice(0, 1)))
    return difference({"the image": numbers(found)}, {"the image": numbers(wanted)}, 1e-2 * float(wanted.abs().max()))


def _reconstructor_candidates(kind: Any) -> str:
    found = kind().candidates()
    if not found or any(type(one) is not kind for one in found):
        return f"they are {found!r}"
    return "" if len(set(map(repr, found))) == len(found) else "two of them are the same"


def _format_described(kind: Any) -> str:
    if not isinstance(getattr(kind, "summary", None), str):
        return 'it has no class attribute "summary"'
    suffixes = getattr(kind, "suffixes", None)
    if not isinstance(suffixes, tuple) or not suffixes:
        return f"suffixes is {suffixes!r} instead of a tuple of file endings"
    wrong = [one for one in suffixes if not one.startswith(".")]
    return f"suffixes: {wrong} do not begin with a dot" if wrong else ""


MASK_LAWS = (
    Law("It has a docstring.", _described),
    Law("A mask is a bool array of the asked shape (y, x).", _mask_is_bool),
    Law("The seed alone makes the mask.", _mask_repeats),
    Law("Other seeds make other masks.", _mask_varies),
    Law("The box that `calibration` gives is fully sampled.", _mask_centre),
    Law("The acceleration holds on average, within 5 %.", _mask_rate),
    Law("Acceleration 1 samples everything.", _mask_everything),
)

DEGRADATION_LAWS = (
    Law("It has a docstring.", _described),
    Law("`low` is complex64 (b, y / scale, x / scale), and `zero_filled` has the full size.", _degradation_shapes),
    Law("Its operator and adjoint fit: <Ax, y> = <x, A^H y>.", _degradation_adjoint),
    Law("Data times 1000 give 1000 times `low`.", _degradation_scales),
    Law("A constant keeps its intensity.", _degradation_constant),
)

RECONSTRUCTOR_LAWS = (
    Law("It has a docstring.", _described),
    Law("It gives a complex64 image (b, y, x) of the full size.", _reconstructor_sizes),
    Law("Data times 8192 give the image times 8192.", _reconstructor_scales),
    Law("The slices of a batch do not mix.", _reconstructor_apart),
    Law("`candidates` gives different settings of this method.", _reconstructor_candidates),
)

FORMAT_LAWS = (
    Law("It has a docstring.", _described),
    Law("`summary` is a line for people, and `suffixes` are file endings with their dots.", _format_described),
)
