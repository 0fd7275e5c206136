"""A warm start: a training that begins with the network of a finished run (``training.start``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.network import layout_for
from fedrecon.platform.storage.run_lookup import find_run
from fedrecon.sites.errors import InputError

if TYPE_CHECKING:
    from fedrecon.sites.training.parameters import Parameters


def with_digest(chosen: Experiment, workspace: Path) -> Experiment:
    """The experiment whose ``training.start`` is the digest of the run that it names: a part of its own digest.

    Raises:
        InputError: there is no such finished run, or several.
    """
    if not chosen.trains or chosen.training.start is None:
        return chosen
    folder = find_run(workspace, chosen.training.start)
    digest = (folder.noted() or {}).get("trained_by") or folder.digest
    return Experiment.read({**chosen.as_dict(), "training": {**chosen.training.model_dump(), "start": digest}})


def start_values(experiment: Experiment, workspace: Path) -> dict[str, Any] | None:
    """The values of the network with which the training begins, by name; None without a warm start.

    Raises:
        InputError: the run trained no network, or each of its sites has a part of it for itself.
    """
    if not experiment.trains or experiment.training.start is None:
        return None
    from fedrecon.platform.inference.trained_run import TrainedRun

    source = TrainedRun.load(workspace, experiment.training.start)
    where = f"training.start: run {source.folder.digest}"
    if not source.experiment.trains:
        raise InputError(f"{where} trained no network")
    if source.members:
        raise InputError(f"{where}: its sites keep parts of the network for themselves; start from a shared network")
    layout = layout_for(source.experiment, source.images)
    named = layout.named(source.request.shared, shared=True)
    return {name: value.copy() for name, value in named.items()}


def begin_with(layout: Parameters, values: Mapping[str, Any] | None) -> None:
    """Writes the values into the network.

    Raises:
        InputError: they are of another network.
    """
    if values is None:
        return
    try:
        layout.load_all(values)
    except ValueError as error:
        raise InputError(f"training.start: {error}") from None
