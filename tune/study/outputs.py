"""The outputs of a study: its data set of scores and its report, in its folder and in its own MLflow run."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.consortium.shards import n_slices
from fedrecon.platform.reporting.document import Files, Picture
from fedrecon.platform.storage.journal import RunRecord
from fedrecon.platform.storage.tracking.runs_view import charts
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.tracking.tracker import STUDIES
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites import atomic
from fedrecon.sites.plugin import science_of
from fedrecon.tune.engine.mlflow_view import address
from fedrecon.tune.engine.records import CampaignRecords
from fedrecon.tune.study.analysis.inputs import Findings, Score
from fedrecon.tune.study.citations import citations
from fedrecon.tune.study.panels import panels
from fedrecon.tune.study.scores import by_stage, diverged, lost_replies, missing

if TYPE_CHECKING:
    from fedrecon.sites.data.shard import Shard
    from fedrecon.tune.study.campaign import StudyCampaign
    from fedrecon.tune.study.matrix import Matrix

POOLED = (
    "one network cannot have both the updates and the passes of a site that trains alone: strategy.budget chooses "
    "(updates or passes; without it updates if local_steps counts, else passes); the table of methods states both"
)
UNSEEN = {
    "average": "the average of the others' weights",
    "nearest": "that of the hospital whose images are most alike",
    "fine-tune": "trained on its own training subjects",
    None: "none",
}
VERSIONS = ("torch", "numpy", "ray", "mlflow")


def write_outputs(campaign: StudyCampaign, records: CampaignRecords) -> str | None:
    """Writes all outputs of a study.

    Args:
        campaign: the call of the study. records: the journals of its trials and of the study.

    Returns:
        the address of the MLflow page that shows the study's runs; None if MLflow has not got them.
    """
    name, key = campaign.chosen.name, f"fedrecon-study-{campaign.chosen.name}"
    records.verdicts("study", campaign.tags)
    experiment = records.view(key, view(name))
    stage = campaign.chosen.test.stage
    scores = by_stage(campaign, [stage, "zero_filled"], keep=True)
    validation = by_stage(campaign, [stage], keep=True, data="validation")[stage]
    found = findings(campaign, scores[stage], experiment, scores["zero_filled"], validation) if scores[stage] else None
    files = _report(campaign, found) if found else []
    if not found:  # that of an earlier call is of other scores
        shutil.rmtree(campaign.report, ignore_errors=True)
    kept = sorted((campaign.trial_table.folder / "scores").glob("*/*.parquet"))
    records.conclude(_record(campaign), {}, [*((path, f"scores/{path.parent.name}") for path in kept), *files])
    return records.address(experiment, key)


def findings(
    campaign: StudyCampaign,
    found: list[Score],
    experiment_id: str | None,
    zero_filled: Sequence[Score] = (),
    validation: Sequence[Score] = (),
) -> Findings:
    """The content of the report.

    Args:
        found: the scores. experiment_id: the id of the MLflow experiment that holds the trials' runs; None if MLflow
            has not got them, and then a link leads to MLflow's first page.
        zero_filled: the scores of the zero-filled images of the same cells.
        validation: the scores of the validation subjects in these cells.
    """
    study, matrix = campaign.chosen, campaign.matrix
    runs = {one.digest: one.run_id for one in found}
    host = address("", "", campaign.tracking_uri).partition("#")[0]
    simulated = [name for name, shard in matrix.shards.items() if shard.simulated]
    return Findings(
        study=study.name,
        title=study.title or study.name,
        status=campaign.status(),
        methods=matrix.methods,
        scores=[replace(one, run_id=one.digest) for one in found],  # digests keep their order in every workspace
        missing=missing(campaign, found),
        facts=facts(campaign),
        citations=citations(matrix),
        panels=panels(campaign),
        run_url=lambda digest: host + (f"#/experiments/{experiment_id}/runs/{runs[digest]}" if experiment_id else ""),
        references=study.references,
        notes=[
            *notes(matrix),
            *(f"{line}." for line in campaign.replaced()),
            *filter(None, [lost_replies(campaign), diverged(campaign)]),
        ],
        synthetic=len(simulated) == len(matrix.shards),
        zero_filled={
            (one.tested_on, one.mask, one.acceleration, one.noise, one.subject): one.psnr for one in zero_filled
        },
        validation=list(validation),
        reference=matrix.whole.evaluation.reference,
    )


def notes(matrix: Matrix) -> Iterator[str]:
    """Yields the notes of the report: facts about these methods at these sites that limit a comparison."""
    experiments = {one.name: matrix.experiment(one.name) for one in matrix.methods}
    classical = {name: one.classical for name, one in experiments.items() if one.classical is not None}
    coils = [name for name, one in classical.items() if one.needs_coils]
    single = [name for name, shard in matrix.shards.items() if {volume.n_coils for volume in shard.volumes} == {1}]
    if coils and single:
        have = "has" if len(coils) == 1 else "have"
        yield f"At {', '.join(single)} there is one coil: {', '.join(coils)} {have} nothing to go by there."
    if tuned := [name for name, one in experiments.items() if one.classical is not None and one.classical.tried()[1:]]:
        yield (
            f"{', '.join(tuned)}: tuned on validation subjects of the tested hospital, for each operator, whether it "
            "trained or not. A network knows nothing of a hospital that did not train."
        )
    if matrix.study.searched:
        yield (
            f"{', '.join(matrix.study.searched)}: searched for each method, so twins may differ in it. What ran gives "
            "each method's own."
        )
    transferred = {cell.method for cell in matrix.cells if cell.seed is not None and not cell.seen_site}
    away = [one for one in matrix.methods if one.name in transferred]
    if alone := [one.label for one in away if matrix.private(one.name)[1]]:
        yield f"{', '.join(alone)} at a hospital that did not train: the mean of the scores of the others' networks."
    parts = [one.label for one in away if one.personal and one.label not in alone]
    if parts:
        rule = UNSEEN[matrix.study.test.unseen]
        yield f"{', '.join(parts)} at a hospital that did not train: its private part is {rule}."


def facts(campaign: StudyCampaign) -> dict[str, str]:
    """The facts of the report: runs, settings, data, machines and software, each with its label."""
    rows, matrix = campaign.trial_table.rows, campaign.matrix
    trainings = [row for row in rows if row.trial.experiment.trains and row.trial.experiment.test is None]
    machines = [_machine(RunFolder(campaign.workspace, row.trial.digest)) for row in trainings]
    return {
        "trainings": str(len({row.trial.training_digest for row in trainings})),
        "evaluations": f"{len(rows) - len(trainings)} beside the trainings' own, {len(rows)} runs in all",
        "seconds of all trials together": f"{sum(row.seconds for row in rows):.0f}",
        "seeds": _seeds(campaign),
        "test slices": _slices(campaign),
        "training, where a method says no other": _training(campaign),
        "operator of the base": ", ".join(f"{k} {v}" for k, v in matrix.whole.measured.items()),
        **({"pooled": POOLED} if any(one.moved_data for one in matrix.methods) else {}),
        "commits": ", ".join(_commits(campaign)) or "unknown",
        "compared with": matrix.whole.evaluation.against.removeprefix("against "),
        "scored": {"output": "the methods' own output"}.get(
            campaign.chosen.test.stage, "the output with the measured samples put back"
        ),
        "machines": "; ".join(sorted({one for one in machines if one})) or "one process",
        "software": ", ".join(
            [f"python {platform.python_version()}", *(f"{v} {metadata.version(v)}" for v in VERSIONS)]
        ),
        **{f"data of {name}": _data(shard) for name, shard in matrix.shards.items()},
        **{f"parameters of {one.name}": _size(campaign, one.name) for one in matrix.methods if one.trains},
    }


def view(name: str) -> dict[str, Any]:
    """The view of a study on MLflow's page of runs: its runs, with the settings of training and test and the scores."""
    keys = ["strategy.name", "network.name", "reconstructor.name", "seed", "operator.mask", "operator.acceleration"]
    tested = ["test.operator.mask", "test.operator.acceleration", "test.operator.noise"]
    scored = ["test/mean/psnr", "test/mean/ssim"]
    return {
        "searchFilter": f"tags.`fedrecon.study.{name}` LIKE '%'",
        "orderByKey": "attributes.`Run Name`",
        "orderByAsc": True,
        "lifecycleFilter": "Active",
        "startTime": "ALL",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [
            "attributes.`Created`",
            *(f"params.`{key}`" for key in [*keys, *tested]),
            *(f"metrics.`{key}`" for key in scored),
        ],
        **charts(scored),
    }


