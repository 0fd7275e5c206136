"""The experiment of the GPU check, its sites and its plain loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

Figures = dict[str, Any]

SITES = 2


@dataclass
class Bench:
    """What the checks share.

    Attributes:
        device: ``cuda`` or ``cpu``. size: pixels of the square images. folder: for shards and runs.
        slices: training slices of each site. steps: batches that a loop is timed over, after as many to warm up.
    """

    device: str
    size: int
    folder: Path
    slices: int = 64
    steps: int = 32

    @property
    def tiny(self) -> bool:
        """Whether nothing here may take long: on a CPU."""
        return self.device == "cpu"

    @cached_property
    def shards(self) -> Path:
        """The folder of the shards, which are written now."""
        from many_sites import write_shards

        path = self.folder / "shards"
        path.mkdir()
        write_shards(path, SITES, self.size, self.slices, n_validation=1 if self.tiny else 8)
        return path

    def experiment(self, **changes: Any) -> Any:
        """The experiment of the checks: a U-Net on two sites."""
        from fedrecon.platform.config.experiment import Experiment

        return Experiment.read({
            "name": "gpu-check",
            "sites": str(self.shards),
            "operator": {"mask": "random", "acceleration": 4},
            "network": {"name": "unet", "channels": 4 if self.tiny else 32, "pools": 2 if self.tiny else 4},
            "training": {"rounds": 2, "batch_size": 4 if self.tiny else 8},
            "evaluation": {"every": 2, "panels": False},
            **changes,
        })  # fmt: skip

    def run(self, name: str, executor: str = "in-process", stop_after: int | None = None, **changes: Any) -> Any:
        """A run in its own workspace, without a store; None if it was stopped after that many rounds."""
        from fedrecon.platform.runs.context import RunContext
        from fedrecon.platform.runs.run import steps

        workspace = self.folder / name
        workspace.mkdir(exist_ok=True)
        going = steps(self.experiment(**changes), RunContext(workspace, executor, records_only=True))
        try:
            while stop_after != 0:
                next(going)
                stop_after = None if stop_after is None else stop_after - 1
        except StopIteration as end:
            return end.value
        going.close()
        return None

    def bits(self, name: str, result: Any) -> str:
        """A hash of the final weights of a run."""
        import hashlib

        from fedrecon.platform.storage.workspace import RunFolder

        found = RunFolder(self.folder / name, result.digest).checkpoints.latest()
        assert found is not None
        return hashlib.sha256(found[0].shared.tobytes()).hexdigest()

    @cached_property
    def first(self) -> tuple[str, Any]:
        """The bits and the result of the experiment, run once without a break."""
        result = self.run("first")
        return self.bits("first", result), result

    def executor(self, **changes: Any) -> Any:
        """The sites of the experiment in this process."""
        from fedrecon.platform.consortium.network import images, site_plan
        from fedrecon.platform.consortium.shards import open_sites
        from fedrecon.platform.execution.executor import InProcessExecutor

        experiment = self.experiment(**changes)
        shards = open_sites(str(self.shards))
        return InProcessExecutor([
            site_plan(experiment, images(shards), name, {name: str(one.path)}, {name: experiment.operator_at(name)})
            for name, one in shards.items()
        ])  # fmt: skip

    @cached_property
    def float32(self) -> Figures:
        """The figures of the plain loop in float32."""
        with plain(self) as (model, batches):
            return loop(self, model, batches)

    def request(self, site: Any) -> Any:
        """A request of round 1 with the weights of a site's network, which are its first ones if it is new."""
        from fedrecon.sites.training.parameters import to_vector
        from fedrecon.sites.wire import TrainRequest

        return TrainRequest(1, to_vector(site.parameters.shared))

    def wait(self) -> None:
        """Waits until the GPU has done all that it was given."""
        if not self.tiny:
            import torch

            torch.cuda.synchronize()

    def peak(self, reset: bool = False) -> int:
        """Bytes: the peak that torch allocated on the GPU since the last reset, or this process's peak on a CPU."""
        import resource

        import torch

        if self.tiny:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.max_memory_allocated())


@contextmanager
def plain(bench: Bench) -> Iterator[tuple[Any, list[Any]]]:
    """The network of a site with its first weights, and the measured batches of its training slices on its device."""
    from fedrecon.sites.seeding import generator

    executor = bench.executor()
    try:
        site = next(iter(executor.sites.values()))
        site.load(bench.request(site))
        slices, training = site.slices("train"), site.plan.training
        batches = slices.batches(training.batch_size, generator(0, "order"))
        yield site.model, [slices.training(items, 0, 0, training.augment) for items in batches]
    finally:
        executor.close()


def loop(bench: Bench, model: Any, batches: list[Any], context: Any = nullcontext) -> Figures:
    """Adam steps over the batches, first unmeasured, then measured: images a second, peak memory, the last loss."""
    import torch

    from fedrecon.sites.training import losses

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()

    def steps() -> tuple[int, Any]:
        count, loss = 0, torch.zeros(())
        for number in range(bench.steps):
            batch = batches[number % len(batches)]
            optimizer.zero_grad(set_to_none=True)
            with context():
                loss = losses.of("l1", model(batch), batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            count += len(batch.target)
        bench.wait()
        return count, loss

    steps()
    bench.peak(reset=True)
    begun = time.perf_counter()
    count, loss = steps()
    seconds = time.perf_counter() - begun
    value = float(loss.detach())
    if not math.isfinite(value):
        raise AssertionError(f"the loss is {value}")
    return {"images_per_second": count / seconds, "peak_bytes": bench.peak(), "loss": value}
