"""Seeds and random generators. Each is made from its purpose (seed, task, round, site), never from a global state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts, the same on every machine and in every process.

    Example: ``seed(experiment_seed, "fit", round, site)``. The type of each part and the border between parts count,
    so ``(1, "2")``, ``("1", 2)`` and ``("12",)`` give three different seeds.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator for the parts."""
    return np.random.Generator(np.random.PCG64(seed(*parts)))


def torch_generator(*parts: int | str) -> torch.Generator:
    """A torch generator on the CPU for the parts. Draw there and move the result: every device gets the same draw."""
    import torch

    return torch.Generator().manual_seed(seed(*parts))


@contextmanager
def seeded(device: torch.device, *parts: int | str) -> Iterator[None]:
    """Runs the body with torch's own generators, of the CPU and of ``device``, at the seed of the parts.

    A layer such as dropout draws from these alone. They are put back at the end, so nobody else sees the draws.
    """
    import torch

    number, devices = seed(*parts), [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(number)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


def same_draws(device: torch.device) -> Callable[[], None]:
    """A call that puts torch's own generators, of the CPU and of ``device``, back to where they are now.

    Two networks then draw the same (dropout).
    """
    import torch

    state = torch.get_rng_state()
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def again() -> None:
        torch.set_rng_state(state)
        if own is not None:
            torch.cuda.set_rng_state(own, device)

    return again
