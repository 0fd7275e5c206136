"""``fedrecon study``, a thin layer over :mod:`fedrecon.tune.study.run`. Its import loads no torch, ray or mlflow."""

from __future__ import annotations

from fedrecon.platform.reporting.table import Row, Table, number, numbers, plain, words
from fedrecon.platform.reporting.terminal import print_table
from fedrecon.platform.terminal.output import say
from fedrecon.tune.engine.campaign_command import CampaignCommand
from fedrecon.tune.study.config import Study
from fedrecon.tune.study.results import StudyResult
from fedrecon.tune.study.run import load_study, study

CELL_KEYS = ("method", "trained_on", "tested_on", "mask", "acceleration", "noise")
"""Keys that identify a cell of the printed table; seeds are averaged."""


def _show(result: StudyResult) -> None:
    if result.cells:
        print_table(_table(result))
    if result.status == "planned":
        for number, (name, status) in enumerate(result.trials):
            say(f"{number:4d}  {status.lower():8}  {name}")
    for one in result.missing[:10] if result.status != "planned" else ():
        where = f"trained on {one['trained_on']}, at {one['tested_on']}, {one['operator']}"
        say(f"missing: {one['method']} {where}: {one['reason']}")
    if len(result.missing) > 10 and result.status != "planned":
        say(f"missing: {len(result.missing) - 10} more cells")
    say(f"\n{result.study}: {result.status}; {result.trainings} trainings, {result.evaluations} evaluations")


def _table(result: StudyResult) -> Table:
    """A table of PSNR by method, training, tested site and operator: the mean over seeds.

    A cell is left out if any of its seeds has no result.
    """
    lacking = {tuple(one[key] for key in CELL_KEYS) for one in result.missing}
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    columns: dict[str, None] = {}
    for cell in result.cells:
        if tuple(cell[key] for key in CELL_KEYS) in lacking:
            continue
        noise = f" noise {cell['noise']:g}" if cell["noise"] != 1 else ""
        column = result.operators[cell["mask"], cell["acceleration"]] + noise
        columns[column] = None
        key = (cell["method"], cell["trained_on"], cell["tested_on"])
        found.setdefault(key, {}).setdefault(column, []).append(cell["psnr"])
    rows = []
    for (method, *sites), own in found.items():
        shown = [number(sum(own[one]) / len(own[one]) if one in own else None, ".2f") for one in columns]
        rows.append(Row([plain(method + result.marks.get(method, "")), *map(plain, sites), *shown]))
    heads = [*words("method", "trained on", "tested on"), *numbers(*(f"{one} (dB)" for one in columns))]
    return Table("test PSNR, mean over seeds", heads, rows)


COMMAND = CampaignCommand(
    kind="study",
    about="run a study: methods x training sites x test sites, with a report; 'study show NAME' prints its table",
    read=Study.read,
    run=study,
    load=load_study,
    show=_show,
    page=lambda result: ("report", result.report / "index.html"),
)
