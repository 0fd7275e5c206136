"""Which sites agreed that their private part of the network may leave them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrecon.platform.config.transfer import UNSEEN_RULES
from fedrecon.sites.errors import InputError, unknown

EPOCHS = 5
"""Of a local fine-tune, unless another number is asked for."""


@dataclass(frozen=True)
class UnseenPolicy:
    """What the user says of sites that did not train.

    Attributes:
        rule: a name of :data:`RULES`, or None: then an unseen site that needs a private part is refused.
        published: members that agreed that their private part may leave them.
        epochs: of a fine-tune.
    """

    rule: str | None = None
    published: tuple[str, ...] = ()
    epochs: int = EPOCHS

    @classmethod
    def of(
        cls,
        members: Sequence[str],
        consented: str | Sequence[str],
        rule: str | None,
        published: Sequence[str] = (),
        epochs: int | None = None,
    ) -> UnseenPolicy:
        """Checked against a run; ``published`` adds to what its experiment says.

        Raises:
            InputError: an unknown rule or site, or a rule where there is nothing to choose.
        """
        if rule is not None and rule not in UNSEEN_RULES:
            raise unknown("rule for unseen sites", rule, UNSEEN_RULES)
        if rule is not None and not members:
            raise InputError("--unseen: this run shares its whole network, so an unseen site needs no rule.")
        if epochs is not None and epochs < 1:
            raise InputError(f"--fine-tune-epochs must be at least 1, given {epochs}")
        given = cls.named(consented, members)
        given += cls.named(published, members)
        return cls(rule, tuple(one for one in members if one in given), epochs or EPOCHS)

    @staticmethod
    def named(given: str | Sequence[str], members: Sequence[str]) -> tuple[str, ...]:
        """The members that ``all`` or a list names.

        Raises:
            InputError: an unknown one.
        """
        names = members if given == "all" or list(given) == ["all"] else given
        for name in names:
            if name not in members:
                raise unknown("site among those that publish their private part", name, members)
        return tuple(names)


def consented(publish_private: str | Sequence[str], member: str) -> bool:
    """Whether a member agreed that its private part may leave it (the key ``publish_private``)."""
    return publish_private == "all" or member in publish_private


def check_published(rule: str | None, members: Sequence[str], published: Sequence[str]) -> None:
    """Refuses a rule for which too few sites agreed to publish their private part.

    Args:
        rule: None where each site has a network of its own, and each of them reconstructs.

    Raises:
        InputError: says who did not, and how to say so.
    """
    how = "Say so in the experiment (publish_private: [NAME, ...] or all) or by --published."
    missing = [one for one in members if one not in published]
    wanted = {"average": "the average of the private parts", None: "a test of each site's own network elsewhere"}
    if rule in wanted and missing:
        raise InputError(
            f"{wanted[rule]} needs that every site agreed to publish its own; not so: {', '.join(missing)}. {how}"
        )
    if rule == "nearest" and not published:
        raise InputError(f"the nearest site's private part needs that some site agreed to publish its own. {how}")
