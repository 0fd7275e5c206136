"""The grid of a study: its cells, and the groups of cells that a table shows together."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedrecon.sites.score_columns import METRICS
from fedrecon.tune.study.analysis.condition import UNTRAINED, Kind, Missing, Score, TrainedMethod
from fedrecon.tune.study.analysis.inputs import Findings
from fedrecon.tune.study.analysis.samples import COLUMNS, NO_SEED, ROWS, Sample, absent, averaged, joined

Seed = int | None
"""The seed of a missing cell; None stands for every seed."""


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
        return "R" if " R=" in self.label else "x"  # the mask may be a plug-in that is not here

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
        return self.trained + noise_text(self.noise)

    @property
    def trained(self) -> str:
        """The training without the noise of the test, as text for the report."""
        base = "all sites" if self.training.scheme == "all" else self.training.base
        return f"{base} trained{self.training.suffix}" + (f" with {self.trained_with}" if self.trained_with else "")

    def __str__(self) -> str:
        return f"{self.where} ({self.how})"


def noise_text(noise: float) -> str:
    """The noise of a test behind other words; empty for the data's own level."""
    return "" if noise == 1 else f", noise {noise:g} times the data's own"


@dataclass(frozen=True, kw_only=True)
class Cell(TrainedMethod):
    """A trained method, tested at one site under one operator and one noise level. It has all seeds."""

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
        rows = frame(findings.scores)
        self.methods = [method.name for method in findings.methods]
        self.sites = sorted({row.tested_on for row in findings.scores} | {one.tested_on for one in findings.missing})
        self.first = {_cell(one): one for one in (findings.scores[at] for at in rows.drop_duplicates("cell").index)}
        planned: list[Score | Missing] = [*findings.missing, *findings.scores]
        self._entries = {_cell(one): one for one in planned}
        self.trained_under_operators = {cell.method for cell in self._entries if cell.trained_with}
        placed = rows.sort_index().groupby("site", sort=False)["subject"]
        self.subjects = {str(site): sorted(own.unique()) for site, own in placed}
        missing = _missing(findings.missing)
        self.cells = dict(_samples(rows, self.first, self.subjects, missing))
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
    operator = TestOperator.of(one)
    return Cell(**one.part(TrainedMethod), tested_on=one.tested_on, operator=operator, noise=one.noise)


def frame(scores: Sequence[Score]) -> pd.DataFrame:
    """One row per score (cell, seed and subject), sorted by subject and seed; the index is the place in ``scores``.

    The columns are ``cell`` (a number for each :class:`Cell`), ``method``, ``site``, ``subject``, ``seed``
    (:data:`NO_SEED` without training), ``run_id`` and the metrics.

    Raises:
        ValueError: a subject has two scores in one cell for one seed.
    """
    numbers: dict[Cell, int] = {}
    rows = pd.DataFrame({
        "cell": [numbers.setdefault(_cell(one), len(numbers)) for one in scores],
        "method": [one.method for one in scores],
        "site": pd.Series([one.tested_on for one in scores], dtype=object),
        "subject": pd.Series([one.subject for one in scores], dtype=object),
        "seed": [NO_SEED if one.seed is None else one.seed for one in scores],
        "run_id": [one.run_id for one in scores],
        **{metric: [getattr(one, metric) for one in scores] for metric in METRICS},
    }).sort_values(["subject", "seed"], kind="stable")  # fmt: skip
    for at in rows.index[rows.duplicated(["cell", "seed", "subject"])]:
        one = scores[at]
        raise ValueError(f"two scores of subject '{one.subject}', seed {one.seed}, in {_cell(one)}")
    return rows


def _samples(
    rows: pd.DataFrame,
    cells: Iterable[Cell],
    subjects: Mapping[str, Sequence[str]],
    missing: Mapping[Cell, Mapping[Seed, str]],
) -> Iterator[tuple[Cell, Sample]]:
    """Yields each cell with its sample. Every seed of the method needs every subject of the site: else it is absent.

    Args:
        rows: see :func:`frame`. cells: the cells in the order in which they first occur in ``rows``.
        subjects: the subjects of each site. missing: see :func:`_missing`.
    """
    seeds: dict[str, set[int]] = {name: set(own.unique().tolist()) for name, own in rows.groupby("method")["seed"]}
    runs = {number: tuple(sorted({*own} - {""})) for number, own in rows.groupby("cell")["run_id"]}
    # After the reindexing below a hole is NaN. A score that is NaN itself is no hole, and becomes infinite.
    wide = rows.fillna(dict.fromkeys(METRICS, np.inf)).pivot(index=["cell", *ROWS], columns="seed", values=[*METRICS])
    whole = {
        site: pd.MultiIndex.from_arrays([pd.Index([site] * len(names), dtype=object), pd.Index(names, dtype=object)])
        for site, names in subjects.items()
    }
    for number, cell in zip(rows["cell"].unique().tolist(), cells, strict=True):
        reasons: Mapping[Seed, str] = missing.get(cell, {})
        planned = sorted(seeds[cell.method] | {seed for seed in reasons if seed is not None})
        columns = pd.MultiIndex.from_product([METRICS, planned], names=COLUMNS)
        scores = wide.loc[number].reindex(index=whole[cell.tested_on], columns=columns)
        if why := _incomplete(scores, planned, reasons):
            yield cell, absent(cell.tested_on, why)
        else:
            yield cell, Sample(scores, {}, runs[number])


def _incomplete(scores: pd.DataFrame, seeds: Sequence[int], reasons: Mapping[Seed, str]) -> str:
    """The reason why a cell has no sample, from its first seed with a hole; empty if all scores are finite numbers.

    Args:
        scores: the scores of the cell, NaN in a hole. seeds: the seeds of the columns.
        reasons: the reason for each missing seed; the key None stands for any seed.
    """
    if np.isfinite(scores.to_numpy()).all():
        return ""
    for seed, lacking in zip(seeds, scores["psnr"].isna().sum(), strict=True):
        if lacking:
            which = "" if seed == NO_SEED else f"seed {seed}: "
            default = "not run" if lacking == len(scores) else f"{lacking} of {len(scores)} subjects lack"
            return which + reasons.get(None if seed == NO_SEED else seed, reasons.get(None, default))
    return "a score is not a finite number"


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
    kind = (kinds.get(group.training.scheme, 2), group.training.order)
    parts = re.split(r"(\d+(?:\.\d+)?)", group.trained_with)
    operator = [float(one) if one[:1].isdigit() else one for one in parts]  # R=4 before R=12
    return (group.seen, *kind, own_noise, group.noise, operator)


def _order(cell: Cell) -> tuple[object, ...]:
    return (cell.method, cell.trained_on, cell.trained_with, cell.tested_on, cell.operator, cell.noise)
