"""The works that plug-ins cite, as BibTeX. This is the only place that splits a ``paper`` into its entries."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedrecon.sites.errors import InputError, brief

_NO_BEGIN = "not the beginning of a BibTeX entry: "
_BEGIN = re.compile(r"\s*@(\w+)\s*\{\s*([^\s,{}]+)\s*,")
_NAME = re.compile(r"\s*(\w+)\s*=\s*\{")
_NEXT = re.compile(r"\s*,?")
_END = re.compile(r"\s*\}")


@dataclass(frozen=True)
class Entry:
    """One work. Its text, with one field in each line, is ``str(entry)``. Equal works are equal and hash alike.

    Attributes:
        kind: the type of the work, such as ``article``.
        key: the key by which a document cites it.
        fields: the names and values of its fields, in order. Values have no outer braces and no line breaks.
    """

    kind: str
    key: str
    fields: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [f"@{self.kind}{{{self.key}", *(f"  {name} = {{{value}}}" for name, value in self.fields)]
        return ",\n".join(lines) + "\n}"

    @property
    def title(self) -> str:
        """The title as plain text: without the braces that protect capitals."""
        return re.sub(r"[{}]", "", dict(self.fields).get("title", ""))


def entries(paper: str) -> list[Entry]:
    """The entries of a ``paper``, in order: one for each work; none for an empty text.

    The value of every field stands in braces. Quotation marks, ``#`` and ``@string`` are not read.

    Raises:
        ValueError: the text is not of this form; the message shows the place.
    """
    found, at = [], 0
    while paper[at:].strip():
        begin = _BEGIN.match(paper, at)
        if not begin:
            raise ValueError(f"{_NO_BEGIN}{paper[at:].strip()[:60]!r}")
        fields, at = [], begin.end()
        while name := _NAME.match(paper, at):
            end = _closing_brace(paper, name.end())
            fields.append((name.group(1).lower(), " ".join(paper[name.end() : end].split())))
            after = _NEXT.match(paper, end + 1)
            at = after.end() if after else end + 1
        closed = _END.match(paper, at)
        if not closed:
            raise ValueError(f"neither a field in braces nor the end of {begin.group(2)}: {paper[at:].strip()[:60]!r}")
        found.append(Entry(begin.group(1).lower(), begin.group(2), tuple(fields)))
        at = closed.end()
    return found


def paper_of(kind: Any) -> str:
    """The ``paper`` of a class; empty if it has none, which the laws of its kind tell."""
    return str(getattr(kind, "paper", ""))


def check_paper(where: str, kind: Any) -> None:
    """Refuses a class whose ``paper`` no report could print.

    Args:
        where: the plug-in, at the start of a message.

    Raises:
        InputError: it is no text, no BibTeX, or a parameter. The message says what to write.
    """
    form = 'write @inproceedings{KEY, title = {...}, ...}, or "" if there is no work'
    if "paper" in getattr(kind, "model_fields", {}):
        raise InputError(f'{where}: paper is a parameter; write paper: ClassVar[str] = "..."')
    paper = getattr(kind, "paper", "")
    if not isinstance(paper, str):
        raise InputError(f"{where}: paper is no BibTeX entry: {brief(paper)}; {form}")
    try:
        entries(paper)
    except ValueError as error:
        raise InputError(f"{where}: paper is no BibTeX entry: {str(error).removeprefix(_NO_BEGIN)}; {form}") from None


def distinct(papers: Iterable[str]) -> list[Entry]:
    """The entries of these papers in order, each work once."""
    return list(dict.fromkeys(entry for paper in papers for entry in entries(paper)))


def _closing_brace(text: str, at: int) -> int:
    """Where the brace closes that was opened just before ``at``."""
    depth = 1
    for brace in re.compile(r"(?<!\\)[{}]").finditer(text, at):
        depth += 1 if brace.group() == "{" else -1
        if not depth:
            return brace.start()
    raise ValueError(f"a brace is not closed: {text[at:].strip()[:60]!r}")
