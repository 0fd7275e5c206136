"""Vectors that go between the driver and the sites of its node by shared memory, and what keeps them whole."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from clusters import local_cluster
from ray_executors import ray_executor
from tiny import Commits, Federation, bits

from fedrecon.platform.execution import shared_memory
from fedrecon.platform.execution.ray_cluster import store_size
from fedrecon.platform.execution.ray_executor import RayExecutor
from fedrecon.platform.execution.shared_memory import (
    Buffer,
    Handle,
    PackedMessage,
    SharedBuffers,
    SharedMemoryError,
    SiteEndpoint,
    Unreachable,
    opened,
    pack,
    unpack,
)
from fedrecon.platform.execution.transport import SharedMemoryTransport
from fedrecon.sites.errors import RunError
from fedrecon.sites.wire import State, TrainReply, TrainRequest
from fedrecon.strategies.fedavg import FedAvg

ROOM = 1 << 26
NEITHER: Any = None


def request(*values: float, **extra: list[float]) -> TrainRequest:
    vectors = {name: np.array(one, np.float32) for name, one in extra.items()}
    return TrainRequest(4, np.array(values, np.float32), vectors, {"north": 3})


@pytest.fixture
def tiny_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "SMALL", 1)


def files() -> int:
    """The number of open descriptors of buffers in this process. Those of other libraries come and go."""
    gc.collect()
    found = 0
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor that lists the folder is closed by now
            found += "memfd:" in str(one.readlink())
    return found


def test_down_and_up_by_hand(tiny_messages: None) -> None:
    buffers, site = SharedBuffers(ROOM), SiteEndpoint()
    sent = request(1, 2, 3, drift=[4, 5], nothing=[])
    packed, token = buffers.post(sent) or NEITHER
    back = buffers.reply_buffer("north", sent)
    assert back is not None
    assert packed.message.shared.size == 0
    found = site.receive(packed)
    assert (found.round, found.standing) == (4, {"north": 3})
    assert found.shared.tolist() == [1, 2, 3]
    assert {name: value.tolist() for name, value in found.extra.items()} == {"drift": [4, 5], "nothing": []}
    assert found.nbytes == sent.nbytes == 20
    answer = site.send(TrainReply("north", 4, 7, found.shared * 2, {}, {"loss": 0.5}), back.handle)
    assert isinstance(answer, PackedMessage)
    reply = unpack(answer, back.memory)
    assert reply.shared.tolist() == [2, 4, 6]
    assert (reply.site, reply.n_slices, reply.losses, reply.nbytes) == ("north", 7, {"loss": 0.5}, 12)
    for vector in (found.shared, found.extra["drift"], reply.shared):
        with pytest.raises(ValueError, match="read-only"):
            vector[0] = 9
        with pytest.raises(ValueError, match="WRITEABLE"):
            vector.flags.writeable = True
    buffers.done(token)


def test_the_same_buffers_serve_every_round_and_grow_when_they_must(tiny_messages: None) -> None:
    buffers, site, handles = SharedBuffers(ROOM), SiteEndpoint(), []
    for values in ([1.0], [2.0], list(range(5000)), [3.0]):
        packed, token = buffers.post(request(*values)) or NEITHER
        assert site.receive(packed).shared.tolist() == values
        handles.append(packed.handle)
        buffers.done(token)
    assert handles[0] == handles[1] != handles[2] == handles[3]
    small = buffers.reply_buffer("north", request(1))
    assert small is not None
    long = TrainReply("north", 1, 1, np.arange(5000, dtype=np.float32))
    assert site.send(long, small.handle) is long
    buffers.replied("north", long)
    grown = buffers.reply_buffer("north", request(1))
    assert grown is not None
    assert unpack(site.send(long, grown.handle), grown.memory).shared.tolist() == long.shared.tolist()


LIES: dict[str, Any] = {
    "more than it holds": (10**9,),
    "less than nothing": (-5,),
    "a vector more": (4, 4),
    "a vector less": (),
    "no number": (4.0,),
    "no lengths of a message": None,
}


@pytest.mark.parametrize("name", LIES)
def test_lengths_that_cannot_be_are_refused(name: str) -> None:
    buffer, message = Buffer(4096, writable=False), TrainReply("north", 1, 1, np.zeros(0, np.float32))
    lie = LIES[name]
    packed = PackedMessage("north", (4,), buffer.handle) if lie is None else PackedMessage(message, lie, buffer.handle)
    with pytest.raises(RunError, match="refused"):
        unpack(packed, buffer.memory)
    assert len(unpack(PackedMessage(message, (1024,), buffer.handle), buffer.memory).shared) == 1024  # all of it


def test_a_reply_in_memory_that_nobody_gave_is_refused() -> None:
    transport = SharedMemoryTransport("node", ROOM)
    answer = PackedMessage(TrainReply("north", 1, 1, np.zeros(0, np.float32)), (4,), Buffer(4096, False).handle)
    with pytest.raises(RunError, match="that it was not given"):
        transport.send("fit", (request(1),)).received("north", answer)


def test_no_process_can_cut_a_buffer_that_another_reads() -> None:
    buffer = Buffer(4096, writable=True)
    for size in (0, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(buffer.handle.descriptor, size)
    assert len(bytes(buffer.memory)) == 4096


def test_an_order_that_may_still_be_read_is_not_written_over(tiny_messages: None) -> None:
    buffers, site = SharedBuffers(ROOM), SiteEndpoint()
    first, _ = buffers.post(request(1, 2)) or NEITHER
    held = site.receive(first)
    second, token = buffers.post(request(3, 4)) or NEITHER  # the caller of the first went away
    assert held.shared.tolist() == [1, 2]
    assert SiteEndpoint().receive(second).shared.tolist() == [3, 4]
    with pytest.raises(SharedMemoryError):
        SiteEndpoint().receive(first)
    buffers.done(token)
    third, _ = buffers.post(request(5, 6)) or NEITHER
    assert third.handle == second.handle


def test_small_odd_and_too_large_messages_go_through_ray() -> None:
    many = np.zeros(shared_memory.SMALL, np.float32)
    assert SharedBuffers(ROOM).post(request(1)) is None
    assert SharedBuffers(ROOM).post(TrainRequest(1, many.reshape(2, -1))) is None
    assert SharedBuffers(1000).post(TrainRequest(1, many)) is None
    assert SharedBuffers(ROOM).post(TrainRequest(1, many)) is not None


@pytest.mark.parametrize("where", ["gone", "other file", "other process"])
def test_a_buffer_that_is_not_there_is_refused(where: str, tmp_path: Path) -> None:
    buffer = Buffer(4096, writable=True)
    handle = buffer.handle
    if where == "gone":
        buffer.close()
    with (tmp_path / "file").open("wb") as file:
        file.write(bytes(4096))
        if where == "other file":
            handle = replace(handle, descriptor=file.fileno())
        if where == "other process":
            handle = replace(handle, process=1 << 22)
        with pytest.raises(SharedMemoryError):
            opened(handle, writable=True)


def test_without_memfd_nothing_breaks(monkeypatch: pytest.MonkeyPatch, tiny_messages: None) -> None:
    monkeypatch.delattr(os, "memfd_create")
    buffers = SharedBuffers(ROOM)
    assert buffers.post(request(1)) is None
    assert buffers.reply_buffer("north", request(1)) is None


@pytest.mark.slow
def test_another_process_opens_it_and_it_goes_with_the_last() -> None:
    buffer = Buffer(4096, writable=True)
    np.frombuffer(buffer.memory, np.float32, 2)[:] = 1, 2
    code = (
        "from fedrecon.platform.execution.shared_memory import *\nimport numpy as np\n"
        f"print(np.frombuffer(opened({buffer.handle!r}, False), np.float32, 2).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "[1.0, 2.0]", done.stderr


@pytest.mark.slow
def test_files_and_memory_stay_flat_even_if_vectors_outlive_their_buffer(tiny_messages: None) -> None:
    before, kept = files(), []
    for number in range(100):
        buffers, site = SharedBuffers(ROOM), SiteEndpoint()
        packed, _ = buffers.post(request(number)) or NEITHER
        back = buffers.reply_buffer("north", request(number))
        assert back is not None
        reply = unpack(site.send(TrainReply("north", 1, 1, site.receive(packed).shared), back.handle), back.memory)
        if number < 3:
            kept.append(reply)
        buffers.close()
        del buffers, site, packed, back, reply
    assert [one.shared.tolist() for one in kept] == [[0], [1], [2]]
    assert files() <= before + len(kept)  # Python's mmap holds one each
    kept.clear()
    assert files() <= before


def test_a_state_owns_its_memory() -> None:
    base = np.arange(6, dtype=np.float32)
    own = State(1, base, {"drift": np.ones(2, np.float32)})
    assert own.owned() is own
    taken = State(1, base[:3], {"drift": base[3:], "own": own.extra["drift"]}).owned()
    base[:] = 9
    assert taken.shared.tolist() == [0, 1, 2]
    assert taken.extra["drift"].tolist() == [3, 4, 5]
    assert taken.extra["own"] is own.extra["drift"]


class Keeps(FedAvg):
    """Keeps the first reply of each round as it came, and sends it down again in the next."""

    neutral: ClassVar[Any] = None
    not_neutral: ClassVar[str] = "a test"

    def request(self, state: State) -> TrainRequest:
        return TrainRequest(state.round + 1, state.shared, state.extra, state.standing)

    def merge(self, state: State, replies: Any, n_slices: Any) -> State:
        kept: dict[str, Any] = {}

        def watched() -> Iterator[TrainReply]:
            for reply in replies:
                kept.setdefault("kept", reply.shared)
                yield reply

        return replace(super().merge(state, watched(), n_slices), extra=kept)


DEEP = {"name": "unet", "channels": 6, "pools": 4}
"""A network above the least size for shared memory. Most of its values are where the image is smallest."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two CPUs; the workers import the method above."""
    with local_cluster(num_cpus=2):
        yield


