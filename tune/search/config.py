"""The settings of a sweep's file, validated and frozen. The import loads no torch, ray or mlflow."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from fedrecon.platform.config.overrides import apply_overrides
from fedrecon.platform.config.plugins import embedded
from fedrecon.platform.config.yaml_text import read_yaml, read_yaml_file
from fedrecon.sites.errors import InputError, brief
from fedrecon.sites.plugin import Count, Seed, Settings, parse

_METRIC = re.compile(
    r"(mean|site/[^/]+)/((with_data_consistency|zero_filled)/)?(psnr|ssim|nmse)|(mean|site/[^/]+)/loss"
)
_OTHER_LOSS = ("training.loss", "strategy", "strategy.name")
"""Searched keys whose values train on losses that cannot be compared."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_TRIALS = 100_000
"""The largest number of trials of a sweep, and of cells of a study. More are refused before they are made."""
PROBLEM = ("operator", "degradation", "sites", "task", "evaluation")
"""The blocks that say WHAT is reconstructed. A scheduler compares only trials with equal values in these blocks."""


class Scheduler(Settings):
    """Stops trials that are worse than others of the same problem (equal values in the blocks of :data:`PROBLEM`).

    Attributes:
        name: ``asha`` (asynchronous successive halving, Li et al. 2020) or ``median`` (Golovin et al. 2017).
        grace_rounds: the first round after which a trial may be stopped.
        reduction_factor: for ``asha``, the factor k: at each rung the best 1/k of the trials go on.
        min_trials: for ``median``, the number of other trials that must have reached a round before it stops a trial.
    """

    name: Literal["asha", "median"]
    grace_rounds: int = Field(1, ge=1, le=10**6)
    reduction_factor: int = Field(3, ge=2, le=10**6)
    min_trials: int = Field(3, ge=1, le=10**6)


class Budget(Settings):
    """The limits of a sweep. The same command with a larger budget goes on.

    Attributes:
        trials: the largest number of trials, in the plan's order; None is no limit.
        hours: the wall time of one call; None is no limit.
    """

    trials: int | None = Field(None, ge=1, le=10**6)
    hours: float | None = Field(None, gt=0, le=10**6)


