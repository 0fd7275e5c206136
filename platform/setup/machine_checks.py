"""The doctor's checks of the machine: Python and its packages, GPUs, memory, disks, shared memory, ports."""

from __future__ import annotations

import errno
import os
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path

from fedrecon.platform.setup.finding import Finding, Status, judged
from fedrecon.platform.setup.machine import (
    GIB,
    cores,
    driver_gpus,
    existing,
    file_system,
    free_memory,
    free_space,
)
from fedrecon.platform.storage.locks import exclusive_lock
from fedrecon.sites import debris
from fedrecon.sites.errors import cause_of
from fedrecon.sites.sizes import size

LOW_DISK, LITTLE_DISK = GIB // 2, 5 * GIB
"""Free bytes of a disk below which a run breaks off soon, and below which a sweep does."""

LITTLE_MEMORY = 2 * GIB
"""Free memory below which the processes of a few sites do not fit: each takes about 0.5 GiB before it has any data."""

LITTLE_SHARED = GIB
"""Bytes of shared memory below which Ray keeps its objects on the disk. A container has 64 MiB unless it is told."""

FULL = 0.95
"""The part of a disk above which Ray writes no more objects to it."""

NETWORK_DISKS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "fuse.glusterfs"}
"""File systems of a network, on which SQLite's locks between machines cannot be trusted."""

SHOWN = ("torch", "ray", "mlflow", "numpy", "h5py", "pyarrow")
"""The packages whose versions are always shown, and which are loaded."""

UI_PORT = 5000


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Finding]:
    """Python's version, and where it is."""
    given = ".".join(map(str, version))
    wrong = "" if version >= (3, 11) else f"Python {given} is too old"
    found = f"fedrecon {metadata.version('fedrecon')}, Python {given}, {sys.executable}"
    yield judged("python", wrong, found, "fedrecon needs Python 3.11 or newer: make a new environment with it")


def check_packages(needed: Sequence[str] | None = None) -> Iterator[Finding]:
    """Whether each package is there in a version that fits, and whether the large ones load.

    Args:
        needed: requirements, as in ``pyproject.toml``; None takes those of fedrecon.
    """
    from packaging.requirements import Requirement

    lines = needed if needed is not None else (metadata.requires("fedrecon") or ())
    wrong, advice, versions = [], [], {}
    for one in map(Requirement, lines):
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            versions[one.name] = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            advice.append(f"'{one.name}{one.specifier}'")
            continue
        if not one.specifier.contains(versions[one.name], prereleases=True):
            wrong.append(f"{one.name} {versions[one.name]} does not fit {one.specifier}")
            advice.append(f"'{one.name}{one.specifier}'")
    shown = ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)
    yield judged("packages", "; ".join(wrong), shown or "none is needed", f"pip install {' '.join(advice)}")
    for name in SHOWN:
        if name in versions and name != "mlflow":  # it takes seconds, and is Python alone
            try:
                import_module(name)
            except Exception as error:  # noqa: BLE001 - a library that does not fit raises anything
                yield Finding("packages", "wrong", f"{name} does not load: {cause_of(error)}", f"install {name} anew")


