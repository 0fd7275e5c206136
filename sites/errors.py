"""The errors of fedrecon: one for wrong input (exit code 2), one for a run that failed (exit code 1)."""

from __future__ import annotations

import difflib
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class FedreconError(Exception):
    """Base of every error that is shown to a user as one clear message."""


class InputError(FedreconError):
    """The user's input is wrong. The message says what was given, what is allowed and the nearest right name.

    Attributes:
        unknown: the names in the input that do not exist. A caller asks for them here and never reads the message.
    """

    def __init__(self, message: str, unknown: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.unknown = tuple(unknown)

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps the fields when the error travels to another process."""
        return type(self), (str(self), self.unknown)


class FileError(InputError):
    """A file is refused. The message is the path and the reason; a caller asks for them here.

    Attributes:
        path: the file, as it was given.
        reason: why it is refused; the path does not stand in it.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps the fields when the error travels to another process."""
        return type(self), (self.path, self.reason)


class FilesError(InputError):
    """Several files are refused. The message names all of them, one a line.

    Attributes:
        refused: the error of each file.
        advice: what can be done; it does not name the files.
    """

    def __init__(self, refused: Iterable[FileError], advice: str) -> None:
        self.refused, self.advice = tuple(refused), advice
        super().__init__("\n".join([*map(str, self.refused), advice]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps the fields when the error travels to another process."""
        return type(self), (self.refused, self.advice)


class RefusedValueError(ValueError):
    """An :class:`InputError` inside of a validator: pydantic collects only ValueErrors. The message is the same.

    Attributes:
        error: the error.
    """

    def __init__(self, error: InputError) -> None:
        super().__init__(str(error))
        self.error = error


class RunError(FedreconError):
    """The input was right, but the work failed. The message says where (site, round) and why."""


DISK_FULL = "the disk is full"
"""The words in the message of a :class:`DiskFullError`. Of a site's process only the message arrives."""


class DiskFullError(RunError):
    """A file could not be written, because its disk is full. What was committed before is whole.

    Args:
        path: the file. free: bytes that are free on its disk; a file may need more than that.
    """

    def __init__(self, path: Any, free: int) -> None:
        super().__init__(f"{DISK_FULL}: {path} cannot be written, {free / 2**20:.1f} MiB are free there")
        self.path, self.free = path, free

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps the fields when the error travels to another process."""
        return type(self), (self.path, self.free)


def unknown(
    kind: str, given: str, allowed: Iterable[str], most: int | None = None, more: str = "", path: str = ""
) -> InputError:
    """An error for a name that does not exist. Its message names the nearest allowed name and all allowed names.

    Args:
        most: the largest number of allowed names in the message; None takes all. more: where the others are found.
        path: the key that holds the name, with its dot; the message shows it before the name.
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(given[:100], names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(names[:most]) or "(none)"
    listed += f", ... ({more})" if names[most or len(names) :] else ""
    return InputError(f"unknown {kind} {quoted(path + given)}.{hint} Allowed: {listed}.", [given])


def quoted(name: str) -> str:
    """A name as it is shown in a message: in quotation marks, without control characters, and not too long."""
    return f"'{visible(name)}'" if len(name) <= 80 else brief(name)


def brief(value: Any, most: int = 80) -> str:
    """The value as it is shown in a message: Python's notation on one line, at most ``most`` characters long."""
    try:
        shown = repr(value)
        shown = " ".join(shown.split()) if "\n" in shown else shown  # an array's notation has several lines
    except ValueError:  # Python prints no integer of more than 4300 digits
        return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return shown if len(shown) <= most else f"{shown[: most - 20]}... ({len(shown)} characters)"


def listed(names: Iterable[str], most: int = 16) -> str:
    """Names for a line that people read: the first ones, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def visible(text: str) -> str:
    """The text with every character that a terminal would obey, or could not print, as an escape: ``\\x1b``.

    Control characters (a colour, a cursor, a bell), marks that turn the direction of a line, and half characters of a
    file's name. The end of a line and the tab stay.
    """
    return "".join(one if one in "\n\t" or one.isprintable() else ascii(one)[1:-1] for one in text)


def tell(text: str, stream: TextIO | None = None) -> None:
    """Prints a line with what a terminal would obey as an escape. ``stream`` None takes stderr: stdout has results."""
    print(visible(text), file=stream or sys.stderr, flush=True)


def at_site(member: str, round_number: int | None, message: str) -> str:
    """The message with the site in front of it, and with the round if it is given."""
    when = f", round {round_number}" if round_number is not None else ""
    return f"site '{member}'{when}: {message}"


@contextmanager
def errors_at(member: str, round_number: int | None = None) -> Iterator[None]:
    """An error of fedrecon that is raised within names the site, and the round if it is given.

    Raises:
        RunError: see above.
    """
    try:
        yield
    except FedreconError as error:
        raise RunError(at_site(member, round_number, str(error))) from error


def cause_of(error: BaseException) -> str:
    """The reason of a failure.

    Ray wraps the error of a task; then the wrapped error (``cause``) is described. An error of fedrecon explains
    itself: its message is returned as it is. For any other error the result is one line with its type and its text,
    at most 240 characters of it. If the text has more than six lines (a traceback), only its last line is used.
    """
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, FedreconError):
        return str(cause)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = " ".join(lines[-1:] if len(lines) > 6 else lines)
    return f"{type(cause).__name__}: {textwrap.shorten(text, 240, placeholder=' ...')}"
