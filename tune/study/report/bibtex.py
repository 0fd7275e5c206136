"""Citations as BibTeX."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


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
