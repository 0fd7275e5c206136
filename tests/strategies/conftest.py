"""What the tests of strategies share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrecon.sites.data.shard import Shard, open_sealed
from fedrecon.sites.data.stamp import Stamp


@pytest.fixture(scope="session")
def opened() -> dict[tuple[Path, Stamp], Shard]:
    return {}


@pytest.fixture(scope="module", autouse=True)
def a_shard_is_opened_once(opened: dict[tuple[Path, Stamp], Shard]) -> Iterator[None]:
    """Here sites are made by the hundred over the same files, and reading those is no matter of a strategy."""

    def once(path: Path | str) -> Shard:
        key = (Path(path).absolute(), Stamp.of(Path(path).absolute()))
        if key not in opened:
            opened[key] = open_sealed(path)
        return opened[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedrecon.sites.member.site.open_sealed", once)
        yield
