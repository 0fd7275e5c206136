from pathlib import Path

import pytest
from tiny import write_consortium


@pytest.fixture(scope="session")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shards of three tiny sites (see ``tiny.py``), written once; nobody may change them."""
    return write_consortium(tmp_path_factory.mktemp("consortium"))
