"""The studies that ship with fedrecon can be read, and each of their methods is an experiment. No data is needed."""

from pathlib import Path

import pytest

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.overrides import apply_values
from fedrecon.tune.study.config import Study

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "studies").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_can_be_read_and_each_method_is_an_experiment(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    study, base = Study.read(str(file))
    assert study.name == file.stem, "else two studies could share a folder"
    assert set(study.references) <= set(study.methods)
    for patch in study.methods.values():
        Experiment.read(apply_values(base, patch))
