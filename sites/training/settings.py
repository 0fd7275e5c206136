"""What a site must know of an experiment: how to train, how to be scored, and the seed.

Frozen, and free of torch: an experiment is validated with these before anything is started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedrecon.sites.errors import unknown
from fedrecon.sites.plugin import ADDED_LATER, Count, Settings, science_of
from fedrecon.sites.training.losses import BRIGHTNESS, LOSSES

if TYPE_CHECKING:
    pass


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
        loss: a name of ``fedrecon.sites.training.losses``, or ``{NAME: WEIGHT}`` for a sum.
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
    local_steps: Annotated[int | None, ADDED_LATER] = Field(None, ge=1)
    max_slices: Annotated[Count | dict[str, Count] | None, ADDED_LATER] = None
    batch_size: int = Field(4, ge=1)
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    learning_rate: float = Field(0.001, gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "cosine"] = "constant"
    loss: str | dict[str, float] = "l1"
    augment: bool = True
    patch: Annotated[int | None, ADDED_LATER] = Field(None, ge=8)
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
        """What a digest holds."""
        return science_of(self)

    def rate(self, round_number: int) -> float:
        """The learning rate of a round (1 .. rounds)."""
        if self.schedule == "constant":
            return self.learning_rate
        import math

        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (round_number - 1) / max(self.rounds, 1)))
