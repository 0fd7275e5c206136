"""Who missed a reply, in which round, and why. A resumed run leaves out whom it left out before.

The file ``missed.json`` in the folder of a run holds the names of the members, and the reasons by round and member
(:data:`fedrecon.platform.config.resources.Missed`). It is written before the round is committed and before the tracker
hears of it. So a round that is trained again after a crash, or because its checkpoint is torn, comes to the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.resources import DEAD, UNSCORED, Missed
from fedrecon.platform.storage import checked_json
from fedrecon.platform.storage.workspace import RunFolder, find_trained

if TYPE_CHECKING:
    from fedrecon.platform.config.resources import Resources

MISSED = "missed.json"
"""Name of the file in the folder of a run."""

TEST = "test"
"""The key of the scores after the last round, in place of a round."""

START = "start"
"""The key of what the run missed with whose network the training began (``training.start``)."""


class Attendance:
    """The missed replies of a run.

    Args:
        path: the file; None keeps nothing.
        members: the members of the run, in the roster's order.
    """

    def __init__(self, path: Path | None, members: Sequence[str]) -> None:
        self._path, self._members = path, list(members)
        self.missed: dict[str, dict[str, str]] = {}
        if path is not None and (kept := _read(path)) is not None:
            self.missed = dict(kept["missed"])

    def absent(self, number: int) -> tuple[str, ...]:
        """The members that missed the training of this round when it was trained before."""
        return tuple(one for one, why in self.missed.get(str(number), {}).items() if why != UNSCORED)

    def note(self, when: int | str, missed: Mapping[str, str]) -> None:
        """Notes the members that missed a reply in a round (or in :data:`TEST` or :data:`START`), and why."""
        if not missed or self.missed.get(str(when)) == missed:
            return
        self.missed[str(when)] = dict(missed)
        self._write()

    def take_over(self, training: Missed) -> None:
        """Notes what another run missed, whose training is taken over."""
        if training:
            self.missed = {when: dict(one) for when, one in training.items()}
            self._write()

    def _write(self) -> None:
        if self._path is not None:
            content = {"members": self._members, "missed": self.missed}
            checked_json.write(self._path, content, _owner(self._path))


def missed_by(folder: RunFolder) -> tuple[int, dict[str, dict[str, str]]]:
    """The number of members of a run, and the replies that it missed.

    An earlier version kept no such file. Its result names the sites that stayed dead, but not since when: it counts as
    a run that missed them from its first round on.
    """
    if (kept := _read(folder.path / MISSED)) is not None:
        return len(kept["members"]), kept["missed"]
    result = folder.result() or {}
    gone = dict.fromkeys(result.get("missing_sites", ()), DEAD)
    return len(result.get("sites", ())) + len(gone), {"1": gone} if gone else {}


def may_return(resources: Resources, folder: RunFolder) -> bool:
    """Whether an experiment with these resources may go on with this run, or return its result."""
    n_members, missed = missed_by(folder)
    return resources.allows(missed, n_members)


def find_training(workspace: Path, training_digest: str, resources: Resources) -> RunFolder | None:
    """A finished run whose training an experiment with these resources may take over; None if there is none."""
    source = find_trained(workspace, training_digest)
    if source is None:
        return None
    n_members, missed = missed_by(source)
    return source if resources.allows(of_training(missed), n_members) else None


def of_start(source: RunFolder) -> dict[str, str]:
    """The members that missed training in a run with whose network another one begins, each with the last reason."""
    return {member: why for one in of_training(missed_by(source)[1]).values() for member, why in one.items()}


def of_training(missed: Missed) -> dict[str, dict[str, str]]:
    """The part of the missed replies that changed the training: without those of scoring."""
    trained = {when: {m: why for m, why in one.items() if why != UNSCORED} for when, one in missed.items()}
    return {when: one for when, one in trained.items() if one and when != TEST}


def _read(path: Path) -> dict[str, Any] | None:
    return checked_json.read(path, "Train again with --rerun.", _owner(path), ("members", "missed"))


def _owner(path: Path) -> str:
    """The digest of the run, also after the run was set aside."""
    return path.parent.name.split(".before-")[0]


def in_words(missed: Missed) -> str:
    """The missed replies as text: ``t1w: rounds 3, 4 (late)``; empty if there are none."""
    found: dict[tuple[str, str], list[str]] = {}
    for when, one in missed.items():
        for member, why in one.items():
            found.setdefault((member, why), []).append(when)
    return "; ".join(f"{member}: {_when(rounds)} ({why})" for (member, why), rounds in found.items())


def _when(rounds: Sequence[Any]) -> str:
    numbers = [one for one in rounds if one not in (START, TEST)]
    parts = [f"round{'s' * (len(numbers) > 1)} {', '.join(numbers)}"] if numbers else []
    return " and ".join([*([START] if START in rounds else []), *parts, *([TEST] if TEST in rounds else [])])
