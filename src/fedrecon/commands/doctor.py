"""``fedrecon doctor``: what is wrong on this machine, and what to do."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fedrecon.commands.base import DONE, command, workspace_of
from fedrecon.platform.terminal.boundary import FAILED
from fedrecon.platform.terminal.output import print_json, say


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    about = "look at versions, GPUs, Ray, ports, disks, the store and shards: what is wrong, and what to do"
    one = command(commands, "doctor", _doctor, about)
    one.add_argument("--sites", metavar="FOLDER", help="shards to read through (default: open those below data/)")


def _doctor(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.setup.doctor import examine

    found = []
    for one in examine(
        workspace_of(arguments),
        sites=None if arguments.sites is None else Path(arguments.sites),
        in_process=arguments.in_process,
        address=arguments.address,
        tracking_uri=arguments.tracking_uri,
    ):
        found.append(one)
        if not arguments.json:
            say(f"{one.status:8} {one.name:14} {one.found}" + (f"\n{'':24}do: {one.advice}" if one.advice else ""))
    wrong = [one for one in found if one.status == "wrong"]
    if arguments.json:
        print_json({"ok": not wrong, "findings": [one.as_dict() for one in found]})
    else:
        warnings = sum(one.status == "warning" for one in found)
        say(f"\n{len(wrong)} wrong, {warnings} to know, {len(found) - len(wrong) - warnings} fine")
    return FAILED if wrong else DONE
