"""Aggregates scores of slices into scores of volumes, and scores of volumes into scores of sites: pure arithmetic.

The scores of a volume follow fastMRI (see :mod:`fedrecon.sites.imaging.metrics`). The scores of a site are the
unweighted means over its volumes. A mean over sites is unweighted too: a hospital with many patients counts as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from fedrecon.platform.federation.coverage import coverage, mean_coverage
from fedrecon.sites.errors import RunError, at_site
from fedrecon.sites.score_columns import METRICS

VOLUME = ("site", "split", "subject", "volume", "stage", "model", "mask", "acceleration")
SITE = ("site", "split", "stage", "model", "mask", "acceleration")

Row = dict[str, Any]


def volume_scores(columns: Mapping[str, Sequence[Any]]) -> list[Row]:
    """One row per volume, stage, model and operator, from one row per slice.

    Args:
        columns: the columns of :func:`fedrecon.platform.storage.parquet.write_scores`, all of the same length.

    Returns:
        rows with the keys :data:`VOLUME`, ``psnr`` (dB), ``ssim``, ``nmse``, ``n_slices`` and
        ``measured_acceleration`` (mean over slices), in the order in which the volumes first appear.

    Raises:
        ValueError: the slices of a volume disagree on its maximum or on the number of pixels.
        RunError: a score is NaN or infinite. Only the PSNR of an exact reconstruction may be infinite.
    """
    from fedrecon.sites.imaging.metrics import volume_scores as score

    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def summary(slices: Sequence[Row]) -> Row:
        if not any(row["squared_norm"] for row in slices):
            raise RunError(f"{_named(slices[0])}: its reference is 0 everywhere, so it has no NMSE")
        scores = score(
            np.array([row["squared_error"] for row in slices], np.float64),
            np.array([row["squared_norm"] for row in slices], np.float64),
            np.array([row["ssim"] for row in slices], np.float64),
            float(_same("volume_maximum", slices)),
            int(_same("n_pixels", slices)),
        )
        _check_finite(scores, slices[0])
        measured = float(np.mean([row["measured_acceleration"] for row in slices]))
        return {**scores, "n_slices": len(slices), "measured_acceleration": measured}

    return _grouped(rows, VOLUME, summary)


def site_scores(volumes: Iterable[Row]) -> list[Row]:
    """One row per site, stage, model and operator, with the means over the site's volumes.

    Args:
        volumes: rows of :func:`volume_scores`.

    Returns:
        rows with the keys :data:`SITE`, the three metrics, ``n_volumes``, ``n_slices`` and ``measured_acceleration``
        (mean over slices).
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


def _check_finite(scores: Mapping[str, float], first: Row) -> None:
    for name, value in scores.items():
        exact = name == "psnr" and value == math.inf and scores["nmse"] == 0
        if not (math.isfinite(value) or exact):
            raise RunError(f"{_named(first)}: {name} = {value}; scores must be finite")


def _named(row: Row) -> str:
    return at_site(row["site"], None, f"volume '{row['volume']}', stage {row['stage']}")


DIVERGED = 2.0
"""A mean loss at the end of a training that is so many times the lowest one is of a training that failed."""
STAGE_KEYS = {"output": "", "data_consistency": "with_data_consistency", "zero_filled": "zero_filled"}
"""The JSON key of each stage. The method's own output has no key: its scores stand at the top level."""


def summarise(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Makes ``{"sites": {NAME: scores}, "mean": scores}`` from one row per slice. The mean over sites is unweighted.

    Several networks can reconstruct at one site: at a site that did not train, each hospital's own network does. The
    site's scores are then the unweighted mean over these networks. If the method tells a spread, each has its
    ``coverage`` too, see :func:`fedrecon.platform.federation.coverage.coverage`.
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
    for (site,), covered in coverage(columns).items():
        by_site[site]["coverage"] = covered
    return {"sites": by_site, "mean": _mean(list(by_site.values()))}


def scores_of(columns: Mapping[str, Any]) -> dict[str, float]:
    """The scores of one row per slice by their names in JSON; empty if nothing was scored."""
    return flat_metrics(summarise(columns)) if columns.get("site") else {}


def diverged(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Says that the loss at the end of a training is far above what it had been; empty if it is not.

    Means over a tenth of the rounds are compared, of the members' mean loss: the last one with the lowest one. Fewer
    than ten rounds say nothing.

    Args:
        rounds: rows of ``rounds.parquet``.
    """
    means = [
        fmean(own) for one in rounds if (own := [each["loss"] for each in one["losses"].values() if "loss" in each])
    ]
    if len(means) < 10 or len(means) < len(rounds):
        return ""
    width = len(means) // 10
    parts = [fmean(means[at : at + width]) for at in range(len(means) - width + 1)]
    lowest, last = min(parts), parts[-1]
    if not 0 < lowest < last / DIVERGED:
        return ""
    at = int(rounds[parts.index(lowest)]["round"])
    return (
        f"The training diverged: its mean loss of the last {width} round{'s' * (width > 1)} is {last:.3g}, and it was "
        f"{lowest:.3g} from round {at}. A lower training.learning_rate or training.keep: best may help"
    )


def exact_note(summary: Mapping[str, Any]) -> str:
    """Says at which sites the PSNR is infinite, because a volume is reconstructed without any error; else empty."""
    found = [
        f"{name} ({key})" if key else name
        for name, one in summary["sites"].items()
        for key in STAGE_KEYS.values()
        if (one.get(key, {}) if key else one).get("psnr") == math.inf
    ]
    return f"PSNR is infinite, for an exact reconstruction (no error): {', '.join(found)}" if found else ""


def flat_metrics(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The scores by their names in JSON: ``site/NAME/psnr``, ``mean/psnr``, ``mean/zero_filled/psnr``, ..."""
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
    covered = [one["coverage"] for one in sites if "coverage" in one]
    return total | ({"coverage": mean_coverage(covered)} if covered else {})
