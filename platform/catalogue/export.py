"""``fedrecon runs export``: a folder with all that a colleague needs to apply a run and to check its numbers."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedrecon.platform.storage.run_lookup import ASIDE, network_of
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites import atomic, debris
from fedrecon.sites.errors import InputError, RunError

WEIGHTS = "weights.safetensors"

ARTIFACTS = (
    "experiment.json",
    WEIGHTS,
    "scores.parquet",
    "validation.parquet",
    "rounds.parquet",
    "report.md",
)
"""The artifacts that are copied. Pictures, ``wire.parquet`` and the private parts are none of them."""

OF_TRAINING = (WEIGHTS, "rounds.parquet")
"""Those that a test of a trained network has not got of its own."""

RECORD = ("run.json", "result.json", "environment.json", "missed.json")
"""The files of the run's folder with which fedrecon applies the run elsewhere."""


def export(folder: RunFolder, out: Path, private: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Copies a finished run into a new folder, which is also a workspace with this run alone.

    The shared weights, the experiment, results, tables, the environment and the run's own record are copied:
    docs/privacy.md lists what they hold. Pictures, the journal, and the private memory of the sites are not.

    Args:
        out: the new folder; an empty one may exist.
        private: copies the private parts of the members that agreed to publish theirs.
        dry_run: check and count all of it in a temporary folder, and make no folder ``out``.

    Returns:
        ``digest``, ``path``, ``files`` (relative to ``path``), ``bytes`` and ``written``.

    Raises:
        InputError: the run is not finished, the folder is not empty, or no member published a private part.
        RunError: a file of the run is damaged.
    """
    result, noted = folder.result(), folder.noted()
    if result is None or noted is None:
        raise InputError(f"run {folder.digest} is not finished; the same command fedrecon run continues it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder: --out names a new one")
    trained = network_of(folder)
    published = trained.published() if private else []
    if private and not published:
        raise InputError(
            f"no site of run {folder.digest} published a private part. A site agrees by publish_private: the same "
            "experiment with publish_private=[SITE], run again, writes the parts of a finished run"
        )
    place = out.absolute()
    if not dry_run:
        place.parent.mkdir(parents=True, exist_ok=True)
    with atomic.room_for(place), debris.scratch(None if dry_run else place.parent) as scratch:
        into = scratch / "export"
        into.mkdir()
        _copy(folder, ARTIFACTS, into)
        _copy(trained, [*OF_TRAINING, *(f"private/{member}.safetensors" for member in published)], into)
        if missing := [one for one in published if not (into / "private" / f"{one}.safetensors").exists()]:
            raise RunError(f"run {trained.digest}: the parts of {', '.join(missing)} are lost. Run it again")
        for one in dict.fromkeys((trained, folder)):
            _copy_record(one, into / "runs" / _digest(one))
        if noted["experiment"]["reconstructor"]["name"] == "network" and not (into / WEIGHTS).exists():
            raise RunError(f"run {folder.digest}: its weights are lost: {folder.path} holds no artifact {WEIGHTS}")
        atomic.write_json(into / "result.json", result)
        atomic.write_json(into / "environment.json", folder.environment() or trained.environment() or {})
        atomic.write_text(into / "README.md", _readme(_digest(folder), result, published, out.name))
        files = {path.relative_to(into).as_posix(): path.stat().st_size for path in into.rglob("*") if path.is_file()}
        if not dry_run:
            if place.exists():
                place.rmdir()
            into.rename(place)
    return {
        "digest": folder.digest,
        "path": str(out),
        "files": sorted(files),
        "bytes": sum(files.values()),
        "written": not dry_run,
    }


def _digest(folder: RunFolder) -> str:
    """The digest, also of a run that a rerun set aside: nothing else has it in the export."""
    return folder.digest.partition(ASIDE)[0]


def _copy(folder: RunFolder, names: Iterable[str], into: Path) -> None:
    """Copies artifacts, as far as the run has them."""
    for name in names:
        if (path := folder.journal().artifact_path(name)) is not None:
            (into / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, into / name)


def _copy_record(folder: RunFolder, into: Path) -> None:
    """The files for fedrecon: note, result and checkpoints."""
    into.mkdir(parents=True)
    for name in RECORD:
        if (folder.path / name).is_file():
            shutil.copyfile(folder.path / name, into / name)
    if folder.checkpoints.folder.is_dir():
        shutil.copytree(folder.checkpoints.folder, into / "checkpoints", ignore=shutil.ignore_patterns(".*"))
    if (folder.path / "plugins").is_dir():
        shutil.copytree(folder.path / "plugins", into / "plugins")


def _readme(digest: str, result: dict[str, Any], published: list[str], name: str) -> str:
    mean, sites = result["mean"], ", ".join(result["sites"])
    parts = f"the private parts of {', '.join(published)} (`private/`), which agreed, " if published else ""
    return f"""# Run {digest}: {result.get("name", "")}

Test scores, unweighted mean over {sites}: PSNR {mean["psnr"]:.2f} dB, SSIM {mean["ssim"]:.4f}, NMSE {mean["nmse"]:.4f}.
`report.md` has the table, the settings and the papers to cite.

```bash
fedrecon evaluate {digest} --workspace {name} --sites YOUR_SHARDS      # score it on shards of yours
fedrecon reconstruct {digest} YOUR_SHARD.h5 -o OUT.h5 --workspace {name}
```

- `experiment.json`: all settings; `fedrecon run experiment.json sites=FOLDER` trains it anew.
- `weights.safetensors`: the shared weights by name. `environment.json`: hardware and versions of the run.
- `result.json`; `scores.parquet`: a row for each slice of the test subjects; `validation.parquet`: the same of the
  validation subjects; `rounds.parquet`: losses, seconds, use of processor and memory of each site in each round.
- `runs/{digest}/`: the same for fedrecon, with the state of the strategy after the last round (of some methods it holds
  vectors of single sites), missed replies, the text of plug-ins, and the pseudonyms of all subjects and scans with
  their splits: so a subject that trained is never tested.

Of the sites there are {parts}scores per slice, pseudonyms, fingerprints of keys, content hashes and paths of shards,
machine names and process ids. No images and no other private memory of a site are in this folder.
"""
