"""What the doctor finds: one line a check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from fedrecon.sites.errors import cause_of

Status = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: what was looked at. status: ``wrong`` stops a run, or spoils it; ``warning`` can.
        found: what there is. advice: what to do; empty if all is well.
    """

    name: str
    status: Status
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding for JSON."""
        return asdict(self)


Check = Callable[[], Iterable[Finding]]


def findings(name: str, check: Check) -> Iterator[Finding]:
    """The findings of a check. A check that breaks is a finding too: the others go on."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - a broken library raises anything, and that is what is looked for
        yield Finding(name, "wrong", cause_of(error), "mend what the message names, and ask again")


def judged(name: str, wrong: str, found: str, advice: str) -> Finding:
    """A finding that is wrong for the reason ``wrong``, with the advice; fine if there is no reason."""
    return Finding(name, "wrong", wrong, advice) if wrong else Finding(name, "ok", found)
