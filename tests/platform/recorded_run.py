"""A recorded run, what a store has of it, and the delivery of its journal."""

from __future__ import annotations

from pathlib import Path

from memory_store import MemoryStore

from fedrecon.platform.storage.journal import Journal, RunRecord, Sent
from fedrecon.platform.storage.tracking.sender import Sender

RECORD = RunRecord("study", "run", "abcdef0123456789", {"seed": "1"}, {"t": "x"})


def recorded(place: Path, rounds: int = 3) -> Journal:
    """A journal of a run that has ended, with a picture and an artifact."""
    journal = Journal(place / "runs" / RECORD.digest / "record")
    journal.open(RECORD)
    for number in range(1, rounds + 1):
        journal.metrics(number, {"mean/loss": 1 / number, "nan": float("nan")})
        journal.flush()
    journal.image("site/a", rounds, b"png")
    path = place / "report.md"
    path.write_text("hello")
    journal.artifact(path)
    path.write_text("another")  # the journal has a file of its own name
    journal.finish("FINISHED")
    return journal


def held(store: MemoryStore, number: int = -1) -> dict[str, object]:
    """What a store has of a run."""
    run = store.runs[number]
    return {
        "steps": [point.step for point in run.points if point.key == "mean/loss"],
        "images": [(key, step) for key, step, _ in run.images],
        "artifacts": sorted(run.artifacts),
        "status": run.info.status,
        "params": run.params,
    }


WHOLE = {
    "steps": [1, 2, 3],
    "images": [("site/a", 3)],
    "artifacts": ["report.md"],
    "status": "FINISHED",
    "params": {"seed": "1"},
}


def deliver(store: MemoryStore, workspace: Path, journal: Journal) -> Sent:
    """Brings the store up to the journal."""
    sender = Sender(workspace, store=store, say=lambda line: None)
    try:
        return sender.deliver(journal.folder)
    finally:
        sender.close()
