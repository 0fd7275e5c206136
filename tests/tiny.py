"""A consortium of three tiny sites, and a strategy federated over it in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedrecon.platform.consortium.network import images
from fedrecon.platform.consortium.shards import n_slices
from fedrecon.platform.execution.executor import InProcessExecutor
from fedrecon.platform.federation.recorder import Round
from fedrecon.platform.federation.round_loop import federate
from fedrecon.platform.federation.score_gate import ScoreGate
from fedrecon.platform.storage.checkpoint import Checkpoints
from fedrecon.sites.acquisition.degraded import Degraded
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import Shard, VolumeData, write_shard
from fedrecon.sites.member.network import new_network
from fedrecon.sites.member.site_plan import SitePlan
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.training.parameters import Parameters, to_vector
from fedrecon.sites.training.settings import Training
from fedrecon.sites.wire import State
from fedrecon.strategies import STRATEGIES
from fedrecon.strategies.networks.choice import NetworkChoice
from fedrecon.strategies.strategy import Strategy

SIZE = 32
N_TRAIN = {"north": 3, "middle": 1, "south": 2}
"""Training slices of each site: weights 1/2, 1/6 and 1/3."""

UNET = {"name": "unet", "channels": 2, "pools": 1}

MSCAN = {"name": "mscan", "channels": 2, "groups": 1, "blocks": 1}

STYLE = {"name": "style", "latent": 8, "layers": 2, "channel_base": 128, "channel_max": 4, "skips": True}

DENOISER = {"name": "denoiser", "channels": 4, "pools": 1, "hidden": 8}

NETWORKS: dict[str, Mapping[str, Any]] = {
    "fedbn": {**UNET, "norm": "batch"},
    "hyperfed": {"name": "film", "cascades": 1, "channels": 2, "pools": 1, "hidden": 4},
    **{name: STYLE for name, kind in STRATEGIES.items() if kind.network_kind == "prior"},
    **{name: DENOISER for name, kind in STRATEGIES.items() if kind.network_kind == "denoiser"},
}
"""What a strategy needs of the network, where it is not the small U-Net."""

PARAMETERS: dict[str, Mapping[str, Any]] = {
    "fedgimp": {"adaptation": {"steps": 3, "batch": 2}},
    "feddiff": {"splitting": {"steps": 2, "batch": 2}},
    "pooled_feddiff": {"splitting": {"steps": 2, "batch": 2}},
}
"""A strategy's own, where its defaults are a long work."""

EXPLODES: dict[str, Any] = {"optimizer": "sgd", "loss": {"mse": 1000}, "learning_rate": 1000.0}
"""Settings within their bounds under which a training ends in infinity, in its second round."""

RECONSTRUCTS = [name for name, kind in STRATEGIES.items() if kind.network_kind == "reconstruction"]
"""The strategies that train what reconstructs, and no prior."""

NOISE = 1e-3
_COILS = {"north": 1, "middle": 2, "south": 1}
_AXES = (-2, -1)


def smooth_images(
    n: int, rng: np.random.Generator, shape: tuple[int, int] = (SIZE, SIZE)
) -> np.ndarray[Any, np.dtype[np.complex128]]:
    """(n, y, x) complex: smooth texture inside an ellipse, with a smooth phase."""
    y, x = (np.linspace(-1, 1, size) for size in shape)
    radius = np.hypot(y[:, None] / 0.8, x[None, :] / 0.7)
    low = np.exp(-40 * (np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.fftfreq(shape[1]) ** 2))
    texture, phase = (np.fft.ifft2(np.fft.fft2(rng.standard_normal((n, *shape))) * low**power).real for power in (1, 8))
    return (radius < 1) * (1 + texture / texture.std() / 4) * np.exp(3j * phase)


def make_volume(
    name: str, split: str, n: int, coils: int, seed: int, shape: tuple[int, int] = (SIZE, SIZE)
) -> VolumeData:
    rng = np.random.default_rng(seed)
    weights = np.exp(1j * np.arange(coils)) * (1 + np.linspace(-0.5, 0.5, shape[1])[:, None] * np.arange(coils))
    coil_images = smooth_images(n, rng, shape)[:, None] * weights.T[None, :, None, :] / coils**0.5
    shifted = np.fft.fft2(np.fft.ifftshift(coil_images, axes=_AXES), norm="ortho")
    kspace = np.fft.fftshift(shifted, axes=_AXES)
    kspace = kspace + NOISE * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    back = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=_AXES), norm="ortho"), axes=_AXES)
    reference = np.sqrt((np.abs(back) ** 2).sum(1)).astype(np.float32)
    return VolumeData(name, name, split, kspace.astype(np.complex64), reference, NOISE)


def write_consortium(folder: Path) -> dict[str, Path]:
    """Three shards; one has two coils, and no two have the same number of training slices."""
    paths = {}
    for k, (site, n) in enumerate(N_TRAIN.items()):
        volumes = [
            make_volume(f"{site}-{split}", split, count, _COILS[site], 10 * k + j)
            for j, (split, count) in enumerate({"train": n, "validation": 2, "test": 2}.items())
        ]
        paths[site] = folder / f"{site}.h5"
        write_shard(paths[site], site, volumes, simulated=True, phase="smooth", origin="phantom")
    return paths


