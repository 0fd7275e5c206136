"""Code that a run or a model carries is named before it runs, so that a person can stop it the next time."""

import json

import pytest

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.inference import mlflow_model
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.runs.warm_start import start_values
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import InputError, RunError

CODE = """
import sys
print("it runs", file=sys.stderr)
raise ValueError("stop")
"""


@pytest.fixture
def noted():
    plugin = {"file": "half.py", "sources": {"half.py": CODE}}
    return {**Experiment.read({"sites": {"a": "a.h5"}}).as_dict(), "plugins": [plugin]}


def test_a_model_says_whose_code_it_runs(noted, tmp_path, capsys):
    (tmp_path / "model.json").write_text(json.dumps({"site": "", "images": {}}))
    (tmp_path / "experiment.json").write_text(json.dumps(noted))
    with pytest.raises(InputError):
        mlflow_model._load_pyfunc(str(tmp_path))
    said = capsys.readouterr().err
    assert 0 <= said.index("half.py (") < said.index("it runs")


def test_a_run_says_whose_code_it_runs(noted, tmp_path, capsys, monkeypatch):
    folder = RunFolder(tmp_path, "0123456789abcdef")
    folder.note_run({"run_id": "", "experiment": noted, "images": {}, "subjects": {}})
    monkeypatch.setattr(
        TrainedRun, "of", classmethod(lambda cls, folder: Experiment.read(folder.noted()["experiment"]))
    )
    monkeypatch.setattr(f"{TrainedRun.__module__}.find_run", lambda *_: folder)
    with pytest.raises(InputError):
        TrainedRun.chosen(tmp_path, "latest")
    said = capsys.readouterr().err
    assert 0 <= said.index("run 0123456789abcdef carries code") < said.index("it runs")


def test_a_run_that_begins_with_another_says_whose_code_it_runs(noted, tmp_path, capsys):
    folder = RunFolder(tmp_path, "0123456789abcdef")
    folder.note_run({"run_id": "", "experiment": noted, "images": {}, "subjects": {}})
    folder.save_result(
        {"run_id": "", "digest": folder.digest, "status": "finished", "rounds": 1, "bytes_up": 0, "bytes_down": 0,
         "sites": {}, "mean": {}}
    )  # fmt: skip
    given = {"sites": {"a": "a.h5"}, "training": {"start": folder.digest}}
    with pytest.raises(RunError, match="checkpoint"):
        start_values(Experiment.read(given), tmp_path)
    assert "run 0123456789abcdef carries code" in capsys.readouterr().err
