"""The sites of an experiment, those that train and those that are tested: opened, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedrecon.platform.cohort import check_experiment, is_here, open_sites
from fedrecon.platform.model import check_network, network_layout
from fedrecon.platform.trained import private_members
from fedrecon.platform.unseen import Unseen, check_published
from fedrecon.sites.errors import InputError

if TYPE_CHECKING:
    from fedrecon.platform.experiment import Experiment
    from fedrecon.sites.acquisition import Acquisition
    from fedrecon.sites.shard import Shard

Shards = Mapping[str, "Shard"]


@dataclass(frozen=True)
class Sites:
    """The sites of an experiment: those that train, and those that are tested."""

    trained: Shards
    tested: Shards

    @classmethod
    def of(cls, experiment: Experiment, address: str | None = None) -> Sites:
        """Opened; where nothing else is said those that train are tested.

        Args:
            address: see :func:`open_sites`.
        """
        trained = open_sites(experiment.sites, address)
        elsewhere = experiment.test.sites if experiment.test else None
        return cls(trained, trained if elsewhere is None else open_sites(elsewhere, address))

    @property
    def away(self) -> tuple[str, ...]:
        """The sites whose shards lie on other nodes; where there are any, every site is scored on its own node."""
        both = [*self.trained.items(), *self.tested.items()]
        return tuple(dict.fromkeys(name for name, shard in both if not is_here(shard)))

    def check(self, experiment: Experiment) -> None:
        """Refuses what cannot be trained, drawn or scored, and a test subject that trained or validated anything.

        Raises:
            InputError: says where, and what would do.
        """
        if self.away and experiment.resources.crew == "in-process":
            raise InputError(
                "resources.crew: in-process opens every shard itself, and on other nodes of the cluster lie those of "
                f"{', '.join(self.away)}. Allowed there: actors."
            )
        check_experiment(experiment, self.trained)
        check_network(experiment, self.trained)
        if experiment.test is None:
            return
        check_places(self.tested, {name: shard.subjects for name, shard in self.trained.items()})
        check_masks(self.tested, {name: experiment.tested_at(name) for name in self.tested})
        _check_rule(experiment, self)

    def digest(self, experiment: Experiment) -> str:
        """The experiment's."""
        return experiment.digest(_contents(self.trained), _contents(self.tested))

    def training_digest(self, experiment: Experiment) -> str | None:
        """The experiment's."""
        return experiment.training_digest(_contents(self.trained))


def check_masks(shards: Mapping[str, Shard], operators: Mapping[str, Acquisition]) -> None:
    """Refuses a mask that cannot be drawn for a test volume.

    Raises:
        InputError: names the site.
    """
    for name, shard in shards.items():
        for shape in sorted({volume.shape for volume in shard.split("test")}):
            try:
                operators[name].check(shape)
            except InputError as error:
                raise InputError(f"site '{name}': {error}") from None


def check_places(shards: Mapping[str, Shard], subjects: Mapping[str, Mapping[str, str]]) -> None:
    """Refuses sites that cannot be scored, or whose test subjects a run trained or validated on.

    Args:
        subjects: by site the split of every subject that the run saw.

    Raises:
        InputError: names the subjects and where they were seen.
    """
    for name, shard in shards.items():
        shard.require_references("test")
        tested = {volume.subject for volume in shard.split("test")}
        for site, splits in subjects.items():
            seen = sorted(s for s in tested if splits.get(s, "test") != "test")
            if seen:
                raise InputError(
                    f"site '{name}' tests {', '.join(seen)}, who was in the split '{splits[seen[0]]}' at site '{site}' "
                    "of this run: such a score says nothing about new patients."
                )


def _contents(shards: Shards) -> dict[str, str]:
    return {name: shard.content_hash for name, shard in shards.items()}


def _check_rule(experiment: Experiment, sites: Sites) -> None:
    """Refuses, before anything is trained, a site whose private part of the network would come from nowhere."""
    assert experiment.test is not None
    if experiment.test.unseen is None and sites.tested.keys() <= sites.trained.keys():
        return
    members, all_private = private_members(experiment, network_layout(experiment, sites.trained), list(sites.trained))
    unseen = [name for name in sites.tested if name not in sites.trained]
    rule = experiment.test.unseen
    if rule is not None and not members:
        raise InputError("test.unseen: this method shares its whole network, so an unseen site needs no rule")
    if not unseen or not members:
        return
    if rule is None and not all_private:
        raise InputError(
            f"site '{unseen[0]}' does not train, so it has no private part of the network of '"
            f"{experiment.strategy['name']}'. Say where it shall come from: test.unseen=average, nearest or fine-tune"
        )
    check_published(rule, members, Unseen.named(experiment.publish_private, members))
    if rule == "fine-tune":
        for name in unseen:
            sites.tested[name].require_training()
