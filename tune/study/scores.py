"""A study's scores: one partitioned Parquet data set, with one row per slice, stage and cell.

:data:`SCHEMA` documents the columns. The partitions are folders ``method=NAME``. To read the data set:

    pandas.read_parquet("workspace/studies/NAME/scores")
    duckdb.sql("select method, avg(ssim) from 'workspace/studies/NAME/scores/*/*.parquet' group by method")
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrecon.platform.federation.aggregate import volume_scores
from fedrecon.platform.federation.attendance import TEST, in_words, missed_by
from fedrecon.platform.storage import parquet
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import RunError, listed
from fedrecon.sites.score_columns import SCORES
from fedrecon.tune.study.analysis.condition import Condition, Missing, Score
from fedrecon.tune.study.matrix import Cell

if TYPE_CHECKING:
    from fedrecon.tune.study.campaign import StudyCampaign

CELL = {
    "trained_on": "string",  # all | all but NAME | NAME | NAME and NAME | nothing; a number of slices may follow
    "trained_with": "string",  # the training's operator; empty if the method's training uses none
    "seed": "int64",  # null without training
    "tested_on": "string",  # the tested site
    "noise": "float64",  # a multiple of the shard's own level
    "seen_site": "bool",  # whether the tested site trained
    "seen_operator": "bool",  # whether the training used the test operator; true if it used none
    "slices_per_site": "float64",  # the mean number of training slices over the sites that trained
    "n_sites": "int64",  # the number of sites that trained
    "run_id": "string",
    "digest": "string",
}
SCHEMA = {**CELL, **{name: kind for name, kind in SCORES.items() if name != "site"}}

Columns = Mapping[str, Sequence[Any]]


def columns_of(cells: Sequence[Cell], run_id: str, scores: Columns) -> dict[str, list[Any]]:
    """The columns of one file of the data set: the cells of one training that one trial fills.

    Args:
        cells: these cells. run_id: the MLflow run of the trial. scores: the columns of the trial's ``scores.parquet``.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA}
    for cell in cells:
        own = [k for k, site in enumerate(scores["site"]) if site == cell.tested_on]
        for name in SCHEMA:
            if name not in CELL:
                columns[name] += [scores[name][k] for k in own]
        about = {**cell.columns(), "slices_per_site": cell.slices_per_site, "run_id": run_id, "digest": cell.digest}
        for name in CELL:
            columns[name] += [about[name]] * len(own)
    return columns


def path_of(folder: Path, cells: Sequence[Cell]) -> Path:
    """The file of these cells' scores. Its name depends only on the cells, so the same cells have the same file."""
    first = cells[0]
    asked = [(cell.tested_on, cell.mask, cell.acceleration, cell.noise) for cell in cells]
    key = repr((first.learned.label, sorted(asked), first.digest))
    name = hashlib.sha256(key.encode()).hexdigest()[:12]
    return folder / f"method={first.method}" / f"{first.digest}-{name}.parquet"


def subjects(cells: Sequence[Cell], columns: Columns, stages: Sequence[str]) -> dict[str, list[Score]]:
    """One score per subject and cell, from a file of the data set, by stage.

    A score belongs to a whole volume. The score of a subject is the mean over its volumes. If the networks of several
    hospitals reconstruct one site, it is the mean over these networks too.

    Args:
        cells: the cells of the file. columns: its columns. stages: the wanted stages.
    """
    named = {**columns, "site": columns["tested_on"]}
    volumes = volume_scores({name: named[name] for name in SCORES})
    runs = dict(zip(columns["tested_on"], columns["run_id"], strict=True))
    found = {}
    for stage in stages:
        rows = [row for row in volumes if row["stage"] == stage]
        found[stage] = [score for cell in cells for score in _scores(cell, rows, runs.get(cell.tested_on, ""))]
    return found


def by_file(cells: Iterable[Cell]) -> list[list[Cell]]:
    """The cells, grouped by file. One file holds the cells of one training that one trial fills."""
    found: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        found[cell.method, cell.sites, cell.trained_with, cell.seed, cell.digest].append(cell)
    return list(found.values())


def _scores(cell: Cell, rows: Sequence[Mapping[str, Any]], run_id: str) -> list[Score]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        same = (row["site"], row["mask"], row["acceleration"]) == (cell.tested_on, cell.mask, cell.acceleration)
        if same:
            found[row["subject"]].append(row)
    return [
        Score(
            **cell.part(Condition),
            slices_per_site=cell.slices_per_site,
            subject=subject,
            psnr=float(np.mean([row["psnr"] for row in own])),
            ssim=float(np.mean([row["ssim"] for row in own])),
            nmse=float(np.mean([row["nmse"] for row in own])),
            n_slices=sum(int(row["n_slices"]) for row in own if row["model"] == own[0]["model"]),
            run_id=run_id,
            digest=cell.digest,
        )
        for subject, own in sorted(found.items())
    ]


