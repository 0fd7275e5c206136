"""Runs recorded in MLflow. Only this file imports MLflow, and only inside functions (the import takes 2 s).

The default store is an SQLite file in the workspace. It is made completely under a temporary name and then renamed,
under a file lock. Without this, four processes that make a new store together, or one process that is killed while it
makes one, leave a file that never opens again. A damaged file is renamed, and a new one is made.

MLflow itself tries for minutes when its server is gone. Here a call fails within seconds, and the sender tries again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedrecon.platform.storage.journal import DatasetRecord, Ended
from fedrecon.platform.storage.locks import waited_lock
from fedrecon.platform.storage.tracking.address import DATABASE, SQLITE, check_reachable, public, tracking_uri
from fedrecon.platform.storage.tracking.entities import TAG_DIGEST, Logged, Point, RunInfo, own_key, stored_key
from fedrecon.platform.storage.tracking.models import log_datasets, log_model, register
from fedrecon.platform.storage.tracking.pictures import log_picture, logged
from fedrecon.platform.storage.tracking.quiet import quiet
from fedrecon.platform.storage.tracking.sqlite_file import damage, other_place, set_aside
from fedrecon.platform.storage.tracking.tracker import (
    TAG_SUPERSEDED,
    BufferedTracker,
    RunStore,
)
from fedrecon.sites import atomic
from fedrecon.sites.errors import InputError, RunError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ARTIFACTS = "artifacts"
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""How long a call of MLflow tries, in seconds and times. A variable that the user has set keeps its value."""

_TALKATIVE = ("mlflow.store.db.utils", "urllib3.connectionpool", "mlflow.utils.rest_utils")
"""Loggers that print a traceback or a line for each call that fails. The sender says it once."""

_MAX_POINTS = 1000  # the most that MLflow takes in one batch
_MAX_TEXTS = 100
_MAX_PARAM = 6000
_T = TypeVar("_T")
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
_CHECKED = 64 * 2**20
"""Bytes up to which the workspace's own SQLite file is read through at each start (about 0.1 s)."""


