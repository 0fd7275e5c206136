"""Drivers of their own process that die at a chosen moment; importable, so that a fork server can start them."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROUNDS = 4


def experiment(paths: Mapping[str, Path], strategy: str, **training: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "sites": {name: str(path) for name, path in paths.items()},
        "operator": {"mask": "random", "acceleration": 3},
        "strategy": {"name": strategy},
        "network": {"name": "unet", "channels": 2, "pools": 1},
        "training": {"rounds": ROUNDS, "batch_size": 2, **training},
        "evaluation": {"every": 2, "panels": False},
    }


MIX = {"mask": {"choice": ["random", "gaussian2d"]}, "acceleration": {"uniform": [2, 4]}}
"""An operator of which each slice draws its own."""

FAIR: dict[str, dict[str, Any]] = {
    "personal": {
        "operator": {**MIX, "fixed_mask": True},
        "strategy": {"name": "fedavg", "personalise": {"rounds": 2, "parts": "head"}},
        "training": {"loss": "ssdu", "augment": False, "keep": "best", "optimizer_state": "keep"},
    },
    "patient": {
        "operator": MIX,
        "strategy": {"name": "hyperfed"},
        "network": {"name": "film", "cascades": 1, "channels": 2, "pools": 1, "hidden": 4},
        "training": {"rounds": 6, "patience": 1, "keep": "best", "learning_rate": 0.1},
    },
}
"""The keys of fair comparisons, as many together as an experiment can have. Local rounds have no patience.

``personal`` can begin with the weights of a run (``training.start``); the network of ``patient`` has private parts.
"""


def fair(paths: Mapping[str, Path], name: str, **training: Any) -> dict[str, Any]:
    """An experiment of :data:`FAIR`, scored after every round."""
    given, own = experiment(paths, "fedavg"), FAIR[name]
    evaluation = {**given["evaluation"], "every": 1, "max_slices": 1}
    return {**given, **own, "training": {**given["training"], **own["training"], **training}, "evaluation": evaluation}


def drive(given: dict[str, Any], workspace: Path, out: Path, moment: str = "", **options: Any) -> None:
    """One ``fedrecon.run`` in this process; dies at ``moment``, else writes its result to ``out``."""
    import fedrecon

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell begins with it ignored
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if moment:
        {**MOMENTS, **PRIOR_MOMENTS}[moment](workspace)
    result = fedrecon.run(given, workspace=workspace, **options)
    out.write_text(json.dumps(result.as_dict()), encoding="utf-8")


def drive_on_ray(given: dict[str, Any], workspace: Path, out: Path, environment: dict[str, str], log: Path) -> None:
    """A driver as a terminal starts it: a process group, an environment and a log of its own, and an end of its own."""
    assert "ray" not in sys.modules  # Ray reads its settings from the environment when it is imported
    os.setsid()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    try:
        drive(given, workspace, out)
    finally:
        atexit._run_exitfuncs()  # a forked process leaves them out


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, method: str, due: Callable[..., bool], act: Callable[[], None] = _die) -> None:
    original = getattr(owner, method)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if due(*arguments):
            act()
        return original(*arguments, **named)

    setattr(owner, method, wrapped)


def _while_the_database_is_made(workspace: Path) -> None:
    def watch() -> None:
        while not any(path.stat().st_size > 50_000 for path in workspace.glob(".mlflow.db.*.tmp")):
            time.sleep(0.001)
        _die()

    threading.Thread(target=watch, daemon=True).start()


def _after_the_commit_of_round_1(workspace: Path) -> None:
    from fedrecon.platform.federation.progress import Progress

    before(Progress, "round", lambda self, number, *rest: number == 1)


def _before_the_commit_of_round_2(workspace: Path) -> None:
    """The tracker has the round's metrics, the checkpoint is not there yet."""
    from fedrecon.platform.storage.checkpoint import Checkpoints

    before(Checkpoints, "save", lambda self, state, record: state.round == 2)


def _in_a_fit_of_round(number: int, act: Callable[[], None] = _die) -> Callable[[Path], None]:
    def install(workspace: Path) -> None:
        from fedrecon.strategies.strategy import Strategy

        due = lambda self, fit, batch: (fit.request.round, fit.site) == (number, "middle")  # noqa: E731
        before(Strategy, "step", due, act)

    return install


def _at_the_final_evaluation(workspace: Path) -> None:
    from fedrecon.sites.member.site import Site

    before(Site, "evaluate", lambda self, request, task: (task.split, self.name) == ("test", "middle"))


def _in_a_fit_of_a_prior(workspace: Path) -> None:
    from fedrecon.strategies.fedgimp import FedGIMP

    before(FedGIMP, "step", lambda self, fit, batch: (fit.request.round, fit.site) == (3, "middle"))


def _in_stage_two(split: str) -> Callable[[Path], None]:
    """The first batch of slices is adapted everywhere, the second one at the first site."""

    def install(workspace: Path) -> None:
        from fedrecon.sites.member.site import Site

        due = lambda self, request, task: (task.split, task.part, self.name) == (split, 1, "middle")  # noqa: E731
        before(Site, "evaluate", due)

    return install


def _among_the_artifacts(workspace: Path) -> None:
    from fedrecon.platform.storage.tracking.mlflow_store import MlflowTracker

    before(MlflowTracker, "artifact", lambda self, path, folder="": path.name == "scores.parquet")


def _before_the_result(workspace: Path) -> None:
    """All is recorded but the end."""
    from fedrecon.platform.storage.workspace import RunFolder

    before(RunFolder, "save_result", lambda self, result: True)


MOMENTS: dict[str, Callable[[Path], None]] = {
    "database": _while_the_database_is_made,
    "committed 1": _after_the_commit_of_round_1,
    "before commit 2": _before_the_commit_of_round_2,
    "interrupted in fit 3": _in_a_fit_of_round(3, lambda: signal.raise_signal(signal.SIGINT)),
    "fit 4": _in_a_fit_of_round(4),
    "final evaluation": _at_the_final_evaluation,
    "result": _before_the_result,
    "artifacts": _among_the_artifacts,  # the store gets them once the result is there
}

PRIOR_MOMENTS: dict[str, Callable[[Path], None]] = {
    "fit 3": _in_a_fit_of_a_prior,
    "validation": _in_stage_two("validation"),
    "test": _in_stage_two("test"),
    "result": _before_the_result,
}
