"""The command line as typed: JSON, exit codes, one message for what is wrong, and what a finished run gives."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import Called
from plain_pictures import plain_pictures
from safetensors.numpy import load_file
from tiny import UNET, write_consortium

from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.storage.parquet import read_rounds, read_scores
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.sites.errors import InputError, RunError
from fedrecon.sites.imaging.masks.mask import calibration_box

RUN_KEYS = {"run_id", "digest", "status", "rounds", "resumed_from", "trained_rounds", "bytes_up", "bytes_down"}
ROW_KEYS = {"site", "mask", "acceleration", "measured_acceleration", "model", "n_slices", "with_data_consistency"}


def written(folder: Path, consortium: dict[str, Path], **changes) -> Path:
    import yaml

    experiment = {
        "name": "tiny",
        "sites": {name: str(path) for name, path in consortium.items()},
        "operator": {"mask": "random", "acceleration": 2, "center_fraction": 0.1},
        "network": UNET,
        "training": {"rounds": 2, "batch_size": 2},
        "evaluation": {"every": 1, "panels": False},
        **changes,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """No pixel of a picture is looked at here."""
    with plain_pictures():
        yield


@pytest.fixture
def call(capsys):
    return lambda *arguments: Called(capsys, *arguments)


@pytest.fixture(scope="module")
def trained(consortium, workspace, tmp_path_factory):
    """Two finished runs in the workspace with a store: fedavg, which draws pictures, and local."""
    import fedrecon

    folder = tmp_path_factory.mktemp("experiments")
    path = written(folder, consortium, evaluation={"every": 2, "panels": True})
    results = {
        name: fedrecon.run(path, [f"strategy.name={name}", *more], workspace=workspace, in_process=True)
        for name, more in {"local": ["evaluation.panels=false"], "fedavg": []}.items()
    }
    return path, workspace, results


@pytest.mark.slow
def test_run_json_has_the_promised_keys_and_finished_runs_are_not_run_again(call, trained):
    path, workspace, results = trained
    again = call("run", path, "--in-process", "--workspace", workspace, "--json")
    assert again.code == 0
    found = again.json
    assert set(found) >= RUN_KEYS | {"sites", "mean"}
    assert found["run_id"] == results["fedavg"].run_id
    assert (found["status"], found["rounds"], found["trained_rounds"], found["resumed_from"]) == ("finished", 2, 0, 2)
    for scores in [*found["sites"].values(), found["mean"]]:
        assert set(scores) == {"psnr", "ssim", "nmse", "n_volumes", "n_slices", "with_data_consistency", "zero_filled"}
    sites = found["sites"].values()
    assert found["mean"]["psnr"] == pytest.approx(np.mean([one["psnr"] for one in sites]))
    n_parameters = sum(
        v.size for v in load_file(_artifact(workspace, results["fedavg"], "weights.safetensors")).values()
    )
    assert found["bytes_up"] == found["bytes_down"] == 2 * 3 * 4 * n_parameters


def _artifact(workspace, result, name):
    return run_store(None, workspace).local_artifact(result.run_id, name)


@pytest.mark.slow
def test_artifacts_of_a_run(trained):
    _, workspace, results = trained
    rounds = read_rounds(_artifact(workspace, results["fedavg"], "rounds.parquet"))
    assert [row["round"] for row in rounds] == [1, 2]
    assert all(row["replied"] == ["middle", "north", "south"] for row in rounds)
    scores = read_scores(_artifact(workspace, results["fedavg"], "scores.parquet"))
    assert set(scores["split"]) == {"test"}
    assert len(scores["site"]) == 3 * 2 * 3  # sites, slices, stages
    report = _artifact(workspace, results["fedavg"], "report.md").read_text()
    assert "mcmahan2017fedavg" in report
    assert results["fedavg"].digest in report
    experiment = json.loads(_artifact(workspace, results["fedavg"], "experiment.json").read_text())
    assert experiment["network"]["channels"] == UNET["channels"]
    assert _artifact(workspace, results["fedavg"], "panels/north.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_local_shares_nothing_and_its_parts_are_published_when_it_is_asked_again_with_consent(trained):
    path, workspace, results = trained
    assert results["local"].bytes_up == results["local"].bytes_down == 0
    assert load_file(_artifact(workspace, results["local"], "weights.safetensors")) == {}
    with pytest.raises(RunError, match="no artifact 'private/north"):
        _artifact(workspace, results["local"], "private/north.safetensors")

    import fedrecon

    again = fedrecon.run(
        path,
        ["strategy.name=local", "evaluation.panels=false", "publish_private=[north, south]"],
        workspace=workspace,
        in_process=True,
    )
    assert (again.run_id, again.trained_rounds) == (results["local"].run_id, 0)
    parts = {
        s: load_file(_artifact(workspace, results["local"], f"private/{s}.safetensors")) for s in ("north", "south")
    }
    assert parts["north"].keys() == parts["south"].keys()
    assert any(not np.array_equal(parts["north"][name], parts["south"][name]) for name in parts["north"])
    with pytest.raises(RunError, match="no artifact 'private/middle"):
        _artifact(workspace, results["local"], "private/middle.safetensors")


@pytest.mark.slow
def test_evaluate_under_the_run_s_own_operator_gives_the_run_s_own_scores(call, trained):
    _, workspace, results = trained
    found = call("evaluate", results["fedavg"].digest, "--workspace", workspace, "--json")
    assert found.code == 0
    for row in found.json["rows"]:
        assert set(row) >= ROW_KEYS
        assert row["model"] == "global"
        assert row["psnr"] == pytest.approx(results["fedavg"].sites[row["site"]]["psnr"], abs=1e-9)


@pytest.mark.slow
def test_evaluate_other_operators(trained):
    _, workspace, results = trained
    rows = evaluate(results["fedavg"].run_id, mask="gaussian2d", accelerations=(2, 4), workspace=workspace)["rows"]
    assert {(row["site"], row["acceleration"]) for row in rows} == {
        (site, rate) for site in ("north", "middle", "south") for rate in (2.0, 4.0)
    }
    assert all(row["measured_acceleration"] == pytest.approx(row["acceleration"], rel=0.02) for row in rows)
    easy, hard = ([r["zero_filled"]["psnr"] for r in rows if r["acceleration"] == rate] for rate in (2.0, 4.0))
    assert all(a > b for a, b in zip(easy, hard, strict=True))


@pytest.mark.slow
def test_evaluate_says_whose_network_it_was(trained, tmp_path):
    _, workspace, results = trained
    own = evaluate(results["local"].digest, workspace=workspace)["rows"]
    assert [(row["site"], row["model"]) for row in own] == [(s, s) for s in ("middle", "north", "south")]
    for row in own:
        assert row["psnr"] == pytest.approx(results["local"].sites[row["site"]]["psnr"], abs=1e-9)
    elsewhere = write_consortium(tmp_path)["north"]
    with pytest.raises(InputError, match=r"publish.*\bmiddle\b"):
        evaluate(results["local"].digest, sites={"elsewhere": str(elsewhere)}, workspace=workspace)
    unseen = evaluate(
        results["local"].digest, sites={"elsewhere": str(elsewhere)}, published=["all"], workspace=workspace
    )["rows"]
    assert [row["model"] for row in unseen] == ["middle", "north", "south"]


@pytest.mark.slow
def test_evaluate_refuses_a_subject_that_the_run_trained_on(trained, tmp_path):
    from tiny import make_volume

    from fedrecon.sites.data.shard import write_shard

    _, workspace, results = trained
    write_shard(tmp_path / "x.h5", "x", [make_volume("north-train", "test", 1, 1, 0)], simulated=True, phase="smooth")
    with pytest.raises(InputError, match="north-train, who was in the split 'train' at site 'north'"):
        evaluate(results["fedavg"].digest, sites=str(tmp_path), workspace=workspace)


@pytest.mark.slow
def test_reconstruct_a_shard(call, trained, consortium, tmp_path):
    _, workspace, results = trained
    out = tmp_path / "images.h5"
    done = call("reconstruct", results["fedavg"].digest, consortium["south"], "-o", out, "--workspace", workspace)
    assert done.code == 0
    with h5py.File(out) as file:
        group = file["south-test"]
        assert group["reconstruction"].shape == (2, 32, 32)
        assert set(group) == {"reconstruction", "data_consistency", "zero_filled", "mask", "reference"}
        shown = np.mean((group["reconstruction"][()] - group["reference"][()]) ** 2)
        nmse = shown * 2 * 32 * 32 / np.sum(group["reference"][()] ** 2)
    assert nmse == pytest.approx(results["fedavg"].sites["south"]["nmse"], rel=1e-4)


@pytest.mark.slow
def test_reconstruct_undersampled_k_space_as_it_was_measured(call, trained, tmp_path):
    _, workspace, results = trained
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((4, 32, 32)) + 1j * rng.standard_normal((4, 32, 32))).astype(np.complex64)
    mask = rng.random((32, 32)) < 0.4
    mask[12:21, 11:22] = True
    np.save(tmp_path / "scan.npy", kspace * mask)
    out = tmp_path / "images.png"
    found = call(
        "reconstruct", results["fedavg"].digest, tmp_path / "scan.npy", "-o", out, "--workspace", workspace, "--json"
    )
    assert found.code == 0
    (volume,) = found.json["volumes"]
    assert volume["sampling"] == "as measured"
    assert volume["measured_acceleration"] == pytest.approx(mask.size / mask.sum())
    assert out.read_bytes().startswith(b"\x89PNG")


def test_calibration_box_is_the_sampled_centre():
    mask = np.zeros((32, 30), bool)
    mask[12:21, 10:21] = True
    box = calibration_box(mask)
    assert mask[16, 15]
    assert 7 <= box[0] <= 9
    assert 9 <= box[1] <= 11
    with pytest.raises(InputError, match="centre of k-space"):
        calibration_box(np.zeros((8, 8), bool))


WRONG = {
    "no file": (("run", "nowhere.yaml"), "no such experiment file"),
    "key": (("run", "{x}", "trainig.rounds=3"), "Did you mean 'training'"),
    "value": (("run", "{x}", "training.rounds=many"), "training.rounds"),
    "strategy": (("run", "{x}", "strategy.name=fedporx"), "Did you mean 'fedprox'"),
    "mask": (("run", "{x}", "operator.mask=gausian2d"), "Did you mean 'gaussian2d'"),
    "acceleration below 1": (("run", "{x}", "operator.acceleration=0.5"), "at least 1"),
    "acceleration out of reach": (("run", "{x}", "operator.acceleration=16"), "cannot be reached"),
    "pooling": (("run", "{x}", "strategy.name=pooled", "sites={real}"), "allow_pooling"),
    "site": (("run", "{x}", "operator.per_site={nroth: {acceleration: 3}}"), "Did you mean 'north'"),
    "missing site": (("run", "{x}", "sites={a: nowhere.h5}"), "nowhere.h5"),
    "run": (("evaluate", "123456789", "--workspace", "{w}"), "unknown run"),
    "evaluation mask": (("evaluate", "latest", "--mask", "radail", "--workspace", "{w}"), "Did you mean 'radial'"),
    "evaluation rate": (("evaluate", "latest", "--acceleration", "0.2", "--workspace", "{w}"), "1 to 10000"),
    "output": (("reconstruct", "latest", "{s}", "-o", "x.tiff", "--workspace", "{w}"), ".png"),
    "whose network": (("reconstruct", "{l}", "{real}/a.h5", "-o", "x.h5", "--workspace", "{w}"), "--site"),
    "input": (("reconstruct", "{d}", "nowhere.npy", "-o", "x.h5", "--workspace", "{w}"), "no such file"),
    "list": (("list", "strategy"), "Did you mean 'strategies'"),
    "ui": (("ui", "--workspace", "nowhere"), "nowhere"),
    "inspect": (("data", "inspect", "nowhere"), "nowhere"),
    "import": (("data", "import", "nifty", "x.nii", "--site", "a", "--out", "b"), "Did you mean 'nifti'"),
    "simulate": (("data", "simulate", "{t}", "--sites", "t1"), "Did you mean 't1w'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_one_message_and_exit_code_2(call, trained, consortium, tmp_path, monkeypatch, what):
    from tiny import make_volume

    from fedrecon.sites.data.shard import write_shard

    path, workspace, results = trained
    monkeypatch.chdir(tmp_path)
    volumes = [make_volume(split, split, 1, 1, k) for k, split in enumerate(("train", "validation", "test"))]
    write_shard(tmp_path / "real" / "a.h5", "a", volumes, simulated=False, phase="measured")
    names = {
        "x": path, "w": workspace, "t": tmp_path, "s": consortium["south"], "real": tmp_path / "real",
        "l": results["local"].digest, "d": results["fedavg"].digest,
    }  # fmt: skip
    arguments, message = WRONG[what]
    shown = [_filled(one, names) for one in arguments]
    wrong = call(*shown)
    assert wrong.code == 2
    assert message in wrong.err
    assert "Traceback" not in wrong.err
    assert wrong.out == ""


def _filled(text: str, names: dict[str, object]) -> str:
    for name, value in names.items():
        text = text.replace("{" + name + "}", str(value))
    return text


@pytest.mark.slow
def test_a_broken_shard_is_shown_beside_the_sound_ones(call, tmp_path):
    paths = write_consortium(tmp_path)
    with h5py.File(paths["north"], "r+") as file:
        file["north-train/kspace"][0, 0, 0] = np.nan
    shown = call("data", "inspect", tmp_path, "--json")
    assert shown.code == 2
    assert {one["site"] for one in shown.json["shards"]} == {"middle", "south"}
    assert "NaN" in shown.err


@pytest.mark.slow
def test_a_finished_run_is_not_given_for_data_that_changed(call, tmp_path, mlflow_template):
    paths, workspace = write_consortium(tmp_path / "sites"), tmp_path / "workspace"
    workspace.mkdir()
    shutil.copy(mlflow_template / "mlflow.db", workspace)
    command = ("run", written(tmp_path, paths), "--in-process", "--workspace", workspace, "--json")
    first = call(*command)
    with h5py.File(paths["north"], "r+") as file:
        file["north-train/kspace"][0] *= 1.01
    wrong = call(*command)
    assert (wrong.code, wrong.out) == (2, "")
    assert f"fedrecon data seal {paths['north']}" in wrong.err
    assert call("data", "inspect", tmp_path / "sites").code == 2
    sealed = call("data", "seal", tmp_path / "sites")
    assert sealed.code == 0
    assert [" (before: " in line for line in sealed.out.splitlines()] == [False, True, False]
    again = call(*command)
    assert (again.code, again.json["trained_rounds"]) == (0, 2)
    assert again.json["digest"] != first.json["digest"]


@pytest.mark.slow
def test_simulate_and_inspect(call, tmp_path):
    made = call("data", "simulate", tmp_path / "demo", "--sites", "t1w", "flair", "--subjects", 3, "--size", 32)
    assert made.code == 0
    shown = call("data", "inspect", tmp_path / "demo", "--json")
    assert shown.code == 0
    assert [one["site"] for one in shown.json["shards"]] == ["flair", "t1w"]


@pytest.mark.parametrize("kind", ["strategies", "networks", "masks", "formats", "reconstructors"])
def test_list_names_the_whole_registry(call, kind):
    from fedrecon.platform.terminal.tables import registry

    listed = call("list", kind)
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == list(registry(kind))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tv", "zero_filled"])
def test_classical_reconstructors_train_nothing(call, consortium, workspace, tmp_path, name):
    scored = {"max_slices": 1, "panels": False}  # a search over many parameters for each slice
    how = {"name": name, "iterations": 15} if name == "tv" else name
    path = written(
        tmp_path, {site: consortium[site] for site in ("middle", "south")}, reconstructor=how, evaluation=scored
    )
    found = call("run", path, "--in-process", "--workspace", workspace, "--json")
    assert found.code == 0
    assert (found.json["rounds"], found.json["bytes_up"]) == (0, 0)
    mean = found.json["mean"]
    if name == "tv":
        assert mean["psnr"] > mean["zero_filled"]["psnr"]
    rows = call("evaluate", found.json["digest"], "--workspace", workspace, "--json").json["rows"]
    assert {row["site"]: row["psnr"] for row in rows} == pytest.approx(
        {site: one["psnr"] for site, one in found.json["sites"].items()}, abs=1e-9
    )


@pytest.mark.slow
def test_rerun_keeps_the_older_run(call, consortium, workspace, tmp_path):
    path = written(tmp_path, consortium, seed=7, training={"rounds": 1})
    first = call("run", path, "--in-process", "--workspace", workspace, "--json").json
    second = call("run", path, "--in-process", "--workspace", workspace, "--json", "--rerun").json
    assert first["run_id"] != second["run_id"]
    assert (second["trained_rounds"], second["resumed_from"]) == (1, 0)
    assert first["sites"] == second["sites"]
    assert (workspace / "runs" / f"{first['digest']}.before-1" / "result.json").is_file()


@pytest.mark.parametrize(("command", "goes_on"), [(("list", "masks"), False), (("run", "x.yaml"), True)])
def test_only_what_commits_rounds_is_said_to_go_on(call, monkeypatch, command, goes_on):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedrecon.platform.terminal.tables.registry", interrupted)
    monkeypatch.setattr("fedrecon.platform.runs.run.run", interrupted)
    found = call(*command)
    assert found.code == 130
    assert ("last committed round" in found.err) == goes_on
