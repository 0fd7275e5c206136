"""The result of a run, and its artifacts in MLflow: weights, private parts, pictures, tables, report, experiment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.consortium.network import check_part
from fedrecon.platform.federation.coverage import calibrated
from fedrecon.platform.runs.mlflow_record import write_models
from fedrecon.platform.runs.report import SSIM_PAPER, report, scores_table
from fedrecon.platform.storage import parquet
from fedrecon.sites import atomic, debris
from fedrecon.sites.extension.bibtex import paper_of
from fedrecon.sites.phases import phase

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.execution.executor import Executor
    from fedrecon.platform.execution.wire_log import WireLog
    from fedrecon.platform.federation.mosaic import Mosaic
    from fedrecon.platform.storage.tracking.tracker import Tracker
    from fedrecon.platform.storage.workspace import RunFolder
    from fedrecon.sites.acquisition.setting import Acquisition
    from fedrecon.sites.wire import PrivatePart, State


NOTE = "mlflow.note.content"
"""The tag of a run's description in MLflow."""

ANEW, ALREADY = "anew", "it was finished already"
"""Where a call began: with a new training, or with a result that was there."""

_LONGEST_NOTE = 8000  # the most characters of a tag


def took_over(source: RunFolder) -> str:
    """Where a call began that trained nothing, because the run in the folder has the same training."""
    return f"took over the training of run {source.digest}"


@dataclass(frozen=True)
class Result:
    """The result of a run; :meth:`as_dict` is the JSON of ``fedrecon run --json``.

    Attributes:
        run_id: id of the run in the tracker.
        digest: digest of the experiment.
        status: ``finished``.
        rounds: number of committed rounds.
        resumed_from: number of rounds that were trained before this call; 0 for a new run.
        trained_rounds: number of rounds that this call trained.
        bytes_up, bytes_down: bytes of parameters from and to the members, summed over rounds and members.
        sites: scores of the test subjects by site: psnr (dB), ssim, nmse, n_volumes, n_slices, with_data_consistency
            and zero_filled.
        mean: the unweighted mean over the sites, with the same keys.
        seconds_per_slice: mean seconds that a member takes to reconstruct one test slice.
        missing_sites: members that stayed dead, if ``min_sites`` let the run go on without them.
        missed: replies that the run went on without: the reason by member, by round or ``test``.
        restarts: number of site processes that died, or did not answer in time, and came back in committed rounds and
            in the last call.
        name: name of the experiment.
        training_digest: digest of the training alone; None if nothing is trained.
        kept_round: the round that is tested and exported, with ``training.keep: best``; None is the last one.
        validation: the validation scores of that round, by their names in JSON.
        uncertainty: if the method tells the spread of its error: its ``temperature``, found on validation subjects
            (None without any), and the ``nominal`` coverage of a normal distribution. ``sites`` and ``mean`` then have
            a ``coverage``: see :func:`fedrecon.platform.federation.coverage.coverage`.
        environment: hardware and software of the run, and the sites whose k-space was simulated.
        began: where this call began: ``anew``, ``went on after round N``, ``took over the training of run DIGEST`` or
            :data:`ALREADY`.
    """

    run_id: str
    digest: str
    status: str
    rounds: int
    resumed_from: int
    trained_rounds: int
    bytes_up: int
    bytes_down: int
    sites: Mapping[str, Any]
    mean: Mapping[str, Any]
    seconds_per_slice: float = 0.0
    missing_sites: Sequence[str] = ()
    missed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    restarts: int = 0
    name: str = ""
    training_digest: str | None = None
    kept_round: int | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    uncertainty: Mapping[str, Any] = field(default_factory=dict)
    began: str = ANEW

    @classmethod
    def found(cls, kept: Mapping[str, Any]) -> Result:
        """The result of a run that was finished before this call; ``kept`` is the one in its folder."""
        return cls(**{**kept, "resumed_from": kept["rounds"], "trained_rounds": 0, "began": ALREADY})

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON types."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class FinishedRun:
    """A run that has its scores, but not yet its artifacts.

    Attributes:
        experiment: the experiment of the run.
        result: the result as JSON types.
        state: the state after the last round.
        rounds: rows of ``rounds.parquet``.
        scores: columns of ``scores.parquet`` (test subjects).
        layout: the network's :class:`Parameters`; None if no weights are written.
        wire_log: the record of what crossed the walls of the sites.
        validation: columns of ``validation.parquet`` (validation subjects, after the last round, under the operators of
            ``scores``). A study chooses the best method by them. Sites without validation subjects have no rows.
        images: the images for which the network was built; None if no weights are written.
    """

    experiment: Experiment
    result: Mapping[str, Any]
    state: State
    rounds: Sequence[Mapping[str, Any]]
    scores: Mapping[str, Any]
    layout: Any
    wire_log: WireLog
    validation: Mapping[str, Any]
    images: Any = None


