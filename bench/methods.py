"""The tables of a sweep over methods: scores by site with their spread, a paired test over subjects, bytes, a picture.

    python bench/methods.py partial-sharing --against fedavg local
    python bench/methods.py partial-sharing-real --patients
    python bench/methods.py partial-sharing --panel docs/results/partial-sharing.png

Reads a finished sweep of the workspace; nothing is trained. A method is a strategy with the searched keys that are its
own; its seeds are averaged, ± is their standard deviation. Scores are of test subjects: volumes are averaged within
a subject, subjects within a site, sites within the mean.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.platform.federation.aggregate import METRICS, volume_scores
from fedrecon.platform.inference.comparison import ComparedMethod, reconstructed
from fedrecon.platform.storage.parquet import read_rounds, read_scores
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.tune.sweep.run import load_sweep

STAGES = {"output": "own output", "data_consistency": "hard data consistency"}

Subject = tuple[str, str]
Scores = dict[str, dict[Subject, dict[str, float]]]
"""By stage and (site, subject) the three metrics."""


def method(params: dict[str, Any]) -> str:
    own = [f"{key.split('.')[-1]}={value}" for key, value in params.items() if key not in ("strategy.name", "seed")]
    return " ".join([str(params.get("strategy.name", "")), *own])


def gathered(sweep: str, workspace: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Of each finished trial: subject scores, bytes of its last round and its digest, by method and seed."""
    store, found = run_store(None, workspace), defaultdict[str, dict[int, dict[str, Any]]](dict)
    for row in load_sweep(sweep, workspace).trials:
        if row.status != "FINISHED" or row.run_id is None:
            print(f"left out: trial {row.trial.number} ({row.trial.name}) is {row.status}")
            continue
        rounds = read_rounds(store.local_artifact(row.run_id, "rounds.parquet"))
        found[method(row.trial.params)][row.trial.experiment.seed] = {
            "scores": subjects(read_scores(store.local_artifact(row.run_id, "scores.parquet"))),
            "bytes": (rounds[-1]["bytes_up"], rounds[-1]["bytes_down"]),
            "digest": row.trial.digest,
        }
    return found


