"""Decides how much CPU and GPU each site gets, and on which nodes, before an actor is made.

A demand that cannot be met is refused with the reason. All functions are pure functions of Ray's node table, so the
tests need no cluster.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fedrecon.sites.errors import InputError, RunError, listed

if TYPE_CHECKING:
    from fedrecon.platform.config.resources import Resources
    from fedrecon.sites.wire import Description

Node = Mapping[str, Any]

_TINY = 1e-9
_HALVINGS = 6
"""How often the share of a CPU that `auto` gives is halved to make the sites fit."""


@dataclass(frozen=True)
class Demand:
    """The resources and labels that one member's actor asks of the scheduler."""

    member: str
    cpus: float
    gpus: float
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def bound(self) -> bool:
        """Whether the member may run only on nodes that carry its name."""
        return bool(self.labels or self.resources)

    @property
    def needs(self) -> dict[str, float]:
        """The demanded amounts, by Ray's resource names."""
        return {"CPU": self.cpus, "GPU": self.gpus, **self.resources}

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
    members: Sequence[str], nodes: Sequence[Node], cpus: float | str, gpus: float | str, at_once: int = 1
) -> list[Demand]:
    """The demand of each member.

    If there are nodes that carry a member's name, the member is bound to them. A node carries the name by the label
    ``site=NAME`` or by the resource ``site:NAME``.

    Args:
        nodes: Ray's node table.
        cpus, gpus: amounts for each member. ``auto`` shares the nodes, at most one CPU and one GPU for each member. A
            bound member gets its share of its own nodes. The other members share the nodes that carry no member's
            name, or all nodes if there are no such nodes.
        at_once: number of federations of these members that run at the same time and share the nodes.
    """
    alive = [node for node in nodes if node["Alive"]]
    own = {m: {i for i, node in enumerate(alive) if _carries(node, m)} for m in members}
    all_nodes = set(range(len(alive)))
    unnamed = all_nodes.difference(*own.values()) or all_nodes
    alike = Counter(frozenset(own[member] or unnamed) for member in members)
    found = []
    for member in members:
        among = own[member] or unnamed
        sharing = at_once * sum(count for others, count in alike.items() if among & others)
        there = [alive[i] for i in sorted(among)]
        share_cpu = _share(sharing, there, "CPU") if cpus == "auto" else float(cpus)
        share_gpu = _share(sharing, there, "GPU") if gpus == "auto" else float(gpus)
        found.append(_demand(member, there if own[member] else [], share_cpu, share_gpu))
    return _fitting(found, nodes, at_once) if cpus == "auto" else found


def _fitting(demanded: list[Demand], nodes: Sequence[Node], at_once: int) -> list[Demand]:
    """The demands with less CPU, if they fit on the nodes only so: the nodes with GPUs may have few CPUs."""
    for halvings in range(_HALVINGS + 1):
        less = [replace(one, cpus=math.floor(1e4 * one.cpus / 2**halvings) / 1e4) for one in demanded]
        with suppress(RunError):
            check(less * at_once, nodes)
            return less
    return demanded


def bundled(members: Sequence[str], bundles: Sequence[Mapping[str, float]]) -> list[Demand]:
    """The demand of each member: all resources of the bundle that a placement group has reserved for it."""
    own = {"CPU", "GPU"}
    return [
        Demand(
            member,
            bundle.get("CPU", 0.0),
            bundle.get("GPU", 0.0),
            resources={name: amount for name, amount in bundle.items() if name not in own},
        )
        for member, bundle in zip(members, bundles, strict=True)
    ]


def in_words(members: Mapping[str, Description], gpu_shares: Mapping[str, float]) -> list[str]:
    """The device, the share of a GPU and the threads of each member; members alike stand on one line.

    Args:
        gpu_shares: number of GPUs by member; a member without one shares the device of its process with the others.
    """
    alike: dict[str, list[str]] = {}
    for name, one in members.items():
        share = f", {gpu_shares[name]:g} GPU" if gpu_shares.get(name) else ""
        share = share or (", shared by the sites of this process" if one.device != "cpu" else "")
        threads = f"{one.threads} thread{'s' * (one.threads > 1)}"
        alike.setdefault(f"{one.device}{share}, {threads} each", []).append(name)
    return [f"{listed(names)}: {what if names[1:] else what.removesuffix(' each')}" for what, names in alike.items()]


def first_bound(demanded: Sequence[Demand]) -> list[Demand]:
    """The demands in the order of placement: bound members first, and among equals the larger demand first."""
    return sorted(demanded, key=lambda one: (not one.bound, -one.gpus, -one.cpus))


