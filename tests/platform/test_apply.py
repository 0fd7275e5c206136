"""A finished run applied: whose operator measures a file, what is said of it, and the means of an evaluation."""

import json
import shutil
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from command_line import Called
from PIL import Image
from tiny import make_volume

import fedrecon
from fedrecon.platform.config.resources import Resources
from fedrecon.platform.execution.placement import check_here, in_words
from fedrecon.platform.storage.parquet import read_scores
from fedrecon.sites.data.shard import write_shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.wire import Description

RATES = {"middle": 4, "north": 2, "south": 3}


@pytest.fixture(scope="module")
def runs(consortium, workspace):
    """Two runs of a method without training: each site has its own acceleration, or all have the same."""
    base = {
        "sites": {name: str(path) for name, path in consortium.items()},
        "reconstructor": "zero_filled",
        "evaluation": {"panels": False},
    }
    operator = {"mask": "random", "acceleration": 4, "center_fraction": 0.1}
    own = {**operator, "per_site": {name: {"acceleration": rate} for name, rate in RATES.items()}}
    return {
        name: fedrecon.run({**base, "name": name, "operator": one}, workspace=workspace, in_process=True)
        for name, one in {"own": own, "alike": operator}.items()
    }


@pytest.mark.slow
def test_a_shard_is_known_by_its_data_where_the_run_gave_its_name_to_another(consortium, mlflow_template, tmp_path):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    shutil.copy(mlflow_template / "mlflow.db", workspace)
    sites = {"x": str(consortium["middle"]), "middle": str(consortium["north"])}
    own = {"mask": "random", "acceleration": 3, "per_site": {"x": {"acceleration": 2}, "middle": {"acceleration": 4}}}
    run = {"name": "renamed", "sites": sites, "operator": own, "reconstructor": "zero_filled"}
    fedrecon.run({**run, "evaluation": {"panels": False}}, workspace=workspace, in_process=True)
    for site, name in (("x", "middle"), ("middle", "north")):
        found = fedrecon.reconstruct("renamed", consortium[name], tmp_path / f"{site}.h5", workspace=workspace)
        assert found["site"] == site
    with pytest.raises(InputError, match="--site"):  # a hospital that the run does not know
        fedrecon.reconstruct("renamed", consortium["south"], tmp_path / "south.h5", workspace=workspace)


def undersampled():
    """K-space of one coil, measured where no operator of a run would."""
    rng = np.random.default_rng(0)
    mask = rng.random((32, 32)) < 0.4
    mask[12:21, 11:22] = True
    return (rng.standard_normal((1, 32, 32)) + 1j * rng.standard_normal((1, 32, 32))).astype(np.complex64) * mask


@pytest.mark.slow
@pytest.mark.parametrize("site", RATES)
def test_a_shard_is_measured_by_the_operator_of_the_site_that_it_names(runs, workspace, consortium, tmp_path, site):
    """The scores of the file are those of the run at that site, and of no other."""
    found = fedrecon.reconstruct("own", consortium[site], tmp_path / "x.h5", workspace=workspace)
    assert found["site"] == site
    (volume,) = (one for one in found["volumes"] if one["name"] == f"{site}-test")
    assert volume["operator"] == f"random R={RATES[site]}"
    assert volume["split"] == "test subject"
    assert {one["split"] for one in found["volumes"]} == {"train subject", "validation subject", "test subject"}
    with h5py.File(tmp_path / "x.h5") as file:
        group = file[f"{site}-test"]
        error = np.sum((group["zero_filled"][()] - group["reference"][()]) ** 2)
        nmse = error / np.sum(group["reference"][()] ** 2)
    assert nmse == pytest.approx(runs["own"].sites[site]["zero_filled"]["nmse"], rel=1e-4)


