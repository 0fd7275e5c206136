"""An experiment: one frozen, validated description of one run. YAML in, JSON out; its digest identifies the science.

Reading and validating one loads neither torch, ray nor mlflow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from fedrecon.platform.config.overrides import apply_overrides
from fedrecon.platform.config.resources import Resources
from fedrecon.platform.config.tasks import TASKS, check_kspace
from fedrecon.platform.config.transfer import TransferTest
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.classical import RECONSTRUCTORS, Reconstructor
from fedrecon.sites.errors import InputError, unknown
from fedrecon.sites.plugin import Settings, choose, parse, science_of
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.training.settings import Training
from fedrecon.strategies import STRATEGIES, Strategy, make_strategy
from fedrecon.strategies.networks import NETWORKS
from fedrecon.strategies.networks.choice import NetworkChoice

SCIENCE_VERSION = 1
"""Raised on purpose when a fix changes results: older runs are then no longer resumed, nor taken for the same."""

Block = dict[str, Any]


class Experiment(Settings):
    """One run. ``sites`` are paths, resolved from the working directory; everything else is science or resources.

    Attributes:
        name: for people; no part of the digest.
        sites: a folder of shards (NAME.h5), or {NAME: PATH}.
        task: what is undone; ``reconstruction`` from undersampled k-space, ``super-resolution`` from a coarser grid.
        operator: of a reconstruction: mask, acceleration, center_fraction, noise, fixed_mask; ``per_site: {NAME:
            {...}}`` differs from it.
        degradation: of super-resolution, in place of the operator: kind, scale, noise, and ``per_site``.
        strategy: a name of the registry and its own parameters.
        network: a name of the registry and its own parameters; by default one of the kind that the strategy trains.
        reconstructor: network, or a classical method of the registry (a name, or a name with parameters).
        allow_pooling: says that the data may be moved to one place (for ``pooled``).
        publish_private: sites that agreed that their private part of the network may leave them (``all``, or names),
            for ``evaluate`` at a site that did not train; no part of the digest.
        test: where else, and how else, the finished run is tested; None tests at its own sites as they measure.
        seed: of everything random but the evaluation masks.
    """

    # A default is completed like what is given: the digest must not tell them apart.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    name: str = Field("experiment", min_length=1)
    sites: str | dict[str, str]
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
    seed: int = 0

    @field_validator("operator", "degradation")
    @classmethod
    def _measured(cls, block: Block, info: ValidationInfo) -> Block:
        if "task" not in info.data:  # it was refused, and says so itself
            return block
        task = TASKS[info.data["task"]]
        if info.field_name == task.block:
            completed: Block = _raised(lambda: task.completed(block))
            return completed
        if block:
            wanted = next(name for name, one in TASKS.items() if one.block == info.field_name)
            raise ValueError(
                f"belongs to task: {wanted}; the task '{info.data['task']}' is described by '{task.block}' "
                f"(where a file holds both, {info.field_name}={{}} takes this one out)"
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
        check_degradations(choice.name, _ways(info.data))
        return choice.as_dict()

    @field_validator("training")
    @classmethod
    def _training(cls, training: Training, info: ValidationInfo) -> Training:
        if not {"strategy", "network"} <= info.data.keys():  # it was refused, and says so itself
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
        known = {"network", "reconstructor"} <= info.data.keys()  # else they were refused, and say so themselves
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
                raise ValueError("'network' takes no parameters here; they belong under network:")
            return {"name": name}
        chosen = _raised(lambda: choose("reconstructor", RECONSTRUCTORS, name, parameters))
        if chosen.needs_low and info.data.get("task") == "reconstruction":
            raise ValueError(f"'{name}' enlarges a low-resolution image; that needs task=super-resolution")
        if chosen.needs_kspace:
            check_kspace(name, _ways(info.data))
        return {"name": name, **chosen.model_dump()}

    @field_validator("test")
    @classmethod
    def _test(cls, test: TransferTest | None, info: ValidationInfo) -> TransferTest | None:
        if test is None or test == TransferTest():
            return None
        known = {"task", "network", "reconstructor"} <= info.data.keys()  # else they say themselves what is wrong
        if known and info.data["reconstructor"]["name"] != "network":
            raise ValueError("a classical reconstructor learns nothing: say its own sites and operator instead")
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
            InputError: the file, a key or a value is wrong; says what is allowed and the nearest right name.
        """
        where = "experiment"
        if isinstance(given, Experiment):
            raw: Any = given.as_dict()
        elif isinstance(given, str | Path):
            where, raw = str(given), _load(Path(given))
        else:
            raw = given
        if not isinstance(raw, Mapping):
            raise InputError(f"{where}: a mapping of keys is needed, got {type(raw).__name__}")
        return parse(cls, apply_overrides(dict(raw), overrides), where=where)

    def as_dict(self) -> dict[str, Any]:
        """The experiment with every default written out; :meth:`read` gives the same experiment back."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain

    def shown(self) -> dict[str, Any]:
        """:meth:`as_dict` without what does not act: a classical reconstructor trains nothing."""
        idle = [] if self.trains else ["strategy", "network", "training", "allow_pooling", "publish_private"]
        idle += [] if self.test else ["test"]
        return {key: value for key, value in self.as_dict().items() if key not in idle}

    def flat(self) -> dict[str, str]:
        """Dotted keys and values as text: what MLflow shows as parameters."""
        return dict(_flatten(self.shown()))

    @cached_property
    def method(self) -> Strategy:
        """The strategy."""
        return make_strategy(self.strategy["name"], {k: v for k, v in self.strategy.items() if k != "name"})

    @cached_property
    def classical(self) -> Reconstructor | None:
        """The classical reconstructor, or None where a network reconstructs."""
        block = dict(self.reconstructor)
        name = block.pop("name")
        return None if name == "network" else choose("reconstructor", RECONSTRUCTORS, name, block)

    @property
    def trains(self) -> bool:
        """Whether a network is trained at all."""
        return self.classical is None

    @property
    def fixed_scale(self) -> bool:
        """Whether the network enlarges by one scale alone."""
        return self.trains and _enlarges(self.network)

    @property
    def rounds(self) -> int:
        """Rounds to train; none for a classical reconstructor."""
        return self.training.rounds if self.trains else 0

    @property
    def measured(self) -> Block:
        """The block that says how sites measure: ``operator``, or ``degradation``."""
        block: Block = getattr(self, TASKS[self.task].block)
        return block

    @property
    def scale(self) -> int:
        """How many times coarser the measured grid is: of super-resolution; 1 otherwise."""
        return self.operator_at("").scale

    def operator_at(self, site: str) -> Acquisition:
        """How this site measures."""
        return TASKS[self.task].at(self.measured, site)

    @property
    def alone(self) -> Experiment:
        """The experiment whose run is tested elsewhere: itself without :attr:`test`."""
        return Experiment.read({**self.as_dict(), "test": None})

    def tested_at(self, site: str) -> Acquisition:
        """How this site measures when the finished run is tested."""
        own = self.operator_at(site)
        return own if self.test is None else self.test.at(TASKS[self.task], self.measured, site)

    def scores_due(self, round_number: int) -> bool:
        """Whether validation scores (of a prior before its last round: samples) are taken after this round."""
        return round_number % self.evaluation.every == 0 or round_number == self.rounds

    def digest(self, contents: Mapping[str, str], tested: Mapping[str, str] | None = None) -> str:
        """The identity of the science: the same digest means resume, never rerun.

        Args:
            contents: content hash of each site's shard. tested: of the shards of ``test.sites``; None has none.
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
        return _hash(science)

    def training_digest(self, contents: Mapping[str, str]) -> str | None:
        """The identity of what influences training; None where nothing is trained."""
        if not self.trains:
            return None
        part = self._training_part(contents, operators=self.method.trains_on_operator)
        left_out = self.method.at_inference
        return _hash({**part, "strategy": {k: v for k, v in part["strategy"].items() if k not in left_out}})

    def _training_part(self, contents: Mapping[str, str], operators: bool) -> dict[str, Any]:
        strategy = {key: value for key, value in science_of(self.method).items() if key != "allow_pooling"}
        return {
            "science_version": SCIENCE_VERSION,
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
    """The strategy's class; where the strategy itself was refused, any will do."""
    return STRATEGIES[info.data["strategy"]["name"]] if "strategy" in info.data else Strategy


def _enlarges(network: Block) -> bool:
    return NETWORKS[network["name"]].kind == "super-resolution"


def check_degradations(network: str, all_of_them: Sequence[Acquisition]) -> None:
    """Refuses a network that cannot undo one of these.

    Raises:
        ValueError: says which, and what does.
    """
    entry = NETWORKS[network]
    scales = sorted({one.scale for one in all_of_them})
    if entry.kind == "super-resolution" and len(scales) > 1:
        raise ValueError(
            f"'{network}' is built for one scale, and the sites have {', '.join(map(str, scales))}; the others of "
            "fedrecon list networks take any"
        )
    if entry.in_kspace:
        check_kspace(network, all_of_them)


def _ways(data: Mapping[str, Any]) -> list[Acquisition]:
    """All ways to measure; none where their block was refused, and says so itself."""
    task = TASKS.get(data.get("task", ""))
    return list(task.all(data[task.block])) if task and task.block in data else []


def _check_patch(patch: int | None, data: Mapping[str, Any]) -> None:
    if patch is None or "degradation" not in data:
        return
    if not _enlarges(data["network"]):
        raise ValueError("patch: only a super-resolution network trains on patches, for they have no k-space")
    scale = TASKS["super-resolution"].at(data["degradation"], "").scale
    if patch % scale:
        raise ValueError(f"patch: a multiple of the scale {scale} is needed, such as {patch - patch % scale + scale}")


def _split(block: Block, kind: str, registry: Mapping[str, Any]) -> tuple[str, Block]:
    parameters = dict(block)
    name = parameters.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"'name' is missing. Allowed: {', '.join(registry)}")
    if name not in registry:
        raise ValueError(str(unknown(kind, name, registry)))
    return name, parameters


def _raised(make: Any) -> Any:
    """pydantic collects ValueErrors; ours become them, with their text as it is."""
    try:
        return make()
    except InputError as error:
        raise ValueError(str(error)) from None


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such experiment file")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None


def _hash(science: Mapping[str, Any]) -> str:
    text = json.dumps(science, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _flatten(value: Any, prefix: str = "") -> Any:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(item)
