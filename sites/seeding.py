"""Randomness is an argument: every generator is made from what it is for, never from a global state."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts, the same on every machine and in every process.

    ``seed(experiment_seed, "fit", round, site)``: parts are typed and delimited, so ``(1, "2")`` and ``("1", 2)``
    differ and no two sequences of parts run together.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator for the parts."""
    return np.random.Generator(np.random.PCG64(seed(*parts)))


def torch_generator(*parts: int | str) -> torch.Generator:
    """A torch generator on the CPU for the parts: draw there and move, so that a device changes no draw."""
    import torch

    return torch.Generator().manual_seed(seed(*parts))
