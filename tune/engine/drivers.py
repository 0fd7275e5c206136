"""Which nodes can run whole trials: those that see the workspace, as on a shared file system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedrecon.platform.execution.site_tasks import ANSWER_TIMEOUT
from fedrecon.sites import debris

if TYPE_CHECKING:
    from fedrecon.platform.execution.placement import Node


def seeing(workspace: Path, nodes: Sequence[Node], here: str) -> list[str]:
    """The ids of the nodes that see the workspace: this node, and each on which a task finds what is made in it here.

    Args:
        workspace: a folder. nodes: Ray's node table. here: the id of the node of this process.
    """
    others = [node["NodeID"] for node in nodes if node["Alive"] and node["NodeID"] != here]
    workspace.mkdir(parents=True, exist_ok=True)
    with debris.scratch(workspace) as made:
        asked = {
            ray.remote(Path.is_dir)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(one, soft=False))
            .remote(made): one
            for one in others
        }
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_TIMEOUT) if asked else ([], [])
        return [here, *(asked[one] for one in answered if _found(one))]


def _found(answer: object) -> bool:
    """Whether a task has found the folder; a node that went away has not."""
    try:
        return bool(ray.get(answer))  # type: ignore[call-overload]
    except RayError:
        return False
