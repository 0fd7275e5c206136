"""The augmentation of training slices: flips, shifts and turns of the fully sampled image, before it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def moved(
    images: Tensor,
    maps: Tensor,
    reference: Tensor | None,
    draws: Sequence[np.random.Generator],
    turns: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """For each slice a random flip per axis and a circular shift of up to a sixteenth of the matrix.

    Images, maps and reference of a slice are moved alike. With ``turns`` square slices are also transposed with
    probability 1/2; together with the flips this gives all turns by 90 degrees.
    """
    moves = [_Move.drawn(rng, images.shape[-2:], turn) for rng, turn in zip(draws, turns, strict=True)]

    def each(stack: Tensor) -> Tensor:
        return torch.stack([move(one) for move, one in zip(moves, stack, strict=True)])

    return each(images), each(maps), None if reference is None else each(reference)


def moved_samples(sampled: Tensor, draws: Sequence[np.random.Generator], turns: Sequence[bool]) -> Tensor:
    """Where the k-space of moved images has samples, if that of the images has them at ``sampled``, (b, y, x) bool.

    A flip of the image mirrors its k-space at DC, and a shift changes its phase alone.

    Args:
        draws, turns: as those of :func:`moved`, and at the same state.
    """
    moves = [_Move.drawn(rng, sampled.shape[-2:], turn) for rng, turn in zip(draws, turns, strict=True)]
    return torch.stack([move.mirrored(one) for move, one in zip(moves, sampled, strict=True)])


@dataclass(frozen=True)
class _Move:
    """One flip, shift and transposition of the last two axes."""

    flips: tuple[int, ...]
    shifts: tuple[int, ...]
    transposed: bool

    @classmethod
    def drawn(cls, rng: np.random.Generator, shape: Sequence[int], turn: bool) -> _Move:
        flips = tuple(axis for axis in (-2, -1) if rng.random() < 0.5)
        shifts = tuple(int(rng.integers(-(n // 16), n // 16 + 1)) for n in shape)
        return cls(flips, shifts, turn and shape[0] == shape[1] and rng.random() < 0.5)

    def __call__(self, image: Tensor) -> Tensor:
        moved = torch.roll(torch.flip(image, self.flips), self.shifts, (-2, -1))
        return moved.mT if self.transposed else moved

    def mirrored(self, sampled: Tensor) -> Tensor:
        """The samples (y, x) of the moved image. DC is at N//2: along an even axis sample 0 is its own mirror image."""
        even = [1 - sampled.shape[axis] % 2 for axis in self.flips]
        found = torch.roll(torch.flip(sampled, self.flips), even, self.flips) if self.flips else sampled
        return found.mT if self.transposed else found
