"""Scores a trained run under other operators or at other sites. It trains only for the rule ``fine-tune``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypedDict

from fedrecon.platform.config.fitting import check_degradations, network_of
from fedrecon.platform.config.science import science_version
from fedrecon.platform.config.tasks import BLOCKS, TASKS, check_kspace
from fedrecon.platform.consortium.checks import check_masks, check_same_hospitals, check_test_sites, scored_sites
from fedrecon.platform.consortium.consent import UnseenPolicy, what_leaves
from fedrecon.platform.consortium.shards import open_sites
from fedrecon.platform.execution.wire_log import WIRE_LINES, WireLog
from fedrecon.platform.federation.aggregate import site_scores, summarise, volume_scores
from fedrecon.platform.federation.coverage import coverage, uncertainty
from fedrecon.platform.inference.pictures import SitePictures
from fedrecon.platform.inference.scoring import scored
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.storage.workspace import default_workspace
from fedrecon.sites import debris
from fedrecon.sites.acquisition.setting import Acquisition
from fedrecon.sites.data.volume import used_slices
from fedrecon.sites.errors import InputError, brief, listed, tell
from fedrecon.sites.phases import phase
from fedrecon.sites.score_columns import GLOBAL, METRICS

if TYPE_CHECKING:
    from fedrecon.sites.data.shard import Shard

Row = dict[str, Any]
KEYS = ("site", "mask", "acceleration", "model")
"""The keys that tell the rows of an evaluation from each other."""


class EvaluationResult(TypedDict):
    """The result of an evaluation: the JSON of ``fedrecon evaluate --json``.

    Attributes:
        run_id: run id of the evaluated run.
        digest: digest of the run's experiment.
        rows: one row for each site, operator and model, with site, mask, acceleration, measured_acceleration, model,
            psnr (dB), ssim, nmse, n_slices, n_volumes, with_data_consistency and zero_filled; with ``coverage`` if the
            method tells the spread of its error: :func:`fedrecon.platform.federation.coverage.coverage`.
        means: one row for each operator, with the same keys: the unweighted mean over the sites. ``mask``,
            ``acceleration`` and ``model`` are None where the sites differ in them.
        scores: path of a Parquet table with the columns of ``scores.parquet``, one row per slice and stage; None for a
            dry run.
        pictures: the paths of the pictures: one test slice for each row, of the sites of which pictures may leave.
        uncertainty: the temperature of the spread and the nominal coverage; empty without a spread.
        reference: what the scores are compared with, ``measured`` or ``truth`` (``evaluation.reference``).
        science_version: the version of the science that scored here (:mod:`fedrecon.platform.config.science`).
        run_science_version: the one that made the run and its own scores; None for a run of before version 2.
    """

    run_id: str | None
    digest: str
    rows: list[Row]
    means: list[Row]
    scores: str | None
    pictures: list[str]
    uncertainty: dict[str, Any]
    reference: str
    science_version: int
    run_science_version: int | None


def evaluate(
    run: str,
    overrides: Sequence[str] = (),
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
    dry_run: bool = False,
) -> EvaluationResult:
    """Scores the network of a finished run on test subjects: under other operators, or at other sites.

    Args:
        run: run id, digest or its beginning, name, or ``latest``.
        overrides: changes to the run's experiment that concern no training, each as ``key.path=value``: of the blocks
            in :data:`fedrecon.platform.inference.trained_run.CHANGEABLE`.
        sites: a folder of shards, or {NAME: PATH}; None takes the run's own sites.
        mask: a mask family; None keeps the experiment's mask.
        accelerations: acceleration factors, with one evaluation for each; empty keeps the experiment's.
        degradation, scales: the same two settings for a super-resolution run, instead of mask and accelerations.
        unseen: the rule that gives a private part of the network to a site that did not train, if the method has
            private parts: ``average``, ``nearest`` or ``fine-tune`` (see
            :mod:`fedrecon.platform.inference.unseen_sites`). The column ``model`` then names the rule.
        published: sites that agreed to publish their private part, in addition to those that the experiment names.
        fine_tune_epochs: number of epochs for ``fine-tune``; None takes 5.
        workspace: the folder of the runs; None takes FEDRECON_WORKSPACE or ./workspace.
        dry_run: check all that is given and score nothing. A row then has the operator and the number of slices.

    Returns:
        the rows of scores, see :class:`EvaluationResult`. The table of all slices and the pictures are written to the
        run's folder, under ``evaluations/``.

    Raises:
        InputError: no such run, a wrong operator, a test subject that the run trained or validated on, or an unseen
            site for which there is no rule, or a rule that cannot be applied.
        RunError: a checkpoint or a private part of the run is lost.

    Example:
        >>> import fedrecon
        >>> found = fedrecon.evaluate("latest", mask="random", accelerations=[2, 4])
        >>> sorted({row["acceleration"] for row in found["rows"]})
        [2.0, 4.0]
    """
    trained = TrainedRun.chosen(Path(workspace) if workspace else default_workspace(), run).changed(overrides)
    given = trained.experiment.sites if sites is None else (str(sites) if isinstance(sites, Path) else sites)
    opened = open_sites(given, key="--sites")
    shards = scored_sites(trained.experiment, opened) if sites is None else opened
    check_same_hospitals(shards, trained.hospitals)
    if sites is None:
        _check_same_data(trained, opened)
    truth, all_volumes = trained.experiment.evaluation.reference == "truth", not trained.experiment.self_supervised
    check_test_sites(shards, trained.subjects, trained.scans, truth, all_volumes)
    check_amounts("accelerations", accelerations)
    check_amounts("scales", scales)
    asked = _asked(trained, {"operator": (mask, accelerations), "degradation": (degradation, scales)})
    operators = [{name: _operator(trained, name, one) for name in shards} for one in asked]
    for one in operators:
        check_masks(shards, one, trained.experiment.classical)
    # The run's own file: it notes all that ever left by this run.
    log = WireLog(trained.folder.path / WIRE_LINES, trained.state.round)
    if unseen is not None and not set(shards) - {*trained.images.sites}:
        raise InputError(f"--unseen {unseen} acts at sites that did not train, and all of these did: {listed(shards)}")
    rule = UnseenPolicy.of(trained.members, trained.experiment.publish_private, unseen, published, fine_tune_epochs)
    for line in () if dry_run else what_leaves(trained.experiment, shards):
        tell(line)
    pictures, parts = SitePictures(trained), list[list[dict[str, Any]]]()
    with phase("scoring sites", len(operators) * len(shards)) as done:
        for one in () if dry_run else operators:
            parts.append([*scored(trained, shards, one, rule, tell, wire_log=log, pictures=pictures, done=done)])
    asked_for = {
        "shards": {name: shard.content_hash for name, shard in shards.items()},
        "operators": [{name: one.flat() for name, one in each.items()} for each in operators],
        "experiment": trained.experiment.as_dict(),
        "unseen": [rule.rule, rule.epochs, *sorted(published)],
    }
    columns = [one for part in parts for one in part]
    table, drawn = (None, []) if dry_run else _save(trained, asked_for, columns, pictures)
    limit, each = trained.experiment.evaluation.slices_of("test"), operators if dry_run else []
    planned = [_planned(name, shards[name], operator, limit) for one in each for name, operator in one.items()]
    means = [_mean_row(part) for part in parts]
    return {
        "run_id": (trained.folder.noted() or {}).get("run_id"),
        "digest": trained.folder.digest,
        "rows": planned or [row for part in parts for columns in part for row in rows(columns)],
        "means": means,
        "scores": table,
        "pictures": drawn,
        "uncertainty": uncertainty(trained.temperature) if any("coverage" in one for one in means) else {},
        "reference": trained.experiment.evaluation.reference,
        "science_version": science_version(trained.experiment.trains),
        "run_science_version": (trained.folder.noted() or {}).get("science_version"),
    }


def check_amounts(name: str, given: Any) -> None:
    """Refuses what is no list: of text, each character would be a number.

    Raises:
        InputError: the message names the argument.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(f"{name}: a list of numbers is needed, got {brief(given)}")


