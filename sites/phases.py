"""What the work is at, for a person who waits. A library says it here; whoever has a screen shows it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

Item = TypeVar("Item")

Step = Callable[[], None]
"""Is called once for each piece that is done."""

Shown = Callable[[str, int], AbstractContextManager[Step]]
"""Shows a phase while its body runs: from its text and the number of its pieces, 0 if it has no count."""

_SHOWN: list[Shown] = []
"""Who shows phases; the last one does. All threads of a process share one screen."""


def phase(text: str, total: int = 0) -> AbstractContextManager[Step]:
    """A phase of the work, such as ``drawing panels``, as long as the body runs.

    Args:
        text: what is done, without the count.
        total: number of pieces; the body calls what it is given for each piece that is done.
    """
    return _SHOWN[-1](text, total) if _SHOWN else nullcontext(lambda: None)


def counted(text: str, items: Collection[Item]) -> Iterator[Item]:
    """The items, one by one, as a phase that counts them. An item is done when the next one is asked for."""
    with phase(text, len(items)) as done:
        yield from told(items, done)


def told(items: Iterable[Item], done: Step) -> Iterator[Item]:
    """The items, one by one; ``done`` is called when the next one is asked for."""
    for item in items:
        yield item
        done()


@contextmanager
def shown_by(show: Shown) -> Iterator[None]:
    """Within it the phases are shown by ``show``."""
    _SHOWN.append(show)
    try:
        yield
    finally:
        _SHOWN.remove(show)
