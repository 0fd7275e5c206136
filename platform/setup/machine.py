"""What this machine has: cores, memory and GPUs."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from fedrecon.sites.sizes import size

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees: its name, and its whole and its free memory in bytes."""

    name: str
    memory: int
    free: int


@dataclass(frozen=True)
class Machine:
    """What a process of this machine may use.

    Attributes:
        cores: the number of CPU cores of this process, which may be fewer than the machine has.
        memory: bytes of memory that are free, within the limit of the container. gpus: the GPUs that torch sees.
    """

    cores: int
    memory: int
    gpus: tuple[Gpu, ...] = ()

    @classmethod
    def here(cls) -> Machine:
        """This machine. It loads torch."""
        import torch

        found = []
        for at in range(torch.cuda.device_count()):
            free, whole = torch.cuda.mem_get_info(at)
            found.append(Gpu(torch.cuda.get_device_name(at), whole, free))
        return cls(cores(), free_memory(), tuple(found))

    def __str__(self) -> str:
        gpus = ", ".join(f"{one.name} with {size(one.memory)}" for one in self.gpus) or "no GPU"
        return f"{self.cores} cores, {size(self.memory)} of free memory, {gpus}"


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that are free: of the machine, or of the container if that has less. 0 if nobody knows."""
    lines = _text(root / "proc/meminfo").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = root / "sys/fs/cgroup"
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, now = _text(group / limit).strip(), _text(group / used).strip()
        if most.isdigit() and now.isdigit():
            found.append(max(int(most) - int(now), 0))
    return min(found, default=0)


def driver_gpus(root: Path = Path("/")) -> int:
    """The number of GPUs that NVIDIA's driver shows, whether torch can use them or not."""
    folder = root / "proc/driver/nvidia/gpus"
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = path.absolute()
    return next((one for one in (path, *path.parents) if one.is_dir()), Path("/"))


def free_space(path: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(existing(path)).free


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The kind of the file system that holds the folder, such as ``ext4`` or ``nfs4``; empty if nobody knows."""
    folder, found = existing(path).resolve(), ("", "")
    for line in _text(mounts).splitlines():
        _, place, kind, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        if folder.is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, kind)
    return found[1]


def hdf5_folders(below: Path = Path("data")) -> list[Path]:
    """The folders that hold HDF5 files: ``data/``, or those one or two levels below it."""
    return sorted({path.parent for depth in ("", "*/", "*/*/") for path in below.glob(f"{depth}*.h5")})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return ""
