"""What of an experiment MLflow shows beside its scores: parameters, the data of each site, and the trained network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fedrecon.platform.consortium.network import private_members
from fedrecon.platform.federation.mosaic import PANELS, SAMPLES
from fedrecon.platform.inference.mlflow_model import EXPERIMENT, PRIVATE, WEIGHTS
from fedrecon.platform.storage.journal import DatasetRecord
from fedrecon.platform.storage.tracking.models import SETTINGS
from fedrecon.sites import atomic, debris
from fedrecon.sites.data.volume import SPLITS

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.storage.tracking.tracker import Tracker
    from fedrecon.platform.storage.workspace import RunFolder
    from fedrecon.sites.data.shard import Shard

_OF_TRAINING = ("strategy.name", "network.name", "network.channels", "training.rounds")
_OF_METHOD = ("reconstructor.name",)
_OF_ALL = ("operator.mask", "operator.acceleration", "degradation.kind", "degradation.scale", "sites", "seed")


def params(experiment: Experiment, searched: Iterable[str] = ()) -> dict[str, str]:
    """The parameters in MLflow: those that tell runs apart, those of a ``test`` block, and those that a sweep searches.

    All settings of the experiment are in the artifact ``experiment.json``.

    Args:
        searched: dotted keys; a key of a block stands for all keys in it.
    """
    given = experiment.flat()
    shown = (*(_OF_TRAINING if experiment.trains else _OF_METHOD), *_OF_ALL, *searched)
    found = {key: given[key] for key in shown if key in given}
    found |= {key: value for key, value in given.items() for one in ("test", *searched) if key.startswith(f"{one}.")}
    tested = experiment.test.sites if experiment.test else None
    for key, sites in {"sites": experiment.sites, "test.sites": tested}.items():
        if isinstance(sites, Mapping):  # their names: MLflow gets no path of a shard
            found = {one: value for one, value in found.items() if not one.startswith(f"{key}.")}
            found[key] = ", ".join(sorted(sites))
    return {key: value for key, value in found.items() if value != "None"}


def picture_key(experiment: Experiment) -> str:
    """The key under which the pictures of the rounds are recorded; see :meth:`Scorer.picture`."""
    return SAMPLES if experiment.trains and experiment.method.is_prior else PANELS


def datasets(shards: Mapping[str, Shard], splits: Sequence[str] = SPLITS) -> list[DatasetRecord]:
    """The data of each site and split that has subjects: numbers, and the hash of the shard."""
    return [
        DatasetRecord(
            site,
            split,
            shard.content_hash,
            {
                "num_rows": sum(volume.n_slices for volume in volumes),
                "subjects": len({volume.subject for volume in volumes}),
                "volumes": len(volumes),
                "slices": sum(volume.n_slices for volume in volumes),
                "simulated": shard.simulated,
            },
        )
        for site, shard in shards.items()
        for split in splits
        if (volumes := shard.split(split))
    ]


def write_models(
    tracker: Tracker,
    folder: RunFolder,
    experiment: Experiment,
    layout: Any,
    images: Any,
    step: int,
    private: Mapping[str, Mapping[str, Any]],
) -> None:
    """Writes the trained network as a model; one for each member of ``private``, if members have networks of their own.

    The run's weights must be among its artifacts already.

    Args:
        layout: the network's parameters; None if nothing was trained.
        images: the images for which the network was built. step: the round of the weights.
        private: the private parameters, by name, of each member that agreed to publish its own.
    """
    weights = folder.journal().artifact_path(WEIGHTS)
    if layout is None or weights is None:
        return
    from safetensors.numpy import save_file

    members, _ = private_members(experiment, layout, images.sites)
    for member in [one for one in private if one in members] if members else [""]:
        with debris.scratch(folder.path) as into:
            atomic.write_json(into / EXPERIMENT, experiment.as_dict())
            atomic.write_json(into / SETTINGS, _described(experiment, images, member))
            files = [weights, into / EXPERIMENT, into / SETTINGS]
            if member:
                save_file({name: value.copy() for name, value in private[member].items()}, into / PRIVATE)
                files.append(into / PRIVATE)
            tracker.model(member or "network", step, files)


def _described(experiment: Experiment, images: Any, member: str) -> dict[str, Any]:
    kspace, mask = {"type": "complex64", "axes": 4}, {"type": "bool", "axes": 3}
    inputs = {"kspace": kspace} if experiment.task == "super-resolution" else {"kspace": kspace, "mask": mask}
    return {"site": member, "images": asdict(images), "inputs": inputs}
