"""The hardware and software of a run, for its report and for a run that goes on elsewhere."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedrecon.platform.execution import placement

if TYPE_CHECKING:
    from fedrecon.platform.execution.executor import Executor
    from fedrecon.platform.storage.workspace import RunFolder

DECISIVE = ("device", "threads", "torch", "numpy", "instruction_set")
"""What of a member's machine can change the last bits of its training."""


def run_environment(
    executor: Executor, folder: RunFolder, facts: Mapping[str, Any], say: Callable[[str], None], *, resumes: bool
) -> dict[str, Any]:
    """Describes the members' machines, and keeps that in the folder at the first start.

    Warns if a run that goes on began with others: its last bits may then differ.

    Args:
        facts: further entries. say: is told on which devices the members are.
    """
    described = executor.describe()
    for line in placement.in_words(described, executor.gpu_shares):
        say(line)
    members = {name: asdict(one) for name, one in described.items()}
    environment = {"python": sys.version.split()[0], "members": members, **facts}
    before = folder.environment()
    if before is None or not resumes:
        folder.save_environment(environment)
    elif any(_differ(before["members"].get(name, {}), one) for name, one in members.items()):
        warnings.warn(
            "this run began with other devices, instruction sets, versions of torch or NumPy, or thread counts. It "
            "goes on, but its last bits may differ from those of an uninterrupted run",
            RuntimeWarning,
            stacklevel=3,
        )
    return environment


def _differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether something decisive has changed. What an older version did not note is not compared."""
    return not before or any(before[key] != now[key] for key in DECISIVE if key in before)
