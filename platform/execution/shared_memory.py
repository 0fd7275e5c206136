"""Memory that the driver shares with the sites on its own node: mapped once, written again in every round.

Ray's store gives every request and every reply new memory pages, and a process pays for each page that it touches for
the first time. A buffer here is anonymous (``memfd_create``), and both sides keep it mapped. One buffer goes *down*: it
holds the vectors of the request, which every site reads. One buffer for each member goes *up*: it holds the vectors of
that member's reply. A buffer vanishes with the last process that maps it.

The driver makes every buffer. A site opens it through the driver's ``/proc/<pid>/fd``. If that fails (another node, a
container, no Linux), the site answers with :class:`Unreachable`, and the request goes through Ray's store.

The rules for writing: the driver writes *down* only while no call reads it (see :meth:`SharedBuffers.post`). A site
writes *up* only within a call, and the driver reads it after a fit has returned. A network whose parameters are all
shared has its memory there, so that a reply is no copy. So the vectors of a reply are valid until the member's next
call. A vector that is kept after the merge must own its memory (:meth:`State.owned`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import uuid
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.sites.errors import RunError, brief
from fedrecon.sites.wire import TrainReply, TrainRequest, Vector

SMALL = 1 << 20
"""Size of the vectors in bytes below which a message goes through Ray, because shared memory would save no time."""

ALIGNMENT = 64
"""Alignment in bytes: every vector starts on its own cache line."""

EMPTY = np.zeros(0, np.float32)


class SharedMemoryError(Exception):
    """A buffer cannot be made, opened or mapped here."""


@dataclass(frozen=True)
class Handle:
    """The address of a buffer.

    Attributes:
        process: process id of the driver.
        descriptor: file descriptor of the buffer in that process.
        size: size in bytes.
        name: unique name of the buffer.
    """

    process: int
    descriptor: int
    size: int
    name: str


@dataclass(frozen=True)
class PackedMessage:
    """A message whose vectors lie in a buffer.

    Attributes:
        message: copy of the message with empty vectors.
        lengths: number of values of ``shared``, then of each vector in ``extra``.
        handle: address of the buffer with the vectors.
        back: address of the buffer for the reply; None if the reply has no buffer.
    """

    message: Any
    lengths: tuple[int, ...]
    handle: Handle
    back: Handle | None = None


@dataclass(frozen=True)
class Unreachable:
    """A site's answer to a packed message whose buffer it cannot open. The site has not done anything yet."""

    reason: str


class Buffer:
    """A buffer that this process made.

    Attributes:
        handle: address by which a site opens the buffer, until ``close()``.
        memory: mapping in this process. It is never closed explicitly: it ends with the last vector that views it.

    Raises:
        SharedMemoryError: this system cannot make a buffer.
    """

    def __init__(self, size: int, writable: bool) -> None:
        if not hasattr(os, "memfd_create"):
            raise SharedMemoryError("this system has no memfd_create")
        name = f"fedrecon-{uuid.uuid4().hex}"
        try:
            descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise SharedMemoryError(str(error)) from error
        self.close = weakref.finalize(self, os.close, descriptor)
        self.handle = Handle(os.getpid(), descriptor, size, name)
        try:
            os.ftruncate(descriptor, size)
            # No process changes its size: one that reads behind the end of a file is killed (SIGBUS).
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self.memory = _mapped(descriptor, size, writable, at_once=writable)
        except OSError as error:
            self.close()
            raise SharedMemoryError(str(error)) from error


def opened(handle: Handle, writable: bool) -> mmap.mmap:
    """Maps a buffer of another process.

    Raises:
        SharedMemoryError: the buffer cannot be opened or mapped.
    """
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
    try:
        # The name is checked before opening: on another node the path may lead to any file.
        _check_name(f"/proc/{handle.process}/fd/{handle.descriptor}", handle)
        descriptor = os.open(f"/proc/{handle.process}/fd/{handle.descriptor}", flags)
        try:
            _check_name(f"/proc/self/fd/{descriptor}", handle)
            return _mapped(descriptor, handle.size, writable, at_once=not writable)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise SharedMemoryError(f"{type(error).__name__}: {error}") from error


def _check_name(link: str, handle: Handle) -> None:
    target = str(Path(link).readlink())
    if handle.name not in target:
        raise SharedMemoryError(f"{link} is another file")


def _mapped(descriptor: int, size: int, writable: bool, at_once: bool) -> mmap.mmap:
    # The request is written as a whole before it is read, so its pages come in one call instead of one fault for each.
    # Those of a reply come when the site writes them: it then gives back its network's first memory piece by piece.
    flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if at_once else 0)
    return mmap.mmap(descriptor, size, flags=flags, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))


def bytes_needed(message: TrainRequest | TrainReply) -> int:
    """Bytes that the vectors of a message take in a buffer; 0 if they are not all flat float32 vectors."""
    vectors = (message.shared, *message.extra.values())
    if any(not isinstance(v, np.ndarray) or v.ndim != 1 or v.dtype != np.float32 for v in vectors):
        return 0
    return sum(_room(len(value)) for value in vectors)


