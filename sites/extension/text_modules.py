"""Modules from text. A plug-in is imported from its source, on the driver as on every node, and never from its file.

All files of one plug-in are modules of one package, whose name holds the hash of the sources. So two plug-ins with the
same file name are two packages, and one process can use both. The plug-in's own imports of its files are redirected
into its package; they never meet a module of the same name elsewhere.
"""

from __future__ import annotations

import ast
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

PREFIX = "fedrecon_plugin_"
"""The beginning of the names of all packages that are made from text."""

NEVER_LOCAL = frozenset({*sys.stdlib_module_names, "fedrecon"})
"""Modules that a file beside the plug-in never replaces."""

_SOURCES: dict[str, dict[str, str]] = {}
"""By package, the text of each of its files."""


def install(package: str, sources: Mapping[str, str]) -> None:
    """Makes the sources importable in this process.

    Args:
        package: name of the package; it begins with :data:`PREFIX`.
        sources: text by path, relative to the plug-in's folder, such as ``helper.py`` or ``tools/filters.py``.
    """
    _SOURCES[package] = dict(sources)
    if not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.append(_Finder())


def place_in_plugin(error: BaseException) -> str:
    """Where in a plug-in file an error was raised, as ``line 12 of half.py``; empty if it passed none."""
    return _place(error)[0]


def check_command(error: BaseException | None = None) -> str:
    """The command that tests the plug-in through which an error passed, or all of this process; empty for none."""
    files = [next(iter(sources)) for sources in _SOURCES.values()] if error is None else [_place(error)[1]]
    return " and ".join(f"fedrecon check-plugin {file}" for file in dict.fromkeys(files) if file)


def _place(error: BaseException) -> tuple[str, str]:
    """The innermost line of a plug-in that the error passed, and the plug-in's file; of Ray's errors by their text."""
    found = ("", "")
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package.startswith(PREFIX):
            found = (f"line {line} of {frame.f_code.co_filename}", next(iter(_SOURCES[package])))
    for file, line in re.findall(r'File "([^"]+)", line (\d+)', str(getattr(error, "traceback_str", ""))):
        if owner := next((next(iter(one)) for one in _SOURCES.values() if file in one), ""):
            found = (f"line {line} of {file}", owner)
    return found


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        package, _, inner = fullname.partition(".")
        sources = _SOURCES.get(package)
        if sources is None:
            return None
        below = inner.replace(".", "/")
        folder = f"{below}/" if below else ""
        for file in (f"{folder}__init__.py", f"{below}.py"):
            if file in sources:
                is_package = file.endswith("__init__.py")
                return ModuleSpec(fullname, _Loader(package, file), origin=file, is_package=is_package)
        if any(file.startswith(folder) for file in sources):  # the package itself, or a folder without __init__.py
            return ModuleSpec(fullname, _Loader(package, None), is_package=True)
        return None


class _Loader(InspectLoader):
    def __init__(self, package: str, file: str | None) -> None:
        self.package, self.file = package, file

    def get_source(self, fullname: str) -> str:
        """The text as it was written; tracebacks show it."""
        del fullname
        return "" if self.file is None else _SOURCES[self.package][self.file]

    def get_code(self, fullname: str) -> CodeType:
        file = self.file or self.package
        tree = _Redirected(self.package).visit(ast.parse(self.get_source(fullname), file))
        return compile(ast.fix_missing_locations(tree), file, "exec", dont_inherit=True)


class _Redirected(ast.NodeTransformer):
    """``import helper`` and ``from helper import x`` of the plug-in's own files, in the plug-in's own package."""

    def __init__(self, package: str) -> None:
        tops = {file.split("/")[0].removesuffix(".py") for file in _SOURCES[package]}
        self.package, self.own = package, tops - NEVER_LOCAL

    def visit_Import(self, node: ast.Import) -> ast.Import:
        names = []
        for one in node.names:
            top = one.name.split(".")[0]
            if top not in self.own:
                names.append(one)
                continue
            names.append(ast.alias(f"{self.package}.{one.name}", one.asname or top))
            if one.asname is None and one.name != top:  # import a.b binds a
                names.append(ast.alias(f"{self.package}.{top}", top))
        return ast.copy_location(ast.Import(names), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.level == 0 and node.module and node.module.split(".")[0] in self.own:
            node.module = f"{self.package}.{node.module}"
        return node
