"""One scan under two names: volumes with one image, of two subjects in two splits. It would train and be tested.

A subject of one id in two splits is found by its id. A person with two ids has nothing but the image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fedrecon.sites.data.shard import Shard
    from fedrecon.sites.data.volume import Volume


def scans_in_two_splits(shards: Iterable[tuple[str, Shard]]) -> Iterator[str]:
    """One message for each such volume, from the labels alone: no image is read, and none leaves its site.

    Two images of one size whose maximum and norm are equal to the last bit are taken for the same one.

    Args:
        shards: names of sites, each with its shard.
    """
    labelled = ((site, volume) for site, shard in shards for volume in shard.volumes if volume.norm)
    return _problems((site, one, (one.norm, one.maximum, one.n_slices, one.shape)) for site, one in labelled)


def unlabelled_scans_in_two_splits(shards: Iterable[tuple[str, Shard]]) -> Iterator[str]:
    """The same for volumes whose labels have no norm, because they have no reference: their data are compared.

    Args:
        shards: names of sites, each with its shard.
    """

    def content(shard: Shard, volume: Volume) -> str:
        found = hashlib.sha256()
        for one in shard.stored(volume.name, "reference" if volume.has_reference else "kspace"):
            found.update(np.ascontiguousarray(one).data)
        return found.hexdigest()

    unlabelled = ((site, shard, volume) for site, shard in shards for volume in shard.volumes if not volume.norm)
    return _problems((site, volume, content(shard, volume)) for site, shard, volume in unlabelled)


def _problems(images: Iterable[tuple[str, Volume, Any]]) -> Iterator[str]:
    """What is wrong with these volumes, each with its site and what is equal for equal images."""
    known: dict[Any, tuple[str, Volume]] = {}
    for site, volume, image in images:
        where, other = known.setdefault(image, (site, volume))
        if other.split != volume.split and other.subject != volume.subject:
            yield (
                f"the volumes '{other.name}' (site '{where}', split '{other.split}') and '{volume.name}' (site "
                f"'{site}', split '{volume.split}') hold the same image, and are of two subjects: one scan under two "
                "names. Import it once, or both with one subject (--subjects-from)."
            )
