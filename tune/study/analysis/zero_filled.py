"""Methods below the zero-filled image: worse than no reconstruction at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from fedrecon.tune.study.analysis.grid import Group, TestOperator
from fedrecon.tune.study.analysis.inputs import Findings
from fedrecon.tune.study.analysis.results import Table, TableEntry
from fedrecon.tune.study.analysis.samples import Sample, Subject
from fedrecon.tune.study.analysis.significance import over_strata

Floor = Mapping[tuple[str, str, float, float, str], float]


def below_zero_filled(findings: Findings, tables: Mapping[Group, Table]) -> dict[TableEntry, float]:
    """The table entries whose mean PSNR is below that of the zero-filled images, with the difference in dB.

    Both means are over the same subjects: the unweighted mean over sites of the means over their subjects. An entry is
    left out if a score or a zero-filled image is missing.
    """
    found: dict[TableEntry, float] = {}
    for group, table in tables.items():
        operators = [operator for operator in table if operator is not None]
        for operator, samples in table.items():
            for method, sample in samples.items():
                if findings.method(method).zero_filled:
                    continue
                of_mean = [(one, table[one][method]) for one in operators] if operator is None else [(operator, sample)]
                floor = _floor(findings.zero_filled, group, of_mean)
                for site in ("", *sample.sites):
                    own = sample.at([site]) if site else sample
                    by = None if own.missing else _difference(own, floor)
                    if by is not None and by < 0:
                        found[group, operator, method, site] = by
    return found


def _floor(floor: Floor, group: Group, samples: Iterable[tuple[TestOperator, Sample]]) -> dict[Subject, float]:
    """The zero-filled PSNR of each subject, as the mean over the operators under which it was tested."""
    values: dict[Subject, list[float | None]] = {}
    for operator, sample in samples:
        for site, name in sample.subjects:
            one = floor.get((site, operator.mask, operator.acceleration, group.noise, name))
            values.setdefault((site, name), []).append(one)
    return {who: float(np.mean([v for v in own if v is not None])) for who, own in values.items() if None not in own}


def _difference(sample: Sample, floor: Mapping[Subject, float]) -> float | None:
    scores = sample.by_subject()
    if not scores or any(who not in floor for who in scores):
        return None
    each = np.array([by - floor[who] for who, by in scores.items()])
    return over_strata(each, [site for site, _ in scores])
