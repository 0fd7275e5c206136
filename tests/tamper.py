"""Tampers with runs of every strategy and counts what becomes of it: ``python tests/tamper.py --cases 500 --seed 0``.

Each case starts from a run that was interrupted after round 1, or that is finished. It changes one thing, calls again,
and compares with the untampered run: scores, validation, bits of the last state. A case is a process of its own, so
that its death is counted too. The case of one line of the output: ``python tests/tamper.py --only NUMBER --seed SEED``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tampering
from memory_store import MemoryStore
from tampering import Place, copied
from tiny import NETWORKS, PARAMETERS, UNET, write_consortium

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.run import steps
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import FedreconError
from fedrecon.sites.member.site import Site
from fedrecon.strategies import STRATEGIES

SAID, SAME, OTHER = "refused in one line", "equal result", "another digest"
WRONG, TRACE, DEATH = "WRONG RESULT", "traceback", "death"
OUTCOMES = (SAID, SAME, OTHER, WRONG, TRACE, DEATH)
NUMBERS = ("digest", "status", "rounds", "bytes_up", "bytes_down", "sites", "mean", "validation", "training_digest")


@dataclass(frozen=True)
class World:
    """Runs of one strategy: ``begun`` (one of two rounds), ``done``, and ``other`` (done, with another seed)."""

    folder: Path
    name: str

    def given(self, sites: Path, **more: Any) -> dict[str, Any]:
        kind = STRATEGIES[self.name]
        return {
            "sites": {path.stem: str(path) for path in sorted(sites.glob("*.h5"))},
            "operator": {"mask": "random", "acceleration": 3},
            "strategy": {"name": self.name, **PARAMETERS.get(self.name, {})},
            "network": dict(NETWORKS.get(self.name, UNET)),
            "training": {"rounds": 2, "batch_size": 2, "learning_rate": 0.01},
            "evaluation": {"every": 2, "panels": False, **more},
            "allow_pooling": kind.moves_data,
        }

    @classmethod
    def make(cls, folder: Path, name: str) -> World:
        world = cls(folder, name)
        sites = folder.parent / "sites"
        given = world.given(sites)
        course = steps(Experiment.read(given), RunContext(folder / "begun", "in-process", store=MemoryStore()))
        next(course)
        course.close()
        done = copied(folder / "begun", folder / "done")
        found = {"go": finish(given, done), "evaluate": scored(done, sites)}
        finish({**given, "seed": 1}, folder / "other")
        found["other mask"] = finish(world.given(sites, mask_seed=7), copied(done, folder / "more"))
        (folder / "expected.json").write_text(json.dumps(found))
        return world

    @property
    def expected(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "expected.json").read_text())
        return found


def finish(given: Mapping[str, Any], workspace: Path, executor: str = "in-process") -> dict[str, Any]:
    """Runs or goes on to the result; what is compared of it."""
    course = steps(Experiment.read(given), RunContext(workspace, executor, store=MemoryStore()))
    while True:
        try:
            next(course)
        except StopIteration as end:
            result = end.value.as_dict()
            break
    kept = RunFolder(workspace, result["digest"]).checkpoints.latest()
    state = {} if kept is None else {"shared": kept[0].shared, **kept[0].extra}
    bits = {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in state.items()}
    return {**{key: result[key] for key in NUMBERS}, "bits": bits}


def scored(workspace: Path, sites: Path) -> dict[str, Any]:
    found = evaluate("latest", sites=sites, workspace=workspace)
    return {"digest": found["digest"], "rows": found["rows"]}


Act = Callable[[random.Random, World, Place], tuple[str, Callable[[], Any], Any]]
"""Changes something; returns what, the call that follows, and what it must give."""


def _begun(damages: Sequence[tampering.Damage], executor: str = "in-process") -> Act:
    def act(rng: random.Random, world: World, place: Place) -> Any:
        copied(world.folder / "begun", place.workspace)
        what = rng.choice(damages)(rng, place)
        return what, lambda: finish(world.given(place.sites), place.workspace, executor), world.expected["go"]

    return act


def _done(damages: Sequence[tampering.Damage], then: str) -> Act:
    def act(rng: random.Random, world: World, place: Place) -> Any:
        copied(world.folder / "done", place.workspace)
        what = rng.choice(damages)(rng, place)
        calls: dict[str, Callable[[], Any]] = {
            "go": lambda: finish(world.given(place.sites), place.workspace),
            "evaluate": lambda: scored(place.workspace, place.sites),
            "other mask": lambda: finish(world.given(place.sites, mask_seed=7), place.workspace),
        }
        return what, calls[then], world.expected[then]

    return act


def _reply(rng: random.Random, world: World, place: Place) -> Any:
    copied(world.folder / "begun", place.workspace)
    name, member, fit = rng.choice(sorted(tampering.REPLY)), rng.choice(["north", "middle", "south"]), Site.fit

    def tampered(self: Site, request: Any) -> Any:
        reply = fit(self, request)
        whole = len(self.shards) > 1 or self.name == member
        return tampering.REPLY[name](rng, reply) if whole else reply

    Site.fit = tampered  # type: ignore[method-assign]
    what = f"the reply of {member}: {name}"
    return what, lambda: finish(world.given(place.sites), place.workspace), world.expected["go"]


def _cut_while_trained(rng: random.Random, world: World, place: Place) -> Any:
    copied(world.folder / "begun", place.workspace)
    member, fit = rng.choice(["north", "middle", "south"]), Site.fit

    def tampered(self: Site, request: Any) -> Any:
        path = next((shard.path for name, shard in self.shards.items() if name == member), None)
        if path is not None:
            tampering.cut(rng, path)
        return fit(self, request)

    Site.fit = tampered  # type: ignore[method-assign]
    what = f"the shard of {member} is cut while it trains"
    return what, lambda: finish(world.given(place.sites), place.workspace), world.expected["go"]


def _setting(rng: random.Random, world: World, place: Place) -> Any:
    key, value = rng.choice(tampering.SETTING)
    given = tampering.set_key(world.given(place.sites), key, value)
    return f"{key} = {value!r}", lambda: finish(given, place.workspace), None


def _seal_noted(rng: random.Random, world: World, place: Place) -> Any:
    """The shards were read before, so that their seals are noted; then one is changed, with the times as they were."""
    finish(world.given(place.sites), copied(world.folder / "done", place.workspace))
    path = rng.choice(sorted(place.sites.glob("*.h5")))
    before = path.stat()
    what = rng.choice((tampering.flip, tampering.cut))(rng, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder,) = place.files("runs/*/result.json")
    folder.unlink()
    return f"{what}, with its old time", lambda: finish(world.given(place.sites), place.workspace), world.expected["go"]


KINDS: dict[str, Act] = {
    "shard, then go on": _begun(tampering.SHARD),
    "shard, then take the result": _done(tampering.SHARD, "go"),
    "shard, with its old time": _seal_noted,
    "shard cut while a site trains": _cut_while_trained,
    "reply": _reply,
    "private memory, then go on": _begun(tampering.MEMORY),
    "private memory, then evaluate": _done(tampering.MEMORY, "evaluate"),
    "checkpoint, then go on": _begun(tampering.CHECKPOINT),
    "checkpoint, then evaluate": _done(tampering.CHECKPOINT, "evaluate"),
    "checkpoint, then take it over": _done(tampering.CHECKPOINT, "other mask"),
    "result.json": _done(tampering.RESULT, "go"),
    "run.json, then go on": _begun(tampering.NOTE),
    "run.json, then evaluate": _done(tampering.NOTE, "evaluate"),
    "any JSON of a run": _done(tampering.JSON, "go"),
    "trained/*.json": _done(tampering.TRAINED, "other mask"),
    "setting": _setting,
}
ON_RAY = {
    "Ray: shard": _begun(tampering.SHARD, "actors"),
    "Ray: private memory": _begun(tampering.MEMORY, "actors"),
    "Ray: checkpoint": _begun(tampering.CHECKPOINT, "actors"),
}


@dataclass(frozen=True)
class Case:
    """Case ``number`` of a seed: its kind and strategy go round, all else is drawn from ``seed + number``.

    Attributes:
        number, seed, kinds, names: see above.
        keepers: the strategies whose sites keep a private memory on disk.
    """

    number: int
    seed: int
    kinds: Mapping[str, Act]
    names: Sequence[str]
    keepers: Sequence[str]

    @property
    def kind(self) -> str:
        return list(self.kinds)[self.number % len(self.kinds)]

    @property
    def strategy(self) -> str:
        names = self.keepers if "memory" in self.kind else self.names
        return names[self.number // len(self.kinds) % len(names)]

    def run(self, base: Path) -> tuple[str, str]:
        """The outcome, and what was done and said. It runs in a child process."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            with os.fdopen(writing, "w") as out:
                out.write(json.dumps(self._run(base)))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as given:
            told = given.read()
        _, status = os.waitpid(child, 0)
        outcome, said = json.loads(told) if told else (DEATH, f"status {status}")
        return outcome, said

    def _run(self, base: Path) -> tuple[str, str]:
        place_of = Path(tempfile.mkdtemp(dir=base, prefix=f"case-{self.number}-"))
        rng, world = random.Random(self.seed + self.number), World(base / self.strategy, self.strategy)
        os.environ["FEDRECON_CACHE"] = str(place_of / "cache")
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        place = Place(copied(base / "sites", place_of / "sites"), place_of / "workspace", place_of / "other")
        copied(world.folder / "other", place.other)
        what = "before the change"
        try:
            with Path(os.devnull).open("w") as nothing, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sys.stderr = nothing
                what, call, expected = self.kinds[self.kind](rng, world, place)
                found = json.loads(json.dumps(call()))
        except FedreconError as error:
            lines = str(error).strip().splitlines()
            return (SAID if len(lines) == 1 else TRACE), f"{what} -> {type(error).__name__}: {' | '.join(lines)}"
        except BaseException:  # noqa: BLE001 - this is what is counted
            return TRACE, f"{what} -> {traceback.format_exc()}"
        finally:
            sys.stderr = sys.__stderr__
            shutil.rmtree(place_of, ignore_errors=True)
        if found == expected:
            return SAME, what
        if expected is not None and found["digest"] != expected["digest"]:
            return OTHER, f"{what} -> digest {found['digest']}"
        return WRONG, f"{what} -> {json.dumps(found)[:300]} instead of {json.dumps(expected)[:300]}"


