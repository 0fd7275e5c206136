import json
import pickle
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import save_file

from fedrecon.platform.storage import checkpoint
from fedrecon.platform.storage.checkpoint import Checkpoints
from fedrecon.sites import atomic
from fedrecon.sites.errors import DiskFullError, RunError
from fedrecon.sites.wire import State

RECORD = {"history": [{"round": 1, "seconds": 0.25, "losses": {"a": {"loss": 1e-3}}}], "run_id": "abc"}


def state(number: int, value: float = 1.0) -> State:
    return State(number, np.full(5, value, np.float32), {"momentum": np.zeros(0, np.float32)}, {"a": number})


def same(one: State, other: State) -> bool:
    return (
        (one.round, dict(one.standing), list(one.extra)) == (other.round, dict(other.standing), list(other.extra))
        and one.shared.tobytes() == other.shared.tobytes()
        and all(one.extra[name].tobytes() == other.extra[name].tobytes() for name in one.extra)
    )


vectors = hnp.arrays(
    np.float32, st.integers(0, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
names = st.text(min_size=1, max_size=8)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    shared=vectors,
    extra=st.dictionaries(names, vectors, max_size=3),
    standing=st.dictionaries(names, st.integers(0, 99), max_size=3),
    number=st.integers(0, 10**7),
)
def test_round_trip_is_bit_equal(tmp_path_factory, shared, extra, standing, number):
    checkpoints = Checkpoints(tmp_path_factory.mktemp("law"))
    before = State(number, shared, extra, {name: min(one, number) for name, one in standing.items()})
    checkpoints.save(before, RECORD)
    found = checkpoints.latest()
    assert found is not None
    after, record = found
    assert same(before, after)
    assert record == RECORD


def test_denormals_and_signed_zeros_keep_their_bits(tmp_path):
    bits = np.array([0x00000001, 0x80000000, 0x807FFFFF, 0x7F7FFFFF], np.uint32)
    Checkpoints(tmp_path).save(State(1, bits.view(np.float32)), {})
    after, _ = Checkpoints(tmp_path).latest()
    assert (after.shared.view(np.uint32) == bits).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["shared", "extra/momentum"])
def test_what_is_not_finite_is_neither_committed_nor_read(tmp_path, value, where, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), {})
    vectors = {"shared": np.ones(5, np.float32), "extra/momentum": np.ones(3, np.float32)}
    vectors[where][1] = value
    bad = State(2, vectors["shared"], {"momentum": vectors["extra/momentum"]}, {"a": 2})
    with pytest.raises(
        RunError, match=f"round 2 cannot be committed: its state holds NaN or infinity in 1 of .* {where}"
    ):
        checkpoints.save(bad, {})
    assert [path.name for path in checkpoints.paths()] == ["round-000001.safetensors"]
    monkeypatch.setattr(checkpoint, "first_not_finite", lambda vectors: "")  # an earlier version wrote it
    checkpoints.save(bad, {})
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="round-000002.* NaN or infinity"):
        assert checkpoints.latest()[0].round == 1


def test_a_strided_vector_is_stored_as_it_reads(tmp_path):
    Checkpoints(tmp_path).save(State(1, np.arange(10, dtype=np.float32)[::2]), {})
    after, _ = Checkpoints(tmp_path).latest()
    assert after.shared.tolist() == [0, 2, 4, 6, 8]


def test_what_is_read_can_be_written_to_and_changes_no_file(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), {})
    first, _ = checkpoints.latest()
    first.shared[:] = 9
    assert checkpoints.latest()[0].shared.tolist() == [1.0] * 5


def test_nothing_before_the_first_round(tmp_path):
    assert Checkpoints(tmp_path / "none").latest() is None


def test_the_newest_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in (9, 10, 11, 12):
        checkpoints.save(state(number), {})
    assert [path.name for path in checkpoints.paths()] == [
        "round-000011.safetensors",
        "round-000012.safetensors",
    ]
    assert checkpoints.latest()[0].round == 12
    checkpoints.clear()
    assert checkpoints.latest() is None


def damage_cut(content: bytes) -> bytes:
    return content[: len(content) - 7]


def damage_header(content: bytes) -> bytes:
    return content[:20]


def damage_bit(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def damage_empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [damage_cut, damage_header, damage_bit, damage_empty])
def test_a_damaged_newest_file_is_passed_over_with_a_warning(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1, 1.5), {"k": 1})
    newest = checkpoints.save(state(2, 2.5), {"k": 2})
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match="round-000002"):
        found = checkpoints.latest()
    assert same(found[0], state(1, 1.5))
    assert found[1] == {"k": 1}


def header(**changes):
    """Rewrites fields of a header; its CRC is made right."""

    def change(path):
        with safe_open(path, framework="numpy") as file:
            old = file.metadata()
            vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        text = json.dumps({**json.loads(old["fedrecon"]), **changes})
        save_file(vectors, path, metadata={**old, "fedrecon": text, "crc32": str(zlib.crc32(text.encode()))})

    return change


