"""The source files of an experiment's plug-ins: what a user can edit although the digest stays the same."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.sites.extension.plugin_file import PluginFile
from fedrecon.sites.plugin import Settings, parse

PACKAGE = "fedrecon."


def source_code(experiment: Experiment) -> dict[str, str]:
    """The hash of each source file of the plug-ins: strategy and network or reconstructor, masks and degradations.

    The files are those of the classes and their bases, and the files beside them that they import, at their top or
    inside of a function.

    Returns:
        SHA-256 in hexadecimal digits, by file: ``strategies/fedprox.py`` within fedrecon, else the absolute path.
    """
    found: dict[str, str] = {}
    waiting = [module for kind in _kinds(experiment) for module in _modules(kind)]
    while waiting:
        module = waiting.pop()
        path = Path(str(module.__file__))
        name = _name(module, path)
        if name not in found and path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            waiting += _beside(module, path)
    return dict(sorted(found.items()))


def carried_code(experiment: Mapping[str, Any], what: str) -> Iterator[str]:
    """What is said before an experiment that somebody noted is read: which code it brings, and that it runs here.

    Args:
        experiment: the note, as JSON holds it. what: whose it is, such as ``run 0123``.
    """
    for one in experiment.get("plugins") or ():
        digest = parse(PluginFile, one, where=what).digest[:16]
        yield f"{what} carries code, which runs here now: the plug-in {one['file']} ({digest})"


def warn_of_changed_code(noted: Mapping[str, Any] | None, what: str) -> None:
    """Warns in one line if the code that made a run has changed since.

    Args:
        noted: the note of the run. what: what is taken from the run, such as ``this result``.
    """
    if files := changed_files(noted):
        made = f"{', '.join(files)} changed since {what} was made"
        warnings.warn(f"{made}: today's code may give another one. --rerun makes it anew.", stacklevel=2)


def changed_files(noted: Mapping[str, Any] | None) -> list[str]:
    """The source files of a run's own experiment that differ from those it noted. A run of an older version noted none.

    The experiment is that of the note: a training that is taken over may have had another operator, with other files.
    """
    if not noted or noted.get("code") is None:
        return []
    before, now = noted["code"], source_code(Experiment.read(noted["experiment"]))
    # A file that is only in ``now`` is no news: whatever imports it has changed, or an earlier version overlooked it.
    return sorted(name for name, digest in before.items() if now.get(name) != digest)


def _kinds(experiment: Experiment) -> Iterable[type]:
    if experiment.trains:
        yield type(experiment.method)
        yield experiment.registry("networks")[experiment.network["name"]].load()
    else:
        yield type(experiment.classical)
    for site in ("", *experiment.measured.get("per_site", {})):
        yield from map(type, experiment.operator_at(site).plugins)


def _modules(kind: type) -> Iterable[ModuleType]:
    """The modules of a plug-in's class and of its bases, without libraries and the base of all settings."""
    home = inspect.getmodule(kind)
    for base in kind.__mro__:
        module = sys.modules.get(base.__module__)
        ours = module is home or (base.__module__.startswith(PACKAGE) and base.__module__ != Settings.__module__)
        if module is not None and ours and getattr(module, "__file__", None):
            yield module


def _beside(module: ModuleType, path: Path) -> Iterable[ModuleType]:
    """The modules in the same folder of which ``module`` has a name, or which it holds itself."""
    held = (
        v if inspect.ismodule(v) else sys.modules.get(getattr(v, "__module__", None) or "") for v in _values(module)
    )
    for other in (*held, *_imported_late(module, path)):
        file = getattr(other, "__file__", None)
        if other is not None and file and Path(file).parent == path.parent and Path(file).name != "__init__.py":
            yield other


def _values(module: ModuleType) -> Iterable[Any]:
    return tuple(vars(module).values())


def _imported_late(module: ModuleType, path: Path) -> Iterable[ModuleType]:
    """The modules in the same folder that a function of the file imports. It may not have been called yet."""
    for name in _names_in_functions(path.read_text(encoding="utf-8"), module.__package__):
        beside = path.parent / f"{name.rpartition('.')[2]}.py"
        if beside.is_file() and _is_module(name):
            yield importlib.import_module(name)


@lru_cache(maxsize=256)
def _names_in_functions(text: str, package: str | None) -> tuple[str, ...]:
    """The full names that functions of a file import. A sweep asks for the same files once a trial."""
    functions = [one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return tuple(sorted({name for one in functions for node in ast.walk(one) for name in _names(node, package)}))


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # ``b`` of ``from a import b`` is a name in the module ``a``
        return False


def _names(node: ast.AST, package: str | None) -> Iterable[str]:
    """The full names that an import may mean: of ``from a import b`` the modules ``a`` and ``a.b``."""
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names)
    if isinstance(node, ast.ImportFrom):
        given = "." * node.level + (node.module or "")
        base = importlib.util.resolve_name(given, package) if node.level else given
        yield base
        yield from (f"{base}.{one.name}" for one in node.names)


def _name(module: ModuleType, path: Path) -> str:
    if module.__name__.startswith(PACKAGE):
        return module.__name__.removeprefix(PACKAGE).replace(".", "/") + path.suffix
    return str(path.resolve())
