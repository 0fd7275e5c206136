"""A study's file: frozen, validated; loads neither torch, ray nor mlflow."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedrecon.platform.config.overrides import apply_overrides
from fedrecon.sites.errors import InputError, unknown
from fedrecon.sites.plugin import Count, Settings, parse
from fedrecon.tune.search.config import load, read_base

Block = dict[str, Any]
Patch = dict[str, Any]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MATRIX = ("sites", "operator", "degradation", "seed", "test", "task", "evaluation")
"""Keys of an experiment that the matrix says, or that must be equal for all, and so no method's."""
ALLOWED = ("evaluation.self_ensemble",)


def _listed(given: Any) -> Any:
    """One block is a list of one."""
    return [given] if isinstance(given, dict) else given


class Trains(Settings):
    """What each method is trained on.

    Attributes:
        sites: ``all``; ``leave-one-out``: all but one, for each; ``each``: every site alone; or lists of names (``all``
            among them).
        operators: how the data are measured in training: keys over the base experiment's; a list of values stands for
            each of them.
        slices: at most so many training slices a site; None takes all.
    """

    sites: Literal["all", "leave-one-out", "each"] | list[Literal["all"] | list[str]] = "all"
    operators: list[Block] = Field([{}], min_length=1)
    slices: list[Count | None] = Field([None], min_length=1)

    _one = field_validator("operators", mode="before")(_listed)

    @field_validator("sites", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        whole = isinstance(given, list) and given and all(isinstance(one, str) and one != "all" for one in given)
        return [given] if whole else given


class Tested(Settings):
    """Where and how what was trained is tested.

    Attributes:
        sites: ``all``, ``trained``, ``untrained``, or names.
        operators: how the data are measured in the test, as for ``train``; None takes each training's own.
        noise: multiples (>= 1) of each shard's own level; None takes what the operators say.
        stage: the score that the report is about: the method's own ``output``, or ``data_consistency``, with the
            measured samples put back.
        unseen: where a site that did not train gets its private part of the network from, if the method has one.
        fine_tune_epochs: of ``unseen: fine-tune``.
    """

    sites: Literal["all", "trained", "untrained"] | list[str] = "all"
    operators: list[Block] | None = Field(None, min_length=1)
    noise: list[float] | None = Field(None, min_length=1)
    stage: Literal["output", "data_consistency"] = "output"
    unseen: Literal["average", "nearest", "fine-tune"] | None = None
    fine_tune_epochs: int | None = Field(None, ge=1)

    _one = field_validator("operators", mode="before")(_listed)


class Study(Settings):
    """A study: methods x trained on x tested on x seeds.

    Attributes:
        name: of its folder in the workspace and of its tag in MLflow. title: of its report; None takes the name.
        experiment: the base, a YAML file or its content.
        methods: by name a patch of the experiment: dotted keys to values. Controls and baselines are methods too.
        seeds_of: by method, in place of ``seeds``: for one that costs much.
        references: methods that all others are compared with; none: the best one without training, and the best one.
        concurrency, max_failures: as of a sweep.
    """

    name: str
    title: str | None = None
    experiment: str | dict[str, Any]
    methods: dict[str, Patch] = Field(min_length=1)
    train: Trains = Trains()
    test: Tested = Tested()
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    seeds_of: dict[str, list[int]] = Field(default_factory=dict)
    references: list[str] = Field(default_factory=list)
    concurrency: Literal["auto"] | Count = "auto"
    max_failures: int = Field(2, ge=0)

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("letters, digits, '.', '_' and '-' only, as it names a folder")
        return name

    @field_validator("methods")
    @classmethod
    def _methods(cls, methods: dict[str, Patch]) -> dict[str, Patch]:
        for name, patch in methods.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{name}': letters, digits, '.', '_' and '-' only, as it names a folder")
            for key in patch:
                if key.split(".")[0] in MATRIX and key not in ALLOWED:
                    raise ValueError(
                        f"{name}: '{key}' is no method's: train, test and seeds say what is varied, and the "
                        "rest of the task is the same for all"
                    )
        return methods

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands there twice")
        return seeds

    @field_validator("seeds_of")
    @classmethod
    def _seeds_of(cls, given: dict[str, list[int]], info: ValidationInfo) -> dict[str, list[int]]:
        for name, seeds in given.items():
            if name not in info.data.get("methods", {name}):
                raise ValueError(str(unknown("method", name, info.data["methods"])))
            if not cls._seeds(seeds):
                raise ValueError(f"{name}: at least one seed is needed")
        return given

    @classmethod
    def read(cls, given: Any, overrides: Sequence[str] = ()) -> tuple[Study, dict[str, Any]]:
        """A study from a YAML file or a mapping, and the content of its base experiment.

        Args:
            overrides: ``key=value`` for the study, ``experiment.KEY=value`` for the base experiment.

        Raises:
            InputError: a file, a key or a value is wrong; says what is allowed and the nearest right name.
        """
        where = str(given) if isinstance(given, str | Path) else "study"
        raw = load(Path(given), "study") if isinstance(given, str | Path) else given
        if not isinstance(raw, Mapping):
            raise InputError(f"{where}: a mapping of keys is needed, got {type(raw).__name__}")
        base = [text.removeprefix("experiment.") for text in overrides if text.startswith("experiment.")]
        own = [text for text in overrides if not text.startswith("experiment.")]
        study = parse(cls, apply_overrides(dict(raw), own), where=where)
        folder = Path(given).parent if isinstance(given, str | Path) else Path()
        return study, apply_overrides(read_base(study.experiment, folder), base)


def expanded(blocks: Sequence[Block]) -> Iterator[Block]:
    """Each block, once for every combination of its listed values: ``{acceleration: [4, 8]}`` is two."""
    for block in blocks:
        keys = [key for key, value in block.items() if isinstance(value, list)]
        for values in itertools.product(*(block[key] for key in keys)):
            yield {**block, **dict(zip(keys, values, strict=True))}
