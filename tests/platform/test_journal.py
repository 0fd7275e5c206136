"""A run in MLflow is that of one journal: another run of the same digest never goes on with its numbers."""

import shutil

from memory_store import MemoryStore
from recorded_run import RECORD, WHOLE, deliver, held, recorded


def test_a_run_whose_folder_was_deleted_is_not_continued_by_the_next_one_of_its_digest(tmp_path):
    """Its numbers can be others, such as those of a run that lost a site. No step would be written twice."""
    server = MemoryStore()
    deliver(server, tmp_path, recorded(tmp_path))
    shutil.rmtree(tmp_path / "runs" / RECORD.digest)
    new = deliver(server, tmp_path, recorded(tmp_path, rounds=2)).run_id
    assert held(server) == {**WHOLE, "steps": [1, 2], "images": [("site/a", 2)]}
    assert server.runs[0].info.tags["fedrecon.superseded_by"] == new == "memory-1"


def test_a_journal_that_goes_on_or_is_sent_again_is_the_same_run(tmp_path):
    server, journal = MemoryStore(), recorded(tmp_path)
    for again in (lambda: journal.open(RECORD), (journal.folder / "sent.json").unlink, lambda: None):
        deliver(server, tmp_path, journal)
        again()
    assert len(server.runs) == 1
