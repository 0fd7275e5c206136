"""The errors of fedrecon: one for a user's input (exit code 2), one for a run that failed (exit code 1)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedreconError(Exception):
    """Base of every error that is shown to a user as one clear message."""


class InputError(FedreconError):
    """What the user gave is wrong: says what was given, what is allowed and the nearest right name."""


class RunError(FedreconError):
    """The input was right and the work failed: says where (site, round) and why."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> InputError:
    """An error for a name that does not exist, with the nearest right one."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return InputError(f"unknown {kind} '{given}'.{hint} Allowed: {', '.join(names) or '(none)'}.")