def scores(campaign: StudyCampaign) -> list[Score]:
    """One score per subject and cell, of all finished trials, of the stage that the study scores."""
    stage = campaign.chosen.test.stage
    return by_stage(campaign, [stage])[stage]


def by_stage(
    campaign: StudyCampaign, stages: Sequence[str], keep: bool = False, data: str = "scores"
) -> dict[str, list[Score]]:
    """One score per subject and cell, of all finished trials, by stage. Each file is read once.

    Args:
        campaign: the call of the study. stages: the stages, such as ``output`` or ``zero_filled``.
        keep: True writes the missing files of the data set and deletes the files of trials that are not planned or not
            finished.
        data: ``scores`` of the test subjects, or ``validation``. Runs of older versions have no ``validation.parquet``:
            their cells then have no validation scores.
    """
    folder = campaign.trial_table.folder / data
    done = {row.trial.digest: row.run_id for row in campaign.trial_table.rows if row.status == "FINISHED"}
    open_store = cache(lambda: run_store(campaign.tracking_uri, campaign.workspace))
    found: dict[str, list[Score]] = {stage: [] for stage in stages}
    planned = set[Path]()
    for cells in by_file(campaign.matrix.cells):
        run_id = done.get(cells[0].digest)
        if run_id is None:
            continue
        record = RunFolder(campaign.workspace, cells[0].digest).journal().artifact_path(f"{data}.parquet")
        path = path_of(folder, cells)
        kept = parquet.read_table(path) if path.is_file() else None
        if data == "validation" and kept is None and record is None and not run_id:
            continue
        if kept is None or not run_id or set(kept["run_id"]) != {run_id}:
            # An earlier version kept no journal, so the scores are in MLflow alone.
            try:
                columns = parquet.read_scores(record or open_store().local_artifact(run_id, f"{data}.parquet"))
            except RunError:
                if data == "scores":
                    raise
                continue
            kept = columns_of(cells, run_id, columns)
            if keep:
                parquet.write_table(path, kept, SCHEMA)
        planned.add(path)
        for stage, own in subjects(cells, kept, stages).items():
            found[stage] += own
    for path in set(folder.glob("*/*.parquet")) - planned if keep else ():
        path.unlink()
    return found


DIED = "died and was not scored"
"""The reason of a missing cell whose run went on without the tested site."""


def missing(campaign: StudyCampaign, found: Iterable[Score]) -> list[Missing]:
    """The cells without scores: their trial has no result, or it ended without scores of their site.

    A run with ``resources.min_sites`` ends without a site that died. A mean over the sites that are left is another
    one, so it must not stand where the mean over all of them is asked.

    Args:
        campaign: the call of the study. found: the scores of the stage that the study scores.
    """
    scored, unrun = {Condition(**one.part(Condition)) for one in found}, campaign.reasons()
    lost = []
    for cell in campaign.matrix.cells:
        if cell.digest not in unrun and (one := Condition(**cell.part(Condition))) not in scored:
            missed = missed_by(RunFolder(campaign.workspace, cell.digest))[1]
            died = any(cell.tested_on in each for each in missed.values())
            lost.append(Missing(**one.part(Condition), reason=DIED if died else "not scored by its run"))
    return [*campaign.missing(), *lost]


def diverged(campaign: StudyCampaign) -> str:
    """The finished trainings that diverged, in words; empty without one."""
    texts = []
    for row in campaign.trial_table.rows:
        result = RunFolder(campaign.workspace, row.trial.digest).result() if row.status == "FINISHED" else None
        if result and result.get("environment", {}).get("diverged"):
            texts.append(row.trial.name)
    return f"Trainings that diverged, so that their scores say little: {listed(texts, 6)}." if texts else ""


def lost_replies(campaign: StudyCampaign) -> str:
    """The finished trainings that went on without replies of sites, in words; empty without one."""
    texts = []
    for row in campaign.trial_table.rows:
        missed = missed_by(RunFolder(campaign.workspace, row.trial.digest))[1] if row.status == "FINISHED" else {}
        if missed and (row.trial.experiment.test is None or TEST in missed):  # a test repeats what its training missed
            texts.append(f"{row.trial.name} without {in_words(missed)}")
    return f"Runs that went on without replies of sites: {listed(texts, 6)}." if texts else ""
