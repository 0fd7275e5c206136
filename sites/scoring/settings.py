"""How a site is scored: a block of an experiment. Loads no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fedrecon.sites.plugin import ADDED_LATER, Count, Settings, science_of

PHANTOM = "phantom"
"""Origin of a shard that was simulated: its images show nobody."""


class Evaluation(Settings):
    """How a site is scored.

    Attributes:
        every: validation scores each that many rounds, and after the last one.
        max_slices: at most so many evenly spaced slices a site and split, or ``{SPLIT: N}``; None takes all.
        mask_seed: validation and test masks follow from (mask_seed, subject, slice) alone.
        self_ensemble: of super-resolution, the mean over the eight turns and flips of the low-resolution image (four
            where it is not square), each reconstructed and turned back: eight times the work.
        panels: draws one slice of each shard as a picture for MLflow, and for a prior a grid of drawn images with eight
            training slices. No other pixels leave a site. ``auto`` draws simulated shards (phantoms) alone; ``true``
            draws every shard, for data that may be shown; ``false`` draws none.
    """

    every: int = Field(5, ge=1)
    max_slices: Count | dict[Literal["validation", "test"], Count] | None = None
    mask_seed: int = 0
    panels: Literal["auto"] | bool = "auto"
    self_ensemble: Annotated[bool, ADDED_LATER] = False

    def science(self) -> dict[str, Any]:
        """What a digest holds. Pictures change no score: ``auto`` counts as ``true``, the first default."""
        return {**science_of(self), "panels": self.panels is not False}

    def draws(self, origin: str) -> bool:
        """Whether pictures of a shard of this origin may leave its site."""
        return origin == PHANTOM if self.panels == "auto" else bool(self.panels)

    def slices_of(self, split: str) -> int | None:
        """``max_slices`` of a split."""
        if isinstance(self.max_slices, dict):
            return {str(one): count for one, count in self.max_slices.items()}.get(split)
        return self.max_slices
