"""A sweep's trials as an Arrow table and as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedrecon.tune.trials.planner import short_keys, show
from fedrecon.tune.trials.trial_table import TrialRow

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("number", "status", "run_id", "digest", "trained_rounds", "round", "seconds", "error")


def arrow(rows: Sequence[TrialRow], keys: Sequence[str]) -> pa.Table:
    """A table with one row per trial: its fields, ``params.KEY`` and every metric. A key with mixed types becomes text.

    Args:
        rows: the rows of the trial table. keys: the searched keys, in the order of the columns.
    """
    import pyarrow as pa

    plain = [row.as_dict() for row in rows]
    metrics = sorted({key for one in plain for key in one["metrics"]})
    columns: dict[str, Any] = {name: [one[name] for one in plain] for name in COLUMNS}
    columns |= {f"params.{key}": _one_type([one["params"].get(key) for one in plain]) for key in keys}
    columns |= {key: pa.array([one["metrics"].get(key) for one in plain], pa.float64()) for key in metrics}
    columns |= {name: pa.array(columns[name], pa.string()) for name in ("run_id", "error")}
    return pa.table(columns)


def text(rows: Sequence[TrialRow], keys: Sequence[str], metrics: Sequence[str], best: TrialRow | None) -> str:
    """The table for a terminal: the searched keys, the status, validation and test scores, seconds, errors."""
    titles = list(short_keys(dict.fromkeys(keys)))
    scores = list(dict.fromkeys([*metrics, "test/mean/psnr", "test/mean/ssim"]))
    lines = [["trial", *titles, "status", "rounds", *scores, "s", ""]]
    for row in rows:
        values = [show(row.trial.params[key]) if key in row.trial.params else "-" for key in keys]
        found = [f"{row.metrics[key]:.4g}" if key in row.metrics else "-" for key in scores]
        note = "best" if row is best else (row.error or "")
        shown = note if len(note) <= 100 else note[:97] + "..."
        lines.append([str(row.trial.number), *values, row.status, str(row.round), *found, f"{row.seconds:.1f}", shown])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=True)) + f"  {line[-1]}".rstrip()
        for line in lines
    )


def _one_type(values: Sequence[Any]) -> list[Any]:
    """The values as one type: floats if a number is a float, text if the types are mixed."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {str, bool}):
        return [float(value) if float in kinds and value is not None else value for value in values]
    return [None if value is None else str(value) for value in values]
