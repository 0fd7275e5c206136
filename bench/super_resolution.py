"""The tables and the picture of super-resolution sweeps.

    python bench/super_resolution.py super-resolution super-resolution-networks [--against "mscan fedavg"] [--patients]
    python bench/super_resolution.py super-resolution super-resolution-networks --panel out.png --site t2w
    python bench/super_resolution.py mscan-ablation

Reads finished sweeps of the workspace; nothing is trained. One table for each degradation: PSNR and SSIM of the output
of each method by site, seeds averaged (± their standard deviation), test subjects alone; parameters are the network's.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from methods import by_site, compare, ordered, patients, spread, subjects

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.inference.comparison import ComparedMethod, side_by_side
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.storage.parquet import read_scores
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.tune.sweep.run import load_sweep

STAGE = "output"

Runs = dict[int, dict[str, Any]]
"""By seed: scores, digest."""
SETUP = ("degradation", "strategy.name", "network", "network.name", "reconstructor", "seed")


def label(experiment: Experiment, params: dict[str, Any]) -> str:
    """The network with what was searched of it, and the strategy; or the reconstructor."""
    if not experiment.trains:
        return str(experiment.reconstructor["name"])
    options = [f"{key.split('.')[-1]}={shown(value)}" for key, value in params.items() if key not in SETUP]
    return " ".join([experiment.network["name"], experiment.strategy["name"], *options])


def shown(value: Any) -> str:
    return "+".join(f"{v:g} {k}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def gathered(sweeps: list[str], workspace: Path) -> dict[str, dict[str, Runs]]:
    """By degradation and method the finished trials."""
    store, found = run_store(None, workspace), defaultdict[str, dict[str, Runs]](lambda: defaultdict(dict))
    for sweep in sweeps:
        for row in load_sweep(sweep, workspace).trials:
            experiment = row.trial.experiment
            if row.status != "FINISHED" or row.run_id is None:
                print(f"left out: trial {row.trial.number} of {sweep} is {row.status}")
                continue
            runs = found[experiment.operator_at("").label()][label(experiment, row.trial.params)]
            scores = subjects(read_scores(store.local_artifact(row.run_id, "scores.parquet")))
            runs[experiment.seed] = {"scores": scores, "digest": row.trial.digest, "experiment": experiment}
    return found


def parameters(experiment: Experiment) -> str:
    from fedrecon.platform.consortium.network import images, network_choice
    from fedrecon.platform.consortium.shards import open_sites

    if not experiment.trains:
        return ""
    network = network_choice(experiment).build(images(open_sites(experiment.sites), experiment.scale))
    return f"{sum(one.numel() for one in network.parameters()):,}"


def tables(methods: dict[str, Runs]) -> None:
    first = next(iter(next(iter(methods.values())).values()))
    sites = list(by_site(first["scores"]["zero_filled"], "psnr"))
    sizes = {name: parameters(next(iter(runs.values()))["experiment"]) for name, runs in methods.items()}
    for metric, digits, unit in (("psnr", 2, " (dB)"), ("ssim", 3, "")):
        print(f"\n{metric.upper()}{unit}:\n")
        print(f"| method | parameters | seeds | {' | '.join(sites)} |\n|---|--:|--:|{'--:|' * len(sites)}")
        for name in ordered(methods, STAGE):
            runs = [by_site(one["scores"][STAGE], metric) for one in methods[name].values()]
            cells = [spread([run[site] for run in runs], digits) for site in sites]
            print(f"| {name} | {sizes[name]} | {len(runs)} | {' | '.join(cells)} |")
        zero = by_site(first["scores"]["zero_filled"], metric)
        print(f"| zero-padded | | | {' | '.join(f'{zero[site]:.{digits}f}' for site in sites)} |")


def panel(methods: dict[str, Runs], workspace: Path, out: Path, site: str) -> None:
    shown = {}
    for name in ordered(methods, STAGE):
        trained = TrainedRun.load(workspace, next(iter(methods[name].values()))["digest"])
        shown[name] = ComparedMethod.at(trained, site, trained.experiment.operator_at(site), STAGE)
    out.write_bytes(side_by_side(shown, site, "zero-padded"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+")
    parser.add_argument("--workspace", type=Path, default=default_workspace())
    parser.add_argument("--against", nargs="+", default=[], metavar="METHOD")
    parser.add_argument("--patients", action="store_true")
    parser.add_argument("--panel", type=Path)
    parser.add_argument("--site", help="of the panel")
    parser.add_argument("--degradation", default="kspace-truncation x2", help="of the panel")
    arguments = parser.parse_args()
    found = gathered(arguments.sweeps, arguments.workspace)
    for degradation, methods in found.items():
        print(f"\n### {degradation}")
        tables(methods)
        for against in arguments.against:
            compare(methods, against, STAGE)
        if arguments.patients:
            patients(methods, STAGE)
    if arguments.panel:
        methods = found[arguments.degradation]
        sites = {who[0] for who in next(iter(next(iter(methods.values())).values()))["scores"]["output"]}
        panel(methods, arguments.workspace, arguments.panel, arguments.site or min(sites))


if __name__ == "__main__":
    main()
