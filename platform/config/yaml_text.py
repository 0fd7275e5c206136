"""Reads and writes the YAML of experiments, sweeps and studies: plain values only, each key once, within bounds.

It is YAML 1.1 as PyYAML reads it, with five differences. A key that stands twice is refused, and so is a key that is no
text. ``1e-3`` is a number, as in YAML 1.2. A date is text, and so is ``=``. Tags of other types are refused. Numbers
that YAML 1.1 counts in base 8 or 60 (``010``, ``1:30``) are refused, and so are ``08`` and ``09``, which would be text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fedrecon.sites.errors import InputError

MOST_BYTES = 500_000
"""The largest file. PyYAML takes seconds for it."""
MOST_DEPTH = 50
"""How deep values may lie in each other."""
MOST_VALUES = 100_000
"""The largest number of values, when each alias counts as all that it stands for (an alias bomb has few lines)."""

MOST_BITS = 1024
_BRACKETS = re.compile(rf"(?:[\[{{]\s*){{{MOST_DEPTH + 1}}}")
_OTHER_BASE = re.compile(r"[-+]?(0[0-9_]+(\.[0-9_]*)?|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map", "merge")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader for plain values."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Counts the depth and the size of a node while it is made."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise self._wrong(f"nested more than {MOST_DEPTH} deep", event.start_mark)
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent) and id(node) not in self.sizes:
            raise self._wrong(f"'*{event.anchor}' stands inside of itself", event.start_mark)
        if isinstance(node, yaml.ScalarNode) and any("\ud800" <= one <= "\udfff" for one in node.value):
            try:  # JSON writes a character beyond U+FFFF as two halves
                node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                raise self._wrong("half of a character (a surrogate)", event.start_mark) from None
        if isinstance(node, yaml.ScalarNode) and not node.style and _OTHER_BASE.fullmatch(node.value):
            raise self._wrong(
                f"'{node.value}' is no clear number: write it without leading zeros and colons, or as text in quotes",
                event.start_mark,
            )
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        flat = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        self.sizes[id(node)] = 1 + sum(self.sizes[id(one)] for one in flat)
        if self.sizes[id(node)] > MOST_VALUES:
            raise self._wrong(f"more than {MOST_VALUES} values", event.start_mark)
        return node

    def construct_yaml_int(self, node: Any) -> int:
        """Refuses an integer that Python could not print: no number of an experiment is that large."""
        value = super().construct_yaml_int(node)
        if value.bit_length() > MOST_BITS:
            raise self._wrong(f"an integer of {value.bit_length()} bits", node.start_mark)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that stands twice or is no text."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key, line = key_node.value, key_node.start_mark.line + 1
            merges = key_node.tag == "tag:yaml.org,2002:merge"
            if not merges and not isinstance(self.construct_object(key_node, deep=True), str):
                shown = f"'{key}'" if isinstance(key, str) else "a list or mapping"
                raise self._wrong(f"the key {shown} is no text; put it in quotes", key_node.start_mark)
            if key in seen:
                where = f" (lines {seen[key]} and {line})" if seen[key] != line else ""
                raise self._wrong(f"'{key}' is given twice{where}", key_node.start_mark)
            seen[key] = line
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found

    @staticmethod
    def _wrong(problem: str, mark: Any) -> yaml.MarkedYAMLError:
        return yaml.constructor.ConstructorError(None, None, problem, mark)


_Loader.yaml_constructors = {
    tag: one
    for tag, one in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix("tag:yaml.org,2002:") in _PLAIN
}
_Loader.yaml_constructors["tag:yaml.org,2002:int"] = _Loader.construct_yaml_int
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper. Text that this module would read as a number, or refuse, gets quotes."""

    def represent_str(self, data: str) -> Any:
        """The text as a node."""
        quoted = _OTHER_BASE.fullmatch(data) or _EXPONENT.match(data)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="'" if quoted else None)


_Dumper.add_representer(str, _Dumper.represent_str)


def write_yaml(content: Any, **layout: Any) -> str:
    """The text that :func:`read_yaml` reads as this content. ``layout``: options of ``yaml.dump``."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **layout))


def read_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Args:
        where: what the text is, at the start of a message.

    Raises:
        InputError: the text is not YAML, or not within the bounds of this module; one line, with the place.
    """
    loader = None
    try:
        if len(text) > MOST_BYTES:
            raise InputError(f"{where}: {len(text)} characters; more than {MOST_BYTES} are refused")
        if _BRACKETS.search(text):  # PyYAML looks far ahead there, and takes a second for it
            raise InputError(f"{where}: not valid YAML: nested more than {MOST_DEPTH} deep")
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f" (line {mark.line + 1}, column {mark.column + 1})" if mark and "\n" in text.strip() else ""
        raise InputError(f"{where}: not valid YAML: {error.problem or error.context}{at}") from None
    except yaml.reader.ReaderError as error:
        raise InputError(f"{where}: not valid YAML: the character U+{error.character:04X} is not allowed") from None
    except (ValueError, OverflowError) as error:  # such as !!int abc, or an integer of 5000 digits
        raise InputError(f"{where}: not valid YAML: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def read_yaml_file(path: Path, kind: str) -> Any:
    """The content of a YAML file.

    Args:
        kind: the kind of the file, for the message.

    Raises:
        InputError: the file does not exist or cannot be read, or see :func:`read_yaml`.
    """
    try:
        if path.stat().st_size > MOST_BYTES and path.is_file():
            raise InputError(
                f"{path}: {path.stat().st_size} bytes; more than {MOST_BYTES} are refused in a {kind} file"
            )
        return read_yaml(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else _none(path, kind)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid YAML: {error.reason} at byte {error.start}; UTF-8 is needed") from None
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: no such {kind} file can be read: {reason}") from None


def _none(path: Path, kind: str) -> Any:
    raise InputError(f"{path}: no such {kind} file")
