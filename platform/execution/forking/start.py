"""The fork server of a driver: its start, a Ray whose workers come from it, and its end. See docs/decisions/035."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ray._private import services

from fedrecon.platform.execution.forking import client, server
from fedrecon.sites import debris

SWITCH = "FEDRECON_FORK"
"""Environment: with ``0`` each worker loads torch itself, as Ray starts it."""

SITE = ("fedrecon.sites.member.site", "fedrecon.sites.member.gate")
"""What the process of a member loads beside Ray: most of it is torch."""

LONGEST_PLACE = 107
"""Bytes that Linux takes for the path of a socket."""

TITLE = 256
"""Room for the title of a worker: a process can write it over its own arguments alone."""


class ForkServer:
    """A process that loads modules once, for all workers of the Rays that this process starts.

    Args:
        modules: what is loaded; none of it may import Ray.
    """

    def __init__(self, modules: Sequence[str] = SITE) -> None:
        with contextlib.ExitStack() as kept:
            self._place = str(kept.enter_context(debris.scratch()) / "fork")
            if len(os.fsencode(self._place)) > LONGEST_PLACE:
                raise OSError("the path of the folder for temporary files is too long for a socket")
            reading, self._pipe = os.pipe()
            kept.callback(os.close, self._pipe)
            with server.listening(self._place) as listener:
                given = [str(reading), str(listener.fileno()), ",".join(modules)]
                user = ["-s"] if sys.flags.no_user_site else []
                try:
                    self._process = subprocess.Popen(
                        [sys.executable, *user, "-P", "-m", server.__name__, *given, " " * TITLE],
                        pass_fds=(reading, listener.fileno()),
                        process_group=0,  # Ctrl-C and SIGTERM are for the driver, which ends it
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                finally:
                    os.close(reading)
            self._kept = kept.pop_all()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """A Ray that is started in the body has its workers forked."""
        private: Any = services
        start, before = private.start_raylet, os.environ.get(client.PLACE)

        def start_raylet(*arguments: Any, **options: Any) -> Any:
            return start(*map(_replaced, arguments), **{key: _replaced(value) for key, value in options.items()})

        private.start_raylet, os.environ[client.PLACE] = start_raylet, self._place
        try:
            yield
        finally:
            private.start_raylet = start
            os.environ.pop(client.PLACE)
            if before is not None:
                os.environ[client.PLACE] = before

    def close(self) -> None:
        """Ends the server. Its workers belong to Ray, and end with it."""
        self._process.kill()  # it may still load its modules, and hears of nothing until then
        self._process.wait()
        self._kept.close()


_server: ForkServer | None = None
"""The server of the Ray that this process has started."""


@contextlib.contextmanager
def forking(wanted: bool, modules: Sequence[str] = ()) -> Iterator[None]:
    """A Ray that is started in the body has its workers forked, until :func:`end`, or an error in the body.

    Without a server each worker loads its modules itself; nothing else is different.

    Args:
        wanted: False does nothing.
        modules: what the workers load beside what the process of a member does; none of it may import Ray.
    """
    global _server
    if not wanted or sys.platform != "linux" or os.environ.get(SWITCH) == "0":
        yield
        return
    end()
    try:
        _server = ForkServer((*SITE, *modules))
    except OSError:  # no room for a socket or a process: Ray will say it, if it matters
        yield
        return
    try:
        with _server.serving():
            yield
    except BaseException:
        end()
        raise


def end() -> None:
    """Ends the server of :func:`forking`, if there is one."""
    global _server
    if _server is not None:
        _server.close()
        _server = None


def own_threads() -> None:
    """Gives torch the number of threads that Ray has set for this worker, in a fork that had loaded torch before."""
    number = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if client.PLACE in os.environ and number.isdecimal():
        import torch

        torch.set_num_threads(int(number))


def _replaced(argument: Any) -> Any:
    """The client's path for the path of Ray's own script, else the argument."""
    own = isinstance(argument, str) and argument.endswith("/setup_worker.py")
    return str(Path(client.__file__)) if own else argument
