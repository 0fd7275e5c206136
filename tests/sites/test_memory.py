"""A site's private memory: the round before stays until the next is committed."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedrecon.sites.errors import RunError
from fedrecon.sites.training import memory as memory_module
from fedrecon.sites.training.memory import Memory


def values(number):
    return {"a": np.full(2, number, np.float32), "b/c": np.zeros(0, np.float32)}


def files(folder):
    return sorted(int(path.stem[-6:]) for path in folder.glob("*"))


def test_the_round_before_stays_until_the_next_is_committed(tmp_path):
    memory = Memory(tmp_path / "memory")
    for number in (1, 2):
        memory.load(number - 1)
        memory.save(number, values(number))
    assert files(tmp_path / "memory") == [1, 2]  # an order for round 3 has not come
    memory.load(2)
    assert files(tmp_path / "memory") == [1, 2]  # round 2 may only be scored, before its commit
    memory.save(3, values(3))
    memory.load(3)
    memory.save(4, values(4))
    assert files(tmp_path / "memory") == [2, 3, 4]  # 3 is committed; 2 is what a torn checkpoint falls back to


def test_after_missed_rounds_the_round_that_stands_stays(tmp_path):
    """The member replied in rounds 2 and 3, then only in 9."""
    memory = Memory(tmp_path)
    for number, standing in ((2, 0), (3, 2), (9, 3)):
        memory.load(standing)
        memory.save(number, values(number))
    assert files(tmp_path) == [2, 3, 9]
    again = Memory(tmp_path)
    again.load(3)  # round 9 was never committed
    assert again.values["a"].tolist() == [3, 3]
    again.save(9, values(90))
    again.load(9)
    assert again.values["a"].tolist() == [90, 90]


def test_what_a_dead_writer_left_goes_with_its_round(tmp_path):
    memory = Memory(tmp_path)
    (tmp_path / ".round-000001.safetensors.4242.tmp").write_bytes(b"half")
    for number in (1, 2, 3):
        memory.load(number - 1)
        memory.save(number, values(number))
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_restart_takes_the_committed_round_and_not_the_newest(tmp_path):
    memory = Memory(tmp_path)
    memory.save(1, values(1))
    memory.save(2, values(2))
    again = Memory(tmp_path)
    again.load(1)
    assert again.values["a"].tolist() == [1, 1]
    assert again.values["b/c"].size == 0
    memory.load(1)  # nor does the process that wrote the uncommitted round
    assert memory.values["a"].tolist() == [1, 1]
    again.save(2, values(20))
    fresh = Memory(tmp_path)
    fresh.load(2)
    assert fresh.values["a"].tolist() == [20, 20]


def test_round_0_is_empty_whatever_lies_there(tmp_path):
    Memory(tmp_path).save(1, values(1))
    memory = Memory(tmp_path)
    memory.load(0)
    assert memory.values == {}


def test_lost_memory_is_named(tmp_path):
    memory = Memory(tmp_path)
    memory.save(3, values(3))
    with pytest.raises(RunError, match="round 2 is lost"):
        memory.load(2)


def test_without_a_folder_it_lives_in_the_process():
    memory = Memory(None)
    memory.save(1, values(1))
    memory.load(1)
    assert memory.values["a"].tolist() == [1, 1]
    with pytest.raises(RunError, match="round 2 is lost"):
        memory.load(2)


def test_the_file_of_a_round_that_went_on_without_the_site_pushes_none_out(tmp_path):
    """A late site wrote round 3, and the round was committed without it: round 4 starts from round 2."""
    memory = Memory(tmp_path)
    for number in (1, 2, 3):
        memory.save(number, values(number))
    again = Memory(tmp_path)
    again.load(2)
    again.save(4, values(4))
    assert files(tmp_path) == [1, 2, 4]
    again.save(5, values(5))
    assert files(tmp_path) == [2, 4, 5]  # with a torn checkpoint of round 4 the run goes back to round 3, and to this 2


def test_nothing_half_written_counts(tmp_path):
    (tmp_path / ".round-000002.safetensors.4242.tmp").write_bytes(b"half")
    memory = Memory(tmp_path)
    memory.save(1, values(1))
    memory.load(1)
    assert memory.values["a"].tolist() == [1, 1]


def written(folder, number=2):
    memory = Memory(folder)
    memory.save(1, values(1))
    memory.save(number, values(number))
    return folder / f"round-{number:06d}.safetensors"


def swap(path, content):
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit of a value": lambda path: swap(path, path.read_bytes()[:-1] + b"\x41"),
    "a torn file": lambda path: swap(path, path.read_bytes()[:-3]),
    "an empty file": lambda path: swap(path, b""),
    "another name": lambda path: swap(path, path.read_bytes().replace(b'"b/c"', b'"b/d"')),
    "the file of another round": lambda path: swap(path, path.with_name("round-000001.safetensors").read_bytes()),
    "another round in the header": lambda path: swap(path, path.read_bytes().replace(b'"round":"2"', b'"round":"3"')),
    "the file of another member": lambda path: swap(path, written(path.parent.parent / "other").read_bytes()),
    "an earlier format": lambda path: save_file(values(2), path),
    "NaN, with a right checksum": lambda path: not_finite(path),
}
SAYS = {
    "the file of another round": "of 'member', round 1",
    "the file of another member": "of 'other', round 2",
    "an earlier format": "its format is 1, without a checksum; this version reads 2 and 3",
    "NaN, with a right checksum": "NaN or infinity in 1 of 2 a",
    "a flipped bit of a value": "its checksum is wrong",
}


def not_finite(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_module, "first_not_finite", lambda values: "")
        Memory(path.parent).save(2, {"a": np.array([1, np.nan], np.float32)})


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_memory_is_refused_in_one_line_and_stays_refused(tmp_path, damage):
    path = written(tmp_path / "member")
    DAMAGE[damage](path)
    memory = Memory(tmp_path / "member")
    for _ in range(2):
        with pytest.raises(RunError, match=r"the private memory of round 2 is refused: .*--rerun") as caught:
            memory.load(2)
        assert SAYS.get(damage, "") in str(caught.value)
        assert "\n" not in str(caught.value)
    memory.load(1)
    assert memory.values["a"].tolist() == [1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_kept(tmp_path, value):
    for folder in (None, tmp_path / "member"):
        memory = Memory(folder)
        memory.save(1, values(1))
        with pytest.raises(RunError, match="private memory of round 2 would hold NaN or infinity in 1 of 2 a; refused"):
            memory.save(2, {"a": np.array([1, value], np.float32)})
        assert memory.round == 1
    assert files(tmp_path / "member") == [1]


def test_the_memory_of_another_experiment_is_refused_and_one_that_names_none_is_read(tmp_path, monkeypatch):
    for owner in ("one", "two"):
        Memory(tmp_path / owner / "member", experiment=owner).save(1, values(1))
    path, theirs = (tmp_path / owner / "member" / "round-000001.safetensors" for owner in ("one", "two"))
    Memory(tmp_path / "one" / "member", experiment="one").load(1)
    swap(path, theirs.read_bytes())
    with pytest.raises(RunError, match=r"refused: it is of the training two, not of one .*--rerun") as caught:
        Memory(tmp_path / "one" / "member", experiment="one").load(1)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(memory_module, "FORMAT", "2")
    Memory(tmp_path / "one" / "member").save(1, values(1))
    monkeypatch.undo()
    Memory(tmp_path / "one" / "member", experiment="one").load(1)


def test_a_memory_of_another_run_is_checked_too(tmp_path):
    path = written(tmp_path / "theirs" / "member")
    other = Memory(tmp_path / "ours" / "member", tmp_path / "theirs" / "member")
    other.load(2)
    assert other.values["a"].tolist() == [2, 2]
    DAMAGE["a flipped bit of a value"](path)
    with pytest.raises(RunError, match="its checksum is wrong"):
        Memory(tmp_path / "again" / "member", tmp_path / "theirs" / "member").load(2)
