"""``fedrecon runs rm``: deletes runs for which no other run has a use, and which no process works on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrecon.platform.catalogue.overview import Overview, overview
from fedrecon.platform.runs.sync import store_of
from fedrecon.platform.storage.locks import exclusive_lock, is_locked
from fedrecon.platform.storage.run_lookup import ASIDE, DAMAGE, run_folders
from fedrecon.platform.storage.tracking.address import DATABASE, SQLITE, check_reachable, public
from fedrecon.platform.storage.workspace import RunFolder, forget_trained, owner_of
from fedrecon.sites import debris
from fedrecon.sites.errors import InputError, RunError


@dataclass(frozen=True)
class Removal:
    """Runs that may be removed.

    Attributes:
        workspace: the workspace. folders: the folders of the runs. shown: the runs in a line each.
        stores: the id of each run in MLflow, by the address of the store that got the run.
    """

    workspace: Path
    folders: Sequence[RunFolder]
    shown: Sequence[Overview]
    stores: dict[str, list[str]]

    @property
    def bytes(self) -> int:
        """The bytes that become free."""
        return sum(one.bytes for one in self.shown)

    def go(self) -> dict[str, Any]:
        """Deletes the runs: first in MLflow, so that none is left there alone, then their folders.

        MLflow marks a run as deleted, as its own button does: it can restore it, and ``mlflow gc`` ends it.

        Returns:
            ``removed``: the digests. ``bytes``: what became free. ``mlflow``: the ids that were deleted, by store.

        Raises:
            RunError: a process works on one of the runs; nothing was removed. Or a folder cannot be deleted.
            InputError: a store does not answer, or another run builds on one of them by now; nothing was removed.
        """
        with ExitStack() as locks:
            for one in self.folders:
                locks.enter_context(exclusive_lock(one.lock, f"run {one.digest} is at work: end it first"))
            for one in self.folders:  # a person may have thought for long
                for why in _users(one, self.folders):
                    raise why
            deleted = {public(uri): _delete(uri, ids, self.workspace) for uri, ids in self.stores.items()}
            for one in self.folders:
                _remove(one)
        return {"removed": [one.digest for one in self.folders], "bytes": self.bytes, "mlflow": deleted}


def plan(workspace: Path, folders: Sequence[RunFolder], keep_mlflow: bool = False) -> Removal:
    """Looks whether runs may be removed.

    Args:
        keep_mlflow: leaves MLflow as it is.

    Raises:
        InputError: another run, which is not removed with them, builds on one of them. RunError: one is at work.
    """
    workspace = workspace.resolve()
    unique = list({one.path: one for one in folders}.values())
    for one in unique:
        for why in [*_at_work(one), *_users(one, unique)]:
            raise why
    stores: dict[str, list[str]] = {}
    for one in () if keep_mlflow else unique:
        journal = one.journal()
        uri = store_of(journal, workspace)
        own = uri == SQLITE + str(workspace / DATABASE)
        # A copy of a workspace knows the ids of the first one, whose runs on a server are not its own.
        ours = (workspace / DATABASE).exists() if own else journal.sent.owner == owner_of(workspace)
        if journal.run_id and ours:
            stores.setdefault(uri, []).append(journal.run_id)
    for uri in stores:
        check_reachable(uri, workspace)
    return Removal(workspace, unique, [overview(one) for one in unique], stores)


def _at_work(folder: RunFolder) -> Iterator[RunError]:
    """A driver works on the run, or the sweep or study does that it belongs to."""
    if is_locked(folder.lock):
        yield RunError(f"run {folder.digest} is being trained or tested now: end that command first")
    tags = folder.journal().tags
    for kind, place in (("sweep", "sweeps"), ("study", "studies")):
        names = [key.removeprefix(f"fedrecon.{kind}.") for key in tags if key.startswith(f"fedrecon.{kind}.")]
        for name in names:
            if is_locked(folder.workspace / place / name / ".lock"):
                yield RunError(
                    f"run {folder.digest} is a trial of the {kind} '{name}', which is at work: end that first"
                )


def _users(folder: RunFolder, removed: Sequence[RunFolder]) -> Iterator[InputError]:
    """Runs that build on this one and stay."""
    gone = {one.path for one in removed}
    users = {}
    for other in run_folders(folder.workspace):
        if other.path != folder.path and other.path not in gone and (why := _use(other, folder)):
            users[other.digest] = why
    if users:
        listed = ", ".join(f"{digest} {why}" for digest, why in users.items())
        yield InputError(f"run {folder.digest} is in use: {listed}. Remove them too, in the same command, or keep it")


def _use(other: RunFolder, folder: RunFolder) -> str:
    """What the other run needs this one for; empty if for nothing. A note that is damaged names no run."""
    try:
        noted, tags = other.noted() or {}, other.journal().tags
        start = (noted.get("experiment", {}).get("training") or {}).get("start")
    except (RunError, *DAMAGE):
        return ""
    digest = folder.digest
    if noted.get("trained_by") == digest.split(ASIDE)[0]:
        journal = noted.get("trained_journal")  # tells a run from those of its digest that reruns set aside
        if (journal == folder.journal().id) if journal else (ASIDE not in digest):
            return "tests its network"
    if start == digest:
        return "began with its network"
    return "took over its training" if tags.get("fedrecon.trained_by") == digest else ""


def _delete(uri: str, ids: Sequence[str], workspace: Path) -> list[str]:
    from fedrecon.platform.storage.tracking.store import run_store

    store = run_store(uri, workspace)
    return [one for one in ids if store.delete(one)]


def _remove(folder: RunFolder) -> None:
    """Deletes the folder: it gets a hidden name at once, so that a removal which is cut off leaves no half of a run.

    The next run in the workspace sweeps what is left under that name.
    """
    forget_trained(folder)
    if folder.path.exists():
        hidden = folder.path.rename(folder.workspace / debris.temporary_name(folder.digest))
        debris.remove(hidden)
        if hidden.exists():
            raise RunError(f"run {folder.digest}: a part of it cannot be deleted, and lies in {hidden}")
