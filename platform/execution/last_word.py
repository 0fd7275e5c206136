"""The last word of a process that ends without one: Ray's C++ part ends its driver at once, and so does the kernel."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess

TEXT = (
    "failed: this process ended without a word: it was killed (is memory short?), or Ray ended it because a process of "
    "its own ended (is /dev/shm full? were all terminated?). Give the same command again: a run goes on from its last "
    "committed round"
)

_SCRIPT = """while read -r line; do [ "$line" ] || exit 0; set -- "$line"; done
printf '%s\\n' "${1:-$0}" >&2"""
"""Waits for the goodbye of the process that started it, an empty line; another line is its last word from now on.

The end of the pipe without a goodbye is that process's death.
"""

_OUTLIVED = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
"""Blocked in the shell from its start: a service manager sends SIGTERM to it too, and it must outlive the others."""


def keep() -> None:
    """Starts a shell that says :data:`TEXT` on stderr if this process dies, once; a process that ends says goodbye.

    It has a process group of its own, and the signals that end a command do not end it. A machine without a shell keeps
    no last word.
    """
    global _keeper
    if _keeper is not None and _keeper.poll() is None:
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OUTLIVED)
    try:
        _keeper = subprocess.Popen(["/bin/sh", "-c", _SCRIPT, TEXT], stdin=subprocess.PIPE, process_group=0)
    except OSError:
        return
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    atexit.register(goodbye)


def change(text: str) -> None:
    """Puts one line in place of :data:`TEXT`, for a process that knows by now why it will end."""
    if _keeper is not None and _keeper.stdin is not None:
        with contextlib.suppress(OSError):  # the shell has ended
            os.write(_keeper.stdin.fileno(), f"{text}\n".encode())


def goodbye() -> None:
    """Ends the shell without a word."""
    global _keeper
    keeper, _keeper = _keeper, None  # a handler of SIGTERM may come between any two lines
    if keeper is None:
        return
    with contextlib.suppress(OSError):  # it has ended
        keeper.communicate(b"\n")
    atexit.unregister(goodbye)


_keeper: subprocess.Popen[bytes] | None = None
