"""``fedrecon data``: the shards of sites."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fedrecon.commands.base import DONE, command
from fedrecon.platform.terminal.arguments import number, whole
from fedrecon.platform.terminal.boundary import WRONG_INPUT
from fedrecon.platform.terminal.output import print_json, say

SEEDS = whole(-(2**63), 2**63 - 1)
COILS = whole(1, 32)


def add(commands: Any) -> None:
    """Adds ``fedrecon data`` with its commands."""
    data = commands.add_parser("data", help="simulate, import, inspect and seal the data of sites")
    commands = data.add_subparsers(required=True, metavar="COMMAND")
    one = command(commands, "simulate", _simulate, "simulate a consortium of hospitals, with one shard per site")
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
    one.add_argument("--seed", type=SEEDS, default=0)

    one = command(commands, "import", _import, "import files as the shard of a site")
    one.add_argument("format", metavar="FORMAT", help="nifti, fastmri, npy; see fedrecon list formats")
    one.add_argument("source", nargs="+", metavar="SOURCE", help="files or folders")
    one.add_argument("--site", required=True, metavar="NAME")
    one.add_argument("--out", required=True, metavar="DIR")
    one.add_argument("--contrast", metavar="C")
    one.add_argument("--size", type=whole(8, 4096), metavar="N", help="matrix N x N (nifti)")
    one.add_argument("--phase", metavar="none|smooth", help="phase of the simulated k-space (nifti; default: smooth)")
    one.add_argument("--subject-pattern", metavar="REGEX", help="default: the file name up to its first '_'")
    one.add_argument("--validation-subjects", metavar="A,B")
    one.add_argument("--test-subjects", metavar="C")
    one.add_argument("--seed", type=SEEDS, help="seed of the simulated phase (nifti; default: 0)")
    one.add_argument(
        "--noise-sigma", type=number(0, 1e12), metavar="S", help="noise of a k-space sample (default: estimated)"
    )
    one.add_argument(
        "--key",
        metavar="FILE",
        help="the consortium's key for pseudonyms, made at first use (default: DIR/consortium.key)",
    )
    one.add_argument("--plugins", nargs="+", default=(), metavar="FILE", help="plug-in files that add formats")

    one = command(
        commands,
        "inspect",
        _inspect,
        "show the contents of a shard or a folder of shards, and their errors",
        json=True,
    )
    one.add_argument("path", metavar="PATH")

    one = command(commands, "seal", _seal, "write the hash of a shard's content anew, after a change that was meant")
    one.add_argument("path", metavar="PATH", help="a shard, or a folder of shards")


def _simulate(arguments: argparse.Namespace) -> int:
    from fedrecon.sites.phantom import simulate

    options = {key: getattr(arguments, key) for key in ("subjects", "size", "coils")}
    options = {key: value for key, value in options.items() if value is not None}
    if arguments.sites:
        options["sites"] = tuple(arguments.sites)
    for path in simulate(arguments.directory, seed=arguments.seed, **options):
        say(str(path))
    return DONE


def _import(arguments: argparse.Namespace) -> int:
    from fedrecon.sites.formats.importing import import_data

    path = import_data(
        arguments.format,
        arguments.source,
        arguments.site,
        arguments.out,
        contrast=arguments.contrast,
        size=arguments.size,
        phase=arguments.phase,
        subject_pattern=arguments.subject_pattern,
        validation_subjects=_names(arguments.validation_subjects),
        test_subjects=_names(arguments.test_subjects),
        seed=arguments.seed,
        key=arguments.key,
        plugins=arguments.plugins,
        noise_sigma=arguments.noise_sigma,
    )
    say(str(path))
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

    for path in find_shards(arguments.path):
        before, after = seal(path)
        say(f"{path}: {after}" + ("" if before == after else f" (before: {before})"))
    return DONE


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
