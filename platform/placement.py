"""Which node and how much of a GPU each site gets: decided before an actor is made, refused with the reason.

Pure functions of Ray's own node table, so that they are tested without a cluster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedrecon.sites.errors import RunError

Node = Mapping[str, Any]


@dataclass(frozen=True)
class Demand:
    """What one member's actor asks of the scheduler."""

    member: str
    cpus: float
    gpus: float
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Ray's actor options."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.labels:
            options["label_selector"] = dict(self.labels)
        if self.resources:
            options["resources"] = dict(self.resources)
        return options

    def __str__(self) -> str:
        asked = [f"{self.cpus:g} CPU", f"{self.gpus:g} GPU"]
        asked += [f"label {key}={value}" for key, value in self.labels.items()]
        asked += [f"resource {key}" for key in self.resources]
        return ", ".join(asked)


def demands(
    members: Sequence[str], nodes: Sequence[Node], cpus: float | str, gpus: float | str
) -> list[Demand]:
    """What each member asks for.

    ``auto`` shares what there is, at most one GPU and one CPU a member. A member is bound to the node that carries its
    name, as the label ``site=NAME`` or the resource ``site:NAME``, where there is one.
    """
    alive = [node for node in nodes if node["Alive"]]
    share_gpu = _share(len(members), _total(alive, "GPU")) if gpus == "auto" else float(gpus)
    share_cpu = _share(len(members), _total(alive, "CPU")) if cpus == "auto" else float(cpus)
    return [_demand(member, alive, share_cpu, share_gpu) for member in members]


def check(demanded: Sequence[Demand], nodes: Sequence[Node]) -> None:
    """Refuses what the nodes cannot hold together.

    Raises:
        RunError: names the member, what it asked for, and what there is.
    """
    free = [dict(node["Resources"]) for node in nodes if node["Alive"]]
    labels = [node.get("Labels") or {} for node in nodes if node["Alive"]]
    for demand in sorted(demanded, key=lambda one: -len(one.labels) - len(one.resources)):
        needs = {"CPU": demand.cpus, "GPU": demand.gpus, **demand.resources}
        for have, label in zip(free, labels, strict=True):
            fits = all(have.get(name, 0) >= amount - 1e-9 for name, amount in needs.items() if amount)
            if fits and all(label.get(key) == value for key, value in demand.labels.items()):
                for name, amount in needs.items():
                    have[name] = have.get(name, 0) - amount
                break
        else:
            raise RunError(_refusal(demand, nodes))


def _refusal(demand: Demand, nodes: Sequence[Node]) -> str:
    alive = [node for node in nodes if node["Alive"]]
    needs = {"CPU": demand.cpus, "GPU": demand.gpus, **demand.resources}
    best = {name: max((node["Resources"].get(name, 0) for node in alive), default=0) for name in needs}
    missing = [
        f"{name}: asked {needs[name]:g}, the largest node has {best[name]:g}"
        for name in needs
        if best[name] < needs[name]
    ]
    why = "; ".join(missing) or "the nodes are full with the other sites"
    return (
        f"site '{demand.member}' cannot be placed ({demand}): {why}. The cluster has {len(alive)} node(s) with "
        f"{_total(alive, 'CPU'):g} CPU and {_total(alive, 'GPU'):g} GPU in all; see resources.cpus_per_site and "
        "resources.gpus_per_site."
    )


def _demand(member: str, alive: Sequence[Node], cpus: float, gpus: float) -> Demand:
    if any((node.get("Labels") or {}).get("site") == member for node in alive):
        return Demand(member, cpus, gpus, labels={"site": member})
    resource = f"site:{member}"
    if any(resource in node["Resources"] for node in alive):
        return Demand(member, cpus, gpus, resources={resource: 0.001})
    return Demand(member, cpus, gpus)


def _share(members: int, total: float) -> float:
    """At most 1; where members outnumber the units, a fraction of which whole groups fill a unit."""
    if total < 1:
        return 0.0
    return min(1.0, math.floor(1e4 / math.ceil(members / math.floor(total))) / 1e4)


def _total(nodes: Sequence[Node], name: str) -> float:
    return float(sum(node["Resources"].get(name, 0) for node in nodes))
