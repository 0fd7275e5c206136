"""The fork server: a process that loads torch once, and becomes each of Ray's workers by a fork.

It loads nothing of Ray. Ray reads variables when it is loaded, and forks of a process that has loaded it got each
other's objects: one trial was scored with the network of another. The server starts no thread and touches no GPU. It
ends with the process that started it: it holds the reading end of that process's pipe.

``python -P -m fedrecon.platform.execution.forking.server PIPE LISTENER MODULES``: two file descriptors and a list.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrecon.platform.execution.forking.client import FORKED, decisive

WAITING = 128
"""Workers that may wait for an answer."""

PATIENCE = 10.0
"""Seconds for a client to say all of its request; the others wait meanwhile."""

Worker = dict[str, Any]
"""A client's request: the arguments, the environment and the niceness of a worker."""


def serve(listener: socket.socket, modules: Sequence[str], pipe: int) -> list[str]:
    """Answers clients. It returns in a forked worker alone, with the arguments of the worker.

    Args:
        listener: takes the connections.
        modules: what is loaded.
        pipe: this process ends when nobody holds its other end.
    """
    own = decisive(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a library that computes would start a thread a core in each worker
    _load(modules)
    while True:
        connection, request, files = _next(listener, pipe)
        if decisive(request["environment"]) != own:
            _answer(connection, files, "other variables")
            continue
        if (child := os.fork()) == 0:
            for one in (listener, connection):
                one.close()
            os.close(pipe)
            return _become(request, files)
        with contextlib.suppress(OSError):  # the child does it too: Ray ends a worker with its process group
            os.setpgid(child, child)
        _answer(connection, files, FORKED)


def _become(request: Worker, files: Sequence[int]) -> list[str]:
    """Makes this fork the worker that the client would have been. Returns the worker's arguments."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    *open_files, folder = files
    for target, file in enumerate(open_files):
        os.dup2(file, target)
    os.fchdir(folder)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    with contextlib.suppress(OSError):  # a user may not raise a priority
        os.nice(request["nice"] - os.nice(0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(request["out_of_memory"], encoding="ascii")
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # else all workers would draw the same
    arguments: list[str] = request["arguments"]
    return arguments


def _next(listener: socket.socket, pipe: int) -> tuple[socket.socket, Worker, list[int]]:
    """The next request. It ends this process with its driver."""
    sources: list[Any] = [listener, pipe]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if pipe in ready:
            os._exit(0)
        connection, _ = listener.accept()
        files: list[int] = []
        try:
            connection.settimeout(PATIENCE)
            size, files, _, _ = socket.recv_fds(connection, 4, 4)
            content = b""
            while len(content) < int.from_bytes(size, "big"):
                if not (part := connection.recv(1 << 16)):
                    raise EOFError
                content += part
            return connection, json.loads(content), files
        except (OSError, EOFError, ValueError):  # the client has died
            _let_go(connection, files)


def _answer(connection: socket.socket, files: Sequence[int], text: str) -> None:
    with contextlib.suppress(OSError):  # the client has died
        connection.sendall(text.encode())
    _let_go(connection, files)


def _let_go(connection: socket.socket, files: Sequence[int]) -> None:
    connection.close()
    for file in files:
        os.close(file)


def listening(place: str) -> socket.socket:
    """A socket that takes connections at a path."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(place)
    listener.listen(WAITING)
    return listener


def _load(modules: Sequence[str]) -> None:
    """Loads modules, and keeps what they made out of the garbage collector: its marks would copy the shared pages."""
    for name in modules:
        importlib.import_module(name)
    if threading.active_count() > 1:
        os._exit(1)  # a fork could wait for ever for a lock that a thread holds: workers load their modules themselves
    gc.collect()
    gc.freeze()


def main(arguments: Sequence[str]) -> None:
    """Serves, and in a fork runs Ray's worker in the place of this program."""
    pipe, listener, modules = arguments[:3]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries forks that have ended
    sys.argv = serve(socket.socket(fileno=int(listener)), modules.split(","), int(pipe))
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
