"""``fedrecon init``: writes an experiment for the data at hand."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedrecon.commands.base import DONE, command
from fedrecon.platform.terminal.arguments import add_overrides
from fedrecon.platform.terminal.output import print_json, say
from fedrecon.sites.errors import InputError

OUT = "experiment.yaml"

QUESTIONS = {
    "name": "name of the experiment",
    "strategy.name": "method (fedrecon list strategies)",
    "network.name": "network (fedrecon list networks)",
    "operator.mask": "mask (fedrecon list masks)",
    "operator.acceleration": "acceleration",
}
"""The keys that are asked for on a terminal, if no override gives them."""

ROUNDS = {"training.rounds": "rounds"}
"""It is asked last: what is proposed follows from the pace of the rest."""


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    about = "write an experiment for the data at hand, of a size that fits this machine"
    one = command(commands, "init", _init, about)
    add_overrides(one, "what is given is not asked for")
    one.add_argument("--sites", metavar="FOLDER", help="folder of shards (default: the one below data/)")
    one.add_argument("--out", metavar="FILE", help=f"the file to write (default: {OUT})")
    one.add_argument("--overwrite", action="store_true", help="replace the file if there is one")


def _init(arguments: argparse.Namespace) -> int:
    from fedrecon.platform.setup.first_experiment import accepted, draft, find_sites, refuse_existing

    overrides = [*arguments.overrides, *["resources.crew=in-process"] * arguments.in_process]
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    sites = arguments.sites or (_asked("folder of shards", _or_empty(find_sites)) if asks else find_sites())
    out = Path(arguments.out or (_asked("file to write", OUT) if asks and not arguments.dry_run else OUT))
    if not arguments.dry_run:
        refuse_existing(out, arguments.overwrite)
    check = partial(accepted, sites)
    say(f"opening the shards of {sites}, then timing a training step", sys.stderr)
    if asks:
        overrides += _answers(QUESTIONS, overrides, check)
    made = draft(sites, overrides)
    if asks and (chosen := _answers(ROUNDS, overrides, check, made.raw)):
        made = draft(sites, [*overrides, *chosen])
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


def _answers(
    questions: Mapping[str, str],
    overrides: Sequence[str],
    check: Callable[[list[str]], Mapping[str, Any]],
    raw: Mapping[str, Any] | None = None,
) -> list[str]:
    """The overrides that a person chooses. An answer that is refused is asked for again.

    Args:
        check: gives the content of the file under the overrides, or refuses them.
        raw: the content from which the first default comes; None asks ``check``.
    """
    given = {one.partition("=")[0].strip() for one in overrides}
    answers: list[str] = []
    raw = check(list(overrides)) if raw is None else raw
    for key, text in questions.items():
        block, _, name = key.partition(".")
        if {key, block} & given or not (value := raw.get(block)) or (name and name not in value):
            continue
        default = str(value[name] if name else value)
        while (answer := _asked(text, default)) != default:
            try:
                raw = check([*overrides, *answers, f"{key}={answer}"])
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
