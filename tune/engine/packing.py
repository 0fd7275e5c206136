"""Decides before Ray Tune starts which resources a trial gets and how many trials run at once.

A trial that the cluster cannot hold is refused here. Ray Tune itself would wait for its placement group forever,
without a message.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ray.tune import PlacementGroupFactory

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.execution import placement
from fedrecon.platform.execution.placement import Demand, Node
from fedrecon.sites.errors import RunError

PER_GPU = 4
"""The largest number of in-process trials on one GPU with ``concurrency: auto``. It is small: GPU memory limits it."""

Amount = float | Literal["auto"]
"""A number of CPUs or GPUs; ``auto`` shares the nodes, see :func:`placement.demands`."""

DRIVER_CPUS = 0.1
"""The CPUs of a trial's own process: it adds up replies and commits while its sites mostly wait. At most, half of the
workspace's node is asked for the processes of the trials that run at once."""

NOTHING = 0.001
"""What a bundle asks for that needs nothing: Ray refuses an empty one."""


@dataclass(frozen=True)
class Packing:
    """How trials share the nodes of the cluster.

    Attributes:
        executor: ``actors`` or ``in-process``.
        at_once: the number of trials at once; None runs as many as fit.
        nodes: the living nodes of Ray's node table. here: the id of the node with the workspace.
        bound: whether trials in one process may run on a part of the nodes alone; ``nodes`` are then these.
    """

    executor: str
    at_once: int | None
    nodes: Sequence[Node]
    here: str
    bound: bool = False

    @classmethod
    def of(
        cls,
        executor: str,
        concurrency: int | str,
        nodes: Sequence[Node],
        here: str,
        seeing: Collection[str] | None = None,
    ) -> Packing:
        """The packing of a sweep.

        Args:
            executor: ``actors``, ``in-process`` or ``auto``. ``auto`` is ``in-process`` on a single node with at most
                one GPU, because one device holds all sites there anyway; else it is ``actors``.
            concurrency: the number of trials at once, or ``auto``.
            nodes: Ray's node table. here: the id of the node with the workspace.
            seeing: ids of the nodes that see the workspace, on which alone a trial in one process can run; None is all.
        """
        alive = [node for node in nodes if node["Alive"]]
        if executor == "auto":
            executor = "in-process" if len(alive) == 1 and _total(alive, "GPU") <= 1 else "actors"
        bound = executor == "in-process" and seeing is not None and any(one["NodeID"] not in seeing for one in alive)
        if bound and seeing is not None:
            alive = [node for node in alive if node["NodeID"] in seeing]
        at_once = None if concurrency == "auto" else int(concurrency)
        if at_once is None and executor == "in-process":
            gpus = _total(alive, "GPU")
            at_once = max(1, min(math.floor(_total(alive, "CPU")), PER_GPU * math.floor(gpus) if gpus else 10**6))
        return cls(executor, at_once, alive, here, bound)

    def factory(self, each: tuple[Amount, Amount], members: Sequence[str]) -> PlacementGroupFactory:
        """The placement group of a trial: a bundle for its own process on the workspace's node, then one per member.

        An in-process trial has a single bundle.

        Args:
            each: the CPUs and GPUs of one site, see :func:`asked`.
            members: the members of the federation, in the order of the bundles.

        Raises:
            InputError: the GPUs of a site are more than one and not a whole number.
            RunError: no node can hold a bundle; the message says what is missing.
        """
        return self._in_process() if self.executor == "in-process" else self._actors(*each, members)

    def alone(self, each: tuple[Amount, Amount]) -> PlacementGroupFactory:
        """The placement group of a transfer test whose shards are all on the workspace's node.

        The test does everything in its own process. Its single bundle has the resources of one site.

        Raises:
            InputError: see :meth:`factory`.
            RunError: the workspace's node cannot hold the bundle.
        """
        if self.executor == "in-process":
            return self._in_process()
        here = [node for node in self.nodes if node.get("NodeID") == self.here]
        gpus = each[1] if _total(here, "GPU") else 0.0  # a workspace node without a GPU scores on its CPUs
        (one,) = placement.demands(["test"], here, each[0], gpus, self.at_once or 1)
        placement.check([one], here)
        needs = {name: amount for name, amount in one.needs.items() if amount} or {"CPU": NOTHING}
        return PlacementGroupFactory([needs], bundle_label_selector=[{"ray.io/node-id": self.here}])

    def _in_process(self) -> PlacementGroupFactory:
        assert self.at_once is not None
        one = {"CPU": _share(_total(self.nodes, "CPU"), self.at_once)}
        if gpus := math.floor(_total(self.nodes, "GPU")):
            # A fraction of a GPU is a fraction of ONE GPU, so each GPU holds a whole number of trials.
            one["GPU"] = min(1.0, math.floor(1e4 / math.ceil(self.at_once / gpus)) / 1e4)
        whole = Demand("the trial", one["CPU"], one.get("GPU", 0.0))
        placement.check([whole], self.nodes)
        if not self.bound:
            return PlacementGroupFactory([one])
        seeing = ", ".join(sorted(node["NodeID"] for node in self.nodes))
        return PlacementGroupFactory([one], bundle_label_selector=[{"ray.io/node-id": f"in({seeing})"}])

    def _actors(self, cpus: Amount, gpus: Amount, members: Sequence[str]) -> PlacementGroupFactory:
        at_once = self.at_once or 1
        found = placement.demands(members, self.nodes, cpus, gpus, at_once)
        placement.check(found, self.nodes)
        here = _total([node for node in self.nodes if node.get("NodeID") == self.here], "CPU")
        asked = _rounded(min(DRIVER_CPUS, here / 2 / at_once))
        if cpus == "auto" and asked:  # the trial as a whole asks for what its sites would have
            taken = max(asked * at_once / here, asked / max(sum(one.cpus for one in found), 1.0))
            found = [replace(one, cpus=_rounded(one.cpus * (1 - taken))) for one in found]
        own = self._own_bundle(asked, found, at_once)
        sites = [{name: amount for name, amount in one.needs.items() if amount} for one in found]
        bundles = [own, *(one or {"CPU": NOTHING} for one in sites)]
        selectors: list[dict[str, str]] = [{"ray.io/node-id": self.here}, *(dict(one.labels) for one in found)]
        return PlacementGroupFactory(bundles, strategy="PACK", bundle_label_selector=selectors)

    def _own_bundle(self, cpus: float, sites: Sequence[Demand], at_once: int) -> dict[str, float]:
        """The bundle of the trial's own process, on the workspace's node: these CPUs.

        If that node has no CPU for Ray, or the sites take all of them as the user wants it, the bundle takes a little
        of the resource that only this node has (``node:IP``).

        Raises:
            RunError: the node has no such resource, and no CPU is left beside the sites.
        """
        (here,) = [node for node in self.nodes if node.get("NodeID") == self.here]
        names = [one for one in here["Resources"] if one.startswith("node:") and one != "node:__internal_head__"]
        others = [node for node in self.nodes if node is not here]
        for count in sorted({at_once, 1}, reverse=True):
            beside = [*others, _without(here, {"CPU": cpus * count})]
            if cpus and _fit(sites, count, beside):
                return {"CPU": cpus}
            if names and _fit(sites, count, self.nodes):
                return {names[0]: NOTHING}
        placement.check(sites, beside)
        return {"CPU": cpus or NOTHING}


