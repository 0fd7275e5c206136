"""What another operator at test time costs: the tables of sweeps over training operators and over priors.

    python bench/shift.py operator-shift prior-shift [--patients]

Reads finished sweeps of the workspace. A conditional network is scored at other operators than its own by ``evaluate``;
a prior never saw one, so its trial at an operator is its score there. PSNR with hard data consistency; seeds are
averaged, ± is their standard deviation; the unit of every test is the subject.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from methods import Scores, Subject, by_site, holm, spread, subjects

from fedrecon.platform.inference.comparison import ComparedMethod, side_by_side
from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.storage.parquet import read_scores
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.sites.acquisition import setting as acquisition
from fedrecon.tune.sweep.run import load_sweep

Operator = tuple[str, float]
Runs = dict[int, Scores]
"""Scores by seed."""

PAIRS: tuple[tuple[Operator, Operator], ...] = (
    (("random", 3), ("random", 6)),
    (("random", 3), ("random", 8)),
    (("gaussian2d", 3), ("gaussian2d", 6)),
    (("gaussian2d", 3), ("random", 3)),
    (("random", 3), ("gaussian2d", 3)),
)
"""Trained on, tested on."""

PICTURE = PAIRS[2]

STAGE = "data_consistency"
"""With hard data consistency. A prior's own output has it already: with several coils twice is not once."""


def name(experiment: Any) -> str:
    if not experiment.trains:
        return str(experiment.reconstructor["name"])
    if experiment.method.network_kind == "prior":
        adaptation = experiment.method.adaptation
        how = "static" if not adaptation.steps else "" if "weights" in adaptation.variables else "latent alone"
        return " ".join(filter(None, [experiment.strategy["name"], adaptation.prior, how]))
    return f"{experiment.strategy['name']} {experiment.network['name']}"


def operator(experiment: Any) -> Operator:
    return experiment.operator["mask"], float(experiment.operator["acceleration"])


def label(one: Operator) -> str:
    return f"{one[0]} R={one[1]:g}"


class Shift:
    """Scores by method, by the operator it was trained on (None: on none) and by the one it was tested on."""

    def __init__(self, sweeps: list[str], workspace: Path) -> None:
        store = run_store(None, workspace)
        self.cells: dict[tuple[str, Operator | None, Operator], Runs] = {}
        for sweep in sweeps:
            for row in load_sweep(sweep, workspace).trials:
                if row.status != "FINISHED" or row.run_id is None:
                    print(f"left out: trial {row.trial.number} ({row.trial.name}) is {row.status}")
                    continue
                experiment = row.trial.experiment
                own, learned = operator(experiment), experiment.trains and experiment.method.trains_on_operator
                found = subjects(read_scores(store.local_artifact(row.run_id, "scores.parquet")))
                if experiment.trains and experiment.method.network_kind == "prior":
                    found[STAGE] = found["output"]
                self._keep(name(experiment), own if learned else None, own, experiment.seed, found)
                for given, tested in PAIRS if learned else ():
                    if given == own:
                        told = evaluate(
                            row.trial.digest, mask=tested[0], accelerations=[tested[1]], workspace=workspace
                        )
                        other = subjects(read_scores(Path(told["scores"])))
                        self._keep(name(experiment), own, tested, experiment.seed, other)

    def _keep(self, method: str, trained: Operator | None, tested: Operator, seed: int, scores: Scores) -> None:
        self.cells.setdefault((method, trained, tested), {})[seed] = scores

    def methods(self, learned: bool) -> list[str]:
        """Those that were trained on operators, or those that were not."""
        return sorted({method for method, trained, _ in self.cells if (trained is not None) == learned})

    def get(self, method: str, trained: Operator, tested: Operator) -> Runs:
        """Of a method that learned no operator, its scores at the one it is tested on."""
        return self.cells.get((method, trained, tested)) or self.cells.get((method, None, tested), {})


def over_sites(runs: Runs, site: str = "mean") -> list[float]:
    return [by_site(one[STAGE], "psnr")[site] for one in runs.values()]


def averaged(runs: Runs) -> dict[Subject, float]:
    return {
        who: float(np.mean([one[STAGE][who]["psnr"] for one in runs.values()]))
        for who in next(iter(runs.values()))[STAGE]
    }


def zero_filled(shift: Shift, tested: Operator) -> dict[str, float]:
    for (_, _, where), runs in shift.cells.items():
        if where == tested:
            return by_site(next(iter(runs.values()))["zero_filled"], "psnr")
    return {}


def matched(shift: Shift) -> None:
    for tested in sorted({tested for _, _, tested in shift.cells}):
        zero = zero_filled(shift, tested)
        print(f"\n### Tested on {label(tested)}, and trained on it (priors and classical methods: on no operator)\n")
        print(f"| method | seeds | {' | '.join(zero)} |\n|---|--:|{'--:|' * len(zero)}")
        rows = [
            (method, runs)
            for method in shift.methods(True) + shift.methods(False)
            if (runs := shift.get(method, tested, tested))
        ]
        for method, runs in sorted(rows, key=lambda row: -np.mean(over_sites(row[1]))):
            print(f"| {method} | {len(runs)} | {' | '.join(spread(over_sites(runs, site), 2) for site in zero)} |")
        print(f"| zero-filled | | {' | '.join(f'{value:.2f}' for value in zero.values())} |")