def subjects(columns: Any) -> Scores:
    cells: dict[str, dict[Subject, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in volume_scores(columns):
        cells[row["stage"]][row["site"], row["subject"]].append([row[metric] for metric in METRICS])
    return {
        stage: {who: dict(zip(METRICS, np.mean(values, axis=0), strict=True)) for who, values in by.items()}
        for stage, by in cells.items()
    }


def by_site(scores: dict[Subject, dict[str, float]], metric: str) -> dict[str, float]:
    sites = sorted({site for site, _ in scores})
    found = {site: float(np.mean([one[metric] for (s, _), one in scores.items() if s == site])) for site in sites}
    return {"mean": float(np.mean(list(found.values()))), **found}


def spread(values: list[float], digits: int) -> str:
    tail = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{tail}"


def ordered(found: dict[str, dict[int, dict[str, Any]]], stage: str = "data_consistency") -> list[str]:
    """Methods by their PSNR, the best first."""

    def key(name: str) -> float:
        return -np.mean([by_site(one["scores"][stage], "psnr")["mean"] for one in found[name].values()])

    return sorted(found, key=key)


def score_tables(found: dict[str, dict[int, dict[str, Any]]]) -> None:
    first = next(iter(next(iter(found.values())).values()))["scores"]
    sites = list(by_site(first["zero_filled"], "psnr"))
    for stage, title in STAGES.items():
        print(f"\n### By {title}\n")
        for metric, digits, unit in (("psnr", 2, " (dB)"), ("ssim", 3, ""), ("nmse", 4, "")):
            print(f"{metric.upper()}{unit}:\n")
            print(f"| method | seeds | {' | '.join(sites)} |\n|---|--:|{'--:|' * len(sites)}")
            for name in ordered(found):
                runs = [by_site(one["scores"][stage], metric) for one in found[name].values()]
                cells = [spread([run[site] for run in runs], digits) for site in sites]
                print(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
            zero = by_site(first["zero_filled"], metric)
            print(f"| zero-filled | | {' | '.join(f'{zero[site]:.{digits}f}' for site in sites)} |\n")


def bytes_table(found: dict[str, dict[int, dict[str, Any]]]) -> None:
    print("\n### MB a round, all sites together, measured in the last round\n")
    print("| method | up | down |\n|---|--:|--:|")
    for name in ordered(found):
        up, down = next(iter(found[name].values()))["bytes"]
        print(f"| {name} | {up / 1e6:.2f} | {down / 1e6:.2f} |")


def averaged(runs: dict[int, dict[str, Any]], stage: str) -> dict[Subject, float]:
    """PSNR of each subject, mean over the seeds."""
    each = [one["scores"][stage] for one in runs.values()]
    return {who: float(np.mean([one[who]["psnr"] for one in each])) for who in each[0]}


def holm(values: list[float]) -> list[float]:
    """Holm's correction of p-values, in their order."""
    corrected, running = [0.0] * len(values), 0.0
    for k, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        running = max(running, min(1.0, (len(values) - k) * values[index]))
        corrected[index] = running
    return corrected


def compare(found: dict[str, dict[int, dict[str, Any]]], against: str, stage: str = "data_consistency") -> None:
    """Wilcoxon's signed-rank test, two-sided, paired over test subjects; Holm's correction over the rows."""
    from scipy.stats import wilcoxon

    if against not in found:
        raise SystemExit(f"'{against}' is no method here: {', '.join(found)}")
    base, rows = averaged(found[against], stage), []
    for name in ordered(found, stage):
        if name != against:
            own = averaged(found[name], stage)
            differences = np.array([own[who] - base[who] for who in base])
            p = wilcoxon(differences).pvalue if differences.any() else 1.0
            rows.append((name, float(np.median(differences)), float((differences > 0).mean()), float(p)))
    corrected = holm([p for *_, p in rows])
    print(f"\n### Against {against}: PSNR by {STAGES[stage]} over {len(base)} test subjects\n")
    print("| method | median difference (dB) | subjects better | p | p, Holm |\n|---|--:|--:|--:|--:|")
    for (name, median, better, p), adjusted in zip(rows, corrected, strict=True):
        print(f"| {name} | {median:+.2f} | {100 * better:.0f} % | {p:.2g} | {adjusted:.2g} |")


def patients(found: dict[str, dict[int, dict[str, Any]]], stage: str = "data_consistency") -> None:
    each = {name: averaged(runs, stage) for name, runs in found.items()}
    who = sorted(next(iter(each.values())))
    print(f"\n### Every patient: PSNR (dB) by {STAGES[stage]}, mean over seeds\n")
    print(f"| method | {' | '.join(f'{site} {subject}' for site, subject in who)} |\n|---|{'--:|' * len(who)}")
    for name in ordered(found, stage):
        print(f"| {name} | {' | '.join(f'{each[name][one]:.2f}' for one in who)} |")


def panel(found: dict[str, dict[int, dict[str, Any]]], workspace: Path, out: Path) -> None:
    """The same test slice of every site under every method, with hard data consistency, and its PSNR."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    from fedrecon.platform.inference.trained_run import TrainedRun

    names = ordered(found)
    columns = ["reference", "zero-filled", *names]
    trained = {name: TrainedRun.load(workspace, next(iter(found[name].values()))["digest"]) for name in names}
    sites = list(trained[names[0]].images.sites)
    figure = Figure(figsize=(1.25 * len(columns), 1.42 * len(sites)), dpi=80, facecolor="#101216")
    FigureCanvasAgg(figure)
    for i, site in enumerate(sites):
        shown = {
            name: ComparedMethod.at(one, site, one.experiment.operator_at(site), "data_consistency")
            for name, one in trained.items()
        }
        images, maximum = reconstructed(shown, site, "zero-filled")
        white = np.percentile(images["reference"], 99)
        for j, column in enumerate(columns):
            axes = figure.add_subplot(len(sites), len(columns), i * len(columns) + j + 1)
            axes.imshow(images[column], cmap="gray", vmin=0, vmax=white)
            axes.set_xticks([])
            axes.set_yticks([])
            error = np.mean((images[column] - images["reference"]) ** 2)
            psnr = f"{20 * np.log10(maximum) - 10 * np.log10(error):.1f}" if error else site
            head = column.replace(" contrastive_weight=", " β=") if i == 0 else ""
            axes.set_title(f"{head}\n{psnr}", color="#f2f2f2", fontsize=6, pad=2)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.93, 0.03, 0.16)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=figure.get_facecolor())
    Image.open(file).convert("L").quantize(64).save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep")
    parser.add_argument("--workspace", type=Path, default=default_workspace())
    parser.add_argument("--against", nargs="+", default=[], metavar="METHOD")
    parser.add_argument("--patients", action="store_true")
    parser.add_argument("--panel", type=Path)
    arguments = parser.parse_args()
    found = gathered(arguments.sweep, arguments.workspace)
    score_tables(found)
    bytes_table(found)
    for against in arguments.against:
        compare(found, against)
    if arguments.patients:
        patients(found)
    if arguments.panel:
        panel(found, arguments.workspace, arguments.panel)


if __name__ == "__main__":
    main()
