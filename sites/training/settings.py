"""The block ``training`` of an experiment: how a site trains.

It is frozen and loads no torch: an experiment is validated with it before anything starts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from fedrecon.sites.errors import RefusedValueError, unknown
from fedrecon.sites.plugin import ADDED_LATER, Count, Settings, Weight, science_of
from fedrecon.sites.training.losses import BRIGHTNESS, LOSSES
from fedrecon.sites.training.splitting import SSDU, Splitting


class Training(Settings):
    """The local training that every strategy shares.

    Attributes:
        rounds: number of communication rounds.
        local_epochs: number of passes over a site's training slices per round.
        local_steps: number of optimiser steps per round, in place of ``local_epochs``. It is the same at every site,
            for any number of slices. A pass that is not finished at the end of a round continues in the next round.
        max_slices: largest number of training slices of each site, evenly spaced; a mapping ``{SITE: N}`` limits the
            named sites only; None takes all slices.
        batch_size: number of slices per optimiser step.
        optimizer: one of adam, adamw, sgd, rmsprop (torch's optimisers with their defaults).
        learning_rate: learning rate of the first round; ``schedule`` gives the later rates.
        schedule: ``constant``, or ``cosine``: half a cosine from learning_rate towards 0 over the rounds.
        loss: a name in ``fedrecon.sites.training.losses``, or ``{NAME: WEIGHT}`` for a weighted sum. ``ssdu`` needs no
            fully sampled reference; it stands alone, without ``augment``.
        ssdu: how the measured samples are split, with ``loss: ssdu`` only: ``ratio`` and ``selection``.
        augment: True for random flips and circular shifts of the fully sampled image before it is measured, and for
            super-resolution also turns by 90 degrees.
        patch: side, in high-resolution pixels, of the random square of each slice to train on, for super-resolution
            only; None takes whole slices.
        precision: ``float32``, or ``bfloat16`` to run the network under autocast; FFTs and weights stay float32.
        optimizer_state: ``reset`` makes a fit a pure function of weights, seed, round and private part. ``keep``
            carries the optimiser's moments from round to round as private memory. ``auto`` takes the default of the
            strategy.
        keep: the round whose state is tested, exported and applied: the ``last`` one, or the ``best`` one by the mean
            over the sites of the validation PSNR of the method's output. The first of equals is the best. With
            ``start`` the weights that the training begins with are a candidate, as round 0.
        patience: number of validations in a row without a better one after which the training ends; None trains all
            rounds.
        start: a finished run of the same network, whose weights the training begins with; its digest enters this one's.
            None begins with new weights, from the seed.
    """

    rounds: int = Field(10, ge=0, le=10**6)
    local_epochs: int = Field(1, ge=1, le=10**6)
    local_steps: Annotated[int | None, ADDED_LATER] = Field(None, ge=1, le=10**9)
    max_slices: Annotated[Count | dict[str, Count] | None, ADDED_LATER] = None
    batch_size: int = Field(4, ge=1, le=10**6)
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    learning_rate: float = Field(0.001, gt=0, le=1000)
    schedule: Literal["constant", "cosine"] = "constant"
    loss: str | dict[str, Weight] = "l1"
    ssdu: Annotated[Splitting | None, ADDED_LATER] = Field(None, validate_default=True)
    augment: bool = True
    patch: Annotated[int | None, ADDED_LATER] = Field(None, ge=8, le=4096)
    precision: Literal["float32", "bfloat16"] = "float32"
    optimizer_state: Literal["auto", "reset", "keep"] = "auto"
    keep: Annotated[Literal["last", "best"], ADDED_LATER] = "last"
    patience: Annotated[int | None, ADDED_LATER] = Field(None, ge=1, le=10**6)
    start: Annotated[str | None, ADDED_LATER] = Field(None, min_length=1, max_length=64)

    @field_validator("loss")
    @classmethod
    def _plain_name(cls, loss: str | dict[str, float]) -> str | dict[str, float]:
        """``{NAME: 1}`` becomes ``NAME``, so that one loss has one digest."""
        if isinstance(loss, dict) and list(loss.values()) == [1.0]:
            return next(iter(loss))
        return loss

    @field_validator("ssdu")
    @classmethod
    def _with_its_loss(cls, given: Splitting | None, info: ValidationInfo) -> Splitting | None:
        """The loss always has its settings, so that the digest holds them; another loss has none."""
        loss = info.data.get("loss", ())
        if loss == SSDU or (isinstance(loss, dict) and SSDU in loss):
            return given or Splitting()
        if given is not None and "loss" in info.data:
            raise ValueError("only loss: ssdu splits the measured samples; set it, or remove this key (ssdu=null)")
        return None

    @model_validator(mode="after")
    def _loss_exists(self) -> Training:
        weights = {self.loss: 1.0} if isinstance(self.loss, str) else self.loss
        for name in weights:
            if name not in LOSSES:
                raise RefusedValueError(unknown("loss", name, LOSSES))
        if not any(weights.get(name) for name in BRIGHTNESS):
            raise ValueError(
                f"loss: one of {', '.join(BRIGHTNESS)} needs a weight above 0: other losses do not fix the brightness"
            )
        if self.ssdu is not None and len(weights) > 1:
            raise ValueError("loss: ssdu stands alone: every other loss needs a fully sampled reference")
        if self.ssdu is not None and self.augment:
            raise ValueError("augment: moves fully sampled images, which loss: ssdu does not have; set augment=false")
        return self

    @property
    def selects(self) -> bool:
        """Whether validation scores decide what is trained, or which round is kept."""
        return self.keep == "best" or self.patience is not None

    @property
    def scores_start(self) -> bool:
        """Whether the weights that the training begins with are validated, because they may stay the best."""
        return self.start is not None and self.selects and self.rounds > 0

    def slices_at(self, site: str) -> int | None:
        """The value of ``max_slices`` for one site."""
        return self.max_slices.get(site) if isinstance(self.max_slices, dict) else self.max_slices

    def of(self, default: str) -> Training:
        """These settings for a strategy whose ``auto`` of ``optimizer_state`` is ``default``."""
        return self.model_copy(update={"optimizer_state": default}) if self.optimizer_state == "auto" else self

    def science(self) -> dict[str, Any]:
        """The values that enter a digest.

        ``ssdu`` once compared samples that a zero-padded scan has not, its coil maps had another noise than the
        measured samples, and its calibration boxes could hold samples that were not measured. So this loss, and no
        other, has digests of its own since then. ``local_epochs`` means nothing beside ``local_steps``, and enters with
        its default.
        """
        acting = self.model_copy(update={"local_epochs": 1}) if self.local_steps is not None else self
        return science_of(acting) | ({"ssdu_samples": "measured"} if self.ssdu is not None else {})

    def rate(self, round_number: int) -> float:
        """The learning rate of a round (1 .. rounds)."""
        if self.schedule == "constant":
            return self.learning_rate
        import math

        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (round_number - 1) / max(self.rounds, 1)))
