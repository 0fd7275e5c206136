"""``fedrecon data``: the shards of sites."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fedrecon.commands import data_import
from fedrecon.commands.base import DONE, command
from fedrecon.platform.terminal.arguments import whole
from fedrecon.platform.terminal.boundary import WRONG_INPUT
from fedrecon.platform.terminal.output import print_json, say
from fedrecon.sites.phases import counted

SEEDS = whole(-(2**63), 2**63 - 1)
COILS = whole(1, 32)


def add(commands: Any) -> None:
    """Adds ``fedrecon data`` with its commands."""
    data = commands.add_parser("data", help="simulate, import, inspect and seal the data of sites")
    commands = data.add_subparsers(required=True, metavar="COMMAND")
    about = "simulate a consortium of hospitals, with one shard per site"
    one = command(commands, "simulate", _simulate, about)
    one.add_argument("directory", metavar="DIR")
    one.add_argument("--sites", nargs="+", metavar="NAME", help="sites, each as CONTRAST or NAME:CONTRAST")
    one.add_argument("--subjects", type=whole(1, 10_000), metavar="N", help="number of subjects at each site")
    one.add_argument("--size", type=whole(32, 512), metavar="N", help="matrix N x N")
    one.add_argument(
        "--coils",
        type=COILS,
        metavar="N",
        help="number of coils at every site (default: each site's own number)",
    )
    one.add_argument(
        "--anatomy",
        metavar="KIND",
        default="atlas",
        help="atlas (one atlas, deformed for each subject) or varied (each subject synthesised with folds of its own)",
    )
    one.add_argument(
        "--scanners",
        metavar="KIND",
        default="protocol",
        help="protocol (sites of a contrast measure alike) or own (each site its scanner; the contrast stays)",
    )
    one.add_argument(
        "--slices",
        nargs="+",
        type=whole(1, 10_000),
        metavar="N",
        default=(),
        help="training slices of the sites: one number, or one a site (default: those of the subjects)",
    )
    one.add_argument("--seed", type=SEEDS, default=0)

    one = command(commands, "import", data_import.run, "import files as the shard of a site")
    data_import.add_arguments(one)

    about = "show the contents of a shard or a folder of shards, and their errors"
    one = command(commands, "inspect", _inspect, about)
    one.add_argument("path", metavar="PATH")

    about = "write the hash of a shard's content anew, after a change that was meant"
    one = command(commands, "seal", _seal, about)
    one.add_argument("path", metavar="PATH", help="a shard, or a folder of shards")


def _simulate(arguments: argparse.Namespace) -> int:
    from fedrecon.sites.phantom import Population, simulate

    population = Population(arguments.anatomy, arguments.scanners, arguments.slices)
    options = {key: getattr(arguments, key) for key in ("subjects", "size", "coils")}
    options = {key: value for key, value in options.items() if value is not None}
    if arguments.sites:
        options["sites"] = tuple(arguments.sites)
    dry_run: bool = arguments.dry_run
    paths = simulate(arguments.directory, seed=arguments.seed, population=population, dry_run=dry_run, **options)
    if arguments.json:
        print_json({"paths": [str(path) for path in paths], "written": not dry_run})
    else:
        say("\n".join(f"dry run: {path} is not written" if dry_run else str(path) for path in paths))
    return DONE


def _inspect(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.terminal.tables import shards_table
    from fedrecon.sites.data.inspect import inspect

    found = inspect(arguments.path)
    if arguments.json:
        print_json(found)
    else:
        shards_table(found["shards"])
    for problem in found["problems"]:
        say(f"error: {problem['message']}", sys.stderr)
    return WRONG_INPUT if found["problems"] else DONE


def _seal(arguments: argparse.Namespace) -> int:
    from fedrecon.sites.data.inspect import find_shards
    from fedrecon.sites.data.seal import seal

    paths, dry_run = find_shards(arguments.path), arguments.dry_run
    seals = [(path, *seal(path, dry_run)) for path in counted("sealing shards", paths)]
    if arguments.json:
        print_json({"shards": [{"path": str(path), "before": old, "after": new} for path, old, new in seals]})
        return DONE
    for path, before, after in seals:
        why = "" if before == after else f" (before: {before})"
        say(f"{'dry run: ' if dry_run else ''}{path}: {after}{why}")
    return DONE
