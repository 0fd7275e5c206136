"""Plans a sweep before anything starts: its trials, their digests, and the trainings that trials share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.overrides import apply_values
from fedrecon.platform.config.replaced import replaced
from fedrecon.platform.consortium.checks import ConsortiumShards
from fedrecon.platform.consortium.shards import check_subjects, n_slices, open_sites
from fedrecon.sites.acquisition.mix import is_mix, mix_text
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError, unknown
from fedrecon.sites.phases import counted
from fedrecon.tune.search.config import MAX_TRIALS, PROBLEM, Budget, CampaignSettings, Sweep
from fedrecon.tune.search.space import KINDS, Dimension, Params, draw, points, read_space

_DIGEST = re.compile("[0-9a-f]{16}")
"""A whole digest: a trial is planned before its workspace is searched for a run."""


@dataclass(frozen=True)
class Trial:
    """One planned experiment.

    Attributes:
        number: 0, 1, ... in the plan's order.
        params: the searched keys with their values.
        experiment: the experiment of the trial.
        digest: the digest of the experiment.
        training_digest: the digest of its training; None if nothing is trained.
        label: the name of the trial; None makes a name from the searched values.
    """

    number: int
    params: Params
    experiment: Experiment
    digest: str
    training_digest: str | None
    label: str | None = None

    @property
    def training(self) -> str:
        """The digest of the work that must not run twice at once: of the training, or of a trial without a training."""
        return self.training_digest or self.digest

    @property
    def problem(self) -> str:
        """The searched values that say WHAT is reconstructed, as JSON. Only trials of one problem can be compared."""
        return json.dumps({key: value for key, value in self.params.items() if key.split(".")[0] in PROBLEM})

    @property
    def name(self) -> str:
        """A short name for lists of runs: the searched values under short keys. Some names stand without their key."""
        if self.label is not None:
            return self.label
        shown = short_keys(self.params).items()
        return " ".join(_brief(short, value) for short, value in shown) or "base"


class RefusedTrialError(InputError):
    """An experiment refuses the values of a trial. The message names the trial.

    Attributes:
        number: the number of the trial. params: its values. reason: the experiment's own error.
    """

    def __init__(self, number: int, params: Params, reason: InputError) -> None:
        self.number, self.params, self.reason = number, params, reason
        hint = _hint(reason, params)
        super().__init__(f"trial {number} ({json.dumps(params)}): {reason}{hint}", reason.unknown)

    def __reduce__(self) -> tuple[Any, ...]:
        """See :class:`InputError`."""
        return type(self), (self.number, self.params, self.reason)


@dataclass
class Planner:
    """Makes trials from points. It opens every folder of shards once.

    Attributes:
        settings: the settings of the sweep or study. base: the content of the base experiment; its sites run as
            ``crew: auto`` if it names no crew.
        space: the dimensions of the search; a study has none.
        address: the address of a Ray cluster, whose nodes may hold the shards.
    """

    settings: CampaignSettings
    base: Mapping[str, Any]
    space: tuple[Dimension, ...] = ()
    address: str | None = None
    _shards: dict[str, dict[str, Shard]] = field(default_factory=dict)
    _known: dict[tuple[str, str], Shard] = field(default_factory=dict)
    _checked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        given = self.base.get("resources")
        self.base = {**self.base, "resources": {"crew": "auto", **(given if isinstance(given, dict) else {})}}

    @property
    def sweep(self) -> Sweep | None:
        """The settings of the sweep; None for a study, which searches nothing."""
        return self.settings if isinstance(self.settings, Sweep) else None

    @property
    def budget(self) -> Budget:
        """The limits of the sweep; a study has none."""
        return self.sweep.budget if self.sweep is not None else Budget()

    @classmethod
    def of(cls, sweep: Sweep, base: Mapping[str, Any], address: str | None = None) -> Planner:
        """The planner of a sweep. Checks the base experiment, the conditions of the search, and the sites of metrics.

        Args:
            sweep, base: see :meth:`Sweep.read`. address: the address of a cluster, whose nodes may hold the shards.

        Raises:
            InputError: a key is unknown, the base experiment is wrong, or its data cannot be used.
        """
        planner = cls(sweep, base, read_space(sweep.search), address)
        whole = Experiment.read(dict(planner.base))
        if sweep.algorithm == "grid" and (drawn := [one.key for one in planner.space if one.kind != "grid"]):
            raise InputError(f"algorithm: grid allows only grids, but {', '.join(drawn)} is drawn; random allows both")
        planner._check_conditions()
        for metric in sweep.metrics:
            site = metric.split("/")[1] if metric.startswith("site/") else None
            if site and site not in (shards := planner.shards(whole)):
                raise unknown(f"site in the metric '{metric}':", site, shards)
        return planner

    def shards(self, experiment: Experiment) -> dict[str, Shard]:
        """The shards of the sites that train."""
        return self._opened(experiment.sites)

    def sites(self, experiment: Experiment) -> ConsortiumShards:
        """The shards of the sites that train and of the sites that are tested."""
        trained, test_sites = self._opened(experiment.sites), experiment.test.sites if experiment.test else None
        return ConsortiumShards(trained, trained if test_sites is None else self._opened(test_sites))

    def _opened(self, sites: str | Mapping[str, str]) -> dict[str, Shard]:
        key = json.dumps(sites, sort_keys=True)
        if key not in self._shards:
            self._shards[key] = open_sites(sites, self.address) if isinstance(sites, str) else self._named(sites)
        return self._shards[key]

    def _named(self, sites: Mapping[str, str]) -> dict[str, Shard]:
        """The shards of named sites. Each is opened once, because it takes seconds to ask another node for labels."""
        fresh = {name: path for name, path in sites.items() if (name, path) not in self._known}
        if fresh or not sites:
            self._known |= {(name, fresh[name]): shard for name, shard in open_sites(fresh, self.address).items()}
        found = {name: self._known[name, path] for name, path in sorted(sites.items())}
        check_subjects(found)
        return found

    def value(self, key: str) -> Any:
        """The base experiment's value of a dotted key; None if it has no such key."""
        found: Any = Experiment.read(dict(self.base)).as_dict()
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def trial(self, number: int, params: Params) -> Trial:
        """The trial of a point.

        Raises:
            RefusedTrialError: the experiment refuses a value, or its data cannot be used.
        """
        try:
            experiment = Experiment.read(apply_values(self.base, params))
            if experiment.training.start is not None and not _DIGEST.fullmatch(experiment.training.start):
                raise InputError("training.start: among trials, name the run by its whole digest (16 characters)")
            sites = self.sites(experiment)
            parts: list[Any] = [experiment.measured, experiment.sites, experiment.strategy, experiment.allow_pooling]
            parts += [experiment.publish_private, experiment.test and experiment.test.model_dump()]
            parts += [experiment.network, experiment.reconstructor, [one.digest for one in experiment.plugins]]
            problem = json.dumps(parts, sort_keys=True)
            if problem not in self._checked:
                sites.check(experiment)
                self._checked.add(problem)
            stops = self.sweep is not None and self.sweep.scheduler is not None
            if stops and experiment.trains and experiment.method.is_prior:
                raise InputError("a prior is scored only after its last round, so a scheduler would stop nothing")
        except InputError as error:
            raise RefusedTrialError(number, params, error) from None
        return Trial(number, params, experiment, sites.digest(experiment), sites.training_digest(experiment))

    def trials(self) -> list[Trial]:
        """All trials of a grid or random sweep.

        The list of an Optuna sweep is empty, because its trials depend on earlier results. Its values are only checked.

        Raises:
            InputError: see :meth:`trial`; or the search makes more than :data:`MAX_TRIALS` trials.
        """
        sweep, base = self.sweep, {key: self.value(key) for one in self.space for key in one.when}
        if sweep is None or sweep.algorithm == "optuna":
            self._check_corners(base)
            return []
        found = points(self.space, sweep.samples, sweep.seed, base.get, MAX_TRIALS)
        return [self.trial(number, params) for number, params in enumerate(counted("planning trials", found))]

    def replaced(self) -> Iterator[str]:
        """Yields what each searched block takes away from the base."""
        for one in self.space:
            for value in one.values:
                yield from replaced(self.base, {one.key: value})

    def slices(self, trial: Trial, split: str) -> int:
        """The number of slices of one split that are scored, at all sites together.

        A transfer test scores no validation subjects.
        """
        limit, sites = trial.experiment.evaluation.slices_of(split), self.sites(trial.experiment)
        if trial.experiment.test is not None and split != "test":
            return 0
        scored = sites.tested if split == "test" else sites.trained
        return sum(n_slices(shard, split, limit) for shard in scored.values())

    def _check_corners(self, base: Mapping[str, Any]) -> None:
        """Checks values that Optuna may suggest: the listed values, both bounds of a range, and one value between them.

        Each value is checked at a point where its conditions hold.
        """
        for one in self.space:
            between = () if KINDS[one.kind].listed else (draw(one, self.sweep.seed if self.sweep is not None else 0),)
            for value in (*one.values, *between):
                fixed = {**{key: allowed[0] for key, allowed in one.when.items()}, one.key: value}
                params: Params = {}
                for other in self.space:
                    if other.active(params, base.get):
                        params[other.key] = fixed.get(other.key, other.values[0])
                self.trial(0, params)

    def _check_conditions(self) -> None:
        """Refuses a condition that can never hold. Its key would never be searched, and no message would say so."""
        searched = {one.key: one for one in self.space}
        for one in self.space:
            for key, allowed in one.when.items():
                where = f"search.{one.key}.when"
                if key not in searched and self.value(key) is None:
                    known = {*searched, *self._known_keys()}
                    raise InputError(f"{where}: {unknown('key', key, known)}")
                parent = searched.get(key)
                possible = parent.values if parent and KINDS[parent.kind].listed else None
                if parent is None:
                    possible = (self.value(key),)
                if possible is not None and (wrong := [value for value in allowed if value not in possible]):
                    raise InputError(f"{where}.{key}: {wrong[0]!r} never occurs there. Allowed: {_list(possible)}.")

    def _known_keys(self) -> list[str]:
        return list(Experiment.read(dict(self.base)).flat())


