"""Federated MR image reconstruction experiments on Ray, browsed in MLflow.

Run one experiment, apply its network, run many experiments::

    import fedrecon

    result = fedrecon.run("experiments/quickstart.yaml")
    scores = fedrecon.evaluate("latest", accelerations=[2, 4, 8])
    images = fedrecon.reconstruct("latest", "data/demo/t1w.h5", "t1w-reconstructed.h5")
    table = fedrecon.sweep(file="sweeps/acceleration.yaml").table()
    study = fedrecon.study("studies/operator-shift-small.yaml")

Importing the package is cheap. torch, ray and mlflow are loaded by the call that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedrecon.version import __version__

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.inference.evaluate import EvaluationResult, evaluate
    from fedrecon.platform.inference.reconstruct import ReconstructionResult, reconstruct
    from fedrecon.platform.runs.results import Result
    from fedrecon.platform.runs.run import run
    from fedrecon.tune.study.results import StudyResult
    from fedrecon.tune.study.run import load_study, study
    from fedrecon.tune.sweep.run import SweepResult, load_sweep, sweep

__all__ = [
    "EvaluationResult",
    "Experiment",
    "ReconstructionResult",
    "Result",
    "StudyResult",
    "SweepResult",
    "__version__",
    "evaluate",
    "load_study",
    "load_sweep",
    "reconstruct",
    "run",
    "study",
    "sweep",
]

_MODULES = {
    "EvaluationResult": "fedrecon.platform.inference.evaluate",
    "Experiment": "fedrecon.platform.config.experiment",
    "ReconstructionResult": "fedrecon.platform.inference.reconstruct",
    "Result": "fedrecon.platform.runs.results",
    "StudyResult": "fedrecon.tune.study.results",
    "SweepResult": "fedrecon.tune.sweep.run",
    "evaluate": "fedrecon.platform.inference.evaluate",
    "load_study": "fedrecon.tune.study.run",
    "load_sweep": "fedrecon.tune.sweep.run",
    "reconstruct": "fedrecon.platform.inference.reconstruct",
    "run": "fedrecon.platform.runs.run",
    "study": "fedrecon.tune.study.run",
    "sweep": "fedrecon.tune.sweep.run",
}
"""Where each name of the front door is defined; the module is imported when the name is used first."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fedrecon' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
