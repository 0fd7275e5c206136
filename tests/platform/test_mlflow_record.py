"""What MLflow holds of a run beside its scores: parameters, datasets, pictures, models; and what a browser shows."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from memory_store import MemoryStore
from PIL import Image
from plain_pictures import plain_pictures
from test_training_run import finish
from tiny import UNET, make_volume

import fedrecon
from fedrecon.platform.catalogue.registry import register
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.federation.mlflow_metrics import mlflow_metrics
from fedrecon.platform.inference.mlflow_model import LoggedNetwork, _load_pyfunc
from fedrecon.platform.runs.context import RunContext, _run_name
from fedrecon.platform.runs.mlflow_record import params
from fedrecon.platform.runs.run import steps
from fedrecon.platform.storage.tracking.pictures import SMALL, small
from fedrecon.platform.storage.tracking.runs_view import runs_view
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.masks.mask import slice_boxes
from fedrecon.sites.imaging.measurement import as_measured

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """No pixel of a picture is looked at here."""
    with plain_pictures():
        yield


def described(consortium, **changes):
    return {
        "name": "recorded",
        "sites": {name: str(consortium[name]) for name in ("north", "middle")},
        "operator": {"mask": "random", "acceleration": 3},
        "strategy": {"name": "fedavg"},
        "network": UNET,
        "training": {"rounds": 2, "batch_size": 2, "learning_rate": 0.01},
        "evaluation": {"every": 2},
        **changes,
    }


@pytest.fixture(scope="module")
def runs(workspace, consortium):
    """Two runs that differ in their seed."""
    return [fedrecon.run(described(consortium, seed=one), workspace=workspace, in_process=True) for one in (0, 1)]


@pytest.fixture(scope="module")
def undersampled(tmp_path_factory):
    """k-space of one coil (slice, coil, y, x) with every third line and the middle, as a file, and its mask."""
    kspace = make_volume("v", "test", 3, 1, seed=7).kspace.copy()
    lines = np.zeros(kspace.shape[-1], bool)
    lines[::3] = lines[12:20] = True
    kspace *= lines
    path = tmp_path_factory.mktemp("raw") / "raw.npy"
    np.save(path, kspace)
    return path, kspace, np.broadcast_to(lines, kspace[:, 0].shape)


def logged(workspace, run):
    """The runs of the store, and its client."""
    store = run_store(None, workspace)
    return store.client.get_run(run.run_id), store.client


@pytest.mark.slow
def test_few_parameters_tell_runs_apart_and_a_sweep_adds_its_keys(consortium):
    experiment = Experiment.read(described(consortium))
    assert params(experiment) == {
        "strategy.name": "fedavg",
        "network.name": "unet",
        "network.channels": "2",
        "training.rounds": "2",
        "operator.mask": "random",
        "operator.acceleration": "3.0",
        "sites": "middle, north",
        "seed": "0",
    }
    more = params(experiment, ["training.learning_rate", "evaluation"])
    assert more["training.learning_rate"] == "0.01"
    assert more["evaluation.every"] == "2"
    classical = params(Experiment.read({**described(consortium), "reconstructor": "zero_filled"}))
    assert classical["reconstructor.name"] == "zero_filled"
    assert "strategy.name" not in classical
    mixed = {"operator": {"mask": "random", "acceleration": {"uniform": [2, 3]}}}
    assert params(Experiment.read(described(consortium, **mixed)))["operator.acceleration"] == "2-3"


def test_all_that_a_test_changes_is_a_parameter_and_none_of_its_paths(consortium):
    plain = params(Experiment.read(described(consortium)))
    operator = {"acceleration": 2, "center_fraction": 0.1, "noise": 2.0}
    test = {"operator": operator, "unseen": "fine-tune", "fine_tune_epochs": 3, "sites": {"new": "/a/path/new.h5"}}
    given = {"strategy": {"name": "fedper"}, "test": test}
    changed = params(Experiment.read(described(consortium, **given)))
    assert {key: value for key, value in changed.items() if plain.get(key) != value} == {
        "strategy.name": "fedper",
        **{f"test.operator.{key}": str(value) for key, value in operator.items()},
        "test.unseen": "fine-tune",
        "test.fine_tune_epochs": "3",
        "test.sites": "new",
    }
    folder = params(Experiment.read(described(consortium, **{**given, "test": {**test, "sites": "data/others"}})))
    assert folder["test.sites"] == "data/others"
    name = _run_name(Experiment.read(described(consortium, test={"operator": {"acceleration": 2}})))
    assert name.startswith("fedavg unet-2 · random R=3, tested with acceleration=2 · ")


@pytest.mark.parametrize(
    ("at_a_site", "of_all", "most"),
    [
        ({}, {}, 40),
        ({"kernel_distance", "kernel_distance_real", "nearest", "discriminator"}, {}, 54),
        ({"kernel_distance", "kernel_distance_real", "nearest"}, {"within_1", "within_2"}, 54),
    ],
)
def test_as_many_metrics_as_the_page_says(at_a_site, of_all, most):
    """Of four sites: what a network, an adversarial prior and a diffusion prior with a spread give to MLflow."""
    stages = ("", "zero_filled/", "with_data_consistency/")
    scores = {f"{stage}{metric}" for stage in stages for metric in ("psnr", "ssim", "nmse")}
    owners = ("mean", *(f"site/{name}" for name in "abcd"))
    given = {f"{owner}/{one}" for owner in owners for one in {*scores, "loss", "logits"}}
    given |= {f"site/{name}/{one}" for name in "abcd" for one in at_a_site}
    given |= {f"test/{owner}/{one}" for owner in owners for one in scores} | {f"test/mean/{one}" for one in of_all}
    given |= {"seconds", "restarts", "test/seconds_per_slice"} | ({"test/temperature"} if of_all else set())
    given |= {f"traffic/{kind}_{way}" for kind in ("bytes", "extra_bytes") for way in ("up", "down")}
    given |= {f"system/{name}/{one}" for name in "abcd" for one in ("cpu", "memory")}
    shown = mlflow_metrics(dict.fromkeys(given, 0.0))
    assert most - 2 <= len(shown) <= most
    page = (Path(__file__).parents[2] / "docs" / "mlflow.md").read_text()
    assert str(most) in page


def test_a_name_begins_with_what_differs(consortium):
    names = [_run_name(Experiment.read(described(consortium, name="n" * 50, seed=one))) for one in (0, 1)]
    assert names[0].startswith("fedavg unet-2 · random R=3 · 2 rounds · 2 sites · seed 0 · n")
    assert names[0] != names[1]
    assert max(map(len, names)) <= 60


@pytest.mark.slow
def test_the_store_has_params_the_experiment_datasets_and_one_model(workspace, runs, consortium):
    run, client = logged(workspace, runs[0])
    assert len(run.data.params) == 8
    assert {one.path for one in client.list_artifacts(run.info.run_id)} >= {"experiment.json", "report.md"}
    inputs = {one.dataset.name: (one.dataset, one.tags[0].value) for one in run.inputs.dataset_inputs}
    assert sorted(inputs) == sorted(f"{s} {p}" for s in ("north", "middle") for p in ("train", "validation", "test"))
    shard = fedrecon.sites.data.shard.Shard.open(consortium["north"])
    found, context = inputs["north train"]
    assert (found.digest, context) == (shard.content_hash[:36], "train")
    assert json.loads(found.profile) == {"num_rows": 3, "subjects": 1, "volumes": 1, "slices": 3, "simulated": True}
    assert str(consortium["north"]) not in found.source
    (model,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert (model.name, str(model.status)) == ("network", "READY")


@pytest.mark.slow
def test_sending_all_of_it_again_writes_nothing_twice(workspace, runs):
    from fedrecon.platform.storage.journal import Sent
    from fedrecon.platform.storage.tracking.sender import Sender

    journal = RunFolder(workspace, runs[0].digest).journal()
    before = journal.sent
    journal.note_sent(Sent(before.uri, before.owner, before.run_id, 0))
    sender = Sender(workspace)
    sender.deliver(journal.folder)
    sender.close()
    run, client = logged(workspace, runs[0])
    assert len(run.inputs.dataset_inputs) == 6
    assert len(client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")) == 1
    steps_of = [one.path.split("+step+")[1].split("+")[0] for one in client.list_artifacts(run.info.run_id, "images")]
    assert sorted(steps_of) == ["0", "0", "2", "2"]  # a picture of all sites, and its small version


def test_a_wide_picture_lies_at_the_top_of_its_tile():
    made = small(Image.new("RGB", (400, 100), "white"))
    assert made.size == (SMALL, SMALL)
    opaque = np.asarray(made)[..., 3] == 255
    assert opaque[: SMALL // 4].all()
    assert not opaque[SMALL // 4 :].any()


@pytest.mark.slow
def test_round_0_is_pictured_once_and_changes_no_bit(consortium, tmp_path, monkeypatch):
    from fedrecon.platform.federation.scorer import Scorer

    def course(name):
        store = MemoryStore()
        context = RunContext(workspace=tmp_path / name, executor="in-process", store=store)
        return store, steps(Experiment.read(described(consortium)), context)

    store, one = course("cut")
    next(one)
    one.close()
    store, again = course("cut")
    _, result = finish(again)
    pictures = [(key, step) for key, step, _ in store.runs[0].images]
    assert sorted(pictures) == [("panels/sites", 0), ("panels/sites", 2)]
    view = store.views["fedrecon-runs"]["compareRunCharts"]
    assert [one["imageKeys"] for one in view if one["type"] == "IMAGE"] == [["panels/sites"]]
    monkeypatch.setattr(Scorer, "picture", lambda *_: {})
    store, without = course("without")
    digest = finish(without)[1].digest
    states = [RunFolder(tmp_path / name, digest).checkpoints.latest()[0] for name in ("cut", "without")]
    assert states[0].shared.tobytes() == states[1].shared.tobytes()
    assert result.digest == digest


@pytest.mark.slow
def test_sites_are_measured_while_they_train(workspace, runs):
    run, client = logged(workspace, runs[0])
    keys = {key for key in run.data.metrics if key.startswith("system/")}
    assert keys >= {f"system/{s}/{m}_{u}" for s in ("north", "middle") for m, u in (("cpu_utilization", "percentage"),)}
    assert run.data.metrics["system/north/memory_usage_megabytes"] > 50
    assert len(client.get_metric_history(run.info.run_id, "system/north/cpu_utilization_percentage")) == 2


LOAD = """
import sys, mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
kspace = numpy.load(sys.argv[3])
numpy.save(sys.argv[4], model.predict({"kspace": kspace, "mask": (kspace != 0).any(axis=1)}))
"""


@pytest.mark.slow
@pytest.mark.kill
def test_pyfunc_loads_it_in_a_process_of_its_own_and_gives_the_same_pixels(workspace, runs, undersampled, tmp_path):
    import h5py

    source, _, _ = undersampled
    made = register(RunFolder(workspace, runs[0].digest), "knee", "champion")
    assert (made["version"], made["uri"]) == (1, "models:/knee@champion")
    again = register(RunFolder(workspace, runs[1].digest), "knee", "champion")
    assert (again["version"], again["digest"]) == (2, runs[1].digest)
    fedrecon.reconstruct(runs[1].digest, source, tmp_path / "own.h5", workspace=workspace)
    given = [f"sqlite:///{workspace}/mlflow.db", "models:/knee@champion", str(source), str(tmp_path / "pyfunc.npy")]
    subprocess.run([sys.executable, "-c", LOAD, *given], check=True, cwd=tmp_path, timeout=120)
    with h5py.File(tmp_path / "own.h5") as file:
        own = file["raw/reconstruction"][()]
    assert np.array_equal(np.load(tmp_path / "pyfunc.npy"), own)
    for dry_run in (False, True):
        with pytest.raises(InputError, match="nothere"):
            register(RunFolder(workspace, runs[0].digest), "knee", None, "nothere", dry_run)
    looked = register(RunFolder(workspace, runs[0].digest), "knee", "champion", dry_run=True)
    assert (looked["version"], looked["written"]) == (None, False)
    _, client = logged(workspace, runs[0])
    assert client.get_model_version_by_alias("knee", "champion").version == 2
    with pytest.raises(InputError, match="not finished"):
        register(RunFolder(workspace, "0" * 16), "knee")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedbn", "local", "fedper"])
def test_sites_with_networks_of_their_own_have_a_model_only_by_consent(strategy, consortium, tmp_path, undersampled):
    from tiny import NETWORKS

    source, kspace, mask = undersampled
    one = {"strategy": {"name": strategy}, "network": NETWORKS.get(strategy, UNET), "publish_private": ["north"]}
    one["evaluation"] = {"every": 2, "panels": False}  # drawing takes longer than the rest
    store = MemoryStore()
    context = RunContext(workspace=tmp_path, executor="in-process", store=store)
    _, result = finish(steps(Experiment.read(described(consortium, **one)), context))
    assert list(store.runs[0].models) == ["north"]
    step, files = store.runs[0].models["north"]
    assert step == 2
    model = _load_pyfunc(str(files[0].parent))
    own = fedrecon.reconstruct(result.digest, source, tmp_path / "own.h5", site="north", workspace=tmp_path)
    import h5py

    assert own["model"] == "north"
    with h5py.File(tmp_path / "own.h5") as file:
        assert np.array_equal(model.predict({"kspace": kspace, "mask": mask}), file["raw/reconstruction"][()])
    with pytest.raises(InputError, match=r"\(3, 1, 32, 32\) and \(2, 32, 32\)"):
        model.predict({"kspace": kspace, "mask": mask[:2]})


class Kept:
    """A site without images' phase that keeps the measurement and the subject that it is given."""

    device, scoring_batch = torch.device("cpu"), 8
    plan = SimpleNamespace(images=SimpleNamespace(complex_valued=False))

    def reconstruct(self, request, measurement, subject):
        self.given = measurement
        return measurement.zero_filled


