"""``fedrecon sweep``, a thin layer over :mod:`fedrecon.tune.sweep.run`. Its import loads no torch, ray or mlflow."""

from __future__ import annotations

from fedrecon.platform.reporting.terminal import print_table
from fedrecon.platform.terminal.output import say
from fedrecon.tune.engine.campaign_command import CampaignCommand
from fedrecon.tune.search.config import Sweep
from fedrecon.tune.sweep.page import settings_table, trials_table
from fedrecon.tune.sweep.run import SweepResult, load_sweep, sweep
from fedrecon.tune.trials.settings import SEED, left_out


def _show(result: SweepResult) -> None:
    rows, searched = result.trials, (result.keys, result.metrics, result.modes[0])
    if SEED in result.keys:
        print_table(settings_table(rows, *searched))
    if rows:
        print_table(trials_table(rows, *searched), title=False)
    if lost := left_out(rows):
        say(lost)
    say(f"{result.sweep}: {result.status}")


COMMAND = CampaignCommand(
    kind="sweep",
    about="many experiments: acceleration, hyper-parameters, seeds (Ray Tune); 'sweep show NAME' prints its table",
    read=Sweep.read,
    run=sweep,
    load=load_sweep,
    show=_show,
    page=lambda result: ("page", result.folder / "index.html"),
)