def _report(campaign: StudyCampaign, found: Findings) -> list[tuple[Path, str]]:
    """Writes the files of the report. Returns each path with its folder among the MLflow artifacts."""
    from fedrecon.platform.reporting.html import page
    from fedrecon.platform.reporting.markdown import markdown
    from fedrecon.tune.study.analysis.analyse import analyse
    from fedrecon.tune.study.report.figures import draw
    from fedrecon.tune.study.report.sections import document

    computed = analyse(found)
    whole = document(found, computed, draw(found, computed))
    pasted = [
        one for section in whole.sections for part in section.parts if isinstance(part, Files) for one in part.tables
    ]
    figures = [part for section in whole.sections for part in section.parts if isinstance(part, Picture)]
    files: dict[str, str | bytes] = {
        "index.html": page(whole, found.run_url),
        "report.md": markdown(whole, found.run_url),
        "citations.bib": "\n\n".join(found.citations) + "\n",
        **{f"tables/{table.name}.tex": latex for table, latex, _ in pasted},
        **{f"figures/{one.name}.png": one.png for one in figures},
        **{f"figures/{one.name}.svg": one.svg for one in figures if one.svg},
    }
    for old in ("figures", "tables"):
        shutil.rmtree(campaign.report / old, ignore_errors=True)
    for name, content in files.items():
        atomic.write_bytes(campaign.report / name, content.encode() if isinstance(content, str) else content)
    return [(campaign.report / name, str(Path("report", name).parent)) for name in files]