class Hidden(Buffer):
    """A buffer that a site looks for in a process that it does not see."""

    def __init__(self, size: int, writable: bool) -> None:
        super().__init__(size, writable)
        self.handle = replace(self.handle, process=1 << 22)


def everything(federation: Federation, executor: Any) -> tuple[list[dict[str, Any]], Any]:
    """Rows, and the bits of EVERY round's state, looked at only after the last round, with scores of the last."""
    record = Commits(None)
    state = federation.train(executor, record)
    (first, *_) = executor.evaluate(federation.method.request(state), "test")
    return [one.row() for one in record.rounds], ([bits(one) for one in record.states], first.columns["ssim"])


def lose(executor: RayExecutor, how: str, patch: pytest.MonkeyPatch) -> None:
    """Makes shared memory fail in one of the ways in which it may."""
    if how == "another node":
        patch.setattr(executor.transport, "node", "another")
        executor.describe()
    elif how == "not opened":
        patch.setattr(shared_memory, "Buffer", Hidden)
    elif how == "killed":
        os.kill(executor.describe()["middle"].pid, signal.SIGKILL)


@pytest.mark.ray
def test_on_ray_the_same_bits_whatever_becomes_of_shared_memory(
    cluster: None, consortium: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    sites = {name: consortium[name] for name in ("north", "middle")}
    here = Federation(Keeps(), sites, tmp_path / "here", network=DEEP)
    assert here.begin().shared.nbytes >= shared_memory.SMALL
    rows, expected = everything(here, here.executor())
    there, before = replace(here, memory=tmp_path / "there"), None
    with ray_executor(there, cpus_per_site=0.5) as executor:
        for how in ("another node", "not opened", "killed"):
            executor.transport.close()
            executor.transport = SharedMemoryTransport(own := ray.get_runtime_context().get_node_id(), store_size(own))
            answers: list[bool] = []
            with monkeypatch.context() as patch:
                note: Callable[..., None] = executor.transport.note_node

                def noted(name: str, node: str, lost: bool, note: Callable[..., None] = note) -> None:
                    answers.append(lost)  # noqa: B023
                    note(name, node, lost)

                patch.setattr(executor.transport, "note_node", noted)
                lose(executor, how, patch)
                rows_there, found = everything(there, executor)
                buffers = (executor.transport.buffers._down, *executor.transport.buffers._up.values())
            assert found == expected, how
            assert [row["bytes_up"] for row in rows_there] == [row["bytes_up"] for row in rows]
            assert [row["bytes_down"] for row in rows_there] == [row["bytes_down"] for row in rows]
            assert (buffers == (None,)) == (how == "another node")
            assert sum(answers) == (2 if how == "not opened" else 0)
            assert rows_there[0]["restarts"] == (how == "killed")
            del buffers
            before = files() if before is None else before
    assert files() <= before


def test_what_the_driver_and_a_site_say_can_be_pickled() -> None:
    import pickle

    buffer = Buffer(4096, writable=True)
    packed = pack(request(1, 2), buffer.memory, buffer.handle)
    again = pickle.loads(pickle.dumps((packed, Unreachable("why"))))
    assert again[0].handle == Handle(*vars(buffer.handle).values())
    assert unpack(again[0], buffer.memory).shared.tolist() == [1, 2]
    assert again[1] == Unreachable("why")
