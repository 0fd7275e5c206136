"""A trial: one experiment, stepped round by round by Ray Tune, in an actor that goes on to the next one."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.federation.progress import Progress
from fedrecon.platform.federation.recorder import CommittedRound
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.results import Result
from fedrecon.platform.runs.run import steps
from fedrecon.sites.errors import cause_of
from fedrecon.tune.engine.tracking_actor import RelayStore

ROUND = "round"
TRAINED = "trained_rounds"


class SilentProgress(Progress):
    """Says nothing: the sweep's driver speaks for all trials."""

    def say(self, message: str) -> None:
        """Nothing."""


class SweepTrial(ray_tune.Trainable):
    """Each step is one committed round; the last one carries the result.

    It keeps no checkpoint of Tune's: the experiment's own, in the workspace, is the only truth, and a trial that
    failed goes on from it.
    """

    _course: Generator[CommittedRound, None, Result] | None = None
    _last: dict[str, Any]
    _digest: str

    def setup(self, config: dict[str, Any], shared: dict[str, Any] | None = None) -> None:
        """Begins the experiment of ``config``; ``shared`` is the same for all trials of the sweep."""
        assert shared is not None
        self._shared = shared
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Goes on to the next experiment in the same process."""
        self.cleanup()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next committed round."""
        assert self._course is not None
        try:
            committed = next(self._course)
        except StopIteration as end:
            self._course = None
            result: Result = end.value
            # The result itself is in the run's folder: Ray Tune would keep every one of them in the driver's memory.
            return {**self._last, "done": True, TRAINED: result.trained_rounds}
        except Exception as error:
            self._course = None
            ray.get(self._shared["writer"].failed.remote(self._digest, cause_of(error)))
            raise
        self._last = {ROUND: committed.round, **committed.metrics}
        return dict(self._last)

    def cleanup(self) -> None:
        """Leaves the experiment where it is: its run ends as KILLED unless it was finished."""
        if self._course is not None:
            self._course.close()
            self._course = None

    def _begin(self, config: dict[str, Any]) -> None:
        self._last, self._digest = {ROUND: 0}, config["digest"]
        context = RunContext(
            workspace=Path(self._shared["workspace"]),
            executor=self._shared["executor"] if config["members"] else "in-process",
            address=self._shared["address"],
            rerun=config["rerun"] and ray.get(self._shared["writer"].first.remote(config["digest"])),
            tags=config["tags"],
            store=RelayStore(self._shared["writer"]),
            progress=SilentProgress,
            name=config["name"],
            bundle_members=config["members"],
        )
        self._course = steps(Experiment.read(json.loads(config["experiment"])), context)
