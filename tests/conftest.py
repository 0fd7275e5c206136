import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the number of threads decides the last bits

from tiny import write_consortium


@pytest.fixture(scope="session")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shards of three tiny sites (see ``tiny.py``), written once; nobody may change them."""
    return write_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with an empty MLflow store, to be copied from: a fresh one costs seconds of migrations."""
    from fedrecon.platform.storage.tracking.store import run_store

    workspace = tmp_path_factory.mktemp("mlflow-template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run_store(None, workspace)
        yield workspace


@pytest.fixture(scope="session")
def mlflow_workspace(mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a store that tests write into, each under names of its own."""
    workspace = tmp_path_factory.mktemp("mlflow")
    shutil.copy(mlflow_template / "mlflow.db", workspace / "mlflow.db")
    return workspace