def write_artifacts(
    tracker: Tracker,
    folder: RunFolder,
    finished: FinishedRun,
    executor: Executor,
    published: Sequence[str],
    mosaic: Mosaic,
    trouble: Callable[[str], None],
) -> None:
    """Writes the artifacts of a finished run. ``trouble`` is told of a picture that cannot be drawn."""
    write_tables(tracker, folder, finished)
    request = finished.experiment.method.scoring_request(finished.state)
    given = executor.private_parts(request, published) if published else {}
    parts = {member: check_part(part, finished.layout) for member, part in given.items()}
    write_private(tracker, folder, parts)
    step, own = finished.state.round, {member: part.parameters for member, part in parts.items()}
    write_models(tracker, folder, finished.experiment, finished.layout, finished.images, step, own)
    _write_panels(tracker, folder.path / "panels", finished, executor, mosaic, trouble)
    write_wire(tracker, folder, finished.wire_log)


def write_tables(tracker: Tracker, folder: RunFolder, finished: FinishedRun) -> None:
    """Writes the experiment, its scores, its rounds, the report and the shared weights among the run's artifacts.

    The table of scores is also the run's note, which MLflow shows first.
    """
    tracker.set_tags({NOTE: scores_table(finished.result)[:_LONGEST_NOTE]})
    with debris.scratch(folder.path) as into:
        _write_files(into, finished)
        for path in sorted(into.iterdir()):
            tracker.artifact(path)


def _write_files(into: Path, finished: FinishedRun) -> None:
    atomic.write_json(into / "experiment.json", finished.experiment.as_dict())
    parquet.write_scores(into / "scores.parquet", finished.scores)
    parquet.write_scores(into / "validation.parquet", finished.validation)
    parquet.write_rounds(into / "rounds.parquet", finished.rounds)
    citations = cited(finished.experiment)
    moved = finished.experiment.trains and finished.experiment.method.moves_data
    text = report(finished.result, finished.experiment.shown(), citations, finished.result["environment"], moved)
    atomic.write_text(into / "report.md", text)
    if finished.layout is not None:
        _write_weights(into / "weights.safetensors", finished)


def _write_panels(
    tracker: Tracker,
    into: Path,
    finished: FinishedRun,
    executor: Executor,
    mosaic: Mosaic,
    trouble: Callable[[str], None],
) -> None:
    """Writes one test slice of each site to the run's folder and MLflow: a file for each, or the mosaic of many."""
    if not mosaic.sites:
        return
    experiment = finished.experiment
    note = f"test, {experiment.strategy['name'] if experiment.trains else experiment.reconstructor['name']}"
    with phase("drawing panels"):
        request = experiment.method.scoring_request(finished.state)
        factor = finished.result.get("uncertainty", {}).get("temperature")
        answers = executor.panels(calibrated(request, factor), mosaic.task("test", note))
    pictures = mosaic.pictures(answers, trouble)
    for name, png in (pictures if mosaic.few else mosaic.joined("sites", pictures, note, trouble)).items():
        path = into / f"{name}.png"
        atomic.write_bytes(path, png)
        tracker.artifact(path, "panels")


def cited(experiment: Experiment) -> list[str]:
    """The ``paper`` of each plug-in that ran (strategy, network, reconstructor, masks, degradations), and of SSIM."""
    return [*method_papers(experiment), *(one.paper for one in operators(experiment)), SSIM_PAPER]


def method_papers(experiment: Experiment) -> list[str]:
    """The ``paper`` of the strategy and of the network, or of the reconstructor, as BibTeX."""
    if experiment.trains:
        network = experiment.registry("networks")[experiment.network["name"]].load()
        return [paper_of(type(experiment.method)), paper_of(network)]
    assert experiment.classical is not None
    return [paper_of(type(experiment.classical))]


def operators(experiment: Experiment) -> list[Acquisition]:
    """The experiment's operators: the common one first, then the operator of each site that ``per_site`` names."""
    return [experiment.operator_at(site) for site in ("", *experiment.measured.get("per_site", {}))]


def _write_weights(path: Path, finished: FinishedRun) -> None:
    from safetensors.numpy import save_file

    shared = finished.experiment.method.scoring_request(finished.state).shared
    named = finished.layout.named(shared, shared=True)
    with atomic.replacing(path) as temporary:
        save_file({name: value.copy() for name, value in named.items()}, temporary)


def write_private(tracker: Tracker, folder: RunFolder, parts: Mapping[str, PrivatePart]) -> None:
    """Writes private parts of members that consented among the run's artifacts, and notes whose they are."""
    from safetensors.numpy import save_file

    if not parts:
        return
    with debris.scratch(folder.path) as scratch:
        for member, part in parts.items():
            path = scratch / f"{member}.safetensors"
            save_file({name: value.copy() for name, value in part.parameters.items()}, path)
            tracker.artifact(path, "private")
    folder.note_published([*folder.published(), *parts])


def write_wire(tracker: Tracker, folder: RunFolder, wire_log: WireLog) -> None:
    """Writes ``wire.parquet``, the record of all that crossed the walls of the sites."""
    with debris.scratch(folder.path) as scratch:
        path = scratch / "wire.parquet"
        parquet.write_wire(path, wire_log.rows)
        tracker.artifact(path)