def prepare(base: Path, names: Sequence[str]) -> list[str]:
    """Makes the untampered runs of these strategies. Returns those whose sites keep a private memory."""
    os.environ["FEDRECON_CACHE"] = str(base / "cache")
    write_consortium(base / "sites")
    for name in names:
        World.make(base / name, name)
    return [name for name in names if [*(base / name).glob("begun/runs/*/private/*/*")]]


def table(found: Counter[tuple[str, str]], kinds: Sequence[str]) -> str:
    """Cases by kind and outcome, as Markdown."""
    rows = [["kind", *OUTCOMES], ["---"] + ["---:"] * len(OUTCOMES)]
    rows += [[kind, *(str(found[kind, one]) for one in OUTCOMES)] for kind in kinds]
    rows += [["all", *(str(sum(found[kind, one] for kind in kinds)) for one in OUTCOMES)]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="the numbers of single cases")
    parser.add_argument("--strategies", nargs="*", default=sorted(STRATEGIES))
    parser.add_argument("--ray", action="store_true", help="the sites as Ray actors: files alone are changed")
    arguments = parser.parse_args()
    kinds = ON_RAY if arguments.ray else KINDS
    found: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="tamper-") as scratch:
        keepers = prepare(Path(scratch), arguments.strategies)
        for number in arguments.only if arguments.only is not None else range(arguments.cases):
            case = Case(number, arguments.seed, kinds, arguments.strategies, keepers)
            outcome, said = case.run(Path(scratch))
            found[case.kind, outcome] += 1
            print(f"{number}\t{arguments.seed + number}\t{case.strategy}\t{case.kind}\t{outcome}\t{said}", flush=True)
    print(table(found, list(kinds)))
    return int(any(found[kind, one] for kind in kinds for one in (WRONG, TRACE, DEATH)))


if __name__ == "__main__":
    sys.exit(main())
