"""Overrides ``key.path=value`` of an experiment that is not validated yet, for command line, sweeps and studies."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from fedrecon.platform.config.tasks import BLOCKS, Task
from fedrecon.platform.config.yaml_text import read_yaml
from fedrecon.sites.errors import InputError, brief

NAMED_BLOCKS = ("strategy", "network", "reconstructor")
"""The blocks with a key ``name``. Their other keys are parameters of the plug-in with that name."""
_OF_NO_PLUGIN = ("personalise",)
"""The keys of such a block that are parameters of no plug-in: another name keeps them."""


def apply_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``raw`` with every override applied, in any order: blocks before their keys, names before parameters.

    A new ``strategy.name``, ``network.name`` or ``reconstructor.name`` replaces the block: its other keys take the
    defaults of the new plug-in, but ``strategy.personalise`` stays, which is of no strategy. ``operator.X`` changes
    every entry of ``operator.per_site`` too. A new
    ``operator.mask`` keeps only the keys that every mask family has. The same holds for ``degradation`` and its
    ``kind``.

    Raises:
        InputError: an override has no '=' or its value is not valid YAML, a path goes through a value without keys, or
            a setting is given twice.
    """
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise InputError(f"overrides: a list of texts key.path=value is needed, got {brief(overrides)}")
    return _applied(raw, [(key.split("."), value) for key, value in map(parse_override, overrides)])


def apply_values(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Does the same as :func:`apply_overrides`, from a mapping of dotted keys to values that are parsed already."""
    return _applied(raw, [(key.split("."), value) for key, value in values.items()])


def _applied(raw: Mapping[str, Any], changes: Sequence[tuple[list[str], Any]]) -> dict[str, Any]:
    try:
        changed = copy.deepcopy(dict(raw))
    except TypeError as error:  # such as a generator
        raise InputError(f"a value is no text, number, list or mapping: {error}") from None
    given: dict[str, list[str]] = {}
    for path, value in sorted(changes, key=lambda item: _order(item[0])):
        setting = ".".join([path[0], "name"] if _is_name(path) else path)
        if setting in given:
            both = dict.fromkeys("'" + ".".join(one) + "'" for one in (given[setting], path))
            raise InputError(f"{' and '.join(both)}: a setting is given twice; give it once")
        given[setting] = path
        _set(changed, path, copy.deepcopy(value))
    return changed


def _order(path: list[str]) -> tuple[bool, bool, bool, int]:
    """Whole blocks first, then names, then all sites before single ones, so that no override undoes a narrower one."""
    return len(path) > 1, not (_is_name(path) or _is_mask(path)), "per_site" in path, len(path)


def _is_name(path: list[str]) -> bool:
    return path[0] in NAMED_BLOCKS and path[1:] in ([], ["name"])


def _is_mask(path: list[str]) -> bool:
    return path[0] in BLOCKS and path[-1] == BLOCKS[path[0]].acquisition.key


def parse_override(text: str) -> tuple[str, Any]:
    """The dotted key and the value of ``key.path=value``.

    Raises:
        InputError: the text has no '=', a part of the key is empty, or the value is not valid YAML.
    """
    if not isinstance(text, str):
        raise InputError(f"an override is a text key.path=value, not {brief(text)}")
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise InputError(f"{brief(text)} is no override: key.path=value is needed, such as training.rounds=20")
    return key, read_yaml(value, brief(text))


def _set(raw: dict[str, Any], path: list[str], value: Any) -> None:
    if path[0] in NAMED_BLOCKS and _is_name(path):
        block = raw.get(path[0])
        name = value.get("name") if isinstance(value, dict) else value
        old = block.get("name") if isinstance(block, dict) else block
        if isinstance(value, dict):
            raw[path[0]] = value
        elif name != old:
            kept = {key: block[key] for key in _OF_NO_PLUGIN if isinstance(block, dict) and key in block}
            raw[path[0]] = {"name": value, **kept}
        return
    if path[0] in NAMED_BLOCKS and isinstance(raw.get(path[0]), str):
        raw[path[0]] = {"name": raw[path[0]]}
    if path[0] in BLOCKS and len(path) > 1:
        _set_measured(raw, BLOCKS[path[0]], path[1:], value)
        return
    _descend(raw, path, value)


def _set_measured(raw: dict[str, Any], task: Task, path: list[str], value: Any) -> None:
    block, kind = _block(raw, [task.block]), task.acquisition
    family = block.get(kind.key, kind.default)
    sites = {} if block.get("per_site") is None and path[0] != "per_site" else _block(block, ["per_site"])
    if path[0] == "per_site" and len(path) < 3:
        _descend(block, path, value)
        return
    if path[0] == "per_site":
        owners, path = [_block(sites, [path[1]])], path[2:]
    else:
        owners = [block, *(entry for entry in sites.values() if isinstance(entry, dict))]
    for owner in owners:
        if path == [kind.key]:
            kept = kind.inherit({kind.key: family, **owner}, {kind.key: value})
            owner.clear()
            owner.update(kept)
        else:
            _descend(owner, path, value)


def _block(owner: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """The mapping at ``path``. Missing mappings are made."""
    for depth, part in enumerate(path):
        inner = owner.setdefault(part, {})
        if inner is None:
            inner = owner[part] = {}
        if not isinstance(inner, dict):
            raise InputError(f"'{'.'.join(path[: depth + 1])}' is a value ({brief(inner)}) and has no keys")
        owner = inner
    return owner


def _descend(owner: dict[str, Any], path: list[str], value: Any) -> None:
    _block(owner, path[:-1])[path[-1]] = value
