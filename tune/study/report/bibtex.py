"""Citations as BibTeX."""

from __future__ import annotations

import re


def bibtex(paper: str, number: int) -> str:
    """A work as a BibTeX entry. Plain text becomes an ``@misc`` entry with this number in its key."""
    return paper if _is_entry(paper) else f"@misc{{fedrecon{number},\n  note = {{{paper}}}\n}}"


def cited(paper: str) -> str:
    """A work in one line: title and key of a BibTeX entry; plain text is not changed."""
    if not _is_entry(paper):
        return paper
    key = re.search(r"@\w+\s*\{\s*([^,\s]+)", paper)
    title = re.search(r"\btitle\s*=\s*[{\"](.*?)[}\"]\s*(?:,|\}?\s*$)", paper, re.DOTALL)
    parts = [one.group(1) for one in (title, key) if one]
    return " ".join(re.sub(r"[{}]", "", ", ".join(parts)).split()) or paper


def _is_entry(paper: str) -> bool:
    return paper.lstrip().startswith("@")
