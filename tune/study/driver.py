"""A study from its description to its report: planned as a matrix, run as a sweep is, resumed, written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fedrecon.platform.workspace import default_workspace
from fedrecon.sites.errors import unknown
from fedrecon.tune.campaign import Campaign, Rerun, say
from fedrecon.tune.plan import Planner, Shape, absolute
from fedrecon.tune.spec import Sweep
from fedrecon.tune.study.findings import Missing, Score
from fedrecon.tune.study.plan import Cell, Matrix
from fedrecon.tune.study.spec import Study

FOLDER = "studies"


@dataclass(frozen=True)
class StudyResult:
    """What a study came to; :meth:`as_dict` is the JSON of ``fedrecon study --json``.

    Attributes:
        status: ``finished``, ``interrupted`` (the same command goes on), ``planned`` (a dry run), or ``running``.
        trainings: distinct ones. evaluations: trials that train nothing.
        missing: planned cells without a score, each with its reason.
        cells: one for each method, training, site, operator and seed: means over the site's subjects.
        report: the folder with the page. url: of the study's runs in MLflow.
        trials: by name and status, in the plan's order. marks: of methods that moved data or published private parts.
        operators: in words, by mask and acceleration. These three are no part of the JSON.
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
        """JSON types."""
        own = {
            one.name: getattr(self, one.name)
            for one in dataclasses.fields(self)
            if one.name not in ("url", "trials", "marks", "operators")
        }
        return {**own, "missing": list(self.missing), "cells": list(self.cells), "report": str(self.report)}


def study(
    file: Any,
    overrides: Sequence[str] = (),
    *,
    workspace: Path | str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
    rerun: Rerun = False,
    dry_run: bool = False,
) -> StudyResult:
    """Runs a study, or goes on where it was interrupted, or writes its report again if it is finished.

    Args:
        file: a study's YAML file, or its content.
        overrides: ``key=value`` of the study, ``experiment.KEY=value`` of the base experiment.
        workspace: default FEDRECON_WORKSPACE or ./workspace.
        address: of a running Ray cluster; None starts one on this machine.
        tracking_uri: of an MLflow server; None takes MLFLOW_TRACKING_URI or the workspace's mlflow.db.
        rerun: run every trial again, though the workspace holds it; ``"failed"``: those that failed.
        dry_run: plan only.

    Raises:
        InputError: the study, an experiment of it, or its data is wrong; nothing was started.
        RunError: the cluster cannot hold a trial; a failing trial is no error, but a missing cell.
    """
    chosen, base = Study.read(file, overrides)
    place = Path(workspace) if workspace else default_workspace()
    one = StudyCampaign(chosen, base, place, address, tracking_uri, rerun)
    return one.result("planned" if not one.go(dry_run) else one.status())


def seen(name: str, workspace: Path, address: str | None = None) -> StudyResult:
    """A study of a workspace as it stands, running or not.

    Args:
        address: of a cluster, where its nodes hold shards.

    Raises:
        InputError: no such study; says which there are.
    """
    folder = workspace.resolve() / FOLDER / name
    if not (folder / "study.yaml").is_file():
        raise unknown("study", name, sorted(path.parent.name for path in folder.parent.glob("*/study.yaml")))
    chosen, base = Study.read(folder / "study.yaml")
    one = StudyCampaign(chosen, base, workspace, address, None, rerun=False)
    return one.result("running" if one.look() else one.status())


