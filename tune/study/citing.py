"""Whom to cite for what ran."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedrecon.platform.report import SSIM_PAPER
from fedrecon.platform.results import method_papers, operators

if TYPE_CHECKING:
    from fedrecon.tune.study.plan import Matrix

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


def bibtex(paper: str, number: int) -> str:
    """A citation that is no BibTeX entry as one."""
    return paper if _is_entry(paper) else f"@misc{{fedrecon{number},\n  note = {{{paper}}}\n}}"


def cited(paper: str) -> str:
    """A work in a line: plain text as it is, of an entry its key and title."""
    if not _is_entry(paper):
        return paper
    key = re.search(r"@\w+\s*\{\s*([^,\s]+)", paper)
    title = re.search(r"\btitle\s*=\s*[{\"](.*?)[}\"]\s*(?:,|\}?\s*$)", paper, re.DOTALL)
    parts = [one.group(1) for one in (title, key) if one]
    return " ".join(re.sub(r"[{}]", "", ", ".join(parts)).split()) or paper


def _is_entry(paper: str) -> bool:
    return paper.lstrip().startswith("@")
