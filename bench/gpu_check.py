"""What a person runs once on a machine with a GPU: ``make gpu-check``. Does it compute there as it says, and how fast?

python bench/gpu_check.py [--device cuda|cpu] [--size 256] [--checks NAME ...] [--out gpu-check.json]

Each check is ``ok``, ``failed`` or ``skipped``, the last two with words; no check stops the others. One failure makes
the exit code 1. Without a GPU all that can run runs on the CPU at 32 pixels, and the rest is skipped. The keys of the
report: docs/results/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpu_work import Bench, Figures, loop, plain

PACKAGES = ("fedrecon", "torch", "ray", "mlflow", "numpy", "h5py")
FORMAT = 1
"""The version of the report's keys."""

TINY_STYLE = {"latent": 8, "layers": 2, "channel_base": 128, "channel_max": 4, "skips": True}
"""A prior whose adaptation ends on a CPU in a second; a GPU gets the default one."""


class SkippedError(Exception):
    """The check cannot run here; the words say why."""


def same(found: Mapping[str, str]) -> None:
    """Refuses bits that differ."""
    if len(set(found.values())) > 1:
        raise AssertionError(f"the bits differ: {', '.join(f'{name} {one[:8]}' for name, one in found.items())}")


def bits(bench: Bench) -> Figures:
    """The same experiment twice, and once more with a break after round 1: the same final weights."""
    first, _ = bench.first
    second = bench.bits("second", bench.run("second"))
    bench.run("broken", stop_after=1)
    after = bench.run("broken")
    found = {"first": first, "second": second, "interrupted": bench.bits("broken", after)}
    same(found)
    if after.resumed_from != 1:
        raise AssertionError(f"the interrupted run went on after round {after.resumed_from} instead of 1")
    return {"weights": first, "psnr": after.mean["psnr"]}


def devices(bench: Bench) -> Figures:
    """Each site as a Ray actor: on the device that was asked for, with the bits of one process."""
    result = bench.run("actors", executor="actors")
    return placed(bench, "actors", result)


def halves(bench: Bench) -> Figures:
    """Two sites with half of one GPU each: both on the same GPU, with the bits of one process."""
    if bench.tiny:
        raise SkippedError("no GPU")
    result = bench.run("halves", executor="actors", resources={"gpus_per_site": 0.5})
    found = placed(bench, "halves", result)
    used = {gpu for one in found["sites"].values() for gpu in one["gpus"]}
    if len(used) != 1 or not all(one["gpus"] for one in found["sites"].values()):
        raise AssertionError(f"two halves of one GPU were to be on one GPU, and are on {sorted(used) or 'none'}")
    return found


def placed(bench: Bench, name: str, result: Any) -> Figures:
    """Where the sites of a run were. Refuses another device than the asked one, and other bits than of one process."""
    members = result.environment["members"]
    sites = {site: {"device": one["device"], "gpus": list(one.get("gpus") or ())} for site, one in members.items()}
    wrong = [site for site, one in sites.items() if (one["device"] == "cpu") != bench.tiny]
    if wrong:
        raise AssertionError(f"not on the {bench.device}: {', '.join(wrong)}")
    same({"one process": bench.first[0], name: bench.bits(name, result)})
    return {"sites": sites}


def float32(bench: Bench) -> Figures:
    """The plain loop in float32, which the others are compared with."""
    return bench.float32


def beside(bench: Bench, found: Figures, option: str | None) -> Figures:
    """Adds the ratio to float32, and whether an experiment has an option for it."""
    base = bench.float32
    return {
        **found,
        "speed_ratio": found["images_per_second"] / base["images_per_second"],
        "loss_difference": abs(found["loss"] - base["loss"]) / base["loss"],
        "option": option,
    }


def bfloat16(bench: Bench) -> Figures:
    """The network under autocast, as ``training.precision: bfloat16`` runs it."""
    import torch

    from fedrecon.sites.training.local_loop import autocast

    with plain(bench) as (model, batches):
        found = loop(bench, model, batches, lambda: autocast("bfloat16", torch.device(bench.device)))
    return beside(bench, found, "training.precision: bfloat16")


def channels_last(bench: Bench) -> Figures:
    """Weights in cuDNN's fast layout too; the inputs of the U-Net have it on a GPU in any case."""
    import torch

    with plain(bench) as (model, batches):
        found = loop(bench, model.to(memory_format=torch.channels_last), batches)
    return beside(bench, found, None)


def compiled(bench: Bench) -> Figures:
    """``torch.compile`` of the network; the seconds of the compilation are apart."""
    import shutil

    import torch

    if not any(shutil.which(one) for one in (os.environ.get("CXX") or "c++", "g++", "clang++")):
        raise SkippedError("no C++ compiler")
    with plain(bench) as (model, batches):
        fast = torch.compile(model)
        begun = time.perf_counter()
        with torch.no_grad():
            fast(batches[0])
        bench.wait()
        seconds = time.perf_counter() - begun
        found = loop(bench, fast, batches)
    return {**beside(bench, found, None), "compile_seconds": seconds}