def mismatched(shift: Shift) -> None:
    for trained, tested in PAIRS:
        rows = []
        for method in shift.methods(True) + shift.methods(False):
            runs, at_home = shift.get(method, trained, tested), shift.get(method, tested, tested)
            if runs:
                rows.append((method, runs, over_sites(at_home) if at_home else []))
        if not rows:
            continue
        zero = zero_filled(shift, tested)
        print(f"\n### Trained on {label(trained)}, tested on {label(tested)}\n")
        print(
            f"| method | {' | '.join(zero)} | trained on what is tested | loss (dB) |\n|---|{'--:|' * (len(zero) + 2)}"
        )
        for method, runs, home in sorted(rows, key=lambda row: -np.mean(over_sites(row[1]))):
            loss = f"{np.mean(home) - np.mean(over_sites(runs)):.2f}" if home else ""
            cells = [spread(over_sites(runs, site), 2) for site in zero]
            print(f"| {method} | {' | '.join(cells)} | {spread(home, 2) if home else ''} | {loss} |")
        print(f"| zero-filled | {' | '.join(f'{value:.2f}' for value in zero.values())} | | |")


def compare(shift: Shift) -> None:
    """The adapted prior against conditional networks that were trained elsewhere: Wilcoxon, Holm over all rows."""
    from scipy.stats import wilcoxon

    rows = []
    for trained, tested in PAIRS:
        ours = shift.get("fedgimp trained", trained, tested)
        for method in [*shift.methods(True), "fedgimp untrained", "tv"] if ours else []:
            if theirs := shift.get(method, trained, tested):
                one, other = averaged(ours), averaged(theirs)
                differences = np.array([one[who] - other[who] for who in one])
                rows.append((trained, tested, method, differences, float(wilcoxon(differences).pvalue)))
    corrected = holm([p for *_, p in rows])
    print("\n### The trained, adapted prior minus other methods, over test subjects\n")
    print("| trained on | tested on | against | subjects | mean ± standard error (dB) | better for | p, Holm |")
    print("|---|---|---|--:|--:|--:|--:|")
    for (trained, tested, method, differences, _), adjusted in zip(rows, corrected, strict=True):
        n = len(differences)
        error = differences.std(ddof=1) / n**0.5
        elsewhere = label(trained) if method in shift.methods(True) else "–"
        print(
            f"| {elsewhere} | {label(tested)} | {method} | {n} | {differences.mean():+.2f} ± {error:.2f} "
            f"| {100 * (differences > 0).mean():.0f} % | {adjusted:.2g} |"
        )


def patients(shift: Shift) -> None:
    for trained, tested in PAIRS:
        rows = {method: runs for method in shift.methods(True) + shift.methods(False)
                if (runs := shift.get(method, trained, tested))}  # fmt: skip
        if not rows:
            continue
        who = sorted(averaged(next(iter(rows.values()))))
        print(
            f"\n### Every patient, trained on {label(trained)}, tested on {label(tested)}: PSNR (dB), mean over seeds\n"
        )
        print(f"| method | {' | '.join(f'{site} {subject}' for site, subject in who)} |\n|---|{'--:|' * len(who)}")
        for method, runs in rows.items():
            each = averaged(runs)
            print(f"| {method} | {' | '.join(f'{each[one]:.2f}' for one in who)} |")


def panel(sweeps: list[str], workspace: Path, out: Path, site: str) -> None:
    """At the pair of operators, every method as trained on the first (if on any) and tested on the second."""
    given, tested = PICTURE
    measured = acquisition.Operator.read({"mask": tested[0], "acceleration": tested[1]})
    shown = {}
    for sweep in sweeps:
        for row in load_sweep(sweep, workspace).trials:
            experiment = row.trial.experiment
            learned = experiment.trains and experiment.method.trains_on_operator
            if row.status == "FINISHED" and operator(experiment) == (given if learned else tested):
                prior = experiment.trains and experiment.method.network_kind == "prior"
                trained = TrainedRun.load(workspace, row.trial.digest)
                shown.setdefault(
                    name(experiment), ComparedMethod.at(trained, site, measured, "output" if prior else STAGE)
                )
    out.write_bytes(side_by_side(shown, site, "zero-filled"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+")
    parser.add_argument("--workspace", type=Path, default=default_workspace())
    parser.add_argument(
        "--patients", action="store_true", help="list every patient and test nothing: for a few patients"
    )
    parser.add_argument("--panel", type=Path, help="draws this picture, and no tables")
    parser.add_argument("--site", default="t2w", help="of the picture")
    arguments = parser.parse_args()
    if arguments.panel:
        panel(arguments.sweeps, arguments.workspace, arguments.panel, arguments.site)
        return
    shift = Shift(arguments.sweeps, arguments.workspace)
    matched(shift)
    mismatched(shift)
    (patients if arguments.patients else compare)(shift)


if __name__ == "__main__":
    main()
