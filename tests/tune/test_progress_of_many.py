"""What a person sees of a thousand trials, on a terminal."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from small_sweeps import described

from fedrecon.tune.search.config import Sweep
from fedrecon.tune.trials.progress import ROOM, SweepProgress
from fedrecon.tune.trials.trial_table import TrialRow, TrialTable


class Terminal(io.StringIO):
    def isatty(self):
        return True


def rows_of(count, running):
    """A trial table of this many rows, without a planner: the first ones run, the others are finished."""

    def one(number):
        trial = SimpleNamespace(
            number=number, name=f"a long name of trial {number} " * 20, params={"seed": number}, training=str(number),
            digest=str(number),
            experiment=SimpleNamespace(rounds=9, resources=SimpleNamespace(min_sites=None)),
        )  # fmt: skip
        status = "RUNNING" if number < running else "FINISHED"
        return TrialRow(trial, status, round=3, metrics={"mean/psnr": 20.0 + number % 7})

    table = TrialTable(Path("nowhere"), "s")
    table.rows = [one(number) for number in range(count)]
    return table


@pytest.mark.slow
@pytest.mark.parametrize(("running", "height"), [(1000, 24), (300, 50), (3, 24), (40, 5)])
def test_the_live_table_of_a_thousand_trials_is_a_screenful(monkeypatch, running, height):
    """It names the trials that fit, counts the others, and is not drawn anew for each of a thousand reports."""
    now, drawn = [100.0], []
    monkeypatch.setattr("fedrecon.tune.trials.progress.time.monotonic", lambda: now[0])
    monkeypatch.setenv("LINES", str(height))
    monkeypatch.setenv("COLUMNS", "80")
    settings, _ = Sweep.read(described({"seed": {"grid": [0]}}, experiment={"sites": "x"}))
    table = rows_of(1000, running)
    live = SweepProgress(settings, table, 1000, stream=Terminal())
    draw = live._draw
    monkeypatch.setattr(live, "_draw", lambda: (drawn.append(now[0]), draw()))
    for _ in range(1000):
        now[0] += 0.001
        live.changed(table.rows[0])
    assert len(drawn) == 4
    console = Console(file=io.StringIO(), width=80, height=height)
    console.print(live._table(height))
    live.close()
    lines = console.file.getvalue().splitlines()
    shown = min(running, max(height - ROOM, 1))
    assert len(lines) <= max(height, 1 + ROOM)
    assert f"{running} running" in " ".join(lines)
    assert (f"and {running - shown} more that run" in lines) == (shown < running)
    assert sum("a long name" in line for line in lines) == shown
