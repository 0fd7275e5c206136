"""Studies on Ray, on one node: from the plan to the report, nothing twice, failures, the same report again."""

import json
import shutil
from collections import Counter

import pytest
from clusters import local_cluster
from tiny import EXPLODES, UNET

from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.storage.parquet import read_table
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.tracking.tracker import STUDIES
from fedrecon.tune.study.run import load_study, study

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("no_pixels")]


@pytest.fixture(scope="module")
def on_ray():
    with local_cluster(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, mlflow_template):
    path_of = tmp_path_factory.mktemp("study") / "workspace"
    path_of.mkdir()
    shutil.copy(mlflow_template / "mlflow.db", path_of / "mlflow.db")
    return path_of


@pytest.fixture(scope="module")
def described(consortium):
    return {
        "name": "tiny",
        "experiment": {
            "sites": {site: str(path) for site, path in consortium.items()},
            "operator": {"mask": "random", "acceleration": 3},
            "network": UNET,
            "training": {"rounds": 2, "batch_size": 2},
            "evaluation": {"every": 2, "panels": True},
            "publish_private": "all",
        },
        "methods": {
            "unet": {"strategy.name": "fedavg"},
            "local": {"strategy.name": "local"},
            "breaks": {"strategy.name": "fedavg", **{f"training.{key}": value for key, value in EXPLODES.items()}},
            "zero-filled": {"reconstructor": "zero_filled"},
        },
        "train": {"sites": [["north", "middle"]]},
        "test": {"operators": [{"mask": "random", "acceleration": [3, 2]}]},
        "max_failures": 0,
        "concurrency": 1,
    }


@pytest.fixture(scope="module")
def result(described, workspace, on_ray):
    return study(described, workspace=workspace)


def texts(folder):
    """The report without the times."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".png", ".tex", ".bib")}


def test_every_cell_is_there_or_missing_with_its_reason(result):
    found = result.as_dict()
    assert list(found) == ["study", "status", "trainings", "evaluations", "missing", "cells", "report"]
    assert (found["study"], found["status"], found["trainings"]) == ("tiny", "finished", 3)
    assert found["evaluations"] == 3 * 2 + 2  # of each training the site left out, and all at R=2; two zero-filled
    assert json.loads(json.dumps(found)) == found
    keys = "method trained_on tested_on mask acceleration noise seed n_subjects psnr ssim nmse"
    assert {tuple(cell) for cell in found["cells"]} == {tuple(keys.split())}
    assert Counter(cell["method"] for cell in found["cells"]) == {"unet": 6, "local": 6, "zero-filled": 6}
    assert Counter(one["method"] for one in found["missing"]) == {"breaks": 6}
    assert all("NaN" in one["reason"] or "learning_rate" in one["reason"] for one in found["missing"])


def test_a_cell_is_what_evaluate_gives(result, described, workspace):
    store = run_store(None, workspace)
    rows = {
        (cell["method"], cell["trained_on"], cell["tested_on"], cell["acceleration"]): cell for cell in result.cells
    }
    folder = workspace / "studies" / "tiny" / "scores" / "method=unet"
    columns = [read_table(path) for path in sorted(folder.glob("*.parquet"))]
    runs = {(one["trained_on"][0], one["digest"][0], tuple(sorted(set(one["tested_on"])))) for one in columns}
    assert len(runs) == 3
    for trained_on, digest, sites in runs:
        operator = store.find(digest).params
        acceleration = float(operator.get("test.operator.acceleration", operator["operator.acceleration"]))
        paths = {site: described["experiment"]["sites"][site] for site in sites}
        for row in evaluate(digest, sites=paths, accelerations=[acceleration], workspace=workspace)["rows"]:
            cell = rows["unet", trained_on, row["site"], acceleration]
            assert cell["psnr"] == pytest.approx(row["psnr"], abs=1e-9)  # one test subject a site, in one volume
            assert cell["n_subjects"] == 1


def test_the_report_says_what_there_is(result):
    page, text = (result.report / name for name in ("index.html", "report.md"))
    for content in (page.read_text(), text.read_text()):
        assert "no claim" in content  # one subject a site
        assert "breaks" in content
        assert "local‡" in content  # the networks of hospitals left them
    assert "http" not in page.read_text().split("<style>")[0]
    assert {"figures", "tables", "citations.bib", "index.html", "report.md"} <= {
        p.name for p in result.report.iterdir()
    }


def test_its_runs_and_its_report_are_in_mlflow(result, workspace):
    store = run_store(None, workspace)
    own = store.find("study-tiny")
    assert own.experiment_name == STUDIES
    assert (
        store.local_artifact(own.run_id, "report/index.html").read_bytes()
        == (result.report / "index.html").read_bytes()
    )


def test_the_same_command_runs_nothing_and_writes_the_same_report(result, described, workspace, on_ray):
    before = texts(result.report)
    again = study(described, workspace=workspace)
    assert again.cells == result.cells
    assert again.missing == result.missing
    assert texts(again.report) == before
    shown = load_study("tiny", workspace)
    assert (shown.status, shown.cells) == ("finished", result.cells)


def test_a_method_of_which_a_part_lies_on_another_node_is_in_no_picture(result, described, workspace, monkeypatch):
    from fedrecon.platform.inference.trained_run import TrainedRun
    from fedrecon.tune.study.campaign import StudyCampaign
    from fedrecon.tune.study.config import Study
    from fedrecon.tune.study.panels import _is_whole

    campaign = StudyCampaign(*Study.read(described), workspace, None, None, rerun=False)
    campaign.fill()
    cells = {cell.learned.method: cell for cell in campaign.matrix.cells}
    whole = [name for name in ("unet", "local", "zero-filled") if _is_whole(campaign, cells[name])]
    monkeypatch.setattr(TrainedRun, "holds", lambda self, member: member != "north")
    seen = [name for name in ("unet", "local", "zero-filled") if _is_whole(campaign, cells[name])]
    assert (whole, seen) == (["unet", "local", "zero-filled"], ["unet", "zero-filled"])


def test_the_table_averages_over_no_missing_seed(result):
    from dataclasses import replace

    from fedrecon.tune.study.command import _table

    cell = {**result.cells[0], "seed": 1}
    shown = _table(replace(result, cells=[cell], missing=[{**cell, "seed": 0, "reason": "x"}], marks={}))
    assert shown.rows == []
    (row,) = _table(replace(result, cells=[cell], missing=[], marks={"unet": "†"})).rows
    assert [value.text for value in row.values] == [
        "unet†",
        cell["trained_on"],
        cell["tested_on"],
        f"{cell['psnr']:.2f}",
    ]


def test_a_study_with_one_more_operator_trains_nothing_again(result, described, workspace, on_ray):
    methods = {name: described["methods"][name] for name in ("unet", "zero-filled")}
    operators = [{"mask": "random", "acceleration": [3, 2, 2.5]}]
    more = study(
        {**described, "name": "more", "methods": methods, "test": {"operators": operators}}, workspace=workspace
    )
    known = [cell for cell in more.cells if cell["acceleration"] != 2.5]
    assert known == [cell for cell in result.cells if cell["method"] in methods]
    assert {cell["acceleration"] for cell in more.cells} == {2, 2.5, 3}
    assert not more.missing
