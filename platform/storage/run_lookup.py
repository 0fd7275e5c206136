"""Which run of a workspace a person means: by its digest or its beginning, its run id, its name, or ``latest``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from fedrecon.platform.storage.workspace import MIN_PREFIX, RunFolder
from fedrecon.sites.errors import InputError, RunError, brief, quoted

RUN = "run id, digest (six characters suffice), name of the experiment, or latest"
"""The help of every argument that names a run."""

LATEST = "latest"

ASIDE = ".before-"
"""In the name of a folder that a rerun has set aside."""

DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError)
"""What reading raises where a file holds other things than it should."""

MOST = 8
"""The runs that a refusal lists."""

RECENT = 5
"""The newest runs that the refusal of an unknown one lists."""


def run_folders(workspace: Path) -> list[RunFolder]:
    """The folders of all runs of a workspace, those set aside too."""
    found = (path for path in (workspace.resolve() / "runs").glob("*") if path.is_dir() and path.name[0] != ".")
    return [RunFolder(workspace, path.name) for path in sorted(found)]


def find_run(workspace: Path, reference: str, finished: bool = True) -> RunFolder:
    """The folder of the run that a person means.

    A folder's whole name comes first, then ``latest`` (the run that was finished last). Anything else is compared with
    the run id, the name and the beginning of the digest of every run. It must fit one run. A run that a rerun has set
    aside has its digest alone, with ``.before-N`` behind it, and its run id.

    Args:
        workspace: folder of the user's runs.
        reference: what the person gave.
        finished: whether the run must be finished.

    Raises:
        InputError: no run or several runs fit, or the run is not finished. RunError: a file of the run is damaged.
    """
    if not isinstance(reference, str):
        raise InputError(f"a run is named by a text ({RUN}), not by {brief(reference)}")
    if _is_folder_name(reference) and (whole := RunFolder(workspace, reference)).path.is_dir():
        return _ended(whole, reference, finished)  # the notes of all other runs need not be read
    folders = run_folders(workspace)
    known = {folder.digest: _Names.of(folder) for folder in folders}
    if not known:
        raise InputError(f"no run in {workspace}: fedrecon run EXPERIMENT.yaml makes one (other folder: --workspace)")
    if reference == LATEST:
        return _newest(workspace, folders)
    fitting = [digest for digest, one in known.items() if one.fit(reference)]
    if not fitting:
        raise _nothing(reference, known, folders)
    if len(fitting) > 1:
        listed = ", ".join(f"{digest} ({known[digest].name or 'no name'})" for digest in fitting[:MOST])
        more = f" and {len(fitting) - MOST} more" if len(fitting) > MOST else ""
        raise InputError(f"'{reference}' fits {len(fitting)} runs: {listed}{more}; give the digest of one", [reference])
    return _ended(RunFolder(workspace, fitting[0]), reference, finished)


def network_of(folder: RunFolder) -> RunFolder:
    """The run that has the network: for a transfer test the run that it tested, else the run itself.

    A run that was run again since lies under another name; its journal tells it.

    Raises:
        RunError: that run is not finished, or its network is no longer in the workspace.
    """
    noted = folder.noted() or {}
    if not (digest := noted.get("trained_by")):
        return folder
    found, journal = RunFolder(folder.workspace, digest), noted.get("trained_journal")
    aside = (RunFolder(folder.workspace, path.name) for path in sorted(found.path.parent.glob(f"{digest}{ASIDE}*")))
    same = next((one for one in chain([found], aside) if not journal or one.journal().id == journal), None)
    if same is None:
        raise RunError(
            f"run {folder.digest} tested a network of run {digest} that is gone: that run was run again since. Run the "
            f"experiment of {folder.digest} again with --rerun: it tests the new one"
        )
    if same.path.is_dir() and same.result() is None:
        raise RunError(
            f"run {folder.digest} tested the network of run {same.digest}, which is not finished; the same command "
            "fedrecon run continues it"
        )
    return same


def _is_folder_name(reference: str) -> bool:
    """Whether this is one part of a path, and no hidden one."""
    return not reference.startswith(".") and Path(reference).name == reference != ""


def _ended(folder: RunFolder, reference: str, finished: bool) -> RunFolder:
    """The folder. Refuses a run that is not finished if it must be."""
    if finished and folder.result() is None:
        raise InputError(f"run '{reference}' is not finished; the same command fedrecon run continues it")
    return folder


def named(folder: RunFolder) -> str:
    """What is said of a run that was found: its digest, its name and its run id, as far as they can be read."""
    names = _Names.of(folder)
    parts = [f"run {folder.digest}", names.name, f"id {names.run_id}" if names.run_id else ""]
    return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class _Names:
    """What a run is called; id and name are empty if its note is lost or damaged, so it hides no other run."""

    digest: str
    run_id: str = ""
    name: str = ""

    @classmethod
    def of(cls, folder: RunFolder) -> _Names:
        try:
            noted: Mapping[str, Any] = folder.noted() or {}
            return cls(folder.digest, str(noted.get("run_id", "")), str(noted.get("experiment", {}).get("name", "")))
        except (RunError, *DAMAGE):
            return cls(folder.digest)

    def fit(self, reference: str) -> bool:
        head, *aside = reference.split(ASIDE)
        own, *own_aside = self.digest.split(ASIDE)
        if len(head) >= MIN_PREFIX and own.startswith(head) and aside == own_aside:
            return True
        return bool(reference) and (reference == self.run_id or (reference == self.name and not own_aside))


def _newest(workspace: Path, folders: Sequence[RunFolder]) -> RunFolder:
    """The run whose result was written last; its result can be read.

    Raises:
        InputError: no run is finished.
    """
    results = {one: one.path / "result.json" for one in folders if ASIDE not in one.digest}
    finished = {one: one.finished_at() for one, path in results.items() if path.is_file()}
    if not finished:
        raise InputError(f"no run in {workspace} is finished yet")
    newest = max(finished, key=finished.__getitem__)
    newest.result()
    return newest


def _nothing(reference: str, known: Mapping[str, _Names], folders: Sequence[RunFolder]) -> InputError:
    """The refusal of a reference that fits nothing, with the nearest of all names and the newest runs."""
    begun = [digest for digest in known if reference and digest.startswith(reference)]
    if begun and len(reference) < MIN_PREFIX:
        listed, needed = ", ".join(begun[:MOST]), f"give {MIN_PREFIX} characters or more"
        return InputError(f"'{reference}' is too short for the digest of {listed}: {needed}", [reference])
    names = {LATEST, *(text for one in known.values() for text in (one.digest, one.name, one.run_id) if text)}
    near = difflib.get_close_matches(reference[:100], sorted(names), n=1, cutoff=0.5)
    newest = sorted(folders, key=lambda one: one.path.stat().st_mtime, reverse=True)[:RECENT]
    shown = ", ".join(f"{one.digest} ({known[one.digest].name or 'no name'})" for one in newest)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return InputError(
        f"unknown run {quoted(reference)}.{hint} Newest: {shown}; also latest, and those of fedrecon runs list.",
        [reference],
    )
