"""What Sphinx lacks here: directives that make the reference of the code, and two checks."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

LOGGER = logging.getLogger(__name__)


class Made(SphinxDirective):
    """A directive whose content is reStructuredText that the code makes."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of the text that :meth:`text` makes."""
        content = StringList("\n".join(self.text(self.arguments[0])).split("\n"), source=self.get_location())
        return self.parse_content_to_nodes(content)

    def parse_content_to_nodes(self, content: StringList) -> list[nodes.Node]:
        """The nodes of reStructuredText, which may hold titles."""
        self.content = content
        return super().parse_content_to_nodes(allow_section_headings=True)

    def text(self, argument: str) -> Iterator[str]:
        """The lines of the content."""
        raise NotImplementedError


class Plugins(Made):
    """``.. plugins:: KIND``: all plug-ins of a registry, each with its docstring and its parameters."""

    def text(self, argument: str) -> Iterator[str]:
        """A section for each plug-in."""
        from fedrecon.platform.config.plugins import registry

        for name, one in registry(argument).items():
            loaded = one.load() if argument == "networks" else one
            yield from (f"``{name}``", "-" * (len(name) + 4), "")
            yield from _documented(f"{loaded.__module__}.{loaded.__qualname__}")
            yield from _keys(one.parameters if argument == "networks" else one)


class Keys(Made):
    """``.. keys:: MODULE.CLASS``: the docstring of a block of an experiment, and a table of its keys."""

    def text(self, argument: str) -> Iterator[str]:
        """The docstring, then the table."""
        module, _, name = argument.rpartition(".")
        yield from _documented(argument)
        yield from _keys(getattr(importlib.import_module(module), name))


class Commands(Made):
    """``.. commands:: MODULE.FUNCTION``: the help of each command of the parser that the function makes."""

    def text(self, argument: str) -> Iterator[str]:
        """A section for each command."""
        module, _, name = argument.rpartition(".")
        yield from _commands(getattr(importlib.import_module(module), name)())


def _documented(name: str) -> Iterator[str]:
    """The docstring of a class without its constructor: the table of keys says what it takes."""
    yield from (f".. autoclass:: {name}", "   :exclude-members: __init__, __new__", "")


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    inner = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    if not inner:
        parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
        yield from (parser.prog, "-" * len(parser.prog), "", ".. code-block:: text", "")
        yield from (f"   {line}" for line in parser.format_help().splitlines())
        yield ""
    for one in inner:
        for command in one.choices.values():
            yield from _commands(command)


def _keys(model: Any) -> Iterator[str]:
    """A table of the keys of a pydantic model: type and bounds, default."""
    found = model.model_json_schema().get("properties", {})
    if not found:
        return
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 25 50 25", "")
    rows = [("key", "takes", "default")]
    for name, one in found.items():
        default = f"``{one['default']!r}``" if "default" in one else "needed" if name in _required(model) else ""
        rows.append((f"``{name}``", _takes(one), default))
    for row in rows:
        yield from (f"   {'* -' if at == 0 else '  -'} {cell}" for at, cell in enumerate(row))
    yield ""


def _required(model: Any) -> list[str]:
    """The keys without a default."""
    return [name for name, field in model.model_fields.items() if field.is_required()]


_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _takes(schema: Mapping[str, Any]) -> str:
    """The type and the bounds that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return ", or ".join(dict.fromkeys(map(_takes, schema["anyOf"])))
    if "$ref" in schema:
        return f"a block, ``{schema['$ref'].rpartition('/')[2]}``"
    if "enum" in schema:
        return ", ".join(f"``{one}``" for one in schema["enum"])
    if "const" in schema:
        return f"``{schema['const']}``"
    words = {"array": "a list", "object": "a mapping", "null": "``null``", "boolean": "``true`` or ``false``"}
    kind = schema.get("type", "anything")
    bounds = " and ".join(f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema)
    of = schema.get("items") or schema.get("additionalProperties")
    inner = f" of {_takes(of)}" if isinstance(of, dict) and of else ""
    return f"{words.get(kind, kind)}{inner}{f' {bounds}' if bounds else ''}"


def _missing(_: Sphinx, __: BuildEnvironment, node: pending_xref, shown: nodes.TextElement) -> nodes.Node | None:
    """A reference to code that is on no page is shown as text. One that somebody wrote must name code that exists."""
    if node.get("refdomain") != "py":
        return None
    module, owner, name = (node.get(key) or "" for key in ("py:module", "py:class", "reftarget"))
    near = (name, f"{module}.{name}", f"{module}.{owner}.{name}")
    if isinstance(shown, nodes.literal) and not any(map(_exists, near)):  # types of signatures are no literals
        LOGGER.warning("no code has the name %r", name, location=node)
    return shown


def _exists(name: str) -> bool:
    """Whether the name, with its module, is one of the code: a module, a name in it, or a field of a class in it."""
    parts = name.split(".")
    for at in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:at]))
        except ImportError:
            continue
        for part in parts[at:]:
            fields = {**getattr(found, "__annotations__", {}), **getattr(found, "model_fields", {})}
            if not hasattr(found, part) and part not in fields:
                return False
            found = getattr(found, part, None)
        return True
    return False


LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["'](?:https?:)?//[^>]*>""")


def _loads_nothing(app: Sphinx, failed: Exception | None) -> None:
    """No page loads a script, a font or a picture from elsewhere: the site is read without a network."""
    for page in [] if failed else sorted(Path(app.outdir).rglob("*.html")):
        for found in LOADED.findall(page.read_text()):
            LOGGER.warning("%s loads from elsewhere: %s", page.relative_to(app.outdir), found)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Adds the directives."""
    app.add_directive("plugins", Plugins)
    app.add_directive("keys", Keys)
    app.add_directive("commands", Commands)
    app.connect("missing-reference", _missing)
    app.connect("build-finished", _loads_nothing)
    return {"parallel_read_safe": True}
