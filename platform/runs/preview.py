"""What a run would do, without doing it: ``fedrecon run --dry-run``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrecon.platform.config.address import check_cluster
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.replaced import read_patched
from fedrecon.platform.consortium.checks import ConsortiumShards, scored_sites
from fedrecon.platform.consortium.shards import n_slices
from fedrecon.platform.execution.placement import check_here
from fedrecon.platform.federation.attendance import may_return
from fedrecon.platform.runs.training_run import other_training
from fedrecon.platform.runs.transfer_run import training_of_test
from fedrecon.platform.runs.warm_start import check_start, with_digest
from fedrecon.platform.storage.tracking.address import check_reachable
from fedrecon.platform.storage.workspace import RunFolder, default_workspace
from fedrecon.sites.data.volume import SPLITS

ALREADY = "finished already"


def preview(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    workspace: Path | str | None = None,
    in_process: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
    rerun: bool = False,
) -> dict[str, Any]:
    """Checks an experiment as :func:`fedrecon.run` does, and says what that would do. It writes nothing.

    Args:
        experiment, overrides, workspace, in_process, address, tracking_uri, rerun: see
            :func:`fedrecon.platform.runs.run.run`.

    Returns:
        ``name``, ``digest``, ``rounds``, ``status`` (``planned``), ``begins`` (``anew``, ``after round N``,
        ``finished already``, ``takes over the training of DIGEST``), ``committed_rounds`` and ``slices``: the number of
        slices that are used, by site and split.

    Raises:
        InputError: the experiment, its data, its resources or the address of MLflow is wrong.
        RunError: no Ray cluster answers at the address.
    """
    chosen = read_patched(experiment, overrides)
    check_here(chosen.resources, in_process, address)
    folder = Path(workspace) if workspace else default_workspace()
    check_cluster(None if in_process else address)
    check_reachable(tracking_uri, folder)
    chosen = with_digest(chosen, folder)
    shards = ConsortiumShards.of(chosen, None if in_process else address)
    shards.check(chosen)
    check_start(chosen, scored_sites(chosen, shards.tested), folder, shards.trained)
    run = RunFolder(folder, shards.digest(chosen))
    rerun = rerun or not may_return(chosen.resources, run)
    committed = 0 if rerun else _committed(run)
    begins = ALREADY if not rerun and run.result() is not None else _begins(chosen, shards, run, rerun)
    return {
        "name": chosen.name,
        "digest": run.digest,
        "status": "planned",
        "begins": begins,
        "committed_rounds": committed,
        "rounds": chosen.rounds,
        "slices": {
            name: {split: n_slices(shard, split, _limit(chosen, name, split)) for split in SPLITS}
            for name, shard in {**shards.trained, **shards.tested}.items()
        },
    }


def _committed(run: RunFolder) -> int:
    """The last committed round; 0 without one."""
    return max((int(path.stem.rpartition("-")[2]) for path in run.checkpoints.paths()), default=0)


def _begins(chosen: Experiment, shards: ConsortiumShards, run: RunFolder, rerun: bool) -> str:
    """Where an experiment without a result would begin; that of a test without a training, where the training would."""
    digest = shards.training_digest(chosen)
    if chosen.test is not None and digest is not None:
        source = training_of_test(chosen, digest, run.workspace)
        base = RunFolder(run.workspace, shards.digest(chosen.alone))  # its training is a run of its own
        source = base if source is None and base.result() is not None else source
        if source is None:
            return _begins(chosen.alone, shards, base, rerun=False)
    elif not rerun and (committed := _committed(run)):
        return f"after round {committed}"
    else:
        source = None if rerun else other_training(chosen, run, digest)
    return "anew" if source is None else f"takes over the training of {source.digest}"


def _limit(experiment: Experiment, site: str, split: str) -> int | None:
    """The largest number of slices of a split that the experiment uses; None has no limit."""
    return experiment.training.slices_at(site) if split == "train" else experiment.evaluation.slices_of(split)