def _check_same_data(trained: TrainedRun, shards: Mapping[str, Shard]) -> None:
    """Refuses a shard of the run that was written anew since, that is gone, or that the run had not.

    Raises:
        InputError: the message names the sites, or the site and both content hashes.
    """
    own = (trained.folder.noted() or {}).get("subjects", shards)
    gone, new = ([one for one in these if one not in those] for these, those in ((own, shards), (shards, own)))
    if changed := [*(f"{one} is gone" for one in gone), *(f"{one} is new" for one in new)]:
        raise InputError(
            f"the sites of run {trained.folder.digest} are not those of {brief(trained.experiment.sites)} today: "
            f"{', '.join(changed)}. If other data are meant, name them by --sites."
        )
    members = (trained.folder.environment() or {}).get("members", {})
    known = {site: one for member in members.values() for site, one in (member.get("shards") or {}).items()}
    for name, shard in shards.items():
        if (was := known.get(name, shard.content_hash)) != shard.content_hash:
            raise InputError(
                f"site '{name}': {shard.path} is not the shard of run {trained.folder.digest} (its content hash is "
                f"{shard.content_hash[:12]}, the run's was {was[:12]}). If other data are meant, name them by --sites."
            )


def rows(columns: Mapping[str, Sequence[Any]]) -> list[Row]:
    """Makes one row per site, operator and model from one row per slice."""
    found: dict[tuple[Any, ...], Row] = {}
    for one in site_scores(volume_scores(columns)):
        key = tuple(one[name] for name in KEYS)
        scores = {metric: one[metric] for metric in METRICS}
        row = found.setdefault(key, dict(zip(KEYS, key, strict=True)))
        if one["stage"] == "output":
            counts = {name: one[name] for name in ("measured_acceleration", "n_slices", "n_volumes")}
            row |= {**scores, **counts}
        else:
            row["with_data_consistency" if one["stage"] == "data_consistency" else one["stage"]] = scores
    for group, covered in coverage(columns, KEYS).items():
        found[group]["coverage"] = covered
    return list(found.values())


