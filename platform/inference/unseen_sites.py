"""Rules that give a private part of the network to a site that did not train. The result names the used rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedrecon.platform.consortium.checks import check_patch
from fedrecon.platform.consortium.consent import UnseenPolicy, check_published, check_tunable
from fedrecon.platform.inference.one_site import OneSite

if TYPE_CHECKING:
    from fedrecon.platform.execution.wire_log import WireLog
    from fedrecon.platform.inference.trained_run import TrainedRun
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.data.shard import Shard
    from fedrecon.sites.member.site import Site


Private = Mapping[str, Any]
"""Private parameters of one member, by name."""


def needed(trained: TrainedRun, name: str, unseen: UnseenPolicy) -> tuple[str, ...]:
    """The members whose private parts are needed to reconstruct at a site.

    A trained site needs its own part. At an unseen site a rule needs the published parts. If no parameter is shared
    and there is no rule, an unseen site needs every member's part.

    Raises:
        InputError: see :meth:`TrainedRun.models`.
    """
    if unseen.rule is not None and name not in trained.members:
        return unseen.published
    return trained.models(name) if trained.members else ()


@dataclass(frozen=True)
class UnseenSite:
    """An unseen site, and the run whose network reconstructs there."""

    trained: TrainedRun
    name: str
    shard: Shard
    operator: Acquisition
    unseen: UnseenPolicy
    wire_log: WireLog | None = None

    def site(self, label: str, private: Private | None) -> Site:
        """This site with the run's network and the given private part; ``label`` names the network in the result.

        Args:
            private: private parameters by name; None takes the network's first values. With private codes the network
                knows this site in place of the run's first one: all rows of :meth:`parts` are the code that it takes.
        """
        shards, trained = {self.name: str(self.shard.path.resolve())}, self.trained
        if private is not None and self.codes:
            known = replace(trained.images, sites=(self.name, *trained.images.sites[1:]))
            trained = replace(trained, images=known)
        return trained.site(label, shards, {self.name: self.operator}, {} if private is None else private)

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """Names of the private parameters that hold a code for each site of the run."""
        from fedrecon.platform.consortium.network import private_codes

        return private_codes(self.trained.experiment, self.trained.images) if self.trained.experiment.trains else ()

    def parts(self) -> dict[str, Private]:
        """The private parts that were published, by member. All rows of its codes are its own, the trained one."""
        import numpy as np

        found: dict[str, Private] = {}
        published, sites = self.unseen.published, self.trained.images.sites
        for member in published:
            private = dict(self.trained.private_part(member, published, self.wire_log).parameters)
            for name in self.codes:
                private[name] = np.broadcast_to(private[name][sites.index(member)], private[name].shape)
            found[member] = private
        return found


def average(unseen_site: UnseenSite) -> Site:
    """Takes the unweighted mean of all members' private parts.

    Raises:
        InputError: a member did not agree to publish its private part.
    """
    check_published("average", unseen_site.trained.members, unseen_site.unseen.published)
    return unseen_site.site("average", _mean(list(unseen_site.parts().values())))


def nearest(unseen_site: UnseenSite) -> Site:
    """Takes the published private part with the best PSNR on this site's validation subjects.

    Raises:
        InputError: no member published its private part, or the site has no validation subjects.
    """
    check_published("nearest", unseen_site.trained.members, unseen_site.unseen.published)
    unseen_site.shard.require_references("validation")
    sites = {member: unseen_site.site(f"nearest: {member}", private) for member, private in unseen_site.parts().items()}
    scores = {member: _psnr(unseen_site, site) for member, site in sites.items()}
    return sites[max(scores, key=lambda member: scores[member])]


def _psnr(unseen_site: UnseenSite, site: Site) -> float:
    """The mean PSNR of the validation subjects of this site, in dB."""
    from fedrecon.platform.federation.aggregate import summarise
    from fedrecon.platform.federation.score_gate import ScoreGate
    from fedrecon.platform.federation.scorer import Scorer

    name, trained = unseen_site.name, unseen_site.trained
    at_site = {name: unseen_site.shard}, {name: unseen_site.operator}, {site.name: (name,)}
    gate, member = ScoreGate.of(trained.experiment, *at_site), OneSite(site, name, unseen_site.wire_log)
    scored = Scorer(member, trained.experiment.method, gate)(trained.request, "validation")
    mean: float = summarise(scored.columns)["mean"]["psnr"]
    return mean


def fine_tune(unseen_site: UnseenSite) -> Site:
    """Trains the private part for a few epochs on this site's own training subjects. The shared part stays fixed.

    What was always private starts from the average if every member published its private part, else from the network's
    first weights. What became private in local rounds starts from the shared weights, and so does a network that is
    shared as a whole.

    Raises:
        InputError: the site has no training subjects, or its slices are smaller than ``training.patch``.
    """
    check_tunable(unseen_site.trained.experiment)
    unseen_site.shard.require_training(not unseen_site.trained.experiment.self_supervised)
    check_patch(unseen_site.trained.experiment, unseen_site.name, unseen_site.shard)
    sources, start = _start(unseen_site)
    site = unseen_site.site(f"fine-tuned {unseen_site.unseen.epochs} epochs from {' and '.join(sources)}", start)
    site.fine_tune(unseen_site.trained.request, unseen_site.unseen.epochs)
    return site


def _start(unseen_site: UnseenSite) -> tuple[list[str], Private | None]:
    """Where a fine-tune starts, in words, and the values of what was always private; None takes the first ones."""
    from fedrecon.platform.consortium.network import layout_for

    trained = unseen_site.trained
    sources = [] if trained.members and trained.experiment.personalise is None else ["the shared weights"]
    always = layout_for(trained.experiment, trained.images).names(shared=False) if trained.members else ()
    if not always:
        return sources, None
    if set(unseen_site.unseen.published) != set(trained.members):
        return [*sources, "the first weights"], None
    mean = _mean(list(unseen_site.parts().values()))
    return [*sources, "the average"], {name: mean[name] for name in always}


RULES: dict[str, Callable[[UnseenSite], Site]] = {"average": average, "nearest": nearest, "fine-tune": fine_tune}
"""The rules by their names in ``--unseen`` and ``test.unseen``."""


def _mean(parts: list[Private]) -> Private:
    import numpy as np

    return {name: np.mean([one[name] for one in parts], axis=0, dtype=np.float64) for name in parts[0]}
