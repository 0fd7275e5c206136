"""A training run: one experiment, round by round, from its data to its result and its artifacts."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.resources import UNSCORED
from fedrecon.platform.config.science import science_version
from fedrecon.platform.consortium.budget import budgets, warnings
from fedrecon.platform.consortium.checks import check_experiment, noted_shards, scored_sites, warn_of_one_shard
from fedrecon.platform.consortium.code import source_code, warn_of_changed_code
from fedrecon.platform.consortium.consent import consented, what_leaves
from fedrecon.platform.consortium.network import check_network, images, network_layout, private_members, site_plan
from fedrecon.platform.consortium.shards import n_slices, open_sites
from fedrecon.platform.execution.liveness import LIVENESS, Patience, Watch
from fedrecon.platform.execution.wire_log import WIRE_LINES, WireLog
from fedrecon.platform.federation.attendance import (
    MISSED,
    START,
    TEST,
    Attendance,
    find_training,
    in_words,
    missed_by,
    of_training,
)
from fedrecon.platform.federation.mosaic import Mosaic
from fedrecon.platform.federation.recorder import CommittedRound, loss_metrics, reported
from fedrecon.platform.federation.score_gate import ScoreGate
from fedrecon.platform.runs.context import Recording, RunContext, fresh_or_kept, locked, recording, send_rest
from fedrecon.platform.runs.mlflow_record import datasets
from fedrecon.platform.runs.publishing import note_consent, publish_later
from fedrecon.platform.runs.results import ANEW, Result, took_over
from fedrecon.platform.runs.run_environment import run_environment
from fedrecon.platform.runs.warm_start import begin_with, check_start, missed_at_start, noted_start, start_values
from fedrecon.platform.storage.workspace import RunFolder, find_trained, note_trained
from fedrecon.sites.errors import RunError, listed
from fedrecon.sites.phases import phase

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.execution.executor import Executor
    from fedrecon.platform.federation.progress import Progress
    from fedrecon.platform.federation.recorder import Recorder
    from fedrecon.platform.federation.scorer import Scorer
    from fedrecon.platform.storage.journal import Journal
    from fedrecon.sites.data.shard import Shard
    from fedrecon.sites.member.site_plan import SitePlan
    from fedrecon.sites.wire import State, TunedReconstructor


def train_steps(chosen: Experiment, context: RunContext) -> Generator[CommittedRound, None, Result]:
    """The rounds of an experiment that is tested at its own sites; see :func:`fedrecon.platform.runs.run.steps`."""
    shards = open_sites(chosen.sites, None if context.executor == "in-process" else context.address)
    warn_of_one_shard(shards)
    check_experiment(chosen, shards)
    contents = {name: shard.content_hash for name, shard in shards.items()}
    folder = RunFolder(context.workspace, chosen.digest(contents))
    context.check_tracking(folder)
    check_network(chosen, shards)
    check_start(chosen, scored_sites(chosen, shards), context.workspace, shards)
    with locked(folder):
        context = fresh_or_kept(chosen, folder, context)
        if (found := folder.result()) is not None:
            if (kept := folder.checkpoints.latest()) is not None:
                yield from reported(kept[1].get("curve", ()), bool(kept[1].get("scored_start")))
            note_consent(chosen, folder)
            publish_later(chosen, folder, context)
            found = send_rest(folder, context)
            warn_of_changed_code(folder.noted(), "this result")
            return Result.found(found)
        return (yield from _Run(chosen, shards, contents, folder, context).go())


class _Run:
    """One call of :func:`train_steps`: its rounds, and the objects that they share."""

    def __init__(
        self,
        experiment: Experiment,
        shards: Mapping[str, Shard],
        contents: Mapping[str, str],
        folder: RunFolder,
        context: RunContext,
    ) -> None:
        self.experiment, self.shards, self.folder, self.context = experiment, shards, folder, context
        self.in_process = context.executor == "in-process" or (
            context.executor == "auto" and _one_device(context.address)
        )
        self.training_digest = experiment.training_digest(contents)
        self.roster = experiment.method.roster(list(shards)) if experiment.trains else {s: (s,) for s in shards}
        limit = experiment.training.slices_at
        self.n_slices = {
            m: sum(n_slices(shards[s], "train", limit(s)) for s in held) for m, held in self.roster.items()
        }
        self.start_values = start_values(experiment, folder.workspace)
        if self.start_values is not None:
            begin_with(self._layout(), self.start_values)
        self.source = None if context.rerun else other_training(experiment, folder, self.training_digest)
        self.wire_log = WireLog(folder.path / WIRE_LINES)
        self.attendance = Attendance(folder.path / MISSED, list(self.roster))

    @property
    def _mosaic(self) -> Mosaic:
        """The sites whose pictures leave them."""
        draws = self.experiment.evaluation.draws
        return Mosaic(tuple(name for name, shard in self.shards.items() if draws(shard.origin)))

    @property
    def _score_gate(self) -> ScoreGate:
        """What the members can be asked to score."""
        operators = {site: self.experiment.operator_at(site) for site in self.shards}
        return ScoreGate.of(self.experiment, self.shards, operators, self.roster)

    @property
    def _pictured(self) -> bool:
        """Whether pictures of the rounds are recorded."""
        return self.experiment.trains and bool(self._mosaic.sites)

    @property
    def _parts(self) -> Path:
        """Folder for the scores of finished batches, until the result is saved."""
        return self.folder.path / "parts"

    def _committed(self, folder: RunFolder) -> tuple[State, dict[str, Any]] | None:
        """The newest committed round in the folder that this experiment can have, with its record; None without one."""
        if not folder.checkpoints.paths():
            return None
        return folder.checkpoints.latest(self.experiment.rounds, self._n_shared)

    @property
    def _n_shared(self) -> int:
        layout = self._layout()
        return 0 if layout is None else layout.n_shared

    def go(self) -> Generator[CommittedRound, None, Result]:
        from fedrecon.platform.federation.progress import Progress
        from fedrecon.platform.federation.scorer import forget

        before, found = self.folder.noted() or {}, self._committed(self.folder)
        if found is not None:
            warn_of_changed_code(before, f"round {found[0].round}, from which this run goes on,")
        with recording(self.experiment, self.folder, self.training_digest, self.context, self._pictured) as run:
            # The code of the first rounds stays noted: a result of two codes is never taken for one of today's alone.
            run.journal.datasets(datasets(self.shards))
            self._note(run.journal, source_code(self.experiment) if found is None else before.get("code"))
            start = found[0].round if found else 0
            progress = (self.context.progress or Progress)(self.experiment.rounds, start)
            run.say_with(progress.say)
            try:
                self.wire_log.round = start
                self._say(progress, run.journal, start)
                executor = self._executor(progress, found)
                try:
                    result = yield from self._train_and_score(run, executor, progress, found)
                finally:
                    executor.close()
            finally:
                progress.close()
            self.folder.save_result(result.as_dict())
        forget(self._parts)
        return result

    def _train_and_score(
        self, run: Recording, executor: Executor, progress: Progress, found: Any
    ) -> Generator[CommittedRound, None, Result]:
        from fedrecon.platform.federation.aggregate import diverged, exact_note, flat_metrics, scores_of, summarise
        from fedrecon.platform.federation.coverage import calibrated, coverage_metrics, temperature, uncertainty
        from fedrecon.platform.federation.mlflow_metrics import mlflow_metrics
        from fedrecon.platform.federation.recorder import Recorder
        from fedrecon.platform.federation.round_loop import rounds
        from fedrecon.platform.federation.scorer import Scorer
        from fedrecon.platform.runs.results import FinishedRun, write_artifacts
        from fedrecon.sites.scoring.tuning import tie

        experiment, tracker = self.experiment, run.journal
        facts = {
            "crew": "in-process" if self.in_process else "ray actors",
            "simulated": [name for name, shard in self.shards.items() if shard.simulated],
        }
        environment = run_environment(executor, self.folder, facts, progress.say, resumes=found is not None)
        tuned = {} if experiment.trains else self._tuned(executor)
        for line in filter(None, map(tie, tuned.values())):
            progress.say(line)
        record = Recorder(tracker, self.folder.checkpoints, progress, found[1] if found else {}, experiment.training)
        shown = progress.update, self._mosaic, progress.trouble
        scorer = Scorer(executor, experiment.method, self._score_gate, self._parts, *shown)
        if found is not None:
            state = found[0]
            resumed_from, began = state.round, f"went on after round {state.round}"
            if run.new:  # the rounds of a run that an earlier version began
                record.replay()
            yield from record.reported
        elif self.source is not None:
            state = self._take_over(record, scorer, tracker)
            resumed_from, began = state.round, took_over(self.source)
            yield record.curve[-1]
        else:
            state, resumed_from, began = self._begin(), 0, ANEW
            self.attendance.note(START, missed_at_start(experiment, self.folder.workspace))
            starts = experiment.trains and experiment.training.scores_start
            first = scorer.validation(state, last=False) if starts else None
            self.attendance.note(state.round, dict.fromkeys(executor.dead, UNSCORED))
            record.begin(state, first)
        due = self._pictured and (not state.round or experiment.scores_due(state.round))
        if due and not tracker.pictured(state.round):  # of a round that was committed before a crash
            record.picture(state.round, scorer.picture(state))
        state = yield from rounds(experiment, scorer, record, state, self.n_slices, self.attendance)
        committed, state = state.round, self._kept(record, state)
        n_rounds, n_trained = record.trained(committed), committed - resumed_from
        if self.training_digest is not None and self.source is None and self._is_better_source():
            note_trained(self.folder, self.training_digest)
        request = experiment.method.scoring_request(state)
        validated = (state.round == committed and record.validated) or scorer(request, "validation").columns
        factor = temperature(validated)
        scored = scorer(calibrated(request, factor), "test")
        self.attendance.note(TEST, dict.fromkeys(executor.dead, UNSCORED))
        if self.attendance.missed:
            tracker.set_tags({"fedrecon.missed_replies": in_words(self.attendance.missed)})
        summary = summarise(scored.columns)
        if note := exact_note(summary):
            progress.say(note)
        lost = diverged(record.rounds) if experiment.method.loss_falls and not record.kept else ""
        if lost:
            tracker.set_tags({"fedrecon.diverged": lost})
        timed = {"test/seconds_per_slice": scored.seconds_per_slice} | coverage_metrics(summary, factor)
        tracker.metrics(state.round, mlflow_metrics(flat_metrics(summary, prefix="test/") | timed))
        tracker.flush()
        result = Result(
            run_id=tracker.run_id,
            digest=self.folder.digest,
            status="finished",
            rounds=n_rounds,
            resumed_from=n_rounds - n_trained,
            trained_rounds=n_trained,
            kept_round=state.round if record.kept else None,
            bytes_up=sum(row["bytes_up"] for row in record.rounds),
            bytes_down=sum(row["bytes_down"] for row in record.rounds),
            sites=summary["sites"],
            mean=summary["mean"],
            seconds_per_slice=scored.seconds_per_slice,
            missing_sites=tuple(executor.dead),
            missed=self.attendance.missed,
            restarts=executor.restarts + sum(row["restarts"] for row in record.rounds[: n_rounds - n_trained]),
            name=experiment.name,
            training_digest=self.training_digest,
            validation=record.validation or scores_of(validated),
            uncertainty=uncertainty(factor) if "coverage" in summary["mean"] else {},
            began=began,
            environment={
                **environment,
                "budget": {name: str(one) for name, one in budgets(experiment, self.shards, record.replies).items()},
                "tuned": {m: dict(one.parameters) for m, one in tuned.items()},
                **({"diverged": lost} if lost else {}),
            },
        )
        layout = self._layout()
        finished = FinishedRun(
            experiment, result.as_dict(), state, record.table, scored.columns, layout, self.wire_log, validated,
            images(self.shards, experiment.scale),
        )  # fmt: skip
        write_artifacts(
            tracker, self.folder, finished, executor, self._published(layout, executor), scorer.mosaic, progress.trouble
        )
        return result

    def _tuned(self, executor: Executor) -> dict[str, TunedReconstructor]:
        with phase(f"tuning {self.experiment.reconstructor['name']} at {len(self.shards)} sites"):
            return executor.tune_reconstructors()

    def _kept(self, record: Recorder, state: State) -> State:
        """The state that is tested and exported: that of the best round if the experiment keeps it, else the last."""
        if not record.kept:
            return state
        kept = self.folder.checkpoints.kept()
        assert kept is not None
        record.tracker.set_tags({"fedrecon.kept_round": str(kept[0].round)})
        return kept[0]

    def _is_better_source(self) -> bool:
        """Whether other runs should take over this training: always, unless it missed replies and there is another."""
        assert self.training_digest is not None
        if not of_training(self.attendance.missed):
            return True
        return find_trained(self.folder.workspace, self.training_digest) is None

    def _take_over(self, record: Recorder, scorer: Scorer, tracker: Journal) -> State:
        """Takes over the state that another run trained: validates it under this experiment, and commits it."""
        assert self.source is not None
        found = self.source.checkpoints.kept(self.experiment.rounds, self._n_shared)
        if found is None:
            raise RunError(f"run {self.source.digest} has the same training, but its checkpoint cannot be read")
        warn_of_changed_code(self.source.noted(), "the training that is taken over")
        state, kept = found
        record.rounds = list(kept["rounds"])
        losses = next((loss_metrics(one["losses"]) for one in record.rounds if one["round"] == state.round), {})
        self.attendance.take_over(of_training(missed_by(self.source)[1]))
        tracker.set_tags({"fedrecon.trained_by": self.source.digest})
        validated = scorer.validation(state, last=True)
        record.take_over(state, losses, validated)
        record.picture(state.round, scorer.picture(state, validated.pictures))
        return state

    def _note(self, tracker: Journal, code: Mapping[str, str] | None) -> None:
        experiment = self.experiment
        self.folder.note_run({
            "run_id": tracker.run_id,
            "experiment": experiment.as_run(),
            "science_version": science_version(self.experiment.trains),
            "training_digest": self.training_digest,
            "images": asdict(images(self.shards, experiment.scale)),
            "code": code,
            **noted_shards(self.shards),
            "start": noted_start(experiment, self.folder.workspace),
        })  # fmt: skip

    def _say(self, progress: Progress, tracker: Journal, start: int) -> None:
        experiment = self.experiment
        what = experiment.strategy["name"] if experiment.trains else experiment.reconstructor["name"]
        resumed = f", going on after round {start}" if start else ""
        progress.say(
            f"{experiment.name}: {what} at {len(self.shards)} sites ({listed(self.shards)}), digest "
            f"{self.folder.digest}, run {tracker.run_id or '(MLflow has not made it yet)'}{resumed}"
        )
        for line in (*what_leaves(experiment, self.shards), *warnings(experiment, self.shards)):
            progress.say(line)

    def _published(self, layout: Any, executor: Executor) -> list[str]:
        """The members whose private part goes to the driver and into the tracker: those that consented."""
        members, _ = private_members(self.experiment, layout, list(self.shards))
        given = self.experiment.publish_private
        return [one for one in members if one in executor.members and consented(given, one)]

    def _executor(self, progress: Progress, found: Any) -> Executor:
        plans = [self._plan(member, held) for member, held in self.roster.items()]
        longest = max((row["seconds"] for row in found[1].get("rounds", ())), default=0.0) if found else 0.0
        watch = Watch(Patience(longest=longest), progress.late, progress.trouble, self.folder.path / LIVENESS)
        if self.in_process:
            if self.experiment.resources.fit_timeout != "auto":
                progress.say("resources.fit_timeout needs actors: nothing can end a site in this process")
            from fedrecon.platform.execution.executor import InProcessExecutor

            return InProcessExecutor(plans, self.wire_log, watch)
        from fedrecon.platform.execution.ray_executor import RayExecutor

        resources, context = self.experiment.resources, self.context
        bundles, log = context.bundle_members, self.wire_log
        return RayExecutor(plans, resources, context.address, bundles, wire_log=log, watch=watch, pool=context.pool)

    def _plan(self, member: str, held: Sequence[str]) -> SitePlan:
        experiment = self.experiment
        return site_plan(
            experiment,
            images(self.shards, experiment.scale),
            member,
            {site: str(self.shards[site].path) for site in held},
            {site: experiment.operator_at(site) for site in held},
            contents={site: self.shards[site].content_hash for site in held},
            memory=str(self.folder.memory(member)),
            memory_source=str(self.source.memory(member)) if self.source else None,
            memory_owner=self.training_digest or "",
            start=self.start_values,
        )

    def _begin(self) -> Any:
        import numpy as np

        from fedrecon.sites.training.parameters import to_vector

        layout = self._layout()
        if layout is None:
            return self.experiment.method.begin(np.zeros(0, np.float32))
        begin_with(layout, self.start_values)
        return self.experiment.method.begin(to_vector(layout.shared), layout.buffers)

    def _layout(self) -> Any:
        """The network's parameters on the driver: names, shapes and first values; None if nothing is trained."""
        return network_layout(self.experiment, self.shards)


def other_training(experiment: Experiment, folder: RunFolder, training_digest: str | None) -> RunFolder | None:
    """Another run of the workspace that finished the same training, so that it need not be done again; or None."""
    if training_digest is None:
        return None
    source = find_training(folder.workspace, training_digest, experiment.resources)
    return None if source is None or source.digest == folder.digest else source


def _one_device(address: str | None) -> bool:
    """Whether one device holds all sites anyway. Actors then only cost time."""
    if address is not None:
        return False
    import torch

    return torch.cuda.device_count() <= 1
