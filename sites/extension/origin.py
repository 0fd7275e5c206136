"""Where a class of a plug-in comes from. fedrecon's own classes have no origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KINDS = ("strategies", "networks", "reconstructors", "masks", "degradations", "formats")
"""The kinds of plug-ins. A plug-in file adds to a kind by a dict of its name in capitals, ``STRATEGIES = {...}``, an
installed package by entry points of the group ``fedrecon.strategies``."""


@dataclass(frozen=True)
class Origin:
    """Where a plug-in comes from.

    Attributes:
        name: its name in the registry.
        where: the file, or the installed package with its version, for people.
        digest: SHA-256 of its sources.
    """

    name: str
    where: str
    digest: str


_ORIGINS: dict[Any, Origin] = {}
"""By class (or entry of a network). It only describes classes; which name means which class is the experiment's."""


def note(value: Any, origin: Origin) -> None:
    """Notes where ``value`` comes from."""
    _ORIGINS[value] = origin


def source_of(value: Any) -> dict[str, str]:
    """The hash of the sources of a plug-in from outside, as a part of a digest; empty for fedrecon's own."""
    return {"plug-in source": _ORIGINS[value].digest} if value in _ORIGINS else {}


def origin_of(value: Any) -> Origin | None:
    """Where a class comes from; None if it is fedrecon's own."""
    return _ORIGINS.get(value)


def where_from(value: Any) -> str:
    """``fedrecon``, or the file or the installed package that a plug-in comes from."""
    return _ORIGINS[value].where if value in _ORIGINS else "fedrecon"


def named(value: Any) -> str:
    """The name of a plug-in for a message: that of its registry, or the name of the class."""
    return f"'{_ORIGINS[value].name if value in _ORIGINS else value.__name__}'"


def remedy(value: Any) -> str:
    """The end of a message on what a plug-in did wrong: the command that tests its file; empty if it is in none."""
    where = where_from(value)
    return f"; fedrecon check-plugin {where}" if where.endswith(".py") else ""


def home(value: Any) -> str:
    """The module of a class, or of the class that an entry of the registry of networks names."""
    given = value.__module__ if isinstance(value, type) else getattr(value, "module", "")
    return str(given).partition(":")[0]
