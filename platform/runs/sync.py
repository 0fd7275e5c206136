"""``fedrecon sync``: sends to MLflow what it has not got of the runs, sweeps and studies of a workspace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrecon.platform.storage.journal import Journal
from fedrecon.platform.storage.locks import BusyError, exclusive_lock, is_locked
from fedrecon.platform.storage.tracking.address import DATABASE, SQLITE, check_reachable, noted, public
from fedrecon.platform.storage.tracking.address import tracking_uri as address_of
from fedrecon.platform.storage.tracking.sender import Sender
from fedrecon.sites.errors import FedreconError, InputError, RunError, cause_of
from fedrecon.sites.phases import counted

KINDS = ("runs", "sweeps", "studies")


def sync(workspace: Path, tracking_uri: str | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Sends all journals of a workspace. A run that its store does not know (a lost store) is sent whole.

    Args:
        workspace: the workspace folder.
        tracking_uri: the store to send to; None sends each journal to the store that it was last sent to.
        dry_run: send nothing, and write nothing. ``sent`` is then what the notes of the workspace call unsent; the
            stores are not opened, so a run that one has lost is not found.

    Returns:
        ``sent``: the names (``runs/DIGEST``, ``sweeps/NAME``) of which something was sent. ``complete``: those of which
        nothing was missing. ``running``: those at which a process is at work, which sends them itself.

    Raises:
        InputError: the workspace has no journal, or a server does not answer.
        RunError: a store stopped taking what was sent; the message says how many are complete.
    """
    workspace = workspace.resolve()
    stores: dict[str, list[Path]] = {}
    for folder in _journals(workspace):
        stores.setdefault(tracking_uri or store_of(Journal(folder), workspace), []).append(folder)
    if not stores:
        raise InputError(f"no journal of a run in {workspace}: fedrecon run EXPERIMENT.yaml makes one")
    for uri in stores:
        check_reachable(uri, workspace)
    report: dict[str, Any] = {"sent": [], "complete": [], "running": []}
    if dry_run:
        for uri, folders in stores.items():
            for folder in folders:
                report[_unsent(folder, uri, workspace)].append(_name(folder, workspace))
        return report
    for uri, folders in stores.items():
        sender = Sender(workspace, uri)
        try:
            for folder in counted(f"sending to MLflow at {sender.uri}", folders):
                report[_send(sender, folder)].append(_name(folder, workspace))
        except FedreconError:
            raise
        except Exception as error:
            done = len(report["sent"]) + len(report["complete"])
            why = f"{cause_of(error)}; {done} are complete, and the same command sends the rest"
            raise RunError(f"MLflow at {sender.uri} takes no more: {why}") from error
        finally:
            sender.close()
    return report


def _journals(workspace: Path) -> Iterator[Path]:
    """The folders of the journals. A run that a rerun set aside is left as it is."""
    for kind in KINDS:
        for path in sorted(workspace.glob(f"{kind}/*/record/journal.jsonl")):
            if ".before-" not in path.parent.parent.name:
                yield path.parent


def store_of(journal: Journal, workspace: Path) -> str:
    """The store that got the journal last. It is noted without a password, which the environment variable may have."""
    last = journal.sent.uri
    given = os.environ.get("MLFLOW_TRACKING_URI") or ""
    if given and public(given) == last:
        return given
    return last or SQLITE + str(workspace / DATABASE)


def _send(sender: Sender, folder: Path) -> str:
    """Sends one journal. Returns the key of the report that it belongs to."""
    try:
        with exclusive_lock(_lock(folder), f"{folder.parent} is running"):
            before = Journal(folder).sent
            return "complete" if sender.deliver(folder) == before else "sent"
    except BusyError:
        return "running"


def _unsent(folder: Path, uri: str, workspace: Path) -> str:
    """The key of the report for a journal that would be sent."""
    journal = Journal(folder)
    there = journal.sent.uri == noted(address_of(uri, workspace), workspace) and journal.sent.offset >= journal.size
    return "running" if is_locked(_lock(folder)) else "complete" if there else "sent"


def _lock(folder: Path) -> Path:
    """The lock of the run, sweep or study of a journal."""
    run = folder.parent
    return run / ".lock" if run.parent.name != "runs" else run.with_name(f".{run.name}.lock")


def _name(folder: Path, workspace: Path) -> str:
    return folder.parent.relative_to(workspace).as_posix()
