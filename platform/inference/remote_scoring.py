"""Scores remote sites: a Ray task scores each site on the site's own node of the cluster.

A trained network goes to the node, scores come back: the types of :mod:`fedrecon.sites.wire` and no others. Images and
k-space stay on the node. A site's private part is read on its own node; another site's part travels only if that site
agreed to publish it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.consent import UnseenPolicy, check_published
from fedrecon.platform.consortium.network import check_part, layout_for
from fedrecon.platform.execution.liveness import Watch
from fedrecon.platform.execution.ray_cluster import connected
from fedrecon.platform.execution.site_tasks import ask_sites, site_tasks
from fedrecon.platform.execution.wire_log import WireLog
from fedrecon.platform.federation.score_gate import ScoreGate
from fedrecon.platform.inference.scoring import follows_rule, scored_splits
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.inference.unseen_sites import needed
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import RunError, at_site, brief
from fedrecon.sites.member.gate import check_remote
from fedrecon.sites.wire import (
    TEMPERATURE,
    PrivatePart,
    RemoteScores,
    RemoteScoreTask,
    Scores,
    State,
    TrainedNetwork,
    temperature_of,
)
from fedrecon.sites.wire_check import check_message

if TYPE_CHECKING:
    from fedrecon.platform.config.resources import Resources
    from fedrecon.sites.acquisition.setting import Acquisition

Columns = dict[str, Any]
"""Columns of ``scores.parquet``."""


@dataclass(frozen=True)
class RemoteTest:
    """A test of sites on other nodes.

    Attributes:
        trained: the tested run.
        operators: the operator at each site.
        unseen: the policy for sites that did not train.
        parts: folder in which a method that adapts to each slice keeps the scores of finished batches.
    """

    trained: TrainedRun
    operators: Mapping[str, Acquisition]
    unseen: UnseenPolicy
    parts: Path


def scored_remotely(
    test: RemoteTest,
    shards: Mapping[str, Shard],
    resources: Resources,
    address: str | None,
    bundle_members: Sequence[str] = (),
    wire_log: WireLog | None = None,
    watch: Watch | None = None,
) -> list[Columns]:
    """As :func:`fedrecon.platform.inference.scoring.scored` with ``validation``, each site on its own node in parallel.

    Args:
        resources: the experiment's resources; a site whose process dies is scored again, up to ``max_restarts`` times.
        address, bundle_members: see :class:`fedrecon.platform.execution.ray_executor.RayExecutor`.
        wire_log: notes what crosses the walls.
        watch: clock of the sites; None makes one that says nothing.

    Raises:
        InputError: a network would go to another site without its owner's consent.
        RunError: a site cannot be placed, fails, or its node is lost for good.
    """
    log = wire_log or WireLog()
    with connected(address):
        sites = list(shards)
        private = _published_parts(test, sites, log)
        questions = {name: _question(test, name, shards[name], private[name]) for name in sites}
        for name, messages in questions.items():
            log.sent((name,), messages)
        with site_tasks(_score, None, questions, resources, bundle_members, watch) as tasks:
            found: list[Columns] = []
            for name in sites:
                answer = check_remote(tasks.result(name, resources.max_restarts), RemoteScores, name)
                log.received(name, answer)
                found += [dict(one.columns) for one in checked_scores(test, name, shards[name], answer.scores)]
            return found


def checked_scores(test: RemoteTest, name: str, shard: Shard, scores: Sequence[Scores]) -> Sequence[Scores]:
    """The scores of a site themselves, if they are of every network and split that were asked for.

    Raises:
        RunError: they are not, or see :meth:`fedrecon.platform.federation.score_gate.OwedScores.take`.
    """
    trained, splits = test.trained, scored_splits(test.trained, shard)
    # Only the site knows which network a rule chose.
    models = [None] if follows_rule(trained, name, test.unseen) else trained.models(name)
    asked = list(product(models, splits))
    given, wanted = [(one.site, one.split) for one in scores], [(name, split) for _, split in asked]
    if given != wanted:
        raise RunError(at_site(name, None, f"scored {brief(given)} instead of {wanted}; refused"))
    gate = ScoreGate.of(trained.experiment, {name: shard}, test.operators, {name: (name,)})
    for one, (model, split) in zip(scores, asked, strict=True):
        named = one.columns.get("model", ())[:1] if model is None else (model,)
        owed = gate.asked(split, trained.state.round)
        owed.checked([one], named)
        owed.check_whole((name,))
    return scores


def _question(
    test: RemoteTest, name: str, shard: Shard, private: Mapping[str, PrivatePart]
) -> tuple[TrainedNetwork, RemoteScoreTask]:
    trained, unseen = test.trained, test.unseen
    network = _network(trained, private, name)
    block, parts = test.operators[name].flat(), str(test.parts)
    task = RemoteScoreTask(name, str(shard.path), block, unseen.rule, unseen.published, unseen.epochs, parts)
    return network, check_message(task)


def _score(_: None, network: TrainedNetwork, task: RemoteScoreTask) -> RemoteScores:
    """Scores one site; runs on its own node."""
    from fedrecon.platform.inference.scoring import scored

    trained = _trained_run(check_message(network))
    parts: Path | None = Path(check_message(task).parts)
    # A node that does not share the workspace keeps no parts: nobody would ever remove them there.
    parts = parts if parts and parts.parent.is_dir() else None
    unseen = UnseenPolicy(task.rule, task.published, task.epochs)
    operator = trained.experiment.own_task.read(task.operator)
    shards, operators = {task.site: Shard.open(task.shard)}, {task.site: operator}
    found = scored(trained, shards, operators, unseen, lambda _: None, parts, validation=True)
    scores = (
        Scores(task.site, one["split"][0] if one["split"] else "test", {key: tuple(v) for key, v in one.items()})
        for one in found
    )
    return check_message(RemoteScores(task.site, tuple(scores)))


def _trained_run(network: TrainedNetwork) -> TrainedRun:
    """The run as far as it travelled: without the subjects of other sites."""
    from fedrecon.sites.imaging.measurement import Images

    folder, given, request = Path(network.folder), dict(network.images), network.state
    images = Images(**{**given, "size": tuple(given["size"]), "sites": tuple(given["sites"])})
    return TrainedRun(
        folder=RunFolder(folder.parents[1], folder.name),
        experiment=Experiment.read(dict(network.experiment)),
        state=State(request.round - 1, request.shared, {}, request.standing),
        subjects={},
        images=images,
        members=network.members,
        all_private=network.all_private,
        private=network.private,
        temperature=temperature_of(request) if TEMPERATURE in request.extra else None,
    )


def _published_parts(test: RemoteTest, sites: Sequence[str], log: WireLog) -> dict[str, dict[str, PrivatePart]]:
    """By site, the private parts of OTHER members that reconstruct there; each member must have consented.

    Raises:
        InputError: a member did not.
    """
    trained, published = test.trained, test.unseen.published
    lent = {name: [m for m in needed(trained, name, test.unseen) if m != name] for name in sites}
    if trained.all_private and any(name not in trained.members for name in sites):
        check_published(None, trained.members, published)
    members = dict.fromkeys(member for each in lent.values() for member in each)
    found = {member: trained.private_part(member, published, log) for member in members if trained.holds(member)}
    asked = [member for member in members if member not in found]
    questions = {member: (_network(trained, {}, member), member, published) for member in asked}
    for member, part in ask_sites(_private_part, questions, "its private part of the network").items():
        log.sent((member,), questions[member][:1])
        log.received(member, part)
        found[member] = _checked_part(trained, member, part)
    return {name: {member: found[member] for member in each} for name, each in lent.items()}


def _checked_part(trained: TrainedRun, member: str, answer: Any) -> PrivatePart:
    """The private part of a member after the round of the run, as :func:`check_part` says.

    Raises:
        RunError: the answer is none.
    """
    part, wanted = check_remote(answer, PrivatePart, member), trained.request.round
    if part.round != wanted:
        raise RunError(at_site(member, None, f"its private part is refused: round {brief(part.round)}, not {wanted}"))
    return check_part(part, layout_for(trained.experiment, trained.images))


def _network(trained: TrainedRun, private: Mapping[str, PrivatePart], site: str) -> TrainedNetwork:
    """The network as it goes to a site: without the paths of the shards, and without the rounds of other sites."""
    images = trained.images
    network = TrainedNetwork(
        experiment={**trained.experiment.as_dict(), "sites": {}, "test": None},
        images={**asdict(images), "size": list(images.size), "sites": list(images.sites)},
        state=trained.request.of(site, *private),
        members=trained.members,
        all_private=trained.all_private,
        private=private,
        folder=str(trained.folder.path),
    )
    return check_message(network)


def _private_part(network: TrainedNetwork, member: str, published: tuple[str, ...]) -> PrivatePart:
    """The private part of a member; runs on its own node, which refuses without consent."""
    if member not in published:
        raise RunError(f"site '{member}' did not agree to publish its private part: see publish_private")
    return check_message(_trained_run(check_message(network)).private_part(member, published))