@pytest.mark.slow
def test_a_file_that_names_no_site_is_refused_where_the_sites_differ_and_only_there(
    runs, workspace, consortium, tmp_path
):
    write_shard(tmp_path / "e.h5", "elsewhere", [make_volume("e", "test", 1, 1, 0)], simulated=True, phase="smooth")
    for dry_run in (False, True):
        with pytest.raises(InputError, match=r"--site which: middle .*R=4.*north .*R=2"):
            fedrecon.reconstruct("own", tmp_path / "e.h5", tmp_path / "x.h5", workspace=workspace, dry_run=dry_run)
    alike = fedrecon.reconstruct("alike", tmp_path / "e.h5", tmp_path / "x.h5", workspace=workspace)
    assert (alike["site"], alike["volumes"][0]["split"]) == (None, "not of the run")
    named = fedrecon.reconstruct("own", tmp_path / "e.h5", tmp_path / "y.h5", site="north", workspace=workspace)
    assert named["volumes"][0]["operator"] == "random R=2"
    np.save(tmp_path / "scan.npy", undersampled())  # measured already: no operator is asked
    measured = fedrecon.reconstruct("own", tmp_path / "scan.npy", tmp_path / "z.h5", workspace=workspace)
    assert measured["volumes"][0]["operator"] == "as measured"


