"""What a site must know of an experiment: how to train, how to be scored, and the seed.

Frozen, and free of torch: an experiment is validated with these before anything is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fedrecon.sites.errors import unknown
from fedrecon.sites.losses import BRIGHTNESS, LOSSES

if TYPE_CHECKING:
    from fedrecon.sites.acquisition import Acquisition

Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """A block of an experiment: frozen, and an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
        loss: a name of ``fedrecon.sites.losses``, or ``{NAME: WEIGHT}`` for a sum.
        augment: random flips and circular shifts of the fully sampled image, before it is measured; for
            super-resolution turns by 90 degrees too.
        patch: of super-resolution, train on a random square of so many (high-resolution) pixels a side of each slice;
            None takes whole slices.
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
    loss: str | dict[str, float] = "l1"
    augment: bool = True
    patch: int | None = Field(None, ge=8)
    precision: Literal["float32", "bfloat16"] = "float32"
    optimizer_state: Literal["auto", "reset", "keep"] = "auto"

    @field_validator("loss")
    @classmethod
    def _one_way_to_say_it(cls, loss: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(loss, dict) and list(loss.values()) == [1.0]:
            return next(iter(loss))
        return loss

    @model_validator(mode="after")
    def _loss_exists(self) -> Training:
        weights = {self.loss: 1.0} if isinstance(self.loss, str) else self.loss
        for name, weight in weights.items():
            if name not in LOSSES:
                raise ValueError(str(unknown("loss", name, LOSSES)))
            if not 0 <= weight < float("inf"):
                raise ValueError(f"loss.{name}: a weight of at least 0 is needed, got {weight}")
        if not any(weights.get(name) for name in BRIGHTNESS):
            raise ValueError(
                f"loss: one of {', '.join(BRIGHTNESS)} needs a weight above 0; gradients leave the brightness open"
            )
        return self

    def slices_at(self, site: str) -> int | None:
        """``max_slices`` of one site."""
        return self.max_slices.get(site) if isinstance(self.max_slices, dict) else self.max_slices

    def science(self) -> dict[str, Any]:
        """What a digest holds: keys that came later only where they are set, so that older runs keep theirs."""
        later = ("local_steps", "max_slices", "patch")
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
        self_ensemble: of super-resolution, the mean over the eight turns and flips of the low-resolution image (four
            where it is not square), each reconstructed and turned back: eight times the work.
        panels: draw one slice a site as a picture for MLflow, and of a prior a grid of drawn images with eight training
            slices. It is the only way in which pixels leave a site; false for real consortia that must not.
    """

    every: int = Field(5, ge=1)
    max_slices: Count | dict[Literal["validation", "test"], Count] | None = None
    mask_seed: int = 0
    panels: bool = True
    self_ensemble: bool = False

    def science(self) -> dict[str, Any]:
        """What a digest holds: keys that came later only where they are set, so that older runs keep theirs."""
        return {key: value for key, value in self.model_dump().items() if key != "self_ensemble" or value}

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
    operators: Mapping[str, Acquisition]
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
