"""Finds NaN and infinity: in numbers, and in vectors in one pass and without a copy."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

REMEDY = "A lower training.learning_rate is the usual remedy."
"""What to try when a training produced NaN or infinity."""

_LARGEST = sys.float_info.max

_CHUNK = 1 << 20
_ROW = 1 << 14


def is_finite(value: Any) -> bool:
    """Whether a value is a plain number that a float can hold: no NaN, no infinity, and no integer beyond them."""
    return type(value) in (int, float) and abs(value) <= _LARGEST


def count_not_finite(values: NDArray[Any]) -> int:
    """The number of values that are NaN or infinite; integers are always finite."""
    # A finite sum proves that all values are finite. Only if the sum is not finite are the values looked at one by one.
    if values.dtype.kind not in "fc":
        return 0
    flat = values.reshape(-1)
    even = len(flat) - len(flat) % _ROW
    with np.errstate(over="ignore", invalid="ignore"):
        # Summed over rows, so that the additions run at the speed of the memory; numpy's sum takes half as long again.
        total = np.sum(np.sum(flat[:even].reshape(-1, _ROW), axis=0)) + np.sum(flat[even:])
        if math.isfinite(abs(complex(total))):
            return 0
    return sum(
        int(np.count_nonzero(~np.isfinite(flat[start : start + _CHUNK]))) for start in range(0, len(flat), _CHUNK)
    )


def first_not_finite(vectors: Mapping[str, NDArray[Any]]) -> str:
    """Says which of the vectors is the first with NaN or infinity, and in how many values; empty if all are finite."""
    for name, values in vectors.items():
        if count := count_not_finite(values):
            return not_finite(count, values.size, name)
    return ""


def not_finite(count: int, size: int, name: str) -> str:
    """Says in how many of the ``size`` values of a vector there is NaN or infinity."""
    return f"NaN or infinity in {count} of {size} {name}"
