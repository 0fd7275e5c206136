"""How a site is scored: a block of an experiment. Loads no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fedrecon.sites.plugin import ADDED_LATER, Count, Settings, science_of


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
    self_ensemble: Annotated[bool, ADDED_LATER] = False

    def science(self) -> dict[str, Any]:
        """What a digest holds."""
        return science_of(self)

    def slices_of(self, split: str) -> int | None:
        """``max_slices`` of a split."""
        if isinstance(self.max_slices, dict):
            return {str(one): count for one, count in self.max_slices.items()}.get(split)
        return self.max_slices
