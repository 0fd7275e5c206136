"""The grid of a study: its cells, and the groups of cells that a table shows together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fedrecon.sites.imaging.degradations import DEGRADATIONS
from fedrecon.sites.score_columns import METRICS
from fedrecon.tune.study.analysis.condition import UNTRAINED, Kind, Missing, Score
from fedrecon.tune.study.analysis.inputs import Findings
from fedrecon.tune.study.analysis.samples import Sample, Seed, absent, averaged, joined


@dataclass(frozen=True, order=True)
class TestOperator:
    """The operator of a test.

    Attributes:
        mask, acceleration: the mask and acceleration; in super-resolution the degradation and its scale.
        label: the name in tables, such as ``random R=4``.
    """

    __test__ = False  # pytest collects classes whose name begins with Test

    mask: str
    acceleration: float
    label: str

    @property
    def measures(self) -> str:
        """What :attr:`acceleration` is: ``R``, the acceleration, or ``x``, the scale in super-resolution."""
        return "x" if self.mask in DEGRADATIONS else "R"

    def __str__(self) -> str:
        return self.label

    @classmethod
    def of(cls, one: Score | Missing) -> TestOperator:
        """The test operator of a score or of a missing cell."""
        return cls(one.mask, one.acceleration, one.operator)


@dataclass(frozen=True)
class Group:
    """The identity of one table. Its cells have the same values of these attributes; their test operators vary.

    Attributes:
        training: the kind of training, without the names of sites.
        trained_with: the training's operator. Methods whose training uses no operator are in every group.
        noise: the noise of the test, as a multiple of the data's own level.
        seen: whether the tested sites trained.
    """

    training: Kind
    trained_with: str
    noise: float
    seen: bool

    @property
    def kind(self) -> str:
        """The kind of training as text: ``all``, ``all but one``, ``one site``, ..."""
        return str(self.training)

    @property
    def where(self) -> str:
        """The tested sites, as text for the report."""
        if not self.training.trains:
            return "at all hospitals, without training"
        return "at hospitals that trained" if self.seen else "at hospitals that did not train"

    @property
    def how(self) -> str:
        """The training, as text for the report."""
        return self.trained + ("" if self.noise == 1 else f", noise {self.noise:g} times the data's own")

    @property
    def trained(self) -> str:
        """The training without the noise of the test, as text for the report."""
        base = "all sites" if self.training.scheme == "all" else self.training.base
        return f"{base} trained{self.training.suffix}" + (f" with {self.trained_with}" if self.trained_with else "")

    def __str__(self) -> str:
        return f"{self.where} ({self.how})"


@dataclass(frozen=True)
class Cell:
    """One training of a method, tested at one site under one operator and one noise level. It has all seeds."""

    method: str
    trained_on: str
    trained_with: str
    tested_on: str
    operator: TestOperator
    noise: float


class Grid:
    """All cells of a study. A cell has all its scores, or it is missing with a reason.

    Attributes:
        methods: the names of the methods, in the plan's order. sites: the names of the tested sites, sorted.
        first: one score of each cell that has scores. cells: the sample of each cell.
        trained_under_operators: the methods whose training uses an operator.
        subjects: the sorted subjects of each site.

    Raises:
        ValueError: a subject has two scores in one cell for one seed.
    """

    def __init__(self, findings: Findings) -> None:
        rows = _by_cell(findings.scores)
        self.methods = [method.name for method in findings.methods]
        self.sites = sorted({row.tested_on for row in findings.scores} | {one.tested_on for one in findings.missing})
        self.first = {cell: own[0] for cell, own in rows.items()}
        planned: list[Score | Missing] = [*findings.missing, *findings.scores]
        self._entries = {_cell(one): one for one in planned}
        missing = _missing(findings.missing)
        self.trained_under_operators = {cell.method for cell in self._entries if cell.trained_with}
        self.subjects = _subjects(findings.scores)
        seeds = _seeds(findings.scores)
        self.cells = {
            cell: _sample(own, seeds[cell.method], self.subjects[cell.tested_on], missing.get(cell, {}), cell.tested_on)
            for cell, own in rows.items()
        }
        for cell, reasons in missing.items():
            self.cells.setdefault(cell, absent(cell.tested_on, _listed(reasons)))
        self.cells = dict(sorted(self.cells.items(), key=lambda one: _order(one[0])))

    def seen(self, cell: Cell) -> bool:
        """Whether the tested site trained."""
        return self._entries[cell].seen_site

    def kind(self, cell: Cell) -> Kind:
        """The kind of the cell's training."""
        return self._entries[cell].sites.kind

    def seen_operator(self, cell: Cell) -> bool:
        """Whether the training used the test operator; True if it used none."""
        return self._entries[cell].seen_operator

    def groups(self) -> dict[Group, dict[TestOperator, dict[str, Sample]]]:
        """The samples of each group, by test operator and method. All methods of a table have the same sites."""
        trained = [cell for cell in self.cells if cell.trained_on != UNTRAINED]
        found: dict[Group, list[Cell]] = defaultdict(list)
        for cell in trained:
            found[self._group(cell)].append(cell)
        for group in [one for one in found if not one.trained_with]:
            twins = [one for one in found if one.trained_with and bare(one) == group]
            for twin in twins:  # a prior trains without an operator: the table of each training operator shows it
                found[twin] += found[group]
            if twins:
                del found[group]
        for cell in self.cells:
            if cell.trained_on == UNTRAINED:
                own = [one for one in found if one.noise == cell.noise and one.training.trains]
                for group in own or [Group(Kind("nothing"), "", cell.noise, False)]:
                    found[group].append(cell)
        return {group: self._tables(found[group]) for group in sorted(found, key=_rank)}

    def _group(self, cell: Cell) -> Group:
        return Group(self.kind(cell), cell.trained_with, cell.noise, self.seen(cell))

    def _tables(self, cells: Sequence[Cell]) -> dict[TestOperator, dict[str, Sample]]:
        trained = [cell for cell in cells if cell.trained_on != UNTRAINED] or cells
        sites: dict[TestOperator, set[str]] = defaultdict(set)
        trainings: dict[str, set[str]] = defaultdict(set)
        for cell in trained:
            sites[cell.operator].add(cell.tested_on)
            trainings[cell.tested_on].add(cell.trained_on)
        own: dict[str, list[Cell]] = defaultdict(list)
        for cell in cells:
            own[cell.method].append(cell)
        return {
            operator: {
                method: joined(
                    [self._at(own[method], site, operator, trainings[site]) for site in sorted(sites[operator])]
                )
                for method in self.methods
                if method in own
            }
            for operator in sorted(sites)
        }

    def _at(self, own: Sequence[Cell], site: str, operator: TestOperator, trainings: Iterable[str]) -> Sample:
        """A method's sample at a site: the mean over these trainings. It is missing if one of them is missing."""
        here = [cell for cell in own if cell.tested_on == site and cell.operator == operator]
        wanted = {UNTRAINED} if any(cell.trained_on == UNTRAINED for cell in own) else set(trainings)
        if left := sorted(wanted - {cell.trained_on for cell in here}):
            return absent(site, f"not run, trained on {', '.join(left)}" if here else "not run")
        return averaged([self.cells[cell] for cell in here])


