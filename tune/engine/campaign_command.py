"""What ``fedrecon sweep`` and ``fedrecon study`` do alike: options, run or show, exit code. Loads no torch or ray."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.platform.terminal.arguments import add_overrides
from fedrecon.platform.terminal.output import print_json, say
from fedrecon.sites.errors import InputError

_OF_A_RUN = ("in_process", "tracking_uri", "dry_run", "rerun", "rerun_failed", "keep_checkpoints")
"""The options that do nothing for ``show``."""


@dataclass(frozen=True)
class CampaignCommand:
    """One of the two commands.

    Attributes:
        kind: ``sweep`` or ``study``.
        about: help text of the command.
        read: a function that reads the campaign's file; the first of what it returns has the ``name``.
        run: ``fedrecon.sweep`` or ``fedrecon.study``. load: ``load_sweep`` or ``load_study``.
        show: a function that prints a result as a table.
        page: a function that gives the label and the path of the page that a result has.
    """

    kind: str
    about: str
    read: Callable[[Path], tuple[Any, Any]]
    run: Callable[..., Any]
    load: Callable[..., Any]
    show: Callable[[Any], None]
    page: Callable[[Any], tuple[str, Path]]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options of the command."""
        upper = self.kind.upper()
        parser.set_defaults(goes_on=True)
        parser.add_argument(self.kind, metavar=f"{upper}.yaml", help=f"the file of a {self.kind}; or: show {upper}")
        add_overrides(parser, f"changes a key of the {self.kind}; experiment.KEY=value changes the base")
        again = parser.add_mutually_exclusive_group()
        again.add_argument("--rerun", action="store_true", help="run every trial again, even if it has a result")
        again.add_argument("--rerun-failed", action="store_true", help="run the failed trials again")
        parser.add_argument("--keep-checkpoints", action="store_true", help="keep two checkpoints of each run, not one")

    def command(self, arguments: argparse.Namespace) -> int:
        """Runs or shows a campaign.

        Returns:
            the exit code: 0, or 130 if the campaign was interrupted. A failed trial does not change it.

        Raises:
            InputError: ``show`` without exactly one name; or see :attr:`run` and :attr:`load`.
        """
        workspace = Path(arguments.workspace) if arguments.workspace else default_workspace()
        given = getattr(arguments, self.kind)
        if given == "show":
            if len(arguments.overrides) != 1:
                raise InputError(
                    f"fedrecon {self.kind} show {self.kind.upper()}: needs the name of a {self.kind} or its file"
                )
            if wrong := [one for one in _OF_A_RUN if getattr(arguments, one)]:
                option = wrong[0].replace("_", "-")
                raise InputError(f"fedrecon {self.kind} show takes no --{option}: it prints what was computed")
            self._print(self.load(self._name(arguments.overrides[0]), workspace, arguments.address), arguments.json)
            return 0
        crew = ["experiment.resources.crew=in-process"] if arguments.in_process else []
        result = self.run(
            file=given,
            overrides=[*arguments.overrides, *crew],
            workspace=workspace,
            address=arguments.address,
            tracking_uri=arguments.tracking_uri,
            rerun="failed" if arguments.rerun_failed else arguments.rerun,
            dry_run=arguments.dry_run,
            keep_checkpoints=arguments.keep_checkpoints,
        )
        self._print(result, arguments.json)
        if result.status == "interrupted":
            print("interrupted; the same command goes on from the last committed rounds", file=sys.stderr)
            return 130
        if result.status != "planned" and not arguments.json:
            where = f" --workspace {shlex.quote(arguments.workspace)}" if arguments.workspace else ""
            label, page = self.page(result)
            url = result.url or f"has not got all of it yet: fedrecon sync{where}"
            say(f"\n{label:8}{page}\nMLflow  (fedrecon ui{where})\n{url}")
        return 0

    def _name(self, given: str) -> str:
        """The name of a campaign. The user gives the name or the campaign's file."""
        path = Path(given)
        if path.suffix in (".yaml", ".yml") and path.is_file():
            name: str = self.read(path)[0].name
            return name
        return given

    def _print(self, result: Any, as_json: bool) -> None:
        if as_json:
            print_json(result.as_dict())
        else:
            self.show(result)
