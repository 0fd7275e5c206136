"""The run context of an experiment, and its run in the tracker."""

from __future__ import annotations

import getpass
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.transfer import tested_in_words
from fedrecon.platform.federation.attendance import in_words, may_return, missed_by
from fedrecon.platform.inference.mlflow_model import EXPERIMENT
from fedrecon.platform.runs.mlflow_record import params, picture_key
from fedrecon.platform.storage.journal import Ended, Journal, RunRecord
from fedrecon.platform.storage.locks import exclusive_lock
from fedrecon.platform.storage.tracking.address import check_reachable, noted, tracking_uri
from fedrecon.platform.storage.tracking.runs_view import VIEW, runs_view
from fedrecon.platform.storage.tracking.sqlite_file import holds_run
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites import atomic, debris
from fedrecon.sites.atomic import room_for
from fedrecon.sites.errors import DiskFullError, InputError, tell

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.execution.site_actor import ActorPool
    from fedrecon.platform.federation.progress import Progress
    from fedrecon.platform.storage.tracking.sender import Sender
    from fedrecon.platform.storage.tracking.tracker import RunStore


TRACKING_EXPERIMENT = "fedrecon"
_NAME = 60
"""The most characters of a run's name."""


@dataclass(frozen=True)
class RunContext:
    """Where an experiment runs, and where its progress and record go. No field changes a result.

    Attributes:
        workspace, address, tracking_uri, rerun, tags, keep_checkpoints: see :func:`fedrecon.platform.runs.run.run`.
        executor: ``actors``, ``in-process`` or ``auto``. ``auto`` stays in this process if one device holds all sites
            anyway.
        store: the store of the records; None opens the store at ``tracking_uri``.
        records_only: True writes the journal of the run and sends nothing, because another process sends it.
        progress: makes the progress display from the number of rounds and the number of committed rounds; None makes
            :class:`Progress`, which writes to stderr.
        name: name of the run in the tracker; None makes a name from the experiment.
        searched: keys that a sweep searches, which MLflow shows as parameters.
        bundle_members: members that have a bundle in the placement group of this Tune trial, in the order of the
            bundles. The first bundle of the group belongs to the trial itself. Empty outside of a trial.
        pool: actors that outlive a run, for the next one of the same process; None ends them with the run.
    """

    workspace: Path
    executor: str = "actors"
    address: str | None = None
    tracking_uri: str | None = None
    rerun: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    store: RunStore | None = None
    records_only: bool = False
    progress: Callable[[int, int], Progress] | None = None
    name: str | None = None
    searched: Sequence[str] = ()
    bundle_members: Sequence[str] = ()
    keep_checkpoints: bool = False
    pool: ActorPool | None = None

    def check_tracking(self, folder: RunFolder) -> None:
        """Refuses a tracking server that does not answer, before anything is loaded. A finished run needs no server.

        Raises:
            InputError: it does not answer, or the URI cannot hold runs.
        """
        if self.store is None and not self.records_only and (self.rerun or folder.result() is None):
            check_reachable(self.tracking_uri, self.workspace)

    def sender(self) -> Sender | None:
        """The sender of this run's journal; None if another process sends it."""
        from fedrecon.platform.storage.tracking.sender import Sender

        return None if self.records_only else Sender(self.workspace.resolve(), self.tracking_uri, self.store)


@dataclass(frozen=True)
class Recording:
    """A run that is being recorded.

    Attributes:
        journal: where the run records.
        sender: sends the journal; None if another process does.
        new: whether the journal begins with this call.
    """

    journal: Journal
    sender: Sender | None
    new: bool

    def say_with(self, say: Callable[[str], None]) -> None:
        """Has the sender's lines shown beside the progress."""
        if self.sender is not None:
            self.sender.say = say


@contextmanager
def recording(
    experiment: Experiment,
    folder: RunFolder,
    training_digest: str | None,
    context: RunContext,
    pictured: bool = False,
) -> Iterator[Recording]:
    """Records a run in the body: it begins, and it ends as FINISHED, FAILED or KILLED.

    After the body, what is left is sent to the store. The body writes the run's result, so the result is first.

    Args:
        pictured: whether the run records pictures of its rounds.
    """
    sender = context.sender()
    journal = folder.journal()
    new = not journal.size
    status: Ended = "FAILED"
    try:
        _begin(experiment, folder, training_digest, context, journal, sender, pictured)
        try:
            with room_for(folder.path / "run.json"):
                yield Recording(journal, sender, new)
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit, GeneratorExit):  # Ray turns SIGTERM into SystemExit
            status = "KILLED"
            raise
        finally:
            _end(journal, status)
            if not context.keep_checkpoints:
                _prune(folder, status)
    finally:
        if sender is not None:
            sender.close()


def send_rest(folder: RunFolder, context: RunContext) -> dict[str, Any]:
    """Sends what the store has not got of a finished run, and returns the result. Trouble is said, and goes no further.

    A run that was killed after its result and before its end ends now.
    """
    journal = folder.journal()
    if not journal.ended:
        journal.finish("FINISHED")
    _send_rest(journal, context)
    result = folder.result()
    assert result is not None
    return result


