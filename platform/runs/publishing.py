"""What of a run leaves its sites beside scores, and what a later consent adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from fedrecon.platform.consortium.consent import consented
from fedrecon.platform.consortium.network import layout_for
from fedrecon.platform.execution.wire_log import WIRE_LINES, WireLog
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.runs.context import RunContext, recording
from fedrecon.platform.runs.mlflow_record import write_models
from fedrecon.platform.runs.results import write_private, write_wire
from fedrecon.sites.errors import listed

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.storage.workspace import RunFolder
    from fedrecon.sites.data.shard import Shard


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


def publish_later(chosen: Experiment, folder: RunFolder, context: RunContext) -> None:
    """Writes the private parts of members that consent now, where the run finished without them.

    Raises:
        RunError: a part is not on this machine.
    """
    if not chosen.trains or not chosen.publish_private:
        return
    trained = TrainedRun.of(folder)
    wanted = [one for one in trained.members if consented(chosen.publish_private, one)]
    missing = [one for one in wanted if one not in folder.published()]
    if not missing:
        return
    log = WireLog(folder.path / WIRE_LINES, trained.state.round)
    parts = {one: trained.private_part(one, wanted, log) for one in missing}
    noted = folder.noted() or {}
    folder.note_run({**noted, "experiment": {**noted["experiment"], "publish_private": wanted}})
    with recording(chosen, folder, noted.get("training_digest"), context) as run:
        write_private(run.journal, folder, parts)
        own = {member: part.parameters for member, part in parts.items()}
        layout = layout_for(trained.experiment, trained.images)
        write_models(run.journal, folder, trained.experiment, layout, trained.images, trained.state.round, own)
        write_wire(run.journal, folder, log)
