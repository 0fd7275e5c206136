"""Locks between processes (library ``filelock``). A lock ends with its process, even if the process is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedrecon.sites.errors import RunError


class BusyError(RunError):
    """Another process holds a lock."""


@contextmanager
def exclusive_lock(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock file ``path`` in the body; missing folders are made.

    Raises:
        BusyError: another process holds the lock; ``busy`` is the message.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BusyError(busy) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def waited_lock(path: Path, seconds: float) -> Iterator[None]:
    """Waits until the lock file ``path`` is free, and holds it in the body; missing folders are made.

    Raises:
        RunError: another process holds the lock for longer than ``seconds``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise RunError(f"another process holds {path} for more than {seconds:.0f} s") from None
    try:
        yield
    finally:
        lock.release()


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