def check_gpus(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """The GPUs that torch sees, and whether each of them computes."""
    import torch

    there, hidden = driver_gpus(root), environment.get("CUDA_VISIBLE_DEVICES")
    seen = torch.cuda.device_count()
    for at in range(seen):
        free, whole = torch.cuda.mem_get_info(at)
        name = f"{torch.cuda.get_device_name(at)}, {size(free)} of {size(whole)} free"
        try:
            total = float(torch.ones(2, device=f"cuda:{at}").sum())
            wrong = "" if total == 2 else f"{name}: 1 + 1 gives {total:g}"
        except RuntimeError as error:
            wrong = f"{name}: {cause_of(error)}"
        advice = f"install a build of torch for this GPU (this one is for CUDA {torch.version.cuda}), or restart it"
        yield judged("gpu", wrong, name, advice)
    if seen:
        return
    if not there:
        yield Finding("gpu", "ok", "none: sites train on the CPU")
    elif hidden is not None:
        found = f"the driver shows {there}, and CUDA_VISIBLE_DEVICES='{hidden}' hides them"
        yield Finding("gpu", "warning", found, "unset CUDA_VISIBLE_DEVICES, if the sites shall train on a GPU")
    else:
        build = (
            f"torch {torch.__version__} is a build for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPUs'}"
        )
        found = f"the driver shows {there}, and torch sees none ({build})"
        yield Finding("gpu", "wrong", found, "install the build of torch that fits the driver: https://pytorch.org")


def check_memory(free: int | None = None) -> Iterator[Finding]:
    """Cores and free memory."""
    free = free_memory() if free is None else free
    found = f"{cores()} cores, {size(free)} of memory are free"
    few = 0 < free < LITTLE_MEMORY
    advice = "close other programs, or use --in-process: all sites then share one process"
    yield Finding("memory", "warning" if few else "ok", found, advice if few else "")


def check_disks(workspace: Path, mounts: Path = Path("/proc/mounts")) -> Iterator[Finding]:
    """The disk of the workspace, and that of temporary files: space, the right to write, locks."""
    temporary = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    for what, folder, advice in (
        ("workspace", workspace, "choose another folder with --workspace or FEDRECON_WORKSPACE"),
        ("temporary files", temporary, "set TMPDIR (and RAY_TMPDIR) to another folder"),
    ):
        yield _disk(what, folder, advice)
    if (kind := file_system(workspace, mounts)) in NETWORK_DISKS:
        found = f"the workspace is on {kind}: SQLite's locks do not hold between machines there"
        yield Finding("disk", "warning", found, "several machines at once need an MLflow server: --tracking-uri")


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Whether Ray's objects and the messages of large networks have shared memory."""
    if not folder.is_dir():
        yield Finding("shared memory", "warning", f"there is no {folder}", "Ray is slower without it")
        return
    free = free_space(folder)
    found = f"{size(free)} are free in {folder}"
    advice = (
        "Ray then keeps its objects on the disk; start a container with --shm-size=8g" if free < LITTLE_SHARED else ""
    )
    if hasattr(os, "memfd_create"):
        try:
            os.close(os.memfd_create("fedrecon"))
        except OSError as error:
            advice = advice or f"memfd_create is refused ({error.strerror}): messages go through Ray's store, slower"
    yield Finding("shared memory", "warning" if advice else "ok", found, advice)


def check_ports(ui_port: int = UI_PORT) -> Iterator[Finding]:
    """Whether this machine can talk to itself, and whether the port of ``fedrecon ui`` is free."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=2).close()
        wrong = ""
    except OSError as error:
        wrong = f"a connection of this machine to itself fails: {error}"
    try:
        socket.create_server(("127.0.0.1", ui_port)).close()
        port = f"port {ui_port} of fedrecon ui is free"
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        port = f"port {ui_port} is {'taken' if taken else 'refused'}, so fedrecon ui takes another one"
    yield judged(
        "ports", wrong, f"127.0.0.1 answers; {port}", "is a firewall, or the sandbox of a batch system, in the way?"
    )
    proxies = urllib.request.getproxies()
    if "http" in proxies and not urllib.request.proxy_bypass("127.0.0.1"):
        found = f"HTTP to this machine goes through the proxy {proxies['http'].rpartition('@')[2]}"
        yield Finding(
            "ports", "warning", found, "export no_proxy=127.0.0.1,localhost, else a local MLflow is not found"
        )


def _disk(what: str, folder: Path, elsewhere: str) -> Finding:
    place = existing(folder)
    try:
        with debris.scratch(place) as scratch, exclusive_lock(scratch / "lock", "locked"):
            pass
    except OSError as error:
        return Finding("disk", "wrong", f"{what}: {place} cannot be written ({error.strerror or error})", elsewhere)
    free = free_space(place)
    found = f"{what}: {size(free)} are free in {place}" + ("" if place == folder.absolute() else f" (for {folder})")
    status: Status = "wrong" if free < LOW_DISK else "warning" if free < LITTLE_DISK else "ok"
    if status != "ok":
        return Finding("disk", status, found, f"make room there, or {elsewhere}")
    usage = os.statvfs(place)
    if what == "temporary files" and usage.f_bavail < (1 - FULL) * usage.f_blocks:
        return Finding(
            "disk",
            "warning",
            f"{found}, and the disk is over {FULL:.0%} full",
            f"Ray writes no objects to such a disk: make room there, or {elsewhere}",
        )
    return Finding("disk", "ok", found)
