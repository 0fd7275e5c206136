"""The one boundary between errors and a person: every error becomes one line that says what, where and what to do."""

from __future__ import annotations

import datetime
import errno
import json
import os
import tempfile
import traceback
from pathlib import Path

from fedrecon.sites import atomic
from fedrecon.sites.errors import FedreconError, InputError, brief, cause_of
from fedrecon.sites.extension.text_modules import check_command, place_in_plugin
from fedrecon.sites.member.error_text import ForeignError

FAILED, WRONG_INPUT = 1, 2

LET_THROUGH = "FEDRECON_RAISE"
"""With this environment variable an error that nobody expected is raised, as tests want it."""

LOG = "errors.log"
"""The file in the workspace that keeps the tracebacks of errors that nobody expected."""

MOST_LINES, LONGEST = 50, 2000
"""The bounds of a message: one line for each wrong key, and the characters of a line."""

_GIVEN_PATH = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "ELOOP", "EROFS", "EBUSY")
}
"""Reasons that lie in a path that the user gave: with another path, or other rights, the command works."""

_LIBRARIES = {
    "alembic": (FAILED, "MLflow's database", "is its file whole, and of this MLflow version?"),
    "binascii": (WRONG_INPUT, "text that is not Base64", "is the file whole?"),
    "h5py": (FAILED, "HDF5", "fedrecon data inspect checks a shard"),
    "mlflow": (FAILED, "MLflow", "is the tracking URI right, and does the server answer?"),
    "nibabel": (WRONG_INPUT, "NIfTI", "is the file whole?"),
    "pyarrow": (FAILED, "Parquet", "is the file whole?"),
    "ray": (FAILED, "Ray", "the same command goes on from the last committed round"),
    "requests": (FAILED, "HTTP", "does the server answer?"),
    "safetensors": (FAILED, "safetensors", "is the file whole?"),
    "sqlalchemy": (FAILED, "MLflow's database", "can its file be written, and does its server answer?"),
    "sqlite3": (FAILED, "SQLite", "can the file be written, and is it whole?"),
    "urllib3": (FAILED, "HTTP", "does the server answer?"),
    "yaml": (WRONG_INPUT, "YAML", "check the file's syntax"),
    "zipfile": (WRONG_INPUT, "a compressed file", "is the file whole?"),
    "zlib": (WRONG_INPUT, "a compressed file", "is the file whole?"),
}
"""The libraries whose errors are foreseen, by package: the exit code, what it was about, and what to do."""


def outcome(error: Exception, workspace: Path) -> tuple[str, int]:
    """The line that is shown for an error, and the exit code.

    Args:
        workspace: the folder that keeps the traceback of an error that nobody expected.

    Raises:
        Exception: ``error`` itself, if nobody expected it and :data:`LET_THROUGH` is set.
    """
    if isinstance(error, FedreconError):
        wrong = isinstance(error, InputError)
        text = ("error: " if wrong else "failed: ") + str(error) + ("" if wrong else _at_a_site(error.__cause__))
        return _within_bounds(text), WRONG_INPUT if wrong else FAILED
    if (line := _of_the_system(error) or _of_a_library(error)) is not None:
        return line[0] + _in_a_plugin(error), line[1]
    if os.environ.get(LET_THROUGH):
        raise error
    kept = _keep(error, workspace)
    if place := _in_a_plugin(error):
        return f"failed: {cause_of(error)}{place}; the traceback is in {kept}", FAILED
    if command := check_command():  # what a hook returned may have gone wrong later
        about = f"with a plug-in: {command} tells whether it is the cause; if not, it is "
    else:
        about = ""
    about += "a defect of fedrecon; please report it with the traceback in"
    return f"failed: {cause_of(error)} - {about} {kept}", FAILED


def _in_a_plugin(error: BaseException) -> str:
    """The end of a message: where in a plug-in the error was raised, and the command that tests it; empty for none."""
    place = place_in_plugin(error)
    return f" - in the plug-in, {place}: {check_command(error)}" if place else ""


def _at_a_site(cause: BaseException | None) -> str:
    """The same for the cause of a RunError: what a site's process raised."""
    own = isinstance(cause, FedreconError) and not isinstance(cause, ForeignError)
    return "" if cause is None or own else _in_a_plugin(cause)


def _within_bounds(text: str) -> str:
    """The text without the middle of lines that nobody reads: a name that was given may have any length."""
    lines = text.splitlines()
    shown = [one if len(one) <= LONGEST else f"{one[: LONGEST // 2]} ... {one[-LONGEST // 2 :]}" for one in lines]
    more = [f"... and {len(shown) - MOST_LINES} more lines"] if len(shown) > MOST_LINES else []
    return "\n".join([*shown[:MOST_LINES], *more])


def _of_the_system(error: Exception) -> tuple[str, int] | None:
    if isinstance(error, OSError):
        paths = " -> ".join(brief(str(one), 300) for one in (error.filename, error.filename2) if one is not None)
        text = (f"{paths}: " if paths else "") + (error.strerror or cause_of(error))
        if error.errno in _GIVEN_PATH and paths:
            return f"error: {text}; give another path, or the right to use it", WRONG_INPUT
        return f"failed: {text}", FAILED
    if isinstance(error, MemoryError):
        return f"failed: memory is short: {str(error)[:200] or 'an array was too large'}; make the work smaller", FAILED
    return None


def _of_a_library(error: Exception) -> tuple[str, int] | None:
    kinds = [kind.__module__.split(".")[0] for kind in type(error).__mro__]
    if isinstance(error, json.JSONDecodeError):
        return f"failed: JSON of this workspace is cut or damaged: {error}; {_AGAIN}", FAILED
    if isinstance(error, RecursionError):
        return "failed: a file of the workspace has values that are nested too deeply; run again with --rerun", FAILED
    if isinstance(error, UnicodeError):
        return f"error: text that is not UTF-8: {cause_of(error)}; is the file whole?", WRONG_INPUT
    name = next((kind for kind in kinds if kind in _LIBRARIES), None)
    if name is None:
        return None
    code, about, advice = _LIBRARIES[name]
    return f"{'error' if code == WRONG_INPUT else 'failed'}: {about}: {cause_of(error)}; {advice}", code


_AGAIN = "remove the file, or run again with --rerun"


def _keep(error: Exception, workspace: Path) -> Path:
    """Appends the traceback to the log of the workspace, or of the system's folder for temporary files."""
    text = f"{datetime.datetime.now().isoformat(timespec='seconds')}\n{''.join(traceback.format_exception(error))}\n"
    for folder in (workspace, Path(tempfile.gettempdir())):
        path = folder / (LOG if folder == workspace else f"fedrecon-{os.getuid()}-{LOG}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic.append(path, text)
        except (OSError, ValueError):
            continue
        return path
    return Path(os.devnull)
