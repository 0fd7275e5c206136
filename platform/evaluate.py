"""A trained run under other operators and at other sites: no training, only scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.aggregate import METRICS, site_scores, volume_scores
from fedrecon.platform.cohort import open_sites
from fedrecon.platform.experiment import check_degradations
from fedrecon.platform.places import check_masks, check_places
from fedrecon.platform.scorer import Scorer
from fedrecon.platform.tasks import BLOCKS, TASKS, check_kspace
from fedrecon.platform.trained import GLOBAL, Trained
from fedrecon.platform.unseen import RULES, Place, Unseen
from fedrecon.platform.workspace import default_workspace
from fedrecon.sites.acquisition import Acquisition
from fedrecon.sites.errors import InputError

if TYPE_CHECKING:
    from fedrecon.sites.shard import Shard
    from fedrecon.sites.site import Site
    from fedrecon.sites.wire import Order, Scores

Row = dict[str, Any]


def evaluate(
    run: str,
    *,
    sites: str | Path | Mapping[str, str] | None = None,
    mask: str | None = None,
    accelerations: Sequence[float] = (),
    degradation: str | None = None,
    scales: Sequence[int] = (),
    unseen: str | None = None,
    published: Sequence[str] = (),
    fine_tune_epochs: int | None = None,
    workspace: Path | str | None = None,
) -> dict[str, Any]:
    """Scores of a finished run's test subjects under other masks and accelerations, or at other sites.

    Args:
        run: run id, digest or ``latest``.
        sites: a folder of shards or {NAME: PATH}; None takes the run's own sites.
        mask: a mask family; None keeps the experiment's.
        accelerations: one evaluation each; none keeps the experiment's.
        degradation, scales: of super-resolution, in their place.
        unseen: where a site that did not train gets its private part from, if the method has one: ``average``,
            ``nearest`` or ``fine-tune`` (see :mod:`fedrecon.platform.unseen`). Named in the row as ``model``.
        published: sites that agreed to publish their private part, beside those that the experiment names.
        fine_tune_epochs: of a fine-tune; None takes 5.

    Returns:
        ``{"run_id", "digest", "rows": [...]}``; a row has site, mask, acceleration, measured_acceleration, model, psnr,
        ssim, nmse, n_slices, n_volumes, with_data_consistency and zero_filled. ``scores.parquet`` of the evaluation
        lies in the run's folder under ``evaluations/``.

    Raises:
        InputError: no such run, a wrong operator, a test subject that the run trained or validated on, or an unseen
            site without a rule that can be followed.
    """
    trained = Trained.load(Path(workspace) if workspace else default_workspace(), run)
    given = trained.experiment.sites if sites is None else (str(sites) if isinstance(sites, Path) else sites)
    shards = open_sites(given)
    check_places(shards, trained.subjects)
    asked = _asked(trained, {"operator": (mask, accelerations), "degradation": (degradation, scales)})
    operators = [{name: _operator(trained, name, one) for name in shards} for one in asked]
    for one in operators:
        check_masks(shards, one)
    from fedrecon.platform.progress import Progress

    rule = Unseen.of(trained, unseen, published, fine_tune_epochs)
    parts = [columns for one in operators for columns in scored(trained, shards, one, rule, Progress(0).say)]
    return {
        "run_id": (trained.folder.noted() or {}).get("run_id"),
        "digest": trained.folder.digest,
        "rows": [row for columns in parts for row in rows(columns)],
        "scores": _save(trained, parts),
    }


def rows(columns: Mapping[str, Sequence[Any]]) -> list[Row]:
    """One row per site, operator and model from one row per slice."""
    found: dict[tuple[Any, ...], Row] = {}
    for one in site_scores(volume_scores(columns)):
        key = tuple(one[name] for name in ("site", "mask", "acceleration", "model"))
        scores = {metric: one[metric] for metric in METRICS}
        row = found.setdefault(key, dict(zip(("site", "mask", "acceleration", "model"), key, strict=True)))
        if one["stage"] == "output":
            counts = {name: one[name] for name in ("measured_acceleration", "n_slices", "n_volumes")}
            row |= {**scores, **counts}
        else:
            row["with_data_consistency" if one["stage"] == "data_consistency" else one["stage"]] = scores
    return list(found.values())


def scored(
    trained: Trained,
    shards: Mapping[str, Shard],
    operators: Mapping[str, Acquisition],
    unseen: Unseen,
    tell: Callable[[str], None],
    parts: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Scores of the test subjects by site and network that reconstructs there: columns of ``scores.parquet``.

    Args:
        tell: is told how far a method has come that adapts to each slice.
        parts: keeps what a method that adapts has scored already, so that a crash loses one batch.
    """
    from fedrecon.sites.training import threads

    with threads(trained.experiment.resources.threads):
        for name, shard in shards.items():
            for site, model in places(trained, name, shard, operators[name], unseen):
                if trained.experiment.classical is not None and shard.split("validation"):
                    site.tune()
                kept = None if parts is None else parts / f"{name}-{model}"
                columns = dict(Scorer(_One(site), trained.experiment.method, kept, tell)(trained.order, "test").columns)
                columns["model"] = [model for _ in columns["model"]]
                yield columns


