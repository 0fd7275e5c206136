"""The gate in the wall: the one way to a site's methods from outside, for actors and in one process alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedrecon.sites.errors import RunError, unknown
from fedrecon.sites.wire import METHODS
from fedrecon.sites.wire_check import check_message

if TYPE_CHECKING:
    from fedrecon.sites.member.site import Site


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


def check_answer(method: str, answer: Any, member: str) -> Any:
    """The answer itself, if the method may return it.

    Args:
        member: the name of the member that was called.

    Raises:
        RunError: it is of another type, bears the name of another member, or holds what may not cross.
    """
    returns = METHODS[method].returns
    if returns is None:
        if answer is not None:
            raise RunError(f"{method} returns nothing, and returned {type(answer).__name__}")
        return None
    if type(answer) is not returns:
        raise RunError(f"{method} returns {returns.__name__}, and returned {type(answer).__name__}")
    if (site := getattr(answer, "site", member)) != member:
        raise RunError(f"{method} of '{member}' answered with the name '{site}' instead of its own")
    return check_message(answer)


def call(site: Site, method: str, arguments: tuple[Any, ...]) -> Any:
    """Calls a method of a site through the gate.

    Raises:
        RunError: the call or the answer is not in the list of the wire, or a shard changed before or during the call.
    """
    check_call(method, arguments)
    site.check_shards()
    answer = getattr(site, method)(*arguments)
    site.check_shards()
    return check_answer(method, answer, site.name)
