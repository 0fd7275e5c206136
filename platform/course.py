"""The course of one experiment, round by round, from its data to its result and record."""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.cohort import check_experiment, images, n_slices, open_sites
from fedrecon.platform.model import check_network, network_choice, network_layout
from fedrecon.platform.record import Committed
from fedrecon.platform.results import Result
from fedrecon.platform.workspace import RunFolder, find_trained, note_trained
from fedrecon.sites.errors import RunError

if TYPE_CHECKING:
    from fedrecon.platform.crew import Crew
    from fedrecon.platform.experiment import Experiment
    from fedrecon.platform.progress import Progress
    from fedrecon.platform.record import Record
    from fedrecon.platform.scorer import Scorer
    from fedrecon.platform.tracking import Ended, Store, Tracker
    from fedrecon.sites.settings import Plan
    from fedrecon.sites.shard import Shard
    from fedrecon.sites.wire import State

TRACKING_EXPERIMENT = "fedrecon"


@dataclass(frozen=True)
class Surroundings:
    """Where and for whom an experiment runs: nothing of it changes a result.

    Attributes:
        workspace, address, tracking_uri, rerun, tags: see :func:`run`.
        crew: ``actors``, ``in-process``, or ``auto``: in process where one device holds all sites anyway.
        store: of the tracker; None opens the one at ``tracking_uri``.
        progress: whom to tell; None tells the terminal.
        name: of the run in the tracker; None says what it is.
        bundles: for whom the placement group of the Tune trial that this process is holds a bundle each, after its own.
    """

    workspace: Path
    crew: str = "actors"
    address: str | None = None
    tracking_uri: str | None = None
    rerun: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    store: Store | None = None
    progress: Callable[[int, int], Progress] | None = None
    name: str | None = None
    bundles: Sequence[str] = ()


def steps(chosen: Experiment, around: Surroundings) -> Generator[Committed, None, Result]:
    """:func:`run`, standing still after every committed round; a closed generator leaves the run resumable.

    Yields:
        first the rounds that were committed before, then those that this call trains.

    Returns:
        the result.
    """
    if chosen.test is not None:
        from fedrecon.platform.transfer import tested

        return (yield from tested(chosen, around))
    shards = open_sites(chosen.sites, None if around.crew == "in-process" else around.address)
    check_experiment(chosen, shards)
    check_network(chosen, shards)
    contents = {name: shard.content_hash for name, shard in shards.items()}
    folder = RunFolder(around.workspace, chosen.digest(contents))
    with locked(folder):
        if around.rerun:
            folder.set_aside()
        elif (found := folder.result()) is not None:
            if (kept := folder.checkpoints.latest()) is not None:
                yield from (Committed(**one) for one in kept[1].get("curve", ()))
            return Result(**{**found, "resumed_from": found["rounds"], "trained_rounds": 0})
        return (yield from _Run(chosen, shards, contents, folder, around).go())


