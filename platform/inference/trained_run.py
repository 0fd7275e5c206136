"""A finished run, ready to be applied: its experiment, state, and the sites' private parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.network import private_members, site_plan
from fedrecon.platform.storage.workspace import RunFolder, find_run_folder
from fedrecon.sites.errors import InputError, RunError, unknown

if TYPE_CHECKING:
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.member.site import Site
    from fedrecon.sites.wire import PrivatePart, State, TrainRequest

GLOBAL = "global"
"""The model of a method that shares all parameters."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        folder: of the run. experiment: as it ran. state: after its last round.
        subjects: by site the split of every subject that the run saw.
        images: what the network was built for.
        members: with private parameters; empty where all parameters are shared.
        all_private: nothing is shared (``local``): there is one network per member.
        private: private parts by member that came along to another node; those of others are read from the folder.
    """

    folder: RunFolder
    experiment: Experiment
    state: State
    subjects: Mapping[str, Mapping[str, str]]
    images: Any
    members: tuple[str, ...]
    all_private: bool
    private: Mapping[str, PrivatePart] = field(default_factory=dict)

    @classmethod
    def load(cls, workspace: Path, reference: str) -> TrainedRun:
        """The run that ``reference`` names (run id, digest or ``latest``); of a test elsewhere the run that was tested.

        Raises:
            InputError: no such run, or it is not finished. RunError: its checkpoint is lost.
        """
        folder = find_run_folder(workspace, reference)
        by = (folder.noted() or {}).get("trained_by")
        return cls.of(RunFolder(workspace, by) if by else folder)

    @classmethod
    def of(cls, folder: RunFolder) -> TrainedRun:
        """The run whose folder this is; its last committed round is its end.

        Raises:
            RunError: its checkpoint is lost.
        """
        from fedrecon.platform.consortium.network import network_choice
        from fedrecon.sites.imaging.measurement import Images
        from fedrecon.sites.member.site import new_network
        from fedrecon.sites.training.parameters import Parameters

        noted, found = folder.noted(), folder.checkpoints.latest()
        if noted is None or found is None:
            raise RunError(f"run '{folder.digest}': its checkpoint in {folder.path} is lost")
        experiment = Experiment.read(noted["experiment"])
        given = noted["images"]
        images = Images(**{**given, "size": tuple(given["size"]), "sites": tuple(given["sites"])})
        layout = None
        if experiment.trains:
            method = experiment.method
            model = new_network(method, network_choice(experiment), images, experiment.seed)
            layout = Parameters(model, lambda name: method.shares(name, model))
        return cls(
            folder, experiment, found[0], noted["subjects"], images, *private_members(experiment, layout, images.sites)
        )

    @property
    def request(self) -> TrainRequest:
        """What the sites score under: the last round's state."""
        return self.experiment.method.scoring_request(self.state)

    def models(self, site: str) -> tuple[str, ...]:
        """Whose networks reconstruct at ``site``: the shared one, the site's own, or at an unseen site each member's.

        Raises:
            InputError: only part of the network is shared, and an unseen site has no private part.
        """
        if not self.members:
            return (GLOBAL,)
        if site in self.members:
            return (site,)
        if self.all_private:
            return self.members
        raise InputError(
            f"site '{site}' did not train, so it has no private part of the network; trained sites: "
            f"{', '.join(self.members)}. Say with --unseen where it shall come from: average, nearest or fine-tune."
        )

    def one_model(self, site: str | None) -> str:
        """The one network to reconstruct with, for a site that may be named.

        Raises:
            InputError: each site has its own, and none or a wrong one was named.
        """
        if not self.members:
            if site is not None and site not in self.images.sites:
                raise unknown("site", site, self.images.sites)
            return GLOBAL
        if site is None:
            raise InputError(f"each site has its own network here; name one with --site: {', '.join(self.members)}")
        if site not in self.members:
            raise unknown("site", site, self.members)
        return site

    def site(
        self,
        model: str,
        shards: Mapping[str, str],
        operators: Mapping[str, Acquisition],
        private: Mapping[str, Any] | None = None,
        publish_private: bool = False,
    ) -> Site:
        """A site that holds these shards and reconstructs with this model.

        Args:
            private: private parameters by name instead of the member's own; empty takes the network's first values.
        """
        from fedrecon.sites.member.site import Site

        experiment, standing = self.experiment, self.state.standing
        if private is None and model in self.private:
            private = self.private[model].parameters
        member = model if model != GLOBAL else next(iter(standing), GLOBAL)
        memory = str(self.folder.memory(model)) if model != GLOBAL and private is None else None
        plan = site_plan(
            experiment, self.images, member, shards, operators, memory=memory, publish_private=publish_private
        )
        site = Site(plan)
        if private is not None:
            site.adopt(private, standing.get(model, 0))
        return site

    def private_part(self, member: str, published: Collection[str]) -> PrivatePart:
        """The member's private parameters after the last round.

        Args:
            published: the members that agreed to publish theirs.

        Raises:
            InputError: this member did not agree. RunError: the part is not on this machine.
        """
        if member not in published:
            raise InputError(f"site '{member}' did not agree to publish its private part: see publish_private")
        if member in self.private:
            return self.private[member]
        return self.site(member, {}, {}, publish_private=True).private_part(self.request)

    def holds(self, member: str) -> bool:
        """Whether :meth:`private_part` will find the member's."""
        from fedrecon.sites.training.memory import Memory

        return Memory(self.folder.memory(member)).holds(self.state.standing.get(member, 0))