def test_a_dry_run_writes_nothing(runs, workspace, consortium, tmp_path):
    done = fedrecon.reconstruct("own", consortium["north"], tmp_path / "x.h5", workspace=workspace, dry_run=True)
    assert (done["volumes"], list(tmp_path.iterdir())) == ([], [])
    before = sorted(workspace.rglob("*"))
    planned = fedrecon.evaluate("own", accelerations=[2, 3], workspace=workspace, dry_run=True)
    assert [(row["site"], row["operator"], row["n_slices"]) for row in planned["rows"]][:2] == [
        ("middle", "random R=2", 2),
        ("north", "random R=2", 2),
    ]
    assert (planned["means"], planned["scores"], planned["pictures"]) == ([], None, [])
    assert sorted(workspace.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wide"), [("north", 4), ("scan", 2)])
def test_a_picture_is_the_panel_of_the_run(runs, workspace, consortium, tmp_path, monkeypatch, name, wide):
    """Four images a slice with a reference, two without; the caption says site, split, operator and run."""
    from fedrecon.sites.scoring import panel

    said, draw = [], panel.panel
    monkeypatch.setattr(panel, "panel", lambda *given, **more: said.append(given[4]) or draw(*given, **more))
    source = consortium["north"]
    if name == "scan":
        np.save(source := tmp_path / "scan.npy", undersampled())
    out = tmp_path / "x.png"
    assert fedrecon.reconstruct("own", source, out, workspace=workspace)["output"] == str(out)
    digest = runs["own"].digest[:8]
    first = f"north · north-test · slice 0 · random R=2 · test subject · run {digest}"
    assert said[0] == (first if name == "north" else f"scan · slice 0 · as measured · subject unknown · run {digest}")
    with Image.open(out) as image:
        assert image.width > wide * 2.3 * 110
        assert image.width < (wide + 1) * 2.3 * 110


@pytest.mark.slow
def test_the_mean_of_an_evaluation_is_the_unweighted_mean_of_its_rows(runs, workspace):
    found = fedrecon.evaluate("own", accelerations=[2, 4], workspace=workspace)
    assert [(row["mask"], row["acceleration"], row["model"]) for row in found["means"]] == [
        ("random", 2.0, "global"),
        ("random", 4.0, "global"),
    ]
    for mean in found["means"]:
        rows = [row for row in found["rows"] if row["acceleration"] == mean["acceleration"]]
        assert len(rows) == 3
        for metric in ("psnr", "ssim", "nmse"):
            assert mean[metric] == pytest.approx(np.mean([row[metric] for row in rows]))
            assert mean["zero_filled"][metric] == pytest.approx(np.mean([row["zero_filled"][metric] for row in rows]))
        assert mean["n_slices"] == sum(row["n_slices"] for row in rows)
    own = fedrecon.evaluate("own", workspace=workspace)
    assert (own["means"][0]["mask"], own["means"][0]["acceleration"]) == ("random", None)  # each site its own
    assert own["means"][0]["psnr"] == pytest.approx(runs["own"].mean["psnr"])


@pytest.mark.slow
def test_an_evaluation_draws_where_pictures_may_leave(runs, workspace):
    found = fedrecon.evaluate("own", ["evaluation.panels=auto"], workspace=workspace)
    names = [path.rsplit("/", 1)[1] for path in found["pictures"]]
    assert names == ["middle-random_R_4.png", "north-random_R_2.png", "south-random_R_3.png"]
    assert set(read_scores(found["scores"])["site"]) == set(RATES)
    assert fedrecon.evaluate("own", workspace=workspace)["pictures"] == []


@pytest.mark.slow
def test_an_override_acts_and_one_of_the_training_is_refused(runs, workspace):
    given = fedrecon.evaluate("alike", ["operator.acceleration=2"], workspace=workspace)
    asked = fedrecon.evaluate("alike", accelerations=[2], workspace=workspace)
    assert given["means"] == asked["means"]
    with pytest.raises(InputError, match=r"name: .*operator\.KEY") as refused:
        fedrecon.evaluate("alike", ["name=other"], workspace=workspace)
    assert refused.value.unknown == ("name",)
    for key in ("evaluation.every=2", "resources.gpus_per_site=0"):  # neither would change anything
        with pytest.raises(InputError, match=key.partition("=")[0]):
            fedrecon.evaluate("alike", [key], workspace=workspace)


def test_a_changed_operator_reconstructs_and_is_noted(runs, workspace, consortium, tmp_path):
    changed = ["operator.acceleration=2"]
    found = fedrecon.reconstruct("alike", consortium["north"], tmp_path / "x.h5", changed, workspace=workspace)
    assert {one["operator"] for one in found["volumes"]} == {"random R=2"}
    with h5py.File(tmp_path / "x.h5") as file:
        assert {group.attrs["operator"] for group in file.values()} == {"random R=2"}
        rate = file["north-test/mask"].size / file["north-test/mask"][()].sum()
    assert rate == pytest.approx(2, rel=0.1)
    with pytest.raises(InputError, match="name: "):
        fedrecon.reconstruct("alike", consortium["north"], tmp_path / "y.h5", ["name=x"], workspace=workspace)


@pytest.mark.slow
def test_evaluations_that_differ_in_anything_have_tables_of_their_own(runs, workspace):
    changes = ([], ["operator.noise=4"], ["operator.center_fraction=0.2"], ["evaluation.mask_seed=7"])
    found = [fedrecon.evaluate("alike", list(one), accelerations=[2], workspace=workspace) for one in changes]
    assert len({one["scores"] for one in found}) == len(changes)
    assert found[1]["rows"][0]["psnr"] < found[0]["rows"][0]["psnr"]
    again = fedrecon.evaluate("alike", accelerations=[2], workspace=workspace)
    assert again["scores"] == found[0]["scores"]
    planned = fedrecon.evaluate("alike", ["operator.noise=4"], workspace=workspace, dry_run=True)
    assert planned["rows"][0]["operator"] == "random R=4 noise 4"
    with pytest.raises(InputError, match="acceleration 4: given more than once"):
        fedrecon.evaluate("alike", accelerations=[4, 2, 4], workspace=workspace)


@pytest.mark.slow
def test_the_table_has_units_split_and_the_paths(runs, workspace, capsys):
    called = Called(capsys, "evaluate", "--acceleration", "2", "alike", "--workspace", workspace)
    assert called.code == 0
    for word in ("test PSNR (dB)", "test slices", "with DC (dB)", "mean", ".parquet"):
        assert word in called.out
    assert runs["alike"].digest in called.err
    answer = Called(capsys, "evaluate", "alike", "--json", "--workspace", workspace)
    assert answer.code == 0, answer.err
    assert set(json.loads(answer.out)) >= {"digest", "run_id", "rows", "means", "scores", "pictures"}


@pytest.mark.parametrize(
    ("given", "in_process", "refused"),
    [
        ({"gpus_per_site": 1}, True, True), ({"gpus_per_site": 1}, False, True), ({"gpus_per_site": 0.5}, False, True),
        ({"gpus_per_site": 1, "crew": "in-process"}, False, True), ({"gpus_per_site": 0}, True, False),
        ({}, True, False), ({"gpus_per_site": 0}, False, False),
    ],
)  # fmt: skip
def test_gpus_that_no_site_can_have_are_refused_at_once(monkeypatch, given, in_process, refused):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    wrong = pytest.raises(InputError, match="gpus_per_site") if refused else nullcontext()
    with wrong:
        check_here(Resources(**given), in_process, None)
    check_here(Resources(gpus_per_site=1), False, "10.0.0.1:6379")  # the nodes of a cluster are not known yet


def test_devices_shares_and_threads_are_said_of_sites_that_are_alike_in_one_line():
    def member(name, device, threads=1):
        return Description(name, 1, device, threads, "2", "AVX2", {})

    members = {"a": member("a", "cpu"), "b": member("b", "H200"), "c": member("c", "cpu"), "d": member("d", "H200", 2)}
    assert in_words(members, {"a": 0.0, "b": 0.5, "c": 0.0, "d": 0.25}) == [
        "a, c: cpu, 1 thread each", "b: H200, 0.5 GPU, 1 thread", "d: H200, 0.25 GPU, 2 threads",
    ]  # fmt: skip
    assert in_words({"b": members["b"]}, {}) == ["b: H200, shared by the sites of this process, 1 thread"]


@pytest.mark.slow
def test_a_dry_run_of_a_run_writes_nothing_and_knows_its_digest(runs, workspace, consortium, tmp_path, capsys):
    import yaml

    content = {"sites": {name: str(path) for name, path in consortium.items()}, "reconstructor": "zero_filled"}
    content["evaluation"] = {"panels": False}
    content |= {"name": "alike", "operator": {"mask": "random", "acceleration": 4, "center_fraction": 0.1}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
    before = sorted(workspace.rglob("*"))
    called = Called(capsys, "run", "--dry-run", "--json", tmp_path / "x.yaml", "--workspace", workspace)
    found = called.json
    assert (found["digest"], found["begins"]) == (runs["alike"].digest, "finished already")
    assert found["slices"]["north"]["test"] == 2
    other = ("operator.acceleration=3", "--workspace", workspace)
    anew = Called(capsys, "run", "--dry-run", tmp_path / "x.yaml", "--json", *other)
    assert (anew.json["begins"], anew.json["digest"] != found["digest"]) == ("anew", True)
    for option, given in (("--address", "127.0.0.1:9"), ("--tracking-uri", "http://127.0.0.1:9")):
        refused = Called(capsys, "run", "--dry-run", tmp_path / "x.yaml", option, given, "--workspace", workspace)
        assert refused.code in (1, 2)
        assert "127.0.0.1:9" in refused.err
    assert sorted(workspace.rglob("*")) == before


def test_a_dry_run_of_sync_tells_what_a_store_has_not_got(runs, workspace, tmp_path, capsys):
    before = sorted(workspace.rglob("*"))
    names = sorted(f"runs/{one.digest}" for one in runs.values())
    found = Called(capsys, "sync", "--dry-run", "--json", "--workspace", workspace).json
    assert (found["sent"], sorted(found["complete"])) == ([], names)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    found = Called(capsys, "sync", "--dry-run", "--json", "--workspace", workspace, "--tracking-uri", other).json
    assert (sorted(found["sent"]), found["complete"]) == (names, [])
    assert (sorted(workspace.rglob("*")), list(tmp_path.iterdir())) == (before, [])


def test_a_dry_run_of_an_export_counts_what_the_export_has(runs, workspace, tmp_path, capsys):
    given = ("runs", "export", "own", "--out", tmp_path / "e", "--json", "--workspace", workspace)
    planned = Called(capsys, *given, "--dry-run").json
    assert (planned["written"], list(tmp_path.iterdir())) == (False, [])
    done = Called(capsys, *given).json
    assert {**planned, "written": True} == done
