"""A small federation for the laws of strategies: three simulated sites of a few slices, on this machine, in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrecon.platform.consortium.network import images
from fedrecon.platform.execution.executor import InProcessExecutor
from fedrecon.platform.federation.reply_gate import ReplyGate, check_merged
from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import Shard, VolumeData, write_shard
from fedrecon.sites.imaging.numpy_fourier import fft2c_numpy
from fedrecon.sites.member.network import new_network
from fedrecon.sites.member.site_plan import SitePlan
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.training.parameters import Parameters, to_vector
from fedrecon.sites.training.settings import Training
from fedrecon.strategies.networks.choice import NetworkChoice

if TYPE_CHECKING:
    from fedrecon.sites.wire import State, TrainReply
    from fedrecon.strategies import Strategy
    from fedrecon.strategies.mean import Replies

N_TRAIN = {"north": 3, "middle": 1, "south": 2}
"""Training slices of each site."""

SIZE = 16


def write_sites(folder: Path) -> dict[str, Path]:
    """Three shards of noisy discs with a smooth phase."""
    y, x = np.meshgrid(*2 * [np.linspace(-1, 1, SIZE)], indexing="ij")
    paths = {}
    for number, (site, count) in enumerate(N_TRAIN.items()):
        volumes = []
        for split, n in {"train": count, "validation": 1, "test": 1}.items():
            draws = np.random.default_rng([number, n, len(split)])
            disc = (np.hypot(x, y) < 0.7) * (1 + 0.2 * draws.standard_normal((n, SIZE, SIZE)))
            image = (disc * np.exp(1j * x)).astype(np.complex64)
            kspace = fft2c_numpy(image[:, None])
            volumes.append(VolumeData(f"{site}-{split}", f"{site}-{split}", split, kspace, np.abs(image), 1e-3))
        paths[site] = folder / f"{site}.h5"
        write_shard(paths[site], site, volumes, simulated=True, phase="smooth", origin="phantom")
    return paths


@dataclass(frozen=True)
class Toy:
    """A strategy over the toy sites.

    Attributes:
        method: the strategy. network: its network. paths: the shards by site.
        memory: folder of the sites' private memory; it must be new for each run.
        training: settings that differ from their defaults.
    """

    method: Strategy
    network: NetworkChoice
    paths: Mapping[str, Path]
    memory: Path
    training: Mapping[str, Any] = field(default_factory=dict)
    acceleration: float = 2.0
    rounds: int = 2

    def of(self, method: Strategy | None = None, **changes: Any) -> Toy:
        """Another run, with a memory of its own."""
        number = sum(1 for _ in self.memory.parent.iterdir())
        memory = self.memory.parent / f"run-{number}"
        memory.mkdir()
        return replace(self, method=method or self.method, memory=memory, **changes)

    @cached_property
    def shards(self) -> dict[str, Shard]:
        """The shards by site."""
        return {name: Shard.open(path) for name, path in self.paths.items()}

    @property
    def roster(self) -> dict[str, tuple[str, ...]]:
        """The members, with the sites that each holds."""
        return self.method.roster(list(self.paths))

    @property
    def n_slices(self) -> dict[str, int]:
        """The number of training slices of each member."""
        return {member: sum(N_TRAIN[site] for site in held) for member, held in self.roster.items()}

    @cached_property
    def layout(self) -> Parameters:
        """The parameters of the network."""
        model = new_network(self.method, self.network, images(self.shards), 0)
        return Parameters(model, lambda name: self.method.shares(name, model))

    def executor(self) -> InProcessExecutor:
        """New sites, which know nothing but what is in the memory on disk."""
        settings = Training(**{"rounds": self.rounds, "batch_size": 2, "learning_rate": 0.01, **self.training})
        operator = Undersampling.read({"mask": "random", "acceleration": self.acceleration, "center_fraction": 0.2})
        return InProcessExecutor([
            SitePlan(
                member=member,
                shards={site: str(self.paths[site]) for site in held},
                operators=dict.fromkeys(held, operator),
                method=self.method,
                network=self.network,
                images=images(self.shards),
                training=settings,
                evaluation=Evaluation(),
                seed=0,
                memory=str(self.memory / member),
            )
            for member, held in self.roster.items()
        ])  # fmt: skip

    def begin(self) -> State:
        """The state of round 0."""
        return self.method.begin(to_vector(self.layout.shared))

    def replies(self, executor: InProcessExecutor, state: State) -> Replies:
        """The replies to the next round's request, checked as in a run. Nobody can write to what is sent."""
        return self._asked(executor, state)[1]

    def train(self, executor: InProcessExecutor, state: State, until: int | None = None) -> State:
        """The state after the round ``until``; None takes the last round."""
        while state.round < (self.rounds if until is None else until):
            freeze([state.shared, *state.extra.values()])
            gate, replies = self._asked(executor, state)
            merged = self.method.merge(state, replies, self.n_slices)
            state = check_merged(merged, state, self.method).owned()
            gate.check_merge(replies, state, self.method)
        return state

    def _asked(self, executor: InProcessExecutor, state: State) -> tuple[ReplyGate, Replies]:
        request = self.method.request(state)
        freeze([request.shared, *request.extra.values()])
        sizes = self.method.reply_sizes(request)
        gate = ReplyGate(request, sizes, executor.members, executor.dead, self.n_slices)
        return gate, gate.checked(_frozen(executor.fit(request, reader=gate.reader)))

    @cached_property
    def trained(self) -> tuple[State, dict[str, Any]]:
        """The state after the last round of an uninterrupted run, and the private memory of all members."""
        executor = self.executor()
        return self.train(executor, self.begin()), private(executor)


def _frozen(replies: Iterable[TrainReply]) -> Iterator[TrainReply]:
    for reply in replies:
        freeze([reply.shared, *reply.extra.values()])
        yield reply


def vectors(state: State) -> dict[str, Any]:
    """All vectors of a state, by name."""
    return {"the shared parameters": state.shared, **state.extra}


def private(executor: InProcessExecutor) -> dict[str, Any]:
    """A copy of the private memory of all members, by member and name."""
    return {f"{m}'s {name}": v.copy() for m, site in executor.sites.items() for name, v in site.memory.values.items()}


def freeze(arrays: Iterable[Any]) -> None:
    """Makes arrays read-only, as those that come from another process are."""
    for one in arrays:
        one.setflags(write=False)