class _Run:
    """The steps of one call, with what they share."""

    def __init__(
        self,
        experiment: Experiment,
        shards: Mapping[str, Shard],
        contents: Mapping[str, str],
        folder: RunFolder,
        around: Surroundings,
    ) -> None:
        self.experiment, self.shards, self.folder, self.around = experiment, shards, folder, around
        self.in_process = around.crew == "in-process" or (around.crew == "auto" and _one_device(around.address))
        self.training_digest = experiment.training_digest(contents)
        self.roster = experiment.method.roster(list(shards)) if experiment.trains else {s: (s,) for s in shards}
        limit = experiment.training.slices_at
        self.n_slices = {
            m: sum(n_slices(shards[s], "train", limit(s)) for s in held) for m, held in self.roster.items()
        }
        self.source = self._trained_elsewhere()

    @property
    def _parts(self) -> Path:
        """Where scores are kept in parts until the result is safe."""
        return self.folder.path / "parts"

    def go(self) -> Generator[Committed, None, Result]:
        from fedrecon.platform.progress import Progress
        from fedrecon.platform.scorer import forget

        tracker = self._open_tracker()
        found = self.folder.checkpoints.latest()
        start = found[0].round if found else 0
        progress = (self.around.progress or Progress)(self.experiment.rounds, start)
        status: Ended = "FAILED"
        try:
            self._say(progress, tracker, start)
            crew = self._crew()
            try:
                result = yield from self._train_and_score(tracker, crew, progress, found)
            finally:
                crew.close()
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit, GeneratorExit):  # Ray turns SIGTERM into SystemExit
            status = "KILLED"
            raise
        finally:
            progress.close()
            tracker.finish(status)
        self.folder.save_result(result.as_dict())
        forget(self._parts)
        return result

    def _train_and_score(
        self, tracker: Tracker, crew: Crew, progress: Progress, found: Any
    ) -> Generator[Committed, None, Result]:
        from fedrecon.platform.federation import rounds
        from fedrecon.platform.record import Record, flat_metrics, summarise
        from fedrecon.platform.results import Finished, write_artifacts
        from fedrecon.platform.scorer import Scorer

        experiment = self.experiment
        tuned = {} if experiment.trains else crew.tune()
        environment = self._environment(crew, found)
        record = Record(tracker, self.folder.checkpoints, progress, found[1] if found else {})
        scorer = Scorer(crew, experiment.method, self._parts, progress.going)
        if found is not None:
            state = found[0]
            resumed_from = state.round
            yield from list(record.curve)
        elif self.source is not None:
            state = self._take_over(record, scorer, tracker)
            resumed_from = state.round
            yield record.curve[-1]
        else:
            state, resumed_from = self._begin(), 0
            self.folder.checkpoints.save(state, record.content)
        state = yield from rounds(experiment, scorer, record, state, self.n_slices)
        if self.training_digest is not None and self.source is None:
            note_trained(self.folder, self.training_digest)
        progress.waiting("scoring the test subjects")
        order = experiment.method.order_to_score(state)
        scored = scorer(order, "test")
        summary = summarise(scored.columns)
        timed = {"test/seconds_per_slice": scored.seconds_per_slice}
        tracker.metrics(state.round, flat_metrics(summary, prefix="test/") | timed)
        tracker.flush()
        result = Result(
            run_id=tracker.run_id,
            digest=self.folder.digest,
            status="finished",
            rounds=state.round,
            resumed_from=resumed_from,
            trained_rounds=state.round - resumed_from,
            bytes_up=sum(row["bytes_up"] for row in record.rounds),
            bytes_down=sum(row["bytes_down"] for row in record.rounds),
            sites=summary["sites"],
            mean=summary["mean"],
            seconds_per_slice=scored.seconds_per_slice,
            missing_sites=tuple(crew.dead),
            name=experiment.name,
            training_digest=self.training_digest,
            validation=record.validation,
            environment={**environment, "tuned": {m: one["chosen"].model_dump() for m, one in tuned.items()}},
        )
        finished = Finished(experiment, result.as_dict(), state, record.rounds, scored.columns, self._layout())
        write_artifacts(tracker, self.folder, finished, crew)
        return result

    def _trained_elsewhere(self) -> RunFolder | None:
        """A finished run of this workspace with the same training, which need not be done again."""
        if self.training_digest is None or self.around.rerun:
            return None
        source = find_trained(self.folder.workspace, self.training_digest)
        return None if source is None or source.digest == self.folder.digest else source

    def _take_over(self, record: Record, scorer: Scorer, tracker: Tracker) -> State:
        """The state that another run trained, scored on this experiment's validation subjects and committed."""
        assert self.source is not None
        found = self.source.checkpoints.latest()
        if found is None:
            raise RunError(f"the checkpoint of run {self.source.digest}, which has the same training, cannot be read")
        state, kept = found
        record.rounds = list(kept["rounds"])
        last = kept["curve"][-1]["metrics"] if kept.get("curve") else {}
        losses = {key: value for key, value in last.items() if key.endswith("/loss")}
        tracker.set_tags({"fedrecon.trained_by": self.source.digest})
        panels = self.experiment.evaluation.panels
        record.take_over(state, losses, scorer.validation(state, last=True, panels=panels))
        return state

    def _open_tracker(self) -> Tracker:
        experiment = self.experiment
        tracker = open_run(experiment, self.folder, self.training_digest, self.around)
        self.folder.note_run({
            "run_id": tracker.run_id,
            "experiment": experiment.as_dict(),
            "images": asdict(images(self.shards, experiment.scale)),
            "subjects": {name: dict(shard.subjects) for name, shard in self.shards.items()},
        })  # fmt: skip
        return tracker

    def _say(self, progress: Progress, tracker: Tracker, start: int) -> None:
        experiment = self.experiment
        what = experiment.strategy["name"] if experiment.trains else experiment.reconstructor["name"]
        going = f", going on after round {start}" if start else ""
        progress.say(
            f"{experiment.name}: {what} at {len(self.shards)} sites ({', '.join(self.shards)}), digest "
            f"{self.folder.digest}, run {tracker.run_id}{going}"
        )

    def _crew(self) -> Crew:
        plans = [self._plan(member, held) for member, held in self.roster.items()]
        if self.in_process:
            from fedrecon.platform.crew import InProcessCrew

            return InProcessCrew(plans)
        from fedrecon.platform.crew_ray import RayCrew

        return RayCrew(plans, self.experiment.resources, self.around.address, self.around.bundles)

    def _plan(self, member: str, held: Sequence[str]) -> Plan:
        from fedrecon.sites.settings import Plan

        experiment = self.experiment
        return Plan(
            member=member,
            shards={site: str(self.shards[site].path) for site in held},
            operators={site: experiment.operator_at(site) for site in held},
            method=experiment.method,
            network=network_choice(experiment),
            images=images(self.shards, experiment.scale),
            training=experiment.training,
            evaluation=experiment.evaluation,
            seed=experiment.seed,
            reconstructor=experiment.classical,
            memory=str(self.folder.memory(member)),
            memory_source=str(self.source.memory(member)) if self.source else None,
            threads=experiment.resources.threads,
        )

    def _begin(self) -> Any:
        import numpy as np

        from fedrecon.sites.parameters import to_vector

        layout = self._layout()
        shared = np.zeros(0, np.float32) if layout is None else to_vector(layout.shared)
        return self.experiment.method.begin(shared)

    def _layout(self) -> Any:
        """The network's parameters on the driver: their first values, names and shapes."""
        return network_layout(self.experiment, self.shards)

    def _environment(self, crew: Crew, found: Any) -> dict[str, Any]:
        """Where it runs; warns when a run goes on elsewhere than it began, where the last bits may differ."""
        import sys

        members = crew.describe()
        keys = ("device", "threads", "torch", "instruction_set")
        environment = {
            "python": sys.version.split()[0],
            "crew": "in-process" if self.in_process else "ray actors",
            "members": members,
            "simulated": [name for name, shard in self.shards.items() if shard.simulated],
        }
        before = self.folder.environment()
        if before is None or found is None:
            self.folder.save_environment(environment)
        elif any(before["members"].get(m, {}).get(k) != one[k] for m, one in members.items() for k in keys):
            import warnings

            warnings.warn(
                "this run began on other devices, instruction sets, library versions or thread counts: it goes on, but "
                "its last bits may differ from an uninterrupted run's",
                RuntimeWarning,
                stacklevel=2,
            )
        return environment


