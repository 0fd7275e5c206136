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
        self._said: list[tuple[str, str]] = []

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

    def say(self, digest: str, message: str) -> None:
        """Keeps what a trial says of its members: who is late, started again or left out."""
        self._said.append((digest, message))

    def said(self) -> list[tuple[str, str]]:
        """What the trials have said since the last call: digest and message, in order."""
        said, self._said = self._said, []
        return said

    def why(self, digest: str) -> str:
        """The last reason why the trial failed. A trial that gave no reason lost its process."""
        return self._failures.get(digest, "its process died (killed, or out of memory)")


def start_trial_notes() -> Any:
    """Starts the :class:`TrialNotes` on this node. Returns its handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(TrialNotes).options(**options).remote()
