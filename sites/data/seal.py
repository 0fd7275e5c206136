"""The seal of a shard: its attribute ``content_hash`` is compared with the content, and written anew on request."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from fedrecon.sites import atomic
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.data.shard_writer import content_hash
from fedrecon.sites.data.volume import check_volume
from fedrecon.sites.errors import InputError

_SETTLED_NS = 2 * 10**9
"""A file that changed so shortly before it was hashed is not cached: a later change could have the same time."""


class Stamp(NamedTuple):
    """What tells a changed file without reading it: device, inode, size, and times of the last change in ns."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of the file ``path``.

        Raises:
            InputError: there is no such file, or it cannot be seen.
        """
        try:
            found = path.stat()
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such file.") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}.") from None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def open_sealed(path: Path | str) -> Shard:
    """The shard at ``path``, whose content is what its attribute says.

    All data are read once. The hash is then kept in the user's cache folder for as long as the file's stamp stays the
    same, so a second opening reads labels only.

    Raises:
        InputError: see :meth:`Shard.open` and :meth:`Shard.check_hash`, or the file changed while it was read.
    """
    stamp = Stamp.of(Path(path).absolute())
    shard = Shard.open(path)
    if _cached(stamp) != shard.content_hash:
        start = time.time_ns()
        shard.check_hash()
        if Stamp.of(shard.path) != stamp:
            raise InputError(f"{shard.path}: it was changed while it was read; try again when nobody writes to it.")
        if max(stamp.modified_ns, stamp.changed_ns) + _SETTLED_NS < start:
            _note(stamp, shard.content_hash)
    return shard


def seal(path: Path | str) -> tuple[str, str]:
    """Writes the attributes of the shard at ``path`` that follow from its data: content hash, maxima and norms.

    The file is copied beside itself and replaced, so that a reader finds the old shard or the new one.

    Returns:
        the content hash before, and the one of the content. If they and the maxima are the same, nothing is written.

    Raises:
        InputError: see :meth:`Shard.open` and :func:`check_volume`, or the file cannot be written.
    """
    shard = Shard.open(path)
    digests, changed = {}, {}
    for volume in shard.volumes:
        data = shard.data(volume.name)
        try:
            check_volume(data)
        except InputError as error:
            raise InputError(f"{shard.path}: {error}") from None
        digests[volume.name] = data.digest()
        about = data.about()
        maximum = about.maximum
        if about.truth_maximum != volume.truth_maximum:
            changed[volume.name] = {"truth_max": about.truth_maximum}
        if maximum != volume.maximum:
            norm = 0.0 if data.reference is None else float(np.linalg.norm(data.reference.astype(np.float64)))
            changed[volume.name] = {**changed.get(volume.name, {}), "max": maximum, "norm": norm}
    found = content_hash(shard.site, shard.contrast, shard.simulated, shard.phase, digests)
    if found != shard.content_hash or changed:
        try:
            with atomic.replacing(shard.path.resolve()) as temporary:
                shutil.copy(shard.path, temporary)
                with h5py.File(temporary, "r+", locking=False) as file:
                    file.attrs["content_hash"] = found
                    for name, labels in changed.items():
                        file[name].attrs.update(labels)
        except OSError as error:
            raise InputError(f"{shard.path}: cannot be written: {error}") from None
    return shard.content_hash, found


def _cached(stamp: Stamp) -> str | None:
    """The content hash that was computed for a file of this stamp; a claim, which a user can delete at any time."""
    with contextlib.suppress(OSError, RuntimeError, ValueError, KeyError, TypeError):
        entry = json.loads(_entry(stamp).read_text(encoding="utf-8"))
        if entry["stamp"] == list(stamp):
            return str(entry["content_hash"])
    return None


def _note(stamp: Stamp, found: str) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # no home, or a full disk: the next opening reads all data again
        atomic.write_json(_entry(stamp), {"stamp": list(stamp), "content_hash": found})


def _entry(stamp: Stamp) -> Path:
    given = os.environ.get("FEDRECON_CACHE")
    home = os.environ.get("XDG_CACHE_HOME")
    folder = Path(given) if given else (Path(home) if home else Path.home() / ".cache") / "fedrecon"
    return folder / "seals" / f"{stamp.device}-{stamp.inode}.json"
