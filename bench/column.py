"""One column of the benchmark: a job, done by a bare loop or by fedrecon, and when each of its rounds ended.

python bench/column.py --variant train|comm|mri --rounds N --out FILE [--crew CREW] [--checkpoint]

FILE becomes ``{"round_end": [unix time of the end of each round], "check": number}``.
"""

# ruff: noqa: ARG002 - hooks and protocols hand over more than a benchmark takes

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jobs
import torch
from torch import nn

from fedrecon.platform.config.resources import Resources
from fedrecon.platform.execution.executor import InProcessExecutor
from fedrecon.platform.federation.recorder import Round
from fedrecon.platform.federation.round_loop import federate
from fedrecon.platform.federation.score_gate import ScoreGate
from fedrecon.platform.storage.checkpoint import Checkpoints
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.training.parameters import Parameters, to_vector
from fedrecon.sites.wire import State

Ended = Callable[[], None]


@dataclass(frozen=True)
class Rounds:
    """What the round loop asks of an experiment."""

    method: Any
    rounds: int
    evaluation: Evaluation = field(default_factory=lambda: Evaluation(panels=False))
    personalise: None = None

    def scores_due(self, round_number: int) -> bool:
        """Never: scoring is no part of the benchmark."""
        return False


@dataclass
class Clock:
    """What the round loop asks of a record: notes the time of the commit, after writing it where that is wanted."""

    checkpoints: Checkpoints | None = None
    ends: list[float] = field(default_factory=list)
    ended: bool = False
    kept: dict[str, Any] = field(default_factory=dict)

    def commit(self, finished: Round, state: State, seen: Any) -> None:
        """The end of a round."""
        if self.checkpoints is not None:
            self.checkpoints.save(state, {"rounds": []})
        self.tick()

    def picture(self, step: int, pictures: Any) -> None:
        """There is none: nothing is scored."""

    def tick(self) -> None:
        """Now."""
        self.ends.append(time.time())


def bare(job: jobs.Job, rounds: int, clock: Clock) -> nn.Module:
    """The floor: one process, one model, the sites one after the other, a running average."""
    model = job.model()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for number in range(1, rounds + 1):
        total = {name: torch.zeros_like(value) for name, value in weights.items()}
        for index in range(len(job.names)):
            model.load_state_dict(weights)
            job.local(model, index, number)
            for name, value in model.state_dict().items():
                total[name].add_(value, alpha=1 / len(job.names))
        weights = total
        clock.tick()
    model.load_state_dict(weights)
    return model


def bare_on_two_cores(job: jobs.Job, rounds: int, clock: Clock) -> nn.Module:
    """The floor of all that trains two sites at once: two such loops that share their memory, and nothing else.

    They add in the order of the sites, so the weights have the bits of :func:`bare`.
    """
    fork, model, n_sites = multiprocessing.get_context("fork"), job.model(), len(job.names)
    weights = {name: value.clone().share_memory_() for name, value in model.state_dict().items()}
    total = {name: torch.zeros_like(value).share_memory_() for name, value in weights.items()}
    turns, begin = [fork.Semaphore(int(index == 0)) for index in range(n_sites)], fork.Barrier(2)

    def loop(first: int) -> None:
        for number in range(1, rounds + 1):
            begin.wait()
            for index in range(first, n_sites, 2):
                model.load_state_dict(weights)
                job.local(model, index, number)
                turns[index].acquire()
                for name, value in model.state_dict().items():
                    total[name].add_(value, alpha=1 / n_sites)
                turns[(index + 1) % n_sites].release()
            if first == 0:
                turns[0].acquire()  # released after the last site
                for name, value in total.items():
                    weights[name].copy_(value)
                    value.zero_()
                turns[0].release()
                clock.tick()

    other = fork.Process(target=loop, args=(1,), daemon=True)
    other.start()
    loop(0)
    other.join()
    model.load_state_dict(weights)
    return model


def fedrecon(job: jobs.Job, rounds: int, clock: Clock, on_ray: bool) -> nn.Module:
    """The product: its round loop, executor, sites and strategy, as ``fedrecon run`` puts them together."""
    model = job.model()
    layout = Parameters(model, lambda name: job.strategy.shares(name, model))
    state = job.strategy.begin(to_vector(layout.shared), layout.buffers)
    executor: Any
    if on_ray:
        from fedrecon.platform.execution.ray_executor import RayExecutor

        executor = RayExecutor(job.plans(), Resources(start_timeout=300))
    else:
        executor = InProcessExecutor(job.plans())
    try:
        what = Rounds(job.strategy, rounds)
        nobody = ScoreGate({}, {}, {}, what.evaluation, spread=False)
        state = federate(what, executor, nobody, clock, state, job.n_slices)  # type: ignore[arg-type]
    finally:
        executor.close()
    layout.load_shared(state.shared)
    return model


def run(job: jobs.Job, executor: str, rounds: int, checkpoints: Checkpoints | None = None) -> dict[str, Any]:
    """The column's report."""
    clock = Clock(checkpoints)
    floors = {"bare": bare, "bare-on-two-cores": bare_on_two_cores}
    if executor in floors:
        model = floors[executor](job, rounds, clock)
    else:
        model = fedrecon(job, rounds, clock, executor == "ray")
    return {"round_end": clock.ends, "check": job.check(model)}


def main() -> None:
    parser = argparse.ArgumentParser(description="one column of the benchmark")
    parser.add_argument("--variant", choices=jobs.SITES, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crew", choices=["bare", "bare-on-two-cores", "in-process", "ray"], default="ray")
    parser.add_argument("--checkpoint", action="store_true", help="commit every round to disk")
    parser.add_argument("--data", type=Path, help="folder of the shards (default: made anew)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        job = jobs.make(asked.variant, asked.data or Path(scratch))
        checkpoints = Checkpoints(Path(scratch) / "checkpoints") if asked.checkpoint else None
        report = run(job, asked.crew, asked.rounds, checkpoints)
    asked.out.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
