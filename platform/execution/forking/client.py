"""What Ray starts in the place of its own ``setup_worker.py``: asks the fork server for the worker, and ends.

A script of the standard library alone, for it runs once a worker. It becomes the worker itself, as Ray meant it, where
the server is gone, or has loaded its modules under other variables.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLACE = "FEDRECON_FORK_SERVER"
"""Environment: the socket of the fork server."""

LIMIT = 60.0
"""Seconds for an answer: a server that loads torch on a busy machine takes some."""

OPTIONS = ("--language=", "--serialized-runtime-env-context=")
"""Options for ``setup_worker.py``; the others are the worker's."""

PREFIXES = ("PYTHON", "LD_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "CUDA_", "TORCH_", "PYTORCH_")
"""Variables that a module may read when it is loaded. Under other values of them nothing is shared."""

LATE = "PYTHONBREAKPOINT"
"""Of these, what is read when a program halts. Ray sets it for its driver."""

FORKED = "forked"
"""The answer: the worker runs."""


def decisive(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables under which modules were loaded, and with which a worker has to agree."""
    return {key: value for key, value in environment.items() if key.startswith(PREFIXES) and key != LATE}


def forked(arguments: list[str]) -> bool:
    """Whether the fork server has started the worker."""
    place = os.environ.get(PLACE)
    wanted: dict[str, Any] = {}
    for one in arguments:
        if one.startswith(OPTIONS[1]):
            wanted = {key: value for key, value in json.loads(one.removeprefix(OPTIONS[1])).items() if value}
    if not place or wanted.pop("py_executable", sys.executable) != sys.executable or not {*wanted} <= {"env_vars"}:
        return False  # what needs more than variables (Ray's runtime_env) is started by Ray
    before = dict(os.environ)
    for key, value in wanted.get("env_vars", {}).items():
        os.environ[key] = os.path.expandvars(value)
    with contextlib.suppress(OSError, ValueError):
        if _ask(place, arguments) == FORKED:
            return True
    os.environ.clear()  # Ray's own script sets them: "${PATH}:more" would be extended twice
    os.environ.update(before)
    return False


def _ask(place: str, arguments: list[str]) -> str:
    """The server's answer. It gets the open files of this process, and with them its folder, which may have no name."""
    request = {
        "arguments": [one for one in arguments if not one.startswith(OPTIONS)],
        "environment": dict(os.environ),
        "nice": os.nice(0),
        "out_of_memory": Path("/proc/self/oom_score_adj").read_text(encoding="ascii").strip(),
    }
    content = json.dumps(request).encode()
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(LIMIT)
        connection.connect(place)
        socket.send_fds(connection, [len(content).to_bytes(4, "big")], [0, 1, 2, folder])
        connection.sendall(content)
        return connection.recv(256).decode()


if __name__ == "__main__" and not forked(sys.argv[1:]):
    import runpy

    import ray._private.workers

    sys.argv[0] = str(Path(ray._private.workers.__path__[0]) / "setup_worker.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
