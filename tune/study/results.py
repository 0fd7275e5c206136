"""The result of a study."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrecon.tune.study.analysis.condition import Condition, Score
from fedrecon.tune.study.campaign import StudyCampaign
from fedrecon.tune.study.scores import missing, scores
from fedrecon.tune.trials.planner import Shape


@dataclass(frozen=True)
class StudyResult:
    """The result of a study. :meth:`as_dict` is the JSON of ``fedrecon study --json``.

    Attributes:
        study: the name of the study.
        status: ``finished``, ``interrupted`` (the same command resumes the study), ``planned`` (a dry run), or
            ``running`` (another process runs the study).
        trainings: the number of distinct trainings. evaluations: the number of trials that train nothing.
        missing: the planned cells without a score, each with its reason.
        cells: one row for each method, training, site, operator and seed, with means over the site's subjects.
        report: the folder with the page.
        url: the address of the study's runs in MLflow; None if this call wrote no outputs. Not in the JSON.
        trials: the (name, status) of each trial, in the plan's order. Not in the JSON.
        marks: the mark of each method; not empty if it moved data or published private parts. Not in the JSON.
        operators: the label of each operator, by mask and acceleration. Not in the JSON.
    """

    study: str
    status: str
    trainings: int
    evaluations: int
    missing: Sequence[Mapping[str, Any]]
    cells: Sequence[Mapping[str, Any]]
    report: Path
    url: str | None = None
    trials: Sequence[tuple[str, str]] = ()
    marks: Mapping[str, str] = field(default_factory=dict)
    operators: Mapping[tuple[str, float], str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The result in JSON types."""
        own = {
            one.name: getattr(self, one.name)
            for one in dataclasses.fields(self)
            if one.name not in ("url", "trials", "marks", "operators")
        }
        return {**own, "missing": list(self.missing), "cells": list(self.cells), "report": str(self.report)}


def study_result(campaign: StudyCampaign, status: str) -> StudyResult:
    """The result of a study in its current state."""
    shape = Shape.of(campaign.matrix.trials)
    several = len({cell.trained_with for cell in campaign.matrix.cells if cell.trained_with}) > 1
    found = scores(campaign)
    cells, lacking = means(found, several), missing(campaign, found)
    lost = [{**one.columns(), "reason": one.reason, "trained_on": _on(one, several)} for one in lacking]
    evaluations = len(campaign.matrix.trials) - shape.trainings
    return StudyResult(
        campaign.chosen.name, status, shape.trainings, evaluations, lost, cells, campaign.report, campaign.url,
        [(row.trial.name, row.status) for row in campaign.trial_table.rows],
        {one.name: one.marks for one in campaign.matrix.methods},
        {(cell.mask, cell.acceleration): cell.operator for cell in campaign.matrix.cells},
    )  # fmt: skip


def means(scores: Sequence[Score], several_operators: bool) -> list[dict[str, Any]]:
    """One row for each method, training, site, operator and seed: the mean scores over the site's subjects.

    Args:
        scores: one entry per subject and cell.
        several_operators: True if trainings have different operators; ``trained_on`` then names the operator too.
    """
    import numpy as np

    found: dict[tuple[Any, ...], list[Score]] = {}
    for one in scores:
        key = (one.method, _on(one, several_operators), one.tested_on, one.mask, one.acceleration, one.noise, one.seed)
        found.setdefault(key, []).append(one)
    names = ("method", "trained_on", "tested_on", "mask", "acceleration", "noise", "seed")
    return [
        {
            **dict(zip(names, key, strict=True)),
            "n_subjects": len(own),
            **{metric: float(np.mean([getattr(one, metric) for one in own])) for metric in ("psnr", "ssim", "nmse")},
        }
        for key, own in found.items()
    ]


def _on(one: Condition, several_operators: bool) -> str:
    """The training sites of a score, and the training operator if trainings have different operators."""
    return f"{one.trained_on} with {one.trained_with}" if several_operators and one.trained_with else one.trained_on
