"""``fedrecon init``: an experiment for the data at hand, of a size that fits this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.overrides import apply_overrides
from fedrecon.platform.config.plugins import registry
from fedrecon.platform.config.tasks import TASKS
from fedrecon.platform.config.yaml_text import write_yaml
from fedrecon.platform.consortium.budget import budgets
from fedrecon.platform.consortium.checks import check_experiment
from fedrecon.platform.consortium.network import check_network
from fedrecon.platform.consortium.pace import seconds_per_slice, work
from fedrecon.platform.consortium.shards import n_slices, open_sites
from fedrecon.platform.setup.machine import GIB, Machine, hdf5_folders
from fedrecon.sites import atomic
from fedrecon.sites.errors import InputError
from fedrecon.sites.phases import phase
from fedrecon.sites.sizes import duration

if TYPE_CHECKING:
    from fedrecon.sites.data.shard import Shard

WANTED_SECONDS = 20 * 60
"""The duration that the number of rounds is chosen for."""

ROUNDS = (5, 50)
"""The smallest and the largest number of rounds that are chosen."""

ACCELERATIONS = (4, 3, 2)
"""What is tried in turn: the masks of a small matrix may not reach the first one."""

BYTES = 256
"""Bytes of memory of a training step, for each pixel of a batch and channel of the U-Net's first level, with a margin.

The U-Net alone takes 133 to 145 (measured: 8 and 16 channels, 128 and 256 pixels, batches of 2 and 4). The rest is for
k-space and coil maps, which 32 coils fill.
"""

PROCESS = 0.7 * GIB
"""Memory that the process of a site takes before it has any data."""


@dataclass(frozen=True)
class Draft:
    """An experiment that can run, and has not been written yet.

    Attributes:
        raw: the content of the file. experiment: the same, validated. shards: its shards, by site.
        machine: what its size was chosen for.
        pace: seconds of training per slice, measured here; None if the shards are on other nodes.
    """

    raw: Mapping[str, Any]
    experiment: Experiment
    shards: Mapping[str, Shard]
    machine: Machine
    pace: float | None

    @cached_property
    def seconds(self) -> float | None:
        """Roughly how long the run takes on this machine."""
        one, at_once = self.experiment, _at_once(self.experiment, self.machine, len(self.shards))
        if self.pace is None:
            return None
        trained = sum(budget.slices for budget in budgets(one, self.shards).values())
        limits = one.evaluation.slices_of
        scored = (self._count(split, limits(split)) for split in ("validation", "test"))
        return self.pace * work(one, trained, *scored) / at_once

    @property
    def facts(self) -> list[str]:
        """What the file was written for, one line each."""
        volumes = [volume for shard in self.shards.values() for volume in shard.volumes]
        sizes = sorted({volume.shape for volume in volumes})
        matrix = " to ".join(dict.fromkeys(f"{y} x {x}" for y, x in (sizes[0], sizes[-1])))
        coils = max(volume.n_coils for volume in volumes)
        sites = f"{len(self.shards)} site{'s' * (len(self.shards) > 1)} ({', '.join(self.shards)})"
        slices = f"{self._count('train')} training slices of {matrix}, {coils} coil{'s' * (coils > 1)} at most"
        took = [] if self.seconds is None else [f"It takes roughly {duration(self.seconds)} there."]
        return [f"{sites}: {slices}.", f"Its size fits the machine on which it was written: {self.machine}.", *took]

    def text(self) -> str:
        """The content of the file, as YAML."""
        head = ["# Written by fedrecon init.", *(f"# {one}" for one in self.facts)]
        body = write_yaml(dict(self.raw), default_flow_style=None, width=110)
        return "\n".join(head) + "\n" + body

    def write(self, path: Path, overwrite: bool = False) -> None:
        """Writes the file.

        Raises:
            InputError: the file exists, and may not be replaced.
        """
        refuse_existing(path, overwrite)
        atomic.write_text(path, self.text())

    def _count(self, split: str, limit: int | None = None) -> int:
        return sum(n_slices(shard, split, limit) for shard in self.shards.values())


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Refuses to write over a file, or in place of a folder.

    Raises:
        InputError: there is one.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: --out names the file, such as {path / 'experiment.yaml'}")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: name another file with --out, or replace it with --overwrite")


def find_sites(below: Path = Path("data")) -> str:
    """The one folder of shards in or below ``data/``.

    Raises:
        InputError: there is none, or there are several.
    """
    folders = hdf5_folders(below)
    if len(folders) == 1:
        return str(folders[0])
    found = f"several folders below {below}/ hold HDF5 files: {', '.join(map(str, folders[:8]))}" if folders else ""
    raise InputError(f"--sites is needed: {found or f'no folder below {below}/ holds a shard (*.h5)'}")


def draft(sites: str, overrides: Sequence[str] = (), machine: Machine | None = None) -> Draft:
    """Chooses an experiment, checks it as a run does, and times a few of its training steps.

    Args:
        sites: folder of shards. overrides: ``key.path=value``, which are kept as they are given.
        machine: what the sizes are chosen for; None looks at this machine.

    Raises:
        InputError: the shards cannot train or be scored, or an override is wrong.
    """
    with phase("loading torch"):
        import torch

    shards, machine = open_sites(sites, key="--sites"), machine or Machine.here()
    raw, experiment = _accepted(proposal(sites, shards, machine, overrides), shards, overrides)
    while True:
        try:
            with phase("timing a training step"):
                pace = seconds_per_slice(experiment, shards) if experiment.trains else None
        except (torch.OutOfMemoryError, MemoryError):
            if (batch := experiment.training.batch_size // 2) < 1:
                raise
            raw, experiment = _changed(raw, {"batch_size": batch})
            continue
        break
    made = Draft(raw, experiment, shards, machine, pace)
    if made.seconds and _given(overrides, "training", "rounds") is None:
        fitting = int(experiment.rounds * WANTED_SECONDS / made.seconds)
        rounds = min(max(fitting, ROUNDS[0]), ROUNDS[1])
        raw, experiment = _changed(
            raw, {"rounds": rounds}, max(rounds // 5, 1) if _given(overrides, "evaluation", "every") is None else None
        )
    return Draft(raw, experiment, shards, machine, pace)


def accepted(sites: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What :func:`draft` chooses before it times anything.

    Raises:
        InputError: see :func:`draft`.
    """
    shards = open_sites(sites, key="--sites")
    return _accepted(proposal(sites, shards, Machine.here(), overrides), shards, overrides)[0]


