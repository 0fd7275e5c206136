"""``fedrecon init``: writes an experiment for the data at hand."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrecon.commands.base import DONE, command
from fedrecon.platform.terminal.output import print_json, say
from fedrecon.sites.errors import InputError

OUT = "experiment.yaml"

QUESTIONS = {
    "name": "name of the experiment",
    "strategy.name": "method (fedrecon list strategies)",
    "network.name": "network (fedrecon list networks)",
    "operator.mask": "mask (fedrecon list masks)",
    "operator.acceleration": "acceleration",
    "training.rounds": "rounds",
}
"""The keys that are asked for on a terminal, if no override gives them."""


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    about = "write an experiment for the data at hand, of a size that fits this machine"
    one = command(commands, "init", _init, about, json=True)
    one.add_argument("overrides", nargs="*", metavar="key.path=value", help="what is given is not asked for")
    one.add_argument("--sites", metavar="FOLDER", help="folder of shards (default: the one below data/)")
    one.add_argument("--out", metavar="FILE", help=f"the file to write (default: {OUT})")
    one.add_argument("--overwrite", action="store_true", help="replace the file if there is one")
    one.add_argument("--dry-run", action="store_true", help="print what would be written, and write nothing")


def _init(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.setup.first_experiment import draft, find_sites, refuse_existing

    asks = sys.stdin.isatty() and sys.stderr.isatty()
    sites = arguments.sites or (_asked("folder of shards", _or_empty(find_sites)) if asks else find_sites())
    out = Path(arguments.out or (_asked("file to write", OUT) if asks and not arguments.dry_run else OUT))
    if not arguments.dry_run:
        refuse_existing(out, arguments.overwrite)
    overrides = list(arguments.overrides)
    say("opening the shards, timing a training step", sys.stderr)
    made = draft(sites, overrides)
    if asks:
        overrides += _answers(made.raw, overrides, lambda more: draft(sites, more))
        made = draft(sites, overrides)
    if not arguments.dry_run:
        made.write(out, arguments.overwrite)
    if arguments.json:
        written = None if arguments.dry_run else str(out)
        print_json({"path": written, "experiment": made.raw, "facts": made.facts, "seconds": made.seconds})
    elif arguments.dry_run:
        say(made.text().rstrip("\n"))
    else:
        say("\n".join([*made.facts, f"{out} is written. Run it:  fedrecon run {shlex.quote(str(out))}"]))
    return DONE


def _answers(raw: Mapping[str, Any], overrides: Sequence[str], check: Callable[[list[str]], Any]) -> list[str]:
    """The overrides that a person chooses. An answer that is refused is asked for again."""
    given = {one.partition("=")[0].strip() for one in overrides}
    answers: list[str] = []
    for key, text in QUESTIONS.items():
        value: Any = raw
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if key in given or key.split(".")[0] in given or value is None:
            continue
        while (answer := _asked(text, str(value))) != str(value):
            try:
                check([*overrides, *answers, f"{key}={answer}"])
            except InputError as error:
                say(f"error: {error}", sys.stderr)
                continue
            answers.append(f"{key}={answer}")
            break
    return answers


def _asked(text: str, default: str) -> str:
    """What a person answers; the default for an empty line, or at the end of the input. Without a default it is asked
    again. The question goes to stderr, because stdout has results."""
    while True:
        print(f"{text} [{default}]: " if default else f"{text}: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if (answer := line.strip() or default) or not line:
            return answer


def _or_empty(find: Callable[[], str]) -> str:
    try:
        return find()
    except InputError:
        return ""
