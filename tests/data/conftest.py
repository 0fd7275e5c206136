"""A shard of small volumes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_volumes import make_volume

from fedrecon.sites.data.shard import VolumeData, write_shard


@pytest.fixture
def make_shard(tmp_path: Path) -> Callable[..., Path]:
    """Writes a shard of three subjects (train, validation, test), or of the volumes given."""

    def write(site: str = "north", *volumes: VolumeData, **attributes: object) -> Path:
        path = tmp_path / f"{site}.h5"
        default = (
            make_volume("a_1", "a", "train", coils=2),
            make_volume("b_1", "b", "validation", coils=2, ny=30, seed=1),
            make_volume("c_1", "c", "test", coils=2, slices=2, seed=2),
        )
        write_shard(path, site, volumes or default, **{"simulated": True, "phase": "none", **attributes})
        return path

    return write
