"""One experiment from its description to its result: ``fedrecon.run``."""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.cohort import check_experiment, images, n_slices, open_sites
from fedrecon.platform.experiment import Experiment
from fedrecon.platform.workspace import RunFolder, default_workspace
from fedrecon.sites.errors import RunError

if TYPE_CHECKING:
    from fedrecon.platform.crew import Crew
    from fedrecon.platform.progress import Progress
    from fedrecon.platform.tracking import Ended, Tracker
    from fedrecon.sites.settings import Plan
    from fedrecon.sites.shard import Shard

TRACKING_EXPERIMENT = "fedrecon"


@dataclass(frozen=True)
class Result:
    """What a run came to; :meth:`as_dict` is the JSON of ``fedrecon run --json``.

    Attributes:
        run_id: of the tracker. digest: of the experiment. status: ``finished``.
        rounds: committed rounds. resumed_from: the round after which this call went on, 0 for a new run.
        trained_rounds: rounds that this call itself trained.
        bytes_up, bytes_down: parameters over all rounds and members.
        sites: by name psnr (dB), ssim, nmse, n_volumes, n_slices, with_data_consistency and zero_filled (test
            subjects). mean: the same keys, unweighted over the sites.
        missing_sites: members that stayed dead, where ``min_sites`` let the run go on without them.
    """

    run_id: str
    digest: str
    status: str
    rounds: int
    resumed_from: int
    trained_rounds: int
    bytes_up: int
    bytes_down: int
    sites: Mapping[str, Any]
    mean: Mapping[str, Any]
    missing_sites: Sequence[str] = ()
    name: str = ""
    training_digest: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]


def run(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    workspace: Path | str | None = None,
    in_process: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
    rerun: bool = False,
    tags: Mapping[str, str] | None = None,
) -> Result:
    """Runs one experiment, or goes on where it was interrupted, or returns its result if it is finished.

    Args:
        experiment: an experiment, its mapping, or the path of its YAML file.
        overrides: ``key.path=value``.
        workspace: holds mlflow.db, artifacts and checkpoints; default FEDRECON_WORKSPACE or ./workspace.
        in_process: all sites in this process, without Ray; the same bits.
        address: of a running Ray cluster; None starts one on this machine.
        tracking_uri: of an MLflow server; None takes MLFLOW_TRACKING_URI or the workspace's mlflow.db.
        rerun: run again though there is a finished run; the older one is kept aside.
        tags: for MLflow (the sweep or study it belongs to).

    Raises:
        InputError: the experiment, its data or its resources are wrong; nothing was started.
        RunError: the run failed; the same call goes on from the last committed round.
    """
    chosen = Experiment.read(experiment, overrides)
    shards = open_sites(chosen.sites, None if in_process else address)
    check_experiment(chosen, shards)
    contents = {name: shard.content_hash for name, shard in shards.items()}
    folder = RunFolder(Path(workspace) if workspace else default_workspace(), chosen.digest(contents))
    in_process = in_process or chosen.resources.crew == "in-process"
    with _locked(folder):
        if rerun:
            folder.set_aside()
        elif (found := folder.result()) is not None:
            resumed = found["rounds"]
            return Result(**{**found, "resumed_from": resumed, "trained_rounds": 0})
        return _Run(chosen, shards, contents, folder, in_process, address, tracking_uri, rerun, tags or {}).go()


