"""A sweep from its description to its result: plan it, run it on a cluster with Ray Tune, resume it, write outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.sites.errors import InputError, RunError, tell
from fedrecon.sites.phases import phase
from fedrecon.tune.engine.campaign import Campaign, Rerun, saved_file
from fedrecon.tune.search.config import Sweep
from fedrecon.tune.trials.planner import Planner, Shape, absolute
from fedrecon.tune.trials.settings import Setting, best_setting, comparable
from fedrecon.tune.trials.trial_table import TrialRow

if TYPE_CHECKING:
    import pyarrow as pa

    from fedrecon.tune.engine.records import CampaignRecords


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep. :meth:`as_dict` is the JSON of ``fedrecon sweep --json``.

    Attributes:
        sweep: the sweep's name.
        status: ``finished``, ``interrupted`` (the same command resumes the sweep), ``budget`` (the budget is used up),
            ``planned`` (a dry run), or ``running`` (another process runs the sweep).
        trials: the rows of the trials, in the plan's order. A finished trial that lost a site has no means, and its
            ``error`` says so: a mean over the sites that are left compares with none over all.
        best: the first trial of the best setting; None if no finished trial has a score. A setting is the searched
            values without the seed, and its score is the mean over its seeds.
        folder: the folder with trials.parquet, best.yaml, the figures and the page.
        url: the address of the sweep's runs in MLflow; None if this call wrote no outputs.
        metrics: the validation metrics; the first one decides which setting is best. modes: ``max`` or ``min`` of each.
        keys: the searched keys.
    """

    sweep: str
    status: str
    trials: Sequence[TrialRow]
    best: TrialRow | None
    folder: Path
    url: str | None = None
    metrics: Sequence[str] = ("mean/psnr",)
    modes: Sequence[str] = ("max",)
    keys: Sequence[str] = ()

    @property
    def setting(self) -> Setting | None:
        """The best setting, with the mean and spread over its seeds."""
        return best_setting(self.trials, self.metrics[0], self.modes[0])

    def as_dict(self) -> dict[str, Any]:
        """The result in JSON types."""
        return {
            "sweep": self.sweep,
            "status": self.status,
            "trials": [row.as_dict() for row in self.trials],
            "best": None if self.best is None else self.best.as_dict(),
            "best_setting": None if self.setting is None else self.setting.as_dict(self.metrics[0]),
            "folder": str(self.folder),
            "url": self.url,
        }

    def table(self) -> pa.Table:
        """A table with one row per trial, as in ``trials.parquet``; ``.to_pandas()`` converts it to a data frame."""
        from fedrecon.tune.sweep.table import arrow

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
    rerun: Rerun = False,
    dry_run: bool = False,
    keep_checkpoints: bool = False,
    **keys: Any,
) -> SweepResult:
    """Runs a sweep, resumes an interrupted one, or returns the table of a finished one.

    Args:
        experiment: the base experiment: a file, a mapping, or an :class:`fedrecon.Experiment`.
        search: the searched keys, each with its values.
        file: the YAML file of a sweep; it replaces ``experiment`` and ``search``.
        overrides: ``key=value`` changes the sweep, ``experiment.KEY=value`` changes the base experiment.
        workspace: the workspace folder; None takes FEDRECON_WORKSPACE or ./workspace.
        address: the address of a running Ray cluster; None starts one on this machine.
        tracking_uri: the address of an MLflow server; None takes MLFLOW_TRACKING_URI or the workspace's mlflow.db.
        rerun: True runs every trial again, even if it has a result; ``"failed"`` runs only the failed trials again.
        dry_run: True plans the sweep and starts nothing.
        keep_checkpoints: keep two checkpoints of each run that has ended, not one.
        keys: the other keys of a sweep: name, metric, mode, samples, ...

    Raises:
        InputError: the sweep, one of its experiments, or its data is wrong; nothing was started.
        RunError: the cluster cannot hold a trial. A failed trial raises no error: its row in the table shows it.

    Example:
        >>> import fedrecon
        >>> rates = {"operator.acceleration": {"grid": [2, 4]}}
        >>> base = {"sites": "data/demo", "reconstructor": "zero_filled"}
        >>> result = fedrecon.sweep(base, rates, name="two-rates")
        >>> result.status, [row.status for row in result.trials]
        ('finished', ['FINISHED', 'FINISHED'])
    """
    if file is None:
        base = experiment.as_dict() if hasattr(experiment, "as_dict") else experiment
        defaults = {"name": "sweep", "metric": "mean/psnr", "mode": "max"}
        given: Any = {**defaults, **keys, "experiment": base if isinstance(base, dict) else str(base), "search": search}
    else:
        beside = {"experiment": experiment, "search": search, **keys}
        if named := ", ".join(key for key, one in beside.items() if one is not None):
            raise InputError(f"sweep(file=...) with {named}: the file says it all; give changes as overrides")
        given = file
    chosen, base = Sweep.read(given, overrides)
    workspace_folder = Path(workspace) if workspace else default_workspace()
    one = _Sweep(chosen, base, workspace_folder, address, tracking_uri, rerun, keep_checkpoints)
    return one.result("planned" if not one.go(dry_run) else one.status())


