"""The course of an experiment that tests its network elsewhere: under other operators, at sites that did not train."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.course import Surroundings, locked, open_run, steps
from fedrecon.platform.evaluate import scored
from fedrecon.platform.places import Sites
from fedrecon.platform.record import Committed, flat_metrics, summarise
from fedrecon.platform.results import Finished, Result, write_tables
from fedrecon.platform.trained import Trained
from fedrecon.platform.unseen import Unseen
from fedrecon.platform.workspace import RunFolder, find_trained

if TYPE_CHECKING:
    from fedrecon.platform.experiment import Experiment
    from fedrecon.platform.progress import Progress
    from fedrecon.platform.tracking import Ended, Tracker


def tested(chosen: Experiment, around: Surroundings) -> Generator[Committed, None, Result]:
    """See :func:`fedrecon.platform.course.steps`; trains first where nobody has.

    The training is a run of its own, the one that the experiment without ``test`` would be.
    """
    address = None if around.crew == "in-process" else around.address
    sites = Sites.of(chosen, address)
    sites.check(chosen)
    folder = RunFolder(around.workspace, sites.digest(chosen))
    with locked(folder):
        if around.rerun:
            folder.set_aside()
        elif (found := folder.result()) is not None:
            return Result(**{**found, "resumed_from": found["rounds"], "trained_rounds": 0})
        training_digest = sites.training_digest(chosen)
        assert training_digest is not None
        trained_rounds, source = 0, find_ended(around.workspace, training_digest, chosen.rounds)
        if source is None:
            base = yield from steps(chosen.alone, replace(around, name=None, rerun=False))
            trained_rounds, source = base.trained_rounds, RunFolder(around.workspace, base.digest)
        return _Test(chosen, sites, folder, Trained.of(source), around).go(training_digest, trained_rounds)


@dataclass(frozen=True)
class _Test:
    experiment: Experiment
    sites: Sites
    folder: RunFolder
    trained: Trained
    around: Surroundings

    def go(self, training_digest: str, trained_rounds: int) -> Result:
        from fedrecon.platform.scorer import forget

        tracker = open_run(self.experiment, self.folder, training_digest, self.around)
        tracker.set_tags({"fedrecon.trained_by": self.trained.folder.digest})
        status: Ended = "FAILED"
        try:
            self._note(tracker.run_id)
            result = self._score(tracker, training_digest, trained_rounds)
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into SystemExit
            status = "KILLED"
            raise
        finally:
            tracker.finish(status)
        self.folder.save_result(result.as_dict())
        forget(self._parts)
        return result

    @property
    def _parts(self) -> Path:
        return self.folder.path / "parts"

    def _note(self, run_id: str) -> None:
        self.folder.note_run({
            "run_id": run_id,
            "experiment": self.experiment.as_dict(),
            "images": asdict(self.trained.images),
            "subjects": {name: dict(shard.subjects) for name, shard in self.sites.trained.items()},
            "trained_by": self.trained.folder.digest,
        })  # fmt: skip

    def _score(self, tracker: Tracker, training_digest: str, trained_rounds: int) -> Result:
        from fedrecon.platform.progress import Progress
        from fedrecon.platform.tables import join_scores

        experiment, places = self.experiment, self.sites.tested
        progress = (self.around.progress or Progress)(0, 0)
        columns = join_scores(self._columns(progress))
        progress.close()
        summary = summarise(columns)
        rounds = self.trained.state.round
        tracker.metrics(rounds, flat_metrics(summary, prefix="test/"))
        result = Result(
            run_id=tracker.run_id,
            digest=self.folder.digest,
            status="finished",
            rounds=rounds,
            resumed_from=rounds - trained_rounds,
            trained_rounds=trained_rounds,
            bytes_up=0,
            bytes_down=0,
            sites=summary["sites"],
            mean=summary["mean"],
            name=experiment.name,
            training_digest=training_digest,
            environment={"simulated": [name for name, one in places.items() if one.simulated]},
        )
        self._write(tracker, Finished(experiment, result.as_dict(), self.trained.state, [], columns, None))
        return result

    def _columns(self, progress: Progress) -> Iterable[dict[str, Any]]:
        """Of the scores: of shards that are all here in this process, else of each site on its own node."""
        places, rule = self.sites.tested, rule_of(self.experiment, self._applied)
        operators = {name: self.experiment.tested_at(name) for name in places}
        if not self.sites.away:
            return scored(self._applied, places, operators, rule, progress.going, self._parts)
        from fedrecon.platform.remote import Errand, scored_there

        progress.going(f"scoring the test subjects of {', '.join(places)} on their nodes")
        errand = Errand(self._applied, operators, rule, self._parts)
        return scored_there(errand, places, self.experiment.resources, self.around.address, self.around.bundles)

    @property
    def _applied(self) -> Trained:
        """The trained network under this experiment's own evaluation, and what acts at inference alone."""
        return replace(self.trained, experiment=self.experiment.alone)

    def _write(self, tracker: Tracker, finished: Finished) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder.path) as scratch:
            place = Path(scratch)
            write_tables(place, finished)
            for path in sorted(place.iterdir()):
                tracker.artifact(path)


def find_ended(workspace: Path, training_digest: str, rounds: int) -> RunFolder | None:
    """A run with this training whose last committed round is the last of all; one that lost a checkpoint is none."""
    source = find_trained(workspace, training_digest)
    found = None if source is None else source.checkpoints.latest()
    return source if found is not None and found[0].round == rounds else None


def rule_of(experiment: Experiment, trained: Trained) -> Unseen:
    """What the experiment says of sites that did not train."""
    test = experiment.test
    return Unseen() if test is None else Unseen.of(trained, test.unseen, (), test.fine_tune_epochs)