def _cell(one: Score | Missing) -> Cell:
    return Cell(one.method, one.trained_on, one.trained_with, one.tested_on, TestOperator.of(one), one.noise)


def _by_cell(scores: Iterable[Score]) -> dict[Cell, list[Score]]:
    rows: dict[Cell, list[Score]] = defaultdict(list)
    known: set[tuple[Cell, Seed, str]] = set()
    for row in sorted(scores, key=lambda row: (row.subject, -1 if row.seed is None else row.seed)):
        cell = _cell(row)
        if (cell, row.seed, row.subject) in known:
            raise ValueError(f"two scores of subject '{row.subject}', seed {row.seed}, in {cell}")
        known.add((cell, row.seed, row.subject))
        rows[cell].append(row)
    return rows


def _sample(
    rows: Sequence[Score], known: set[Seed], subjects: Sequence[str], reasons: dict[Seed, str], site: str
) -> Sample:
    """The sample of a cell. If a seed lacks a subject, the cell is absent with a reason.

    Args:
        rows: the scores of the cell. known: the seeds of its method. subjects: the subjects of the tested site.
        reasons: the reason for each missing seed; the key None stands for any seed.
    """
    seeds = sorted(known | (reasons.keys() - {None}), key=lambda seed: -1 if seed is None else seed)
    found = {(row.seed, row.subject): row for row in rows}
    for seed in seeds:
        if lacking := [subject for subject in subjects if (seed, subject) not in found]:
            which = "" if seed is None else f"seed {seed}: "
            default = "not run" if len(lacking) == len(subjects) else f"{len(lacking)} of {len(subjects)} subjects lack"
            return absent(site, which + reasons.get(seed, reasons.get(None, default)))
    values = {
        metric: np.array([[getattr(found[seed, subject], metric) for subject in subjects] for seed in seeds])
        for metric in METRICS
    }
    if not all(np.isfinite(array).all() for array in values.values()):
        return absent(site, "a score is not a finite number")
    runs = tuple(sorted({row.run_id for row in rows if row.run_id}))
    return Sample(tuple(seeds), tuple((site, subject) for subject in subjects), values, {}, runs)


def _seeds(scores: Iterable[Score]) -> dict[str, set[Seed]]:
    """The seeds of each method, from all its cells. Each cell needs all of them."""
    found: dict[str, set[Seed]] = defaultdict(set)
    for row in scores:
        found[row.method].add(row.seed)
    return found


def _subjects(scores: Iterable[Score]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in scores:
        found[row.tested_on].add(row.subject)
    return {site: sorted(names) for site, names in found.items()}


def _missing(missing: Iterable[Missing]) -> dict[Cell, dict[Seed, str]]:
    """The reasons for missing scores, by cell and seed."""
    found: dict[Cell, dict[Seed, str]] = defaultdict(dict)
    for one in sorted(missing, key=lambda one: (one.reason, -1 if one.seed is None else one.seed)):
        found[_cell(one)].setdefault(one.seed, one.reason)
    return found


def _listed(reasons: dict[Seed, str]) -> str:
    return "; ".join(dict.fromkeys(reasons.values()))


def bare(group: Group) -> Group:
    """The condition of a group: the group without its training's operator."""
    return Group(group.training, "", group.noise, group.seen)


def _rank(group: Group) -> tuple[object, ...]:
    """The sort key of a group. Hospitals that did not train come first: a study asks about them."""
    kinds = {"all but one": 0, "all": 1, UNTRAINED: 9}
    own_noise = 0.0 if group.noise == 1 else math.inf
    return (group.seen, kinds.get(group.training.scheme, 2), group.kind, own_noise, group.noise, group.trained_with)


def _order(cell: Cell) -> tuple[object, ...]:
    return (cell.method, cell.trained_on, cell.trained_with, cell.tested_on, cell.operator, cell.noise)
