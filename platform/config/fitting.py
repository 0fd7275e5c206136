"""What fits together in an experiment: the plug-ins that its fields name, and the checks between its blocks.

The functions take the fields of an experiment by name. While it is validated, only the fields that were accepted so far
are there; a field that was refused has its own message.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedrecon.platform.config.plugins import registry
from fedrecon.platform.config.tasks import TASKS, Task, check_kspace
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.acquisition.undersampling import Sampling
from fedrecon.sites.errors import InputError, RefusedValueError, unknown
from fedrecon.sites.plugin import choose, parse
from fedrecon.sites.training.settings import Training
from fedrecon.strategies import Strategy
from fedrecon.strategies.networks.network import NetworkEntry
from fedrecon.strategies.personalise import Personalise

Fields = Mapping[str, Any]


def task_of(fields: Fields) -> Task:
    """The task, with the families of the experiment's plug-in files."""
    return replace(TASKS[fields["task"]], plugins=fields.get("plugins", ()))


def strategy_of(fields: Fields) -> Strategy:
    """The strategy with its parameters; one with all defaults if the block was refused."""
    if "strategy" not in fields:
        return Strategy()
    block = {key: value for key, value in fields["strategy"].items() if key != "personalise"}
    strategy: Strategy = choose("strategy", registry("strategies", fields.get("plugins", ())), block.pop("name"), block)
    return strategy


def personalise_of(fields: Fields) -> Personalise | None:
    """The local rounds of the strategy's block; None if there are none."""
    given = fields.get("strategy", {}).get("personalise")
    return parse(Personalise, given, where="strategy.personalise") if given else None


def personalised(name: str, strategy: Strategy, given: Any) -> dict[str, Any]:
    """The key ``personalise`` of a strategy's block with its defaults; empty if it makes no round local.

    Raises:
        InputError: a value is wrong, or the strategy has no shared network to start from.
    """
    if given is None:
        return {}
    chosen = parse(Personalise, given, where="strategy.personalise")
    if chosen.rounds and strategy.not_personal:
        raise InputError(f"strategy.personalise: '{name}' has no local rounds: {strategy.not_personal}")
    return {"personalise": chosen.model_dump(mode="json")} if chosen.rounds else {}


def check_local_rounds(training: Training, fields: Fields) -> None:
    """Refuses more local rounds than rounds, and patience, which may end a training before its local rounds."""
    if (chosen := personalise_of(fields)) is None:
        return
    if chosen.rounds > training.rounds:
        raise ValueError(f"rounds: {training.rounds} are fewer than the {chosen.rounds} of strategy.personalise")
    if training.patience is not None:
        raise ValueError("patience: it may end the training before its local rounds (strategy.personalise); set one")


def network_of(fields: Fields) -> tuple[str, NetworkEntry]:
    """The name of the network, and its entry in the registry under its parameters."""
    name = fields["network"]["name"]
    return name, registry("networks", fields.get("plugins", ()))[name].chosen(fields["network"])


def enlarges(fields: Fields) -> bool:
    """Whether the network enlarges images, as super-resolution networks do."""
    return network_of(fields)[1].kind == "super-resolution"


def settings_of(fields: Fields) -> list[Acquisition]:
    """Every setting with which a site measures; none if their block was refused."""
    task = task_of(fields) if "task" in fields else None
    return list(task.all(fields[task.block])) if task and task.block in fields else []


def check_degradations(network: str, entry: NetworkEntry, settings: Sequence[Acquisition]) -> None:
    """Refuses a network that cannot undo the degradation of one of the settings.

    Raises:
        ValueError: the message names the degradation or the scales, and a choice that fits.
    """
    scales = sorted({one.scale for one in settings})
    if entry.kind == "super-resolution" and len(scales) > 1:
        raise ValueError(
            f"'{network}' is built for one scale, and the sites have {', '.join(map(str, scales))}; "
            "reconstruction networks (fedrecon list networks) take any scale"
        )
    if entry.in_kspace:
        check_kspace(network, settings)


def check_selection(training: Training, strategy: Strategy) -> None:
    """Refuses a choice among rounds for a prior, which is scored after its last round alone."""
    key = "keep: best" if training.keep == "best" else "patience"
    if training.selects and strategy.is_prior:
        raise ValueError(f"{key}: a prior is scored after its last round alone, so there is no best round to keep")


def check_self_supervision(training: Training, strategy: Strategy, fields: Fields) -> None:
    """Refuses the loss ``ssdu`` where there are no measured samples to split, or where more than they would be seen."""
    if training.ssdu is None:
        return
    if fields.get("task") == "super-resolution":
        raise ValueError(
            "loss: ssdu splits undersampled k-space, and a degradation leaves none; set task=reconstruction"
        )
    if not strategy.trains_on_operator:
        raise ValueError("loss: ssdu trains a reconstruction; a prior trains on fully sampled slices alone")
    if fields["network"].get("sensitivity_channels"):
        raise ValueError(
            "loss: ssdu compares k-space through the given coil maps, which the network would change; "
            "set network.sensitivity_channels=0"
        )
    for one in settings_of(fields):
        if not one.fixed_mask:
            raise ValueError(
                "loss: ssdu needs operator.fixed_mask=true: a new mask in each epoch would measure the whole k-space"
            )
        if isinstance(one, Sampling) and 1 in one.accelerations.values:
            raise ValueError("loss: ssdu: with operator.acceleration 1 no sample lies outside the calibration box")


def check_patch(patch: int | None, fields: Fields) -> None:
    """Refuses a patch of training slices that the network or the scale does not allow."""
    if patch is None or "degradation" not in fields:
        return
    if not enlarges(fields):
        raise ValueError("patch: only a super-resolution network trains on patches, because a patch has no k-space")
    scale = task_of(fields).at(fields["degradation"], "").scale
    if patch % scale:
        raise ValueError(f"patch: a multiple of the scale {scale} is needed, such as {patch - patch % scale + scale}")


def name_and_parameters(block: dict[str, Any], kind: str, known: Collection[str]) -> tuple[str, dict[str, Any]]:
    """The name of a plug-in, which must be known, and its parameters."""
    parameters = dict(block)
    name = parameters.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"'name' is missing. Allowed: {', '.join(known)}")
    if name not in known:
        raise RefusedValueError(unknown(kind, name, known))
    return name, parameters


def raised(make: Any) -> Any:
    """Makes an InputError a ValueError with the same text, because pydantic collects only ValueErrors."""
    try:
        return make()
    except InputError as error:
        raise RefusedValueError(error) from None
