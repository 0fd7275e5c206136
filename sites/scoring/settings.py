"""The block ``evaluation`` of an experiment: how a site is scored. Loads no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fedrecon.sites.plugin import ADDED_LATER, Count, Seed, Settings, science_of

PHANTOM = "phantom"
"""Origin of a shard that was simulated: its images show nobody."""

AGAINST = {"measured": "against the measured reference", "truth": "against the noise-free truth"}
"""What each ``evaluation.reference`` means, for the titles of tables."""


class Evaluation(Settings):
    """How a site is scored.

    Attributes:
        every: number of rounds from one validation to the next; the last round is always validated.
        max_slices: largest number of slices of each site and split, evenly spaced; a mapping ``{SPLIT: N}`` limits the
            named splits only; None takes all slices.
        mask_seed: seed of the validation and test masks, which follow from (mask_seed, subject, slice) alone.
        self_ensemble: True to average over the eight turns and flips of the low-resolution image (four if it is not
            square), for super-resolution only. Each is reconstructed and turned back: eight times the work.
        panels: draws one slice of each shard as a picture for MLflow, and for a prior a grid of drawn images with eight
            training slices. No other pixels leave a site. ``auto`` draws simulated shards (phantoms) alone; ``true``
            draws every shard, for data that may be shown; ``false`` draws none.
        reference: what scores are compared with: ``measured``, the fully sampled scan with its noise, as fastMRI does;
            or ``truth``, the noise-free image, which only phantoms have. A training never sees the truth.
    """

    every: int = Field(5, ge=1, le=10**6)
    max_slices: Count | dict[Literal["validation", "test"], Count] | None = None
    mask_seed: Seed = 0
    panels: Literal["auto"] | bool = "auto"
    self_ensemble: Annotated[bool, ADDED_LATER] = False
    reference: Annotated[Literal["measured", "truth"], ADDED_LATER] = "measured"

    @property
    def against(self) -> str:
        """What scores are compared with, for the titles of tables."""
        return AGAINST[self.reference]

    def science(self) -> dict[str, Any]:
        """What a digest holds. Pictures change no score: ``auto`` counts as ``true``, the first default."""
        return {**science_of(self), "panels": self.panels is not False}

    def selection(self) -> dict[str, Any]:
        """What decides which round is the best."""
        return {**{key: value for key, value in self.science().items() if key != "panels"}, "every": self.every}

    def draws(self, origin: str) -> bool:
        """Whether pictures of a shard of this origin may leave its site."""
        return origin == PHANTOM if self.panels == "auto" else bool(self.panels)

    def slices_of(self, split: str) -> int | None:
        """The value of ``max_slices`` for one split."""
        if isinstance(self.max_slices, dict):
            return {str(one): count for one, count in self.max_slices.items()}.get(split)
        return self.max_slices