class MlflowStore(RunStore):
    """The runs at an MLflow tracking URI.

    Args:
        uri: ``sqlite:///FILE``, ``http(s)://HOST`` or a database that MLflow knows. None takes the environment variable
            MLFLOW_TRACKING_URI, and if that is not set, ``mlflow.db`` in the workspace.
        workspace: folder of the default store, its artifacts and the lock.

    Raises:
        InputError: the URI cannot hold runs, or the server does not answer.
    """

    def __init__(self, uri: str | None, workspace: Path) -> None:
        self.workspace = workspace.absolute()
        self.uri = tracking_uri(uri, self.workspace)
        self.workspace.mkdir(parents=True, exist_ok=True)
        self._file = Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None
        self.client = self._connect()
        self._names: dict[str, str] = {}

    @property
    def local(self) -> bool:
        """See :class:`RunStore`."""
        return self._file is not None

    @property
    def own(self) -> bool:
        """See :class:`RunStore`."""
        return self._file == self.workspace / DATABASE

    def _connect(self) -> MlflowClient:
        check_reachable(self.uri, self.workspace)
        os.environ.update(ENVIRONMENT)
        for key, value in PATIENCE.items():
            os.environ.setdefault(key, value)
        with _third_party_warnings():
            from mlflow import MlflowClient

            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            if self._file:
                self.mended = self._prepare(self._file.exists() and self._file.stat().st_size <= _CHECKED)
            return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _prepare(self, check: bool) -> str | None:
        """Makes the SQLite file if it is missing. Says it, if a damaged or copied one was set aside for that.

        Raises:
            InputError: a file that is not the workspace's own is damaged; nobody but its owner may rename it.
        """
        assert self._file is not None
        said = None
        with self._exclusive():
            if check and self._file.exists() and (why := damage(self._file)) is not None:
                if not self.own:
                    raise InputError(f"'{self._file}' is not an SQLite database that MLflow can use: {why}.")
                said = f"{self._file} is damaged ({why}): it is kept as {set_aside(self._file).name}, a new one is made"
            if self.own and (there := other_place(self._file, self.workspace / ARTIFACTS)) is not None:
                said = f"{self._file} sends artifacts to {there}: the workspace was moved or copied"
                if there.parent.exists():  # a copy; elsewhere this folder may be seen under its first path
                    said += f". It is kept as {set_aside(self._file, 'copied').name}, a new one is made"
                else:
                    said += f". Rename {DATABASE} for a new one"
            create_database(self._file, self.workspace / ARTIFACTS)
            self._inode = self._file.stat().st_ino
        return said

    def mend(self, trouble: bool) -> str | None:
        """See :class:`RunStore`. Another process, or a person, may have deleted or renamed the file."""
        if self._file is None:
            return None
        there = self._file.exists() and self._file.stat().st_ino == self._inode
        if there and not trouble:
            return None
        said = self._prepare(check=trouble) or (None if there else f"{self._file} was lost: a new one is made")
        if said is not None:
            self._names.clear()
            self.client._tracking_client.store.engine.dispose()  # its connections hold the file that is gone
        return said

    def local_artifact(self, run_id: str, path: str) -> Path:
        """See :class:`RunStore`. A local store gives the file itself, not a copy."""
        root = urllib.parse.urlsplit(self.client.get_run(run_id).info.artifact_uri)
        if root.scheme == "file":
            local = Path(urllib.request.url2pathname(root.path)) / path
        else:
            local = self._download(run_id, path)
        if not local.exists():
            raise RunError(f"run {run_id} has no artifact '{path}'")
        return local

    def _download(self, run_id: str, path: str) -> Path:
        folder = self.workspace / "downloads" / run_id
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return Path(self.client.download_artifacts(run_id, path, str(folder)))
        except Exception as error:
            raise RunError(f"run {run_id} has no artifact '{path}' ({error})") from error

    def _exclusive(self) -> AbstractContextManager[None]:
        return waited_lock(self.workspace / ".mlflow.lock", seconds=60)

    def _run(self, run_id: str) -> RunInfo | None:
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise
        return self._info(run)

    def _runs(self, digest: str, experiment_name: str | None) -> list[RunInfo]:
        known = self.client.search_experiments()
        self._names.update({item.experiment_id: item.name for item in known})
        ids = [item.experiment_id for item in known if experiment_name in (None, item.name)]
        if not ids or not re.fullmatch(r"[\w.:-]*", digest):
            return []
        found: list[Run] = []
        token: str | None = None
        while token != "":
            page = self.client.search_runs(
                ids,
                f"tags.`{TAG_DIGEST}` LIKE '{digest}%'",
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            found.extend(page)
            token = page.token or ""
        return [info for info in map(self._info, found) if info.digest.startswith(digest)]

    def _info(self, run: Run) -> RunInfo:
        number = run.info.experiment_id
        if number not in self._names:
            self._names[number] = self.client.get_experiment(number).name
        return RunInfo(
            run.info.run_id,
            self._names[number],
            run.info.run_name or "",
            run.info.status,
            dict(run.data.tags),
            dict(run.data.params),
            run.info.lifecycle_stage != "active",
        )

    def _create(self, experiment_name: str, run_name: str, tags: Mapping[str, str]) -> BufferedTracker:
        number = self._experiment(experiment_name)
        run = self.client.create_run(number, tags=dict(tags), run_name=run_name)
        return MlflowTracker(self.client, run.info.run_id, None)

    def _restart(self, run: RunInfo) -> None:
        self.client.update_run(run.run_id, status="RUNNING")

    def _delete(self, run: RunInfo) -> None:
        self.client.delete_run(run.run_id)

    def _tracker(self, run: RunInfo) -> BufferedTracker:
        return MlflowTracker(self.client, run.run_id, partial(_logged, self.client, run.run_id))

    def save_view(self, experiment_name: str, key: str, view: Mapping[str, Any]) -> str:
        """See :class:`RunStore`. MLflow's own button for sharing a view writes the same tag."""
        number = self._experiment(experiment_name)
        self.client.set_experiment_tag(number, f"mlflow.sharedViewState.{key}", json.dumps(view))
        return number

    def register(
        self, run_id: str, name: str, alias: str | None, model: str | None, dry_run: bool = False
    ) -> dict[str, Any]:
        """See :class:`RunStore`."""
        return {**register(self.client, run_id, name, alias, model, dry_run), "store": public(self.uri)}

    def _annotate(self, run: RunInfo, tags: Mapping[str, str]) -> None:
        MlflowTracker(self.client, run.run_id, None).set_tags(tags)
        if run.status == "RUNNING":
            self.client.set_terminated(run.run_id, "KILLED")

    def _supersede(self, run: RunInfo, by: str) -> None:
        self.client.set_tag(run.run_id, TAG_SUPERSEDED, by)
        if run.status == "RUNNING":
            self.client.set_terminated(run.run_id, "KILLED")

    def _experiment(self, name: str) -> str:
        """The id of the experiment, which is made if missing. With SQLite its artifacts are in the workspace."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            folder = self.workspace / ARTIFACTS / urllib.parse.quote(name, safe="")
            try:
                return self.client.create_experiment(name, folder.as_uri() if self._file else None)
            except MlflowException as error:
                found = self.client.get_experiment_by_name(name)
                if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                    raise InputError(f"MLflow refuses the name '{name}': {error.message}") from error
        if found.lifecycle_stage != "active":
            raise InputError(
                f"the MLflow experiment '{name}' was deleted: restore it "
                f"(mlflow experiments restore --experiment-id {found.experiment_id}) or choose another name."
            )
        return found.experiment_id


class MlflowTracker(BufferedTracker):
    """One MLflow run; this process is its only writer."""

    def __init__(self, client: MlflowClient, run_id: str, logged: Callable[[], Logged] | None) -> None:
        super().__init__(run_id, logged)
        self._client = client

    def _write_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        for batch in _batches(list(params.items()), _MAX_TEXTS):
            entries = [Param(stored_key(key), value[:_MAX_PARAM]) for key, value in batch]
            self._client.log_batch(self.run_id, params=entries)

    def _write_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for batch in _batches(list(tags.items()), _MAX_TEXTS):
            self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in batch])

    def _write_points(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        for batch in _batches(points, _MAX_POINTS):
            entries = [Metric(stored_key(point.key), point.value, point.milliseconds, point.step) for point in batch]
            self._client.log_batch(self.run_id, metrics=entries)

    def _write_image(self, key: str, step: int, png: bytes) -> None:
        log_picture(self._client, self.run_id, key, step, png)

    def _write_artifact(self, path: Path, folder: str) -> None:
        self._client.log_artifact(self.run_id, str(path), folder or None)

    def _write_datasets(self, given: Sequence[DatasetRecord]) -> None:
        log_datasets(self._client, self.run_id, given)

    def _write_model(self, name: str, step: int, files: Sequence[Path]) -> None:
        with _third_party_warnings():
            log_model(self._client, self.run_id, name, step, files)

    def _write_end(self, status: Ended) -> None:
        self._client.set_terminated(self.run_id, status)


def create_database(path: Path, artifacts: Path) -> None:
    """Make the SQLite store ``path`` with all its tables, unless it exists. Call it under the lock."""
    if path.exists():
        return
    from mlflow.store.tracking import sqlalchemy_store

    make_store: Any = sqlalchemy_store.SqlAlchemyStore
    with quiet("mlflow", "alembic"), atomic.replacing(path) as temporary:
        store = make_store(SQLITE + str(temporary), artifacts.as_uri())
        store.engine.dispose()


def _logged(client: MlflowClient, run_id: str) -> Logged:
    """The content of a run: the steps of every metric, its parameters and its images."""
    data = client.get_run(run_id).data
    steps = {own_key(key): frozenset(m.step for m in client.get_metric_history(run_id, key)) for key in data.metrics}
    names = [Path(item.path).name for item in client.list_artifacts(run_id, "images")]
    return Logged(steps, {own_key(key): value for key, value in data.params.items()}, logged(names))


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


@contextmanager
def _third_party_warnings() -> Iterator[None]:
    """Hides deprecation warnings in the body: MLflow's dependencies raise them, and fedrecon cannot mend those."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
