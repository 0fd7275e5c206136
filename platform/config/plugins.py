"""The plug-ins that an experiment can name: fedrecon's own, those of its plug-in files, and installed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import WithJsonSchema

from fedrecon.sites.classical import RECONSTRUCTORS, Reconstructor
from fedrecon.sites.errors import InputError, brief
from fedrecon.sites.extension.plugin_file import PluginFile
from fedrecon.sites.extension.registry import Registry
from fedrecon.sites.formats import FORMATS, Format
from fedrecon.sites.imaging.degradations import DEGRADATIONS, Degradation
from fedrecon.sites.imaging.masks import MASKS, Mask
from fedrecon.sites.plugin import parse
from fedrecon.strategies import STRATEGIES, Strategy
from fedrecon.strategies.networks import NETWORKS
from fedrecon.strategies.networks.network import NetworkEntry

OWN: dict[str, tuple[Mapping[str, Any], type]] = {
    "strategies": (STRATEGIES, Strategy),
    "networks": (NETWORKS, NetworkEntry),
    "reconstructors": (RECONSTRUCTORS, Reconstructor),
    "masks": (MASKS, Mask),
    "degradations": (DEGRADATIONS, Degradation),
    "formats": (FORMATS, Format),
}
"""By kind, fedrecon's own plug-ins, and the class of which each plug-in of the kind is."""

PluginFiles = Annotated[tuple[PluginFile, ...], WithJsonSchema({"type": "array", "items": {"type": "string"}})]
"""Plug-in files; a file is given by its path, or with its text."""


def registry(kind: str, plugins: Sequence[PluginFile] = ()) -> Registry[Any]:
    """All plug-ins of a kind by name.

    Args:
        kind: one of :data:`fedrecon.sites.extension.origin.KINDS`.
        plugins: plug-in files that :func:`read_plugins` has read.
    """
    own, base = OWN[kind]
    return Registry(kind, own, plugins, base)


def read_plugins(given: Any, folder: Path = Path()) -> tuple[PluginFile, ...]:
    """The plug-in files of an experiment.

    Args:
        given: a list; each entry is a path, or a plug-in file with its text.
        folder: the folder from which paths are relative.

    Raises:
        InputError: a file cannot be read or imported, adds what is of no use, or a name is taken.
    """
    if not isinstance(given, list | tuple):
        raise InputError(f"plugins: a list of Python files is needed, such as [my_method.py], got {brief(given)}")
    files = tuple(_read(one, folder) for one in given)
    for kind in OWN:
        registry(kind, files)
    return files


def embedded(raw: Any, folder: Path, where: str) -> Any:
    """The content of an experiment's file, with the text of its plug-in files in place of their paths.

    Args:
        folder: the folder of the experiment's file. where: the file, at the start of a message.

    Raises:
        InputError: see :func:`read_plugins`.
    """
    if not isinstance(raw, Mapping) or not raw.get("plugins"):
        return raw
    try:
        files = read_plugins(raw["plugins"], folder)
    except InputError as error:
        raise InputError(f"{where}: plugins: {str(error).removeprefix('plugins: ')}", error.unknown) from error
    return {**raw, "plugins": [one.model_dump() for one in files]}


def _read(given: Any, folder: Path) -> PluginFile:
    if isinstance(given, PluginFile):
        return given
    if isinstance(given, str | Path):
        return PluginFile.read(folder / given)
    return parse(PluginFile, given, where="plugins")