class _Run:
    """The steps of one call, with what they share."""

    def __init__(
        self,
        experiment: Experiment,
        shards: Mapping[str, Shard],
        contents: Mapping[str, str],
        folder: RunFolder,
        in_process: bool,
        address: str | None,
        tracking_uri: str | None,
        rerun: bool,
        tags: Mapping[str, str],
    ) -> None:
        self.experiment, self.shards, self.folder = experiment, shards, folder
        self.in_process, self.address, self.tracking_uri = in_process, address, tracking_uri
        self.fresh, self.tags = rerun, tags
        self.training_digest = experiment.training_digest(contents)
        self.roster = experiment.method.roster(list(shards)) if experiment.trains else {s: (s,) for s in shards}
        self.n_slices = {m: sum(n_slices(shards[s], "train") for s in held) for m, held in self.roster.items()}

    def go(self) -> Result:
        from fedrecon.platform.progress import Progress

        tracker = self._open_tracker()
        found = self.folder.checkpoints.latest()
        start = found[0].round if found else 0
        progress = Progress(self.experiment.rounds, start)
        status: Ended = "FAILED"
        try:
            self._say(progress, tracker, start)
            crew = self._crew()
            try:
                result = self._train_and_score(tracker, crew, progress, found)
            finally:
                crew.close()
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into SystemExit
            status = "KILLED"
            raise
        finally:
            progress.close()
            tracker.finish(status)
        self.folder.save_result(result.as_dict())
        return result

    def _train_and_score(self, tracker: Tracker, crew: Crew, progress: Progress, found: Any) -> Result:
        from fedrecon.platform.federation import federate
        from fedrecon.platform.record import Record, flat_metrics, summarise
        from fedrecon.platform.results import Finished, write_artifacts
        from fedrecon.platform.tables import join_scores

        experiment = self.experiment
        tuned = {} if experiment.trains else crew.tune()
        state = found[0] if found else self._begin()
        rounds = found[1]["rounds"] if found else []
        resumed_from = state.round
        environment = self._environment(crew, found)
        record = Record(tracker, self.folder.checkpoints, progress, rounds)
        if found is None:
            self.folder.checkpoints.save(state, {"rounds": rounds})
        state = federate(experiment, crew, record, state, self.n_slices)
        progress.waiting("scoring the test subjects")
        order = experiment.method.order(state)
        columns = join_scores(one.columns for one in crew.evaluate(order, "test"))
        summary = summarise(columns)
        tracker.metrics(state.round, flat_metrics(summary, prefix="test/"))
        tracker.flush()
        result = Result(
            run_id=tracker.run_id,
            digest=self.folder.digest,
            status="finished",
            rounds=state.round,
            resumed_from=resumed_from,
            trained_rounds=state.round - resumed_from,
            bytes_up=sum(row["bytes_up"] for row in rounds),
            bytes_down=sum(row["bytes_down"] for row in rounds),
            sites=summary["sites"],
            mean=summary["mean"],
            missing_sites=tuple(crew.dead),
            name=experiment.name,
            training_digest=self.training_digest,
            environment={**environment, "tuned": {m: one["chosen"].model_dump() for m, one in tuned.items()}},
        )
        finished = Finished(experiment, result.as_dict(), state, rounds, columns, self._layout())
        write_artifacts(tracker, self.folder, finished, crew)
        return result

    def _open_tracker(self) -> Tracker:
        from fedrecon.platform.tracking import open_tracker

        experiment = self.experiment
        tags = {
            "fedrecon.training_digest": self.training_digest or "none",
            "fedrecon.strategy": experiment.strategy["name"] if experiment.trains else experiment.reconstructor["name"],
            **({"mlflow.source.git.commit": commit} if (commit := _git_commit()) else {}),
            **({"fedrecon.moved_data": "true"} if experiment.trains and experiment.method.moves_data else {}),
            **self.tags,
        }
        tracker = open_tracker(
            self.tracking_uri,
            self.folder.workspace,
            TRACKING_EXPERIMENT,
            _run_name(experiment),
            self.folder.digest,
            experiment.flat(),
            tags,
            self.fresh,
        )
        self.folder.note_run({
            "run_id": tracker.run_id,
            "experiment": experiment.as_dict(),
            "images": asdict(images(self.shards)),
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

        return RayCrew(plans, self.experiment.resources, self.address)

    def _plan(self, member: str, held: Sequence[str]) -> Plan:
        from fedrecon.sites.settings import Plan

        experiment = self.experiment
        return Plan(
            member=member,
            shards={site: str(self.shards[site].path) for site in held},
            operators={site: experiment.operator_at(site) for site in held},
            method=experiment.method,
            network=network_choice(experiment),
            images=images(self.shards),
            training=experiment.training,
            evaluation=experiment.evaluation,
            seed=experiment.seed,
            reconstructor=experiment.classical,
            memory=str(self.folder.memory(member)),
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


def _run_name(experiment: Experiment) -> str:
    """What tells runs apart in a list of them."""
    what = f"{experiment.strategy['name']} {experiment.network['name']}" if experiment.trains else ""
    rate = f"{experiment.operator['mask']} R={experiment.operator['acceleration']:g}"
    parts = (experiment.name, what or experiment.reconstructor["name"], rate, f"seed {experiment.seed}")
    return " · ".join(parts)


def network_choice(experiment: Experiment) -> Any:
    """The network, or None where nothing is trained."""
    from fedrecon.strategies.networks.network import NetworkChoice

    return NetworkChoice.parse(experiment.network) if experiment.trains else None


def network_layout(experiment: Experiment, shards: Mapping[str, Shard]) -> Any:
    """:class:`Parameters` of a new network for these sites, or None where nothing is trained."""
    if not experiment.trains:
        return None
    from fedrecon.sites.parameters import Parameters
    from fedrecon.sites.site import new_network

    method = experiment.method
    model = new_network(method, network_choice(experiment), images(shards), experiment.seed)
    return Parameters(model, lambda name: method.shares(name, model))


@contextlib.contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    """One driver per digest and workspace at a time."""
    folder.lock.parent.mkdir(parents=True, exist_ok=True)
    with folder.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"the same experiment (digest {folder.digest}) is running in {folder.workspace}") from None
        yield


def _git_commit() -> str:
    """The commit of the working directory, or nothing outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
