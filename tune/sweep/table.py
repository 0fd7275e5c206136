"""A sweep's trials as an Arrow table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedrecon.sites.acquisition.mix import is_mix, mix_text
from fedrecon.tune.trials.trial_table import TrialRow

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("number", "status", "run_id", "digest", "trained_rounds", "round", "seconds", "error")


def arrow(rows: Sequence[TrialRow], keys: Sequence[str]) -> pa.Table:
    """A table with one row per trial: its fields, ``params.KEY`` and every metric. A key with mixed types becomes text.

    A mix of accelerations is then written as in labels: ``2-8``.

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


def _one_type(values: Sequence[Any]) -> list[Any]:
    """The values as one type: floats if a number is a float, text if the types are mixed."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {str, bool}):
        return [float(value) if float in kinds and value is not None else value for value in values]
    return [None if value is None else mix_text(value) if is_mix(value) else str(value) for value in values]
