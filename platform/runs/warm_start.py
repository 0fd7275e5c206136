"""A warm start: a training that begins with the network of a finished run (``training.start``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
from fedrecon.sites.plugin import choose
from fedrecon.strategies.networks.choice import NetworkChoice

if TYPE_CHECKING:
    from fedrecon.sites.data.shard import Shard
    from fedrecon.sites.training.parameters import Parameters

MAY_DIFFER = ("dropout",)
"""Settings of a network that do not change what its weights mean."""


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
    from fedrecon.platform.consortium.network import layout_for
    from fedrecon.platform.inference.trained_run import TrainedRun

    source = TrainedRun.load(workspace, experiment.training.start, tell_once)
    if not source.experiment.trains:
        raise InputError(f"training.start: run {source.folder.digest} trained no network")
    if kept := layout_for(source.experiment, source.images).local_names:
        others = f" and {len(kept) - 1} others" if len(kept) > 1 else ""
        raise InputError(
            f"training.start: run {source.folder.digest}: its sites keep parts of the network for themselves "
            f"({kept[0]}{others}); start from a shared network"
        )
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


def check_start(experiment: Experiment, tested: Mapping[str, Shard], workspace: Path, sites: Collection[str]) -> None:
    """Refuses the network of another experiment, and to test a subject that its runs trained or validated on.

    Args:
        tested: the shards of the sites that are tested, by site.
        sites: the names of the sites that train.

    Raises:
        InputError: the run, or one before it, used such a subject, or pseudonyms of another key would hide one; or its
            network has other settings, or codes of other sites.
    """
    before = noted_start(experiment, workspace)
    if not before:
        return
    _check_network(experiment, workspace, sites)
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


def _check_network(experiment: Experiment, workspace: Path, sites: Collection[str]) -> None:
    """Refuses a run whose network has other settings, or a code of each of other sites: its weights fit in shape alone.

    Only the run's note is read, and no plug-in that it carries.
    """
    assert experiment.training.start is not None
    folder = network_of(find_run(workspace, experiment.training.start))
    noted, where = folder.noted(), f"training.start: run {folder.digest}"
    if noted is None or noted["experiment"]["reconstructor"]["name"] != "network":  # refused in its own words
        return
    networks = experiment.registry("networks")
    own, given = experiment.network, noted["experiment"]["network"]
    if own["name"] != given["name"]:
        raise InputError(f"{where} trained the network '{given['name']}', and this experiment has '{own['name']}'")
    free = (*MAY_DIFFER, *networks[own["name"]].at_inference)
    theirs = {**NetworkChoice.parse({"name": own["name"]}, networks).as_dict(), **given}
    for key in (key for key in own if key not in free and theirs[key] != own[key]):
        raise InputError(
            f"{where} trained a network with network.{key}={theirs[key]}, and this experiment has {own[key]}: its "
            "weights mean something else there"
        )
    coded = _coded(experiment, noted, workspace) if _trains_codes(experiment, experiment.strategy) else ()
    if coded and set(coded) != set(sites) and _has_codes(experiment, noted):
        raise InputError(
            f"{where}: its network has a code of each of its sites ({', '.join(coded)}), and this experiment has other "
            f"sites ({', '.join(sites)}), which would take these; start from a run of the same sites"
        )


def _coded(experiment: Experiment, noted: Mapping[str, Any], workspace: Path) -> tuple[str, ...]:
    """The sites whose codes the network of a run holds: its own, or of the run that it began with; empty for none."""
    if _trains_codes(experiment, noted["experiment"]["strategy"]):
        return tuple(noted["images"]["sites"])
    start = noted["experiment"]["training"].get("start")
    before = network_of(find_run(workspace, start)).noted() if start else None
    return _coded(experiment, before, workspace) if before else ()


def _trains_codes(experiment: Experiment, strategy: Mapping[str, Any]) -> bool:
    """Whether a strategy's block trains codes of sites, if its network has some; one that is unknown here does."""
    block = {key: value for key, value in strategy.items() if key not in ("name", "personalise")}
    known = experiment.registry("strategies")
    unknown = strategy["name"] not in known
    return unknown or getattr(choose("strategy", known, strategy["name"], block), "trains_codes", True)


def _has_codes(experiment: Experiment, noted: Mapping[str, Any]) -> bool:
    """Whether the network has a code of each site."""
    import torch

    from fedrecon.platform.consortium.network import network_choice
    from fedrecon.sites.imaging.measurement import Images

    given = noted["images"]
    with torch.device("meta"):
        model = network_choice(experiment).build(
            Images(**{**given, "size": tuple(given["size"]), "sites": tuple(given["sites"])})
        )
    return bool(getattr(model, "parts", {}).get("sites"))
