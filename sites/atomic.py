"""Atomic writes: a reader finds a complete file or none.

Each file is written under a temporary name in the same folder, synced (fsync) and renamed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedrecon.sites.debris import sweep_once, temporary_name
from fedrecon.sites.errors import DiskFullError, FedreconError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = tuple(f"{form}{code}" for code in _FULL for form in ("os error ", "errno = ", "Errno "))
"""safetensors and HDF5 give the number in their text only."""


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """The body writes ``path``, or files beside it.

    Raises:
        DiskFullError: the disk is full; any other error of the body passes unchanged.
    """
    try:
        yield
    except FedreconError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in _FULL or any(text in str(error) for text in _FULL_TEXTS):
            path = Path(getattr(error, "filename", None) or path)
            free = shutil.disk_usage(_existing(path)).free
            raise DiskFullError(path, free) from error
        raise


def _existing(path: Path) -> Path:
    """The nearest folder above ``path`` that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``. When the body ends, the file at the temporary path replaces ``path``.

    The rename is the commit. A process that is killed before it leaves ``path`` unchanged, and at most a hidden
    ``.*.tmp`` file that no reader opens and that the next process that writes in its folder sweeps
    (:mod:`fedrecon.sites.debris`). If the body raises, the temporary file is deleted. Missing folders are made.

    Raises:
        DiskFullError: the disk is full.
    """
    temporary = path.parent / temporary_name(path.name)
    try:
        with room_for(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep_once(path.parent)
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)  # noqa: PTH105 - the one call whose atomicity is documented
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some network file systems cannot sync a folder
        _sync(path.parent)


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one existing file, also through links."""
    return one.exists() and other.exists() and one.samefile(other)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` as UTF-8, atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def append(path: Path, text: str) -> None:
    """Adds text to the end of a file of this user, which nobody else may read. It follows no link, and opens no pipe.

    Raises:
        OSError: the file cannot be written, or is another user's.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123
        if os.fstat(file.fileno()).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it is another user's", str(path))
        file.write(text)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