def open_run(experiment: Experiment, folder: RunFolder, training_digest: str | None, around: Surroundings) -> Tracker:
    """The experiment's run in the tracker, found by its digest or made."""
    from fedrecon.platform.tracking import run_store

    tags = {
        "fedrecon.training_digest": training_digest or "none",
        "fedrecon.strategy": experiment.strategy["name"] if experiment.trains else experiment.reconstructor["name"],
        **({"mlflow.source.git.commit": commit} if (commit := _git_commit()) else {}),
        **({"fedrecon.moved_data": "true"} if experiment.trains and experiment.method.moves_data else {}),
        **around.tags,
    }
    store = around.store or run_store(around.tracking_uri, folder.workspace)
    name = around.name or _run_name(experiment)
    return store.open(TRACKING_EXPERIMENT, name, folder.digest, experiment.flat(), tags, around.rerun)


def _run_name(experiment: Experiment) -> str:
    """What tells runs apart in a list of them."""
    what = f"{experiment.strategy['name']} {experiment.network['name']}" if experiment.trains else ""
    measured = experiment.operator_at("").label()
    parts = (experiment.name, what or experiment.reconstructor["name"], measured, f"seed {experiment.seed}")
    return " · ".join(parts)


@contextlib.contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """One driver per digest and workspace at a time."""
    folder.lock.parent.mkdir(parents=True, exist_ok=True)
    with folder.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"the same experiment (digest {folder.digest}) is running in {folder.workspace}") from None
        yield


def _one_device(address: str | None) -> bool:
    """Whether one device would hold all sites anyway, so that actors could only cost."""
    if address is not None:
        return False
    import torch

    return torch.cuda.device_count() <= 1


@cache
def _git_commit() -> str:
    """The commit of the working directory, or nothing outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
