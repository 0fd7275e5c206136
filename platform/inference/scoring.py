"""Scores the networks of a finished run at sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.names import in_text
from fedrecon.platform.consortium.consent import UnseenPolicy, check_published
from fedrecon.platform.federation.score_gate import ScoreGate
from fedrecon.platform.federation.scorer import Scorer
from fedrecon.platform.inference.one_site import OneSite
from fedrecon.platform.inference.pictures import SitePictures
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.inference.tuned_by_run import use_tuned
from fedrecon.platform.inference.unseen_sites import RULES, UnseenSite
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.errors import InputError
from fedrecon.sites.phases import Step

if TYPE_CHECKING:
    from fedrecon.platform.execution.wire_log import WireLog
    from fedrecon.sites.data.shard import Shard
    from fedrecon.sites.member.site import Site


def scored(
    trained: TrainedRun,
    shards: Mapping[str, Shard],
    operators: Mapping[str, Acquisition],
    unseen: UnseenPolicy,
    tell: Callable[[str], None],
    parts: Path | None = None,
    wire_log: WireLog | None = None,
    validation: bool = False,
    pictures: SitePictures | None = None,
    done: Step = lambda: None,
) -> Iterator[dict[str, Any]]:
    """Scores the test subjects of each site with each network that reconstructs there.

    Args:
        operators: the operator at each site.
        tell: function that receives progress messages of a method that adapts to each slice.
        parts: folder in which such a method keeps the scores of finished batches, so that a crash loses one batch;
            None keeps none.
        wire_log: notes what crosses the walls.
        validation: whether to score the validation subjects too, where a site has them with references.
        pictures: collects a picture of each site and network; None draws none. done: is called after each site.

    Yields:
        the columns of ``scores.parquet``, for one site, network and split at a time.

    Raises:
        InputError: see :func:`networks_at`.
    """
    from fedrecon.sites.training.local_loop import threads

    with threads(trained.experiment.resources.threads):
        for name, shard in shards.items():
            for site, model in networks_at(trained, name, shard, operators[name], unseen, wire_log):
                member = OneSite(site, name, wire_log)
                if trained.experiment.classical is not None:
                    _tune(trained, site, member, name, shard, tell)
                kept = None if parts is None else parts / f"{name}-{model}"
                gate = ScoreGate.of(trained.experiment, {name: shard}, operators, {site.name: (name,)})
                scorer = Scorer(member, trained.experiment.method, gate, kept, tell)
                for split in scored_splits(trained, shard) if validation else ("test",):
                    columns = dict(scorer(trained.request, split).columns)
                    columns["model"] = [model for _ in columns["model"]]
                    yield columns
                if pictures is not None:
                    pictures.draw(member, model, operators[name].described())
            done()


def _tune(
    trained: TrainedRun, site: Site, member: OneSite, name: str, shard: Shard, tell: Callable[[str], None]
) -> None:
    """Tunes a classical reconstructor on the site's validation subjects. Without them it keeps the run's parameters."""
    from fedrecon.sites.scoring.tuning import tie

    if shard.split("validation"):
        found = member.call("tune_reconstructor")
        if found.table:
            tell(f"site '{name}': '{found.name}' takes {in_text(found.parameters)}, tuned on its validation subjects")
        if line := tie(found):
            tell(line)
        return
    advice = f"site '{name}' has no validation subjects to tune it on, and the sites of the run chose differently"
    if chosen := use_tuned(trained, site, name, advice):
        method = trained.experiment.reconstructor["name"]
        tell(f"note: site '{name}' has no validation subjects: '{method}' keeps the parameters of the run ({chosen})")


def scored_splits(trained: TrainedRun, shard: Shard) -> tuple[str, ...]:
    """``test``, and ``validation`` where the site has such subjects with references."""
    try:
        truth = trained.experiment.evaluation.reference == "truth"
        shard.require_references("validation", truth, not trained.experiment.self_supervised)
    except InputError:
        return ("test",)
    return ("test", "validation")


def follows_rule(trained: TrainedRun, name: str, unseen: UnseenPolicy) -> bool:
    """Whether the network of this site has its private part by the rule for sites that did not train."""
    return unseen.rule is not None and name not in (trained.members or trained.images.sites)


def networks_at(
    trained: TrainedRun,
    name: str,
    shard: Shard,
    operator: Acquisition,
    unseen: UnseenPolicy,
    wire_log: WireLog | None = None,
) -> Iterator[tuple[Site, str]]:
    """Yields the site with each network that reconstructs there, and the name of that network.

    Raises:
        InputError: the site did not train, and ``unseen`` names no rule for its private part, or a rule that cannot be
            applied; or a member did not agree that its own network goes to another site.
    """
    if unseen.rule is not None and follows_rule(trained, name, unseen):
        site = RULES[unseen.rule](UnseenSite(trained, name, shard, operator, unseen, wire_log))
        yield site, site.name
        return
    if trained.all_private and name not in trained.members:  # each member's own network goes to another site
        check_published(None, trained.members, unseen.published)
    for model in trained.models(name):
        yield trained.site(model, {name: str(shard.path.resolve())}, {name: operator}), model
