import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import PATIENCE_WITH_RAY, end_local_cluster

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the number of threads decides the last bits
os.environ["FEDRECON_RAISE"] = "1"  # an error that nobody expected is a defect, and no line on stderr
# Ray gives its workers nice 15. Beside processes that compute they would get no processor, and tests would time out.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray ends a driver whose control store is silent for 60 s with exit(1), and the tests of a whole worker with it. After
# the timeout of a test (300 s) it is too late for that: a lost cluster is one failed test.
os.environ.setdefault(PATIENCE_WITH_RAY, "600")

from tiny import write_consortium

from fedrecon.sites import atomic

MEMORY, ROOM = Path("/dev/shm"), 4 << 30
"""Where temporary files go if so many bytes are free; ``PYTEST_DEBUG_TEMPROOT`` says otherwise.

Thousands of commits would else wait for a disk, and a process that is killed loses nothing that the kernel has.
"""


def in_memory() -> Path | None:
    """A folder in memory for this session. The folders of sessions that ended, which had failures, go first."""
    if "PYTEST_DEBUG_TEMPROOT" in os.environ or not MEMORY.is_mount():
        return None
    for left in MEMORY.glob("fedrecon-tests-*"):
        if not Path("/proc", left.name.rpartition("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    if shutil.disk_usage(MEMORY).free < ROOM:
        return None
    (folder := MEMORY / f"fedrecon-tests-{os.getpid()}").mkdir()
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
    return folder


TEMPORARY = in_memory()
"""Of the workers of a session it is None: they get their folders from the session."""


def pytest_sessionfinish(exitstatus: int) -> None:
    """What a session without failures wrote to memory is deleted."""
    if TEMPORARY is not None and not exitstatus:
        shutil.rmtree(TEMPORARY, ignore_errors=True)


WAITING = ("ray", "kill", "server")
"""The marks of tests that wait more than they compute, in the order in which their files come."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait for Ray, for processes or for servers come first, in this order; then those with the most tests.

    So no worker is left alone with a long file at the end, and the files that share a Ray follow each other: a file
    without Ray between them would end it.
    """
    counts = Counter(item.path for item in items)
    ranks = dict.fromkeys(counts, len(WAITING))
    for item in items:
        found = [rank for rank, mark in enumerate(WAITING) if item.get_closest_marker(mark)]
        ranks[item.path] = min([ranks[item.path], *found])
    items.sort(key=lambda item: (one := ranks[item.path], -counts[item.path] if one == len(WAITING) else 0))


@pytest.fixture(scope="session", autouse=True)
def ray_ends_with_the_session() -> Iterator[None]:
    yield
    end_local_cluster()


@pytest.fixture(scope="session")
def files_with_ray(request: pytest.FixtureRequest) -> set[Path]:
    return {item.path for item in request.session.items if item.get_closest_marker("ray")}


@pytest.fixture(scope="module", autouse=True)
def ray_is_for_those_who_ask(request: pytest.FixtureRequest, files_with_ray: set[Path]) -> None:
    """A Ray that an earlier file left running ends before a file without a test that is marked ``ray``."""
    if request.path not in files_with_ray:
        end_local_cluster()


@pytest.fixture(scope="session", autouse=True)
def seals_are_noted_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the user's own cache."""
    os.environ["FEDRECON_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shards of three tiny sites (see ``tiny.py``), written once; nobody may change them."""
    return write_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture(scope="module")
def few_drawn() -> Iterator[None]:
    """Of a prior 16 images are drawn and compared, not 128: they take most of the time of a training that is scored.

    For the files that ask for it. Sites in processes of their own draw all.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedrecon.sites.scoring.prior_distance.COUNT", 16)
        yield


@pytest.fixture(scope="module")
def no_pixels() -> Iterator[None]:
    """For files of whose pictures no pixel is looked at: see ``plain_pictures.py``."""
    from plain_pictures import plain_pictures

    with plain_pictures():
        yield


@pytest.fixture(scope="session", autouse=True)
def stores_are_copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An MLflow store that a test makes is a copy of an empty one: a new one costs a second and more of migrations.

    The workers of one run share it: the first that needs it makes it, the others wait.
    """
    from fedrecon.platform.storage.tracking import mlflow_store

    base, real = tmp_path_factory.getbasetemp(), mlflow_store.create_database
    empty = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "empty-store"
    empty.mkdir(exist_ok=True)

    def create_database(path: Path, artifacts: Path) -> None:
        if path.exists():
            return
        with (empty / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            real(empty / "mlflow.db", empty / "artifacts")
        place = f"{artifacts.as_uri()}/0"
        with atomic.replacing(path) as temporary:
            shutil.copy(empty / "mlflow.db", temporary)
            with contextlib.closing(sqlite3.connect(temporary)) as store, store:
                store.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0", (place,))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_store, "create_database", create_database)
        yield


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an empty MLflow store, to be copied from."""
    from fedrecon.platform.storage.tracking.store import run_store

    workspace = tmp_path_factory.mktemp("mlflow-template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run_store(None, workspace)
    return workspace


@pytest.fixture(scope="module")
def workspace(mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace for the tests of one file. Its empty store is a copy."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copy(mlflow_template / "mlflow.db", folder / "mlflow.db")
    return folder


@pytest.fixture(scope="session")
def mlflow_workspace(mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a store that tests write into, each under names of its own."""
    workspace = tmp_path_factory.mktemp("mlflow")
    shutil.copy(mlflow_template / "mlflow.db", workspace / "mlflow.db")
    return workspace
