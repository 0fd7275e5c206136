"""An experiment: one frozen, validated description of one run. YAML in, JSON out; its digest identifies the science.

Reading and validating an experiment loads neither torch, Ray nor MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from fedrecon.platform.config.names import SiteFiles, Title
from fedrecon.platform.config.overrides import apply_overrides
from fedrecon.platform.config.resources import Resources
from fedrecon.platform.config.science import hashed, science_version
from fedrecon.platform.config.tasks import TASKS, check_kspace
from fedrecon.platform.config.transfer import TransferTest
from fedrecon.platform.config.yaml_text import read_yaml_file
from fedrecon.sites.acquisition.mix import is_mix, mix_text
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.classical import RECONSTRUCTORS, Reconstructor
from fedrecon.sites.errors import InputError, RefusedValueError, unknown
from fedrecon.sites.plugin import Seed, Settings, choose, parse, science_of
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.training.settings import Training
from fedrecon.strategies import STRATEGIES, Strategy, make_strategy
from fedrecon.strategies.networks import NETWORKS
from fedrecon.strategies.networks.choice import NetworkChoice

Block = dict[str, Any]


class Experiment(Settings):
    """The description of one run. All keys describe the science or the resources, except ``name``.

    Attributes:
        name: name for people; no part of the digest.
        sites: folder of shards (NAME.h5), or {NAME: PATH}. Paths are resolved from the working directory.
        task: ``reconstruction`` from undersampled k-space, or ``super-resolution`` from a coarser grid.
        operator: block of a reconstruction: mask, acceleration, center_fraction, noise, fixed_mask. From
            ``{uniform: [2, 8]}`` or ``{choice: [2, 4, 8]}`` each slice draws its own acceleration, and a mask alike.
            ``per_site: {NAME: {...}}`` holds the keys that differ at a site.
        degradation: block of super-resolution in place of the operator: kind, scale, noise, and ``per_site``.
        strategy: name in the registry, and the strategy's parameters.
        network: name in the registry, and the network's parameters; the default fits the task and the strategy.
        reconstructor: ``network``, or a classical method of the registry (a name, or a name with parameters).
        allow_pooling: consent that the data of all sites are moved to one machine (for ``pooled``).
        publish_private: sites that agreed that their private part of the network may leave them (``all``, or names).
            The run stores these parts, for tests at sites that did not train. A part of the digest only with
            ``test.unseen``.
        test: transfer test of the finished run; None tests the run at its own sites with their own settings.
        seed: seed of all random numbers, except those of the evaluation masks.
    """

    # A default value is validated like a given one, so that both give the same digest.
    model_config = ConfigDict(validate_default=True)

    name: Title = Field("experiment", min_length=1)
    sites: SiteFiles
    task: Literal["reconstruction", "super-resolution"] = "reconstruction"
    operator: Block = Field(default_factory=dict)
    degradation: Block = Field(default_factory=dict)
    strategy: Block = Field(default_factory=lambda: {"name": "fedavg"})
    network: Block = Field(default_factory=dict)
    reconstructor: Block = Field(default_factory=lambda: {"name": "network"})
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    resources: Resources = Resources()
    allow_pooling: bool = False
    publish_private: Literal["all"] | tuple[str, ...] = ()
    test: TransferTest | None = None
    seed: Seed = 0

    @field_validator("operator", "degradation")
    @classmethod
    def _measured(cls, block: Block, info: ValidationInfo) -> Block:
        if "task" not in info.data:  # the task was refused, with its own message
            return block
        task = TASKS[info.data["task"]]
        if info.field_name == task.block:
            completed: Block = _raised(lambda: task.completed(block))
            return completed
        if block:
            wanted = next(name for name, one in TASKS.items() if one.block == info.field_name)
            raise ValueError(
                f"belongs to task: {wanted}; the task '{info.data['task']}' is described by '{task.block}' "
                f"(if a file holds both blocks, the override {info.field_name}={{}} removes this one)"
            )
        return {}

    @field_validator("strategy")
    @classmethod
    def _strategy(cls, block: Block) -> Block:
        name, parameters = _split(block, "strategy", STRATEGIES)
        strategy: Strategy = _raised(lambda: make_strategy(name, parameters))
        return {"name": name, **strategy.model_dump()}

    @field_validator("network")
    @classmethod
    def _network(cls, block: Block, info: ValidationInfo) -> Block:
        kind = _strategy_kind(info).network_kind
        task = info.data.get("task", "reconstruction")
        kinds, default = TASKS[task].networks[kind]
        choice: NetworkChoice = _raised(lambda: NetworkChoice.parse(block or {"name": default}))
        entry = NETWORKS[choice.name]
        if "strategy" in info.data and entry.kind not in kinds:
            fitting = [name for name, one in NETWORKS.items() if one.kind in kinds]
            raise ValueError(
                f"'{choice.name}' is a {entry.kind} network; for task '{task}' the strategy "
                f"'{info.data['strategy']['name']}' trains a {' or '.join(kinds)} network. "
                f"Choose: {', '.join(f'network.name={name}' for name in fitting)}"
            )
        check_degradations(choice.name, _settings(info.data))
        return choice.as_dict()

    @field_validator("training")
    @classmethod
    def _training(cls, training: Training, info: ValidationInfo) -> Training:
        if not {"strategy", "network"} <= info.data.keys():  # one was refused, with its own message
            return training
        block = dict(info.data["strategy"])
        strategy = make_strategy(block.pop("name"), block)
        strategy.check(training)
        _check_patch(training.patch, info.data)
        if training.optimizer_state != "auto":
            return training
        return training.model_copy(update={"optimizer_state": strategy.optimizer_state})

    @field_validator("evaluation")
    @classmethod
    def _evaluation(cls, evaluation: Evaluation, info: ValidationInfo) -> Evaluation:
        known = {"network", "reconstructor"} <= info.data.keys()  # else one was refused, with its own message
        fits = known and _enlarges(info.data["network"]) and info.data["reconstructor"]["name"] == "network"
        if evaluation.self_ensemble and known and not fits:
            raise ValueError("self_ensemble: only a super-resolution network works on turned images")
        return evaluation

    @field_validator("reconstructor", mode="before")
    @classmethod
    def _reconstructor(cls, given: Any, info: ValidationInfo) -> Block:
        block = {"name": given} if isinstance(given, str) else given
        if not isinstance(block, dict):
            raise ValueError(f"a name is needed: network, {', '.join(RECONSTRUCTORS)}")
        name, parameters = _split(block, "reconstructor", {"network": None, **RECONSTRUCTORS})
        if name == "network":
            if parameters:
                raise ValueError("'network' takes no parameters here; put them into the block 'network'")
            return {"name": name}
        chosen = _raised(lambda: choose("reconstructor", RECONSTRUCTORS, name, parameters))
        if chosen.needs_low and info.data.get("task") == "reconstruction":
            raise ValueError(f"'{name}' enlarges a low-resolution image; that needs task=super-resolution")
        if chosen.needs_kspace:
            check_kspace(name, _settings(info.data))
        return {"name": name, **chosen.model_dump()}

    @field_validator("test")
    @classmethod
    def _test(cls, test: TransferTest | None, info: ValidationInfo) -> TransferTest | None:
        if test is None or test == TransferTest():
            return None
        known = {"task", "network", "reconstructor"} <= info.data.keys()  # else one was refused, with its own message
        if known and info.data["reconstructor"]["name"] != "network":
            block = TASKS[info.data["task"]].block
            raise ValueError(f"a classical reconstructor learns nothing; set 'sites' and '{block}' instead of 'test'")
        if known and TASKS[info.data["task"]].block in info.data:
            task = TASKS[info.data["task"]]
            _raised(lambda: test.check(task))
            sites = ("", *info.data[task.block].get("per_site", {}))
            tested = [_raised(lambda site=site: test.at(task, info.data[task.block], site)) for site in sites]
            own = [*tested, *task.all(info.data[task.block])] if _enlarges(info.data["network"]) else tested
            check_degradations(info.data["network"]["name"], own)
        return test

    @classmethod
    def read(cls, given: Any, overrides: Sequence[str] = ()) -> Experiment:
        """An experiment from a YAML file, a mapping or an experiment, with ``key.path=value`` overrides applied.

        Raises:
            InputError: the file, a key or a value is wrong; the message gives the allowed values and the nearest name.
        """
        where = "experiment"
        if isinstance(given, Experiment):
            raw: Any = given.as_dict()
        elif isinstance(given, str | Path):
            where, raw = str(given), read_yaml_file(Path(given), "experiment")
        else:
            raw = given
        if not isinstance(raw, Mapping):
            raise InputError(f"{where}: a mapping of keys is needed, got {type(raw).__name__}")
        return parse(cls, apply_overrides(dict(raw), overrides), where=where)

    def as_dict(self) -> dict[str, Any]:
        """The experiment with every default written out, for JSON; :meth:`read` makes the same experiment from it."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain

    def shown(self) -> dict[str, Any]:
        """:meth:`as_dict` without the keys that have no effect: a classical reconstructor trains nothing."""
        idle = [] if self.trains else ["strategy", "network", "training", "allow_pooling", "publish_private"]
        idle += [] if self.test else ["test"]
        return {key: value for key, value in self.as_dict().items() if key not in idle}

    def flat(self) -> dict[str, str]:
        """Dotted keys with their values as text: the parameters that MLflow shows."""
        return dict(_flatten(self.shown()))

    @cached_property
    def method(self) -> Strategy:
        """The strategy with its parameters."""
        return make_strategy(self.strategy["name"], {k: v for k, v in self.strategy.items() if k != "name"})

    @cached_property
    def classical(self) -> Reconstructor | None:
        """The classical reconstructor; None if a network reconstructs."""
        block = dict(self.reconstructor)
        name = block.pop("name")
        return None if name == "network" else choose("reconstructor", RECONSTRUCTORS, name, block)

    @property
    def trains(self) -> bool:
        """Whether a network is trained."""
        return self.classical is None

    @property
    def fixed_scale(self) -> bool:
        """Whether the network works for one scale only, as super-resolution networks do."""
        return self.trains and _enlarges(self.network)

    @property
    def rounds(self) -> int:
        """The number of rounds to train; 0 for a classical reconstructor."""
        return self.training.rounds if self.trains else 0

    @property
    def measured(self) -> Block:
        """The block that says how sites measure: ``operator`` or ``degradation``."""
        block: Block = getattr(self, TASKS[self.task].block)
        return block

    @property
    def scale(self) -> int:
        """How many times coarser the measured grid of super-resolution is; 1 for a reconstruction."""
        return self.operator_at("").scale

    def operator_at(self, site: str) -> Acquisition:
        """The setting with which this site measures."""
        return TASKS[self.task].at(self.measured, site)

    @property
    def alone(self) -> Experiment:
        """This experiment without its transfer test: the run of it is tested."""
        return Experiment.read({**self.as_dict(), "test": None})

    def tested_at(self, site: str) -> Acquisition:
        """The setting with which this site measures when the finished run is tested."""
        own = self.operator_at(site)
        return own if self.test is None else self.test.at(TASKS[self.task], self.measured, site)

    def scores_due(self, round_number: int) -> bool:
        """Whether the sites validate after this round: they score, or a prior before its last round draws samples."""
        return round_number % self.evaluation.every == 0 or round_number == self.rounds

    def digest(self, contents: Mapping[str, str], tested: Mapping[str, str] | None = None) -> str:
        """The identity of the science: a run with the same digest is resumed, and never runs again.

        Args:
            contents: content hash of each site's shard.
            tested: content hash of each shard in ``test.sites``; None takes ``contents``.
        """
        science = self._training_part(contents, operators=True)
        science |= {
            "evaluation": self.evaluation.science(),
            "reconstructor": {
                "name": self.reconstructor["name"],
                **(science_of(self.classical) if self.classical else {}),
            },
            "task": self.task,
        }
        if not self.trains:
            science |= {"strategy": None, "network": None, "training": None}
        if self.test is not None:
            shards_tested = contents if tested is None else tested
            science["test"] = {
                "sites": {name: [content, self.tested_at(name).science()] for name, content in shards_tested.items()},
                "unseen": [
                    self.test.unseen,
                    self.test.fine_tune_epochs,
                    self.publish_private if self.test.unseen else (),
                ],
            }
        return hashed(science)

    def training_digest(self, contents: Mapping[str, str]) -> str | None:
        """The identity of everything that influences the training; None if nothing is trained."""
        if not self.trains:
            return None
        part = self._training_part(contents, operators=self.method.trains_on_operator)
        left_out = self.method.at_inference
        return hashed({**part, "strategy": {k: v for k, v in part["strategy"].items() if k not in left_out}})

    def _training_part(self, contents: Mapping[str, str], operators: bool) -> dict[str, Any]:
        strategy = {key: value for key, value in science_of(self.method).items() if key != "allow_pooling"}
        return {
            "science_version": science_version(self.trains),
            "sites": {
                site: {"content": content, "operator": self.operator_at(site).science() if operators else None}
                for site, content in contents.items()
            },
            "strategy": {"name": self.strategy["name"], **strategy},
            "network": NetworkChoice.parse(self.network).science(),
            "training": self.training.science(),
            "seed": self.seed,
        }