def _fit(sites: Sequence[Demand], count: int, nodes: Sequence[Node]) -> bool:
    """Whether the nodes hold the sites of this number of trials together."""
    try:
        placement.check([one for one in sites for _ in range(count)], nodes)
    except RunError:
        return False
    return True


def asked(experiment: Experiment) -> tuple[Amount, Amount]:
    """The CPUs and GPUs of one site's actor, from the experiment."""
    return experiment.resources.cpus_per_site, experiment.resources.gpus_per_site


def roster(experiment: Experiment, sites: Sequence[str]) -> list[str]:
    """The names of the members of the experiment's federation, as its run uses them."""
    return list(experiment.method.roster(list(sites))) if experiment.trains else list(sites)


def _without(node: Node, taken: Mapping[str, float]) -> dict[str, Any]:
    """The node without the taken resources."""
    left = {name: amount - taken.get(name, 0.0) for name, amount in node["Resources"].items()}
    return {**node, "Resources": left}


def _share(amount: float, by: int) -> float:
    """An equal share of an amount of CPUs, at most 1, rounded down to four decimals."""
    if amount <= 0:
        raise RunError("the cluster has no CPU that Ray may use")
    return min(1.0, _rounded(amount / by))


def _rounded(amount: float) -> float:
    """Four decimals, rounded down: Ray counts in these."""
    return math.floor(1e4 * amount + 1e-6) / 1e4


def _total(nodes: Sequence[Node], name: str) -> float:
    return float(sum(node["Resources"].get(name, 0) for node in nodes))