def pack(message: TrainRequest | TrainReply, memory: mmap.mmap, handle: Handle) -> PackedMessage:
    """Copies the vectors of ``message`` into ``memory``, the mapping of ``handle``, which must be large enough."""
    vectors = (message.shared, *message.extra.values())
    lengths = tuple(len(value) for value in vectors)
    for target, value in zip(_vectors(memory, lengths), vectors, strict=True):
        if target.ctypes.data != value.ctypes.data:  # a site may have trained where its reply lies
            np.copyto(target, value)
    return PackedMessage(replace(message, shared=EMPTY, extra=dict.fromkeys(message.extra, EMPTY)), lengths, handle)


def unpack(packed: PackedMessage, memory: mmap.mmap) -> Any:
    """The message with read-only views of ``memory`` as its vectors.

    Raises:
        RunError: it is no message with vectors, has other ones than its lengths say, or the memory cannot hold them.
    """
    message, lengths = packed.message, packed.lengths
    if type(message) not in (TrainRequest, TrainReply) or len(lengths) != 1 + len(message.extra):
        raise RunError(f"{brief(lengths)} are no lengths of the vectors of a {type(message).__name__}; refused")
    if any(type(one) is not int or one < 0 for one in lengths) or sum(map(_room, lengths)) > len(memory):
        raise RunError(f"{len(memory)} bytes of shared memory hold no vectors of {brief(lengths)} values; refused")
    shared, *extra = _vectors(memory, lengths)
    for value in (shared, *extra):
        value.flags.writeable = False
    return replace(message, shared=shared, extra=dict(zip(message.extra, extra, strict=True)))


def _vectors(memory: mmap.mmap, lengths: Sequence[int]) -> Iterator[Vector]:
    start = 0
    for length in lengths:
        yield np.frombuffer(memory, np.float32, length, start) if length else EMPTY.copy()
        start += _room(length)


def _room(length: int) -> int:
    return -(-4 * length // ALIGNMENT) * ALIGNMENT


class SharedBuffers:
    """The driver's buffers: one for the requests (down), and one for the replies of each member (up).

    Args:
        budget: limit in bytes for all buffers together. A message that needs more goes through Ray.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._down: Buffer | None = None
        self._up: dict[str, Buffer] = {}
        self._replies: dict[str, int] = {}
        self._under_way: set[object] = set()

    def post(self, request: TrainRequest) -> tuple[PackedMessage, object] | None:
        """Writes ``request`` into the buffer for requests.

        If an earlier caller ended without :meth:`done`, its calls may still read and write the old buffers. Then new
        buffers are made.

        Returns:
            the packed request and a token for :meth:`done`; None if the request must go through Ray.
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
        """Notes that all calls with the request of this token have ended."""
        self._under_way.discard(token)

    def reply_buffer(self, member: str, request: TrainRequest) -> Buffer | None:
        """The buffer for a member's reply, or None. It has the size of the last reply, at first of the request."""
        size = self._replies.get(member, bytes_needed(request))
        buffer = self._roomy(self._up.pop(member, None), size, writable=False) if size >= SMALL else None
        if buffer is not None:
            self._up[member] = buffer
        return buffer

    def replied(self, member: str, reply: TrainReply) -> None:
        """Notes the size of the member's reply, for its next buffer."""
        self._replies[member] = bytes_needed(reply)

    def drop(self, member: str) -> None:
        """Closes the reply buffer of a member that stays dead."""
        if buffer := self._up.pop(member, None):
            buffer.close()

    def close(self) -> None:
        """Closes every buffer. Vectors that are still views of a buffer keep its memory."""
        for buffer in (self._down, *self._up.values()):
            if buffer is not None:
                buffer.close()
        self._down, self._up = None, {}
        self._under_way.clear()

    def _roomy(self, old: Buffer | None, size: int, writable: bool) -> Buffer | None:
        """``old`` if it is large enough, else a new buffer; None if the budget or the system allows no buffer."""
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
    """A site's mappings of its buffers. A buffer is mapped at first use, and again when the driver made a new one."""

    def __init__(self) -> None:
        self._mapped: dict[bool, tuple[Handle, mmap.mmap]] = {}

    def receive(self, packed: PackedMessage) -> Any:
        """The message with read-only vectors.

        Raises:
            SharedMemoryError: the buffer cannot be opened.
        """
        return unpack(packed, self._memory(packed.handle, writable=False))

    def room(self, handle: Handle, length: int) -> Vector | None:
        """Writable memory for ``length`` values where the shared vector of a reply lies; None if there is none."""
        if 4 * length > handle.size:
            return None
        try:
            return np.frombuffer(self._memory(handle, writable=True), np.float32, length)
        except SharedMemoryError:
            return None

    def send(self, reply: Any, handle: Handle | None) -> Any:
        """The reply as a packed message; the reply itself if there is no buffer, or if it does not fit."""
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