def flipped(path):
    content = path.read_bytes()
    at = content.index(b"momentum")
    path.write_bytes(content[:at] + b"n" + content[at + 1 :])


def flipped_round(path):
    path.write_bytes(path.read_bytes().replace(b'\\"run_id\\": \\"abc', b'\\"run_id\\": \\"abd'))


IMPLAUSIBLE = {
    "round -5": (header(round=-5), "its round is -5"),
    "round 99": (header(round=99), "its round is 99, by its name it is 000002"),
    "a round as text": (header(round="2"), "its round is '2'"),
    "99 in the name too": (
        lambda path: (header(round=3)(path), path.rename(path.with_name("round-000003.safetensors"))),
        "its round is 3, the experiment has 2",
    ),
    "a standing after the round": (header(standing={"a": 3}), "site 'a' stands at round 3"),
    "a standing before 0": (header(standing={"a": -1}), "site 'a' stands at round -1"),
    "another experiment": (header(experiment="beef"), "it is of experiment beef, not of cafe"),
    "another length": (
        lambda path: Checkpoints(path.parent, "cafe").save(State(2, np.ones(4, np.float32)), {}),
        "it holds 4 shared parameters, the network has 5",
    ),
    "a changed record": (flipped_round, "checksum of its header is wrong"),
    "a changed name": (flipped, "cannot be read"),
}


@pytest.mark.parametrize("what", IMPLAUSIBLE)
def test_what_no_run_commits_is_passed_over_with_a_warning(tmp_path, what):
    change, says = IMPLAUSIBLE[what]
    checkpoints = Checkpoints(tmp_path, "cafe")
    checkpoints.save(state(1, 1.5), RECORD)
    change(checkpoints.save(state(2, 2.5), RECORD))
    with pytest.warns(UserWarning, match=says):
        found = checkpoints.latest(rounds=2, size=5)
    assert same(found[0], state(1, 1.5))


def grown(n):
    """The record after ``n`` rounds: two lists that grow."""
    rows = [{"round": number, "seconds": number / 3} for number in range(1, n + 1)]
    return {"rounds": rows, "curve": [{"round": row["round"], "metrics": {"mean/loss": 0.1}} for row in rows], "k": n}


@pytest.mark.slow
def test_the_history_is_appended_and_no_header_grows(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    sizes, history = [], tmp_path / "history.jsonl"
    for number in range(60):
        sizes.append(checkpoints.save(state(number), grown(number)).stat().st_size)
        assert len(history.read_bytes().splitlines() if number else b"") == number  # one line a round
    assert max(sizes) - min(sizes[1:]) < 64
    found = Checkpoints(tmp_path).latest()
    assert (same(found[0], state(59)), found[1]) == (True, grown(59))


@pytest.mark.parametrize("torn", [b"", b'{"rounds": [{"ro', b'{"rounds": [7], "curve": []}\n'])
def test_a_kill_between_the_history_and_the_checkpoint_resumes_to_the_same_files(tmp_path, torn):
    """The checkpoint is the truth: what the history holds beyond its part is written over."""
    calm, stormy = Checkpoints(tmp_path / "calm"), Checkpoints(tmp_path / "stormy")
    for number in range(1, 5):
        calm.save(state(number), grown(number))
    for number in (1, 2):
        stormy.save(state(number), grown(number))
    with (tmp_path / "stormy" / "history.jsonl").open("ab") as file:
        file.write(torn)
    resumed = Checkpoints(tmp_path / "stormy")
    found, record = resumed.latest()
    assert (same(found, state(2)), record) == (True, grown(2))
    for number in (3, 4):
        resumed.save(state(number), grown(number))
    names = [path.name for path in sorted((tmp_path / "calm").iterdir())]
    assert [path.name for path in sorted((tmp_path / "stormy").iterdir())] == names
    assert (tmp_path / "stormy" / "history.jsonl").read_bytes() == (tmp_path / "calm" / "history.jsonl").read_bytes()
    one, other = Checkpoints(tmp_path / "calm").latest(), Checkpoints(tmp_path / "stormy").latest()
    assert (same(one[0], other[0]), one[1]) == (True, other[1])


def test_a_torn_checkpoint_goes_back_and_the_history_with_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2, 3):
        newest = checkpoints.save(state(number), grown(number))
    newest.write_bytes(b"torn")
    again = Checkpoints(tmp_path)
    with pytest.warns(UserWarning, match="round-000003"):
        assert again.latest()[1] == grown(2)
    again.save(state(3), grown(3))
    assert Checkpoints(tmp_path).latest()[1] == grown(3)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x" * 4000)])
def test_a_checkpoint_without_its_history_is_passed_over(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), grown(1))
    damage(tmp_path / "history.jsonl")
    with pytest.warns(UserWarning, match="history|history.jsonl"):
        assert Checkpoints(tmp_path).latest() is None


