"""The Ray Tune class of a trial: one experiment, one committed round per step. An actor runs trials one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.execution.forking.start import own_threads
from fedrecon.platform.execution.site_actor import ActorPool
from fedrecon.platform.federation.progress import Progress
from fedrecon.platform.federation.recorder import CommittedRound
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.results import Result
from fedrecon.platform.runs.run import steps
from fedrecon.sites.errors import cause_of

ROUND = "round"
"""The key of the committed round in the results for Ray Tune."""

TRAINED = "trained_rounds"
"""The key of the number of trained rounds. Only the last result of a finished trial has it."""


class TrialProgress(Progress):
    """A progress display that prints nothing, because the sweep's driver prints the progress of all trials.

    Args:
        tell: gives the driver what the trial says of its members.
    """

    def __init__(self, tell: Callable[[str], None], total: int, start: int = 0) -> None:
        super().__init__(total, start)
        self._tell = tell

    def late(self, message: str) -> None:
        """Tells the driver."""
        self._tell(message)

    def trouble(self, message: str) -> None:
        """Tells the driver."""
        self._tell(message)

    def say(self, message: str) -> None:
        """Prints nothing."""


class SweepTrial(ray_tune.Trainable):
    """Runs one experiment. Each step is one committed round; the last step reports the end.

    Ray Tune keeps no checkpoint of the trial. A trial that failed goes on from the experiment's own checkpoint in the
    workspace.
    """

    _steps: Generator[CommittedRound, None, Result] | None = None
    _last: dict[str, Any]
    _digest: str

    def setup(self, config: dict[str, Any], shared: dict[str, Any] | None = None) -> None:
        """Begins the experiment of a trial.

        Args:
            config: the configuration of the trial, see :class:`TrialTuner`.
            shared: the values that all trials share: ``workspace``, ``executor``, ``address``, ``keep_checkpoints``,
                and the handle of the :class:`TrialNotes` (``notes``).
        """
        assert shared is not None
        self._shared, self._pool = shared, ActorPool()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins the next trial in the same process. Returns True: the actor can be used again."""
        self._close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Runs until the next round is committed.

        Returns:
            the round and its metrics. The last result has the key ``done`` and the number of rounds that were trained.
        """
        assert self._steps is not None
        try:
            committed = next(self._steps)
        except StopIteration as end:
            self._steps = None
            result: Result = end.value
            # The result is in the run folder. If it were returned, Ray Tune would keep it in the driver's memory.
            return {**self._last, "done": True, TRAINED: result.trained_rounds}
        except Exception as error:
            self._steps = None
            ray.get(self._shared["notes"].failed.remote(self._digest, cause_of(error)))
            raise
        self._last = {ROUND: committed.round, **committed.metrics}
        return dict(self._last)

    def cleanup(self) -> None:
        """Closes the experiment, and ends the actors of its sites, which the next trial would have used again."""
        self._close()
        self._pool.close()

    def _close(self) -> None:
        """Closes the experiment. Its run in MLflow ends as KILLED, unless the experiment was finished."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def _begin(self, config: dict[str, Any]) -> None:
        own_threads()
        self._last, self._digest = {ROUND: 0}, config["digest"]
        context = RunContext(
            workspace=Path(self._shared["workspace"]),
            executor=self._shared["executor"] if config["members"] else "in-process",
            address=self._shared["address"],
            rerun=config["rerun"] and ray.get(self._shared["notes"].first.remote(config["digest"])),
            tags=config["tags"],
            records_only=True,
            keep_checkpoints=self._shared["keep_checkpoints"],
            progress=partial(TrialProgress, partial(self._shared["notes"].say.remote, self._digest)),
            name=config["name"],
            searched=config["searched"],
            bundle_members=config["members"],
            pool=self._pool,
        )
        self._steps = steps(Experiment.read(json.loads(config["experiment"])), context)
