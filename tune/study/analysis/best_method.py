"""The best method for each condition and test operator. Trainings with different operators are all candidates.

The best is chosen on the validation subjects and compared with the others on the test subjects. So the choice does not
favour its lead there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedrecon.tune.study.analysis.grid import Grid, Group, TestOperator, bare
from fedrecon.tune.study.analysis.inputs import Findings
from fedrecon.tune.study.analysis.results import Candidate, Choice, Comparison, Rival, Table, TableEntry, compared
from fedrecon.tune.study.analysis.samples import Estimate, Sample

Tables = Mapping[Group, Table]
Means = Mapping[str, Mapping[TableEntry, Estimate]]


def choices(
    findings: Findings, grid: Grid, tables: Tables, means: Means, validation: Means, metric: str
) -> dict[Group, list[Choice]]:
    """The best method under every test operator, for each condition.

    Groups that differ only in the training's operator are one condition. The comparisons are not corrected yet.

    Args:
        tables, means: the tables of the test subjects, and their estimates by metric.
        validation: the estimates of the validation subjects, by metric; empty if there are none.
        metric: ``psnr`` or ``ssim``.
    """
    own: dict[Group, dict[Group, Table]] = {}
    for group, table in tables.items():
        own.setdefault(bare(group), {})[group] = table
    return {
        condition: _Chooser(findings, grid, means, validation, metric, condition, groups).choices()
        for condition, groups in own.items()
    }


@dataclass(frozen=True)
class _Chooser:
    """Chooses the best methods of one condition. ``tables`` has the table of each group of the condition."""

    findings: Findings
    grid: Grid
    means: Means
    validation: Means
    metric: str
    condition: Group
    tables: Tables

    def choices(self) -> list[Choice]:
        return [one for operator in self._operators() if (one := self._choice(operator)) is not None]

    def _operators(self) -> list[TestOperator | None]:
        """The test operators of all groups. Their mean is among them only if all groups have the same operators."""
        first, *others = (list(table) for table in self.tables.values())
        if all(one == first for one in others):
            return first
        return [*sorted({operator for table in self.tables.values() for operator in table if operator is not None})]

    def _choice(self, operator: TestOperator | None) -> Choice | None:
        candidates = self._candidates(operator)
        ranked = self._ranked(candidates, operator, self.means)
        if not ranked:
            return None
        validated = self._ranked(ranked, operator, self.validation)
        by_validation = len(validated) == len(ranked)  # else a candidate without validation scores could not win
        best = validated[0] if by_validation else ranked[0]
        others = [one for one in ranked + [one for one in candidates if one not in ranked] if one != best]
        rivals = tuple(Rival(one, self._test(operator, one, best)) for one in others)
        return Choice(self.condition, operator, best, rivals, self.metric, by_validation)

    def _candidates(self, operator: TestOperator | None) -> list[Candidate]:
        """All methods that moved no data, one candidate per training operator.

        A method whose training uses no operator is listed once.
        """
        found: dict[tuple[str, str], Candidate] = {}
        for group, table in self.tables.items():
            for name in table.get(operator, {}):
                if not self.findings.method(name).moved_data:
                    trained_with = (
                        group.trained_with if len(self.tables) > 1 and name in self.grid.trained_under_operators else ""
                    )
                    found.setdefault((name, trained_with), Candidate(group, name, trained_with))
        return list(found.values())

    def _ranked(self, candidates: list[Candidate], operator: TestOperator | None, means: Means) -> list[Candidate]:
        known = means.get(self.metric, {})
        scores = {one: known.get((one.group, operator, one.method, ""), Estimate(None)).mean for one in candidates}
        return sorted((one for one in candidates if scores[one] is not None), key=lambda one: -(scores[one] or 0.0))

    def _test(self, operator: TestOperator | None, one: Candidate, best: Candidate) -> Comparison:
        samples = (self._sample(operator, one), self._sample(operator, best))
        return compared(self.condition, operator, (one.method, best.method), samples, metric=self.metric)

    def _sample(self, operator: TestOperator | None, one: Candidate) -> Sample:
        return self.tables[one.group][operator][one.method]
