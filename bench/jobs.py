"""The three jobs, each for the bare loop (``local``) and for fedrecon's own path (``strategy`` and ``plans``).

``train`` and ``comm`` do the work of :mod:`synthetic`, or that of another module of the same four names, called
``common``, if one can be imported: a benchmark of several products brings its own. ``mri`` is what fedrecon is for.
"""

# ruff: noqa: ARG002 - hooks and protocols hand over more than a benchmark takes

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import synthetic
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.data.shard_writer import write_shard
from fedrecon.sites.data.volume import VolumeData
from fedrecon.sites.imaging.measurement import Images
from fedrecon.sites.imaging.numpy_fourier import fft2c_numpy
from fedrecon.sites.member.network import new_network
from fedrecon.sites.member.site_plan import SitePlan
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.seeding import generator
from fedrecon.sites.training import losses
from fedrecon.sites.training.batches import Slices
from fedrecon.sites.training.method import LocalFit
from fedrecon.sites.training.settings import Training
from fedrecon.strategies.fedavg import FedAvg
from fedrecon.strategies.networks.choice import NetworkChoice
from fedrecon.strategies.strategy import Strategy

SEED = 1
SITES = {"train": 4, "comm": 8, "mri": 4}
CPU = torch.device("cpu")


@lru_cache(maxsize=1)
def work() -> Any:
    """The module that says what is trained on what."""
    return importlib.import_module("common") if importlib.util.find_spec("common") else synthetic


@lru_cache(maxsize=16)
def site_data(site: int) -> tuple[Tensor, Tensor]:
    """A site's images, made once in each process that trains on them."""
    data: tuple[Tensor, Tensor] = work().site_data(site)
    return data


class Train(FedAvg):
    """FedAvg on synthetic images: one call of ``step`` is a local epoch, in a fixed order."""

    neutral: ClassVar[Mapping[str, Any] | None] = None
    not_neutral: ClassVar[str] = "a benchmark"

    def build(self, network: Any, images: Images) -> nn.Module:
        """The module of the variant that ``network`` names."""
        module: nn.Module = work().build(network)
        return module

    def receive(self, fit: LocalFit) -> None:
        """Makes the site's images in the first round."""
        fit.scratch["images"] = site_data(fit.sites.index(fit.site))

    def step(self, fit: LocalFit, batch: Any) -> Mapping[str, Tensor]:
        """Plain gradient steps through all images of the site."""
        (optimizer,) = fit.optimizers
        return {"loss": epoch(fit.model, optimizer, *fit.scratch["images"])}


class Comm(Train):
    """FedAvg without training: what is left is the round."""

    def receive(self, fit: LocalFit) -> None:
        """Nothing to prepare."""

    def optimizers(self, fit: LocalFit) -> list[torch.optim.Optimizer]:
        """None: no step is taken."""
        return []

    def step(self, fit: LocalFit, batch: Any) -> Mapping[str, Tensor]:
        """Nothing but the loss, which every reply has."""
        return {"loss": torch.zeros(())}


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, noisy: Tensor, smooth: Tensor) -> Tensor:
    """One pass over the images; the loss of the last batch."""
    size, loss = work().BATCH, torch.zeros(())
    for start in range(0, len(noisy), size):
        optimizer.zero_grad(set_to_none=True)
        loss = F.mse_loss(model(noisy[start : start + size]), smooth[start : start + size])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return loss.detach()


