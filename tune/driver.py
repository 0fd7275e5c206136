"""A sweep from its description to its result: planned, packed on the cluster by Ray Tune, resumed, written down."""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.workspace import RunFolder, default_workspace
from fedrecon.sites.errors import InputError, RunError
from fedrecon.tune.board import Board, Row
from fedrecon.tune.plan import Planner, Shape
from fedrecon.tune.spec import Sweep

if TYPE_CHECKING:
    import pyarrow as pa

    from fedrecon.tune.live import Live
    from fedrecon.tune.packing import Packing

SETTINGS = {
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # scores are due every few rounds, not in every one
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the record is MLflow's
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # what Tune keeps is never read again
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to; :meth:`as_dict` is the JSON of ``fedrecon sweep --json``.

    Attributes:
        sweep: its name. status: ``finished``, ``interrupted`` (the same command goes on), ``budget`` (it is used up),
            ``planned`` (a dry run), or ``running`` (seen from outside).
        trials: in the plan's order. best: the finished trial with the best validation score; None if there is none.
        folder: holds trials.parquet, best.yaml, the figures and the page. url: of its runs in MLflow.
        metrics: what steered. keys: what was searched.
    """

    sweep: str
    status: str
    trials: Sequence[Row]
    best: Row | None
    folder: Path
    url: str | None = None
    metrics: Sequence[str] = field(default=("mean/psnr",))
    keys: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "sweep": self.sweep,
            "status": self.status,
            "trials": [row.as_dict() for row in self.trials],
            "best": None if self.best is None else self.best.as_dict(),
            "folder": str(self.folder),
            "url": self.url,
        }

    def table(self) -> pa.Table:
        """One row a trial, as in ``trials.parquet``; ``.to_pandas()`` makes a data frame of it."""
        from fedrecon.tune.table import arrow

        return arrow(self.trials, self.keys)


def sweep(
    experiment: Any = None,
    search: Mapping[str, Any] | None = None,
    *,
    file: str | Path | None = None,
    overrides: Sequence[str] = (),
    workspace: Path | str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
    rerun: bool = False,
    dry_run: bool = False,
    **keys: Any,
) -> SweepResult:
    """Runs a sweep, or goes on where it was interrupted, or returns its table if it is finished.

    Args:
        experiment: the base: a file, a mapping, or an :class:`Experiment`. search: what varies.
        file: a sweep's YAML file instead of both.
        overrides: ``key=value`` of the sweep, ``experiment.KEY=value`` of the base.
        workspace: default FEDRECON_WORKSPACE or ./workspace.
        address: of a running Ray cluster; None starts one on this machine.
        tracking_uri: of an MLflow server; None takes MLFLOW_TRACKING_URI or the workspace's mlflow.db.
        rerun: run every trial again, though the workspace holds it.
        dry_run: plan only.
        keys: the other keys of a sweep: name, metric, mode, samples, ...

    Raises:
        InputError: the sweep, an experiment of it, or its data is wrong; nothing was started.
        RunError: the cluster cannot hold a trial; a failing trial is no error, but a row of the table.
    """
    if file is None:
        base = experiment.as_dict() if hasattr(experiment, "as_dict") else experiment
        defaults = {"name": "sweep", "metric": "mean/psnr", "mode": "max"}
        given: Any = {**defaults, **keys, "experiment": base if isinstance(base, dict) else str(base), "search": search}
    else:
        given = file
    chosen, base = Sweep.read(given, overrides)
    place = Path(workspace) if workspace else default_workspace()
    return _Sweep(chosen, base, place, address, tracking_uri, rerun).go(dry_run)


def seen(name: str, workspace: Path) -> SweepResult:
    """A sweep of a workspace as it stands, running or not.

    Raises:
        InputError: no such sweep; says which there are.
    """
    from fedrecon.sites.errors import unknown

    folder = workspace.resolve() / "sweeps" / name
    if not (folder / "sweep.yaml").is_file():
        known = sorted(path.parent.name for path in folder.parent.glob("*/sweep.yaml"))
        raise unknown("sweep", name, known)
    chosen, base = Sweep.read(folder / "sweep.yaml")
    one = _Sweep(chosen, base, workspace, None, None, rerun=False)
    running = one.locked()
    one.fill()
    for row in one.board.rows:
        row.trained_rounds = row.trained_before
        if row.status == "WAITING" and running and _locked(RunFolder(workspace, row.trial.digest).lock):
            row.status = "RUNNING"
    return one.result("running" if running else one.status())


class _Sweep:
    """The steps of one call, with what they share."""

    def __init__(
        self,
        chosen: Sweep,
        base: dict[str, Any],
        workspace: Path,
        address: str | None,
        tracking_uri: str | None,
        rerun: bool,
    ) -> None:
        self.chosen, self.workspace = chosen, workspace.resolve()
        self.address, self.tracking_uri, self.rerun = address, tracking_uri, rerun
        self.planner = Planner.of(chosen, base)
        self.base = base
        self.board = Board(self.workspace, chosen.name)
        self.url: str | None = None
        self._deadline = float("inf")

    def go(self, dry_run: bool) -> SweepResult:
        self.fill()
        shape = Shape.of([row.trial for row in self.board.rows])
        self._announce(shape)
        if dry_run:
            return self.result("planned")
        self.board.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            self._save()
            if self.rerun:
                self.board.forget(self.board.rows)
            if self.board.count("WAITING") or self._asks_more():
                self._run()
            else:
                self._conclude_alone()
        return self.result(self.status())

    def fill(self) -> None:
        """The rows that are known before anything runs."""
        if self.chosen.algorithm == "optuna":
            from fedrecon.tune.dispatch import read_suggested

            self.planner.trials()
            for number, params in enumerate(read_suggested(self.board.folder)):
                self.board.add(self.planner.trial(number, params))
            return
        for trial in self.planner.trials():
            self.board.add(trial)

    def status(self) -> str:
        limited = self.board.rows[: self._limit]
        if any(row.status in ("WAITING", "RUNNING") for row in limited) or (self._asks_more()):
            return "budget" if time.monotonic() > self._deadline else "interrupted"
        return "finished" if len(limited) == len(self.board.rows) else "budget"

    def result(self, status: str) -> SweepResult:
        best = self.board.best(self.chosen.metrics[0], self.chosen.modes[0])
        rows, keys = list(self.board.rows), list(self.chosen.search)
        return SweepResult(self.chosen.name, status, rows, best, self.board.folder, self.url, self.chosen.metrics, keys)

    def locked(self) -> bool:
        """Whether a driver is at work on this sweep."""
        return _locked(self.board.folder / ".lock")

    @property
    def _limit(self) -> int:
        return self.chosen.budget.trials or 10**9

    def _asks_more(self) -> bool:
        total = min(self.chosen.samples, self._limit)
        return self.chosen.algorithm == "optuna" and len(self.board.rows) < total

    def _announce(self, shape: Shape) -> None:
        sweep, waiting = self.chosen, self.board.count("WAITING")
        if sweep.algorithm == "optuna":
            _say(f"{sweep.name}: {sweep.samples} trials suggested by Optuna, {len(self.board.rows)} of them so far")
            return
        parts = [f"{shape.trials} trials", f"{shape.trainings} trainings of {shape.rounds} rounds in all"]
        if shape.evaluations:
            parts.append(f"{shape.evaluations} that only evaluate one of these")
        if (done := len(self.board.rows) - waiting) and not self.rerun:
            parts.append(f"{done} done already")
        if sweep.budget.trials and sweep.budget.trials < shape.trials:
            parts.append(f"of which the budget allows {sweep.budget.trials}")
        _say(f"{sweep.name}: {', '.join(parts)}")

    def _save(self) -> None:
        from fedrecon.platform import atomic

        content = {**self.chosen.model_dump(mode="json"), "experiment": _absolute(self.base)}
        atomic.write_text(self.board.folder / "sweep.yaml", _yaml(content))

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.board.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"the sweep '{self.chosen.name}' is running in {self.workspace}") from None
            yield

    def _run(self) -> None:
        import ray

        from fedrecon.platform.crew_ray import connect
        from fedrecon.tune.live import Live
        from fedrecon.tune.packing import Packing
        from fedrecon.tune.writer import start_writer

        os.environ.update({key: value for key, value in SETTINGS.items() if key not in os.environ})
        if self.chosen.budget.hours:
            self._deadline = time.monotonic() + 3600 * self.chosen.budget.hours
        owns = not ray.is_initialized()
        if owns:
            connect(self.address)
        live = Live(self.chosen, self.board, min(len(self.board.rows) or self.chosen.samples, self._limit))
        try:
            here = ray.get_runtime_context().get_node_id()
            crew = str(self.planner.base["resources"]["crew"])
            packing = Packing.of(crew, self.chosen.concurrency, ray.nodes(), here)  # type: ignore[no-untyped-call]
            for row in self.board.rows:
                packing.factory(row.trial.experiment, self._members(row))
            writer = start_writer(self.tracking_uri, self.workspace)
            try:
                self._tune(packing, writer, live)
            finally:
                self.board.interrupted()
                live.close()
                ray.get(writer.settle.remote())
                self._conclude(lambda method, *arguments: ray.get(getattr(writer, method).remote(*arguments)))
                ray.kill(writer)
        finally:
            if owns:
                ray.shutdown()

    def _tune(self, packing: Packing, writer: Any, live: Live) -> None:
        import ray
        from ray import tune as ray_tune

        from fedrecon.tune.dispatch import Dispatcher, Optuna, Planned, Source, Watch
        from fedrecon.tune.halving import Alike
        from fedrecon.tune.trial import SweepTrial

        chosen = self.chosen
        source: Source = Planned()
        if chosen.algorithm == "optuna":
            self.board.rows.clear()
            source = Optuna(self.planner, self.board, min(chosen.samples, self._limit))
        dispatcher = Dispatcher(self.board, source, self._config, self._limit)
        over, why = (lambda: time.monotonic() >= self._deadline), (lambda digest: ray.get(writer.why.remote(digest)))
        watch = Watch(self.board, dispatcher, source, live.changed, over, why)
        shared = {"workspace": str(self.workspace), "crew": packing.crew, "writer": writer}
        trainable = ray_tune.with_resources(
            ray_tune.with_parameters(SweepTrial, shared=shared),
            lambda config: packing.factory(self._row(config).trial.experiment, config["members"]),
        )
        rounds = max((row.trial.experiment.rounds for row in self.board.rows), default=1)
        scheduler = None
        if chosen.scheduler is not None:
            scheduler = Alike(chosen.scheduler, chosen.metrics[0], chosen.modes[0], rounds)
        scratch = tempfile.mkdtemp(prefix="fedrecon-sweep-")
        tuner = ray_tune.Tuner(
            trainable,
            tune_config=ray_tune.TuneConfig(
                search_alg=dispatcher,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=packing.at_once,
                time_budget_s=None if self._deadline == float("inf") else self._deadline - time.monotonic(),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=ray_tune.RunConfig(
                name=chosen.name,
                storage_path=scratch,
                checkpoint_config=ray_tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                failure_config=ray_tune.FailureConfig(max_failures=chosen.max_failures),
                callbacks=[watch],
                verbose=0,
            ),
        )
        try:
            with contextlib.redirect_stdout(io.StringIO()), _quiet("ray.tune", "ray.air"):
                tuner.fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _row(self, config: Mapping[str, Any]) -> Row:
        number: int = config["number"]
        return self.board.rows[number]

    def _members(self, row: Row) -> list[str]:
        from fedrecon.tune.packing import roster

        return roster(row.trial.experiment, list(self.planner.shards(row.trial.experiment)))

    def _config(self, row: Row) -> dict[str, Any]:
        trial = row.trial
        return {
            "number": trial.number,
            "digest": trial.digest,
            "problem": trial.problem,
            "members": self._members(row),
            "experiment": _absolute(trial.experiment.as_dict()),
            "name": f"{self.chosen.name} · {trial.name}",
            "tags": self._tags(trial.number),
            "rerun": self.rerun and row.begun is None,
        }

    def _tags(self, number: int) -> dict[str, str]:
        return {"fedrecon.sweep": self.chosen.name, f"fedrecon.sweep.{self.chosen.name}": str(number)}

    def _conclude(self, call: Any) -> None:
        from fedrecon.tune.conclude import conclude

        self.url = conclude(self.chosen, self.board, call, self._tags)

    def _conclude_alone(self) -> None:
        """Nothing was left to run: no cluster is needed to write the tables again."""
        from fedrecon.tune.writer import Writer

        writer = Writer(self.tracking_uri, str(self.workspace))
        self._conclude(lambda method, *arguments: getattr(writer, method)(*arguments))


def _absolute(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment with paths that hold from any working directory."""
    sites = experiment["sites"]
    if isinstance(sites, dict):
        return {**experiment, "sites": {name: str(Path(path).absolute()) for name, path in sites.items()}}
    return {**experiment, "sites": str(Path(sites).absolute())}


def _locked(path: Path) -> bool:
    """Whether another process holds this lock."""
    if not path.is_file():
        return False
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """What goes wrong in a trial stands in its row: Ray Tune need not print the traceback too."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _yaml(content: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


__all__ = ["InputError", "RunError", "SweepResult", "seen", "sweep"]