def test_a_model_takes_the_phase_of_measured_kspace_whatever_its_training_images_had(undersampled):
    _, kspace, mask = undersampled
    site = Kept()
    LoggedNetwork(Experiment.read({"sites": "d"}), "", (), site, None).predict({"kspace": kspace, "mask": mask})
    wanted = as_measured(torch.from_numpy(kspace), mask, True, slice_boxes("raw", mask))
    assert torch.equal(site.given.zero_filled, wanted.zero_filled)
    assert site.given.noise is None


def test_a_model_is_told_the_noise_of_the_samples(undersampled):
    _, kspace, mask = undersampled
    site = Kept()
    model = LoggedNetwork(Experiment.read({"sites": "d"}), "", (), site, None)
    model.predict({"kspace": kspace, "mask": mask}, {"site": "", "subject": "", "noise": 0.25})
    assert site.given.noise.tolist() == [0.25] * 3
    model.predict({"kspace": kspace, "mask": mask}, {"noise": 0.0})
    assert site.given.noise is None
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"noise = .*a standard deviation is needed"):
            model.predict({"kspace": kspace, "mask": mask}, {"noise": wrong})


@contextmanager
def browser():
    """A page of the system's own Chromium, and what its console says. None is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
    if CHROMIUM is None:
        pytest.skip("this machine has no Chromium")
    with playwright.sync_playwright() as one:
        opened = one.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1600, "height": 1000})
        said = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "console", lambda line: said.append(f"{line.text} {line.location['url']}") if line.type == "error" else 0
        )
        yield page, said
        opened.close()


ITS_OWN = ("/mlflow/users/current", "ResizeObserver loop")
"""What MLflow's page says on its console of itself: it asks who is logged in, where nobody logs in."""