@dataclass(frozen=True)
class Shape:
    """The size of a plan.

    Attributes:
        trials: the number of trials. trainings: the number of distinct trainings; each is done once.
        rounds: the number of rounds of all distinct trainings together.
        evaluations: the number of distinct experiments that take over the training of another one.
    """

    trials: int
    trainings: int
    rounds: int
    evaluations: int

    @classmethod
    def of(cls, trials: list[Trial]) -> Shape:
        """The size of a plan."""
        distinct = {trial.training_digest: trial for trial in trials if trial.training_digest}
        digests = {trial.digest for trial in trials if trial.training_digest}
        rounds = sum(trial.experiment.rounds for trial in distinct.values())
        return cls(len(trials), len(distinct), rounds, len(digests) - len(distinct))


def _list(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)


def short_keys(params: Mapping[str, Any]) -> dict[str, Any]:
    """The params under short keys.

    The short key is the last part of the key, or the part before it if the last part is ``name`` (``strategy.name`` is
    ``strategy``). If two short keys are equal, both keys stay whole.
    """
    last = {key: _short(key) for key in params}
    names = list(last.values())
    return {(short if names.count(short) == 1 else key): params[key] for key, short in last.items()}


def absolute(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment with absolute paths of its sites, so that it can be read in any working directory."""
    test = experiment.get("test")
    test_sites = {"test": absolute(test)} if test and test.get("sites") else {}
    sites = experiment["sites"]
    if isinstance(sites, dict):
        return {**experiment, **test_sites, "sites": {name: str(Path(path).absolute()) for name, path in sites.items()}}
    return {**experiment, **test_sites, "sites": str(Path(sites).absolute())}


def show(value: Any) -> str:
    """A value as text for people. A mapping of site names to shard files is shown as the names."""
    if is_mix(value):
        return mix_text(value)
    if isinstance(value, Mapping):
        named = all(str(one).endswith((".h5", ".hdf5")) for one in value.values())
        return "+".join(value) if named else " ".join(f"{key}={show(one)}" for key, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


FAMILIES = ("name", "mask", "kind")
"""Keys whose value names an entry of a registry. The value is shown without its key."""


def _brief(short: str, value: Any) -> str:
    """One searched value in the name of a trial, such as ``R=4`` or ``fedavg``."""
    if (
        isinstance(value, Mapping)
        and not is_mix(value)
        and (named := next((value[key] for key in FAMILIES if key in value), None))
    ):
        return " ".join([show(named), *(_brief(key, one) for key, one in value.items() if key not in FAMILIES)])
    if short in ("strategy", "network", "mask", "reconstructor"):
        return show(value)
    known = {"acceleration": "R", "learning_rate": "lr"}
    return f"{known.get(short, short)}={show(value)}"


def _short(key: str) -> str:
    *front, last = key.split(".")
    return front[-1] if last == "name" and front else last


def _hint(reason: InputError, params: Mapping[str, Any]) -> str:
    """Advice for a refused key of a strategy or a network; an empty text for any other error."""
    named = [key for key in params if key.split(".")[0] in ("strategy", "network") and not key.endswith(".name")]
    if not reason.unknown or not named:
        return ""
    block = named[0].split(".")[0]
    return f" A key that only one {block} has needs a condition: {named[0]}: {{..., when: {{{block}.name: NAME}}}}."
