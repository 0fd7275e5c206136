"""The optimisers of torch, without torch's compiler: a process that compiles nothing does not load it.

Each step of a torch optimiser imports ``torch._dynamo``, only to tell the compiler to keep out. In torch 2.13 that
costs the process of each site 1.7 s of a CPU and 70 MB (docs/decisions/013-start-up.md).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from fedrecon.sites.errors import unknown

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}

COMPILER = "torch._dynamo"


def optimizer(name: str, parameters: Any, rate: float, **options: Any) -> torch.optim.Optimizer:
    """The torch optimiser of this name, with torch's defaults.

    Args:
        name: a key of :data:`OPTIMIZERS`.
        parameters: the tensors to optimise.
        rate: the learning rate.
        options: further arguments of the optimiser.

    Raises:
        InputError: the name is unknown.
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    leave_out_compiler()
    return OPTIMIZERS[name](parameters, lr=rate, **options)  # type: ignore[call-arg]


def leave_out_compiler() -> None:
    """Puts a small module in the place of torch's compiler, until somebody compiles.

    A driver asks for it too: on the device ``meta`` some functions are written in Python, and import the compiler.
    """
    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = torch._dynamo = _NoCompiler(COMPILER)


class _NoCompiler(ModuleType):
    """Stands for torch's compiler until somebody compiles: any other name, such as a submodule, loads the real one."""

    @staticmethod
    def graph_break(message: str = "") -> None:
        """Nothing is traced, so nothing is broken."""

    @staticmethod
    def disable(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        """Nothing is compiled, so the function stays as it is."""
        return function

    def __getattr__(self, name: str) -> Any:
        if name in ("__spec__", "__file__", "__wrapped__"):  # asked of every module, by who looks through all of them
            raise AttributeError(name)
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        return getattr(importlib.import_module(COMPILER), name)
