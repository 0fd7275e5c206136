"""The ``test`` block of an experiment: a transfer test of its finished run. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field

from fedrecon.platform.config.names import SiteFiles, flatten
from fedrecon.platform.config.tasks import BLOCKS, Task
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.errors import InputError
from fedrecon.sites.plugin import Settings

UnseenRule = Literal["average", "nearest", "fine-tune"]
"""A rule that gives a private part of the network to a site that did not train."""

UNSEEN_RULES: tuple[UnseenRule, ...] = get_args(UnseenRule)


def tested_in_words(test: Mapping[str, Any] | None) -> str:
    """What a ``test`` block changes, behind the operator of the training; empty without one."""
    given = test or {}
    changes = [f"{key}={value}" for key, value in flatten(given.get("operator") or given.get("degradation") or {})]
    tested = f", tested with {' '.join(changes)}" if changes else ""
    return tested + (", tested at other sites" if given.get("sites") else "")


class TransferTest(Settings):
    """A transfer test: a finished run is tested under other operators or at other sites.

    It trains nothing, except the private part of the network under the rule fine-tune.

    Attributes:
        sites: folder of shards (NAME.h5), or {NAME: PATH}; None takes the experiment's own sites.
        operator, degradation: keys that replace those of each site's own setting. A site that the experiment's own
            block does not name in ``per_site`` starts from the setting for all sites.
        unseen: rule that gives the private part of the network to a site that did not train, if the method has one:
            average, nearest or fine-tune, as for ``fedrecon evaluate``.
        fine_tune_epochs: number of epochs of the rule fine-tune; None takes the default of ``fedrecon evaluate``.
    """

    sites: SiteFiles | None = None
    operator: dict[str, Any] = Field(default_factory=dict)
    degradation: dict[str, Any] = Field(default_factory=dict)
    unseen: UnseenRule | None = None
    fine_tune_epochs: int | None = Field(None, ge=1, le=10**6)

    def check(self, task: Task) -> None:
        """Refuses a block of another task, the key ``per_site``, and keys that act on nothing.

        Raises:
            InputError: the message names the key.
        """
        for block in BLOCKS:
            if block != task.block and getattr(self, block):
                raise InputError(f"test.{block}: this task is described by '{task.block}'")
        if self.fine_tune_epochs is not None and self.unseen != "fine-tune":
            given = self.unseen or "no rule"
            raise InputError(f"test.fine_tune_epochs acts with unseen: fine-tune alone (given: {given})")
        if self.unseen is not None and self.sites is None:
            raise InputError(f"test.unseen: {self.unseen} acts at sites that did not train; name them by test.sites")
        if "per_site" in getattr(self, task.block):
            raise InputError(f"test.{task.block} holds for all sites; per_site belongs to the block '{task.block}'")

    def own_science(self, strategy: Mapping[str, Any]) -> list[str]:
        """What enters the digest beside the keys: the marks of fixes that changed the scores of a rule.

        The order of a fine-tune once followed from its label, and what was always private had another start. Private
        codes of a diffusion prior once did nothing at a site that did not train.
        """
        if self.unseen == "fine-tune":
            return ["in the site's order"]
        return ["with codes"] if self.unseen and {"sites", "codes"} & {*strategy.get("private", ())} else []

    def at(self, task: Task, measured: Mapping[str, Any], site: str) -> Acquisition:
        """The setting with which a site measures in the test.

        Args:
            measured: the experiment's own block. The keys of this test's block replace its keys.

        Raises:
            InputError: a key or value is wrong.
        """
        own = task.at(measured, site).flat()
        return task.read(task.acquisition.inherit(own, getattr(self, task.block)), f"test.{task.block}")
