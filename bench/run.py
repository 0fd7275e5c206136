"""The benchmark: fedrecon beside a bare PyTorch loop that does the same work. ``make bench``; see README.md here."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jobs
from measure import WARM, measure

COLUMN = Path(__file__).with_name("column.py")
COLUMNS = {
    "bare": ["--crew", "bare"],
    "bare, on two cores": ["--crew", "bare-on-two-cores"],
    "fedrecon-in-process": ["--crew", "in-process"],
    "fedrecon-ray": ["--crew", "ray"],
    "fedrecon-ray, committed": ["--crew", "ray", "--checkpoint"],
}
COMMITTED = "comm"
"""The one job in which writing the checkpoint is a column of its own: elsewhere it is lost in the training."""

ROUNDS = {"train": 6, "comm": 10, "mri": 4}
PASSES = {"train": 2, "comm": 2, "mri": 1}
DIGITS = 6
MEMORY_ROUNDS = 2
FIGURES = ("seconds", "cpu", "start_up")
Passes = dict[str, list[dict[str, Any]]]


def columns(variant: str) -> Iterator[tuple[str, list[str]]]:
    """The columns of a job with their arguments."""
    for name, arguments in COLUMNS.items():
        if "--checkpoint" not in arguments or variant == COMMITTED:
            yield name, arguments


def run(variant: str, passes: int, rounds: int, warm: int, data: Path) -> Passes:
    """Every column ``passes`` times, interleaved, so that a slow minute of the machine hits all of them."""
    measured: Passes = {}
    jobs.make(variant, data)
    for number in range(passes):
        for name, arguments in columns(variant):
            say(f"{variant}, pass {number + 1} of {passes}: {name}")
            measured.setdefault(name, []).append(measure(command(variant, data, arguments), rounds, warm))
    return measured


def peaks(variant: str, data: Path) -> dict[str, float]:
    """Peak memory, in a pass of its own: looking at the memory of processes costs them time."""
    found = {}
    for name, arguments in columns(variant):
        say(f"{variant}, memory: {name}")
        found[name] = measure(command(variant, data, arguments), MEMORY_ROUNDS, memory=True)["peak"]
    return found


def command(variant: str, data: Path, arguments: Sequence[str]) -> list[str]:
    """The column as a program."""
    return [sys.executable, str(COLUMN), "--variant", variant, "--data", str(data), *arguments]


def say(text: str) -> None:
    """What is being done, for who waits."""
    print(text, file=sys.stderr, flush=True)


def summarise(measured: Passes, peak: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Medians over the passes; the ratios to ``bare`` are formed within each pass first."""
    rows = {}
    for name, passes in measured.items():
        row = {key: statistics.median(one[key] for one in passes) for key in FIGURES}
        for key in ("seconds", "cpu"):
            ratios = [one[key] / floor[key] for one, floor in zip(passes, measured["bare"], strict=True)]
            row[f"{key}_ratio"] = statistics.median(ratios)
            row[f"{key}_low"], row[f"{key}_high"] = min(ratios), max(ratios)
        rows[name] = {**row, "check": passes[0]["check"], "peak": peak.get(name, 0)}
    return rows


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The rows in Markdown."""
    lines = ["| column | s/round | x bare | CPU s/round | x bare (range) | start-up s | peak PSS MiB | check |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, row in rows.items():
        spread = f"{row['cpu_ratio']:.2f} ({row['cpu_low']:.2f}-{row['cpu_high']:.2f})"
        peak = f"{row['peak'] / 2**20:.0f}" if row["peak"] else "-"
        lines.append(
            f"| {name} | {row['seconds']:.2f} | {row['seconds_ratio']:.2f} | {row['cpu']:.2f} | {spread} "
            f"| {row['start_up']:.1f} | {peak} | {row['check']:.{DIGITS}f} |"
        )
    return "\n".join(lines)


def disagreement(measured: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """What is wrong with the checks: nothing, or that some column did other work."""
    found = {f"{one['check']:.{DIGITS}f}" for passes in measured.values() for one in passes}
    return "" if len(found) == 1 else f"the columns did not do the same work: {', '.join(sorted(found))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--passes", type=int, help=f"over every column (default: {PASSES})")
    parser.add_argument("--rounds", type=int, help=f"of every job (default: {ROUNDS})")
    parser.add_argument("--warm", type=int, default=WARM, help="rounds at the start that do not count")
    parser.add_argument("--memory", action="store_true", help="one more pass, for the peak memory")
    parser.add_argument("--json", type=Path, help="also write every pass here")
    asked = parser.parse_args()
    for variant in asked.variants:
        if not 1 <= asked.warm < (asked.rounds or ROUNDS[variant]):
            parser.error(f"--warm {asked.warm}: 1 or more are needed, and fewer than the rounds of {variant}")
    record: dict[str, Any] = {}
    wrong = []
    for variant in asked.variants:
        rounds, passes = asked.rounds or ROUNDS[variant], asked.passes or PASSES[variant]
        with tempfile.TemporaryDirectory() as folder:
            measured = run(variant, passes, rounds, asked.warm, Path(folder))
            peak = peaks(variant, Path(folder)) if asked.memory else {}
        counted = f"rounds {asked.warm + 1} to {rounds}"
        print(f"\n**{variant}**: {counted}, {passes} interleaved pass(es), load {os.getloadavg()[0]:.1f}\n")
        print(table(summarise(measured, peak)), flush=True)
        record[variant] = {"passes": measured, "peak": peak}
        if asked.json:
            asked.json.write_text(json.dumps(record, indent=1) + "\n")
        wrong += [f"{variant}: {text}"] if (text := disagreement(measured)) else []
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