def test_schema_1_is_read_and_its_history_goes_on(tmp_path):
    path = Checkpoints(tmp_path).save(state(2), {"k": 2})
    header(record=grown(2))(path)
    with safe_open(path, framework="numpy") as file:
        old, vectors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content = {key: value for key, value in json.loads(old["fedrecon"]).items() if key != "history"}
    save_file(vectors, path, metadata={"schema": "1", "fedrecon": json.dumps(content)})
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest()[1] == grown(2)
    checkpoints.save(state(3), grown(3))
    assert Checkpoints(tmp_path).latest()[1] == grown(3)
    (tmp_path / "round-000003.safetensors").unlink()
    assert Checkpoints(tmp_path).latest()[1] == grown(2)


def test_the_last_round_alone_is_kept_once_it_was_read_back(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2):
        newest = checkpoints.save(state(number), grown(number))
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-3])
    with pytest.warns(UserWarning, match="round-000002"):
        checkpoints.keep_last()
    assert len(checkpoints.paths()) == 2
    newest.write_bytes(whole)
    checkpoints.keep_last()
    assert [path.name for path in checkpoints.paths()] == ["round-000002.safetensors"]
    assert Checkpoints(tmp_path).latest()[1] == grown(2)


def full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_names_path_and_free_space_and_the_round_before_stays(tmp_path, monkeypatch, call):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), grown(1))
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, call, full)
        with pytest.raises(DiskFullError) as raised:
            checkpoints.save(state(2), grown(2))
    assert str(tmp_path) in str(raised.value)
    assert raised.value.free > 0
    assert pickle.loads(pickle.dumps(raised.value)).args == raised.value.args
    assert same(Checkpoints(tmp_path).latest()[0], state(1))
    checkpoints.save(state(2), grown(2))
    assert Checkpoints(tmp_path).latest()[1] == grown(2)


def test_a_library_that_gives_the_number_in_its_text_alone_is_understood(tmp_path):
    for text in ("I/O error: No space left on device (os error 28)", "write failed: errno = 122, quota"):
        with pytest.raises(DiskFullError), atomic.replacing(tmp_path / "a"):
            raise ValueError(text)


def test_a_file_of_an_earlier_version_is_read(tmp_path):
    """It has no digest and no CRC of its header."""
    path = Checkpoints(tmp_path).save(state(2), RECORD)
    with safe_open(path, framework="numpy") as file:
        old = file.metadata()
        vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    content = json.loads(old["fedrecon"])
    del content["experiment"]
    save_file(vectors, path, metadata={"schema": "1", "fedrecon": json.dumps(content)})
    assert same(Checkpoints(tmp_path, "cafe").latest(rounds=2, size=5)[0], state(2))


def test_after_a_damaged_file_the_round_is_committed_again(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2, 3):
        checkpoints.save(state(number), {})
    (tmp_path / "round-000003.safetensors").write_bytes(b"torn")
    checkpoints.save(state(2, 7.0), {})
    assert [path.name for path in checkpoints.paths()] == ["round-000002.safetensors"]
    checkpoints.save(state(3, 8.0), {})
    assert checkpoints.latest()[0].shared[0] == 8.0


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_kill_in_the_middle_leaves_the_round_before(tmp_path, monkeypatch, call):
    """A kill runs no clean-up: the temporary file stays, and no reader looks at it."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), {"k": 1})

    def die(*_):
        raise Killed

    monkeypatch.setattr(atomic.os, call, die)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(Killed):
        checkpoints.save(state(2), {"k": 2})
    monkeypatch.undo()
    assert len(list(tmp_path.glob(".round-000002*.tmp"))) == 1
    found = checkpoints.latest()
    assert same(found[0], state(1))
    checkpoints.save(state(2), {"k": 2})
    assert list(tmp_path.glob(".*")) == []


def half_written(path):
    path.write_text("half")
    raise ZeroDivisionError


def test_a_body_that_raises_leaves_no_file(tmp_path):
    path = tmp_path / "deep" / "a.json"
    atomic.write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), atomic.replacing(path) as temporary:
        half_written(temporary)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(path.parent.iterdir()) == [path]


def test_only_flat_float32_is_saved(tmp_path):
    with pytest.raises(TypeError, match="float64"):
        Checkpoints(tmp_path).save(State(1, np.zeros(3)), {})
    assert Checkpoints(tmp_path).latest() is None


@pytest.mark.slow
def test_a_hundred_megabytes_are_saved_in_about_a_file_write(tmp_path):
    big = np.random.default_rng(0).standard_normal(25_000_000, dtype=np.float32)
    start = time.process_time()
    Checkpoints(tmp_path).save(State(1, big), {})
    assert time.process_time() - start < 1.0  # 0.1 s of work when measured; 10 s if it went through text
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < big.nbytes + 4096