class Commits:
    """A record that commits to disk and keeps what it saw; ``dies_at`` falls just before that round's commit."""

    def __init__(self, folder: Path | None, dies_at: int | None = None) -> None:
        self.checkpoints = None if folder is None else Checkpoints(folder)
        self.dies_at, self.rounds, self.states = dies_at, list[Round](), list[State]()
        self.ended, self.kept = False, dict[str, Any]()

    def commit(self, finished: Round, state: State, seen: Any) -> None:
        if finished.number == self.dies_at:
            raise KeyboardInterrupt
        self.rounds.append(finished)
        self.states.append(state)
        if self.checkpoints is not None:
            self.checkpoints.save(state, {})

    def picture(self, step: int, pictures: Mapping[str, bytes]) -> None:
        """Keeps none."""


@lru_cache(maxsize=64)
def _opened(path: Path, changed: int) -> Shard:
    """What a driver reads of a shard. The sites open and check it themselves, each of them and each time."""
    return Shard.open(path)


@dataclass(frozen=True)
class Federation:
    """A strategy over the sites ``paths``, their private memory under ``memory``.

    With ``scored`` the last round is scored before its commit.
    """

    method: Strategy
    paths: Mapping[str, Path]
    memory: Path | None = None
    network: Mapping[str, Any] = field(default_factory=lambda: UNET)
    training: Mapping[str, Any] = field(default_factory=dict)
    operator: Mapping[str, Any] = field(default_factory=lambda: {"mask": "random", "acceleration": 3})
    per_site: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    degradation: Mapping[str, Any] | None = None
    seed: int = 0
    rounds: int = 3
    scored: bool = False

    @cached_property
    def shards(self) -> dict[str, Shard]:
        return {name: _opened(path, path.stat().st_mtime_ns) for name, path in self.paths.items()}

    @property
    def roster(self) -> dict[str, tuple[str, ...]]:
        return self.method.roster(list(self.paths))

    @cached_property
    def n_slices(self) -> dict[str, int]:
        return {m: sum(n_slices(self.shards[site], "train", None) for site in held) for m, held in self.roster.items()}

    def plans(self) -> list[SitePlan]:
        settings = {"rounds": self.rounds, "batch_size": 2, "learning_rate": 0.01, **self.training}
        kinds = images(self.shards, (self.degradation or {}).get("scale", 1))
        return [
            SitePlan(
                member=member,
                shards={site: str(self.paths[site]) for site in held},
                contents={site: self.shards[site].content_hash for site in held},
                operators={site: self.acquisition(site) for site in held},
                method=self.method,
                network=NetworkChoice.parse(self.network),
                images=kinds,
                training=Training(**settings),
                evaluation=Evaluation(),
                seed=self.seed,
                memory=None if self.memory is None else str(self.memory / member),
            )
            for member, held in self.roster.items()
        ]

    def acquisition(self, site: str) -> Acquisition:
        if self.degradation is not None:
            return Degraded.read({**self.degradation, **self.per_site.get(site, {})})
        return Undersampling.read({**self.operator, **self.per_site.get(site, {})})

    @property
    def gate(self) -> ScoreGate:
        operators = {site: self.acquisition(site) for site in self.paths}
        return ScoreGate(self.shards, operators, self.roster, Evaluation(), self.method.has_spread)

    def executor(self) -> InProcessExecutor:
        return InProcessExecutor(self.plans())

    @cached_property
    def layout(self) -> Parameters:
        plan = self.plans()[0]
        model = new_network(self.method, plan.network, plan.images, self.seed)
        return Parameters(model, lambda name: self.method.shares(name, model))

    def begin(self) -> State:
        return self.method.begin(to_vector(self.layout.shared), self.layout.buffers)

    def train(self, executor: Any = None, record: Any = None, state: State | None = None) -> State:
        experiment = SimpleNamespace(
            method=self.method,
            rounds=self.rounds,
            scores_due=lambda number: self.scored and number == self.rounds,
            evaluation=Evaluation(panels=False),
            personalise=None,
        )
        return federate(
            experiment,  # type: ignore[arg-type]
            executor or self.executor(),
            self.gate,
            record or Commits(None),
            state or self.begin(),
            self.n_slices,
        )


def bits(state: State) -> dict[str, bytes]:
    """All vectors of a state, by name."""
    return {
        "shared": state.shared.tobytes(),
        **{name: value.tobytes() for name, value in state.extra.items()},
    }


def private_bits(executor: InProcessExecutor) -> dict[str, dict[str, bytes]]:
    """The private memory of every member."""
    return {
        member: {name: value.tobytes() for name, value in sorted(site.memory.values.items())}
        for member, site in executor.sites.items()
    }


def freeze(*vectors: np.ndarray[Any, Any] | Sequence[Any]) -> None:
    """Makes arrays read-only, as Ray's store does: whoever writes into one raises."""
    for one in vectors:
        assert isinstance(one, np.ndarray)
        one.setflags(write=False)