class _One:
    """A crew of one site, as far as scores go."""

    def __init__(self, site: Site) -> None:
        self.site, self.members = site, (site.name,)

    def evaluate(self, order: Order, split: str, part: int | None = None) -> list[Scores]:
        return [self.site.evaluate(order, split, part)]


def places(
    trained: Trained, name: str, shard: Shard, operator: Acquisition, unseen: Unseen
) -> Iterator[tuple[Site, str]]:
    """The site with each network that reconstructs there, and that network's name.

    Raises:
        InputError: it did not train, and ``unseen`` does not say where its private part comes from.
    """
    if unseen.rule is not None and name not in trained.members:
        site = RULES[unseen.rule](Place(trained, name, shard, operator, unseen))
        yield site, site.name
        return
    for model in trained.models(name):
        yield trained.site(model, {name: str(shard.path.resolve())}, {name: operator}), model


def _asked(trained: Trained, options: Mapping[str, tuple[str | None, Sequence[float]]]) -> list[dict[str, Any]]:
    """The keys of the operator or degradation that each evaluation changes.

    Args:
        options: by the block that they belong to, a family or None, and how little is measured.

    Raises:
        InputError: the run's task has no such block, or its network cannot take another scale.
    """
    experiment = trained.experiment
    task = TASKS[experiment.task]
    for block, (family, amounts) in options.items():
        if block != task.block and (family is not None or amounts):
            raise InputError(f"this run is of {experiment.task}: {task.flags}, not {BLOCKS[block].flags}")
    family, amounts = options[task.block]
    own = trained.images.scale
    if experiment.fixed_scale and any(scale != own for scale in amounts):
        raise InputError(f"the network '{experiment.network['name']}' of this run was built for scale {own}")
    named: dict[str, Any] = {} if family is None else {task.acquisition.key: family}
    return [{**named, task.measured: one} for one in amounts] or [named]


def _operator(trained: Trained, site: str, changes: Mapping[str, Any]) -> Acquisition:
    """How the run measures at this site (an unseen site: the run's common way) with what was asked for."""
    experiment = trained.experiment
    task = TASKS[experiment.task]
    block = task.acquisition.inherit(experiment.operator_at(site).flat(), changes)
    measured = task.acquisition.read(block, task.flags)
    try:
        check_degradations(experiment.network["name"], [measured] if experiment.trains else [])
        if experiment.classical is not None and experiment.classical.needs_kspace:
            check_kspace(experiment.reconstructor["name"], [measured])
    except ValueError as error:
        raise InputError(str(error)) from None
    return measured


def _save(trained: Trained, parts: Sequence[Mapping[str, Any]]) -> str:
    import hashlib
    import json

    from fedrecon.platform import tables

    columns = tables.join_scores(parts)
    key = [columns[name] for name in ("site", "volume", "slice", "mask", "acceleration", "model")]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    path = trained.folder.path / "evaluations" / f"{name}.parquet"
    path.parent.mkdir(exist_ok=True)
    tables.write_scores(path, columns)
    return str(path)


__all__ = ["GLOBAL", "evaluate", "rows"]
