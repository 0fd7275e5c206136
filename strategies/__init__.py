"""The registry of strategies. Each strategy is one file, and one entry here. Importing this package loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrecon.sites.extension.registry import name_of
from fedrecon.sites.plugin import choose
from fedrecon.strategies.ditto import Ditto
from fedrecon.strategies.fedadam import FedAdam
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.fedbn import FedBN
from fedrecon.strategies.feddiff import FedDiff
from fedrecon.strategies.fedgimp import FedGIMP
from fedrecon.strategies.fedmri import FedMRI
from fedrecon.strategies.fedper import FedPer
from fedrecon.strategies.fedprox import FedProx
from fedrecon.strategies.fedyogi import FedYogi
from fedrecon.strategies.hyperfed import HyperFed
from fedrecon.strategies.lg_fedavg import LGFedAvg
from fedrecon.strategies.local import Local
from fedrecon.strategies.pooled import Pooled
from fedrecon.strategies.pooled_feddiff import PooledFedDiff
from fedrecon.strategies.scaffold import Scaffold
from fedrecon.strategies.strategy import Strategy

__all__ = ["STRATEGIES", "Strategy", "make_strategy", "strategy_name"]

STRATEGIES: dict[str, type[Strategy]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "scaffold": Scaffold,
    "fedper": FedPer,
    "lg_fedavg": LGFedAvg,
    "fedbn": FedBN,
    "fedmri": FedMRI,
    "hyperfed": HyperFed,
    "ditto": Ditto,
    "fedgimp": FedGIMP,
    "feddiff": FedDiff,
    "local": Local,
    "pooled": Pooled,
    "pooled_feddiff": PooledFedDiff,
}


def make_strategy(name: str, parameters: Mapping[str, Any]) -> Strategy:
    """The strategy with this name and these parameters.

    Raises:
        InputError: the name or a parameter is unknown (the message gives the nearest right one), or a value is refused.
    """
    return choose("strategy", STRATEGIES, name, parameters)


def strategy_name(strategy: Strategy) -> str:
    """The name of the strategy in the registry."""
    return name_of("strategies", STRATEGIES, type(strategy))
