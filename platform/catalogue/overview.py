"""What a run's folder says of it, in a line: also of a run that is half written or damaged."""

from __future__ import annotations

import datetime
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedrecon.platform.config.names import flatten
from fedrecon.platform.config.transfer import tested_in_words
from fedrecon.platform.storage.locks import is_locked
from fedrecon.platform.storage.run_lookup import ASIDE, DAMAGE, run_folders
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import InputError, RunError, cause_of

SHORT = 8
"""The characters of a digest in a list."""


@dataclass(frozen=True)
class Overview:
    """A run in a line.

    Attributes:
        digest: the name of its folder; that of a run which a rerun set aside ends in ``.before-N``.
        status: ``finished``, ``running`` (a process works on it), ``unfinished``, ``set aside`` or ``damaged``.
        name: the name of the experiment. run_id: its id in MLflow.
        changed: when its result, or else its last file, was written; local time, ISO 8601.
        rounds: the committed rounds. planned: the rounds of the experiment.
        method: strategy and network, or the classical method. operator: how the sites measured.
        sites: the sites that train. seed: its seed.
        psnr (dB), ssim, nmse: the mean test scores over the sites; None without a result.
        bytes: bytes of its folder on disk.
        campaign: the sweep or study that it belongs to, as ``sweep NAME``.
        trained_by: the digest of the run whose network it tests, or whose training it took over.
        problem: what is damaged, in one line.
    """

    digest: str
    status: str
    name: str = ""
    run_id: str = ""
    changed: str = ""
    rounds: int = 0
    planned: int = 0
    method: str = ""
    operator: str = ""
    sites: Sequence[str] = ()
    seed: int | None = None
    psnr: float | None = None
    ssim: float | None = None
    nmse: float | None = None
    bytes: int = 0
    campaign: str = ""
    trained_by: str = ""
    problem: str = ""

    @property
    def short(self) -> str:
        """The beginning of the digest, which names the run as long as no other one begins alike."""
        head, aside, number = self.digest.partition(ASIDE)
        return head[:SHORT] + aside + number

    def as_dict(self) -> dict[str, Any]:
        """The line for JSON."""
        return {**asdict(self), "sites": list(self.sites)}


def overviews(workspace: Path) -> list[Overview]:
    """All runs of a workspace, the newest first.

    Raises:
        InputError: the workspace does not exist.
    """
    if not workspace.is_dir():
        raise InputError(f"there is no workspace '{workspace}': fedrecon run makes it (another folder: --workspace)")
    return sorted(map(overview, run_folders(workspace)), key=lambda one: (one.changed, one.digest), reverse=True)


def overview(folder: RunFolder) -> Overview:
    """A run in a line. It raises nothing: what cannot be read is its ``problem``."""
    try:
        return _overview(folder)
    except DAMAGE as error:  # JSON that is whole, but nothing that a run writes
        return Overview(folder.digest, "damaged", problem=f"its files in {folder.path} are damaged: {cause_of(error)}")


def _overview(folder: RunFolder) -> Overview:
    problems: list[str] = []
    noted, result = (_read(part, problems) for part in (folder.noted, folder.result))
    experiment = noted.get("experiment", {})
    tags = _read(lambda: folder.journal().tags, problems)
    paths = folder.checkpoints.paths()
    committed = paths[-1].stem.removeprefix("round-") if paths else ""
    mean, trains = result.get("mean", {}), experiment.get("reconstructor", {}).get("name") == "network"
    finished = (folder.path / "result.json").exists()
    begun = [path for path in (folder.path / "run.json", folder.path) if path.exists()]
    campaigns = [f"{kind} {tags[f'fedrecon.{kind}']}" for kind in ("sweep", "study") if f"fedrecon.{kind}" in tags]
    return Overview(
        digest=folder.digest,
        status=_status(folder, finished, problems),
        name=str(experiment.get("name", "")),
        run_id=str(noted.get("run_id") or result.get("run_id") or ""),
        changed=_time(folder.finished_at() if finished else begun[0].stat().st_mtime_ns) if begun else "",
        rounds=int(result.get("rounds") or (committed if committed.isdigit() else 0)),
        planned=int(experiment.get("training", {}).get("rounds", 0)) if trains else 0,
        method=method_of(experiment),
        operator=operator_of(experiment),
        sites=list(noted.get("subjects", {})),
        seed=experiment.get("seed"),
        **{metric: mean.get(metric) for metric in ("psnr", "ssim", "nmse")},
        bytes=_bytes(folder.path),
        campaign=", ".join(campaigns),
        trained_by=str(noted.get("trained_by") or tags.get("fedrecon.trained_by") or ""),
        problem="; ".join(problems),
    )


def method_of(experiment: Mapping[str, Any]) -> str:
    """Strategy and network, or the classical method, of the experiment of a note."""
    reconstructor = experiment.get("reconstructor", {}).get("name", "")
    if reconstructor != "network":
        return str(reconstructor)
    return f"{experiment.get('strategy', {}).get('name', '?')} {experiment.get('network', {}).get('name', '?')}"


def operator_of(experiment: Mapping[str, Any]) -> str:
    """How all sites measure, such as ``random R=4``, by the experiment of a note."""
    block = experiment.get("operator") or experiment.get("degradation") or {}
    values = dict(flatten({key: value for key, value in block.items() if key != "per_site"}))
    family, amount = values.get("mask") or values.get("kind", ""), values.get("acceleration") or values.get("scale")
    sign = "R=" if "acceleration" in values else "x"
    own = f" ({len(block['per_site'])} sites differ)" if block.get("per_site") else ""
    tested = tested_in_words(experiment.get("test"))
    return (f"{family} {sign}{str(amount).removesuffix('.0')}{own}" if amount else family) + tested


def _status(folder: RunFolder, finished: bool, problems: Sequence[str]) -> str:
    if ASIDE in folder.digest:
        return "set aside"
    if not finished and is_busy(folder):  # asking takes the lock for a moment, and nobody trains what is finished
        return "running"
    if problems:
        return "damaged"
    return "finished" if finished else "unfinished"


def is_busy(folder: RunFolder) -> bool:
    """Whether a process works on the run. In a workspace that only others may write, nobody can tell: False."""
    try:
        return is_locked(folder.lock)
    except OSError:
        return False


def _read(read: Any, problems: list[str]) -> dict[str, Any]:
    """What ``read`` returns; empty for None, and for what is damaged, which is noted among the problems."""
    try:
        return dict(read() or {})
    except (RunError, *DAMAGE) as error:
        problems.append(" ".join(str(error).split()) or type(error).__name__)
        return {}


def _bytes(folder: Path) -> int:
    """The bytes of all files; one with two names counts once. A run at work deletes files meanwhile."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if stat.S_ISREG((about := path.lstat()).st_mode):
                found[about.st_dev, about.st_ino] = about.st_size
    return sum(found.values())


def _time(nanoseconds: int) -> str:
    return datetime.datetime.fromtimestamp(nanoseconds / 1e9).isoformat(timespec="seconds")