def visible(page, count):
    """The pictures that a tile shows now, in pixels of their files and as seen: at least ``count``."""
    page.wait_for_function(
        "n => [...document.querySelectorAll('img[src*=compressed], .rc-image img')]"
        ".filter(i => i.complete && i.naturalWidth > 1).length >= n",
        arg=count,
        timeout=30_000,
    )
    return page.locator(".rc-image img")


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(200)
def test_a_browser_shows_the_view_the_pictures_and_the_models(workspace, runs):
    from fedrecon.platform.terminal.mlflow_ui import serving

    with browser() as (page, said), serving(workspace) as address:
        base, experiment = address.split("/#/")[0], address.split("/experiments/")[1].split("/")[0]
        page.goto(address)
        page.get_by_text("test/mean/psnr").first.wait_for()
        assert page.get_by_text("network.name").count()
        assert not page.get_by_placeholder("Ask a question").count()  # the Assistant over a quarter of the window
        page.goto(f"{base}/#/experiments/{experiment}/runs/{runs[0].run_id}/model-metrics")
        visible(page, 1)
        tile = page.locator(".rc-image img").first
        shown = np.asarray(Image.open(io.BytesIO(tile.screenshot())).convert("L"), float)
        assert shown[: len(shown) // 4].std() > 5  # the panel is at the top of its tile, and no grey area
        page.goto(f"{address}&compareRunsMode=CHART")
        page.get_by_text("validation/mean/psnr").first.wait_for()
        page.get_by_text("pictures", exact=True).first.scroll_into_view_if_needed()
        page.mouse.move(1000, 600)
        page.mouse.wheel(0, 500)
        pictures = visible(page, 2)
        boxes = [pictures.nth(i).bounding_box() for i in range(2)]
        assert boxes[0]["y"] == boxes[1]["y"]  # side by side
        page.goto(f"{base}/#/experiments/{experiment}/models?workflowType=machine_learning")
        page.get_by_text("network", exact=True).first.wait_for()
        page.get_by_text("Ready").first.wait_for()
    assert [line for line in said if not any(known in line for known in ITS_OWN)] == []


def test_the_view_has_a_tile_for_each_site_whose_name_mlflow_takes():
    charts = runs_view(["panel/t1+gd"])["compareRunCharts"]
    assert charts[-1]["imageKeys"] == ["panel/t1 plus gd"]
    assert (charts[-1]["step"], charts[-1]["showRunParams"]) == (0, False)
    assert charts[0]["metricKey"] == "validation/mean/psnr"
    assert Path(charts[0]["uuid"]).name == "psnr"