def speed(bench: Bench) -> Figures:
    """``Site.fit`` of all sites, as a run does it, beside a plain loop over batches that are made in the same way."""
    from fedrecon.sites.seeding import generator
    from fedrecon.sites.training import losses
    from fedrecon.sites.training.optimizers import optimizer

    executor = bench.executor()
    sites = list(executor.sites.values())
    request = bench.request(sites[0])

    def plain_round() -> int:
        count = 0
        for site in sites:
            site.load(request)
            training, slices, model = site.plan.training, site.slices("train"), site.model
            adam = optimizer("adam", model.parameters(), training.learning_rate)
            model.train()
            for items in slices.batches(training.batch_size, generator(site.plan.seed, "order", site.name, 0)):
                batch = slices.training(items, site.plan.seed, 0, training.augment)
                adam.zero_grad(set_to_none=True)
                losses.of(training.loss, model(batch), batch).backward()  # type: ignore[no-untyped-call]
                adam.step()
                count += len(items)
        return count

    def our_round() -> int:
        return sum(reply.n_slices for reply in executor.fit(request))

    found = {}
    for name, one in (("plain", plain_round), ("fedrecon", our_round)):
        one()
        bench.wait()
        begun = time.perf_counter()
        count = one()
        bench.wait()
        found[name] = count / (time.perf_counter() - begun)
    executor.close()
    return {"images_per_second": found, "ratio": found["fedrecon"] / found["plain"]}


def memory(bench: Bench) -> Figures:
    """The peak of one round of one site. On a GPU it counts what torch allocated, on a CPU the whole process."""
    executor = bench.executor()
    site = next(iter(executor.sites.values()))
    bench.peak(reset=True)
    site.fit(bench.request(site))
    bench.wait()
    weights = site.parameters.flat.numel()
    found = {"peak_bytes": bench.peak(), "of": "torch on the GPU" if not bench.tiny else "the whole process"}
    executor.close()
    return {**found, "weights": weights}


def adaptation(bench: Bench) -> Figures:
    """FedGIMP's adaptation of a prior to validation slices, with the published number of steps on a GPU."""
    from fedrecon.sites.wire import ScoreTask

    given = {"steps": 3, "batch": 1} if bench.tiny else {}
    strategy = {"name": "fedgimp", **({"adaptation": given} if given else {})}
    network = {"name": "style", **(TINY_STYLE if bench.tiny else {})}
    executor = bench.executor(strategy=strategy, network=network)
    site = next(iter(executor.sites.values()))
    bench.peak(reset=True)
    scores = site.evaluate(bench.request(site), ScoreTask("validation", 0))
    count = list(scores.columns["stage"]).count("output")
    steps = site.plan.method.adaptation.steps
    executor.close()
    return {
        "seconds_per_slice": scores.seconds / count, "slices": count, "steps": steps, "size": bench.size,
        "peak_bytes": bench.peak(),
    }  # fmt: skip


CHECKS: dict[str, Callable[[Bench], Figures]] = {
    "bits": bits,
    "devices": devices,
    "halves": halves,
    "float32": float32,
    "bfloat16": bfloat16,
    "channels_last": channels_last,
    "compile": compiled,
    "speed": speed,
    "memory": memory,
    "adaptation": adaptation,
}
"""The checks by their names in the report, in the order in which they run."""


def outcome(check: Callable[[Bench], Figures], bench: Bench) -> dict[str, Any]:
    """A check's entry in the report. Whatever it raises is words: the others shall run."""
    begun = time.perf_counter()
    try:
        entry = {"status": "ok", "words": "", **check(bench)}
    except SkippedError as error:
        entry = {"status": "skipped", "words": str(error)}
    except Exception as error:  # noqa: BLE001 - a report of a machine that nobody here has seen
        lines = [line for line in str(error).splitlines() if line.strip()]
        entry = {"status": "failed", "words": f"{type(error).__name__}: {' '.join(lines[:3])}"[:500]}
        entry["where"] = traceback.format_exc().splitlines()[-12:]
    return {**entry, "seconds": round(time.perf_counter() - begun, 3)}


def machine() -> dict[str, Any]:
    """What the report says of the machine and its libraries."""
    import torch

    from fedrecon.platform.setup.machine import Machine

    here = Machine.here()
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "cuda": torch.version.cuda,
            "cudnn": cudnn,
        },
        "machine": {
            "system": platform.platform(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "cores": here.cores,
            "free_memory_bytes": here.memory,
            "gpus": [{"name": one.name, "memory_bytes": one.memory, "free_bytes": one.free} for one in here.gpus],
        },
    }


def report(bench: Bench, names: list[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Runs the checks. ``say`` gets a line for each."""
    checks = {}
    for name in names:
        checks[name] = outcome(CHECKS[name], bench)
        words = f": {checks[name]['words']}" if checks[name]["words"] else ""
        say(f"{name:14} {checks[name]['status']:8} {checks[name]['seconds']:7.1f} s{words}")
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    asked = {"device": bench.device, "size": bench.size, "slices": bench.slices, "steps": bench.steps}
    return {"format": FORMAT, "made": made, **asked, **machine(), "checks": checks}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda if torch sees a GPU, else cpu")
    parser.add_argument("--size", type=int, help="pixels of the square images (default: 256 on a GPU, 32 on a CPU)")
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=list(CHECKS), help="default: all")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="the report, to attach")
    asked = parser.parse_args(arguments)
    if asked.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
    import torch

    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU on this machine. Allowed: --device cpu")
    size = asked.size or (256 if device == "cuda" else 32)
    if not 16 <= size <= 1024 or size % 16:
        parser.error(f"--size is {size}. Allowed: multiples of 16, from 16 to 1024")
    few = {"slices": 8, "steps": 2} if device == "cpu" else {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, size, Path(folder), **few)
        found = report(bench, asked.checks, lambda line: print(line, file=sys.stderr, flush=True))
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(asked.out)
    return int(any(one["status"] == "failed" for one in found["checks"].values()))


if __name__ == "__main__":
    sys.exit(main())