class Job:
    """A job on shards in ``folder``, which it writes.

    Attributes:
        strategy, network: what fedrecon is given. n_slices: training slices of each member.
    """

    def __init__(self, variant: str, folder: Path, n_train: int = 1) -> None:
        self.variant, self.n_train = variant, n_train
        self.names = tuple(f"site{k}" for k in range(SITES[variant]))
        self.n_slices = dict.fromkeys(self.names, n_train)
        self.strategy: Strategy = {"train": Train, "comm": Comm}.get(variant, FedAvg)()
        self.network: Any = variant
        self.training = Training(optimizer="sgd", learning_rate=synthetic.LR, batch_size=synthetic.BATCH)
        self.operator = Undersampling.read({"mask": "random", "acceleration": 4})
        side = synthetic.SIDE
        self.images = Images(complex_valued=False, size=(side, side), n_coils=1, sites=self.names)
        self.shards = {name: str(folder / f"{name}.h5") for name in self.names}
        for name, path in self.shards.items():
            if not Path(path).is_file():
                write_site(Path(path), name, n_train)

    def plans(self) -> list[SitePlan]:
        """What each member is started with, as ``fedrecon run`` would make it."""
        return [
            SitePlan(
                member=name,
                shards={name: path},
                operators={name: self.operator},
                method=self.strategy,
                network=self.network,
                images=self.images,
                training=self.training,
                evaluation=Evaluation(panels=False),
                seed=SEED,
            )
            for name, path in self.shards.items()
        ]

    def model(self) -> nn.Module:
        """The network with its first weights."""
        return new_network(self.strategy, self.network, self.images, SEED)

    def local(self, model: nn.Module, index: int, round_number: int) -> None:
        """A site's work in the bare loop."""
        if self.variant == "train":
            epoch(model, torch.optim.SGD(model.parameters(), lr=work().LR), *site_data(index))

    def check(self, model: nn.Module) -> float:
        """The number that must agree between the columns."""
        return float(work().final_check(self.variant, model))


class Mri(Job):
    """Reconstruction from four-fold undersampled k-space by a U-Net: masks, measurement, augmentation and all."""

    def __init__(self, variant: str, folder: Path, n_train: int = synthetic.IMAGES, channels: int = 8) -> None:
        super().__init__(variant, folder, n_train)
        self.network = NetworkChoice.parse({"name": "unet", "channels": channels})
        self._slices: dict[tuple[str, str], Slices] = {}

    def slices(self, name: str, split: str) -> Slices:
        """A site's slices, opened once."""
        if (name, split) not in self._slices:
            shards = {name: Shard.open(self.shards[name])}
            self._slices[name, split] = Slices(shards, {name: self.operator}, split, CPU)
        return self._slices[name, split]

    def local(self, model: nn.Module, index: int, round_number: int) -> None:
        """One epoch by hand: the same batches, measurements and steps, and nothing around them."""
        name, number, training = self.names[index], round_number - 1, self.training
        slices = self.slices(name, "train")
        optimizer = torch.optim.SGD(model.parameters(), lr=training.learning_rate)
        model.train()
        for items in slices.batches(training.batch_size, generator(SEED, "order", name, number)):
            batch = slices.training(items, SEED, number, training.augment)
            optimizer.zero_grad(set_to_none=True)
            losses.of(training.loss, model(batch), batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    @torch.no_grad()
    def check(self, model: nn.Module) -> float:
        """The loss over the first site's validation slices."""
        slices = self.slices(self.names[0], "validation")
        batch = slices.scoring(slices.items, 0)
        model.eval()
        return float(losses.of(self.training.loss, model(batch), batch))


def write_site(path: Path, name: str, n_train: int) -> None:
    """A shard of smooth random images on a disc, with ``n_train`` training slices and 8 for validation."""

    def volume(split: str, n: int) -> VolumeData:
        rng = generator("bench", name, split)
        coarse = torch.from_numpy(rng.standard_normal((n, 1, 10, 10), dtype=np.float32))
        smooth = F.interpolate(coarse, size=(synthetic.SIDE, synthetic.SIDE), mode="bicubic")[:, 0].abs()
        y, x = np.mgrid[-1 : 1 : synthetic.SIDE * 1j, -1 : 1 : synthetic.SIDE * 1j]
        image = np.ascontiguousarray(smooth.numpy() * (x**2 + y**2 < 0.8), dtype=np.float32)
        kspace = fft2c_numpy(image.astype(np.complex64))[:, None]
        return VolumeData(f"{name}-{split}", f"{name}-{split}", split, kspace, image, noise=0.0)

    write_shard(path, name, [volume("train", n_train), volume("validation", 8)], simulated=True, phase="none")


def make(variant: str, folder: Path) -> Job:
    """The job of a variant at its full size."""
    return (Mri if variant == "mri" else Job)(variant, folder)
