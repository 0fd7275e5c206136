"""Shards imported from files that carry a person's name."""

from pathlib import Path

import numpy as np
from tiny import make_volume

from fedrecon.sites.formats.importing import import_data

PERSON = "Hildegard-Muster"
"""A name that stands in a file name; it must be found nowhere else."""


def hospital(folder: Path, out: Path, key=None, people=(PERSON, "b", "c", "d")):
    """Files with a person's name, imported as a shard."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(people):
        volume = make_volume(name, "train", 2, 2, number)
        np.save(folder / f"{name}_scan.npy", volume.kspace)
    named = {"validation_subjects": [people[1]], "test_subjects": [people[2]]}
    return import_data("npy", folder, "ward", out, key=key, **named).path
