"""What a trial asks of the cluster, and how many fit at once: decided, and refused, before Ray Tune starts.

Ray Tune itself waits without a word for a placement group that no node can hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ray.tune import PlacementGroupFactory

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.execution import placement
from fedrecon.platform.execution.placement import Demand, Node
from fedrecon.sites.errors import RunError

PER_GPU = 4
"""In-process trials that share a GPU with ``concurrency: auto``; their memory is what limits it, so it is few."""

Amount = float | Literal["auto"]

DRIVER_CPUS = 0.001
"""Of the trial itself, whose work is done by its sites."""


@dataclass(frozen=True)
class Packing:
    """How trials are packed.

    Attributes:
        crew: ``actors`` or ``in-process``.
        at_once: trials at once; None leaves it to what fits.
        nodes: Ray's node table. here: id of the node where the workspace is.
    """

    executor: str
    at_once: int | None
    nodes: Sequence[Node]
    here: str

    @classmethod
    def of(cls, executor: str, concurrency: int | str, nodes: Sequence[Node], here: str) -> Packing:
        """The packing of a sweep: in process where one device holds all sites, unless the user says otherwise."""
        alive = [node for node in nodes if node["Alive"]]
        if executor == "auto":
            executor = "in-process" if len(alive) == 1 and _total(alive, "GPU") <= 1 else "actors"
        at_once = None if concurrency == "auto" else int(concurrency)
        if at_once is None and executor == "in-process":
            gpus = _total(alive, "GPU")
            at_once = max(1, min(math.floor(_total(alive, "CPU")), PER_GPU * math.floor(gpus) if gpus else 10**6))
        return cls(executor, at_once, alive, here)

    def factory(self, each: tuple[Amount, Amount], members: Sequence[str]) -> PlacementGroupFactory:
        """The placement group of a trial: itself on the workspace's node, then one bundle a site.

        Args:
            each: CPUs and GPUs of a site, see :func:`asked`. members: of the federation.

        Raises:
            RunError: no node can hold a bundle; says what is missing.
        """
        return self._in_process() if self.executor == "in-process" else self._actors(*each, members)

    def alone(self, each: tuple[Amount, Amount]) -> PlacementGroupFactory:
        """The placement group of a test of shards that are here: itself, on the workspace's node, with what a site has.

        Raises:
            RunError: the node cannot hold it.
        """
        if self.executor == "in-process":
            return self._in_process()
        here = [node for node in self.nodes if node.get("NodeID") == self.here]
        gpus = each[1] if _total(here, "GPU") else 0.0  # a head without a GPU scores on its CPUs
        (one,) = placement.demands(["test"], here, each[0], gpus, self.at_once or 1)
        placement.check([one], here)
        needs = {name: amount for name, amount in one.needs.items() if amount} or {"CPU": DRIVER_CPUS}
        return PlacementGroupFactory([needs], bundle_label_selector=[{"ray.io/node-id": self.here}])

    def _in_process(self) -> PlacementGroupFactory:
        assert self.at_once is not None
        one = {"CPU": _share(_total(self.nodes, "CPU"), self.at_once)}
        if gpus := math.floor(_total(self.nodes, "GPU")):
            # A fraction is of ONE GPU, so whole groups of trials fill each.
            one["GPU"] = min(1.0, math.floor(1e4 / math.ceil(self.at_once / gpus)) / 1e4)
        whole = Demand("the trial", one["CPU"], one.get("GPU", 0.0))
        placement.check([whole], self.nodes)
        return PlacementGroupFactory([one])

    def _actors(self, cpus: Amount, gpus: Amount, members: Sequence[str]) -> PlacementGroupFactory:
        found = placement.demands(members, self.nodes, cpus, gpus, self.at_once or 1)
        own = self._own_bundle()
        if cpus == "auto" and "CPU" in own:  # leaves room for the trial itself
            found = [replace(one, cpus=round(max(one.cpus - 2 * DRIVER_CPUS, 0.0), 4)) for one in found]
        placement.check(found, self.nodes)
        placement.check(found, [_less(node, own) if node.get("NodeID") == self.here else node for node in self.nodes])
        sites = [{name: amount for name, amount in one.needs.items() if amount} for one in found]
        bundles = [own, *(one or {"CPU": DRIVER_CPUS} for one in sites)]
        selectors: list[dict[str, str]] = [{"ray.io/node-id": self.here}, *(dict(one.labels) for one in found)]
        return PlacementGroupFactory(bundles, strategy="PACK", bundle_label_selector=selectors)

    def _own_bundle(self) -> dict[str, float]:
        """Of the trial itself, which must be here: a little of what this node alone has, or else of a CPU."""
        here: Mapping[str, float] = next(
            (node["Resources"] for node in self.nodes if node.get("NodeID") == self.here), {}
        )
        names = [name for name in here if name.startswith("node:") and name != "node:__internal_head__"]
        return {names[0]: DRIVER_CPUS} if names else {"CPU": DRIVER_CPUS}


def asked(experiment: Experiment) -> tuple[Amount, Amount]:
    """CPUs and GPUs of one site's actor, as its experiment says."""
    return experiment.resources.cpus_per_site, experiment.resources.gpus_per_site


def roster(experiment: Experiment, sites: Sequence[str]) -> list[str]:
    """The members of an experiment's federation, as its run names them."""
    return list(experiment.method.roster(list(sites))) if experiment.trains else list(sites)


def _less(node: Node, taken: Mapping[str, float]) -> dict[str, Any]:
    """A node without what is taken of it."""
    left = {name: amount - taken.get(name, 0.0) for name, amount in node["Resources"].items()}
    return {**node, "Resources": left}


def _share(amount: float, by: int) -> float:
    """At most 1."""
    if amount <= 0:
        raise RunError("the cluster has no CPU that Ray may use")
    return min(1.0, math.floor(1e4 * amount / by) / 1e4)


def _total(nodes: Sequence[Node], name: str) -> float:
    return float(sum(node["Resources"].get(name, 0) for node in nodes))