def _mean_row(parts: Sequence[Mapping[str, Any]]) -> Row:
    """The unweighted mean over the sites under one operator, see :func:`summarise`."""
    from fedrecon.platform.storage.parquet import join_scores

    found = [row for columns in parts for row in rows(columns)]
    row: Row = {"site": "mean"}
    for key in ("mask", "acceleration", "model"):
        values = {one[key] for one in found}
        row[key] = values.pop() if len(values) == 1 else None
    of_sites: dict[str, list[float]] = {}  # a site counts once, whatever the number of its networks
    for one in found:
        of_sites.setdefault(one["site"], []).append(one["measured_acceleration"])
    measured = fmean(fmean(own) for own in of_sites.values())
    return {**row, "measured_acceleration": measured, **summarise(join_scores(parts))["mean"]}


def _planned(site: str, shard: Shard, operator: Acquisition, limit: int | None) -> Row:
    """The row of a site of which at most ``limit`` slices would be scored."""
    used = used_slices(shard.scorable("test"), limit)
    counts = {"n_slices": len(used), "n_volumes": len({volume.name for volume, _ in used})}
    return {"site": site, "operator": operator.described(), **counts}


def _asked(trained: TrainedRun, options: Mapping[str, tuple[str | None, Sequence[float]]]) -> list[dict[str, Any]]:
    """The changed keys of the operator or degradation, one mapping for each evaluation.

    Args:
        options: a family (or None) and the accelerations or scales, by the experiment's block to which they belong.

    Raises:
        InputError: the run's task does not have this block, or the network was built for another scale.
    """
    experiment = trained.experiment
    task = TASKS[experiment.task]
    for block, (family, amounts) in options.items():
        if block != task.block and (family is not None or amounts):
            raise InputError(f"this is a {experiment.task} run: use {task.flags}, not {BLOCKS[block].flags}")
    family, amounts = options[task.block]
    if twice := [f"{one:g}" for one in dict.fromkeys(amounts) if list(amounts).count(one) > 1]:
        raise InputError(f"{task.measured} {', '.join(twice)}: given more than once; its scores would count twice")
    own = trained.images.scale
    if experiment.fixed_scale and any(scale != own for scale in amounts):
        raise InputError(f"the network '{experiment.network['name']}' of this run was built for scale {own}")
    named: dict[str, Any] = {} if family is None else {task.acquisition.key: family}
    return [{**named, task.measured: one} for one in amounts] or [named]


def _operator(trained: TrainedRun, site: str, changes: Mapping[str, Any]) -> Acquisition:
    """The run's operator at this site, with the changed keys. An unseen site takes the run's common operator."""
    experiment = trained.experiment
    task = experiment.own_task
    block = task.acquisition.inherit(experiment.operator_at(site).flat(), changes)
    measured = task.read(block, task.flags)
    try:
        check_degradations(*network_of(vars(experiment)), [measured] if experiment.trains else [])
        if experiment.classical is not None and experiment.classical.needs_kspace:
            check_kspace(experiment.reconstructor["name"], [measured])
    except ValueError as error:
        raise InputError(str(error)) from None
    return measured


def _save(
    trained: TrainedRun, asked_for: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], pictures: SitePictures
) -> tuple[str, list[str]]:
    """Writes the scores of all slices and the pictures. Returns their paths.

    Args:
        asked_for: all that can change a score of this run. Two evaluations that differ in it have different files.
    """
    import hashlib
    import json

    from fedrecon.platform.storage import parquet

    columns = parquet.join_scores(parts)
    name = hashlib.sha256(json.dumps(asked_for, sort_keys=True, default=str).encode()).hexdigest()[:12]
    path = trained.folder.path / "evaluations" / f"{name}.parquet"
    path.parent.mkdir(exist_ok=True)
    debris.sweep(path.parent)
    parquet.write_scores(path, columns)
    return str(path), pictures.write(path.with_suffix(""))


__all__ = ["GLOBAL", "evaluate", "rows"]
