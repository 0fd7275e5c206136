"""Kills drivers with SIGKILL at seeded moments, and lets each run end: ``make kills``. Whatever died, the bits stay.

A moment is a call that makes something on the disk (sync, rename, hard link, copy), drawn among the commits, the
private memories, the journal, the uploads of artifacts or all others; or a fraction of a second of the run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "platform")]

from drivers import FAIR, experiment, fair  # noqa: E402 - after the path
from tiny import NETWORKS, PARAMETERS, write_consortium  # noqa: E402

LOADED = ["torch", "mlflow.store.tracking.sqlalchemy_store", "fedrecon.platform.runs.training_run"]
STRATEGIES = ("fedavg", "local", "fedper", "scaffold", "fedmri", "ditto", "fedgimp")
EXPERIMENTS = (*STRATEGIES, *FAIR)
"""Strategies as they are, and experiments with the keys of fair comparisons."""
DISK = ((os, "fsync"), (os, "replace"), (os, "link"), (shutil, "copyfile"))
KINDS = {"commit": "/checkpoints/", "memory": "/private/", "upload": "artifacts/", "journal": "/record/"}
"""The kind of a call, by what its path holds; anything else is 'other'."""
OWN = ("digest", "status", "rounds", "kept_round", "bytes_up", "bytes_down", "sites", "mean")
"""What of a result must not depend on who was killed."""


def drive(given: dict[str, Any], workspace: Path, out: Path, die_at: int = 0, after: float = 0.0) -> None:
    """One run in this process. It dies at its ``die_at``-th call to the disk, or after a time in seconds."""
    import fedrecon

    os.environ.pop("MLFLOW_TRACKING_URI", None)
    told: list[str] = []
    for module, name in DISK:
        setattr(module, name, _counted(getattr(module, name), told, die_at))
    if after:
        threading.Thread(target=lambda: (time.sleep(after), _die()), daemon=True).start()
    start = time.monotonic()
    result = fedrecon.run(given, workspace=workspace, in_process=True)
    record = {**result.as_dict(), "disk": told, "seconds": time.monotonic() - start}
    out.write_text(json.dumps(record), encoding="utf-8")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _counted(original: Any, told: list[str], die_at: int) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        told.append(_kind(arguments))
        if len(told) == die_at:
            _die()
        return original(*arguments, **named)

    return call


def _kind(arguments: tuple[Any, ...]) -> str:
    ends = [str(Path(f"/proc/self/fd/{one}").readlink() if isinstance(one, int) else one) for one in arguments[:2]]
    return next((kind for kind, part in KINDS.items() if any(part in end for end in ends)), "other")


def vectors(workspace: Path, digest: str, run_id: str, stores: Iterable[Path]) -> dict[str, bytes]:
    """The vectors of the run in the workspaces ``stores``, of its last checkpoint, and of each member's last memory."""
    root = workspace / "runs" / digest
    found = [path for store in stores for path in store.glob(f"**/{run_id}/artifacts/**/*.safetensors")]
    left = {str(path).partition(run_id)[2]: path.read_bytes() for path in found}
    last = max(root.glob("checkpoints/*.safetensors"))
    for path in (last, *root.glob(f"private/*/{last.name}")):
        left |= {f"{path.relative_to(root)} {key}": one for key, one in tensors(path).items()}
    return left


def tensors(path: Path) -> dict[str, bytes]:
    """The vectors of a file, by name."""
    from safetensors.numpy import load_file

    return {name: value.tobytes() for name, value in load_file(path).items()}


