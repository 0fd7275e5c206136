"""What a later consent adds to a finished run, and what it takes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedrecon.platform.consortium.consent import consented
from fedrecon.platform.consortium.network import layout_for
from fedrecon.platform.execution.wire_log import WIRE_LINES, WireLog
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.runs.context import RunContext, recording
from fedrecon.platform.runs.mlflow_record import write_models
from fedrecon.platform.runs.results import write_private, write_wire

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.storage.workspace import RunFolder


def note_consent(chosen: Experiment, folder: RunFolder) -> None:
    """Notes the consent of today in the run of a finished experiment that is asked again, where it is the narrower one.

    ``evaluation.panels`` and ``publish_private`` are in no digest, so both experiments are this run. A wider consent
    to private parts is :func:`publish_later`'s; one to pictures is of the runs that draw them.
    """
    noted = folder.noted() or {}
    experiment = noted["experiment"]
    drawn, old = (one.get("panels", "auto") for one in (chosen.as_dict()["evaluation"], experiment["evaluation"]))
    before, now = experiment.get("publish_private", ()), chosen.publish_private
    both = list(now) if before == "all" else [one for one in before if consented(now, one)]
    narrower = {
        "evaluation": {**experiment["evaluation"], "panels": "auto" if "auto" in (drawn, old) else old},
        "publish_private": "all" if before == now == "all" else both,
    }
    if narrower != {key: experiment.get(key) for key in narrower}:
        folder.note_run({**noted, "experiment": {**experiment, **narrower}})


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
    log = WireLog(folder.path / WIRE_LINES, trained.state.round)
    parts = {one: trained.private_part(one, wanted, log) for one in missing}
    noted = folder.noted() or {}
    if not all(consented(noted["experiment"].get("publish_private", ()), one) for one in wanted):
        folder.note_run({**noted, "experiment": {**noted["experiment"], "publish_private": wanted}})
    if not missing:
        return
    with recording(chosen, folder, noted.get("training_digest"), context) as run:
        write_private(run.journal, folder, parts)
        own = {member: part.parameters for member, part in parts.items()}
        layout = layout_for(trained.experiment, trained.images)
        write_models(run.journal, folder, trained.experiment, layout, trained.images, trained.state.round, own)
        write_wire(run.journal, folder, log)
