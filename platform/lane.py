"""Memory that the driver shares with the sites on its own node: mapped once, written anew every round.

Ray's store gives every order and every reply a new place, and a process that has not touched a place before pays for
each of its pages. A lane is one anonymous buffer (``memfd_create``) that both sides keep mapped: *down* for the vectors
of the order, which every site reads, and *up* for those of one member's reply. It vanishes with its last process.

The driver makes every buffer; a site opens it through the driver's ``/proc/<pid>/fd``. Where that fails (another node,
a container, no Linux) the answer is :class:`Lost` or a plain reply, and the crew goes the way through Ray.

Who may write when: the driver writes *down* only while no call that reads it is under way (see :meth:`Lanes.post`); a
site writes *up* only within a fit, and the driver reads it after that call has returned. So the vectors of a reply are
good until the member's next fit, and what outlives the merge must own its memory (:meth:`State.owned`).
"""

from __future__ import annotations

import mmap
import os
import uuid
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.sites.wire import Order, Reply, Vector

SMALL = 1 << 20
"""Bytes of vectors below which a message goes through Ray: the lane would save nothing."""

ALIGNMENT = 64
"""Bytes: every vector starts on a cache line of its own."""

EMPTY = np.zeros(0, np.float32)


class LaneError(Exception):
    """A buffer cannot be made, opened or mapped here."""


@dataclass(frozen=True)
class Handle:
    """Where a buffer is found: the driver's process and descriptor; size in bytes; a name that no other buffer has."""

    process: int
    descriptor: int
    size: int
    name: str


@dataclass(frozen=True)
class Parcel:
    """A message whose vectors lie in a buffer.

    Attributes:
        message: with empty vectors in place of its own. lengths: values of ``shared``, then of each ``extra``.
        handle: the buffer. back: the buffer for the reply, where one is wanted.
    """

    message: Any
    lengths: tuple[int, ...]
    handle: Handle
    back: Handle | None = None


@dataclass(frozen=True)
class Lost:
    """A site's answer to a parcel that it cannot open; nothing has been done yet."""

    reason: str


class Buffer:
    """A buffer that this process made.

    Attributes:
        handle: by which a site finds it, until ``close()``.
        memory: the mapping here. Never closed by hand: it goes when the last vector that looks at it goes.

    Raises:
        LaneError: this system makes none.
    """

    def __init__(self, size: int, writable: bool) -> None:
        if not hasattr(os, "memfd_create"):
            raise LaneError("this system has no memfd_create")
        name = f"fedrecon-{uuid.uuid4().hex}"
        try:
            descriptor = os.memfd_create(name)
        except OSError as error:
            raise LaneError(str(error)) from error
        self.close = weakref.finalize(self, os.close, descriptor)
        self.handle = Handle(os.getpid(), descriptor, size, name)
        try:
            os.ftruncate(descriptor, size)
            self.memory = _mapped(descriptor, size, writable)
        except OSError as error:
            self.close()
            raise LaneError(str(error)) from error


def opened(handle: Handle, writable: bool) -> mmap.mmap:
    """The mapping of another process's buffer; LaneError where it cannot be had."""
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
    try:
        # Looked at before it is opened: on another node the path may lead to anybody's file.
        _check_name(f"/proc/{handle.process}/fd/{handle.descriptor}", handle)
        descriptor = os.open(f"/proc/{handle.process}/fd/{handle.descriptor}", flags)
        try:
            _check_name(f"/proc/self/fd/{descriptor}", handle)
            return _mapped(descriptor, handle.size, writable)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise LaneError(f"{type(error).__name__}: {error}") from error


def _check_name(link: str, handle: Handle) -> None:
    target = str(Path(link).readlink())
    if handle.name not in target:
        raise LaneError(f"{link} is another file")


def _mapped(descriptor: int, size: int, writable: bool) -> mmap.mmap:
    # Populated at once: one call instead of a fault for each page.
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=protection)


def bytes_needed(message: Order | Reply) -> int:
    """Room that the vectors of a message take in a buffer; 0 where they are no flat float32 vectors."""
    vectors = (message.shared, *message.extra.values())
    if any(not isinstance(v, np.ndarray) or v.ndim != 1 or v.dtype != np.float32 for v in vectors):
        return 0
    return sum(_room(len(value)) for value in vectors)


