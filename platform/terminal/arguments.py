"""The parser of the command line: one line for what is wrong, numbers with bounds, overrides at any place."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from fedrecon.sites.errors import InputError, brief


class Parser(argparse.ArgumentParser):
    """argparse's parser; a wrong command line is an :class:`InputError`, as any other wrong input."""

    def error(self, message: str) -> NoReturn:
        """Refuses the command line."""
        raise InputError(f"{message[:2000]} ({self.prog} --help)")

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The arguments. ``key.path=value`` may stand behind options too.

        argparse gives the positionals before the first option to ``overrides``, and leaves those behind it over.
        """
        arguments, rest = self.parse_known_args(argv)
        if rest and hasattr(arguments, "overrides") and not any(one.startswith("-") for one in rest):
            arguments.overrides = [*arguments.overrides, *rest]
        elif rest:
            self.error(f"unrecognized arguments: {' '.join(map(brief, rest[:5]))}")
        return arguments


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of an option: a whole number from ``low`` to ``high``."""
    return _between(int, "a whole number", low, high)


def number(low: float, high: float) -> Callable[[str], float]:
    """The type of an option: a number from ``low`` to ``high``."""
    return _between(float, "a number", low, high)


def _between(kind: Callable[[str], Any], words: str, low: float, high: float) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{words} from {low} to {high} is needed, got {brief(text)}")
        return value

    return read
