"""A plug-in file as it travels: its text, and the text of what it imports from beside it."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from fedrecon.sites.errors import InputError, cause_of
from fedrecon.sites.extension.local_imports import gather
from fedrecon.sites.extension.origin import KINDS, Origin, home, note
from fedrecon.sites.extension.text_modules import PREFIX, install, place_in_plugin
from fedrecon.sites.plugin import Settings


class PluginFile(Settings):
    """A plug-in file with all that it needs. It holds text alone, so an experiment can be written down with it.

    When it is unpickled, it is loaded first. So an object that is pickled after it may be of the plug-in's classes.

    Attributes:
        file: name of the file, without its folder.
        sources: text by path, relative to the file's folder; the file itself, and the files that it imports.
    """

    file: str
    sources: dict[str, str]

    @model_validator(mode="after")
    def _inside(self) -> Self:
        outside = [name for name in self.sources if name.startswith("/") or {"", ".", ".."} & {*name.split("/")}]
        if outside or self.file not in self.sources:
            raise ValueError(
                f"sources: paths below one folder are needed, the file '{self.file}' among them: {outside}"
            )
        return self

    @classmethod
    def read(cls, path: Path) -> PluginFile:
        """The plug-in in a file.

        Raises:
            InputError: see :func:`fedrecon.sites.extension.local_imports.gather`.
        """
        return cls(file=path.name, sources=gather(path))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that it holds, in hexadecimal digits."""
        return hashlib.sha256(json.dumps([self.file, self.sources], sort_keys=True).encode()).hexdigest()

    @property
    def package(self) -> str:
        """The name under which its modules are imported."""
        return f"{PREFIX}{self.digest[:16]}"

    def added(self, kind: str) -> dict[str, Any]:
        """What it adds of one kind, by name, such as its ``STRATEGIES``.

        Args:
            kind: one of :data:`KINDS`.

        Raises:
            InputError: it cannot be imported, or it adds nothing that can be used.
        """
        return self._checked[kind]

    @cached_property
    def _checked(self) -> Mapping[str, dict[str, Any]]:
        module = self._import()
        found = {kind: vars(module).get(kind.upper(), {}) for kind in KINDS}
        if not any(found.values()):
            known = ", ".join(kind.upper() for kind in KINDS)
            raise InputError(f"{self.file} adds nothing: a dict is needed, such as STRATEGIES = {{...}}; also {known}")
        for kind, entries in found.items():
            self._check(kind.upper(), entries)
            for name, value in entries.items():
                note(value, Origin(name, self.file, self.digest))
        return found

    def _check(self, where: str, entries: Any) -> None:
        if not isinstance(entries, dict) or not all(isinstance(name, str) and name for name in entries):
            raise InputError(f"{self.file}: {where} is no dict from names to classes")
        for name, value in entries.items():
            if not home(value).startswith(f"{self.package}."):
                form = "entry(CLASS, ...) of a class" if where == "NETWORKS" else "a class"
                raise InputError(f"{self.file}: {where}['{name}'] is {value!r}; {form} of this plug-in is needed")
        for name, value in entries.items():
            if other := [one for one in entries if one != name and entries[one] is value]:
                raise InputError(f"{self.file}: {where} gives one class two names, '{name}' and '{other[0]}'")

    def _import(self) -> Any:
        install(self.package, self.sources)
        name = f"{self.package}.{Path(self.file).stem}"
        if name in sys.modules:
            return sys.modules[name]
        try:
            return importlib.import_module(name)
        except Exception as error:
            place = f", {found}" if (found := place_in_plugin(error)) else ""
            raise InputError(f"{self.file} cannot be imported{place}: {cause_of(error)}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        """The text alone travels; whoever unpickles it can use its classes."""
        return _loaded, (self.file, self.sources)


def _loaded(file: str, sources: dict[str, str]) -> PluginFile:
    one = PluginFile(file=file, sources=sources)
    one.added(KINDS[0])
    return one
