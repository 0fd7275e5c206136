"""What all commands share: how one is added to the parser, its workspace, and its exit code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

DONE = 0


def workspace_of(arguments: argparse.Namespace) -> Path:
    """The workspace that was given, or the default one."""
    from fedrecon.platform.storage.workspace import default_workspace

    given = getattr(arguments, "workspace", None)
    return Path(given) if given else default_workspace()


def command(
    commands: Any, name: str, function: Any, text: str, json: bool = False, workspace: bool = False
) -> argparse.ArgumentParser:
    """Adds a command with the options ``--json`` and ``--workspace`` where it has them."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=function)
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    if workspace:
        parser.add_argument("--workspace", metavar="DIR", help="default: FEDRECON_WORKSPACE or ./workspace")
    return parser
