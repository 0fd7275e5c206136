"""Finds the files that a plug-in imports from beside it, and refuses imports that another node could not follow."""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from fedrecon.sites.errors import InputError
from fedrecon.sites.extension.text_modules import NEVER_LOCAL

_HIDDEN = ("__import__", "import_module", "spec_from_file_location", "run_path", "run_module")
"""Calls that load code by a name that only shows when they run."""


def gather(path: Path) -> dict[str, str]:
    """The text of a plug-in file, and of all files beside it that it imports, at any depth.

    Returns:
        text by path, relative to the file's folder. The file itself is the first.

    Raises:
        InputError: a file does not exist or is not Python, or it imports a module that is neither beside it nor
            installed. The message names the file, the line and the module.
    """
    root, waiting, found = path.parent, [path], dict[str, str]()
    while waiting:
        file = waiting.pop(0)
        name = file.relative_to(root).as_posix()
        if name in found:
            continue
        found[name], tree = _parsed(file)
        for one in _imports(tree, Path(name).parent.parts, name):
            beside = list(_beside(root, one))
            waiting += beside
            if not beside and not one.for_types:
                _check_elsewhere(file, one)
    return found


@dataclass(frozen=True)
class _Import:
    """One import.

    Attributes:
        module: dotted name, from the plug-in's folder if it is relative.
        names: what ``from module import names`` imports; a name may be a module too.
        line: number of the line.
        relative: whether it is relative, so that it must be beside the plug-in.
        optional: whether it is tried, so that the module need not exist.
        for_types: whether only type checkers see it.
    """

    module: tuple[str, ...]
    names: tuple[str, ...]
    line: int
    relative: bool
    optional: bool
    for_types: bool


def _parsed(path: Path) -> tuple[str, ast.Module]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, ast.parse(text)
    except OSError:
        raise InputError(f"{path}: no such plug-in file") from None
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid Python: {error.msg}") from None
    except ValueError as error:  # not UTF-8, or null bytes
        raise InputError(f"{path}: not valid Python: {error}") from None


def _imports(tree: ast.Module, folder: tuple[str, ...], file: str) -> Iterator[_Import]:
    tried = _inside(one for one in ast.walk(tree) if isinstance(one, ast.Try))
    types = _inside(one for one in ast.walk(tree) if isinstance(one, ast.If) and "TYPE_CHECKING" in ast.dump(one.test))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in _HIDDEN:
            raise InputError(f"{file}, line {node.lineno}: no digest sees what this call loads; use an import")
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        flags = node.lineno, isinstance(node, ast.ImportFrom) and node.level > 0, node in tried, node in types
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(tuple(alias.name.split(".")), (), *flags)
            continue
        if node.level > len(folder) + 1:
            raise InputError(f"{file}, line {node.lineno}: the import goes above the plug-in's folder")
        base = folder[: len(folder) + 1 - node.level] if node.level else ()
        module = tuple(node.module.split(".")) if node.module else ()
        yield _Import((*base, *module), tuple(alias.name for alias in node.names), *flags)


def _inside(blocks: Iterator[ast.Try | ast.If]) -> set[ast.AST]:
    return {inner for block in blocks for one in block.body for inner in ast.walk(one)}


def _beside(root: Path, one: _Import) -> Iterator[Path]:
    """The files beside the plug-in that this import runs; none if the module is elsewhere."""
    if not one.relative and one.module[0] in NEVER_LOCAL:
        return
    targets = [one.module[:depth] for depth in range(1, len(one.module) + 1)]
    targets += [(*one.module, name) for name in one.names]
    for target in targets:
        folder = root.joinpath(*target)
        for path in (folder / "__init__.py", folder.with_suffix(".py")):
            if path.is_file():
                yield path
                break


def _check_elsewhere(file: Path, one: _Import) -> None:
    """Refuses a module that is not installed: another node would not find it."""
    name = ".".join(one.module) or ", ".join(one.names)
    place = f"{file}, line {one.line}: imports '{name}'"
    if one.relative:
        raise InputError(f"{place}, which is not beside the plug-in", [name])
    top = one.module[0]
    if top in NEVER_LOCAL:
        return
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None and not one.optional:
        raise InputError(f"{place}, which is neither beside the plug-in nor installed", [name])
    if spec is not None and not _is_installed(top, [spec.origin or "", *(spec.submodule_search_locations or ())]):
        raise InputError(
            f"{place}, which this machine finds at {spec.origin or 'a folder'}, but other nodes would not: put it "
            "beside the plug-in, or install it",
            [name],
        )


def _is_installed(top: str, places: list[str]) -> bool:
    known = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    for place in places:
        parents = Path(place).resolve().parents
        if known & {*parents} or any(one.name in ("site-packages", "dist-packages") for one in parents):
            return True
    return places[0] in ("built-in", "frozen") or top in _distributed()


@cache
def _distributed() -> frozenset[str]:
    """The modules of all distributions; of those that are installed in place, too."""
    return frozenset(packages_distributions())
