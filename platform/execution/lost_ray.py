"""Whether Ray still answers. Its own processes can end, or stop, while a run waits for its sites."""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

import ray

from fedrecon.platform.config.address import no_answer
from fedrecon.platform.execution import last_word
from fedrecon.platform.execution.forking.start import end
from fedrecon.sites.errors import RunError, tell
from fedrecon.sites.phases import phase

LOOK = 5.0
"""Time in seconds between two looks, and for Ray's control store to take a connection."""

PATIENCE = 20.0
"""Time in seconds for Ray's control store to answer: a process that is stopped still takes connections."""

SHUTDOWN = 30.0
"""Time in seconds for a Ray that is not known to be lost to end."""

_NEEDED = {"gcs_server": "control store", "raylet": "raylet"}
"""Without these processes Ray answers no more, and ends the driver without a word within a minute."""


def ended() -> str | None:
    """The name of a needed process that this process started and that has ended; None if there is none."""
    return next((_NEEDED[name] for name, one in _started() if one.poll() is not None), None)


def check_ray(own: bool = False) -> None:
    """Looks whether the cluster of this process still answers.

    Args:
        own: looks only at the processes that this process started, which takes microseconds.

    Raises:
        RunError: it is lost: no call will be answered, and Ray will end this process without a word.
    """
    if (why := _own_lost() if own else _why_lost()) is not None:
        raise RunError(f"Ray is lost: {why}. The same command goes on from the last committed round")


def put(value: Any) -> Any:
    """Puts a value into Ray's store, like ``ray.put``, which waits for ever for a raylet that is stopped.

    Raises:
        RunError: Ray is lost.
    """
    return answered(lambda: ray.put(value))


def answered(ask: Callable[[], Any]) -> Any:
    """What ``ask`` returns, which waits for ever if the process of Ray that it asks is stopped.

    Raises:
        RunError: Ray is lost.
    """
    future = _begun(ask)
    if not wait([future], LOOK).done:
        with phase("waiting for Ray"):
            while not wait([future], LOOK).done:
                check_ray()
    return future.result()


def kill(actor: Any, no_restart: bool = True) -> None:
    """Kills an actor, like ``ray.kill``, which waits for ever for a raylet that is stopped: this waits a while."""
    _within(LOOK, lambda: ray.kill(actor, no_restart=no_restart))


def shutdown() -> None:
    """Disconnects from Ray, and ends the cluster that this process started with all of its actors.

    Of a lost Ray the processes are killed when this process ends, and not before it has said its last word: without a
    raylet Ray ends it with exit code 1. A Ray that does not end is killed too; a stopped raylet would be waited for.
    """
    if ray.is_initialized():
        with phase("ending Ray"):
            try:
                _shut_down()
            finally:
                end()


def _shut_down() -> None:
    if _why_lost() is not None:
        atexit.register(_end_lost)
        return
    late = threading.Timer(SHUTDOWN, _kill_late)
    late.daemon = True
    late.start()
    try:
        with own_handler_kept():
            ray.shutdown()
    finally:
        late.cancel()
    last_word.goodbye()


@contextlib.contextmanager
def own_handler_kept() -> Iterator[None]:
    """Keeps the handler of SIGTERM that this process has.

    When Ray starts, it puts its own into the place, which exits with code 15. When it ends, its C++ part sets the
    system's default behind Python's back: the process would die without a word.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _kill_late() -> None:
    tell(f"Ray has not ended within {SHUTDOWN:.0f} s and is killed; the same command goes on if this one ends with it")
    _kill_started()


def _end_lost() -> None:
    last_word.goodbye()
    _kill_started()


def _kill_started() -> None:
    for _, one in _started():
        one.kill()


def _own_lost() -> str | None:
    return None if (name := ended()) is None else f"the {name} of this machine has ended"


def _why_lost() -> str | None:
    worker: Any = ray._private.worker.global_worker
    if (client := getattr(worker, "gcs_client", None)) is None:
        return None
    if (why := _own_lost()) is not None:
        return why
    host, _, port = client.address.rpartition(":")
    if (reason := no_answer(host.strip("[]"), int(port), LOOK)) is not None:
        return f"the control store at {client.address} does not answer ({reason})"
    here = ray.get_runtime_context().get_node_id()
    table: Any = None if client.address in _silent else _within(PATIENCE, ray.nodes)
    if table is None:
        _silent.add(client.address)
        return f"the control store at {client.address} gives no answer"
    if any(one["NodeID"] == here and not one["Alive"] for one in table):
        return "the raylet of this machine does not answer, and the control store holds the machine for dead"
    return None


_silent: set[str] = set()
"""Addresses of control stores that took a connection and did not answer: nobody waits for them again."""


def _within(seconds: float, ask: Callable[[], Any]) -> Any:
    """What ``ask`` returns, which may wait for ever; None if it does not return in time, or raises."""
    with contextlib.suppress(Exception):  # Ray raises anything
        return _begun(ask).result(seconds)
    return None


def _begun(ask: Callable[[], Any]) -> Future[Any]:
    """Calls ``ask`` in a thread that nobody has to wait for."""
    future: Future[Any] = Future()

    def answer() -> None:
        try:
            future.set_result(ask())
        except Exception as error:  # noqa: BLE001 - who waits gets it
            future.set_exception(error)

    threading.Thread(target=answer, daemon=True).start()
    return future


def _started() -> Iterator[tuple[str, Any]]:
    node = getattr(ray._private.worker, "_global_node", None)  # not public in Ray; without it nothing is known
    for name in _NEEDED:
        for one in getattr(node, "all_processes", {}).get(name, ()):
            yield name, one.process


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A process that connects to Ray in the body shows none of the paragraphs of Ray's own processes.

    When a worker dies, Ray prints a paragraph, and for its raylet 60 lines of logs, though the driver is to be silent
    (``log_to_driver``). A run says in its own words what happened to whom; Ray's logs have the rest.
    """
    worker: Any = ray._private.worker  # not public in Ray; without this function Ray is as loud as it likes
    if (before := getattr(worker, "listen_error_messages", None)) is None:
        yield
        return
    worker.listen_error_messages = lambda *_: None
    try:
        yield
    finally:
        worker.listen_error_messages = before
