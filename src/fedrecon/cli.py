"""The command line, a thin layer over the Python API. Importing it does not load torch, ray or mlflow."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrecon.commands import data, doctor, experiments, init, runs
from fedrecon.commands.base import DONE, command, workspace_of
from fedrecon.platform.terminal import phases
from fedrecon.platform.terminal.arguments import Parser
from fedrecon.platform.terminal.boundary import outcome
from fedrecon.platform.terminal.output import json_alone, say
from fedrecon.platform.terminal.signals import SAYS, TERMINATED, terminable
from fedrecon.sites.atomic import room_for
from fedrecon.sites.errors import DISK_FULL
from fedrecon.sites.phases import shown_by

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        the exit code: 0 done, 1 the command failed, 2 the input is wrong, 130 interrupted, 143 terminated (SIGTERM).
    """
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name on disk may hold bytes that are no text
    with terminable() as termination:
        code = _exit_code(argv)
    return TERMINATED if termination.received and code == INTERRUPTED else code


def _exit_code(argv: Sequence[str] | None) -> int:
    arguments = argparse.Namespace()
    try:
        arguments = _parser().read(argv)
        with room_for(Path.cwd() / "x"), json_alone(getattr(arguments, "json", False)), shown_by(phases.show):
            code: int = arguments.command(arguments)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _say(SAYS if getattr(arguments, "goes_on", False) else SAYS.partition(";")[0], INTERRUPTED)
    except BrokenPipeError:
        return _without_reader()
    except Exception as error:  # noqa: BLE001 - the one boundary: every error becomes one line
        line, code = outcome(error, workspace_of(arguments))
        return _say(line + _after_room(line, argv), code)
    return code


def _parser() -> Parser:
    from fedrecon.tune.study.command import COMMAND as STUDY
    from fedrecon.tune.sweep.command import COMMAND as SWEEP
    from fedrecon.version import __version__

    parser = Parser(
        prog="fedrecon",
        description="Federated MR image reconstruction experiments on Ray, browsed in MLflow.",
    )
    parser.add_argument("--version", action="version", version=f"fedrecon {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    data.add(commands)
    experiments.add(commands)
    runs.add(commands)
    init.add(commands)
    doctor.add(commands)
    for one in (SWEEP, STUDY):
        one.add_arguments(command(commands, one.kind, one.command, one.about))
    return parser


def _after_room(message: str, argv: Sequence[str] | None) -> str:
    """The command that goes on once a full disk has room; empty for any other message."""
    given = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--rerun"]
    return f". Make room, then: fedrecon {shlex.join(given)}" if DISK_FULL in message else ""


def _without_reader() -> int:
    """The reader of stdout left (``| head``): Python must not try to write the rest at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


def _say(message: str, code: int) -> int:
    say(message, sys.stderr)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, RuntimeWarning | UserWarning):
        say(f"warning: {message}", sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
