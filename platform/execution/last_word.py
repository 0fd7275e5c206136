"""The last word of a process that ends without one: Ray's C++ part ends its driver at once, and so does the kernel."""

from __future__ import annotations

import atexit
import contextlib
import subprocess

TEXT = (
    "failed: this process ended without a word: it was killed (is memory short?), or Ray ended it because a process of "
    "its own died (is /dev/shm full?). Give the same command again: a run goes on from its last committed round"
)

_SCRIPT = 'read -r line || printf "%s\\n" "$0" >&2'
"""Waits for the goodbye of the process that started it; the end of the pipe without one is that process's death."""


def keep() -> None:
    """Starts a shell that says :data:`TEXT` on stderr if this process dies, once; a process that ends says goodbye.

    It has a process group of its own: a signal to the whole group of the command does not reach it. A machine without a
    shell keeps no last word.
    """
    global _keeper
    if _keeper is not None and _keeper.poll() is None:
        return
    with contextlib.suppress(OSError):
        _keeper = subprocess.Popen(["/bin/sh", "-c", _SCRIPT, TEXT], stdin=subprocess.PIPE, process_group=0)
        atexit.register(goodbye)


def goodbye() -> None:
    """Ends the shell without a word."""
    global _keeper
    if _keeper is None:
        return
    with contextlib.suppress(OSError):  # it has ended
        _keeper.communicate(b"\n")
    _keeper = None
    atexit.unregister(goodbye)


_keeper: subprocess.Popen[bytes] | None = None