class StudyCampaign(Campaign):
    """The steps of one call."""

    ranks = False

    def __init__(
        self,
        chosen: Study,
        base: dict[str, Any],
        workspace: Path,
        address: str | None,
        tracking_uri: str | None,
        rerun: Rerun,
    ) -> None:
        packed = {"crew": "auto", **(base["resources"] if isinstance(base.get("resources"), dict) else {})}
        runs = Sweep(
            name=chosen.name,
            experiment={},
            search={},
            metric="mean/psnr",
            mode="max",
            algorithm="grid",
            concurrency=chosen.concurrency,
            max_failures=chosen.max_failures,
        )
        planner = Planner(runs, {**base, "resources": packed}, (), address)
        super().__init__(planner, FOLDER, workspace, address, tracking_uri, rerun)
        self.chosen, self.base = chosen, base

    @cached_property
    def matrix(self) -> Matrix:
        """What is to be filled."""
        return Matrix(self.chosen, self.planner.base, self.planner).plan()

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.board.folder / "report"

    def fill(self) -> None:
        """One row for each trial that some cell needs, and for each training."""
        for trial in self.matrix.trials:
            self.board.add(trial)

    def announce(self) -> None:
        """What is planned, and roughly how long it takes."""
        trials = self.matrix.trials
        shape, done = Shape.of(trials), len(trials) - self.board.count("WAITING")
        parts = [
            f"{len(self.chosen.methods)} methods, {len(self.matrix.cells)} cells",
            f"{shape.trainings} trainings of {shape.rounds} rounds in all",
            f"{len(trials) - shape.trainings} evaluations",
        ]
        if done and self.rerun is not True:
            parts.append(f"{done} of these {len(trials)} done already")
        say(f"{self.chosen.name}: {', '.join(parts)}{self.duration()}")

    def content(self) -> tuple[str, dict[str, Any]]:
        """The study's own file, in its folder."""
        return "study.yaml", {**self.chosen.model_dump(mode="json"), "experiment": absolute(self.base)}

    def tags(self, number: int) -> dict[str, str]:
        """Of a trial's run."""
        return {"fedrecon.study": self.chosen.name, f"fedrecon.study.{self.chosen.name}": str(number)}

    def conclude(self, call: Any) -> None:
        """Writes the data set and the report."""
        from fedrecon.tune.study.conclude import conclude

        self.url = conclude(self, call)

    def reasons(self) -> dict[str, str]:
        """Why a trial, by its digest, has no scores; nothing where it has."""
        return {
            row.trial.digest: row.error
            or ("not run yet" if row.status in ("WAITING", "RUNNING") else row.status.lower())
            for row in self.board.rows
            if row.status != "FINISHED"
        }

    def missing(self) -> list[Missing]:
        """The cells whose trial has no result."""
        reasons = self.reasons()
        return [_missing(cell, reasons[cell.digest]) for cell in self.matrix.cells if cell.digest in reasons]

    def result(self, status: str) -> StudyResult:
        """What it came to."""
        from fedrecon.tune.study.conclude import scores

        shape = Shape.of(self.matrix.trials)
        several = len({cell.learned.trained_with for cell in self.matrix.cells if cell.learned.trained_with}) > 1
        cells = means(scores(self), several)
        missing = [{**dataclasses.asdict(one), "trained_on": _on(one, several)} for one in self.missing()]
        evaluations = len(self.matrix.trials) - shape.trainings
        return StudyResult(
            self.chosen.name, status, shape.trainings, evaluations, missing, cells, self.report, self.url,
            [(row.trial.name, row.status) for row in self.board.rows],
            {one.name: one.label.removeprefix(one.name) for one in self.matrix.methods},
            {(cell.mask, cell.acceleration): cell.operator for cell in self.matrix.cells},
        )  # fmt: skip


def means(scores: Sequence[Score], several_operators: bool) -> list[dict[str, Any]]:
    """A row for each method, training, site, operator and seed: the mean over its subjects.

    Args:
        several_operators: trainings differ in their operator too, which ``trained_on`` then tells.
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


def _on(one: Score | Missing, several_operators: bool) -> str:
    """What it was trained on, and with which operator where trainings differ in that."""
    return f"{one.trained_on} with {one.trained_with}" if several_operators and one.trained_with else one.trained_on


def _missing(cell: Cell, reason: str) -> Missing:
    one = cell.learned
    return Missing(
        method=one.method, trained_on=one.trained_on, trained_with=one.trained_with, n_sites=one.n_sites,
        seed=one.seed, tested_on=cell.tested_on, mask=cell.mask, acceleration=cell.acceleration,
        operator=cell.operator, noise=cell.noise, seen_site=cell.seen_site, seen_operator=cell.seen_operator,
        reason=reason,
    )  # fmt: skip


__all__ = ["Study", "StudyResult", "seen", "study"]
