"""The doctor's checks of what runs use: Ray, the store of MLflow, plug-ins, the runs that are there, and shards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from fedrecon.platform.catalogue.overview import overviews
from fedrecon.platform.setup.finding import Finding, judged
from fedrecon.platform.setup.machine import hdf5_folders
from fedrecon.platform.storage.journal import Journal
from fedrecon.platform.storage.tracking.address import SQLITE, check_reachable, public, tracking_uri
from fedrecon.platform.storage.tracking.sqlite_file import damage
from fedrecon.sites.data.inspect import find_shards, inspect
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.data.splits import consortium_problems
from fedrecon.sites.errors import FedreconError, InputError
from fedrecon.sites.sizes import size


def check_ray(address: str | None = None) -> Iterator[Finding]:
    """Starts Ray on this machine and ends it, or connects to the cluster at ``address``."""
    import torch

    from fedrecon.platform.execution.ray_cluster import connected, nodes

    begun = time.monotonic()
    try:
        with connected(address):
            seconds, alive = time.monotonic() - begun, [one for one in nodes() if one["Alive"]]
            cpus, gpus = (sum(one["Resources"].get(what, 0) for one in alive) for what in ("CPU", "GPU"))
            sites = sorted(
                {value for one in alive for key, value in (one.get("Labels") or {}).items() if key == "site"}
            )
    except FedreconError as error:
        start = (
            "is the head node up (ray status), and is its port open?"
            if address
            else "fedrecon run --in-process needs no Ray"
        )
        yield Finding("ray", "wrong", str(error), start)
        return
    where = f"{len(alive)} nodes answer at {address}" if address else f"it starts in {seconds:.1f} s"
    named = f", sites {', '.join(sites)}" if sites else ""
    wrong = address is None and torch.cuda.device_count() > 0 and not gpus
    found = f"{where}: {cpus:g} CPUs, {gpus:g} GPUs{named}"
    yield judged("ray", f"{found}, though torch sees GPUs" if wrong else "", found, "does this job limit its GPUs?")


def check_store(workspace: Path, uri: str | None = None) -> Iterator[Finding]:
    """Whether the store of the runs answers, whether its file is whole, and whether it has got all runs."""
    try:
        chosen = tracking_uri(uri, workspace)
        check_reachable(uri, workspace)
    except InputError as error:
        yield Finding(
            "store", "wrong", str(error), "correct --tracking-uri or MLFLOW_TRACKING_URI, or start the server"
        )
        return
    path = Path(chosen.removeprefix(SQLITE))
    if not chosen.startswith(SQLITE):
        yield Finding("store", "ok", f"{public(chosen)} answers")
    elif not path.exists():
        yield Finding("store", "ok", f"{path} does not exist yet: the first run makes it")
    else:
        why = damage(path)
        wrong = f"{path} is damaged: {why}" if why else ""
        yield judged(
            "store", wrong, f"{path} is whole", "the next run renames it and makes a new one; then fedrecon sync"
        )
    waiting = [
        path.parent.parent.name for path in sorted(workspace.glob("runs/*/record/journal.jsonl")) if _waits(path)
    ]
    if waiting:
        found = f"MLflow has not got all of {len(waiting)} runs: {', '.join(waiting[:3])}{' ...' * (len(waiting) > 3)}"
        yield Finding("store", "warning", found, "fedrecon sync sends the rest (a run that is at work sends it itself)")


def check_runs(workspace: Path) -> Iterator[Finding]:
    """How many runs there are, how much room they take, and which of them are damaged."""
    found = overviews(workspace) if workspace.is_dir() else []
    for one in found:
        if one.problem:
            advice = f"run its experiment again with --rerun, or fedrecon runs rm {one.short}"
            yield Finding("runs", "warning", f"run {one.digest}: {one.problem}", advice)
    yield Finding("runs", "ok", f"{len(found)} in {workspace}, {size(sum(one.bytes for one in found))}")


def check_plugins() -> Iterator[Finding]:
    """Whether the plug-ins that are installed are accepted: a refused one stops every command that names plug-ins."""
    from fedrecon.platform.config.plugins import OWN, registry

    added = [f"{name} ({kind})" for kind, (own, _) in OWN.items() for name in registry(kind) if name not in own]
    yield Finding("plug-ins", "ok", ", ".join(added) or "none is installed beside fedrecon's own")


def check_shards(folder: Path | None = None) -> Iterator[Finding]:
    """Whether shards can be opened. The shards of ``folder`` are also read through.

    Args:
        folder: the folder, or one shard; None opens the shards in and below ``data/``. A folder of other HDF5 files is
            passed over there.
    """
    if folder is not None:
        found = inspect(folder)
        yield from (_refused(Path(one["path"]), one["message"]) for one in found["problems"])
        if found["shards"]:
            sites = ", ".join(one["site"] for one in found["shards"])
            yield Finding("shards", "ok", f"{folder}: {len(found['shards'])} are whole ({sites})")
        return
    none = True
    for one in hdf5_folders():
        opened, refused = [], []
        for path in find_shards(one):
            try:
                opened.append(Shard.open(path))
            except InputError as error:
                refused.append(_refused(path, str(error)))
        if opened:
            none = False
            yield from refused
            yield from (_refused(one, message) for message in consortium_problems(opened))
            yield Finding("shards", "ok", f"{one}: {len(opened)} open ({', '.join(shard.site for shard in opened)})")
    if none:
        yield Finding("shards", "ok", "none in or below data/; --sites FOLDER looks at another folder")


def _refused(path: Path, message: str) -> Finding:
    return Finding("shards", "wrong", message, f"fedrecon data inspect {path}; import the files again, or leave it out")


def _waits(path: Path) -> bool:
    journal = Journal(path.parent)
    return journal.sent.offset != journal.size and ".before-" not in path.parent.parent.name
