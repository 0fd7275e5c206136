"""``fedrecon study``: thin over :mod:`fedrecon.tune.study.run`; importing it loads none of torch, ray and mlflow."""

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

HELP = "does it generalise: methods x trained on x tested on, with a report; 'study show NAME' prints its table"

PLACE = ("method", "trained_on", "tested_on", "mask", "acceleration", "noise")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``fedrecon study``."""
    parser.add_argument("study", metavar="STUDY.yaml", help="a study's file; or: show STUDY")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="experiment.KEY=value for the base")
    parser.add_argument("--address", metavar="A", help="of a running Ray cluster (default: one is started here)")
    parser.add_argument("--tracking-uri", metavar="U", help="of an MLflow server (default: the workspace's mlflow.db)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--rerun", action="store_true", help="run every trial again, though the workspace holds it")
    again.add_argument("--rerun-failed", action="store_true", help="run the trials again that failed")
    parser.add_argument("--dry-run", action="store_true", help="plan the matrix and start nothing")


def command(arguments: argparse.Namespace) -> int:
    """Runs or shows a study; 0, or 130 where it was interrupted."""
    workspace_folder = Path(arguments.workspace) if arguments.workspace else default_workspace()
    if arguments.study == "show":
        if len(arguments.overrides) != 1:
            raise InputError("fedrecon study show STUDY: the name of a study, or its file, is needed")
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
    """The name of a study, which may be given as its file."""
    path = Path(given)
    return Study.read(path)[0].name if path.suffix in (".yaml", ".yml") and path.is_file() else given


def _print(result: StudyResult, as_json: bool) -> int:
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
    """PSNR of each method by training, tested site and operator: seeds averaged, where none is missing."""
    cells, marks = result.cells, result.marks
    lacking = {tuple(one[key] for key in PLACE) for one in result.missing}
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    columns: dict[str, None] = {}
    for cell in cells:
        if tuple(cell[key] for key in PLACE) in lacking:
            continue
        noise = f" noise {cell['noise']:g}" if cell["noise"] != 1 else ""
        column = result.operators[cell["mask"], cell["acceleration"]] + noise
        columns[column] = None
        key = (cell["method"], f"{cell['trained_on']} > {cell['tested_on']}")
        rows.setdefault(key, {}).setdefault(column, []).append(cell["psnr"])
    lines = [["method", "trained on > tested on", *columns]]
    for (method, workspace_folder), found in rows.items():
        shown = [f"{sum(found[one]) / len(found[one]):.2f}" if one in found else "-" for one in columns]
        lines.append([method + marks.get(method, ""), workspace_folder, *shown])
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
