"""Where a finished run is tested, if not at its own sites as they measure; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field

from fedrecon.platform.config.tasks import BLOCKS, Task
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.errors import InputError
from fedrecon.sites.plugin import Settings

UnseenRule = Literal["average", "nearest", "fine-tune"]
"""Where a site that did not train gets its private part of the network from."""

UNSEEN_RULES: tuple[UnseenRule, ...] = get_args(UnseenRule)


class TransferTest(Settings):
    """A test of a trained network under other operators or at other sites; it trains nothing.

    Attributes:
        sites: a folder of shards (NAME.h5), or {NAME: PATH}; None takes the run's own.
        operator, degradation: keys that differ from how each site measures otherwise (a site that did not train: as all
            that the experiment does not name).
        unseen: where a site that did not train gets its private part of the network from, if the method has one:
            average, nearest or fine-tune, as for ``fedrecon evaluate``.
        fine_tune_epochs: of a fine-tune; None takes its default.
    """

    sites: str | dict[str, str] | None = None
    operator: dict[str, Any] = Field(default_factory=dict)
    degradation: dict[str, Any] = Field(default_factory=dict)
    unseen: UnseenRule | None = None
    fine_tune_epochs: int | None = Field(None, ge=1)

    def check(self, task: Task) -> None:
        """Refuses what belongs to another task, and per_site.

        Raises:
            InputError: names the key.
        """
        for block in BLOCKS:
            if block != task.block and getattr(self, block):
                raise InputError(f"test.{block}: this task is described by '{task.block}'")
        if "per_site" in getattr(self, task.block):
            raise InputError(f"test.{task.block} holds for all sites; per_site belongs to '{task.block}' itself")

    def at(self, task: Task, measured: Mapping[str, Any], site: str) -> Acquisition:
        """How a site measures in the test.

        Args:
            measured: the experiment's own block, over which this one's keys are laid.

        Raises:
            InputError: a key or value is wrong.
        """
        own = task.at(measured, site).flat()
        return task.acquisition.read(task.acquisition.inherit(own, getattr(self, task.block)), f"test.{task.block}")
