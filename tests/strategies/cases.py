"""Every strategy of the registry, and every toy, as a small federation: what the laws run over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny import NETWORKS, UNET, Federation
from toys import TOYS, Toy

from fedrecon.strategies import STRATEGIES

CASES: dict[str, Toy] = {
    **{name: Toy(kind, network=NETWORKS.get(name, {})) for name, kind in STRATEGIES.items()},
    "scaffold_sgd": Toy(STRATEGIES["scaffold"], training={"optimizer": "sgd"}),
    "fedmri_dual": Toy(STRATEGIES["fedmri"], network={"name": "dual_domain"}),
    "fedavg_keep": Toy(STRATEGIES["fedavg"], training={"optimizer_state": "keep", "schedule": "cosine"}),
    **TOYS,
}


def federation(
    name: str, paths: Mapping[str, Path], memory: Path | None = None, more: Any = None, **changes: Any
) -> Federation:
    """The case at these sites; ``more`` are parameters of its strategy, ``changes`` fields of the federation."""
    case = CASES[name]
    method = case.kind(**{**case.parameters, **(more or {})})
    network = {**UNET, **case.network, **changes.pop("network", {})}
    training = {**case.training, **changes.pop("training", {})}
    return Federation(method, paths, memory, network, training, **changes)
