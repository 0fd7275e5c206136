"""The parser of the command line: options in any order, one line for what is wrong, and what commands share."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from fedrecon.sites.errors import InputError, brief, unknown

SHARED: dict[str, dict[str, Any]] = {
    "--json": {"action": "store_true", "help": "print one JSON object on stdout"},
    "--workspace": {"metavar": "DIR", "help": "default: FEDRECON_WORKSPACE or ./workspace"},
    "--in-process": {"action": "store_true", "help": "run all sites in this process, without actors: same bits"},
    "--address": {"metavar": "A", "help": "address of a running Ray cluster (default: start one here)"},
    "--tracking-uri": {
        "metavar": "URI",
        "help": "address of an MLflow server (default: MLFLOW_TRACKING_URI, or the workspace's mlflow.db)",
    },
    "--dry-run": {"action": "store_true", "help": "check all that is given, say what would be done, and do nothing"},
}
"""The options that mean the same in every command that has them."""


def share(parser: Parser, lacking: Mapping[str, str]) -> None:
    """Adds the options of :data:`SHARED`; one that ``lacking`` names is refused with the reason that it gives."""
    for name, how in SHARED.items():
        if name in lacking:
            parser.add_argument(name, action=_Refused, dest=argparse.SUPPRESS, reason=lacking[name])
        else:
            parser.add_argument(name, **how)


def add_overrides(parser: argparse.ArgumentParser, text: str) -> None:
    """Adds ``key.path=value``, any number of times; ``text`` is its help."""
    parser.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help=text)


class _Refused(argparse.Action):
    """An option that other commands have, and this one has not."""

    def __init__(self, option_strings: Sequence[str], dest: str, reason: str) -> None:
        super().__init__(option_strings, dest, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.reason = reason

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        parser.error(f"{parser.prog} takes no {self.option_strings[0]}: {self.reason}")


class Parser(argparse.ArgumentParser):
    """argparse's parser; a wrong command line is an :class:`InputError`, as any other wrong input.

    Attributes:
        no_overrides: why this command takes no ``key.path=value``; empty if it takes them.
    """

    no_overrides = ""

    def error(self, message: str) -> NoReturn:
        """Refuses the command line."""
        raise InputError(f"{message[:2000]} ({self.prog} --help)")

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The arguments, in any order."""
        arguments: argparse.Namespace = self.parse_known_args(argv)[0]
        return arguments

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See argparse, which fills the first arguments that have room and refuses what stands behind an option.

        So the parser of a command gets its options first, and all else behind them. What it does not know is refused.
        """
        words = list(sys.argv[1:] if args is None else args)
        ordered = self._command_first(words) if self._subparsers else self._options_first(words)
        arguments, rest = super().parse_known_args(ordered, namespace)
        if rest:
            self._refuse(rest)
        return arguments, rest

    def _refuse(self, rest: Sequence[str]) -> NoReturn:
        rest = [word for word in rest if word != "--"]
        if options := [word for word in rest if self._is_option(word)]:
            known = self._option_string_actions.items()
            shown = [name for name, one in known if name.startswith("--") and one.help != argparse.SUPPRESS]
            self.error(str(unknown("option", options[0].partition("=")[0], shown)))
        if self.no_overrides and any("=" in word for word in rest):
            self.error(f"{self.prog} takes no KEY=VALUE: {self.no_overrides}")
        self.error(f"too many arguments: {' '.join(map(brief, rest[:5]))}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = (action.option_strings or [str(action.metavar or action.dest).lower()])[-1]
            self.error(str(unknown(what, value, action.choices)))

    def _command_first(self, words: Sequence[str]) -> list[str]:
        """The words with the command before its options: ``--json runs list``."""
        assert self._subparsers is not None
        commands = next(one.choices for one in self._subparsers._group_actions)
        if not (words and self._is_option(words[0])) or not (
            found := [one for one in words if one in (commands or ())]
        ):
            return list(words)
        at = words.index(found[0])
        own = [one for one in words[:at] if one in self._option_string_actions]
        return [*own, words[at], *(one for one in words[:at] if one not in own), *words[at + 1 :]]

    def _options_first(self, words: Sequence[str]) -> list[str]:
        options, others, left = list[str](), list[str](), deque(words)
        while left:
            word = left.popleft()
            if word == "--":
                others += left
                break
            if not self._is_option(word):
                others.append(word)
                continue
            options.append(word)
            count, read = self._values(word)
            while left and count and not self._is_option(left[0]) and (options[-1] == word or _reads(read, left[0])):
                options.append(left.popleft())
                count -= 1
        return [*options, "--", *others] if others else options

    def _is_option(self, word: str) -> bool:
        return word.startswith("-") and word != "-" and not self._negative_number_matcher.match(word)

    def _values(self, word: str) -> tuple[int, Any]:
        """The largest number of words that an option takes behind it, and the function that reads one of them."""
        known = self._option_string_actions
        fitting = [known[word]] if word in known else [one for name, one in known.items() if name.startswith(word)]
        if len({id(one) for one in fitting}) != 1:  # unknown, or with its value: argparse says what is wrong
            return 0, None
        nargs = fitting[0].nargs
        return 1 if nargs is None else sys.maxsize if nargs == "+" else 0, fitting[0].type


def _reads(read: Any, word: str) -> bool:
    """Whether an option of many values takes this word too. A name does not belong to ``--acceleration 2 4``."""
    try:
        return read is None or read(word) is not None
    except argparse.ArgumentTypeError:
        return False


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
