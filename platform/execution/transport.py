"""How requests travel to the members of a federation, and how their replies come back.

:class:`RayStoreTransport` puts a request into Ray's object store once for all members. :class:`SharedMemoryTransport`
writes it into memory that the driver shares with the sites on its own node, and uses Ray's store for all others.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from fedrecon.platform.execution.lost_ray import put
from fedrecon.platform.execution.shared_memory import Buffer, PackedMessage, SharedBuffers, unpack
from fedrecon.sites.errors import RunError
from fedrecon.sites.wire import TrainReply, TrainRequest

Arguments = tuple[Any, ...]
"""The arguments of a site's method. At most one of them is a request."""


class Delivery(Protocol):
    """The arguments of one call that is made at every member."""

    def arguments(self, member: str) -> Arguments:
        """The arguments to send to the member, for the first time or again."""
        ...

    def received(self, member: str, answer: Any) -> Any:
        """The member's answer. Its vectors may be views that are valid until the member's next call.

        Raises:
            RunError: it says that its vectors lie where they cannot.
        """
        ...

    def close(self) -> None:
        """Ends the delivery, after every member has answered."""
        ...


class Transport(Protocol):
    """Sends requests to members and takes their answers."""

    def send(self, method: str, arguments: Arguments) -> Delivery:
        """Prepares one call of a site's method."""
        ...

    def note_node(self, member: str, node: str, unreachable: bool) -> None:
        """Notes the Ray node of the member. ``unreachable``: the member could not open the sent buffer."""
        ...

    def drop(self, member: str) -> None:
        """Releases the memory of a member that stays dead."""
        ...

    def close(self) -> None:
        """Releases all memory."""
        ...


MakeTransport = Callable[[str, int], Transport]
"""Makes a transport from the driver's Ray node id and the size of that node's object store in bytes."""


class Stored:
    """A request in Ray's store, put there once for all members and for all calls with the same request.

    What differs from member to member is left out: it travels with the call.
    Each node that reads it keeps a copy, from which Ray serves other nodes too. It is released with the request.
    """

    def __init__(self) -> None:
        self._of: weakref.ref[TrainRequest] | None = None
        self._reference: Any = None

    def put(self, request: TrainRequest) -> Any:
        """The reference of the request."""
        if self._of is None or self._of() is not request:
            self._reference, self._of = put(request.of()), weakref.ref(request, self._release)
        return self._reference

    def _release(self, gone: weakref.ref[TrainRequest]) -> None:
        if gone is self._of:
            self._of = self._reference = None


class RayStoreTransport:
    """Every request goes through Ray's object store, and so does every reply."""

    def __init__(self, node: str = "", store_size: int = 0) -> None:
        del node, store_size
        self._stored = Stored()

    def send(self, method: str, arguments: Arguments) -> Delivery:
        """See :class:`Transport`."""
        del method
        return _StoreDelivery(arguments, self._stored)

    def note_node(self, member: str, node: str, unreachable: bool) -> None:
        """See :class:`Transport`."""

    def drop(self, member: str) -> None:
        """See :class:`Transport`."""

    def close(self) -> None:
        """See :class:`Transport`."""


class _StoreDelivery:
    """One object in Ray's store for all members."""

    def __init__(self, arguments: Arguments, stored: Stored) -> None:
        self._given, self._stored = arguments, stored

    def arguments(self, member: str) -> Arguments:
        del member
        return tuple(self._stored.put(one) if isinstance(one, TrainRequest) else one for one in self._given)

    def received(self, member: str, answer: Any) -> Any:
        del member
        return answer

    def close(self) -> None:
        pass


class SharedMemoryTransport:
    """Requests and replies of sites on the driver's node go through shared memory, all others through Ray's store.

    Args:
        node: id of the driver's Ray node.
        store_size: limit in bytes for all buffers together.
    """

    def __init__(self, node: str, store_size: int) -> None:
        self.node, self.buffers = node, SharedBuffers(store_size)
        self.near = set[str]()
        """Members that can use shared memory now."""
        self._refused = set[str]()
        self.stored = Stored()

    def send(self, method: str, arguments: Arguments) -> Delivery:
        """See :class:`Transport`."""
        return _SharedDelivery(self, method, arguments)

    def note_node(self, member: str, node: str, unreachable: bool) -> None:
        """See :class:`Transport`. After a member could not open a buffer, its messages go through Ray's store."""
        if unreachable:
            self._refused.add(member)
        near = node == self.node and member not in self._refused
        (self.near.add if near else self.near.discard)(member)

    def drop(self, member: str) -> None:
        """See :class:`Transport`."""
        self.near.discard(member)
        self.buffers.drop(member)

    def close(self) -> None:
        """See :class:`Transport`."""
        self.buffers.close()


class _SharedDelivery:
    """One buffer for the request. A fit has one more buffer for each member's reply."""

    def __init__(self, transport: SharedMemoryTransport, method: str, arguments: Arguments) -> None:
        self._transport, self._method, self._given = transport, method, arguments
        self._by_store = _StoreDelivery(arguments, transport.stored)
        self._request = next((one for one in arguments if isinstance(one, TrainRequest)), None)
        self._reply_buffers: dict[str, Buffer] = {}
        if self._request is None or not transport.near:
            self._posted = None
        else:
            self._posted = transport.buffers.post(self._request.of())

    def arguments(self, member: str) -> Arguments:
        if self._posted is None or member not in self._transport.near:
            return self._by_store.arguments(member)
        packed = self._posted[0]
        if self._method == "fit" and member not in self._reply_buffers and self._request is not None:
            buffer = self._transport.buffers.reply_buffer(member, self._request)
            if buffer is not None:
                self._reply_buffers[member] = buffer
        if member in self._reply_buffers:
            packed = replace(packed, back=self._reply_buffers[member].handle)
        return tuple(packed if isinstance(one, TrainRequest) else one for one in self._given)

    def received(self, member: str, answer: Any) -> Any:
        if isinstance(answer, PackedMessage):
            if member not in self._reply_buffers:
                raise RunError("answered in shared memory that it was not given; refused")
            answer = unpack(answer, self._reply_buffers[member].memory)
        if isinstance(answer, TrainReply):
            self._transport.buffers.replied(member, answer)
        return answer

    def close(self) -> None:
        if self._posted is not None:
            self._transport.buffers.done(self._posted[1])
