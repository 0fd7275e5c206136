"""``fedrecon sweep``, a thin layer over :mod:`fedrecon.tune.sweep.run`. Its import loads no torch, ray or mlflow."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.sites.errors import InputError
from fedrecon.tune.search.config import Sweep
from fedrecon.tune.sweep.run import SweepResult, load_sweep, sweep
from fedrecon.tune.sweep.table import text

HELP = "many experiments: acceleration, hyper-parameters, seeds (Ray Tune); 'sweep show NAME' prints its table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``fedrecon sweep``."""
    parser.add_argument("sweep", metavar="SWEEP.yaml", help="the file of a sweep; or: show SWEEP")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.path=value",
        help="changes a key of the sweep; experiment.KEY=value changes the base",
    )
    parser.add_argument("--address", metavar="A", help="address of a Ray cluster (default: start one here)")
    parser.add_argument("--tracking-uri", metavar="U", help="an MLflow server (default: the workspace's mlflow.db)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--rerun", action="store_true", help="run every trial again, even if it has a result")
    again.add_argument("--rerun-failed", action="store_true", help="run the failed trials again")
    parser.add_argument("--dry-run", action="store_true", help="list the trials and start nothing")


def command(arguments: argparse.Namespace) -> int:
    """Runs or shows a sweep.

    Returns:
        the exit code: 0, or 130 if the sweep was interrupted. A failed trial does not change it.

    Raises:
        InputError: ``show`` without exactly one name; or see :func:`sweep` and :func:`load_sweep`.
    """
    workspace_folder = Path(arguments.workspace) if arguments.workspace else default_workspace()
    if arguments.sweep == "show":
        if len(arguments.overrides) != 1:
            raise InputError("fedrecon sweep show SWEEP: needs the name of a sweep or its file")
        return _print(load_sweep(_name(arguments.overrides[0]), workspace_folder, arguments.address), arguments.json)
    result = sweep(
        file=arguments.sweep,
        overrides=arguments.overrides,
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
        print(f"\npage    {result.folder / 'index.html'}\nMLflow  (fedrecon ui{where})\n{result.url}")
    return code


def _name(given: str) -> str:
    """The name of a sweep. The user gives the name or the sweep's file."""
    path = Path(given)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return Sweep.read(path)[0].name
    return given


def _print(result: SweepResult, as_json: bool) -> int:
    """Prints the result as JSON or as a table. Returns the exit code 0."""
    if as_json:
        json.dump(result.as_dict(), sys.stdout, indent=2, default=str)
        print()
    else:
        print(text(result.trials, result.keys, result.metrics, result.best))
        print(f"\n{result.sweep}: {result.status}")
    return 0
