"""The matrix of a study: its trainings, its tests, and the trial that fills each cell. It is planned before the run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.overrides import apply_values
from fedrecon.platform.config.tasks import Task
from fedrecon.platform.consortium.budget import Budget, budgets, spent
from fedrecon.platform.consortium.shards import n_slices
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.classical.zero_filled import ZeroFilled
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.data.volume import used_slices
from fedrecon.sites.errors import InputError, listed, unknown
from fedrecon.sites.phases import counted
from fedrecon.tune.study.analysis.condition import Condition, Training, TrainingSites
from fedrecon.tune.study.analysis.inputs import Method, described
from fedrecon.tune.study.config import Study, expanded
from fedrecon.tune.study.twins import twin_digest
from fedrecon.tune.trials.planner import Planner, RefusedTrialError, Trial

Block = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Learned(Training):
    """One training of the matrix. A method without training has one entry too.

    Attributes:
        names: the names of the sites that train; all sites without training.
        changes: keys that change the base experiment's operator for the training.
        slices: the limit of training slices per site; None takes the experiment's.
    """

    names: tuple[str, ...]
    changes: Block
    slices: int | None = None

    @property
    def label(self) -> str:
        """The label in lists of runs."""
        parts = [self.method]
        if self.seed is not None:
            with_what = f" with {self.trained_with}" if self.trained_with else ""
            parts += [f"trained on {self.trained_on}{with_what}", f"seed {self.seed}"]
        return " · ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Cell(Condition):
    """One cell of the matrix: a condition with the trial that fills it. It gets one score per test subject.

    Attributes:
        learned: the training. digest: the digest of the trial.
        slices_per_site: the mean number of training slices per training site; 0 without training.
    """

    learned: Learned
    digest: str
    slices_per_site: float


@dataclass
class Matrix:
    """Plans the trials and cells of a study.

    Attributes:
        base: the content of the study's base experiment. planner: the planner of its trials.
    """

    study: Study
    base: Mapping[str, Any]
    planner: Planner
    trials: list[Trial] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    _known: dict[str, Trial] = field(default_factory=dict)
    _operators: dict[tuple[Any, ...], Block] = field(default_factory=dict)
    _parts: dict[str, tuple[bool, bool]] = field(default_factory=dict)

    def plan(self) -> Matrix:
        """Fills :attr:`trials` and :attr:`cells`. A training comes before the tests that use it.

        Raises:
            InputError: the task does not have a method, data cannot be used, or a test subject was also trained on.
        """
        for site in self._named_sites():
            if site not in self.shards:
                raise unknown("site in the study", site, self.shards)
        for name in self.study.references:
            if name not in self.study.methods:
                raise unknown("method in references", name, self.study.methods)
        self._check_base()
        learned = [one for name in self.study.methods for one in self._learned(name)]
        for one in counted("planning the study", learned):
            self._plan(one)
        if not self.cells:
            raise InputError("test.sites: nothing is tested: no training has a site left to test")
        distinct = {trial.digest: trial for trial in self.trials}
        order = sorted(distinct.values(), key=lambda trial: trial.experiment.test is not None)
        self.trials = [replace(trial, number=number) for number, trial in enumerate(order)]
        return self

    @cached_property
    def whole(self) -> Experiment:
        """The base experiment with all its sites."""
        return Experiment.read(dict(self.base))

    @cached_property
    def task(self) -> Task:
        """The task of the study."""
        return self.whole.own_task

    @property
    def shards(self) -> dict[str, Shard]:
        """All sites of the study."""
        return self.planner.shards(self.whole)

    @cached_property
    def methods(self) -> list[Method]:
        """The methods, as the report shows them."""
        return [self._method(name, patch) for name, patch in self.study.methods.items()]

    def method(self, name: str) -> Method:
        """The method of this name."""
        return next(one for one in self.methods if one.name == name)

    def experiment(self, method: str) -> Experiment:
        """The experiment of a method, with all sites.

        Raises:
            InputError: a key or value of the method's patch is wrong; the message names the method.
        """
        try:
            return Experiment.read(apply_values(self.base, self.study.methods[method]))
        except InputError as error:
            raise InputError(f"methods.{method}: {error}") from None

    def _check_base(self) -> None:
        """Refuses settings under which two cells have the same name, or under which subjects are left out silently."""
        if self.whole.test is not None:
            raise InputError("experiment.test: not allowed in a study; the study's own key test sets the tests")
        named: dict[str, Block] = {}
        for operator in expanded(self.study.train.operators):
            one = self._acquisition("", operator)
            if named.setdefault(one.described(), one.flat()) != one.flat():
                raise InputError(
                    f"train.operators: two operators have the name {one.described()} in tables; use two studies"
                )
        limit = self.whole.evaluation.slices_of("test")
        for name, shard in self.shards.items():
            subjects = {volume.subject for volume in shard.scorable("test")}
            if left_out := subjects - {volume.subject for volume, _ in used_slices(shard.scorable("test"), limit)}:
                raise InputError(
                    f"experiment.evaluation.max_slices: {limit} evenly spaced test slices leave out "
                    f"{listed(sorted(left_out))} of the {len(subjects)} test subjects of site '{name}'; a study needs "
                    "all subjects"
                )

    def _method(self, name: str, patch: Mapping[str, Any]) -> Method:
        one = self.experiment(name)
        personal, alone = self.private(name)
        transferred = any(
            cell.learned.method == name and cell.learned.seed is not None and not cell.seen_site for cell in self.cells
        )
        published = bool(one.publish_private) and (alone or self.study.test.unseen is not None)
        return Method(
            name=name,
            settings=", ".join(f"{key}={json.dumps(value)}" for key, value in patch.items()) or "the base experiment",
            trains=one.trains,
            moved_data=one.trains and one.method.moves_data,
            published_private=personal and transferred and published,
            personal=personal,
            alone=alone and one.personalise is None,
            network=one.network["name"] if one.trains else "",
            like=twin_digest(one, self.shards, self.study.searched),
            about=described(one.method if one.trains else one.classical),
            zero_filled=isinstance(one.classical, ZeroFilled),
            **spent(self._budgets(name)),
        )

    def _budgets(self, method: str) -> Iterator[Budget]:
        """The budgets of all members in all planned trainings of a method; a seed does not change them."""
        all_of = filter(self._tested, self._learned(method))
        planned = {(one.names, one.slices, json.dumps(one.changes)): one for one in all_of}
        for one in planned.values():
            training = Experiment.read(apply_values(self.base, self._params(one, one.names, one.changes)))
            yield from budgets(training, self.planner.shards(training)).values()

    def private(self, method: str) -> tuple[bool, bool]:
        """Whether each site has a private part of the network, and whether the whole network is private."""
        from fedrecon.platform.consortium.network import network_layout, private_members

        if method not in self._parts:
            one = self.experiment(method)
            members, alone = private_members(one, network_layout(one, self.shards), list(self.shards))
            self._parts[method] = bool(members), alone
        return self._parts[method]

    def _named_sites(self) -> Iterator[str]:
        if isinstance(self.study.test.sites, list):
            yield from self.study.test.sites
        if isinstance(self.study.train.sites, list):
            yield from (name for one in self.study.train.sites if one != "all" for name in one)

    def _site_sets(self) -> list[tuple[TrainingSites, tuple[str, ...]]]:
        """The sets of training sites, each with the names of all its sites."""
        names, asked = tuple(self.shards), self.study.train.sites
        if asked == "all":
            return [(TrainingSites("all", len(names)), names)]
        if asked == "each":
            return [(TrainingSites("named", 1, (name,)), (name,)) for name in names]
        if asked == "leave-one-out":
            if len(names) < 2:
                raise InputError("train.sites: leave-one-out needs at least two sites")
            return [
                (TrainingSites("all but one", len(names) - 1, (out,)), tuple(name for name in names if name != out))
                for out in names
            ]
        sets = [names if one == "all" else tuple(name for name in names if name in one) for one in asked]
        return [
            (TrainingSites("all", len(one)) if one == names else TrainingSites("named", len(one), one), one)
            for one in dict.fromkeys(sets)
        ]

    def _learned(self, method: str) -> Iterator[Learned]:
        one, train = self.experiment(method), self.study.train
        if not one.trains:
            nothing = TrainingSites("nothing", 0)
            yield Learned(
                method=method, sites=nothing, trained_with="", seed=None, names=tuple(self.shards), changes={}
            )
            return
        operators = list(expanded(train.operators)) if one.method.trains_on_operator else [{}]
        for (trained_on, names), changes, slices, seed in itertools.product(
            self._site_sets(), operators, train.slices, self.study.seeds_of.get(method, self.study.seeds)
        ):
            with_what = self._acquisition("", changes).described() if one.method.trains_on_operator else ""
            if len(train.slices) > 1:
                trained_on = replace(trained_on, limit=slices or "all")
            yield Learned(
                method=method, sites=trained_on, trained_with=with_what, seed=seed,
                names=names, changes=changes, slices=slices,
            )  # fmt: skip

    def _tested(self, learned: Learned) -> list[str]:
        """The sites at which this training is tested."""
        asked = self.study.test.sites
        if isinstance(asked, list):
            return [name for name in self.shards if name in asked]
        if learned.seed is None or asked == "all":
            return list(self.shards)
        return [name for name in self.shards if (name in learned.names) == (asked == "trained")]

    def _conditions(self, learned: Learned) -> list[Block]:
        """The test operators, as keys that change the training's operator (without one: the base's operator)."""
        blocks: Iterable[Block] = self.study.test.operators or [{}]
        if self.study.test.operators is None and not learned.trained_with:
            blocks = self.study.train.operators
        noises = [{"noise": noise} for noise in self.study.test.noise or ()] or [{}]
        return [{**block, **noise} for block in expanded(list(blocks)) for noise in noises]

    def _acquisition(self, site: str, *changes: Mapping[str, Any]) -> Acquisition:
        """A site's acquisition: the base experiment's settings, with the changes applied one after the other."""
        block = self.whole.operator_at(site).flat()
        for one in changes:
            block = self.task.acquisition.inherit(block, one)
        try:
            return self.task.read(block, f"the study's {self.task.block}")
        except InputError as error:
            raise InputError(f"train or test: {error}") from None

    def _plan(self, learned: Learned) -> None:
        sites = self._tested(learned)
        if not sites:
            return
        if learned.seed is None:
            for condition in self._conditions(learned):
                trial = self._trial(learned, self._params(learned, sites, condition), condition)
                self._fill(learned, sites, condition, trial)
            return
        own = self._trial(learned, self._params(learned, learned.names, learned.changes), {})
        for condition in self._conditions(learned):
            left: dict[str, list[str]] = {}
            for site in sites:
                target = self._acquisition(site, learned.changes, condition)
                if site in learned.names and _same(target, own.experiment.operator_at(site)):
                    self._fill(learned, [site], condition, own)
                else:
                    left.setdefault(json.dumps(target.flat()), []).append(site)
            for block, tested in left.items():
                params = self._params(learned, learned.names, learned.changes)
                params["test"] = self._test(learned, tested, json.loads(block))
                trial = self._trial(learned, params, condition)
                self._fill(learned, tested, condition, trial)

    def _params(self, learned: Learned, sites: Sequence[str], operator: Mapping[str, Any]) -> dict[str, Any]:
        """The patch of a trial: the values of the base experiment's keys that it changes."""
        params = {**self.study.methods[learned.method], "sites": self._paths(sites)}
        params |= {f"{self.task.block}.{key}": value for key, value in operator.items()}
        per_site, inherit = self.whole.measured.get("per_site", {}), self.task.acquisition.inherit
        if left := set(per_site) - set(sites):
            kept = {name: inherit(block, operator) for name, block in per_site.items() if name not in left}
            params[f"{self.task.block}.per_site"] = kept
        own = self.experiment(learned.method)
        if isinstance(limits := own.training.max_slices, dict):
            params["training.max_slices"] = {name: limits[name] for name in limits if name in sites} or None
        if own.publish_private != "all":
            params["publish_private"] = [name for name in own.publish_private if name in sites]
        if learned.slices is not None:
            params["training.max_slices"] = learned.slices
        return params if learned.seed is None else {**params, "seed": learned.seed}

    def _test(self, learned: Learned, tested: Sequence[str], block: Block) -> Block:
        test: Block = {self.task.block: block}
        if list(tested) != list(learned.names):
            test["sites"] = self._paths(tested)
        unseen = [name for name in tested if name not in learned.names]
        personal, alone = self.private(learned.method)
        if self.study.test.unseen and unseen and personal and not alone:
            test |= {"unseen": self.study.test.unseen, "fine_tune_epochs": self.study.test.fine_tune_epochs}
        return test

    def _paths(self, sites: Iterable[str]) -> dict[str, str]:
        return {name: str(self.shards[name].path) for name in sites}

    def _trial(self, learned: Learned, params: dict[str, Any], condition: Mapping[str, Any]) -> Trial:
        key = json.dumps(params, sort_keys=True)
        if key not in self._known:
            try:
                trial = self.planner.trial(len(self.trials), params)
            except RefusedTrialError as error:  # the study's user knows the method, not the number of the trial
                raise InputError(f"methods.{learned.method}: {error.reason}") from None
            tested = list((trial.experiment.test and trial.experiment.test.sites) or ())
            where = f" at {', '.join(tested)}" if tested else ""
            measured = trial.experiment.tested_at(tested[0] if tested else "")
            shown = f" · {measured.described()}" if condition or tested else ""
            label = f"{learned.label}{shown}{where}"
            self._known[key] = replace(trial, label=label)
            self.trials.append(self._known[key])
        return self._known[key]

    def _fill(self, learned: Learned, sites: Sequence[str], condition: Mapping[str, Any], trial: Trial) -> None:
        trains = learned.seed is not None
        for site in sites:
            measured = self._acquisition(site, learned.changes, condition)
            uses_no_operator = not trains or not learned.trained_with
            where = (learned.method, learned.sites, learned.trained_with, learned.seed, site)
            if not self._new((*where, measured.family, measured.acceleration, measured.noise), measured):
                continue
            self.cells.append(
                Cell(
                    **learned.part(Training),
                    tested_on=site,
                    mask=measured.family,
                    acceleration=measured.acceleration,
                    operator=measured.label(),
                    noise=measured.noise,
                    learned=learned,
                    digest=trial.digest,
                    slices_per_site=self._slices(learned) if trains else 0.0,
                    seen_site=trains and site in learned.names,
                    seen_operator=uses_no_operator or self._acquisition(site, learned.changes).covers(measured),
                )
            )

    def _new(self, key: tuple[Any, ...], measured: Acquisition) -> bool:
        """Whether a cell is not planned yet.

        Raises:
            InputError: the cell is planned, but for another operator of the same name.
        """
        known = self._operators.get(key)
        if known is None:
            self._operators[key] = measured.flat()
            return True
        if known != measured.flat():
            name = f"{measured.label()} at noise {measured.noise:g}"
            raise InputError(f"test.operators: two operators have the name {name} in all tables; use two studies")
        return False

    def _slices(self, learned: Learned) -> float:
        own = self.experiment(learned.method).training
        counts = [n_slices(self.shards[one], "train", learned.slices or own.slices_at(one)) for one in learned.names]
        return sum(counts) / len(counts)


def _same(one: Acquisition, other: Acquisition) -> bool:
    """Whether two operators give the same measured data of a test subject. ``fixed_mask`` concerns only training."""
    blocks = [{key: value for key, value in each.flat().items() if key != "fixed_mask"} for each in (one, other)]
    return blocks[0] == blocks[1]
