"""Which private part reconstructs at a site that never trained: rules that are named in the result, never a guess."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedrecon.platform.cohort import check_patch
from fedrecon.sites.errors import InputError, unknown

if TYPE_CHECKING:
    from fedrecon.platform.trained import Trained
    from fedrecon.sites.acquisition import Acquisition
    from fedrecon.sites.shard import Shard
    from fedrecon.sites.site import Site

EPOCHS = 5
"""Of a local fine-tune, unless another number is asked for."""

Private = Mapping[str, Any]


@dataclass(frozen=True)
class Unseen:
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
    def of(cls, trained: Trained, rule: str | None, published: Sequence[str], epochs: int | None) -> Unseen:
        """Checked against a run; ``published`` adds to what its experiment says.

        Raises:
            InputError: an unknown rule or site, or a rule where there is nothing to choose.
        """
        if rule is not None and rule not in RULES:
            raise unknown("rule for unseen sites", rule, RULES)
        if rule is not None and not trained.members:
            raise InputError("--unseen: this run shares its whole network, so an unseen site needs no rule.")
        if epochs is not None and epochs < 1:
            raise InputError(f"--fine-tune-epochs must be at least 1, given {epochs}")
        given = cls.named(trained.experiment.publish_private, trained.members)
        given += cls.named(published, trained.members)
        return cls(rule, tuple(one for one in trained.members if one in given), epochs or EPOCHS)

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


def needed(trained: Trained, name: str, unseen: Unseen) -> tuple[str, ...]:
    """The members whose private parts reconstruct at a site: its own, those that a rule takes, or one after the other.

    Raises:
        InputError: see :meth:`Trained.models`.
    """
    if unseen.rule is not None and name not in trained.members:
        return unseen.published
    return trained.models(name) if trained.members else ()


@dataclass(frozen=True)
class Place:
    """An unseen site, and the run whose network is to reconstruct there."""

    trained: Trained
    name: str
    shard: Shard
    operator: Acquisition
    unseen: Unseen

    def site(self, label: str, private: Private | None) -> Site:
        """The run's network at this site with such a private part; None takes the network's first weights."""
        shards = {self.name: str(self.shard.path.resolve())}
        return self.trained.site(label, shards, {self.name: self.operator}, {} if private is None else private)

    def parts(self) -> dict[str, Private]:
        """The private parts that were published, by member."""
        return {one: self.trained.private_part(one) for one in self.unseen.published}


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


def average(place: Place) -> Site:
    """The unweighted mean of all sites' private parts.

    Raises:
        InputError: a site did not agree to publish its own.
    """
    check_published("average", place.trained.members, place.unseen.published)
    return place.site("average", _mean(list(place.parts().values())))


def nearest(place: Place) -> Site:
    """The published private part that scores best (PSNR) on this site's validation subjects.

    Raises:
        InputError: none was published, or the site has no validation subjects.
    """
    from fedrecon.platform.record import summarise

    check_published("nearest", place.trained.members, place.unseen.published)
    place.shard.require_references("validation")
    sites = {member: place.site(f"nearest: {member}", private) for member, private in place.parts().items()}
    scores = {
        member: summarise(site.evaluate(place.trained.order, "validation").columns)["mean"]["psnr"]
        for member, site in sites.items()
    }
    return sites[max(scores, key=lambda member: scores[member])]


def fine_tune(place: Place) -> Site:
    """The private part trained for a few epochs on this site's own training subjects, beside the shared part.

    It starts from the average where every site published its part, else from the network's first weights.

    Raises:
        InputError: the site has no training subjects.
    """
    place.shard.require_training()
    check_patch(place.trained.experiment, place.name, place.shard)
    everyone = set(place.unseen.published) == set(place.trained.members)
    start = _mean(list(place.parts().values())) if everyone else None
    source = "the average" if everyone else "the first weights"
    site = place.site(f"fine-tuned {place.unseen.epochs} epochs from {source}", start)
    site.fine_tune(place.trained.order, place.unseen.epochs)
    return site


RULES: dict[str, Callable[[Place], Site]] = {"average": average, "nearest": nearest, "fine-tune": fine_tune}


def _mean(parts: list[Private]) -> Private:
    import numpy as np

    return {name: np.mean([one[name] for one in parts], axis=0, dtype=np.float64) for name in parts[0]}
