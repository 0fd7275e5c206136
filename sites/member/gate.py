"""The gate in the wall: the one way to a site's methods from outside, for actors and in one process alike."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

from fedrecon.sites.errors import RunError, brief, errors_at, listed, unknown
from fedrecon.sites.wire import METHODS, Description, Panels, Samples
from fedrecon.sites.wire_check import check_message

if TYPE_CHECKING:
    from fedrecon.sites.member.site import Site

Answer = TypeVar("Answer")

ECHOED = ("round", "split")
"""The fields of a call that its answer repeats, where it has them."""


def check_call(method: str, arguments: tuple[Any, ...]) -> None:
    """Refuses a call that is not in the list of the wire.

    Raises:
        RunError: an unknown method, an argument of another type, or one that may not cross.
    """
    if method not in METHODS:
        raise RunError(str(unknown("method of a site", method, METHODS)))
    takes = METHODS[method].takes
    if tuple(map(type, arguments)) != takes:
        given = ", ".join(type(one).__name__ for one in arguments) or "nothing"
        raise RunError(f"{method} takes {', '.join(one.__name__ for one in takes) or 'nothing'}, given {given}")
    for one in arguments:
        check_message(one)


def check_answer(
    method: str, arguments: tuple[Any, ...], answer: Any, member: str, shards: Collection[str] = ()
) -> Any:
    """The answer itself, if the method may return it to this call.

    Args:
        arguments: what the method was called with.
        member: the name of the member that was called.
        shards: the names of the member's own shards.

    Raises:
        RunError: it is of another type, round or split, bears the name of another member, tells of a shard that is not
            its own or was not asked for, or holds what may not cross.
    """
    returns = METHODS[method].returns
    if returns is None:
        if answer is not None:
            raise RunError(f"{method} returns nothing, and returned {type(answer).__name__}")
        return None
    check_sender(f"{method} of '{member}'", answer, returns, member)
    for one, name in product(arguments, ECHOED):
        if hasattr(one, name) and hasattr(answer, name):
            given, wanted = getattr(answer, name), getattr(one, name)
            if (type(given), given) != (type(wanted), wanted):
                raise RunError(f"{method} of '{member}' answered with {name} = {brief(given)} instead of {wanted!r}")
    told, own = _shards_of(answer, arguments, member, shards)
    if strange := [brief(one) for one in told if one not in own]:
        raise RunError(f"{method} of '{member}' answered for {listed(strange)}; asked for: {listed(own) or 'nothing'}")
    return answer


def check_sender(what: str, answer: Any, kind: type[Answer], member: str) -> Answer:
    """The answer itself, if it is of this kind, in the name of this member, and may cross the wall.

    Args:
        what: the method or the task that answers, for the message.

    Raises:
        RunError: it is not.
    """
    if type(answer) is not kind:
        raise RunError(f"{what} returns {kind.__name__}, and returned {type(answer).__name__}")
    if (site := getattr(answer, "site", member)) != member:
        raise RunError(f"{what} answered with the name {brief(site)} instead of its own")
    return check_message(answer)


def check_remote(answer: Any, kind: type[Answer], member: str) -> Answer:
    """The answer itself, if a task on the node of this member may return it; see :func:`check_sender`.

    Raises:
        RunError: it may not; the message names the member.
    """
    with errors_at(member):
        return check_sender("the task on its node", answer, kind, member)


def _shards_of(
    answer: Any, arguments: tuple[Any, ...], member: str, shards: Collection[str]
) -> tuple[Collection[str], Collection[str]]:
    """The names under which an answer tells of shards, and those under which it may."""
    if isinstance(answer, Samples):  # the images of a member are drawn for all its shards together
        return answer.pictures, (member,)
    if isinstance(answer, Panels):
        return answer.pictures, [one for one in shards if one in (arguments[-1].sites or shards)]
    return (answer.shards, shards) if isinstance(answer, Description) else ((), ())


def call(site: Site, method: str, arguments: tuple[Any, ...]) -> Any:
    """Calls a method of a site through the gate.

    Raises:
        RunError: the call or the answer is not in the list of the wire, or a shard changed before or during the call.
    """
    check_call(method, arguments)
    site.check_shards()
    answer = getattr(site, method)(*arguments)
    site.check_shards()
    return check_answer(method, arguments, answer, site.name, site.shards)
