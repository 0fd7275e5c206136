"""The registry of one kind of plug-ins, as an experiment sees it. Nothing is added to a registry of the process."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from fedrecon.sites.data.volume import check_name
from fedrecon.sites.errors import InputError, cause_of, unknown
from fedrecon.sites.extension.bibtex import check_paper
from fedrecon.sites.extension.origin import KINDS, Origin, home, note, origin_of, where_from
from fedrecon.sites.extension.plugin_file import PluginFile

T = TypeVar("T")

RESERVED = (("reconstructors", "network"),)
"""Kinds and names that mean something else in an experiment."""


class Registry(Mapping[str, T]):
    """All plug-ins of one kind that an experiment can name: fedrecon's own, those of its files, and installed ones.

    An installed plug-in is imported when its name is looked up.

    Args:
        kind: one of :data:`KINDS`. own: fedrecon's own. files: the experiment's plug-in files.
        base: the class from which a plug-in derives, or that an entry is of.

    Raises:
        InputError: a plug-in file cannot be imported, or what it adds is not of the kind or has a taken name. At a
            look-up, the same of an installed plug-in.
    """

    def __init__(self, kind: str, own: Mapping[str, T], files: Sequence[PluginFile], base: type) -> None:
        self.kind, self._base, self._known = kind, base, dict(own)
        for file in files:
            for name, value in file.added(kind).items():
                check_name(f"{file.file}: {kind}", name)
                check_kind(file.file, kind, name, value, base)
                if name in self._known or (kind, name) in RESERVED:
                    owner = where_from(self._known.get(name))
                    raise InputError(f"{file.file}: {kind}: the name '{name}' is taken by {owner}", [name])
                self._known[name] = value

    def __getitem__(self, name: str) -> T:
        offers = installed(self.kind).get(name, ())
        if offers and (name in self._known or len(offers) > 1):
            owners = [where_from(self._known[name])] if name in self._known else []
            owners += [_owner(one) for one in offers]
            raise InputError(f"{self.kind}: the name '{name}' is taken: {' and '.join(owners)} both give it", [name])
        if name in self._known:
            return self._known[name]
        if not offers:
            raise KeyError(name)
        value: T = load_installed(self.kind, name)
        check_kind(_owner(offers[0]), self.kind, name, value, self._base)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in installed(self.kind)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._known, **dict.fromkeys(installed(self.kind))})

    def __len__(self) -> int:
        return len({*self._known, *installed(self.kind)})


def check_kind(where: str, kind: str, name: str, value: Any, base: type) -> None:
    """Refuses a value that is no plug-in of the kind, or that cites its works in no BibTeX.

    Raises:
        InputError: the message says what is needed.
    """
    if isinstance(value, type) and base.__name__ == "NetworkEntry":
        raise InputError(f"{where}: {kind} '{name}' is a class; write \"{name}\": entry({value.__name__}, ...)")
    right = issubclass(value, base) if isinstance(value, type) else isinstance(value, base)
    if not right:
        needed = f"a subclass of {base.__name__}" if base.__name__ != "NetworkEntry" else "entry(Network, ...)"
        raise InputError(f"{where}: {kind} '{name}' is {value!r}, but {needed} is needed")
    check_paper(f"{where}: '{name}'", value if isinstance(value, type) else value.load())


@cache
def installed(kind: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """The entry points of installed packages for one kind, by name; several have one name if packages collide."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for one in (each for each in _entry_points() if each.group == f"fedrecon.{kind}"):
        found[one.name] = (*found.get(one.name, ()), one)
    return found


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    """Those of all kinds; all packages are searched once, because it takes a twentieth of a second."""
    every: Any = entry_points()
    return tuple(one for kind in KINDS for one in every.select(group=f"fedrecon.{kind}"))


@cache
def load_installed(kind: str, name: str) -> Any:
    """The plug-in of an installed package.

    Raises:
        InputError: it is unknown, cannot be imported, or is one of fedrecon's own classes.
    """
    if name not in installed(kind):
        raise unknown(kind, name, installed(kind))
    point = installed(kind)[name][0]
    try:
        value = point.load()
    except Exception as error:
        raise InputError(f"{_owner(point)}: {kind} '{name}' cannot be imported: {cause_of(error)}") from error
    if home(value).split(".")[0] == "fedrecon":
        raise InputError(f"{_owner(point)}: {kind} '{name}' is {value!r}, which is fedrecon's own: derive a class")
    note(value, Origin(name, _owner(point), _package_digest(home(value).split(".")[0])))
    return value


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def _package_digest(top: str) -> str:
    """SHA-256 of the Python files of an installed package, or of the one file of a module."""
    spec = importlib.util.find_spec(top)
    folders = [Path(one) for one in (spec.submodule_search_locations or ())] if spec else []
    files = [(path.relative_to(folder).as_posix(), path) for folder in folders for path in folder.rglob("*.py")]
    if spec and not folders and spec.origin:
        files = [(Path(spec.origin).name, Path(spec.origin))]
    whole = hashlib.sha256()
    for name, path in sorted(files):
        whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def name_of(kind: str, own: Mapping[str, Any], value: Any) -> str:
    """The name of a class in the registry.

    Args:
        kind: one of :data:`KINDS`. own: fedrecon's own classes of this kind.
    """
    for name, one in own.items():
        if one is value:
            return name
    if (found := origin_of(value)) is None:  # a node imported the class with the object that it got
        for name in installed(kind):
            if load_installed(kind, name) is value:
                return name
        raise KeyError(f"{value!r} is in no registry of {kind}")
    return found.name
