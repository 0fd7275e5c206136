"""``fedrecon runs`` and ``fedrecon plot``: the runs of a workspace."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.commands.base import DONE, command, workspace_of
from fedrecon.platform.storage.run_lookup import RUN
from fedrecon.platform.terminal.output import print_json, say
from fedrecon.sites.errors import InputError
from fedrecon.sites.phases import phase
from fedrecon.sites.sizes import size

if TYPE_CHECKING:
    from fedrecon.platform.storage.workspace import RunFolder


def add(commands: Any) -> None:
    """Adds the commands to the parser."""
    runs = commands.add_parser("runs", help="list, show, compare, remove and export the runs of a workspace")
    inner = runs.add_subparsers(required=True, metavar="COMMAND")
    command(inner, "list", _list, "list the runs, the newest first")
    one = command(inner, "show", _show, "show one run: its state, settings and scores")
    one.add_argument("run", metavar="RUN", help=RUN)
    about = "show which settings of two runs differ, and their test scores side by side"
    one = command(inner, "compare", _compare, about)
    one.add_argument("run", nargs=2, metavar="RUN", help=RUN)
    about = "delete runs and their private memory, and mark them as deleted in MLflow"
    one = command(inner, "rm", _rm, about)
    one.add_argument("run", nargs="+", metavar="RUN", help=f"{RUN}; also the name of a folder that --rerun set aside")
    one.add_argument("--yes", action="store_true", help="do not ask; needed without a terminal")
    one.add_argument("--keep-mlflow", action="store_true", help="leave the runs in MLflow")
    about = "copy what a colleague needs to apply a run: settings, weights, results, environment"
    one = command(inner, "export", _export, about)
    one.add_argument("run", metavar="RUN", help=RUN)
    one.add_argument("--out", required=True, metavar="FOLDER", help="a new folder")
    one.add_argument(
        "--private", action="store_true", help="with the private parts of sites that agreed to publish them"
    )
    about = "make a version in MLflow's registry of models from the network of a run"
    one = command(inner, "register", _register, about)
    one.add_argument("run", metavar="RUN", help=RUN)
    one.add_argument("--name", required=True, metavar="NAME", help="the registered model, which is made if missing")
    one.add_argument("--alias", metavar="ALIAS", help="a name for this version, such as champion")
    one.add_argument("--model", metavar="SITE", help="the site whose network it is, if each site has its own")
    about = "draw the scores and losses of a run over its rounds, as PNG and SVG"
    one = command(commands, "plot", _plot, about)
    one.add_argument("run", metavar="RUN", help=RUN)
    one.add_argument("--out", metavar="FOLDER", help="folder of the files (default: plots/ in the run's folder)")


def _list(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.catalogue.overview import overviews
    from fedrecon.platform.terminal.run_tables import runs_table

    found = overviews(workspace_of(arguments))
    if arguments.json:
        print_json({"runs": [one.as_dict() for one in found]})
    elif found:
        runs_table(found)
    else:
        say(f"no run in {workspace_of(arguments)} yet")
    for one in found:
        if one.problem:
            say(f"warning: run {one.digest}: {one.problem}", sys.stderr)
    return DONE


def _show(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.catalogue.overview import overview
    from fedrecon.platform.runs.report import flat
    from fedrecon.platform.terminal.run_tables import pairs_table
    from fedrecon.platform.terminal.tables import result_table

    folder = _chosen(arguments, arguments.run)
    line = overview(folder)
    readable = not line.problem
    noted, result = (folder.noted() or {}, folder.result()) if readable else ({}, None)
    if arguments.json:
        environment = folder.environment() if readable else None
        print_json(
            {
                **line.as_dict(),
                "path": str(folder.path),
                "experiment": noted.get("experiment"),
                "result": result,
                "environment": environment,
            }
        )
        return DONE
    shown = {**line.as_dict(), "sites": ", ".join(line.sites), "bytes": size(line.bytes), "path": folder.path}
    of_result = ("digest", "psnr", "ssim", "nmse")  # the title and the last table have them
    pairs_table(f"run {folder.digest}", {key: one for key, one in shown.items() if one and key not in of_result})
    if noted:
        settings = {key: one for key, one in flat(noted["experiment"]) if not key.startswith("plugins")}
        pairs_table("settings", settings)
    if result:
        result_table(result, noted["experiment"])
    return DONE


def _compare(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.catalogue.differences import compare
    from fedrecon.platform.terminal.run_tables import comparison_tables

    found = compare(*(_chosen(arguments, one) for one in arguments.run))
    if arguments.json:
        print_json(found)
    else:
        comparison_tables(found)
    return DONE


def _rm(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.catalogue.removal import plan

    removal = plan(
        workspace_of(arguments), [_chosen(arguments, one) for one in arguments.run], keep_mlflow=arguments.keep_mlflow
    )
    for one in removal.shown:
        rounds = f", {one.rounds} rounds" if one.rounds else ""
        say(f"{one.digest}  {one.name}  {one.status}{rounds}, {size(one.bytes)}", sys.stderr)
    if arguments.dry_run:
        if arguments.json:
            print_json({"removed": [], "would_remove": [one.digest for one in removal.shown], "bytes": removal.bytes})
        else:
            say(f"dry run: {size(removal.bytes)} would become free; nothing was deleted")
        return DONE
    if not arguments.yes and not _agreed(len(removal.shown), removal.bytes):
        say("nothing was deleted", sys.stderr)
        return DONE
    done = removal.go()
    if arguments.json:
        print_json(done)
        return DONE
    say(f"deleted: {', '.join(done['removed'])}; {size(done['bytes'])} are free")
    for store, ids in done["mlflow"].items():
        say(f"marked as deleted in MLflow at {store}: {len(ids)} (mlflow gc --backend-store-uri {store} ends them)")
    return DONE


def _agreed(count: int, n_bytes: int) -> bool:
    """Asks on a terminal.

    Raises:
        InputError: there is no terminal.
    """
    what = f"{count} run{'s' * (count > 1)} ({size(n_bytes)})"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(f"{what} would be deleted: without a terminal, say --yes")
    print(f"Delete {what} for good? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _export(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.catalogue.export import export

    done = export(_chosen(arguments, arguments.run), Path(arguments.out), arguments.private, arguments.dry_run)
    if arguments.json:
        print_json(done)
    else:
        path = done["path"] if done["written"] else f"dry run: {done['path']} is not written"
        say(f"{path}: run {done['digest']}, {len(done['files'])} files, {size(done['bytes'])}")
        say("Scores per slice, pseudonyms of subjects, paths and machine names are in it: see docs/privacy.md")
    return DONE


def _register(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.catalogue.registry import register

    folder = _chosen(arguments, arguments.run)
    done = register(folder, arguments.name, arguments.alias, arguments.model, arguments.dry_run)
    if arguments.json:
        print_json(done)
    elif arguments.dry_run:
        say(f"dry run: '{done['name']}' gets no version in MLflow at {done['store']}")
    else:
        say(f"version {done['version']} of the model '{done['name']}' in MLflow at {done['store']}")
        say(f'mlflow.pyfunc.load_model("{done["uri"]}")')
    return DONE


def _plot(arguments: argparse.Namespace) -> int:
    with phase("drawing curves"):
        from fedrecon.platform.catalogue.curves import plot

        out = None if arguments.out is None else Path(arguments.out)
        done = plot(_chosen(arguments, arguments.run), out, arguments.dry_run)
    if arguments.json:
        print_json(done)
    else:
        rounds = f"{done['rounds']} round{'s' * (done['rounds'] > 1)}"
        say(f"run {done['digest']}, {rounds}")
        for kind in ("png", "svg"):
            say(done[kind] if done["written"] else f"dry run: {done[kind]} is not written")
    return DONE


def _chosen(arguments: argparse.Namespace, reference: str) -> RunFolder:
    """The run that a person names, finished or not; which one it is is said."""
    from fedrecon.platform.storage.run_lookup import find_run, named

    folder = find_run(workspace_of(arguments), reference, finished=False)
    say(named(folder), sys.stderr)
    return folder
