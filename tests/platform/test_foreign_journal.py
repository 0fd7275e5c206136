"""A workspace may be somebody else's: what its journal names is sent only from its own folder."""

import pytest
from memory_store import MemoryStore

from fedrecon.platform.storage.journal import Entry, Journal, RunRecord
from fedrecon.platform.storage.tracking.sender import Sender, _write
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import RunError


@pytest.fixture
def folder(tmp_path):
    place = RunFolder(tmp_path / "w", "0123456789abcdef").path / "record"
    place.mkdir(parents=True)
    (tmp_path / "secret").write_text("key")
    (place / "link").symlink_to(tmp_path / "secret")
    (place / "own").write_text("own")
    (place / "inner").symlink_to(place / "own")
    return place


class Store:
    def __init__(self):
        self.sent = []

    def artifact(self, path, into):
        self.sent.append(path.read_text())

    def image(self, key, step, png):
        self.sent.append(png.decode())

    def model(self, name, step, files):
        self.sent += [path.read_text() for path in files]


@pytest.mark.parametrize("name", ["../../../../secret", "link", "{tmp}/secret", "/etc/passwd"])
def test_no_entry_sends_a_file_from_elsewhere(name, folder, tmp_path):
    store, name = Store(), name.format(tmp=tmp_path)
    for entry in (("artifact", [name, "a"]), ("image", ["k", 0, name]), ("model", ["m", 0, ["own", name]])):
        with pytest.raises(RunError, match="outside of this folder"):
            _write(store, folder, Entry(*entry, 0))
    assert store.sent == []
    for own in ("own", "inner"):
        _write(store, folder, Entry("artifact", [own, "a"], 0))
    assert store.sent == ["own", "own"]


def test_sync_refuses_such_a_workspace(folder, tmp_path):
    journal, store = Journal(folder), MemoryStore()
    journal.open(RunRecord("study", "run", "0123456789abcdef"), False)
    journal._note("artifact", "link", "")
    journal.finish("FINISHED")
    sender = Sender(tmp_path / "w", store=store)
    with pytest.raises(RunError, match="outside of this folder"):
        sender.deliver(folder)
    sender.close()
