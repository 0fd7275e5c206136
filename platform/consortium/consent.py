"""The sites that agreed to publish their private part of the network, and the rules that need such parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedrecon.platform.config.transfer import UNSEEN_RULES
from fedrecon.sites.errors import InputError, listed, unknown

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.sites.data.shard import Shard

EPOCHS = 5
"""The default number of epochs of a local fine-tune."""


@dataclass(frozen=True)
class UnseenPolicy:
    """The user's choice for sites that did not train (unseen sites).

    Attributes:
        rule: name of :data:`UNSEEN_RULES`, or None. Without a rule an unseen site that needs a private part is refused.
        published: members that agreed that their private part of the network may leave them.
        epochs: number of epochs of a fine-tune.
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
        """The policy, checked against a run.

        Args:
            members: members with a private part of the network.
            consented: members that agreed to publish their part, by ``publish_private`` of the run's experiment.
            rule: see :class:`UnseenPolicy`.
            published: further members that agreed.
            epochs: number of epochs of a fine-tune; None takes :data:`EPOCHS`.

        Raises:
            InputError: a rule or a site is unknown, the run shares its whole network and needs no rule, or a number of
                epochs is given that is less than 1 or acts on nothing.
        """
        if rule is not None and rule not in UNSEEN_RULES:
            raise unknown("rule for unseen sites", rule, UNSEEN_RULES)
        if rule not in (None, "fine-tune") and not members:
            raise InputError(
                f"--unseen {rule}: this run shares its whole network, so an unseen site needs no rule but fine-tune."
            )
        if epochs is not None and rule != "fine-tune":
            raise InputError(
                f"--fine-tune-epochs {epochs} acts with --unseen fine-tune alone (given: {rule or 'no rule'})"
            )
        if epochs is not None and epochs < 1:
            raise InputError(f"--fine-tune-epochs must be at least 1, given {epochs}")
        given = cls.named(consented, members)
        given += cls.named(published, members)
        return cls(rule, tuple(one for one in members if one in given), epochs or EPOCHS)

    @staticmethod
    def named(given: str | Sequence[str], members: Sequence[str]) -> tuple[str, ...]:
        """The names of the members in ``given``, which is a list of names or ``all``.

        Raises:
            InputError: a name is not the name of a member.
        """
        names = members if given == "all" or list(given) == ["all"] else given
        for name in names:
            if name not in members:
                raise unknown("site that publishes its private part", name, members)
        return tuple(names)


def consented(publish_private: str | Sequence[str], member: str) -> bool:
    """Whether a member agreed, by the key ``publish_private``, that its private part may leave it."""
    return publish_private == "all" or member in publish_private


def what_leaves(experiment: Experiment, shards: Mapping[str, Shard]) -> Iterator[str]:
    """What is said once at the start: which sites are pictured, and whose subjects keep their ids.

    The test of a trained network draws no picture, and says nothing of them.
    """
    if experiment.test is None:
        drawn = [name for name, shard in shards.items() if experiment.evaluation.draws(shard.origin)]
        key = f"evaluation.panels: {str(experiment.evaluation.panels).lower()}"
        yield f"pictures of {listed(drawn)} leave their sites ({key})" if drawn else f"no picture leaves a site ({key})"
    plain = [name for name, shard in shards.items() if not shard.pseudonym_key]
    if plain:
        yield f"subjects of {listed(plain)} keep the ids that their shards hold (imported without a key)"


def check_tunable(experiment: Experiment) -> None:
    """Refuses a fine-tune where no network that reconstructs was trained.

    Raises:
        InputError: the message names the reconstructor or the strategy.
    """
    if not experiment.trains:
        raise InputError(f"fine-tune: '{experiment.reconstructor['name']}' has no network to train")
    if experiment.method.is_prior:
        raise InputError(
            f"fine-tune: '{experiment.strategy['name']}' trains a prior, which adapts to each slice at any site"
        )


def check_published(rule: str | None, members: Sequence[str], published: Sequence[str]) -> None:
    """Refuses a rule if too few sites agreed to publish their private part of the network.

    Args:
        rule: rule for the unseen sites; None if each member has a whole network of its own and all of these networks
            are tested at the unseen sites.
        members: members with a private part.
        published: members that agreed.

    Raises:
        InputError: the message names the sites that did not agree, and the key for an agreement.
    """
    how = "A site agrees in the experiment (publish_private: [NAME, ...] or all) or by --published."
    missing = [one for one in members if one not in published]
    wanted = {"average": "the average of the private parts", None: "a test of each site's own network at other sites"}
    if rule in wanted and missing:
        raise InputError(
            f"{wanted[rule]} needs the agreement of every site to publish its private part. "
            f"No agreement: {', '.join(missing)}. {how}"
        )
    if rule == "nearest" and not published:
        raise InputError(f"the rule nearest needs a site that agreed to publish its private part. {how}")