class CampaignSettings(Settings):
    """The settings that a sweep and a study share.

    Attributes:
        name: the name of the campaign's folder in the workspace and of its tag in MLflow.
        experiment: the base experiment: the path of a YAML file, or its content.
        concurrency: the number of trials at once; ``auto`` runs as many as the cluster holds.
        max_failures: the number of times that a failed trial starts again, from its last committed round.
    """

    name: str
    experiment: str | dict[str, Any]
    concurrency: Literal["auto"] | Count = "auto"
    max_failures: int = Field(2, ge=0, le=10**6)

    @field_validator("name")
    @classmethod
    def _folder(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("only letters, digits, '.', '_' and '-' are allowed, as it names a folder")
        return name


class Sweep(CampaignSettings):
    """The settings of a sweep, beside those of :class:`CampaignSettings`.

    Attributes:
        search: the searched keys, each with its values, see :mod:`fedrecon.tune.search.space`.
        metric: the metric of the VALIDATION subjects, by its name in JSON, which is ``validation/`` and this name in
            MLflow; several need ``algorithm: optuna``.
            ``mean/loss`` is that of the training.
        mode: ``max`` or ``min``, one for each metric.
        samples: the number of draws for every point of the grid; with ``optuna`` the number of trials.
        algorithm: ``grid`` allows only grids; ``random`` allows grids and draws the other values; ``optuna`` suggests
            values from the results of earlier trials.
        scheduler: the settings of early stopping; None (or ``none``) runs each trial to its end.
        budget: the limits of the sweep.
        seed: the seed of the drawn values. The seed of an experiment is the experiment's own key.
    """

    search: dict[str, Any]
    metric: str | list[str]
    mode: str | list[str]
    samples: int = Field(1, ge=1, le=10**6)
    algorithm: Literal["grid", "random", "optuna"] = "random"
    scheduler: Scheduler | None = None
    budget: Budget = Budget()
    seed: Seed = 0

    @field_validator("scheduler", mode="before")
    @classmethod
    def _scheduler(cls, given: Any) -> Any:
        if given == "none":
            return None
        return {"name": given} if isinstance(given, str) else given

    @field_validator("mode")
    @classmethod
    def _mode(cls, given: str | list[str]) -> str | list[str]:
        for one in [given] if isinstance(given, str) else given:
            if one not in ("max", "min"):
                raise ValueError(f"'{one}' is neither 'max' nor 'min'")
        return given

    @field_validator("metric")
    @classmethod
    def _metric(cls, given: str | list[str]) -> str | list[str]:
        for name in [given] if isinstance(given, str) else given:
            if name.startswith("test/"):
                raise ValueError(f"'{name}': test subjects are scored once, at the end, and never steer a sweep")
            if not _METRIC.fullmatch(name):
                raise ValueError(
                    f"'{name}' is no validation metric: mean/psnr, mean/ssim, mean/nmse, "
                    "mean/with_data_consistency/psnr, or site/NAME/ instead of mean/ (and mean/loss, of the training)"
                )
        if not given:
            raise ValueError("at least one metric is needed")
        return given

    @model_validator(mode="after")
    def _agree(self) -> Sweep:
        if len(self.metrics) != len(self.modes):
            raise ValueError(f"{len(self.metrics)} metrics and {len(self.modes)} modes: one mode for each is needed")
        if len(self.metrics) > 1 and self.algorithm != "optuna":
            raise ValueError(f"several metrics are for algorithm: optuna, not '{self.algorithm}'")
        if len(self.metrics) > 1 and self.scheduler is not None:
            raise ValueError("a scheduler compares one metric, but several are given")
        other = [key for key in self.search if key in _OTHER_LOSS]
        if other and any(metric.endswith("/loss") for metric in self.metrics):
            raise ValueError(
                f"metric: a loss is that of each trial's own training, and {', '.join(other)} makes another measure of "
                "it; choose mean/psnr, mean/ssim or mean/nmse"
            )
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics. The first one decides which trial is the best."""
        return (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)

    @property
    def modes(self) -> tuple[str, ...]:
        """The mode of each metric: ``max`` or ``min``."""
        return (self.mode,) if isinstance(self.mode, str) else tuple(self.mode)

    @classmethod
    def read(cls, given: Any, overrides: Sequence[str] = ()) -> tuple[Sweep, dict[str, Any]]:
        """Reads a sweep.

        Args:
            given: the path of a YAML file, or its content.
            overrides: ``key=value`` changes the sweep, ``experiment.KEY=value`` changes the base experiment.

        Returns:
            the sweep, and the content of its base experiment.

        Raises:
            InputError: a file, a key or a value is wrong; the message says what is allowed and the nearest right name.
        """
        return read_campaign(cls, "sweep", given, overrides, _overridden)


C = TypeVar("C", bound=CampaignSettings)


def read_campaign(
    settings: type[C],
    kind: str,
    given: Any,
    overrides: Sequence[str],
    apply: Callable[[dict[str, Any], Sequence[str]], dict[str, Any]] = apply_overrides,
) -> tuple[C, dict[str, Any]]:
    """Reads a sweep or a study: settings with the key ``experiment``. See :meth:`Sweep.read`.

    Args:
        kind: ``sweep`` or ``study``, for messages.
        apply: a function that applies overrides to the content.
    """
    path = Path(given) if isinstance(given, str | Path) else None
    where = kind if path is None else str(path)
    raw = given if path is None else read_yaml_file(path, kind)
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: a mapping of keys is needed, got {type(raw).__name__}")
    base = [text.removeprefix("experiment.") for text in overrides if text.startswith("experiment.")]
    own = [text for text in overrides if not text.startswith("experiment.")]
    chosen = parse(settings, apply(dict(raw), own), where=where)
    folder = Path() if path is None else path.parent
    return chosen, dict(embedded(apply_overrides(read_base(chosen.experiment, folder), base), Path(), where))


def _overridden(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The content of a sweep's file with the overrides.

    ``search.KEY={grid: [...]}`` and ``search.KEY.grid=[...]`` replace one dimension. KEY itself contains dots.
    """
    prefix = "search."
    found = apply_overrides(raw, [text for text in overrides if not text.startswith(prefix)])
    given = found.get("search") or {}
    search = dict(given) if isinstance(given, dict) else {}
    for text in overrides:
        if text.startswith(prefix):
            key, _, value = text.removeprefix(prefix).partition("=")
            owner = max((one for one in search if key == one or key.startswith(f"{one}.")), key=len, default=key)
            kind = key.removeprefix(owner).removeprefix(".")
            parsed = read_yaml(value, brief(text))
            search[owner] = {kind: parsed} if kind else parsed
            found["search"] = search
    return found


def read_base(given: str | dict[str, Any], folder: Path) -> dict[str, Any]:
    """The content of the base experiment.

    Args:
        given: the content, or the path of a YAML file. The path is relative to the working directory, or else to
            ``folder``.
        folder: the folder of the file that names the path.

    Raises:
        InputError: see :func:`read_yaml_file`; the content is no mapping, or it names a plug-in that is refused.
    """
    if isinstance(given, dict):
        return dict(embedded(given, folder, "experiment"))
    path = next((one for one in (Path(given), folder / given) if one.is_file()), Path(given))
    content = read_yaml_file(path, "experiment")
    if not isinstance(content, dict):
        raise InputError(f"{path}: a mapping of keys is needed, got {type(content).__name__}")
    return dict(embedded(content, path.parent, str(path)))
