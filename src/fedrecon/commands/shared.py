"""Which of the options that commands share a command has not, and why: every other command has it."""

from __future__ import annotations

from collections.abc import Mapping

KEYS = "KEY=VALUE"
"""A changed key of an experiment, among the names of options."""

_DATA = ("data simulate", "data import", "data inspect", "data seal")
_RUNS = ("runs list", "runs show", "runs compare", "runs rm", "runs export", "runs register", "plot")
_PLUGINS = ("list", "check-plugin", "schema")
_STORE = ("ui", "sync")

LACKING: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "--json": {"it serves pages until it is ended": ("ui",)},
    "--workspace": {
        "shards stand in folders of their own, and a workspace holds runs": _DATA,
        "it looks at no run": (*_PLUGINS, "init"),
    },
    "--in-process": {"it starts no site": (*_DATA, *_RUNS, *_PLUGINS, *_STORE)},
    "--address": {
        "it asks no Ray cluster": (*_DATA, *_RUNS, *_PLUGINS, *_STORE),
        "it opens the shards of this machine": ("init",),
        "it works in this process; an experiment with a test block scores sites of a cluster": ("evaluate",),
        "it works in this process": ("reconstruct",),
    },
    "--tracking-uri": {
        "it asks no MLflow": (*_DATA, *_PLUGINS, *_RUNS[:3], "runs export", "plot"),
        "it marks runs in the stores that got them": ("runs rm",),
        "it takes the store that got the run": ("runs register",),
        "it serves the store of the workspace; a server shows its pages at its own address": ("ui",),
        "an experiment names no store; give it to fedrecon run": ("init",),
        "it writes files, and nothing to MLflow": ("evaluate", "reconstruct"),
    },
    "--dry-run": {
        "it writes nothing": ("data inspect", *_RUNS[:3], *_PLUGINS, "doctor"),
        "it serves pages, and changes no run": ("ui",),
    },
    KEYS: {
        "its settings are options": _DATA,
        "it takes runs as they are": (*_RUNS, *_STORE),
        "it reads no experiment": (*_PLUGINS, "doctor"),
    },
}
"""By option and by reason: the commands that refuse it. ``docs/commands.md`` shows the same as a table."""


def lacking(command: str) -> dict[str, str]:
    """The options that a command has not, each with the reason."""
    return {option: reason for option, by in LACKING.items() for reason, commands in by.items() if command in commands}
