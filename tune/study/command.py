"""``fedrecon study``, a thin layer over :mod:`fedrecon.tune.study.run`. Its import loads no torch, ray or mlflow."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.sites.errors import InputError
from fedrecon.tune.study.config import Study
from fedrecon.tune.study.results import StudyResult
from fedrecon.tune.study.run import load_study, study

HELP = "run a study: methods x training sites x test sites, with a report; 'study show NAME' prints its table"

CELL_KEYS = ("method", "trained_on", "tested_on", "mask", "acceleration", "noise")
"""Keys that identify a cell of the printed table; seeds are averaged."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``fedrecon study``."""
    parser.add_argument("study", metavar="STUDY.yaml", help="the file of a study; or: show STUDY")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.path=value",
        help="changes a key of the study; experiment.KEY=value changes the base",
    )
    parser.add_argument("--address", metavar="A", help="address of a Ray cluster (default: start one here)")
    parser.add_argument("--tracking-uri", metavar="U", help="an MLflow server (default: the workspace's mlflow.db)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--rerun", action="store_true", help="run every trial again, even if it has a result")
    again.add_argument("--rerun-failed", action="store_true", help="run the failed trials again")
    parser.add_argument("--dry-run", action="store_true", help="plan the matrix and start nothing")


def command(arguments: argparse.Namespace) -> int:
    """Runs or shows a study.

    Returns:
        the exit code: 0, or 130 if the study was interrupted. A failed trial does not change it.

    Raises:
        InputError: ``show`` without exactly one name; or see :func:`study` and :func:`load_study`.
    """
    workspace_folder = Path(arguments.workspace) if arguments.workspace else default_workspace()
    if arguments.study == "show":
        if len(arguments.overrides) != 1:
            raise InputError("fedrecon study show STUDY: needs the name of a study or its file")
        return _print(load_study(_name(arguments.overrides[0]), workspace_folder, arguments.address), arguments.json)
    result = study(
        arguments.study,
        arguments.overrides,
        workspace=workspace_folder,
        address=arguments.address,
        tracking_uri=arguments.tracking_uri,
        rerun="failed" if arguments.rerun_failed else arguments.rerun,
        dry_run=arguments.dry_run,
    )
    code = _print(result, arguments.json)
    if result.status == "interrupted":
        print("interrupted; the same command goes on from the last committed rounds", file=sys.stderr)
        return 130
    if result.status != "planned" and not arguments.json:
        where = f" --workspace {arguments.workspace}" if arguments.workspace else ""
        print(f"\nreport  {result.report / 'index.html'}\nMLflow  (fedrecon ui{where})\n{result.url}")
    return code


def _name(given: str) -> str:
    """The name of a study. The user gives the name or the study's file."""
    path = Path(given)
    return Study.read(path)[0].name if path.suffix in (".yaml", ".yml") and path.is_file() else given


def _print(result: StudyResult, as_json: bool) -> int:
    """Prints the result as JSON or as a table. Returns the exit code 0."""
    if as_json:
        json.dump(result.as_dict(), sys.stdout, indent=2, default=str)
        print()
        return 0
    if result.cells:
        print(_table(result))
    if result.status == "planned":
        for number, (name, status) in enumerate(result.trials):
            print(f"{number:4d}  {status.lower():8}  {name}")
    for one in result.missing[:10] if result.status != "planned" else ():
        where = f"trained on {one['trained_on']}, at {one['tested_on']}, {one['operator']}"
        print(f"missing: {one['method']} {where}: {one['reason']}")
    if len(result.missing) > 10 and result.status != "planned":
        print(f"missing: {len(result.missing) - 10} more cells")
    print(f"\n{result.study}: {result.status}; {result.trainings} trainings, {result.evaluations} evaluations")
    return 0


def _table(result: StudyResult) -> str:
    """A text table of PSNR by method, training, tested site and operator: the mean over seeds.

    A cell is left out if any of its seeds has no result.
    """
    cells, marks = result.cells, result.marks
    lacking = {tuple(one[key] for key in CELL_KEYS) for one in result.missing}
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    columns: dict[str, None] = {}
    for cell in cells:
        if tuple(cell[key] for key in CELL_KEYS) in lacking:
            continue
        noise = f" noise {cell['noise']:g}" if cell["noise"] != 1 else ""
        column = result.operators[cell["mask"], cell["acceleration"]] + noise
        columns[column] = None
        key = (cell["method"], f"{cell['trained_on']} > {cell['tested_on']}")
        rows.setdefault(key, {}).setdefault(column, []).append(cell["psnr"])
    lines = [["method", "trained on > tested on", *columns]]
    for (method, sites), found in rows.items():
        shown = [f"{sum(found[one]) / len(found[one]):.2f}" if one in found else "-" for one in columns]
        lines.append([method + marks.get(method, ""), sites, *shown])
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
