"""Which method to use where: what is best for each operator that is scanned with, whatever was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedrecon.tune.study.claims import Candidate, Choice, Comparison, Place, Rival, Table, compared
from fedrecon.tune.study.conditions import Grid, Group, Operator, bare
from fedrecon.tune.study.findings import Findings
from fedrecon.tune.study.samples import Estimate, Sample

Tables = Mapping[Group, Table]
Means = Mapping[str, Mapping[Place, Estimate]]


def choices(findings: Findings, grid: Grid, tables: Tables, means: Means) -> dict[Group, list[Choice]]:
    """The best under every operator, by place: groups that differ in the training's operator alone are one place.

    Comparisons are not corrected yet.
    """
    own: dict[Group, dict[Group, Table]] = {}
    for group, table in tables.items():
        own.setdefault(bare(group), {})[group] = table
    return {place: _Chooser(findings, grid, means, place, there).choices() for place, there in own.items()}


@dataclass(frozen=True)
class _Chooser:
    """Chooses at one place; ``tables`` are its groups'."""

    findings: Findings
    grid: Grid
    means: Means
    place: Group
    tables: Tables

    def choices(self) -> list[Choice]:
        return [one for operator in self._operators() if (one := self._choice(operator)) is not None]

    def _operators(self) -> list[Operator | None]:
        """Those of all groups; their mean only where all groups have the same."""
        first, *others = (list(table) for table in self.tables.values())
        if all(one == first for one in others):
            return first
        return [*sorted({operator for table in self.tables.values() for operator in table if operator is not None})]

    def _choice(self, operator: Operator | None) -> Choice | None:
        there = self._candidates(operator)
        ranked = self._ranked(there, operator, "psnr")
        if not ranked:
            return None
        best, *others = ranked + [one for one in there if one not in ranked]
        rivals = tuple(Rival(one, self._test(operator, one, best)) for one in others)
        return Choice(self.place, operator, best, rivals, self._ranked(there, operator, "ssim")[0])

    def _candidates(self, operator: Operator | None) -> list[Candidate]:
        """All methods that moved no data; those that know no training operator once."""
        found: dict[tuple[str, str], Candidate] = {}
        for group, table in self.tables.items():
            for name in table.get(operator, {}):
                if not self.findings.method(name).moved_data:
                    told = group.trained_with if len(self.tables) > 1 and name in self.grid.schooled else ""
                    found.setdefault((name, told), Candidate(group, name, told))
        return list(found.values())

    def _ranked(self, there: list[Candidate], operator: Operator | None, metric: str) -> list[Candidate]:
        scores = {one: self.means[metric][one.group, operator, one.method, ""].mean for one in there}
        return sorted((one for one in there if scores[one] is not None), key=lambda one: -(scores[one] or 0.0))

    def _test(self, operator: Operator | None, one: Candidate, best: Candidate) -> Comparison:
        samples = (self._sample(operator, one), self._sample(operator, best))
        return compared(self.place, operator, (one.method, best.method), samples)

    def _sample(self, operator: Operator | None, one: Candidate) -> Sample:
        return self.tables[one.group][operator][one.method]
