"""An experiment: one frozen, validated description of one run. YAML in, JSON out; its digest identifies the science.

Reading and validating an experiment loads neither torch, Ray nor MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fedrecon.platform.config.fitting import (
    check_degradations,
    check_local_rounds,
    check_patch,
    check_selection,
    check_self_supervision,
    enlarges,
    name_and_parameters,
    network_of,
    personalise_of,
    personalised,
    raised,
    settings_of,
    strategy_of,
    task_of,
)
from fedrecon.platform.config.names import SiteFiles, Title, flatten
from fedrecon.platform.config.overrides import apply_overrides
from fedrecon.platform.config.plugins import PluginFiles, embedded, read_plugins, registry
from fedrecon.platform.config.resources import Resources
from fedrecon.platform.config.science import hashed, science_version
from fedrecon.platform.config.tasks import TASKS, Task, check_kspace
from fedrecon.platform.config.transfer import TransferTest
from fedrecon.platform.config.yaml_text import read_yaml_file
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.classical import Reconstructor
from fedrecon.sites.errors import InputError
from fedrecon.sites.extension.origin import source_of
from fedrecon.sites.extension.registry import Registry
from fedrecon.sites.plugin import Seed, Settings, choose, parse, science_of
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.training.settings import Training
from fedrecon.strategies import Strategy
from fedrecon.strategies.networks.choice import NetworkChoice
from fedrecon.strategies.personalise import Personalise

Block = dict[str, Any]

OF_TRAINING = ("strategy", "network", "training", "allow_pooling", "publish_private")
"""The keys that have no effect where a classical method reconstructs."""


class Experiment(Settings):
    """The description of one run. All keys describe the science or the resources, except ``name``.

    Attributes:
        name: name for people; no part of the digest.
        sites: folder of shards (NAME.h5), or {NAME: PATH}. Paths are resolved from the working directory.
        plugins: Python files that add strategies, networks, reconstructors, masks or degradations to this experiment.
            In a file they are relative to it, otherwise to the working directory. Their text is a part of the digest.
        task: ``reconstruction`` from undersampled k-space, or ``super-resolution`` from a coarser grid.
        operator: block of a reconstruction: mask, acceleration, center_fraction, noise, fixed_mask. From
            ``{uniform: [2, 8]}`` or ``{choice: [2, 4, 8]}`` each slice draws its own acceleration, and a mask alike.
            ``per_site: {NAME: {...}}`` holds the keys that differ at a site.
        degradation: block of super-resolution in place of the operator: kind, scale, noise, and ``per_site``.
        strategy: name in the registry, or the name with the strategy's parameters.
            ``personalise: {rounds: N, parts: all}`` makes the last rounds local, for every strategy that shares its
            network.
        network: name in the registry, or the name with the network's parameters; the default fits task and strategy.
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
    plugins: PluginFiles = ()
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

    @model_validator(mode="before")
    @classmethod
    def _plugins(cls, given: Any) -> Any:
        """The plug-in files come first: without one of them, every name that it adds would be refused as well."""
        if not isinstance(given, Mapping) or not given.get("plugins"):
            return given
        return {**given, "plugins": raised(lambda: read_plugins(given["plugins"]))}

    @field_validator("strategy", "network", "reconstructor", mode="before")
    @classmethod
    def _bare_name(cls, given: Any) -> Any:
        """A name alone means the plug-in with its default parameters."""
        return {"name": given} if isinstance(given, str) else given

    @field_validator("operator", "degradation")
    @classmethod
    def _measured(cls, block: Block, info: ValidationInfo) -> Block:
        if "task" not in info.data:  # the task was refused, with its own message
            return block
        task = task_of(info.data)
        if info.field_name == task.block:
            completed: Block = raised(lambda: task.completed(block))
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
    def _strategy(cls, block: Block, info: ValidationInfo) -> Block:
        strategies = registry("strategies", info.data.get("plugins", ()))
        name, parameters = name_and_parameters(block, "strategy", strategies)
        given = parameters.pop("personalise", None)
        strategy: Strategy = raised(lambda: choose("strategy", strategies, name, parameters))
        personal = raised(lambda: personalised(name, strategy, given))
        return {"name": name, **strategy.model_dump(), **personal}

    @field_validator("network")
    @classmethod
    def _network(cls, block: Block, info: ValidationInfo) -> Block:
        networks = registry("networks", info.data.get("plugins", ()))
        task = info.data.get("task", "reconstruction")
        kinds, default = TASKS[task].networks[strategy_of(info.data).network_kind]
        choice: NetworkChoice = raised(lambda: NetworkChoice.parse(block or {"name": default}, networks))
        entry = networks[choice.name]
        if "strategy" in info.data and entry.kind not in kinds:
            fitting = [name for name, one in networks.items() if one.kind in kinds]
            raise ValueError(
                f"'{choice.name}' is a {entry.kind} network; for task '{task}' the strategy "
                f"'{info.data['strategy']['name']}' trains a {' or '.join(kinds)} network. "
                f"Choose: {', '.join(f'network.name={name}' for name in fitting)}"
            )
        check_degradations(choice.name, entry.chosen(choice.as_dict()), settings_of(info.data))
        return choice.as_dict()

    @field_validator("training")
    @classmethod
    def _training(cls, training: Training, info: ValidationInfo) -> Training:
        if not {"strategy", "network"} <= info.data.keys():  # one was refused, with its own message
            return training
        strategy = strategy_of(info.data)
        strategy.check(training)
        check_patch(training.patch, info.data)
        check_selection(training, strategy)
        check_local_rounds(training, info.data)
        check_self_supervision(training, strategy, info.data)
        return training

    @field_validator("evaluation")
    @classmethod
    def _evaluation(cls, evaluation: Evaluation, info: ValidationInfo) -> Evaluation:
        known = {"network", "reconstructor"} <= info.data.keys()  # else one was refused, with its own message
        fits = known and enlarges(info.data) and info.data["reconstructor"]["name"] == "network"
        if evaluation.self_ensemble and known and not fits:
            raise ValueError("self_ensemble: only a super-resolution network works on turned images")
        return evaluation

    @field_validator("reconstructor")
    @classmethod
    def _reconstructor(cls, block: Block, info: ValidationInfo) -> Block:
        known = registry("reconstructors", info.data.get("plugins", ()))
        name, parameters = name_and_parameters(block, "reconstructor", ["network", *known])
        if name == "network":
            if parameters:
                raise ValueError("'network' takes no parameters here; put them into the block 'network'")
            return {"name": name}
        chosen = raised(lambda: choose("reconstructor", known, name, parameters))
        if chosen.needs_low and info.data.get("task") == "reconstruction":
            raise ValueError(f"'{name}' enlarges a low-resolution image; that needs task=super-resolution")
        if chosen.needs_kspace:
            check_kspace(name, settings_of(info.data))
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
            task = task_of(info.data)
            raised(lambda: test.check(task))
            sites = ("", *info.data[task.block].get("per_site", {}))
            tested = [raised(lambda site=site: test.at(task, info.data[task.block], site)) for site in sites]
            own = [*tested, *task.all(info.data[task.block])] if enlarges(info.data) else tested
            check_degradations(*network_of(info.data), own)
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
            path = Path(given)
            where, raw = str(given), embedded(read_yaml_file(path, "experiment"), path.parent, str(given))
        else:
            raw = given
        if not isinstance(raw, Mapping):
            raise InputError(f"{where}: a mapping of keys is needed, got {type(raw).__name__}")
        return parse(cls, apply_overrides(dict(raw), overrides), where=where)

    def as_dict(self) -> dict[str, Any]:
        """The experiment with every default written out, for JSON; :meth:`read` makes the same experiment from it."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain

    def as_run(self) -> dict[str, Any]:
        """:meth:`as_dict` with what the strategy chose for ``optimizer_state: auto``: the note of a run."""
        return {**self.as_dict(), "training": self.fitting.model_dump(mode="json")}

    def shown(self) -> dict[str, Any]:
        """:meth:`as_run` without the keys that have no effect, and with the hash of a plug-in file for its text."""
        idle = [] if self.trains else [*OF_TRAINING]
        idle += [key for key in ("test", "plugins") if not getattr(self, key)]
        shown = {**self.as_run(), "plugins": [f"{one.file} ({one.digest[:16]})" for one in self.plugins]}
        return {key: value for key, value in shown.items() if key not in idle}

    def flat(self) -> dict[str, str]:
        """Dotted keys with their values as text: the parameters that MLflow shows."""
        return dict(flatten(self.shown()))

    @cached_property
    def method(self) -> Strategy:
        """The strategy with its parameters."""
        return strategy_of(vars(self))

    @cached_property
    def personalise(self) -> Personalise | None:
        """The local rounds at the end of the training; None if there are none."""
        return personalise_of(vars(self)) if self.trains else None

    @cached_property
    def classical(self) -> Reconstructor | None:
        """The classical reconstructor; None if a network reconstructs."""
        block = dict(self.reconstructor)
        name = block.pop("name")
        return None if name == "network" else choose("reconstructor", self.registry("reconstructors"), name, block)

    def registry(self, kind: str) -> Registry[Any]:
        """The plug-ins that this experiment can name; see :func:`fedrecon.platform.config.plugins.registry`."""
        return registry(kind, self.plugins)

    @property
    def fitting(self) -> Training:
        """``training`` as the sites do it: ``optimizer_state: auto`` is what the strategy says."""
        return self.training.of(self.method.optimizer_state)

    @property
    def trains(self) -> bool:
        """Whether a network is trained."""
        return self.classical is None

    @property
    def self_supervised(self) -> bool:
        """Whether the training needs no fully sampled references."""
        return self.trains and self.training.ssdu is not None

    @property
    def fixed_scale(self) -> bool:
        """Whether the network works for one scale only, as super-resolution networks do."""
        return self.trains and enlarges(vars(self))

    @property
    def rounds(self) -> int:
        """The number of rounds to train; 0 for a classical reconstructor."""
        return self.training.rounds if self.trains else 0

    @property
    def measured(self) -> Block:
        """The block that says how sites measure: ``operator`` or ``degradation``."""
        block: Block = getattr(self, TASKS[self.task].block)
        return block

    @cached_property
    def own_task(self) -> Task:
        """The task, with the families of this experiment's plug-in files."""
        return task_of(vars(self))

    @property
    def scale(self) -> int:
        """How many times coarser the measured grid of super-resolution is; 1 for a reconstruction."""
        return self.operator_at("").scale

    def operator_at(self, site: str) -> Acquisition:
        """The setting with which this site measures."""
        return self.own_task.at(self.measured, site)

    @property
    def alone(self) -> Experiment:
        """This experiment without its transfer test: the run of it is tested."""
        return Experiment.read({**self.as_dict(), "test": None})

    def tested_at(self, site: str) -> Acquisition:
        """The setting with which this site measures when the finished run is tested."""
        own = self.operator_at(site)
        return own if self.test is None else self.test.at(self.own_task, self.measured, site)

    def scores_due(self, round_number: int) -> bool:
        """Whether the sites validate after this round: they score, or a prior before its last round draws samples."""
        return round_number % self.evaluation.every == 0 or round_number == self.rounds

    def digest(self, contents: Mapping[str, str], tested: Mapping[str, str] | None = None) -> str:
        """The identity of the science: a run with the same digest is resumed, and never runs again.

        Args:
            contents: content hash of each site's shard.
            tested: content hash of each shard in ``test.sites``; None takes ``contents``.
        """
        science, own = self.training_part(contents, operators=True), self.classical
        science |= {
            "evaluation": self.evaluation.science(),
            "reconstructor": {
                "name": self.reconstructor["name"],
                **({**science_of(own), **own.own_science, **source_of(type(own))} if own else {}),
            },
            "task": self.task,
        }
        if self.trains and self.training.start and not getattr(self.method, "trains_codes", True):
            science["codes"] = "none"  # once the codes of the start took part in reconstructions
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
                    *self.test.own_science(self.strategy),
                ],
            }
        return hashed(science)

    def training_digest(self, contents: Mapping[str, str]) -> str | None:
        """The identity of everything that influences the training; None if nothing is trained."""
        if not self.trains:
            return None
        part = self.training_part(contents, operators=self.method.trains_on_operator)
        strategy = {key: value for key, value in part["strategy"].items() if key not in self.method.at_inference}
        networks = self.registry("networks")
        network = NetworkChoice.parse(self.network, networks).science(networks, trains=True)
        return hashed({**part, "strategy": strategy, "network": network})

    def training_part(self, contents: Mapping[str, str], operators: bool) -> dict[str, Any]:
        """Everything that influences the training on data of these hashes, by site; with the operators, or without."""
        strategy = {key: value for key, value in science_of(self.method).items() if key != "allow_pooling"}
        networks, personal = self.registry("networks"), self.strategy.get("personalise")
        strategy |= self.method.own_science | ({"personalise": personal} if personal else {})
        start = {"start": True} if self.training.scores_start else {}
        return {
            "science_version": science_version(self.trains),
            "sites": {
                site: {"content": content, "operator": self.operator_at(site).science() if operators else None}
                for site, content in contents.items()
            },
            "strategy": {"name": self.strategy["name"], **strategy, **source_of(type(self.method))},
            "network": NetworkChoice.parse(self.network, networks).science(networks),
            "training": self.fitting.science(),
            "seed": self.seed,
            **({"selection": self.evaluation.selection() | start} if self.trains and self.training.selects else {}),
        }