def check(demanded: Sequence[Demand], nodes: Sequence[Node], waited: float | None = None) -> None:
    """Refuses what the nodes cannot hold together.

    Args:
        nodes: Ray's node table (``ray.nodes``). After waiting, its Resources hold the free amounts.
        waited: time in seconds that the members have waited for resources that others use; None before the start.

    Raises:
        RunError: the message names the member, its demand and the amounts of the nodes.
    """
    rooms = [_Room.of(node) for node in nodes if node["Alive"]]
    for demand in first_bound(demanded):
        if not any(room.take(demand) for room in rooms):
            raise RunError(_refusal(demand, nodes, waited))


def check_here(resources: Resources, in_process: bool, address: str | None) -> None:
    """Refuses GPUs that no site can have, before anything starts.

    Args:
        in_process: whether all sites run in this process. address: the address of a cluster, whose nodes are not known.

    Raises:
        InputError: the sites of one process were to have GPUs of their own, or this machine has fewer than one needs.
    """
    given = resources.gpus_per_site
    if given == "auto" or given == 0:
        return
    asked = f"resources.gpus_per_site is {given:g}"
    if in_process or resources.crew == "in-process":
        raise InputError(f"{asked}, but sites in one process share its device. Allowed in one process: auto, 0.")
    if address is not None or ("ray" in sys.modules and sys.modules["ray"].is_initialized()):
        return
    import torch

    if (found := torch.cuda.device_count()) < float(given):
        raise InputError(f"{asked}, but torch sees {found} GPUs on this machine. Allowed here: auto, 0 to {found}.")


@dataclass
class _Room:
    """The remaining resources of one node. A fraction of a GPU is a fraction of ONE GPU."""

    labels: Mapping[str, str]
    left: dict[str, float]
    gpus: list[float]

    @classmethod
    def of(cls, node: Node) -> _Room:
        left = dict(node["Resources"])
        whole, part = divmod(left.pop("GPU", 0.0), 1)
        return cls(node.get("Labels") or {}, left, [1.0] * int(whole) + ([part] if part > _TINY else []))

    def take(self, demand: Demand) -> bool:
        """Takes the demanded resources if they fit. Returns whether they fit."""
        needs = {name: amount for name, amount in demand.needs.items() if amount and name != "GPU"}
        if any(self.labels.get(key) != value for key, value in demand.labels.items()):
            return False
        if any(self.left.get(name, 0.0) < amount - _TINY for name, amount in needs.items()):
            return False
        if demand.gpus:
            fitting = [i for i, left in enumerate(self.gpus) if left >= demand.gpus - _TINY]
            if not fitting:
                return False
            self.gpus[min(fitting, key=lambda i: self.gpus[i])] -= demand.gpus
        for name, amount in needs.items():
            self.left[name] -= amount
        return True


def _refusal(demand: Demand, nodes: Sequence[Node], waited: float | None) -> str:
    alive = [node for node in nodes if node["Alive"]]
    fitting = [node for node in alive if not demand.bound or _carries(node, demand.member)]
    best = {name: max((n["Resources"].get(name, 0) for n in fitting), default=0) for name in demand.needs}
    have = "its largest node has" if waited is None else "free on a node are"
    short = [
        f"{name}: asked {amount:g}, {have} {best[name]:g}"
        for name, amount in demand.needs.items()
        if best[name] < amount - _TINY
    ]
    why = "; ".join(short) or "the nodes are full with the other sites"
    when = "" if waited is None else f" and has waited {waited:.0f} s for room that others hold"
    what = "has" if waited is None else "has free"
    return (
        f"site '{demand.member}' cannot be placed ({demand}){when}: {why}. The cluster {what} {len(alive)} node(s) "
        f"with {_total(alive, 'CPU'):g} CPU and {_total(alive, 'GPU'):g} GPU in all; see resources.cpus_per_site "
        "and resources.gpus_per_site."
    )


def _carries(node: Node, member: str) -> bool:
    return (node.get("Labels") or {}).get("site") == member or f"site:{member}" in node["Resources"]


def _demand(member: str, own: Sequence[Node], cpus: float, gpus: float) -> Demand:
    if any((node.get("Labels") or {}).get("site") == member for node in own):
        return Demand(member, cpus, gpus, labels={"site": member})
    return Demand(member, cpus, gpus, resources={f"site:{member}": 0.001} if own else {})


def _share(members: int, nodes: Sequence[Node], name: str) -> float:
    """The share of one member, at most 1. With more members than units it is a fraction: n members fill one unit."""
    units = sum(math.floor(node["Resources"].get(name, 0)) for node in nodes)
    return min(1.0, math.floor(1e4 / math.ceil(members / units)) / 1e4) if units else 0.0


def _total(nodes: Sequence[Node], name: str) -> float:
    return float(sum(node["Resources"].get(name, 0) for node in nodes))
