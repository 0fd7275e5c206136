"""Writes the seal of a shard anew, after a change that was meant."""

from __future__ import annotations

import shutil
from math import isclose
from pathlib import Path

import h5py

from fedrecon.sites import atomic
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.data.shard_file import reading
from fedrecon.sites.data.shard_writer import attributes_hash, content_hash, norm_of
from fedrecon.sites.data.splits import NORM
from fedrecon.sites.data.volume import check_volume
from fedrecon.sites.errors import InputError


def seal(path: Path | str, dry_run: bool = False) -> tuple[str, str]:
    """Writes the attributes of the shard at ``path`` that follow from its data: content hash, maxima and norms.

    It then seals all attributes (``attributes_hash``), also of a shard that was written without that seal.

    The file is copied beside itself and replaced, so that a reader finds the old shard or the new one. A dry run
    computes the hash and writes nothing.

    Returns:
        the content hash before, and the one of the content. If all that is written would be the same, nothing is.

    Raises:
        InputError: see :meth:`Shard.open` and :func:`check_volume`, or the file cannot be written.
    """
    shard = Shard.open(path)
    digests, changed = {}, {}
    for volume in shard.volumes:
        data = shard.unread(volume.name)
        try:
            check_volume(data)
        except InputError as error:
            raise InputError(f"{shard.path}: {error}") from None
        digests[volume.name] = data.digest()
        about = data.about()
        labels = {}
        if about.truth_maximum != volume.truth_maximum:
            labels["truth_max"] = about.truth_maximum
        if about.maximum != volume.maximum:
            labels["max"] = about.maximum
        if not isclose(norm := norm_of(data), volume.norm, rel_tol=NORM):  # another processor has other last bits
            labels["norm"] = norm
        changed.update({volume.name: labels} if labels else {})
    found = content_hash(shard.site, shard.contrast, shard.simulated, shard.phase, digests)
    with reading(shard.path) as file:
        stale = attributes_hash(file) != shard.attributes_hash
    if not dry_run and (found != shard.content_hash or changed or stale):
        try:
            with atomic.replacing(shard.path.resolve()) as temporary:
                shutil.copy(shard.path, temporary)
                with h5py.File(temporary, "r+", locking=False) as file:
                    file.attrs["content_hash"] = found
                    for name, labels in changed.items():
                        file[name].attrs.update(labels)
                    file.attrs["attributes_hash"] = attributes_hash(file)
        except OSError as error:
            raise InputError(f"{shard.path}: cannot be written: {error}") from None
    return shard.content_hash, found
