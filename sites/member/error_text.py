"""What an error says outside of its site: of an error that is not fedrecon's own, the type and the place alone."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

from fedrecon.sites import atomic
from fedrecon.sites.errors import FedreconError, RunError
from fedrecon.sites.extension.text_modules import place_in_plugin

LONGEST = 400
"""The most characters of an error's message that leave a site."""

LOG = "errors.log"
"""The file in the folder of a member's private memory that keeps the whole text of its errors."""


class ForeignError(RunError):
    """Stands for an error that is not fedrecon's own: a library's text may hold values of images."""


@contextmanager
def within_walls(log: Path | None = None) -> Iterator[None]:
    """Lets the body's errors out of the site as :func:`leaving` makes them, without the errors that caused them.

    Args:
        log: a file on the site's own disk that gets the whole text; None keeps it nowhere.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - what a library raises is what it is for
        if log is not None and not isinstance(error, FedreconError):
            with suppress(OSError):
                log.parent.mkdir(parents=True, exist_ok=True)
                atomic.append(log, "".join(traceback.format_exception(error)) + "\n")
        raise leaving(error).with_traceback(error.__traceback__) from None


def walled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function :func:`within_walls`. Ray can send it to another process, as it cannot send a context manager."""

    @wraps(function)
    def inside(*arguments: Any) -> Any:
        with within_walls():
            return function(*arguments)

    return inside


def leaving(error: Exception) -> FedreconError:
    """The error that goes up in place of this one."""
    if not isinstance(error, FedreconError):
        return ForeignError(f"{type(error).__name__[:80]} in {_place(error)}. Its text stays at the site")
    text = str(error)
    half = LONGEST // 2 - 3
    return error if len(text) <= LONGEST else RunError(f"{text[:half]} ... {text[-half:]}")


def _place(error: Exception) -> str:
    """The innermost line of a plug-in that the error passed, or else of fedrecon."""
    frames = [(str(frame.f_globals.get("__name__")), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(name, line) for name, line in frames if name.startswith("fedrecon.")]
    name, line = (own or [("fedrecon.unknown", 0)])[-1]
    return place_in_plugin(error) or f"line {line} of {name.partition('.')[2].replace('.', '/')}.py"
