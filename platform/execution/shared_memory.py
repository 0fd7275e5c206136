"""Memory that the driver shares with the sites on its own node: mapped once, written anew every round.

Ray's store gives every request and every reply a new place, and a process pays for each memory page that it touches for
the first time. A buffer here is anonymous (``memfd_create``), and both sides keep it mapped. One buffer goes *down*: it
holds the vectors of the request, which every site reads. One buffer for each member goes *up*: it holds the vectors of
that member's reply. A buffer vanishes with the last process that maps it.

The driver makes every buffer. A site opens it through the driver's ``/proc/<pid>/fd``. Where that fails (another node,
a container, no Linux) the site answers with :class:`Unreachable`, and the request goes through Ray's store.

Who may write when: the driver writes *down* only while no call reads it (see :meth:`SharedBuffers.post`). A site writes
*up* only within a fit, and the driver reads it after that call has returned. So the vectors of a reply are good until
the member's next fit. What outlives the merge must own its memory (:meth:`State.owned`).
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

from fedrecon.sites.wire import TrainReply, TrainRequest, Vector

SMALL = 1 << 20
"""Bytes of vectors below which a message goes through Ray: the lane would save nothing."""

ALIGNMENT = 64
"""Bytes: every vector starts on a cache line of its own."""

EMPTY = np.zeros(0, np.float32)


class SharedMemoryError(Exception):
    """A buffer cannot be made, opened or mapped here."""


@dataclass(frozen=True)
class Handle:
    """Where a buffer is found: the driver's process and descriptor; size in bytes; a name that no other buffer has."""

    process: int
    descriptor: int
    size: int
    name: str


@dataclass(frozen=True)
class PackedMessage:
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
class Unreachable:
    """A site's answer to a parcel that it cannot open; nothing has been done yet."""

    reason: str


class Buffer:
    """A buffer that this process made.

    Attributes:
        handle: by which a site finds it, until ``close()``.
        memory: the mapping here. Never closed by hand: it goes when the last vector that looks at it goes.

    Raises:
        SharedMemoryError: this system makes none.
    """

    def __init__(self, size: int, writable: bool) -> None:
        if not hasattr(os, "memfd_create"):
            raise SharedMemoryError("this system has no memfd_create")
        name = f"fedrecon-{uuid.uuid4().hex}"
        try:
            descriptor = os.memfd_create(name)
        except OSError as error:
            raise SharedMemoryError(str(error)) from error
        self.close = weakref.finalize(self, os.close, descriptor)
        self.handle = Handle(os.getpid(), descriptor, size, name)
        try:
            os.ftruncate(descriptor, size)
            self.memory = _mapped(descriptor, size, writable)
        except OSError as error:
            self.close()
            raise SharedMemoryError(str(error)) from error


def opened(handle: Handle, writable: bool) -> mmap.mmap:
    """The mapping of another process's buffer; SharedMemoryError where it cannot be had."""
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
        raise SharedMemoryError(f"{type(error).__name__}: {error}") from error


def _check_name(link: str, handle: Handle) -> None:
    target = str(Path(link).readlink())
    if handle.name not in target:
        raise SharedMemoryError(f"{link} is another file")


def _mapped(descriptor: int, size: int, writable: bool) -> mmap.mmap:
    # Populated at once: one call instead of a fault for each page.
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=protection)


def bytes_needed(message: TrainRequest | TrainReply) -> int:
    """Room that the vectors of a message take in a buffer; 0 where they are no flat float32 vectors."""
    vectors = (message.shared, *message.extra.values())
    if any(not isinstance(v, np.ndarray) or v.ndim != 1 or v.dtype != np.float32 for v in vectors):
        return 0
    return sum(_room(len(value)) for value in vectors)


def pack(message: TrainRequest | TrainReply, memory: mmap.mmap, handle: Handle) -> PackedMessage:
    """Copies the vectors of ``message`` into ``memory``, which is of ``handle`` and has the room."""
    vectors = (message.shared, *message.extra.values())
    lengths = tuple(len(value) for value in vectors)
    for target, value in zip(_vectors(memory, lengths), vectors, strict=True):
        np.copyto(target, value)
    return PackedMessage(replace(message, shared=EMPTY, extra=dict.fromkeys(message.extra, EMPTY)), lengths, handle)


def unpack(parcel: PackedMessage, memory: mmap.mmap) -> Any:
    """The message with read-only views of ``memory`` as its vectors."""
    shared, *extra = _vectors(memory, parcel.lengths)
    for value in (shared, *extra):
        value.flags.writeable = False
    return replace(parcel.message, shared=shared, extra=dict(zip(parcel.message.extra, extra, strict=True)))


def _vectors(memory: mmap.mmap, lengths: Sequence[int]) -> Iterator[Vector]:
    start = 0
    for length in lengths:
        yield np.frombuffer(memory, np.float32, length, start) if length else EMPTY.copy()
        start += _room(length)


def _room(length: int) -> int:
    return -(-4 * length // ALIGNMENT) * ALIGNMENT


class SharedBuffers:
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

    def post(self, request: TrainRequest) -> tuple[PackedMessage, object] | None:
        """Writes ``order`` down and returns it with a token to give to :meth:`done`; None where it goes through Ray.

        Calls whose caller went away before :meth:`done` may still read and write the old buffers, so new ones are made.
        """
        size = bytes_needed(request)
        if size < SMALL:
            return None
        if self._under_way:
            self.close()
        self._down = self._roomy(self._down, size, writable=True)
        if self._down is None:
            return None
        token = object()
        self._under_way.add(token)
        return pack(request, self._down.memory, self._down.handle), token

    def done(self, token: object) -> None:
        """All calls that were given this order have ended."""
        self._under_way.discard(token)

    def reply_buffer(self, member: str, request: TrainRequest) -> Buffer | None:
        """The buffer for a member's reply: of the size of its last one, before that of the order."""
        size = self._replies.get(member, bytes_needed(request))
        buffer = self._roomy(self._up.pop(member, None), size, writable=False) if size >= SMALL else None
        if buffer is not None:
            self._up[member] = buffer
        return buffer

    def replied(self, member: str, reply: TrainReply) -> None:
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
        except SharedMemoryError:
            return None


class SiteEndpoint:
    """A site's ends of the lanes: each mapped at first use, and again when the driver made a new buffer."""

    def __init__(self) -> None:
        self._mapped: dict[bool, tuple[Handle, mmap.mmap]] = {}

    def receive(self, parcel: PackedMessage) -> Any:
        """The message, with read-only vectors; SharedMemoryError where the buffer cannot be opened."""
        return unpack(parcel, self._memory(parcel.handle, writable=False))

    def send(self, reply: Any, handle: Handle | None) -> Any:
        """The reply as a parcel, or as it is where there is no lane or no room in it."""
        if handle is None or not isinstance(reply, TrainReply) or not SMALL <= bytes_needed(reply) <= handle.size:
            return reply
        try:
            return pack(reply, self._memory(handle, writable=True), handle)
        except SharedMemoryError:
            return reply

    def _memory(self, handle: Handle, writable: bool) -> mmap.mmap:
        known = self._mapped.pop(writable, None)
        if known is None or known[0] != handle:
            known = handle, opened(handle, writable)
        self._mapped[writable] = known
        return known[1]
