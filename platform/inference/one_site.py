"""One site behind its gate, with the methods that a scorer calls. What crosses is noted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedrecon.platform.execution.wire_log import WireLog
from fedrecon.sites.wire import ScoreTask, addressed

if TYPE_CHECKING:
    from fedrecon.sites.member.site import Site
    from fedrecon.sites.wire import Scores, TrainRequest


class OneSite:
    """A site in this process, reached as an actor is: through the gate, and with a record.

    Args:
        name: the hospital whose wall the messages cross; the record names it. The site itself may bear the name of
            the network that it reconstructs with: another member's, or a rule's label.
        wire_log: record of the messages; None makes one in memory.
    """

    def __init__(self, site: Site, name: str, wire_log: WireLog | None = None) -> None:
        self.site, self.name, self.members = site, name, (site.name,)
        self._wire_log = wire_log or WireLog()

    def evaluate(self, request: TrainRequest, split: str, part: int | None = None) -> list[Scores]:
        """The scores of one split, or of one batch of it."""
        return [self.call("evaluate", request, ScoreTask(split, part))]

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the site.

        Raises:
            RunError: see :func:`fedrecon.sites.member.gate.call`.
        """
        from fedrecon.sites.member.gate import call

        self._wire_log.sent((self.name,), arguments)
        answer = call(self.site, method, tuple(addressed(one, self.site.name) for one in arguments))
        self._wire_log.received(self.name, answer)
        return answer