def _send_rest(journal: Journal, context: RunContext) -> None:
    uri = context.store.uri if context.store else tracking_uri(context.tracking_uri, context.workspace)
    sent = journal.sent
    complete = (sent.uri, sent.offset) == (noted(uri, context.workspace), journal.size)
    if not journal.size or context.records_only or (complete and holds_run(uri, sent.run_id)):
        return
    try:
        sender = context.sender()
    except InputError as error:
        tell(f"{error} The result is here; what MLflow has not got of the run is sent by the next call.")
        return
    assert sender is not None
    sender.notify(journal.folder)
    sender.close()


def _begin(
    experiment: Experiment,
    folder: RunFolder,
    training_digest: str | None,
    context: RunContext,
    journal: Journal,
    sender: Sender | None,
    pictured: bool,
) -> None:
    """Opens the experiment's run. In the store the run is found by its digest, or made if there is none."""
    tags = {
        "fedrecon.training_digest": training_digest or "none",
        "fedrecon.strategy": experiment.strategy["name"] if experiment.trains else experiment.reconstructor["name"],
        **({"mlflow.source.git.commit": commit} if (commit := _git_commit()) else {}),
        **({"mlflow.user": user} if (user := _user()) else {}),
        "mlflow.source.name": "fedrecon",
        "mlflow.source.type": "LOCAL",
        **({"fedrecon.moved_data": "true"} if experiment.trains and experiment.method.moves_data else {}),
        **context.tags,
    }
    name = context.name or _run_name(experiment)
    known = (folder.noted() or {}).get("run_id", "")
    record = RunRecord(
        TRACKING_EXPERIMENT, name, folder.digest, params(experiment, context.searched), tags, run_id=known
    )
    journal.open(record, context.rerun)
    journal.view(TRACKING_EXPERIMENT, VIEW, runs_view([picture_key(experiment)] if pictured else []))
    if sender is not None:
        try:
            sender.begin(journal)
        except InputError:
            _end(journal, "FAILED")
            raise
        journal.notify = sender.notify
    if journal.artifact_path(EXPERIMENT) is None:
        with debris.scratch(folder.path) as into:
            atomic.write_json(into / EXPERIMENT, experiment.as_dict())
            journal.artifact(into / EXPERIMENT)


def _prune(folder: RunFolder, status: Ended) -> None:
    """Keeps one checkpoint of a run that is finished or was stopped. One that failed keeps two, for whoever looks."""
    if status != "FAILED":
        folder.checkpoints.keep_last()


def _end(journal: Journal, status: Ended) -> None:
    """Notes the end of the run. A disk that is full has stopped the run already, and is not the end's own error."""
    try:
        journal.finish(status)
    except DiskFullError:
        if status == "FINISHED":
            raise


def fresh_or_kept(experiment: Experiment, folder: RunFolder, context: RunContext) -> RunContext:
    """The context in which the run begins: a rerun, if the run in the folder may not be gone on with.

    That is a run that missed replies of sites, where this experiment's ``resources`` ask for all of them. It is set
    aside, as for a rerun, and nothing of it is lost.
    """
    if not context.rerun and not may_return(experiment.resources, folder):
        missed = in_words(missed_by(folder)[1])
        warnings.warn(
            f"run {folder.digest} missed replies ({missed}), which resources.min_sites and resources.straggler of this "
            "experiment do not allow. It is set aside, and the experiment runs anew",
            RuntimeWarning,
            stacklevel=2,
        )
        context = replace(context, rerun=True)
    if context.rerun:
        folder.set_aside()
    return context


def _run_name(experiment: Experiment) -> str:
    """A name that tells runs apart in a list: method, size, operator, rounds, sites, seed, and the experiment's name.

    MLflow cuts a name at its end, so what differs most is first. It has at most 60 characters.
    """
    if experiment.trains:
        size = experiment.network.get("channels")
        what = f"{experiment.strategy['name']} {experiment.network['name']}{f'-{size}' if size else ''}"
        rounds = [f"{experiment.rounds} round{'s' if experiment.rounds > 1 else ''}"]
    else:
        what, rounds = experiment.reconstructor["name"], []
    sites = Path(experiment.sites).name if isinstance(experiment.sites, str) else f"{len(experiment.sites)} sites"
    tested = None if experiment.test is None else experiment.test.model_dump()
    operator = experiment.operator_at("").described() + tested_in_words(tested)
    return " · ".join([what, operator, *rounds, sites, f"seed {experiment.seed}", experiment.name])[:_NAME].rstrip(" ·")


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Locks the run folder: only one driver at a time works on a digest in a workspace.

    What a killed driver or site left in the folder, and in the workspace itself, is swept first.

    Raises:
        RunError: another driver holds the lock.
    """
    busy = f"the same experiment (digest {folder.digest}) is running in {folder.workspace}"
    with exclusive_lock(folder.lock, busy):
        debris.sweep(folder.path, deep=True)
        for place in (folder.workspace, folder.workspace / "trained"):
            debris.sweep(place)
        yield


@cache
def _git_commit() -> str:
    """The git commit of the working directory; an empty string outside of a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _user() -> str:
    """The name of the user; an empty string where the system knows none (a container)."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
