"""``fedrecon sync``: sends to MLflow what it has not got of the runs, sweeps and studies of a workspace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrecon.platform.storage.journal import Journal
from fedrecon.platform.storage.locks import BusyError, exclusive_lock
from fedrecon.platform.storage.tracking.address import DATABASE, SQLITE, check_reachable, public
from fedrecon.platform.storage.tracking.sender import Sender
from fedrecon.sites.errors import FedreconError, InputError, RunError, cause_of

KINDS = ("runs", "sweeps", "studies")


def sync(workspace: Path, tracking_uri: str | None = None) -> dict[str, Any]:
    """Sends all journals of a workspace. A run that its store does not know (a lost store) is sent whole.

    Args:
        workspace: the workspace folder.
        tracking_uri: the store to send to; None sends each journal to the store that it was last sent to.

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
    for uri, folders in stores.items():
        sender = Sender(workspace, uri)
        try:
            for folder in folders:
                report[_send(sender, folder)].append(folder.parent.relative_to(workspace).as_posix())
        except FedreconError:
            raise
        except Exception as error:
            done = len(report["sent"]) + len(report["complete"])
            raise RunError(f"MLflow at {sender.uri} takes no more: {cause_of(error)}; {done} are complete") from error
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
    noted = journal.sent.uri
    given = os.environ.get("MLFLOW_TRACKING_URI") or ""
    if given and public(given) == noted:
        return given
    return noted or SQLITE + str(workspace / DATABASE)


def _send(sender: Sender, folder: Path) -> str:
    """Sends one journal. Returns the key of the report that it belongs to."""
    run = folder.parent
    lock = run / ".lock" if run.parent.name != "runs" else run.with_name(f".{run.name}.lock")
    try:
        with exclusive_lock(lock, f"{run} is running"):
            before = Journal(folder).sent
            return "complete" if sender.deliver(folder) == before else "sent"
    except BusyError:
        return "running"
