"""A sweep's file: frozen, validated; loads neither torch, ray nor mlflow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from fedrecon.platform.config.overrides import apply_overrides
from fedrecon.sites.errors import InputError
from fedrecon.sites.plugin import Settings, parse

_METRIC = re.compile(
    r"(mean|site/[^/]+)/((with_data_consistency|zero_filled)/)?(psnr|ssim|nmse)|(mean|site/[^/]+)/loss"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PROBLEM = ("operator", "degradation", "sites", "task", "evaluation")
"""Blocks that say WHAT is reconstructed: a scheduler compares trials only where these are equal."""


class Scheduler(Settings):
    """Stops trials that fall behind others of the same problem (equal :data:`PROBLEM`).

    Attributes:
        name: asha (asynchronous successive halving, Li et al. 2020) or median (Golovin et al. 2017).
        grace_rounds: no trial is stopped before.
        reduction_factor: of ``asha``: one in so many goes on from rung to rung.
        min_trials: of ``median``: so many must have come as far.
    """

    name: Literal["asha", "median"]
    grace_rounds: int = Field(1, ge=1)
    reduction_factor: int = Field(3, ge=2)
    min_trials: int = Field(3, ge=1)


class Budget(Settings):
    """Where a sweep stops; the same command with a larger one goes on.

    Attributes:
        trials: at most so many, in the plan's order. hours: of wall time, of one call.
    """

    trials: int | None = Field(None, ge=1)
    hours: float | None = Field(None, gt=0)


class Sweep(Settings):
    """A sweep.

    Attributes:
        name: of its folder in the workspace and of its tag in MLflow.
        experiment: the base, a YAML file or its content.
        search: what varies, see :mod:`fedrecon.tune.search.space`.
        metric: of the VALIDATION subjects, by its name in MLflow; several with ``algorithm: optuna``.
        mode: ``max`` or ``min``, one for each metric.
        samples: draws for every point of the grid; with ``optuna`` the number of trials.
        algorithm: ``grid`` allows nothing but grids; ``random`` draws the rest; ``optuna`` learns from what it saw.
        scheduler: stops trials early; None runs each to its end.
        concurrency: trials at once; auto packs them on what there is.
        max_failures: how often a failing trial is tried again, from its last committed round.
        seed: of what is drawn. The experiments' own seed is a key of theirs.
    """

    name: str
    experiment: str | dict[str, Any]
    search: dict[str, Any]
    metric: str | list[str]
    mode: str | list[str]
    samples: int = Field(1, ge=1)
    algorithm: Literal["grid", "random", "optuna"] = "random"
    scheduler: Scheduler | None = None
    concurrency: Literal["auto"] | int = "auto"
    max_failures: int = Field(2, ge=0)
    budget: Budget = Budget()
    seed: int = 0

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("letters, digits, '.', '_' and '-' only, as it names a folder")
        return name

    @field_validator("scheduler", mode="before")
    @classmethod
    def _scheduler(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @field_validator("concurrency", mode="before")
    @classmethod
    def _concurrency(cls, given: Any) -> Any:
        if given != "auto" and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
            raise ValueError("'auto' or a whole number of at least 1 is needed")
        return given

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
                    f"'{name}' is no validation metric: mean/psnr, mean/ssim, mean/nmse, mean/loss, "
                    "mean/with_data_consistency/psnr, or site/NAME/ instead of mean/"
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
            raise ValueError("a scheduler compares one metric, and here are several")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics; the first one decides which trial is called best."""
        return (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)

    @property
    def modes(self) -> tuple[str, ...]:
        """A mode for each metric."""
        return (self.mode,) if isinstance(self.mode, str) else tuple(self.mode)

    @classmethod
    def read(cls, given: Any, overrides: Sequence[str] = ()) -> tuple[Sweep, dict[str, Any]]:
        """A sweep from a YAML file or a mapping, and the content of its base experiment.

        Args:
            overrides: ``key=value`` for the sweep, ``experiment.KEY=value`` for the base experiment.

        Raises:
            InputError: a file, a key or a value is wrong; says what is allowed and the nearest right name.
        """
        where = str(given) if isinstance(given, str | Path) else "sweep"
        raw = load(Path(given)) if isinstance(given, str | Path) else given
        if not isinstance(raw, Mapping):
            raise InputError(f"{where}: a mapping of keys is needed, got {type(raw).__name__}")
        base = [text.removeprefix("experiment.") for text in overrides if text.startswith("experiment.")]
        own = [text for text in overrides if not text.startswith("experiment.")]
        sweep = parse(cls, _overridden(dict(raw), own), where=where)
        folder = Path(given).parent if isinstance(given, str | Path) else Path()
        return sweep, apply_overrides(read_base(sweep.experiment, folder), base)


def _overridden(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``search.KEY={grid: [...]}`` is about one dimension, whose key has dots of its own."""
    prefix = "search."
    found = apply_overrides(raw, [text for text in overrides if not text.startswith(prefix)])
    search = dict(found.get("search") or {})
    for text in overrides:
        if text.startswith(prefix):
            key, _, value = text.removeprefix(prefix).partition("=")
            owner = max((one for one in search if key == one or key.startswith(f"{one}.")), key=len, default=key)
            kind = key.removeprefix(owner).removeprefix(".")
            parsed = _parsed(text, value)
            search[owner] = {kind: parsed} if kind else parsed
            found["search"] = search
    return found


def _parsed(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"'{text}': the value is not valid YAML: {error}") from None


def read_base(given: str | dict[str, Any], folder: Path) -> dict[str, Any]:
    """The base; a path counts from the working directory, or else from the folder of the file that names it."""
    if isinstance(given, dict):
        return given
    path = next((one for one in (Path(given), folder / given) if one.is_file()), Path(given))
    content = load(path, "experiment")
    if not isinstance(content, dict):
        raise InputError(f"{path}: a mapping of keys is needed, got {type(content).__name__}")
    return content


def load(path: Path, kind: str = "sweep") -> Any:
    """The content of a YAML file.

    Raises:
        InputError: no such file, or it is not YAML.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such {kind} file")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