def load_sweep(name: str, workspace: Path | str | None = None, address: str | None = None) -> SweepResult:
    """Reads the current state of a sweep in a workspace. The sweep may be running.

    Args:
        name: the name of the sweep.
        workspace: the workspace folder; None takes FEDRECON_WORKSPACE or ./workspace.
        address: the address of a Ray cluster; needed if shards lie on its nodes.

    Raises:
        InputError: the workspace has no sweep of this name; the message lists its sweeps.

    Example:
        >>> import fedrecon
        >>> fedrecon.load_sweep("two-rates").table().column("params.operator.acceleration").to_pylist()
        [2, 4]
    """
    file = saved_file(workspace, "sweeps", "sweep", name)
    one = _Sweep(*Sweep.read(file), file.parents[2], address, None, rerun=False)
    return one.result("running" if one.look() else one.status())


class _Sweep(Campaign):
    """The steps of one call for a sweep, and their shared state."""

    def __init__(
        self,
        chosen: Sweep,
        base: dict[str, Any],
        workspace: Path,
        address: str | None,
        tracking_uri: str | None,
        rerun: Rerun,
        keep_checkpoints: bool = False,
    ) -> None:
        planner = Planner.of(chosen, base, address)
        super().__init__(planner, "sweeps", workspace, address, tracking_uri, rerun, keep_checkpoints)
        self.chosen, self.base = chosen, base

    def fill(self) -> None:
        """Adds the rows of the trials that are known before anything runs."""
        if self.chosen.algorithm == "optuna":
            from fedrecon.tune.engine.searcher import read_suggested

            self.planner.trials()
            for number, params in enumerate(read_suggested(self.trial_table.folder)):
                self.trial_table.add(self.planner.trial(number, params))
            return
        for trial in self.planner.trials():
            self.trial_table.add(trial)

    def result(self, status: str) -> SweepResult:
        """The result of the sweep, from its trial table."""
        rows, keys = comparable(self.trial_table.rows), list(self.chosen.search)
        best = best_setting(rows, self.chosen.metrics[0], self.chosen.modes[0])
        return SweepResult(
            self.chosen.name, status, rows, best.rows[0] if best else None, self.trial_table.folder, self.url,
            self.chosen.metrics, self.chosen.modes, keys,
        )  # fmt: skip

    def announce(self) -> None:
        """Prints the plan and a rough estimate of its duration."""
        for line in dict.fromkeys(self.planner.replaced()):
            tell(line)
        sweep, waiting = self.chosen, self.trial_table.count("WAITING")
        if sweep.algorithm == "optuna":
            tell(
                f"{sweep.name}: {sweep.samples} trials suggested by Optuna, {len(self.trial_table.rows)} of them so far"
            )
            return
        shape = Shape.of([row.trial for row in self.trial_table.rows])
        parts = [f"{shape.trials} trials", f"{shape.trainings} trainings of {shape.rounds} rounds in all"]
        if shape.evaluations:
            parts.append(f"{shape.evaluations} that only evaluate one of these")
        if (done := len(self.trial_table.rows) - waiting) and self.rerun is not True:
            parts.append(f"{done} done already")
        if sweep.budget.trials and sweep.budget.trials < shape.trials:
            parts.append(f"of which the budget allows {sweep.budget.trials}")
        tell(f"{sweep.name}: {', '.join(parts)}{self.duration()}")

    def content(self) -> tuple[str, dict[str, Any]]:
        """The name and content of the sweep's own file in its folder."""
        return "sweep.yaml", {**self.chosen.model_dump(mode="json"), "experiment": absolute(self.base)}

    def tags(self, number: int) -> dict[str, str]:
        """The MLflow tags of a trial's run, from the trial's number."""
        return {"fedrecon.sweep": self.chosen.name, f"fedrecon.sweep.{self.chosen.name}": str(number)}

    def conclude(self, records: CampaignRecords) -> None:
        """Writes the outputs: tables, figures, the page and the sweep's run in MLflow."""
        with phase("writing the table, figures and page"):
            from fedrecon.tune.sweep.outputs import conclude

            self.url = conclude(self.chosen, self.trial_table, records, self.tags)


__all__ = ["InputError", "RunError", "SweepResult", "load_sweep", "sweep"]
