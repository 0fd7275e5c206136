"""The works to cite for the methods, operators and scores of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedrecon.platform.runs.report import SSIM_PAPER
from fedrecon.platform.runs.results import method_papers, operators
from fedrecon.sites.extension.bibtex import Entry, distinct, entries

if TYPE_CHECKING:
    from fedrecon.tune.study.matrix import Matrix

Citations = Mapping[str, Sequence[str]]
"""For each work, as one BibTeX entry, the names of the methods, operators or scores that it describes."""


def citations(matrix: Matrix) -> Citations:
    """The works for all methods, for the masks or degradations in training and test, and for SSIM."""
    found: dict[Entry, dict[str, None]] = {}
    trials = {trial.digest: trial.experiment for trial in matrix.trials}
    for cell in matrix.cells:
        one = trials[cell.digest]
        for work in distinct(method_papers(one)):
            found.setdefault(work, {})[cell.method] = None
    for cell in matrix.cells:
        for measured in (*operators(trials[cell.digest]), trials[cell.digest].tested_at(cell.tested_on)):
            for family, plugin in zip(measured.families, measured.plugins, strict=True):
                for work in entries(plugin.paper):
                    found.setdefault(work, {})[family] = None
    for work in entries(SSIM_PAPER):
        found.setdefault(work, {})["SSIM"] = None
    return {str(work): list(used) for work, used in found.items()}
