"""What is written to stdout and stderr: escaped lines, and under ``--json`` one JSON object and nothing else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from typing import Any, TextIO

from fedrecon.sites.errors import tell

_JSON: ContextVar[TextIO | None] = ContextVar("_JSON", default=None)


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints text with what a terminal would obey as an escape. ``stream`` None takes stdout."""
    tell(text, stream or sys.stdout)


def print_json(content: Any) -> None:
    """Prints a JSON object on stdout, also within :func:`json_alone`."""
    stream = _JSON.get() or sys.stdout
    json.dump(content, stream, indent=2, default=str)
    stream.write("\n")
    stream.flush()


@contextmanager
def json_alone(wanted: bool) -> Iterator[None]:
    """Within it stdout carries what :func:`print_json` prints; all else goes to stderr, if ``wanted``.

    MLflow, Ray, their processes and libraries in C print on stdout too. So the file descriptor is moved as well.
    """
    if not wanted:
        yield
        return
    stdout, own = sys.stdout, None
    with suppress(OSError, ValueError, AttributeError):  # a notebook or a test has no descriptor behind its stdout
        if stdout.fileno() == 1:
            stdout.flush()
            own = os.dup(1)
            os.dup2(2, 1)
    stream = stdout if own is None else os.fdopen(os.dup(own), "w", encoding="utf-8")
    token = _JSON.set(stream)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _JSON.reset(token)
        if own is not None:
            with suppress(BrokenPipeError):
                stream.close()
            os.dup2(own, 1)
            os.close(own)
