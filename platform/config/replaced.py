"""Blocks that a patch replaces as a whole. The keys that the new block lacks fall back to their defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.overrides import NAMED_BLOCKS, apply_values, parse_override
from fedrecon.sites.errors import InputError, brief, tell

WHOLE = ("sites", "test")
"""Blocks that a patch means to replace: their keys are names, or belong together."""


def replaced(base: Mapping[str, Any], patch: Mapping[str, Any]) -> Iterator[str]:
    """Yields a sentence for each block of the patch that takes away a setting of the base.

    A key that has the same effect without the base's value is not named. A block of another plug-in is not named
    either: the keys of one strategy, network or reconstructor do not concern another.

    Args:
        base: the content of an experiment. patch: dotted keys with their values, as a method of a study has them.

    Raises:
        InputError: the patched experiment is wrong.
    """
    blocks = {
        key: (old, new)
        for key, new in patch.items()
        if key not in WHOLE and isinstance(new, Mapping) and isinstance(old := base.get(key), Mapping)
    }
    if not blocks:
        return
    made = Experiment.read(apply_values(base, patch)).shown()
    for key, (old, new) in blocks.items():
        if key in NAMED_BLOCKS and old.get("name") != new.get("name"):
            continue
        kept = {name: {**patch, key: {name: value, **new}} for name, value in old.items() if name not in new}
        gone = [name for name, whole in kept.items() if _matters(made, base, whole)]
        if gone:
            had = ", ".join(f"{name}={brief(old[name])}" for name in gone)
            yield f"{key} replaces the whole block: {had} of the base no longer holds ({key}.KEY changes one key)"


def read_patched(given: Any, overrides: Sequence[str] = ()) -> Experiment:
    """Does the same as :meth:`Experiment.read`, and prints the sentences of :func:`replaced` for the overrides."""
    made = Experiment.read(given, overrides)
    patch = dict(map(parse_override, overrides))
    if any(isinstance(value, Mapping) for value in patch.values()):
        try:
            base = Experiment.read(given).as_dict()
        except InputError:  # the experiment is whole with its overrides alone
            return made
        for line in replaced(base, patch):
            tell(line)
    return made


def _matters(made: Mapping[str, Any], base: Mapping[str, Any], patch: Mapping[str, Any]) -> bool:
    try:
        return Experiment.read(apply_values(base, patch)).shown() != made
    except InputError:  # the key does not go with the new block
        return False
