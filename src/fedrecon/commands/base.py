"""What all commands share: how one is added to the parser, its workspace, and its exit code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fedrecon.commands.shared import KEYS, lacking
from fedrecon.platform.terminal.arguments import Parser, share

DONE = 0


def workspace_of(arguments: argparse.Namespace) -> Path:
    """The workspace that was given, or the default one."""
    from fedrecon.platform.storage.workspace import default_workspace

    given = getattr(arguments, "workspace", None)
    return Path(given) if given else default_workspace()


def command(commands: Any, name: str, function: Any, text: str) -> Parser:
    """Adds a command, with those of the shared options that it has (:data:`LACKING`)."""
    parser: Parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=function)
    missing = lacking(parser.prog.partition(" ")[2])
    parser.no_overrides = missing.get(KEYS, "")
    share(parser, missing)
    return parser
