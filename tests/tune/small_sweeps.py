"""A tiny sweep over the tiny consortium, planned; nothing of it starts Ray."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny import UNET

from fedrecon.tune.search.config import Sweep
from fedrecon.tune.trials.planner import Planner, Trial


def base(paths: Mapping[str, Path], **changes: Any) -> dict[str, Any]:
    """The content of a base experiment; small enough to be planned and run in no time."""
    return {
        "name": "tiny",
        "sites": {name: str(path) for name, path in paths.items()},
        "operator": {"mask": "random", "acceleration": 2, "center_fraction": 0.1},
        "network": dict(UNET),
        "training": {"rounds": 2, "batch_size": 2},
        "evaluation": {"every": 1, "panels": False},
        **changes,
    }


def described(search: Any, **changes: Any) -> dict[str, Any]:
    """The content of a sweep's file."""
    return {
        "name": "tiny-sweep",
        "experiment": "base.yaml",
        "search": search,
        "metric": "mean/psnr",
        "mode": "max",
        **changes,
    }


def planner(experiment: Mapping[str, Any], search: Any, **changes: Any) -> Planner:
    given = described(search, **{"experiment": dict(experiment), **changes})
    return Planner.of(*Sweep.read(given))


def planned(experiment: Mapping[str, Any], search: Any, **changes: Any) -> list[Trial]:
    return planner(experiment, search, **changes).trials()
