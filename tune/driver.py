"""A sweep from its description to its result: planned, packed on the cluster by Ray Tune, resumed, written down."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.workspace import RunFolder, default_workspace
from fedrecon.sites.errors import InputError, RunError
from fedrecon.tune.board import Board, Row
from fedrecon.tune.plan import Planner, Shape, absolute
from fedrecon.tune.spec import Sweep

if TYPE_CHECKING:
    import pyarrow as pa


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
        self.planner = Planner.of(chosen, base, address)
        self.base = base
        self.board = Board(self.workspace, chosen.name)
        self.url: str | None = None
        self.over = False

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
            return "budget" if self.over else "interrupted"
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
        _say(f"{sweep.name}: {', '.join(parts)}{self._duration()}")

    def _duration(self) -> str:
        """Roughly how long what is left will take, on this machine's cores."""
        left = [row.trial for row in self.board.rows[: self._limit] if row.status == "WAITING" or self.rerun]
        if not left:
            return ""
        from fedrecon.tune.estimate import seconds

        asked = self.chosen.concurrency
        at_once = asked if isinstance(asked, int) else os.cpu_count() or 1
        minutes = seconds(self.planner, left, min(at_once, len(left))) / 60
        where = " on one machine like this" if self.address else ""
        return f"; roughly {_rounded(minutes)}{where}"

    def _save(self) -> None:
        from fedrecon.platform import atomic

        content = {**self.chosen.model_dump(mode="json"), "experiment": absolute(self.base)}
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
        from fedrecon.tune.engine import Engine
        from fedrecon.tune.live import Live

        allowed = min(len(self.board.rows) or self.chosen.samples, self._limit)
        live = Live(self.chosen, self.board, allowed)
        engine = Engine(self.planner, self.board, self.address, self.tracking_uri, self.rerun, self._tags)
        self.over = engine.run(live, self._limit, self._conclude)

    def _tags(self, number: int) -> dict[str, str]:
        return {"fedrecon.sweep": self.chosen.name, f"fedrecon.sweep.{self.chosen.name}": str(number)}

    def _conclude(self, call: Any) -> None:
        from fedrecon.tune.conclude import conclude

        self.url = conclude(self.chosen, self.board, call, self._tags, self.tracking_uri)

    def _conclude_alone(self) -> None:
        """Nothing was left to run: no cluster is needed to write the tables again."""
        from fedrecon.tune.writer import Writer

        writer = Writer(self.tracking_uri, str(self.workspace))
        self._conclude(lambda method, *arguments: getattr(writer, method)(*arguments))


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


def _rounded(minutes: float) -> str:
    if minutes < 1.5:
        return "a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"


def _yaml(content: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


__all__ = ["InputError", "RunError", "SweepResult", "seen", "sweep"]
