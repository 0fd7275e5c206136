"""The studies that ship with fedrecon can be read, and each of their methods is an experiment. No data is needed."""

from pathlib import Path

import pytest

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.overrides import apply_values
from fedrecon.tune.search.config import Sweep
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


@pytest.mark.parametrize(
    ("study", "experiment"),
    [
        ("prior-shift", "fedgimp-trained"),
        ("leave-one-site-out", "fedgimp-simulated"),
        ("leave-one-site-out-real", "fedgimp-simulated"),
        ("operator-shift", "fedgimp-simulated"),
        ("operator-shift-real", "fedgimp-simulated"),
        ("pays-operators", "fedgimp-simulated"),
    ],
)
def test_a_prior_that_is_said_to_be_of_an_experiment_is_trained_as_there(study, experiment, monkeypatch):
    monkeypatch.chdir(ROOT)
    found, base = Study.read(f"studies/{study}.yaml")
    made = Experiment.read(apply_values(base, found.methods["fedgimp"])).as_dict()
    wanted = Experiment.read(f"experiments/{experiment}.yaml").as_dict()
    assert [made[key] for key in ("strategy", "network", "training")] == [
        wanted[key] for key in ("strategy", "network", "training")
    ]


def test_a_sweep_that_is_called_real_reads_real_volumes(monkeypatch):
    monkeypatch.chdir(ROOT)
    for file in sorted((ROOT / "sweeps").glob("*-real.yaml")):
        _, base = Sweep.read(str(file))
        assert "real" in str(base["sites"]), file.name
    _, base = Sweep.read("sweeps/prior-shift-real.yaml")
    made, wanted = Experiment.read(base).as_dict(), Experiment.read("experiments/fedgimp-trained.yaml").as_dict()
    assert {key for key in made if made[key] != wanted[key]} == {"name", "sites"}
