"""What a killed process leaves behind: temporary files and folders that carry its name, and are swept when it is dead.

The name is machine, process id and start of the process. So nothing of a living process is deleted, nothing of another
machine or container, and nothing of another program.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SWEPT: set[tuple[int, Path]] = set()
"""The folders that a process has swept, each with the number of the process: a fork begins anew."""
_NAME = re.compile(r"\.(?P<owner>[0-9a-f]{8}-\d+-\d+)\.[0-9a-f]{8}\.tmp(-journal|-wal|-shm)?$")


def temporary_name(name: str) -> str:
    """A hidden name for a temporary file or folder of this process."""
    return f".{name}.{owner()}.{uuid.uuid4().hex[:8]}.tmp"


def owner() -> str:
    """The name of this process: machine (and its container), process id and start."""
    return f"{_machine()}-{os.getpid()}-{_started(os.getpid())}"


def is_dead(name: str) -> bool:
    """Whether the process of this name (:func:`owner`) ran on this machine and has ended."""
    machine, process, started = name.split("-")
    return machine == _machine() and _started(int(process)) != int(started)


@contextmanager
def scratch(folder: Path | None = None) -> Iterator[Path]:
    """A folder for the body, in ``folder`` (None: the system's for temporary files). It is deleted afterwards.

    What dead processes left in ``folder`` is deleted first.
    """
    sweep_once(folder)
    path = (folder or Path(tempfile.gettempdir())) / temporary_name("fedrecon")
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sweep(folder: Path | None = None, deep: bool = False) -> list[Path]:
    """Deletes what dead processes of this user left in a folder.

    Args:
        folder: the folder; None is the system's folder for temporary files.
        deep: whether its sub-folders are swept too.

    Returns:
        what was deleted.
    """
    place = folder or Path(tempfile.gettempdir())
    swept = []
    for path in list((place.rglob if deep else place.glob)(".*.tmp*" if folder else ".fedrecon.*.tmp")):
        named = _NAME.search(path.name)
        with suppress(OSError):  # another process swept it first
            if named and path.lstat().st_uid == os.getuid() and is_dead(named["owner"]):
                remove(path)
                swept.append(path)
    return swept


def sweep_once(folder: Path | None = None) -> None:
    """Sweeps a folder when this process comes to it first: a look at a folder of thousands of files is not free."""
    key = os.getpid(), folder or Path(tempfile.gettempdir())
    if key not in _SWEPT:
        _SWEPT.add(key)
        sweep(folder)


def remove(path: Path) -> None:
    """Deletes a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _machine() -> str:
    space = Path("/proc/self/ns/pid")  # a container counts its processes itself
    known = f"{socket.gethostname()} {space.readlink() if space.is_symlink() else ''}"
    return hashlib.blake2b(known.encode(), digest_size=4).hexdigest()


def _started(process: int) -> int:
    """The start of a process in ticks since the machine's; -1 if there is no such process, 0 if nobody knows."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return -1
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return -1
    except OSError:
        return 0
    return 0
