"""One actor for what the trials of a call tell its driver beside their metrics."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class TrialNotes:
    """What the trials of one call tell its driver."""

    def __init__(self) -> None:
        self._failures: dict[str, str] = {}
        self._asked: set[str] = set()

    def first(self, digest: str) -> bool:
        """Whether this is the first question about this trial.

        In a rerun, only the first start of a trial sets the older run aside. If the trial fails, its next start goes on
        from its own rounds.
        """
        fresh = digest not in self._asked
        self._asked.add(digest)
        return fresh

    def failed(self, digest: str, message: str) -> None:
        """Keeps the reason why a trial failed, for :meth:`why`."""
        self._failures[digest] = message

    def why(self, digest: str) -> str:
        """The last reason why the trial failed. A trial that gave no reason lost its process."""
        return self._failures.get(digest, "its process died (killed, or out of memory)")


def start_trial_notes() -> Any:
    """Starts the :class:`TrialNotes` on this node. Returns its handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(TrialNotes).options(**options).remote()
