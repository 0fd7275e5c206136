"""What a site must know of an experiment: its operator, how to train, how to be scored, and the seed.

Frozen, and free of torch: an experiment is validated with these before anything is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedrecon.sites.errors import unknown
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.sites.imaging.masks.mask import Mask
from fedrecon.sites.losses import LOSSES
from fedrecon.sites.plugin import choose

Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """A block of an experiment: frozen, and an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Operator(Settings):
    """How one site measures: k-space = mask * FFT(coil map * image) + noise.

    Attributes:
        mask: the sampling mask family with its parameters, among them the acceleration.
        noise: a multiple (>= 1) of the shard's own noise level. The data holds the noise of its scan already, so
            noise can only be added.
        fixed_mask: one training mask per slice for the whole run instead of a fresh one each epoch.
    """

    mask: Mask
    noise: float = Field(1.0, ge=1.0, allow_inf_nan=False)
    fixed_mask: bool = False

    @classmethod
    def read(cls, block: Mapping[str, Any], where: str = "operator") -> Operator:
        """The operator of a YAML block: ``mask`` (a name), ``noise``, ``fixed_mask``, and the mask's own keys."""
        own = {key: block[key] for key in ("noise", "fixed_mask") if key in block}
        rest = {key: value for key, value in block.items() if key not in ("mask", "noise", "fixed_mask")}
        name = block.get("mask", "random")
        if name in MASKS:
            for key in rest:
                if key not in MASKS[name].model_fields:
                    allowed = [*MASKS[name].model_fields, "mask", "noise", "fixed_mask", "per_site"]
                    raise unknown(f"key in {where} (mask '{name}'):", key, allowed)
        from fedrecon.sites.plugin import parse

        return parse(cls, {"mask": choose("mask", MASKS, str(name), rest), **own}, where=where)

    @staticmethod
    def inherit(base: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
        """``block`` over ``base``; another mask family inherits only the keys that every family has."""
        family = base.get("mask", "random")
        if block.get("mask", family) == family:
            return {**base, **block}
        common = {"per_site", "noise", "fixed_mask", *Mask.model_fields}
        return {**{key: value for key, value in base.items() if key in common}, **block}

    def flat(self) -> dict[str, Any]:
        """The block as it would stand in YAML, with every default written out."""
        names = {family: name for name, family in MASKS.items()}
        own = {"noise": self.noise, "fixed_mask": self.fixed_mask}
        return {"mask": names[type(self.mask)], **self.mask.model_dump(), **own}


class Training(Settings):
    """The local training that every strategy shares.

    Attributes:
        rounds: communication rounds.
        local_epochs: passes over a site's training slices per round.
        local_steps: optimiser steps per round instead, the same at every site, whatever it holds; a pass that a round
            leaves unfinished goes on in the next.
        max_slices: at most so many evenly spaced training slices of each site, or of those sites alone that a mapping
            names; None takes all.
        batch_size: slices per optimiser step.
        optimizer: one of adam, adamw, sgd, rmsprop (torch's, with its defaults).
        learning_rate: at the start; ``schedule`` says how it goes on.
        schedule: ``constant``, or ``cosine``: half a cosine from learning_rate to 0 over the rounds.
        loss: see ``fedrecon.sites.losses``.
        augment: random flips and circular shifts of the fully sampled image, before it is measured.
        precision: bfloat16 runs the network under autocast; FFTs and weights stay float32.
        optimizer_state: ``reset`` makes a fit a pure function of weights, seed, round and private part; ``keep``
            carries the moments over the rounds as private memory; ``auto`` is the strategy's own way.
    """

    rounds: int = Field(10, ge=0)
    local_epochs: int = Field(1, ge=1)
    local_steps: int | None = Field(None, ge=1)
    max_slices: Count | dict[str, Count] | None = None
    batch_size: int = Field(4, ge=1)
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    learning_rate: float = Field(0.001, gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "cosine"] = "constant"
    loss: str = "l1"
    augment: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    optimizer_state: Literal["auto", "reset", "keep"] = "auto"

    @model_validator(mode="after")
    def _loss_exists(self) -> Training:
        if self.loss not in LOSSES:
            raise ValueError(str(unknown("loss", self.loss, LOSSES)))
        return self

    def slices_at(self, site: str) -> int | None:
        """``max_slices`` of one site."""
        return self.max_slices.get(site) if isinstance(self.max_slices, dict) else self.max_slices

    def science(self) -> dict[str, Any]:
        """What a digest holds: keys that came later only where they are set, so that older runs keep theirs."""
        later = ("local_steps", "max_slices")
        return {key: value for key, value in self.model_dump().items() if key not in later or value is not None}

    def rate(self, round_number: int) -> float:
        """The learning rate of a round (1 .. rounds)."""
        if self.schedule == "constant":
            return self.learning_rate
        import math

        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (round_number - 1) / max(self.rounds, 1)))


class Evaluation(Settings):
    """How a site is scored.

    Attributes:
        every: validation scores each that many rounds, and after the last one.
        max_slices: at most so many evenly spaced slices a site and split, or ``{SPLIT: N}``; None takes all.
        mask_seed: validation and test masks follow from (mask_seed, subject, slice) alone.
        panels: draw one slice a site as a picture for MLflow, and of a prior a grid of drawn images with eight training
            slices. It is the only way in which pixels leave a site; false for real consortia that must not.
    """

    every: int = Field(5, ge=1)
    max_slices: Count | dict[Literal["validation", "test"], Count] | None = None
    mask_seed: int = 0
    panels: bool = True

    def slices_of(self, split: str) -> int | None:
        """``max_slices`` of a split."""
        if isinstance(self.max_slices, dict):
            return {str(one): count for one, count in self.max_slices.items()}.get(split)
        return self.max_slices


@dataclass(frozen=True)
class Plan:
    """All that a member of the federation (one site, or the pooled control) is started with.

    Attributes:
        member: its name; a strategy that pools has one member for all sites.
        shards: path of each site's shard that it holds.
        operators: how each of these sites measures.
        method: the strategy (its site hooks).
        network: the network choice; None where nothing is trained.
        reconstructor: a classical method instead of a network, or None.
        images: what the network is built for.
        training, evaluation, seed: of the experiment.
        memory: folder for the private memory, on the member's own node; None keeps nothing.
        memory_source: where another run of the same training keeps it; for a run that takes over that training.
        threads: torch threads.
        sample: training slices to take instead of ``training.max_slices``, for a measurement of the time.
    """

    member: str
    shards: Mapping[str, str]
    operators: Mapping[str, Operator]
    method: Any
    network: Any
    images: Any
    training: Training
    evaluation: Evaluation
    seed: int
    reconstructor: Any = None
    memory: str | None = None
    memory_source: str | None = None
    threads: int = 1
    sample: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