def pack(message: Order | Reply, memory: mmap.mmap, handle: Handle) -> Parcel:
    """Copies the vectors of ``message`` into ``memory``, which is of ``handle`` and has the room."""
    vectors = (message.shared, *message.extra.values())
    lengths = tuple(len(value) for value in vectors)
    for place, value in zip(_places(memory, lengths), vectors, strict=True):
        np.copyto(place, value)
    return Parcel(replace(message, shared=EMPTY, extra=dict.fromkeys(message.extra, EMPTY)), lengths, handle)


def unpack(parcel: Parcel, memory: mmap.mmap) -> Any:
    """The message with read-only views of ``memory`` as its vectors."""
    shared, *extra = _places(memory, parcel.lengths)
    for value in (shared, *extra):
        value.flags.writeable = False
    return replace(parcel.message, shared=shared, extra=dict(zip(parcel.message.extra, extra, strict=True)))


def _places(memory: mmap.mmap, lengths: Sequence[int]) -> Iterator[Vector]:
    start = 0
    for length in lengths:
        yield np.frombuffer(memory, np.float32, length, start) if length else EMPTY.copy()
        start += _room(length)


def _room(length: int) -> int:
    return -(-4 * length // ALIGNMENT) * ALIGNMENT


class Lanes:
    """The driver's buffers: one down, one up for each member.

    Args:
        budget: bytes that all of them together may take; beyond it messages go through Ray.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._down: Buffer | None = None
        self._up: dict[str, Buffer] = {}
        self._replies: dict[str, int] = {}
        self._under_way: set[object] = set()

    def post(self, order: Order) -> tuple[Parcel, object] | None:
        """Writes ``order`` down and returns it with a token to give to :meth:`done`; None where it goes through Ray.

        Calls whose caller went away before :meth:`done` may still read and write the old buffers, so new ones are made.
        """
        size = bytes_needed(order)
        if size < SMALL:
            return None
        if self._under_way:
            self.close()
        self._down = self._roomy(self._down, size, writable=True)
        if self._down is None:
            return None
        token = object()
        self._under_way.add(token)
        return pack(order, self._down.memory, self._down.handle), token

    def done(self, token: object) -> None:
        """All calls that were given this order have ended."""
        self._under_way.discard(token)

    def back(self, member: str, order: Order) -> Buffer | None:
        """The buffer for a member's reply: of the size of its last one, before that of the order."""
        size = self._replies.get(member, bytes_needed(order))
        buffer = self._roomy(self._up.pop(member, None), size, writable=False) if size >= SMALL else None
        if buffer is not None:
            self._up[member] = buffer
        return buffer

    def replied(self, member: str, reply: Reply) -> None:
        """Notes what room the member's replies need."""
        self._replies[member] = bytes_needed(reply)

    def drop(self, member: str) -> None:
        """The member is gone for good."""
        if buffer := self._up.pop(member, None):
            buffer.close()

    def close(self) -> None:
        """Closes every buffer; vectors that still look at one keep its memory."""
        for buffer in (self._down, *self._up.values()):
            if buffer is not None:
                buffer.close()
        self._down, self._up = None, {}
        self._under_way.clear()

    def _roomy(self, old: Buffer | None, size: int, writable: bool) -> Buffer | None:
        """``old`` if it has the room, else a new one within the budget."""
        if old is not None and old.handle.size >= size:
            return old
        if old is not None:
            old.close()
        buffers = (self._down, *self._up.values())
        taken = sum(one.handle.size for one in buffers if one is not None and one is not old)
        if taken + size > self.budget:
            return None
        try:
            return Buffer(size, writable)
        except LaneError:
            return None


class Ends:
    """A site's ends of the lanes: each mapped at first use, and again when the driver made a new buffer."""

    def __init__(self) -> None:
        self._mapped: dict[bool, tuple[Handle, mmap.mmap]] = {}

    def receive(self, parcel: Parcel) -> Any:
        """The message, with read-only vectors; LaneError where the buffer cannot be opened."""
        return unpack(parcel, self._memory(parcel.handle, writable=False))

    def send(self, reply: Any, handle: Handle | None) -> Any:
        """The reply as a parcel, or as it is where there is no lane or no room in it."""
        if handle is None or not isinstance(reply, Reply) or not SMALL <= bytes_needed(reply) <= handle.size:
            return reply
        try:
            return pack(reply, self._memory(handle, writable=True), handle)
        except LaneError:
            return reply

    def _memory(self, handle: Handle, writable: bool) -> mmap.mmap:
        known = self._mapped.pop(writable, None)
        if known is None or known[0] != handle:
            known = handle, opened(handle, writable)
        self._mapped[writable] = known
        return known[1]
