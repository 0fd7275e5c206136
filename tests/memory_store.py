"""The counterpart of the MLflow store in memory, for tests: it writes no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedrecon.platform.storage.journal import DatasetRecord, Ended
from fedrecon.platform.storage.tracking.entities import Logged, Point, RunInfo
from fedrecon.platform.storage.tracking.tracker import (
    TAG_SUPERSEDED,
    BufferedTracker,
    RunStore,
)
from fedrecon.sites.errors import RunError


@dataclass
class MemoryRun:
    """Everything that a :class:`MemoryTracker` recorded, in the order of writing."""

    info: RunInfo
    params: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    images: list[tuple[str, int, bytes]] = field(default_factory=list)
    artifacts: dict[str, Path] = field(default_factory=dict)
    datasets: list[DatasetRecord] = field(default_factory=list)
    models: dict[str, tuple[int, list[Path]]] = field(default_factory=dict)


class MemoryTracker(BufferedTracker):
    """The counterpart of the MLflow tracker: it records into a :class:`MemoryRun`."""

    def __init__(self, run: MemoryRun, continued: bool = False) -> None:
        steps: dict[str, set[int]] = {}
        for point in run.points:
            steps.setdefault(point.key, set()).add(point.step)
        logged = Logged(
            {key: frozenset(values) for key, values in steps.items()},
            run.params,
            frozenset((key, step) for key, step, _ in run.images),
        )
        super().__init__(run.info.run_id, (lambda: logged) if continued else None)
        self.run = run

    def _write_params(self, params: Mapping[str, str]) -> None:
        self.run.params.update(params)
        self.run.info = replace(self.run.info, params=dict(self.run.params))

    def _write_tags(self, tags: Mapping[str, str]) -> None:
        self.run.info = replace(self.run.info, tags={**self.run.info.tags, **tags})

    def _write_points(self, points: Sequence[Point]) -> None:
        self.run.points.extend(points)

    def _write_image(self, key: str, step: int, png: bytes) -> None:
        self.run.images.append((key, step, png))

    def _write_artifact(self, path: Path, folder: str) -> None:
        self.run.artifacts[f"{folder}/{path.name}" if folder else path.name] = path

    def _write_datasets(self, given: Sequence[DatasetRecord]) -> None:
        self.run.datasets.extend(one for one in given if one not in self.run.datasets)

    def _write_model(self, name: str, step: int, files: Sequence[Path]) -> None:
        self.run.models.setdefault(name, (step, list(files)))

    def _write_end(self, status: Ended) -> None:
        self.run.info = replace(self.run.info, status=status)


class MemoryStore(RunStore):
    """The counterpart of the MLflow store; ``runs`` are in the order of creation."""

    def __init__(self) -> None:
        self.runs: list[MemoryRun] = []
        self.views: dict[str, dict[str, Any]] = {}

    def local_artifact(self, run_id: str, path: str) -> Path:
        """See :class:`RunStore`."""
        for run in self.runs:
            if run.info.run_id == run_id and path in run.artifacts:
                return run.artifacts[path]
        raise RunError(f"run {run_id} has no artifact '{path}'")

    def _run(self, run_id: str) -> RunInfo | None:
        return next((run.info for run in self.runs if run.info.run_id == run_id), None)

    def _runs(self, digest: str, experiment_name: str | None) -> list[RunInfo]:
        infos = [run.info for run in reversed(self.runs) if run.info.digest.startswith(digest) and not run.info.deleted]
        return [info for info in infos if experiment_name in (None, info.experiment_name)]

    def _create(self, experiment_name: str, run_name: str, tags: Mapping[str, str]) -> BufferedTracker:
        info = RunInfo(f"memory-{len(self.runs)}", experiment_name, run_name, "RUNNING", dict(tags), {})
        self.runs.append(MemoryRun(info))
        return MemoryTracker(self.runs[-1])

    def _restart(self, run: RunInfo) -> None:
        record = next(item for item in self.runs if item.info.run_id == run.run_id)
        record.info = replace(record.info, status="RUNNING")

    def _delete(self, run: RunInfo) -> None:
        record = next(item for item in self.runs if item.info.run_id == run.run_id)
        record.info = replace(record.info, deleted=True)

    def _tracker(self, run: RunInfo) -> BufferedTracker:
        return MemoryTracker(next(item for item in self.runs if item.info.run_id == run.run_id), continued=True)

    def save_view(self, experiment_name: str, key: str, view: Mapping[str, Any]) -> str:
        """See :class:`RunStore`."""
        self.views[key] = dict(view)
        return experiment_name

    def register(
        self, run_id: str, name: str, alias: str | None, model: str | None, dry_run: bool = False
    ) -> dict[str, Any]:
        """See :class:`RunStore`."""
        raise NotImplementedError

    def _annotate(self, run: RunInfo, tags: Mapping[str, str]) -> None:
        record = next(item for item in self.runs if item.info.run_id == run.run_id)
        status = "KILLED" if run.status == "RUNNING" else run.status
        record.info = replace(record.info, status=status, tags={**run.tags, **tags})

    def _supersede(self, run: RunInfo, by: str) -> None:
        record = next(item for item in self.runs if item.info.run_id == run.run_id)
        status = "KILLED" if run.status == "RUNNING" else run.status
        record.info = replace(record.info, status=status, tags={**run.tags, TAG_SUPERSEDED: by})
