"""Honest scores without a site: each row that a gate's labels ask for, with values that an image may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from fedrecon.platform.federation.score_gate import LABELS, ScoreGate
from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.volume import Volume
from fedrecon.sites.score_columns import KINDS, SCORES
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.wire import Scores

MEASURED: dict[str, Any] = {
    "measured_acceleration": 4.0, "model": "global", "squared_error": 1.0, "squared_norm": 16.0, "ssim": 0.5,
}  # fmt: skip

SPREAD: dict[str, Any] = {
    "object_pixels": 8, "within_1": 4, "within_2": 6, "object_squared_error": 1.0, "object_squared_spread": 2.0,
    "against": "measured",
}  # fmt: skip
"""The values of the method's own image; the others have no spread."""


def volume(name: str, split: str, n: int, **changes: Any) -> Volume:
    """One of 8 x 4 pixels, with a maximum of 2."""
    return Volume(**{
        "name": name, "subject": f"{name}-s", "split": split, "n_slices": n, "n_coils": 1, "shape": (8, 4),
        "noise": None, "maximum": 2.0, "has_reference": True, **changes,
    })  # fmt: skip


def gate_of(
    sites: Mapping[str, int | Sequence[Volume]],
    roster: Mapping[str, Sequence[str]] | None = None,
    spread: bool = False,
    **evaluation: Any,
) -> ScoreGate:
    """The gate of sites whose validation and test subject have so many slices each, or that have these volumes."""

    def shard(name: str, held: int | Sequence[Volume]) -> Any:
        own = held if not isinstance(held, int) else [volume(f"{name}-{s}", s, held) for s in ("validation", "test")]
        return SimpleNamespace(scorable=lambda split: tuple(v for v in own if v.split == split and v.has_reference))

    shards = {name: shard(name, held) for name, held in sites.items()}
    operators = dict.fromkeys(sites, Undersampling.read({"mask": "random", "acceleration": 4}))
    return ScoreGate(shards, operators, roster or {one: (one,) for one in sites}, Evaluation(**evaluation), spread)


def rows_of(gate: ScoreGate, member: str, split: str, slices: slice = slice(None)) -> list[dict[str, Any]]:
    """The rows of some of a member's slices."""
    rows = [dict(zip(LABELS, one, strict=True)) | MEASURED for one in gate.rows(member, split)]
    start, stop, _ = slices.indices(len(rows) // 3)
    rows = rows[3 * start : 3 * stop]
    if not gate.spread:
        return rows
    none = {name: "" if kind == "string" else 0 for name, kind in KINDS.items() if name in SPREAD}
    return [one | (SPREAD if one["stage"] == "output" else none) for one in rows]


def as_scores(member: str, split: str, rows: Iterable[Mapping[str, Any]], seconds: float = 0.0) -> Scores:
    """The rows as a message; with the columns of a table even if there is none."""
    rows = list(rows)
    names = rows[0] if rows else SCORES
    return Scores(member, split, {name: tuple(row[name] for row in rows) for name in names}, seconds)


def honest(gate: ScoreGate, member: str, split: str, slices: slice = slice(None), seconds: float = 0.0) -> Scores:
    """What a member answers that does as it is asked."""
    return as_scores(member, split, rows_of(gate, member, split, slices), seconds)