def _record(campaign: StudyCampaign) -> RunRecord:
    """The record of the study's own run in MLflow."""
    study = campaign.chosen
    params = {
        "methods": ", ".join(study.methods),
        "train.sites": str(study.train.sites),
        "test.sites": str(study.test.sites),
        "seeds": ", ".join(map(str, study.seeds)),
    }
    return RunRecord(STUDIES, study.name, f"study-{study.name}", params, {"fedrecon.study": study.name})


def _training(campaign: StudyCampaign) -> str:
    science = science_of(campaign.matrix.whole.fitting)
    if science.get("local_steps") is not None:
        science.pop("local_epochs", None)
    return ", ".join(f"{key} {value}" for key, value in science.items())


def _size(campaign: StudyCampaign, method: str) -> str:
    """The number of parameters that a method trains, as text; empty without a network."""
    from fedrecon.platform.consortium.network import network_layout

    layout = network_layout(campaign.matrix.experiment(method), campaign.matrix.shards)
    return "" if layout is None else f"{layout.n_shared + len(layout.private):,}"


def _seeds(campaign: StudyCampaign) -> str:
    study = campaign.chosen
    own = [f"{name}: {', '.join(map(str, seeds))}" for name, seeds in study.seeds_of.items()]
    return "; ".join([", ".join(map(str, study.seeds)), *own])


def _slices(campaign: StudyCampaign) -> str:
    """The number of test slices and test subjects of each site, as text."""
    limit = campaign.matrix.whole.evaluation.slices_of("test")
    texts = []
    for name, shard in campaign.matrix.shards.items():
        n_subjects = len({volume.subject for volume in shard.scorable("test")})
        texts.append(
            f"{name}: {n_slices(shard, 'test', limit)} slices of {n_subjects} subject{'s' * (n_subjects != 1)}"
        )
    return "; ".join(texts)


def _commits(campaign: StudyCampaign) -> list[str]:
    """The git commit of the working directory, from the run of the first trial that has one; empty if unknown."""
    known = [row for row in campaign.trial_table.rows if row.run_id][:1]
    tags = [RunFolder(campaign.workspace, row.trial.digest).journal().tags for row in known]
    if not any(tags):  # an earlier version made the run: it has no journal
        store = run_store(campaign.tracking_uri, campaign.workspace)
        tags = [dict(store.find(str(row.run_id)).tags) for row in known]
    return sorted({commit[:12] for one in tags if (commit := one.get("mlflow.source.git.commit"))})


def _machine(folder: RunFolder) -> str:
    members: Mapping[str, Any] = (folder.environment() or {}).get("members", {})
    kinds = {(one["device"], one["threads"], one["instruction_set"]) for one in members.values()}
    return ", ".join(
        f"{device}, {threads} thread{'s' * (threads != 1)} a site, {kind}" for device, threads, kind in sorted(kinds)
    )


def _data(shard: Shard) -> str:
    counts = ", ".join(f"{len({v.subject for v in shard.split(s)})} {s}" for s in ("train", "validation", "test"))
    kinds = sorted({f"{v.shape[0]} x {v.shape[1]}, {v.n_coils} coil{'s' * (v.n_coils > 1)}" for v in shard.volumes})
    origin = f"{shard.attributes.get('origin', 'unknown origin')}, phase {shard.phase}"
    simulated = "; simulated k-space" if shard.simulated else "; measured k-space"
    return f"{'; '.join(kinds)}; {origin}{simulated}; subjects: {counts}; content {shard.content_hash[:12]}"
