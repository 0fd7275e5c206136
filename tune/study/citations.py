"""Whom to cite for what ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedrecon.platform.runs.report import SSIM_PAPER
from fedrecon.platform.runs.results import method_papers, operators

if TYPE_CHECKING:
    from fedrecon.tune.study.matrix import Matrix

Citations = Mapping[str, Sequence[str]]
"""Works, as BibTeX or plain text, each with what it is for."""


def citations(matrix: Matrix) -> Citations:
    """Of all methods, of the masks or degradations of training and test, and of the scores."""
    found: dict[str, dict[str, None]] = {}
    trials = {trial.digest: trial.experiment for trial in matrix.trials}
    for cell in matrix.cells:
        one = trials[cell.digest]
        for paper in method_papers(one):
            found.setdefault(paper, {})[cell.learned.method] = None
    for cell in matrix.cells:
        for measured in (*operators(trials[cell.digest]), trials[cell.digest].tested_at(cell.tested_on)):
            if measured.paper:
                found.setdefault(measured.paper, {})[measured.family] = None
    found.setdefault(SSIM_PAPER, {})["SSIM"] = None
    return {paper: list(used) for paper, used in found.items()}
