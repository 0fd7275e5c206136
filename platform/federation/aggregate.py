"""From the scores of slices to those of volumes, and from volumes to sites: pure arithmetic.

A volume's scores are fastMRI's (see :mod:`fedrecon.sites.imaging.metrics`); a site's are the unweighted means
over its volumes, and a mean over sites is unweighted too, so a hospital with many patients counts as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedrecon.sites.scoring.columns import METRICS

VOLUME = ("site", "split", "subject", "volume", "stage", "model", "mask", "acceleration")
SITE = ("site", "split", "stage", "model", "mask", "acceleration")

Row = dict[str, Any]


def volume_scores(columns: Mapping[str, Sequence[Any]]) -> list[Row]:
    """One row per volume, stage, model and operator, from one row per slice.

    Args:
        columns: those of :func:`fedrecon.platform.storage.parquet.write_scores`, all of one length.

    Returns:
        the keys :data:`VOLUME`, ``psnr`` (dB), ``ssim``, ``nmse``, ``n_slices`` and ``measured_acceleration``
        (mean over slices), in the order of first appearance.
    """
    from fedrecon.sites.imaging.metrics import volume_scores as score

    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def summary(slices: Sequence[Row]) -> Row:
        scores = score(
            np.array([row["squared_error"] for row in slices], np.float64),
            np.array([row["squared_norm"] for row in slices], np.float64),
            np.array([row["ssim"] for row in slices], np.float64),
            float(_same("volume_maximum", slices)),
            int(_same("n_pixels", slices)),
        )
        measured = float(np.mean([row["measured_acceleration"] for row in slices]))
        return {**scores, "n_slices": len(slices), "measured_acceleration": measured}

    return _grouped(rows, VOLUME, summary)


def site_scores(volumes: Iterable[Row]) -> list[Row]:
    """One row per site, stage, model and operator: means over its volumes (rows of :func:`volume_scores`).

    Returns:
        the keys :data:`SITE`, the three metrics, ``n_volumes``, ``n_slices`` and ``measured_acceleration``.
    """

    def summary(rows: Sequence[Row]) -> Row:
        n_slices = sum(row["n_slices"] for row in rows)
        measured = sum(row["measured_acceleration"] * row["n_slices"] for row in rows) / n_slices
        counts = {"n_volumes": len(rows), "n_slices": n_slices, "measured_acceleration": measured}
        return {**mean(rows), **counts}

    return _grouped(volumes, SITE, summary)


def mean(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The unweighted mean of each metric over the rows."""
    rows = list(rows)
    return {metric: float(np.mean([row[metric] for row in rows])) for metric in METRICS}


def _grouped(rows: Iterable[Row], keys: tuple[str, ...], summary: Callable[[Sequence[Row]], Row]) -> list[Row]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [{**dict(zip(keys, group, strict=True)), **summary(members)} for group, members in groups.items()]


def _same(key: str, slices: Sequence[Row]) -> Any:
    values = {row[key] for row in slices}
    if len(values) != 1:
        raise ValueError(f"the slices of volume '{slices[0]['volume']}' disagree on {key}: {sorted(values)}")
    return values.pop()


STAGE_KEYS = {"output": "", "data_consistency": "with_data_consistency", "zero_filled": "zero_filled"}
"""Stage of a score to the key under which it stands in the JSON; the method's own output stands at the top."""


def summarise(columns: Mapping[str, Any]) -> dict[str, Any]:
    """``{"sites": {NAME: scores}, "mean": scores}`` from one row per slice; the mean over sites is unweighted.

    Where several networks reconstructed at a site (each hospital's own, at one that did not train), theirs is the
    unweighted mean over them.
    """
    found: dict[tuple[str, str], list[Any]] = {}
    for row in site_scores(volume_scores(columns)):
        found.setdefault((row["site"], row["stage"]), []).append(row)
    by_site: dict[str, dict[str, Any]] = {}
    for (site, stage), rows in found.items():
        entry = by_site.setdefault(site, {})
        if key := STAGE_KEYS[stage]:
            entry[key] = mean(rows)
        else:
            entry |= {**mean(rows), "n_volumes": rows[0]["n_volumes"], "n_slices": rows[0]["n_slices"]}
    return {"sites": by_site, "mean": _mean(list(by_site.values()))}


def flat_metrics(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """MLflow's metric names: ``site/NAME/psnr``, ``mean/psnr``, ``mean/zero_filled/psnr``, ..."""
    flat: dict[str, float] = {}
    owners = {"mean": summary["mean"]} if "mean" in summary else {}
    owners |= {f"site/{name}": one for name, one in summary.get("sites", {}).items()}
    for owner, scores in owners.items():
        for key in STAGE_KEYS.values():
            part = scores.get(key, {}) if key else scores
            middle = f"{key}/" if key else ""
            flat |= {f"{prefix}{owner}/{middle}{metric}": part[metric] for metric in METRICS if metric in part}
    return flat


def _mean(sites: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {key: sum(one[key] for one in sites) for key in ("n_volumes", "n_slices")}
    for key in STAGE_KEYS.values():
        scores = mean([one[key] if key else one for one in sites])
        total |= {key: scores} if key else scores
    return total
