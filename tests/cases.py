"""Every strategy of the registry, and every toy, as a small federation: what the laws run over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tiny import DENOISER, MSCAN, NETWORKS, PARAMETERS, STYLE, UNET, Federation, private_bits

from fedrecon.platform.execution.executor import InProcessExecutor
from fedrecon.platform.execution.wire_log import MakeReader, unread
from fedrecon.sites.member.site_plan import SitePlan
from fedrecon.sites.wire import TrainReply, TrainRequest
from fedrecon.strategies import STRATEGIES, Strategy

EVERY_OPTION = {
    "adaptation": {"steps": 4, "batch": 2, "variables": ["w", "noise", "weights"], "holdout": 0.1},
    "anchor": 2,
    "anchor_rounds": 1,
    "augmentation": "adaptive",
    "augmentation_images": 10,
    "moving_average": 0.5,
    "r1_every": 2,
}
"""Of FedGIMP, each at another value than the published one."""


EVERY_OPTION_OF_FEDDIFF = {
    "splitting": {"steps": 2, "batch": 2, "zeta": 1, "samples": 2},
    "mu": 0.1,
    "moving_average": 0.5,
    "private": ["sites"],
    "patch": 16,
}


@dataclass(frozen=True)
class Case:
    """A strategy with what it needs of the experiment."""

    kind: type[Strategy]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=lambda: UNET)
    training: Mapping[str, Any] = field(default_factory=dict)
    degradation: Mapping[str, Any] | None = None


X2 = {"kind": "kspace-truncation", "scale": 2}


def _plain(name: str) -> Case:
    kind = STRATEGIES[name]
    training = {"optimizer_state": "keep"} if kind.optimizer_state == "keep" else {}
    return Case(kind, PARAMETERS.get(name, {}), NETWORKS.get(name, UNET), training)


CASES: dict[str, Case] = {
    **{name: _plain(name) for name in STRATEGIES},
    "scaffold_sgd": Case(STRATEGIES["scaffold"], training={"optimizer": "sgd"}),
    "fedmri_dual": Case(STRATEGIES["fedmri"], network={**UNET, "name": "dual_domain"}),
    "fedavg_keep": Case(STRATEGIES["fedavg"], training={"optimizer_state": "keep", "schedule": "cosine"}),
    "fedavg_x2": Case(STRATEGIES["fedavg"], network=MSCAN, training={"patch": 16}, degradation=X2),
    "fedmri_x2": Case(STRATEGIES["fedmri"], network=MSCAN, degradation=X2),
    "pooled_bicubic": Case(STRATEGIES["pooled"], network=MSCAN, degradation={"kind": "bicubic", "scale": 2}),
    "fedgimp_reset": Case(STRATEGIES["fedgimp"], PARAMETERS["fedgimp"], STYLE),
    "fedgimp_full": Case(
        STRATEGIES["fedgimp"],
        EVERY_OPTION,
        {**STYLE, "content": "complex", "skips": False},
        {"optimizer_state": "keep", "augment": False},
    ),
    "feddiff_full": Case(
        STRATEGIES["feddiff"],
        EVERY_OPTION_OF_FEDDIFF,
        {**DENOISER, "content": "magnitude", "shuffle": 1},
        {"optimizer_state": "keep"},
    ),
}


def federation(
    name: str, paths: Mapping[str, Path], memory: Path | None = None, more: Any = None, **changes: Any
) -> Federation:
    """The case at these sites; ``more`` are parameters of its strategy, ``changes`` fields of the federation."""
    case = CASES[name]
    method = case.kind(**{**case.parameters, **(more or {})})
    network = {**case.network, **changes.pop("network", {})}
    training = {**case.training, **changes.pop("training", {})}
    changes = {"degradation": case.degradation, **changes}
    return Federation(method, paths, memory, network, training, **changes)


def fedavg_like(name: str, paths: Mapping[str, Path], **changes: Any) -> Federation:
    """FedAvg with the network, and on the images, of another case."""
    case = CASES[name]
    return Federation(STRATEGIES["fedavg"](), paths, network=case.network, degradation=case.degradation, **changes)


def all_scores(executor: InProcessExecutor, request: TrainRequest) -> list[Any]:
    return [one.columns for one in executor.evaluate(request, "validation")]


def vectors(reply: TrainReply) -> dict[str, bytes]:
    """All vectors of a reply, by name. They are views of the site's network."""
    return {"shared": reply.shared.tobytes(), **{name: vector.tobytes() for name, vector in reply.extra.items()}}


class Recorded(InProcessExecutor):
    """Keeps, of each fit, copies of the replies and the private memory that it left.

    Copies: the vectors of a reply are views of the site's network.
    """

    def __init__(self, plans: Sequence[SitePlan]) -> None:
        super().__init__(plans)
        self.replies, self.memories = list[list[TrainReply]](), list[dict[str, dict[str, bytes]]]()

    def fit(
        self, request: TrainRequest, without: Sequence[str] = (), reader: MakeReader = unread
    ) -> Iterator[TrainReply]:
        self.replies.append([])
        for reply in super().fit(request, without, reader):
            extra = {name: vector.copy() for name, vector in reply.extra.items()}
            self.replies[-1].append(replace(reply, shared=reply.shared.copy(), extra=extra))
            yield reply
        self.memories.append(private_bits(self))

    def left(self, number: int) -> tuple[dict[str, dict[str, bytes]], dict[str, dict[str, bytes]]]:
        """What the round left: the vectors of the replies by member, and the private memory."""
        return {reply.site: vectors(reply) for reply in self.replies[number - 1]}, self.memories[number - 1]
