"""Checks that a message is of the wire's list, and that its fields hold only what they are for.

The check guards against mistakes of a plug-in. It cannot stop a plug-in that wants to cheat: a vector of parameters,
a list of numbers or a PNG can be made to carry anything. Whoever installs a plug-in must trust it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from fedrecon.sites.errors import RunError, brief
from fedrecon.sites.finite import REMEDY, is_finite
from fedrecon.sites.score_columns import DISTANCES, KINDS
from fedrecon.sites.wire import MESSAGES, Samples, Scores

Message = TypeVar("Message")


def check_message(message: Message) -> Message:
    """The message itself, if it may cross the wall.

    Raises:
        RunError: its type is not in the list, or a field holds what no message of this type may hold.
    """
    kind: Any = type(message)
    if kind not in MESSAGES:
        raise RunError(
            f"{kind.__module__}.{kind.__qualname__} is no type of the wire, so it cannot cross a site's wall"
        )
    for one in fields(message):  # type: ignore[arg-type]  # every type in the list is a dataclass
        name = f"{kind.__name__}.{one.name}"
        _check_value(name, getattr(message, one.name), name)
    if kind is Scores:
        _check_columns(message.columns)  # type: ignore[attr-defined]
    if kind is Samples:
        _check_distances(message.numbers)  # type: ignore[attr-defined]
    return message


def _check_columns(columns: Mapping[str, Any]) -> None:
    for name in columns:
        if name not in KINDS:
            raise RunError(f"{name!r} is no column of scores, so it cannot cross a site's wall")
    if len(set(map(len, columns.values()))) > 1:
        raise RunError("columns of scores have one row for each slice and stage; these differ in length")
    for name, values in columns.items():
        allowed = COLUMN_TYPES[KINDS[name]]
        for row, value in enumerate(values):
            if type(value) not in allowed:
                what = " or ".join(one.__name__ for one in allowed)
                raise RunError(f"{name} of a score is of type {type(value).__qualname__} instead of {what}; refused")
            if type(value) is not float:
                if not (value.isprintable() if type(value) is str else -(2**63) <= value < 2**63):
                    raise RunError(f"{name} of a score is {brief(value)}, which a table cannot hold; refused")
            elif not math.isfinite(value):
                known = (f"{key} {columns[key][row]}" for key in ("subject", "slice", "stage") if key in columns)
                where = ", ".join(known) or f"row {row}"
                raise RunError(f"a score of {where} has {name} = {value}; scores must be finite. {REMEDY}")


def _check_distances(numbers: Mapping[str, float]) -> None:
    for name, value in numbers.items():
        if name not in DISTANCES:
            raise RunError(f"{brief(name)} is no distance of drawn images, so it cannot cross a site's wall")
        if not is_finite(value):
            raise RunError(f"the distance {name} of drawn images is {brief(value)}; scores must be finite. {REMEDY}")


def _check_value(name: str, value: Any, field_name: str) -> None:
    if field_name in NUMBERS and not isinstance(value, Mapping):
        if type(value) not in (int, float):
            raise RunError(f"{name} is of type {type(value).__qualname__}; {field_name} holds numbers alone")
    elif value is None or type(value) in (bool, int, float, str):
        return
    elif isinstance(value, np.ndarray):
        flat = value.ndim == 1 or field_name == "PrivatePart.parameters"
        # A class of one's own may hide values: a masked array hides its NaN from every sum.
        if type(value) is not np.ndarray or value.dtype != np.float32 or not flat or field_name not in ARRAYS:
            raise RunError(
                f"{name} is a {type(value).__name__} of {value.dtype} and shape {value.shape}; "
                "it cannot cross a site's wall"
            )
    elif isinstance(value, bytes):
        if field_name not in PICTURES or not (value.startswith(PNG) and value.endswith(PNG_END)):
            raise RunError(f"{name} holds bytes; only {' and '.join(PICTURES)} hold them, as PNG")
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if type(key) is not str:
                raise RunError(f"{name} has a key of type {type(key).__qualname__}; it cannot cross a site's wall")
            _check_value(f"{name}[{key!r}]", one, field_name)
    elif isinstance(value, tuple | list):
        for one in value:
            _check_value(name, one, field_name)
    elif type(value) in MESSAGES:
        check_message(value)
    else:
        raise RunError(f"{name} is of type {type(value).__qualname__}; it cannot cross a site's wall")


ARRAYS = (
    "TrainRequest.shared",
    "TrainRequest.extra",
    "TrainReply.shared",
    "TrainReply.extra",
    "PrivatePart.parameters",
)
"""The fields that hold arrays."""

PICTURES = ("Panels.pictures", "Samples.pictures")
"""The fields that hold pictures."""

COLUMN_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "int64": (int,), "float64": (float, int)}
"""The types of the values in a column of scores, by the column's type."""

NUMBERS = ("TrainReply.losses", "TrainReply.usage", "Samples.numbers")
"""The fields that hold a number for each name."""

PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
"""How a PNG begins and ends."""