def _strategy_kind(info: ValidationInfo) -> type[Strategy]:
    """The strategy's class; the base class if the strategy was refused, with its own message."""
    return STRATEGIES[info.data["strategy"]["name"]] if "strategy" in info.data else Strategy


def _enlarges(network: Block) -> bool:
    return NETWORKS[network["name"]].kind == "super-resolution"


def check_degradations(network: str, settings: Sequence[Acquisition]) -> None:
    """Refuses a network that cannot undo the degradation of one of the settings.

    Raises:
        ValueError: the message names the degradation or the scales, and a choice that fits.
    """
    entry = NETWORKS[network]
    scales = sorted({one.scale for one in settings})
    if entry.kind == "super-resolution" and len(scales) > 1:
        raise ValueError(
            f"'{network}' is built for one scale, and the sites have {', '.join(map(str, scales))}; "
            "reconstruction networks (fedrecon list networks) take any scale"
        )
    if entry.in_kspace:
        check_kspace(network, settings)


def _settings(data: Mapping[str, Any]) -> list[Acquisition]:
    """Every setting with which a site measures; none if their block was refused, with its own message."""
    task = TASKS.get(data.get("task", ""))
    return list(task.all(data[task.block])) if task and task.block in data else []


def _check_patch(patch: int | None, data: Mapping[str, Any]) -> None:
    if patch is None or "degradation" not in data:
        return
    if not _enlarges(data["network"]):
        raise ValueError("patch: only a super-resolution network trains on patches, because a patch has no k-space")
    scale = TASKS["super-resolution"].at(data["degradation"], "").scale
    if patch % scale:
        raise ValueError(f"patch: a multiple of the scale {scale} is needed, such as {patch - patch % scale + scale}")


def _split(block: Block, kind: str, registry: Mapping[str, Any]) -> tuple[str, Block]:
    parameters = dict(block)
    name = parameters.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"'name' is missing. Allowed: {', '.join(registry)}")
    if name not in registry:
        raise RefusedValueError(unknown(kind, name, registry))
    return name, parameters


def _raised(make: Any) -> Any:
    """Makes an InputError a ValueError with the same text, because pydantic collects only ValueErrors."""
    try:
        return make()
    except InputError as error:
        raise RefusedValueError(error) from None


def _flatten(value: Any, prefix: str = "") -> Any:
    for key, item in value.items():
        if is_mix(item):
            yield f"{prefix}{key}", mix_text(item)
        elif isinstance(item, dict):
            yield from _flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(item)
