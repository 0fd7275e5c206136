"""Locks between processes, by the library ``filelock``: they end with their process, whatever ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedrecon.sites.errors import RunError


@contextmanager
def exclusive_lock(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock file ``path`` in the body; missing folders are made.

    Raises:
        RunError: another process holds it; ``busy`` is the message.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunError(busy) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def waited_lock(path: Path) -> Iterator[None]:
    """Holds the lock file ``path`` in the body, after the processes that came first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, thread_local=False):
        yield


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock file ``path``."""
    if not path.is_file():
        return False
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False
