"""A transfer test: the test of a trained network under other operators, or at sites that did not train."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.science import science_version
from fedrecon.platform.consortium.checks import ConsortiumShards, noted_shards
from fedrecon.platform.consortium.code import source_code, warn_of_changed_code
from fedrecon.platform.consortium.consent import UnseenPolicy, what_leaves
from fedrecon.platform.execution.liveness import LIVENESS, Watch
from fedrecon.platform.execution.wire_log import WIRE_LINES, WireLog
from fedrecon.platform.federation.aggregate import exact_note, flat_metrics, summarise
from fedrecon.platform.federation.attendance import MISSED, Attendance, find_training, missed_by, of_training
from fedrecon.platform.federation.coverage import coverage_metrics, uncertainty
from fedrecon.platform.federation.mlflow_metrics import mlflow_metrics
from fedrecon.platform.federation.recorder import CommittedRound, out_of_patience
from fedrecon.platform.inference.scoring import scored
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.runs.context import RunContext, fresh_or_kept, locked, recording, send_rest
from fedrecon.platform.runs.mlflow_record import datasets
from fedrecon.platform.runs.publishing import note_consent
from fedrecon.platform.runs.results import FinishedRun, Result, took_over, write_tables, write_wire
from fedrecon.platform.runs.training_run import train_steps
from fedrecon.platform.runs.warm_start import check_start, noted_start
from fedrecon.platform.storage.workspace import RunFolder

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.federation.progress import Progress
    from fedrecon.platform.storage.tracking.tracker import Tracker


def transfer_steps(chosen: Experiment, context: RunContext) -> Generator[CommittedRound, None, Result]:
    """The rounds of an experiment with ``test``; see :func:`fedrecon.platform.runs.run.steps`.

    If no run of the workspace has this training, it is trained first, as a separate run: the run of the same
    experiment without ``test``.
    """
    address = None if context.executor == "in-process" else context.address
    sites = ConsortiumShards.of(chosen, address)
    folder = RunFolder(context.workspace, sites.digest(chosen))
    context.check_tracking(folder)
    sites.check(chosen)
    check_start(chosen, sites.tested, context.workspace, sites.trained)
    with locked(folder):
        context = fresh_or_kept(chosen, folder, context)
        if (found := folder.result()) is not None:
            note_consent(chosen, folder)
            found = send_rest(folder, context)
            warn_of_changed_code(folder.noted(), "this result")
            return Result.found(found)
        training_digest = sites.training_digest(chosen)
        assert training_digest is not None
        source, base = training_of_test(chosen, training_digest, context.workspace), None
        if source is None:
            base = yield from train_steps(chosen.alone, replace(context, name=None, rerun=False))
            source = RunFolder(context.workspace, base.digest)
        return _Test(chosen, sites, folder, TrainedRun.of(source), context, base).go(training_digest)


@dataclass(frozen=True)
class _Test:
    experiment: Experiment
    sites: ConsortiumShards
    folder: RunFolder
    trained: TrainedRun
    context: RunContext
    base: Result | None
    """The training that this call asked for; None where one was there."""

    def go(self, training_digest: str) -> Result:
        from fedrecon.platform.federation.scorer import forget

        with recording(self.experiment, self.folder, training_digest, self.context) as run:
            run.journal.set_tags({"fedrecon.trained_by": self.trained.folder.digest})
            run.journal.datasets(datasets(self.sites.tested, ("validation", "test")))
            self._note(run.journal.run_id, training_digest)
            result = self._score(run.journal, training_digest)
            self.folder.save_result(result.as_dict())
        forget(self._parts)
        return result

    @property
    def _parts(self) -> Path:
        return self.folder.path / "parts"

    def _note(self, run_id: str, training_digest: str) -> None:
        self.folder.note_run({
            "run_id": run_id,
            "experiment": self.experiment.as_run(),
            "science_version": science_version(self.experiment.trains),
            "training_digest": training_digest,
            "images": asdict(self.trained.images),
            "code": source_code(self.experiment),
            **noted_shards(self.sites.trained),
            "start": noted_start(self.experiment, self.folder.workspace),
            "trained_by": self.trained.folder.digest,
            "trained_journal": self.trained.folder.journal().id,
        })  # fmt: skip

    def _score(self, tracker: Tracker, training_digest: str) -> Result:
        from fedrecon.platform.federation.progress import Progress
        from fedrecon.platform.storage.parquet import join_scores, split_scores

        experiment, tested = self.experiment, self.sites.tested
        progress = (self.context.progress or Progress)(0, 0)
        log = WireLog(self.folder.path / WIRE_LINES, self.trained.state.round)
        for line in what_leaves(experiment, tested):
            progress.say(line)
        whole = join_scores(self._columns(progress, log))
        columns, validated = split_scores(whole, "test"), split_scores(whole, "validation")
        progress.close()
        summary = summarise(columns)
        if note := exact_note(summary):
            progress.say(note)
        kept, trained = self.trained.state.round, self.trained.folder.result() or {}
        rounds, trained_rounds = trained.get("rounds", kept), self.base.trained_rounds if self.base else 0
        attendance = Attendance(self.folder.path / MISSED, self.trained.members)
        attendance.take_over(of_training(missed_by(self.trained.folder)[1]))
        factor = self.trained.temperature
        shown = flat_metrics(summary, prefix="test/") | coverage_metrics(summary, factor)
        tracker.metrics(kept, mlflow_metrics(shown))
        result = Result(
            run_id=tracker.run_id,
            digest=self.folder.digest,
            status="finished",
            rounds=rounds,
            resumed_from=rounds - trained_rounds,
            trained_rounds=trained_rounds,
            kept_round=trained.get("kept_round"),
            bytes_up=0,
            bytes_down=0,
            sites=summary["sites"],
            mean=summary["mean"],
            missed=attendance.missed,
            name=experiment.name,
            training_digest=training_digest,
            uncertainty=uncertainty(factor) if "coverage" in summary["mean"] else {},
            began=self.base.began if self.base and trained_rounds else took_over(self.trained.folder),
            environment={"simulated": [name for name, one in tested.items() if one.simulated]},
        )
        finished = FinishedRun(experiment, result.as_dict(), self.trained.state, [], columns, None, log, validated)
        write_tables(tracker, self.folder, finished)
        write_wire(tracker, self.folder, log)
        return result

    def _columns(self, progress: Progress, log: WireLog) -> Iterable[dict[str, Any]]:
        """The columns of the scores. If a shard is on another node, each site is scored on its own node."""
        tested, rule = self.sites.tested, unseen_policy(self.experiment, self._applied)
        operators = {name: self.experiment.tested_at(name) for name in tested}
        if not self.sites.remote_sites:
            return scored(self._applied, tested, operators, rule, progress.update, self._parts, log, validation=True)
        from fedrecon.platform.inference.remote_scoring import RemoteTest, scored_remotely

        progress.update(f"scoring the test subjects of {', '.join(tested)} on their nodes")
        test = RemoteTest(self._applied, operators, rule, self._parts)
        resources, context = self.experiment.resources, self.context
        if context.pool is not None:
            context.pool.close()  # idle actors of the training would hold the bundles of the tasks
        watch = Watch(None, progress.late, progress.trouble, self.folder.path / LIVENESS)
        return scored_remotely(test, tested, resources, context.address, context.bundle_members, log, watch)

    @property
    def _applied(self) -> TrainedRun:
        """The trained run with this experiment's own evaluation and its settings that act only at inference."""
        return replace(self.trained, experiment=self.experiment.alone)