def proposal(
    sites: str, shards: Mapping[str, Shard], machine: Machine, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """The content of the file before the overrides: method, network, and sizes for this machine."""
    task = TASKS.get(str(_given(overrides, "task")), TASKS["reconstruction"])
    strategies, name = registry("strategies"), str(_given(overrides, "strategy", "name"))
    kind = strategies[name].network_kind if name in strategies else "reconstruction"
    network = task.networks[kind][1]
    channels, batch, in_process = sizes(shards, machine)
    rounds = _given(overrides, "training", "rounds") or 10
    return {
        "name": Path(sites).name or "experiment",
        "sites": str(Path(sites).absolute()),
        "task": next(key for key, one in TASKS.items() if one is task),
        task.block: dict(task.default),
        "strategy": {"name": "fedavg"},
        "network": {"name": network, **({"channels": channels} if network == "unet" else {})},
        "training": {"rounds": 10, "local_epochs": 1, "batch_size": batch, "optimizer": "adam", "learning_rate": 0.001},
        "evaluation": {"every": max(rounds // 5, 1) if isinstance(rounds, int) else 5},
        "resources": {
            "gpus_per_site": "auto",
            "cpus_per_site": "auto",
            **({"crew": "in-process"} if in_process else {}),
        },
        "seed": 0,
    }


def sizes(shards: Mapping[str, Shard], machine: Machine) -> tuple[int, int, bool]:
    """The channels of the U-Net and the batch size that fit, and whether the sites must share one process.

    Half of the memory is used. The sites share it: those of the GPUs, or that of the machine.
    """
    pixels = max(volume.shape[0] * volume.shape[1] for shard in shards.values() for volume in shard.volumes)
    slices = min(max(n_slices(shard, "train"), 1) for shard in shards.values())
    in_process = not machine.gpus and 0 < machine.memory < 2 * PROCESS * (len(shards) + 1)
    if machine.gpus:
        widest, most = 32, 8
        at_a_gpu = -(-len(shards) // len(machine.gpus))
        room = min(gpu.free for gpu in machine.gpus) / 2 / at_a_gpu
    else:
        widest, most = 16, 4
        room = (machine.memory or 4 * GIB) / 2 / (1 if in_process else len(shards))
    for channels in (one for one in (32, 16, 8) if one <= widest):
        fitting = int(room / (BYTES * pixels * channels))
        if fitting >= 1:
            batch = max(one for one in (1, 2, 4, 8) if one <= min(fitting, most, slices))
            return channels, batch, in_process
    return 8, 1, in_process


def _accepted(
    first: Mapping[str, Any], shards: Mapping[str, Shard], overrides: Sequence[str]
) -> tuple[dict[str, Any], Experiment]:
    """The first variant of the proposal that a run would accept; the refusal of the first one, if there is none."""
    if _given(overrides, "sites") is not None:
        raise InputError("sites: --sites names the folder of shards")
    refused = None
    for rate in ACCELERATIONS if "operator" in first else (0,):
        raw = {**first, **({"operator": {**first["operator"], "acceleration": rate}} if rate else {})}
        raw = apply_overrides(raw, overrides)
        try:
            experiment = Experiment.read(raw)
            check_experiment(experiment, shards)
            check_network(experiment, shards)
        except InputError as error:
            refused = refused or error
            continue
        return raw, experiment
    assert refused is not None
    raise refused


def _changed(
    raw: Mapping[str, Any], training: Mapping[str, Any], every: int | None = None
) -> tuple[dict[str, Any], Experiment]:
    changed = {**raw, "training": {**raw["training"], **training}}
    if every is not None:
        changed["evaluation"] = {**raw["evaluation"], "every": every}
    return changed, Experiment.read(changed)


def _given(overrides: Sequence[str], *keys: str) -> Any:
    """The value that the overrides give to a key; None if they give none."""
    value: Any = apply_overrides({}, overrides)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _at_once(experiment: Experiment, machine: Machine, sites: int) -> int:
    """The number of sites that compute at the same time."""
    if experiment.resources.crew == "in-process":
        return 1
    places = len(machine.gpus) or machine.cores // experiment.resources.threads
    return max(min(places, sites), 1)
