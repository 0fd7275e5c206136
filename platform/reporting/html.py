"""Documents as one HTML file that needs no network: the stylesheet, the script and the pictures are in it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from fedrecon.platform.reporting.document import Code, Document, Files, Part, Picture, Text
from fedrecon.platform.reporting.table import Table

if TYPE_CHECKING:
    from jinja2 import Template

KINDS: dict[type, str] = {Table: "table", Text: "text", Picture: "picture", Code: "code", Files: "files"}
"""The macro of ``page.html.j2`` that writes each part."""


def page(document: Document, address: Callable[[str], str] = lambda run: "#") -> str:  # noqa: ARG005
    """A document as HTML. All its text is escaped.

    Args:
        address: a function that gives the address of a run's page. A link without an http or https address leads
            nowhere (``#``).
    """
    urls = [(run, _safe(address(run))) for run in document.runs]
    number = {run: at for at, (run, _) in enumerate(urls, 1)}
    return _template().render(document=document, kind=_kind, embedded=_embedded, number=number, urls=urls)


@cache
def _template() -> Template:
    """The page's template. Templates, stylesheet and script are files of the package."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("fedrecon.platform.reporting")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=loader)
    return environment.get_template("page.html.j2")


def _safe(address: str) -> str:
    return address if address.startswith(("http://", "https://")) else "#"


def _kind(part: Part) -> str:
    return KINDS[type(part)]


def _embedded(picture: Picture) -> Any:
    """The picture as a data address: as SVG where it has one, as it is sharp at every size."""
    kind, content = ("svg+xml", picture.svg) if picture.svg else ("png", picture.png)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