def training_of_test(experiment: Experiment, training_digest: str, workspace: Path) -> RunFolder | None:
    """The run whose network a test takes; None if it has to be trained, or calibrated, first."""
    source = find_trained_run(workspace, training_digest, experiment)
    return source if source is not None and calibrates(source, experiment) else None


def calibrates(source: RunFolder, experiment: Experiment) -> bool:
    """Whether the run found the temperature that this experiment without ``test`` would find; true without a spread.

    A prior's training knows no operator, so the run of another operator can have this training. Otherwise the
    experiment is run without ``test``: it takes over the training and finds its own temperature.
    """
    own = experiment.method
    if not own.has_spread:
        return True
    trained = TrainedRun.of(source)
    sites, other = trained.images.sites, trained.experiment
    return own == other.method and calibration(experiment, sites) == calibration(other, sites)


def calibration(experiment: Experiment, sites: Iterable[str]) -> dict[str, Any]:
    """What decides the temperature beside the network and the method: how validation subjects are measured and scored.

    Pictures, the rounds of validation and the number of test slices do not.
    """
    own = experiment.evaluation
    scoring = {key: value for key, value in own.selection().items() if key not in ("every", "max_slices")}
    return {
        "operators": {site: experiment.operator_at(site).science() for site in sites},
        "evaluation": {**scoring, "slices": own.slices_of("validation")},
    }


def find_trained_run(workspace: Path, training_digest: str, experiment: Experiment) -> RunFolder | None:
    """A run that finished this training, if the experiment may take it over and its last checkpoint can be read."""
    source = find_training(workspace, training_digest, experiment.resources)
    found = None if source is None else source.checkpoints.latest()
    if source is None or found is None:
        return None
    curve = [CommittedRound(**one) for one in found[1].get("curve", ())]
    ended = found[1].get("taken_over") or out_of_patience(curve, experiment.training.patience)
    return source if ended or found[0].round == experiment.rounds else None


def unseen_policy(experiment: Experiment, trained: TrainedRun) -> UnseenPolicy:
    """The experiment's policy for sites that did not train."""
    test = experiment.test
    if test is None:
        return UnseenPolicy()
    consented = trained.experiment.publish_private
    return UnseenPolicy.of(trained.members, consented, test.unseen, epochs=test.fine_tune_epochs)
