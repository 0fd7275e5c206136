"""A finished run that can be applied: its experiment, its state, and the private parts of its sites."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.names import flatten
from fedrecon.platform.consortium.code import carried_code, warn_of_changed_code
from fedrecon.platform.consortium.network import layout_for, private_members, site_plan
from fedrecon.platform.federation.coverage import calibrated
from fedrecon.platform.inference.began_with import start_of
from fedrecon.platform.inference.one_site import OneSite
from fedrecon.platform.storage.run_lookup import find_run, named, network_of
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import InputError, RunError, tell, unknown
from fedrecon.sites.phases import phase
from fedrecon.sites.score_columns import GLOBAL

if TYPE_CHECKING:
    from fedrecon.platform.execution.wire_log import WireLog
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.member.site import Site
    from fedrecon.sites.wire import PrivatePart, State, TrainRequest

CHANGEABLE = (
    "operator", "degradation", "evaluation.max_slices", "evaluation.mask_seed", "evaluation.self_ensemble",
    "evaluation.panels", "evaluation.reference", "resources.threads",
)  # fmt: skip
"""The blocks and keys of an experiment that act after its training."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        folder: folder of the run.
        experiment: the experiment of the run.
        state: the state after the last round, or after the best one (``training.keep``).
        subjects: the split of every subject of the run, and of the run that it began with, by site and subject.
        images: the properties of the images for which the network was built
            (:class:`fedrecon.sites.imaging.measurement.Images`).
        members: members with private parameters that reconstruct; empty if all parameters are shared.
        all_private: True if no parameter is shared (``local``): each member has its own network.
        private: private parts by member that travelled to this node; other parts are read from the folder.
        training_digest: digest of the training, which the private parts in the folder must name; empty for a run of an
            older version.
        temperature: the factor on the spread of the method's error, which the run found on its validation subjects;
            None if it found none.
        scans: the split of every scan for training and validation, as ``subjects``.
        hospitals: name in the shard and key of the pseudonyms, by site, of the run and of the run that it began with.
    """

    folder: RunFolder
    experiment: Experiment
    state: State
    subjects: Mapping[str, Mapping[str, str]]
    images: Any
    members: tuple[str, ...]
    all_private: bool
    private: Mapping[str, PrivatePart] = field(default_factory=dict)
    training_digest: str = ""
    temperature: float | None = None
    scans: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    hospitals: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, workspace: Path, reference: str, say: Callable[[str], None] = lambda _: None) -> TrainedRun:
        """Loads the run that ``reference`` names; see :func:`find_run`.

        If this run is a transfer test, the run that it tested is loaded.

        Args:
            say: is told of each plug-in whose code the run carries, before that code runs.

        Raises:
            InputError: no such run, several, or a run that is not finished.
            RunError: the run's checkpoint is lost, or a rerun replaced the network that a transfer test tested.
        """
        folder = network_of(find_run(workspace, reference))
        for line in carried_code((folder.noted() or {}).get("experiment", {}), f"run {folder.digest}"):
            say(line)
        return cls.of(folder)

    @classmethod
    def chosen(cls, workspace: Path, reference: str) -> TrainedRun:
        """Does the same as :meth:`load` for a person: a line on stderr says which run it is."""
        with phase("loading the run"):
            trained = cls.load(workspace, reference, tell)
        tell(named(trained.folder))
        return trained

    @classmethod
    def of(cls, folder: RunFolder) -> TrainedRun:
        """Loads the run from its folder. Its last committed round counts as its last round.

        Raises:
            RunError: the run's checkpoint is lost, or only that of a round before the result can be read.
        """
        from fedrecon.sites.imaging.measurement import Images

        noted, found = folder.noted(), folder.checkpoints.latest()
        if noted is None or found is None:
            raise RunError(f"run '{folder.digest}': its checkpoint in {folder.path} is lost")
        result = folder.result() or {}
        finished = result.get("rounds", found[0].round)
        if found[0].round != finished and not found[1].get("taken_over"):  # which has its kept round alone
            raise RunError(
                f"run '{folder.digest}': its result is of round {finished}, and the last checkpoint that can be read "
                f"is of round {found[0].round} (in {folder.path}). Train again with --rerun."
            )
        experiment = Experiment.read(noted["experiment"])
        kept = folder.checkpoints.kept()
        assert kept is not None
        warn_of_changed_code(noted, f"run {folder.digest}")
        given = noted["images"]
        images = Images(**{**given, "size": tuple(given["size"]), "sites": tuple(given["sites"])})
        members = private_members(experiment, layout_for(experiment, images), images.sites)
        digest = noted.get("training_digest") or ""
        factor = result.get("uncertainty", {}).get("temperature")
        before = start_of(noted, folder.workspace)
        seen = {**noted["subjects"], **before.get("subjects", {})}
        scans, hospitals = ({**noted.get(key, {}), **before.get(key, {})} for key in ("scans", "hospitals"))
        given = folder, experiment, kept[0], seen, images, *members
        return cls(*given, training_digest=digest, temperature=factor, scans=scans, hospitals=hospitals)

    def changed(self, overrides: Sequence[str]) -> TrainedRun:
        """The run under changed settings, each as ``key.path=value``.

        Raises:
            InputError: a setting is wrong, or the change would act on the training alone or be another run.
        """
        if not overrides:
            return self
        own = self.experiment
        chosen = Experiment.read(own.as_dict(), overrides)
        before, after = (dict(flatten(one.as_dict())) for one in (own, chosen))
        allowed = [*CHANGEABLE, *(f"strategy.{name}" for name in (own.method.at_inference if own.trains else ()))]
        wrong = sorted(
            key
            for key in {*before, *after}
            if before.get(key) != after.get(key) and not any(f"{key}.".startswith(f"{one}.") for one in allowed)
        )
        if wrong:
            raise InputError(
                f"{', '.join(wrong)}: the network is trained already, and this would change nothing or be another "
                f"run. Allowed here: {', '.join(one if '.' in one else f'{one}.KEY' for one in allowed)}",
                wrong,
            )
        if chosen.trains and chosen.method.has_spread and chosen.method != own.method:
            raise InputError(
                "the spread of the error was not calibrated under these settings of the strategy: run the experiment "
                "with them (its training is taken over), or set strategy.uncertainty.samples=0",
            )
        return replace(self, experiment=chosen)

    @property
    def request(self) -> TrainRequest:
        """The request for scores under the state of the last round, with the temperature of the spread."""
        return calibrated(self.experiment.method.scoring_request(self.state), self.temperature)

    @cached_property
    def start_values(self) -> dict[str, Any] | None:
        """The values of the network with which the run's training began, by name; None without ``training.start``.

        Raises:
            InputError: that run is not in the workspace any more.
        """
        name = self.experiment.training.start if self.experiment.trains else None
        return None if name is None else TrainedRun.load(self.folder.workspace, name).network_values()

    def network_values(self) -> dict[str, Any]:
        """The values of the whole network, by name; all its parameters are shared."""
        named = layout_for(self.experiment, self.images).named(self.request.shared, shared=True)
        return {name: value.copy() for name, value in named.items()}

    def models(self, site: str) -> tuple[str, ...]:
        """The names of the networks that reconstruct at ``site``.

        This is the shared network, or the site's own. If no parameter is shared, an unseen site takes every member's
        network.

        Raises:
            InputError: only a part of the network is shared, and the site is unseen: it has no private part.
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
        """The name of the network that reconstructs a file; ``site`` is the site that the user named, or None.

        Raises:
            InputError: the named site is unknown, or no site is named and each site has its own network.
        """
        if not self.members:
            if site is not None and site not in self.images.sites:
                raise unknown("site", site, self.images.sites)
            return GLOBAL
        if site is None:
            raise InputError(f"each site has its own network: name a site with --site: {', '.join(self.members)}")
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
        """A site that holds these shards and reconstructs with this network.

        Args:
            model: the name of the network; see :meth:`models`.
            shards: path of the shard of each site.
            operators: the operator at each site.
            private: private parameters by name that replace the member's own. An empty mapping takes the network's
                first values, those of ``training.start`` if there is one; None takes the member's own.
        """
        from fedrecon.sites.member.site import Site

        experiment, standing = self.experiment, self.state.standing
        if private is None and model in self.private:
            private = self.private[model].parameters
        member = model if model != GLOBAL else next(iter(standing), GLOBAL)
        memory = str(self.folder.memory(model)) if model != GLOBAL and private is None else None
        first = model != GLOBAL and not (standing.get(model, 0) if private is None else private)
        plan = site_plan(
            experiment,
            self.images,
            member,
            shards,
            operators,
            memory=memory,
            memory_owner=self.training_digest,
            publish_private=publish_private,
            start=self.start_values if first else None,
        )
        site = Site(plan)
        if private is not None:
            site.adopt(private, standing.get(model, 0))
        return site

    def private_part(self, member: str, published: Collection[str], wire_log: WireLog | None = None) -> PrivatePart:
        """The member's private parameters after the last round.

        Args:
            published: the members that agreed to publish theirs.
            wire_log: notes the part, if it leaves the member's folder now.

        Raises:
            InputError: this member did not agree. RunError: this node cannot read the part.
        """
        if member not in published:
            raise InputError(f"site '{member}' did not agree to publish its private part: see publish_private")
        if member in self.private:
            return self.private[member]
        owner = OneSite(self.site(member, {}, {}, publish_private=True), member, wire_log)
        part: PrivatePart = owner.call("private_part", self.request)
        return part

    def holds(self, member: str) -> bool:
        """Whether :meth:`private_part` can read the member's private parameters on this node."""
        from fedrecon.sites.training.memory import Memory

        return Memory(self.folder.memory(member)).holds(self.state.standing.get(member, 0))
