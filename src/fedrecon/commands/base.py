"""What all commands share: how one is added to the parser, its workspace, and its exit code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fedrecon.platform.terminal.arguments import share

DONE = 0

READS = ("--json", "--workspace")
"""What a command has that reads the workspace."""

TRAINS = (*READS, "--in-process", "--address", "--tracking-uri", "--dry-run")
"""What a command has that trains."""


def workspace_of(arguments: argparse.Namespace) -> Path:
    """The workspace that was given, or the default one."""
    from fedrecon.platform.storage.workspace import default_workspace

    given = getattr(arguments, "workspace", None)
    return Path(given) if given else default_workspace()


def command(commands: Any, name: str, function: Any, text: str, *shared: str) -> argparse.ArgumentParser:
    """Adds a command; ``shared`` are those of the options that commands share (``--json``) which it has."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=function)
    share(parser, *shared)
    return parser
