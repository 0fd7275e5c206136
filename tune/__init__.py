"""Floor 4, what searches many experiments: sweeps over the keys of an experiment, run by Ray Tune.

It imports ``fedrecon.platform`` and the floors below, nothing imports it (the command line names it, see
``COMMANDS`` there), and ``ray.tune`` is imported here alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrecon.tune.driver import SweepResult, sweep

__all__ = ["SweepResult", "sweep"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        import importlib

        return getattr(importlib.import_module("fedrecon.tune.driver"), name)
    raise AttributeError(f"module 'fedrecon.tune' has no attribute {name!r}")
