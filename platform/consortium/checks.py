"""Opens and checks the sites of an experiment before anything starts: those that train, and those that are tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.tasks import TASKS
from fedrecon.platform.consortium.consent import UnseenPolicy, check_published, check_tunable
from fedrecon.platform.consortium.network import check_network, network_layout, private_members
from fedrecon.platform.consortium.shards import is_here, open_sites
from fedrecon.sites.classical import reconstructor_name
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.data.splits import Scans, key_problems, scan_of, scans_in_two_splits
from fedrecon.sites.errors import InputError, tell, unknown
from fedrecon.sites.scoring.settings import PHANTOM

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.classical.reconstructor import Reconstructor
    from fedrecon.sites.data.shard import Volume


GOOD_BOX = 5
"""Shortest side of a calibration box, in samples, from which coil maps are estimated without a warning."""

NO_BETTER = "no method is better than its maps"
"""What follows from a small box in k-space that was measured already."""

Shards = Mapping[str, "Shard"]
Splits = Mapping[str, Mapping[str, str]]


def warn_of_one_shard(shards: Shards) -> None:
    """Warns in one line of each site that has the same shard as one before it."""
    first: dict[str, str] = {}
    for name, shard in shards.items():
        if (one := first.setdefault(shard.content_hash, name)) != name:
            tell(f"warning: the sites '{one}' and '{name}' are one shard, {shard.path}: it counts twice")


@dataclass(frozen=True)
class ConsortiumShards:
    """The shards of an experiment.

    Attributes:
        trained: shards of the sites that train, by site.
        tested: shards of the sites that are tested, by site.
    """

    trained: Shards
    tested: Shards

    @classmethod
    def of(cls, experiment: Experiment, address: str | None = None) -> ConsortiumShards:
        """Opens the shards. If the experiment names no ``test.sites``, the sites that train are tested.

        Args:
            address: address of a Ray cluster, see :func:`open_sites`.

        Raises:
            InputError: see :func:`open_sites`.
            RunError: see :func:`open_sites`.
        """
        trained = open_sites(experiment.sites, address)
        warn_of_one_shard(trained)
        test_sites = experiment.test.sites if experiment.test else None
        if test_sites is None:
            return cls(trained, scored_sites(experiment, trained))
        return cls(trained, open_sites(test_sites, address, "test.sites"))

    @property
    def remote_sites(self) -> tuple[str, ...]:
        """The sites whose shards are on other nodes. If there is one, a test scores every site on its own node."""
        both = [*self.trained.items(), *self.tested.items()]
        return tuple(dict.fromkeys(name for name, shard in both if not is_here(shard)))

    def check(self, experiment: Experiment) -> None:
        """Refuses an experiment whose sites cannot be trained, measured or scored.

        It also refuses a site of ``test.sites`` that tests a subject or a scan of the training or the validation.

        Raises:
            InputError: the message names the site, and an allowed value where there is one.
        """
        if self.remote_sites and experiment.resources.crew == "in-process":
            raise InputError(
                "resources.crew: in-process opens every shard in one process, but these sites have their shards on "
                f"other nodes of the cluster: {', '.join(self.remote_sites)}. Allowed for them: actors."
            )
        check_experiment(experiment, self.trained)
        check_network(experiment, self.trained)
        if experiment.test is None:
            return
        check_same_hospitals(self.tested, noted_shards(self.trained)["hospitals"])
        subjects = {name: shard.subjects for name, shard in self.trained.items()}
        truth = experiment.evaluation.reference == "truth"
        check_test_sites(self.tested, subjects, {}, truth, not experiment.self_supervised)
        for problem in scans_in_two_splits([*self.trained.items(), *self.tested.items()]):
            raise InputError(f"test.sites: {problem}")
        operators = {name: experiment.tested_at(name) for name in self.tested}
        check_masks(self.tested, operators, experiment.classical)
        _check_rule(experiment, self)

    def digest(self, experiment: Experiment) -> str:
        """The digest of the experiment with these shards."""
        return experiment.digest(_contents(self.trained), _contents(self.tested))

    def training_digest(self, experiment: Experiment) -> str | None:
        """The training digest of the experiment with these shards; None if nothing is trained."""
        return experiment.training_digest(_contents(self.trained))


def check_masks(
    shards: Mapping[str, Shard], operators: Mapping[str, Acquisition], classical: Reconstructor | None = None
) -> None:
    """Refuses a setting that cannot measure a test volume: a mask that its shape has not, or noise of unknown level.

    Args:
        operators: settings of the test, by site. classical: the classical method, which may need more of a mask.

    Raises:
        InputError: the message names the site.
    """
    for name, shard in shards.items():
        _check_measured(name, shard.split("test"), operators[name])
        _check_classical(name, shard, operators[name], classical)


def _check_measured(name: str, volumes: Sequence[Volume], operator: Acquisition) -> None:
    for shape in sorted({volume.shape for volume in volumes}):
        try:
            operator.check(shape)
        except InputError as error:
            raise InputError(f"site '{name}': {error}") from None
    _check_maps(name, volumes, operator)
    unknown_noise = [volume.name for volume in volumes if volume.noise is None]
    if operator.noise > 1 and unknown_noise:
        raise InputError(
            f"site '{name}': noise {operator.noise:g} is a multiple of the shard's own noise, and nobody knows that of "
            f"{', '.join(unknown_noise[:3])}. Import the data with --noise-sigma, or set noise to 1."
        )


def _check_maps(name: str, volumes: Sequence[Volume], operator: Acquisition) -> None:
    """Warns of calibration boxes in which coil maps cannot be estimated well, and refuses those of one sample.

    ESPIRiT finds maps from the patches of the box. On a simulated scan of 4 coils, the fully sampled image combined by
    the maps of a box of 1 x 1 has 19.3 dB, of 3 x 3 28.3 dB, and of 7 x 7 36.9 dB: no method can be better than that.
    """
    several = sorted({one.shape for one in volumes if one.has_reference and one.n_coils > 1})
    for shape, mask in product(several, operator.drawable):
        fraction = mask.fraction_for(shape, GOOD_BOX)
        advice = "a lower acceleration leaves room for them" if fraction is None else f"center_fraction={fraction:g}"
        check_box(f"site '{name}'", mask.calibration(shape), shape, advice)


def check_box(whose: str, box: tuple[int, int], shape: tuple[int, int], advice: str) -> None:
    """Warns of a calibration box (y, x) in which coil maps cannot be estimated well, and refuses one of one sample."""
    if min(box) >= GOOD_BOX:
        return
    line = (
        f"{whose}: coil maps come from the centre of k-space that is always measured, {box[0]} x {box[1]} "
        f"samples of {shape[0]} x {shape[1]}, and need {GOOD_BOX} a side: {advice}"
    )
    if min(box) == 1:
        raise InputError(line)
    tell_once(f"warning: {line}")


def _check_classical(name: str, shard: Shard, operator: Acquisition, classical: Reconstructor | None) -> None:
    """Refuses a classical method that can do nothing at a site, and says where it has only one coil to go by."""
    if classical is None:
        return
    conditions = operator.conditions([*shard.split("validation"), *shard.split("test")])
    try:
        classical.tried(conditions)
    except InputError as error:
        raise InputError(f"site '{name}': {error}") from None
    if classical.needs_coils and any(n_coils == 1 for n_coils, _ in conditions):
        tell_once(f"warning: site '{name}' has one coil: {reconstructor_name(classical)} has nothing to go by there")


@cache
def tell_once(line: str) -> None:
    """Prints a line that many experiments of one process share."""
    tell(line)


def noted_shards(shards: Mapping[str, Shard]) -> dict[str, Any]:
    """What a run notes of its shards, for the checks of a later test.

    Returns:
        ``subjects``: by site, the split of every subject. ``hospitals``: by site, ``site``, the name in the shard,
        and ``key``, the fingerprint of its pseudonyms' key. ``scans``: by site, the split of every scan that is not a
        test, by :func:`fedrecon.sites.data.splits.scan_of`.
    """
    return {
        "subjects": {name: dict(shard.subjects) for name, shard in shards.items()},
        "hospitals": {name: {"site": shard.site, "key": shard.pseudonym_key} for name, shard in shards.items()},
        "scans": {name: _scans(shard) for name, shard in shards.items()},
    }


def check_same_hospitals(shards: Mapping[str, Shard], trained: Mapping[str, Mapping[str, str | None]]) -> None:
    """Refuses a test whose shards do not fit the names and the key of the run.

    Args:
        shards: the tested shards, by site.
        trained: ``hospitals`` of :func:`noted_shards` for the sites that trained; empty for runs of older versions.

    Raises:
        InputError: a site that trained is now the shard of another hospital, which would use the private part of
            the first without consent; or the pseudonyms have another key, so a person who trained is not found.
    """
    keys = [*((name, one["key"]) for name, one in trained.items()), *((n, s.pseudonym_key) for n, s in shards.items())]
    for problem in key_problems(keys):
        raise InputError(problem)
    for name, shard in shards.items():
        known = trained.get(name, {}).get("site")
        if known is not None and known != shard.site:
            raise InputError(
                f"site '{name}' trained with the shard of '{known}', and {shard.path} is the shard of '{shard.site}': "
                f"give it a name that did not train, such as '{shard.site}'."
            )


def check_test_sites(
    shards: Mapping[str, Shard],
    subjects: Splits,
    scans: Splits,
    truth: bool = False,
    all_volumes: bool = True,
) -> None:
    """Refuses a site that cannot be scored, or with a test subject that the run used for training or validation.

    Args:
        subjects, scans: see :func:`check_unseen`.
        truth, all_volumes: see :meth:`Shard.require_references`.

    Raises:
        InputError: the message names the subjects, and the split of the first of them.
    """
    for shard in shards.values():
        shard.require_references("test", truth, all_volumes)
    check_unseen(shards, subjects, scans)


def check_unseen(shards: Shards, subjects: Splits, scans: Splits) -> None:
    """Refuses a test subject that a run used for training or validation, and a scan of it under another name.

    Args:
        subjects, scans: for each site of the run, the split of every subject and of every scan; of
            :func:`noted_shards`. Runs of older versions have no scans.

    Raises:
        InputError: the message names the subjects or the volume, and the split of the first of them.
    """
    for name, shard in shards.items():
        tested = {volume.subject for volume in shard.split("test")}
        for site, splits in subjects.items():
            seen = sorted(s for s in tested if splits.get(s, "test") != "test")
            if seen:
                raise InputError(
                    f"site '{name}' tests {', '.join(seen)}, who was in the split '{splits[seen[0]]}' at site '{site}' "
                    "of this run. A score on a subject that the run has used says nothing about new patients."
                )
        for site, noted in scans.items():
            known = Scans(noted.items())
            for volume in shard.split("test"):
                if (scan := scan_of(volume)) and (split := known.get(scan)):
                    raise InputError(
                        f"site '{name}' tests the volume '{volume.name}', and the split '{split}' at site '{site}' of "
                        "this run has the same image: one scan under two names. A score on it says nothing about new "
                        "patients."
                    )


def _scans(shard: Shard) -> dict[str, str]:
    labelled = {scan_of(volume): volume.split for volume in shard.volumes if volume.split != "test"}
    return {scan: split for scan, split in labelled.items() if scan}


def _contents(shards: Shards) -> dict[str, str]:
    return {name: shard.content_hash for name, shard in shards.items()}


def _check_rule(experiment: Experiment, sites: ConsortiumShards) -> None:
    """Refuses a site that needs a private part of the network and would get none. This is known before the training."""
    assert experiment.test is not None
    if experiment.test.unseen is None and sites.tested.keys() <= sites.trained.keys():
        return
    members, all_private = private_members(experiment, network_layout(experiment, sites.trained), list(sites.trained))
    unseen = [name for name in sites.tested if name not in sites.trained]
    rule = experiment.test.unseen
    if rule not in (None, "fine-tune") and not members:
        raise InputError(f"test.unseen={rule}: this method shares its whole network; an unseen site can fine-tune it")
    if not unseen or not (members or rule):
        return
    if rule is None and not all_private:
        raise InputError(
            f"site '{unseen[0]}' does not train, so it has no private part of the network, which strategy '"
            f"{experiment.strategy['name']}' needs. Choose a rule: test.unseen=average, nearest or fine-tune"
        )
    check_published(rule, members, UnseenPolicy.named(experiment.publish_private, members))
    if rule == "fine-tune":
        check_tunable(experiment)
        for name in unseen:
            sites.tested[name].require_training(not experiment.self_supervised)


def check_experiment(experiment: Experiment, shards: Mapping[str, Shard]) -> None:
    """Refuses a site that cannot train, measure or be scored, a site that does not exist, and data that must not move.

    Raises:
        InputError: the message names the site, and an allowed value where there is one.
    """
    for name in experiment.measured.get("per_site", {}):
        if name not in shards:
            raise unknown(f"site in {TASKS[experiment.task].block}.per_site", name, shards)
    for name, shard in shards.items():
        if experiment.trains:
            shard.require_training(not experiment.self_supervised)
        _check_measured(name, shard.volumes, experiment.operator_at(name))
        _check_classical(name, shard, experiment.operator_at(name), experiment.classical)
        if experiment.trains:
            check_patch(experiment, name, shard)
    _check_scored(experiment, shards)
    limits = experiment.training.max_slices
    named = {
        "publish_private": () if experiment.publish_private == "all" else experiment.publish_private,
        "training.max_slices": limits if isinstance(limits, dict) else (),
    }
    for key, names in named.items():
        for name in names:
            if name not in shards:
                raise unknown(f"site in {key}", name, shards)
    if experiment.trains and experiment.method.moves_data:
        _check_pooling(experiment, shards)


def scored_sites(experiment: Experiment, shards: Shards) -> Shards:
    """The sites that are tested: all, but with ``loss: ssdu`` those with references; all if no site has any."""
    found = {name: shard for name, shard in shards.items() if shard.scorable("test")}
    return found if experiment.self_supervised and found else shards


def _check_scored(experiment: Experiment, shards: Shards) -> None:
    """Refuses a site that cannot be scored. With ``loss: ssdu`` one site that can be scored is enough."""
    truth = experiment.evaluation.reference == "truth"
    for split in ("validation", "test"):
        scored = [shard for shard in shards.values() if shard.scorable(split)] if experiment.self_supervised else []
        for shard in scored or shards.values():
            shard.require_references(split, truth, not experiment.self_supervised)


def check_patch(experiment: Experiment, name: str, shard: Shard) -> None:
    """Refuses ``training.patch`` if it is larger than a training slice.

    Raises:
        InputError: the message names the site and the shortest side of its training slices in pixels.
    """
    patch, sides = experiment.training.patch, [min(volume.shape) for volume in shard.split("train")]
    if patch is not None and sides and patch > min(sides):
        shortest = f"the {min(sides)} pixels of its shortest side"
        raise InputError(f"site '{name}': training.patch {patch} is more than {shortest}")


def _check_pooling(experiment: Experiment, shards: Mapping[str, Shard]) -> None:
    if experiment.allow_pooling or experiment.strategy.get("allow_pooling"):
        return
    real = [name for name, shard in shards.items() if shard.origin != PHANTOM]
    if real:
        raise InputError(
            f"strategy '{experiment.strategy['name']}' needs the raw data of all sites on one machine, and the sites "
            f"{', '.join(real)} hold data of patients. If these data may be moved, set allow_pooling=true."
        )