class Campaign:
    """Runs of one experiment: a calm one, and those that are killed."""

    def __init__(self, folder: Path, paths: dict[str, Path], name: str, template: Path) -> None:
        self.folder, self.template, self.count, self.name = folder / name, template, 0, name
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(LOADED)
        self.given = experiment(paths, "fedavg" if name in FAIR else name)
        if name == "personal":  # it begins with the weights of a run that is in every workspace
            self.template = start = self.workspace()
            self.given = fair(paths, name, start=self.run(start)["digest"])
        elif name in FAIR:
            self.given = fair(paths, name)
        else:
            self.given["network"] = dict(NETWORKS.get(name, self.given["network"]))
            self.given["strategy"] |= PARAMETERS.get(name, {})
        calm = self.workspace()
        self.calm = self.run(calm)
        assert isinstance(self.calm, dict)
        self.left = self.vectors(calm, self.calm["run_id"])
        assert name == "local" or any("weights.safetensors" in one for one in self.left)

    def workspace(self) -> Path:
        """A new workspace: a copy of the template."""
        self.count += 1
        return shutil.copytree(self.template, self.folder / f"{self.count}")

    def run(self, workspace: Path, **death: Any) -> Any:
        """The result, or the exit code of a driver that died."""
        out = workspace / "out.json"
        out.unlink(missing_ok=True)
        process = self.context.Process(target=drive, args=(self.given, workspace, out), kwargs=death)
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
            return "hangs"
        return json.loads(out.read_text(encoding="utf-8")) if process.exitcode == 0 else process.exitcode

    def vectors(self, workspace: Path, run_id: str) -> dict[str, bytes]:
        """See :func:`vectors`. A store that was copied keeps the folder of its artifacts."""
        return vectors(workspace, self.calm["digest"], run_id, self.folder.iterdir())

    def death(self, rng: random.Random) -> tuple[str, dict[str, float]]:
        """What is aimed at, and the moment: a time in a quarter of the cases, else a call of a kind of the calm run."""
        if rng.random() < 0.25:
            return "time", {"after": rng.uniform(0.05, self.calm["seconds"])}
        kind = rng.choice(sorted(set(self.calm["disk"])))
        return kind, {"die_at": rng.choice([n for n, one in enumerate(self.calm["disk"], 1) if one == kind])}

    def case(self, seed: int) -> tuple[Counter[str], str]:
        """Kills a run one to three times, then lets it end.

        Returns:
            the kills by what they were aimed at, and what is wrong; empty if all is as in the calm run.
        """
        rng, place, kills, said = random.Random(seed), self.workspace(), Counter[str](), []
        for _ in range(rng.randint(1, 3)):
            kind, death = self.death(rng)
            said.append(f"{kind} {death}")
            code = self.run(place, **death)
            if isinstance(code, dict):  # it was over before
                break
            if code != -signal.SIGKILL:
                return kills, f"{said}: exit {code}"
            kills[kind] += 1
        found = self.run(place)
        if not isinstance(found, dict):
            return kills, f"{said}: the run after it: exit {found}"
        wrong = [key for key in OWN if found[key] != self.calm[key]]
        if self.vectors(place, found["run_id"]) != self.left:
            wrong.append("vectors")
        if debris := [str(one.relative_to(place)) for one in place.rglob(".*.tmp")]:
            wrong.append(f"debris {debris}")
        shutil.rmtree(place)
        return kills, f"{said}: differs in {', '.join(wrong)}" if wrong else ""


def main(argv: list[str] | None = None) -> int:
    """Prints each case that went wrong, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS)
    asked = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FEDRECON_CACHE"] = str(Path(folder) / "cache")
        (Path(folder) / "sites").mkdir()
        paths = write_consortium(Path(folder) / "sites")
        template = Path(folder) / "template"
        template.mkdir()
        from fedrecon.platform.storage.tracking.store import run_store

        run_store(None, template)
        each = [Campaign(Path(folder), paths, name, template) for name in asked.experiments]
        kills, wrong, seed = Counter[str](), 0, asked.seed
        while kills.total() < asked.kills:
            campaign = each[seed % len(each)]
            found, what = campaign.case(seed)
            kills, wrong = kills + found, wrong + bool(what)
            print(f"seed {seed} {campaign.name}: {dict(found)}, {what or 'equal'}", flush=True)
            seed += 1
    print(
        f"{kills.total()} kills ({', '.join(f'{kind} {n}' for kind, n in sorted(kills.items()))}) in "
        f"{seed - asked.seed} runs, seeds {asked.seed} to {seed - 1}: {wrong} runs went wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
