"""A warm start: a training that begins with the network of a finished run (``training.start``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.checks import check_unseen, tell_once
from fedrecon.platform.federation.attendance import START, in_words, missed_by, of_start, of_training
from fedrecon.platform.inference.began_with import began_with
from fedrecon.platform.storage.run_lookup import ASIDE, find_run, network_of
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.data.splits import key_problems
from fedrecon.sites.errors import InputError

if TYPE_CHECKING:
    from fedrecon.sites.data.shard import Shard
    from fedrecon.sites.training.parameters import Parameters


def with_digest(chosen: Experiment, workspace: Path) -> Experiment:
    """The experiment whose ``training.start`` is the digest of the run that it names: a part of its own digest.

    Raises:
        InputError: there is no such finished run, or several; a rerun has set it aside, so another one can get its
            name; or it went on without sites that ``resources`` of this experiment ask for.
    """
    if not chosen.trains or chosen.training.start is None:
        return chosen
    folder = network_of(find_run(workspace, chosen.training.start))
    if ASIDE in folder.digest:
        raise InputError(f"training.start: run {folder.digest} was set aside by a rerun; name a run that stands")
    if not chosen.resources.allows({START: of_start(folder)}, missed_by(folder)[0]):
        missed = in_words(of_training(missed_by(folder)[1]))
        raise InputError(
            f"training.start: run {folder.digest} missed replies ({missed}), which resources.min_sites and "
            "resources.straggler of this experiment do not allow"
        )
    training = {**chosen.training.model_dump(), "start": folder.digest}
    return Experiment.read({**chosen.as_dict(), "training": training})


def start_values(experiment: Experiment, workspace: Path) -> dict[str, Any] | None:
    """The values of the network with which the training begins, by name; None without a warm start.

    Raises:
        InputError: the run trained no network, or each of its sites has a part of it for itself.
    """
    if not experiment.trains or experiment.training.start is None:
        return None
    from fedrecon.platform.inference.trained_run import TrainedRun

    source = TrainedRun.load(workspace, experiment.training.start, tell_once)
    where = f"training.start: run {source.folder.digest}"
    if not source.experiment.trains:
        raise InputError(f"{where} trained no network")
    if source.members:
        raise InputError(f"{where}: its sites keep parts of the network for themselves; start from a shared network")
    return source.network_values()


def missed_at_start(experiment: Experiment, workspace: Path) -> dict[str, str]:
    """The members that missed training in the run with whose network this one begins; empty without a warm start."""
    start = experiment.training.start if experiment.trains else None
    return {} if start is None else of_start(RunFolder(workspace, start))


def noted_start(experiment: Experiment, workspace: Path) -> dict[str, Any]:
    """What a run notes of the run that it begins with, as ``start``: its shards, and those before it.

    Raises:
        InputError: that run, or one before it, is not in the workspace, so nobody knows whom it saw.
    """
    return began_with(experiment.as_dict(), workspace) if experiment.trains else {}


def check_start(experiment: Experiment, tested: Mapping[str, Shard], workspace: Path) -> None:
    """Refuses to test a subject that the run of the warm start, or one before it, trained or validated on.

    Args:
        tested: the shards of the sites that are tested, by site.

    Raises:
        InputError: there is such a subject, or pseudonyms of another key would hide one.
    """
    before = noted_start(experiment, workspace)
    if not before:
        return
    keys = [(name, one["key"]) for name, one in before["hospitals"].items()]
    for problem in key_problems([*keys, *((name, shard.pseudonym_key) for name, shard in tested.items())]):
        raise InputError(f"training.start: {problem}")
    try:
        check_unseen(tested, before["subjects"], before.get("scans", {}))
    except InputError as error:
        raise InputError(f"training.start: {error}") from None


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
