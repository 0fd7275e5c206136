"""The file of a study, as frozen and validated settings. The import loads no torch, ray or mlflow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from fedrecon.sites.errors import RefusedValueError, unknown
from fedrecon.sites.plugin import Count, Seed, Settings
from fedrecon.tune.search.config import MAX_TRIALS, NAME, CampaignSettings, read_campaign

Block = dict[str, Any]
Patch = dict[str, Any]
Level = Annotated[float, Field(ge=1, le=1000)]
"""A noise level as a multiple of a shard's own, as in an operator."""

MATRIX = ("sites", "operator", "degradation", "seed", "test", "task", "evaluation")
"""Keys of an experiment that a method cannot set: the study varies them, or they must be equal for all methods."""
Searchable = Literal["training.learning_rate", "training.schedule"]
"""Keys whose best values differ by method: each twin may have its own. Neither changes the number of updates."""
ALLOWED = ("evaluation.self_ensemble",)
"""Exceptions to :data:`MATRIX`: keys that a method can set."""


def _listed(given: Any) -> Any:
    """A list of blocks; a single block becomes a list with one entry."""
    return [given] if isinstance(given, dict) else given


class Trains(Settings):
    """The trainings of each method.

    Attributes:
        sites: ``all``: one training at all sites; ``leave-one-out``: for each site, a training at all other sites;
            ``each``: for each site, a training at this site alone; a list of site names: one training at these sites;
            or a list whose entries are ``all`` or lists of site names: one training for each entry.
        operators: the operators of the training, each as keys that change the base experiment's operator. A list of
            values gives one operator per value.
        slices: the largest number of training slices per site; None takes all slices.
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
    """The sites and operators of the tests.

    Attributes:
        sites: the tested sites: ``all``, ``trained``, ``untrained``, or a list of names.
        operators: the operators of the test, as in :class:`Trains`; None takes the operator of each training.
        noise: noise levels as multiples (>= 1) of each shard's own level; None takes the noise of the operators.
        stage: the image that the report scores: ``output`` is the method's own output; ``data_consistency`` is the
            output with the measured samples put back.
        unseen: the rule that gives an untrained site its private part of the network; only for methods with private
            parts. None: no rule.
        fine_tune_epochs: the number of epochs for ``unseen: fine-tune``.
    """

    sites: Literal["all", "trained", "untrained"] | list[str] = "all"
    operators: list[Block] | None = Field(None, min_length=1)
    noise: list[Level] | None = Field(None, min_length=1)
    stage: Literal["output", "data_consistency"] = "output"
    unseen: Literal["average", "nearest", "fine-tune"] | None = None
    fine_tune_epochs: int | None = Field(None, ge=1, le=10**6)

    _one = field_validator("operators", mode="before")(_listed)


class Study(CampaignSettings):
    """A study: methods x trained on x tested on x seeds. See also :class:`CampaignSettings`.

    Attributes:
        title: the title of the report; None takes the name.
        methods: for each method name a patch of the base experiment, from dotted keys to values. Controls and
            baselines are methods too.
        train, test: the trainings and the tests. seeds: the seeds of each training.
        seeds_of: for a method name its seeds, instead of ``seeds``; useful for an expensive method.
        searched: keys of the training that were searched for each method on validation subjects; twins may differ in
            them.
        references: the methods with which all others are compared. An empty list takes the best method without
            training and the best method.
    """

    title: str | None = None
    methods: dict[str, Patch] = Field(min_length=1)
    train: Trains = Trains()
    test: Tested = Tested()
    seeds: list[Seed] = Field(default_factory=lambda: [0], min_length=1)
    seeds_of: dict[str, list[Seed]] = Field(default_factory=dict)
    searched: list[Searchable] = Field(default_factory=list)
    references: list[str] = Field(default_factory=list)

    @field_validator("methods")
    @classmethod
    def _methods(cls, methods: dict[str, Patch]) -> dict[str, Patch]:
        for name, patch in methods.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"'{name}': letters, digits, '.', '_' and '-' only, as it names a folder")
            for key in patch:
                if key.split(".")[0] in MATRIX and key not in ALLOWED:
                    raise ValueError(
                        f"{name}: a method cannot set '{key}': the study's train, test and seeds vary the task, and "
                        "all other settings of the task are the same for all methods"
                    )
        return methods

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds

    @field_validator("seeds_of")
    @classmethod
    def _seeds_of(cls, given: dict[str, list[int]], info: ValidationInfo) -> dict[str, list[int]]:
        for name, seeds in given.items():
            if name not in info.data.get("methods", {name}):
                raise RefusedValueError(unknown("method", name, info.data["methods"]))
            if not cls._seeds(seeds):
                raise ValueError(f"{name}: at least one seed is needed")
        return given

    @model_validator(mode="after")
    def _fits(self) -> Study:
        seeds = sum(len(self.seeds_of.get(name, self.seeds)) for name in self.methods)
        cells = seeds * _count(self.train.operators) * len(self.train.slices)
        cells *= _count(self.test.operators or [{}]) * len(self.test.noise or [1])
        if cells > MAX_TRIALS:
            raise ValueError(f"methods x seeds x train x test make {cells} cells; more than {MAX_TRIALS} are refused")
        return self

    @classmethod
    def read(cls, given: Any, overrides: Sequence[str] = ()) -> tuple[Study, dict[str, Any]]:
        """Reads a study from a YAML file or a mapping. Returns it with the content of its base experiment.

        Args:
            given: the file, or its content as a mapping.
            overrides: ``key=value`` changes the study, ``experiment.KEY=value`` changes the base experiment.

        Raises:
            InputError: a file, a key or a value is wrong; the message names what is allowed and the nearest right name.
        """
        return read_campaign(cls, "study", given, overrides)


def _count(blocks: Sequence[Block]) -> int:
    """The number of blocks that :func:`expanded` yields."""
    return sum(math.prod(len(value) for value in block.values() if isinstance(value, list)) for block in blocks)


def expanded(blocks: Sequence[Block]) -> Iterator[Block]:
    """Yields each block once for every combination of its listed values.

    ``{acceleration: [4, 8]}`` gives two blocks.
    """
    for block in blocks:
        keys = [key for key, value in block.items() if isinstance(value, list)]
        for values in itertools.product(*(block[key] for key in keys)):
            yield {**block, **dict(zip(keys, values, strict=True))}
