"""A run whose method tells the spread of its error: calibrated, covered, drawn, and used by what comes after."""

import json
import shutil

import h5py
import numpy as np
import pytest
from tiny import DENOISER

import fedrecon
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.federation.coverage import coverage, coverage_metrics, in_words, temperature
from fedrecon.platform.federation.mlflow_metrics import mlflow_metrics
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.runs.report import scores_table
from fedrecon.platform.runs.run import run
from fedrecon.platform.runs.transfer_run import calibration
from fedrecon.platform.storage import parquet
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import InputError
from fedrecon.sites.score_columns import NOMINAL, SCORES, SPREADS
from fedrecon.sites.scoring.panel import panel

pytestmark = pytest.mark.usefixtures("few_drawn")
SAMPLES = {"samples": 3, "steps": 2}


@pytest.fixture(scope="module")
def finished(consortium, mlflow_template, tmp_path_factory):
    """A run with a spread in its workspace, and the same with other samples at another operator."""
    workspace = tmp_path_factory.mktemp("coverage")
    shutil.copy(mlflow_template / "mlflow.db", workspace / "mlflow.db")
    given = {
        "sites": {site: str(consortium[site]) for site in ("north", "middle")},
        "strategy": {"name": "feddiff", "splitting": {"steps": 2}, "uncertainty": SAMPLES},
        "network": DENOISER,
        "training": {"rounds": 1, "batch_size": 2},
        "evaluation": {"max_slices": 1},
    }
    return run(given, workspace=workspace, in_process=True), workspace, given


@pytest.mark.slow
def test_a_run_reports_its_temperature_and_coverage(finished):
    result, workspace, _ = finished
    folder = RunFolder(workspace, result.digest)
    columns = {
        name: parquet.read_scores(folder.journal().artifact_path(f"{name}.parquet"))
        for name in ("scores", "validation")
    }
    assert list(columns["scores"]) == [*SCORES, *SPREADS]
    assert pytest.approx({"within_1": 0.682689492137, "within_2": 0.954499736104}) == NOMINAL  # and not 0.9545: 95.4 %
    assert result.uncertainty == {"temperature": temperature(columns["validation"]), "nominal": NOMINAL}
    told = columns["scores"]["object_pixels"]
    assert [count > 0 for count in told] == [stage == "output" for stage in columns["scores"]["stage"]]
    for (site,), one in coverage(columns["scores"]).items():
        assert result.sites[site]["coverage"] == one
        assert 0 <= one["within_1"] <= one["within_2"] <= 1
        assert one["against"] == "measured"  # these shards hold no truth
    saved = json.loads(json.dumps(folder.result()))
    assert saved["uncertainty"]["temperature"] == result.uncertainty["temperature"]
    metrics = coverage_metrics(result.as_dict(), 1.5)
    assert set(metrics) == {"test/mean/within_1", "test/mean/within_2", "test/temperature"}
    assert mlflow_metrics(metrics) == metrics
    assert scores_table(result.as_dict()).splitlines()[0].count("spread") == 2
    assert f"{result.uncertainty['temperature']:.2f}" in in_words(result.uncertainty)


@pytest.mark.slow
def test_what_comes_after_takes_the_temperature_of_the_run(finished, consortium, tmp_path):
    result, workspace, given = finished
    factor = result.uncertainty["temperature"]
    found = fedrecon.evaluate(result.digest, mask="gaussian2d", accelerations=[2], workspace=workspace)
    assert found["uncertainty"]["temperature"] == factor
    assert all(row["coverage"]["n_pixels"] > 0 for row in [*found["rows"], *found["means"]])
    source = consortium["north"]
    done = fedrecon.reconstruct(result.digest, source, tmp_path / "made.h5", workspace=workspace)
    assert done["uncertainty"]["temperature"] == factor
    with h5py.File(tmp_path / "made.h5") as file:
        shapes = {name: (group["uncertainty"].shape, group["reconstruction"].shape) for name, group in file.items()}
        volume = next(iter(file))
        spread = file[volume]["uncertainty"][()]
    assert all(one == other for one, other in shapes.values())
    assert spread.dtype == np.float32
    raw = TrainedRun.load(workspace, result.digest)
    assert raw.temperature == factor
    with pytest.raises(InputError, match=r"calibrated.*strategy.uncertainty.samples=0"):
        raw.changed(["strategy.uncertainty.steps=3"])
    assert raw.changed(["strategy.uncertainty.samples=0"]).experiment.method.has_spread is False
    undrawn = {**given, "evaluation": {**given["evaluation"], "panels": False}}
    with_test = {**undrawn, "test": {"operator": {"mask": "gaussian2d", "acceleration": 2}}}
    tested = run(with_test, workspace=workspace, in_process=True)
    assert (tested.trained_rounds, tested.uncertainty["temperature"]) == (0, factor)
    assert tested.mean["coverage"]["n_pixels"] == result.mean["coverage"]["n_pixels"]


@pytest.mark.slow
def test_a_transfer_test_has_the_temperature_of_its_own_operator(finished):
    """A prior sees no operator, so any run has its training: in a used workspace T is that of a fresh one."""
    result, workspace, given = finished
    undrawn = {**given["evaluation"], "panels": False}
    asked = {**given, "operator": {"mask": "random", "acceleration": 8}, "evaluation": undrawn}
    tested = run({**asked, "test": {"operator": {"acceleration": 2}}}, workspace=workspace, in_process=True)
    alone = run(asked, workspace=workspace, in_process=True)
    assert alone.training_digest == result.training_digest
    assert (tested.trained_rounds, alone.trained_rounds) == (0, 0)
    assert tested.uncertainty == alone.uncertainty != result.uncertainty


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("operator.acceleration=3", False),
        ("operator.per_site.b.acceleration=3", False),
        ("operator.per_site.elsewhere.acceleration=3", True),
        ("evaluation.mask_seed=1", False),
        ("evaluation.reference=truth", False),
        ("evaluation.max_slices=2", False),
        ("evaluation.max_slices={validation: 2}", False),
        ("evaluation.max_slices={test: 2}", True),
        ("evaluation.every=2", True),
        ("evaluation.panels=false", True),
    ],
)
def test_what_decides_the_temperature(change, same):
    raw = {"sites": "data", "strategy": "feddiff", "operator": {"mask": "random", "acceleration": 4}}
    one, other = Experiment.read(raw), Experiment.read(raw, [change])
    assert (calibration(one, ("a", "b")) == calibration(other, ("a", "b"))) is same


def test_both_reasons_for_a_missing_temperature_are_named():
    said = in_words({"temperature": None, "nominal": NOMINAL})
    assert "not calibrated: there are no validation subjects, or the samples of a site do not differ;" in said


@pytest.mark.slow
def test_a_panel_shows_the_spread_beside_the_error(finished):
    from PIL import Image

    result, workspace, _ = finished
    pictures = list((RunFolder(workspace, result.digest).path / "panels").glob("*.png"))
    assert pictures
    image = np.linspace(0, 1, 32 * 32).reshape(32, 32)

    def width(*reference, **more):
        from io import BytesIO

        return Image.open(BytesIO(panel(*reference, image, image, 1.0, "", **more))).width

    one = width(image, spread=image) - width(image)
    assert width(None, spread=image) - width(None) == pytest.approx(one, abs=1)
    assert one > 200
    with Image.open(pictures[0]) as drawn:
        assert drawn.width == width(image, spread=image)
