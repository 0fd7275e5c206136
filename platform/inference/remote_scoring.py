"""Scores remote sites: a Ray task scores each site on the site's own node of the cluster.

The trained network travels to the node, and the scores come back. Images and k-space stay on the node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.execution.ray_cluster import connected
from fedrecon.platform.execution.site_tasks import ask_sites, site_tasks
from fedrecon.platform.inference.unseen_sites import needed

if TYPE_CHECKING:
    from fedrecon.platform.config.resources import Resources
    from fedrecon.platform.consortium.consent import UnseenPolicy
    from fedrecon.platform.inference.trained_run import TrainedRun
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.data.shard import Shard

Columns = dict[str, Any]
"""Columns of ``scores.parquet``."""

Private = Mapping[str, Any]
"""Private parameters of one member, by name."""


@dataclass(frozen=True)
class RemoteTest:
    """A transfer test, in the form in which it travels to the nodes of the sites.

    Attributes:
        trained: the tested run.
        operators: the operator at each site.
        unseen: the policy for sites that did not train.
        parts: folder in which a method that adapts to each slice keeps the scores of finished batches.
    """

    trained: TrainedRun
    operators: Mapping[str, Acquisition]
    unseen: UnseenPolicy
    parts: Path

    def score(self, name: str, shard: Shard, private: Mapping[str, Private]) -> list[Columns]:
        """Scores one site. This runs on the site's own node.

        Args:
            private: the private parts of the network that travelled to this node, by member.
        """
        from fedrecon.platform.inference.scoring import scored

        # A node that does not see the workspace keeps no parts: the driver could never remove them there.
        parts = self.parts if self.parts.parent.is_dir() else None
        trained = replace(self.trained, private=private)
        return list(scored(trained, {name: shard}, self.operators, self.unseen, lambda _: None, parts))


def scored_remotely(
    test: RemoteTest,
    shards: Mapping[str, Shard],
    resources: Resources,
    address: str | None,
    bundle_members: Sequence[str] = (),
) -> list[Columns]:
    """Does the same as :func:`fedrecon.platform.inference.scoring.scored`, in parallel: each site on its own node.

    Args:
        resources: the experiment's resources; a site whose process dies is scored again, up to ``max_restarts`` times.
        address, bundle_members: see :class:`fedrecon.platform.execution.ray_executor.RayExecutor`.

    Raises:
        RunError: a site cannot be placed, fails, or its node is lost for good.
    """
    with connected(address):
        sites = list(shards)
        private = _private_parts(test, sites)
        questions = {name: (name, shards[name], private[name]) for name in sites}
        with site_tasks(RemoteTest.score, test, questions, resources, bundle_members) as tasks:
            return [columns for name in sites for columns in tasks.result(name, resources.max_restarts)]


def _private_parts(test: RemoteTest, sites: Sequence[str]) -> dict[str, dict[str, Private]]:
    """The private parts that travel to each site, by site and member.

    A site needs these parts for its test. A part that only its own node can read travels only to other sites.
    """
    trained = test.trained
    wanted = {name: needed(trained, name, test.unseen) for name in sites}
    members = dict.fromkeys(member for each in wanted.values() for member in each)
    found = {member: trained.private_part(member) for member in members if trained.holds(member)}
    # These parts can be read only on their owner's node, and another site needs them.
    lent = {member: None for name, each in wanted.items() for member in each if member not in found and member != name}
    found |= ask_sites(_private_part, {member: (trained, member) for member in lent}, "its private part of the network")
    return {name: {member: found[member] for member in each if member in found} for name, each in wanted.items()}


def _private_part(trained: TrainedRun, member: str) -> Private:
    return trained.private_part(member)
