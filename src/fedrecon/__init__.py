"""fedrecon: federated MR image reconstruction experiments on Ray, browsed in MLflow.

Importing the package is cheap: torch, ray and mlflow are loaded by the call that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrecon.platform.experiment import Experiment
    from fedrecon.platform.run import Result, run

__version__ = "0.1.0"
__all__ = ["Experiment", "Result", "__version__", "run"]


def __getattr__(name: str) -> Any:
    if name == "Experiment":
        from fedrecon.platform.experiment import Experiment

        return Experiment
    if name in ("run", "Result"):
        from fedrecon.platform import run as module

        return getattr(module, name)
    raise AttributeError(f"module 'fedrecon' has no attribute {name!r}")
