"""A run remembers the code that made it: edited code is never taken for it without a word."""

import shutil
import sys
from pathlib import Path

import pytest

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium import code
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.runs.run import run
from fedrecon.sites.classical import RECONSTRUCTORS
from fedrecon.strategies import STRATEGIES


@pytest.fixture
def given(consortium):
    return {
        "sites": {name: str(path) for name, path in consortium.items()},
        "operator": {"mask": "random", "acceleration": 3},
        "strategy": {"name": "fedprox", "mu": 0.1},
        "network": {"name": "unet", "channels": 2, "pools": 1},
        "training": {"rounds": 1, "batch_size": 2},
        "evaluation": {"every": 1, "panels": False},
    }


@pytest.fixture
def workspace(tmp_path, mlflow_template, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = tmp_path / "workspace"
    place.mkdir()
    shutil.copy(mlflow_template / "mlflow.db", place / "mlflow.db")
    return place


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_the_files_of_every_strategy_and_its_network_and_mask_are_noted(name):
    kind = STRATEGIES[name]
    network = {"prior": "style", "denoiser": "denoiser"}.get(kind.network_kind, "unet")
    given = {"sites": "nowhere", "strategy": {"name": name}, "network": {"name": network}}
    noted = code.source_code(Experiment.read({**given, "allow_pooling": kind.moves_data}))
    own = Path(sys.modules[kind.__module__].__file__).name
    assert {f"strategies/{own}", "strategies/strategy.py", "sites/imaging/masks/random.py"} <= set(noted)
    assert any(one.startswith("strategies/networks/") for one in noted)
    assert all(len(one) == 64 for one in noted.values())
    assert not {"sites/errors.py", "sites/plugin.py"} & set(noted), "they would warn of a message that was reworded"


@pytest.mark.parametrize("name", sorted(RECONSTRUCTORS))
def test_the_files_of_every_reconstructor_are_noted(name):
    task = {"task": "super-resolution", "degradation": {"kind": "bicubic", "scale": 2}} if name == "bicubic" else {}
    noted = code.source_code(Experiment.read({"sites": "nowhere", "reconstructor": name, **task}))
    assert f"sites/classical/{Path(sys.modules[RECONSTRUCTORS[name].__module__].__file__).name}" in noted
    assert not any(one.startswith("strategies/") for one in noted)


def test_a_helper_beside_a_strategy_is_noted_too():
    noted = code.source_code(Experiment.read({"sites": "nowhere", "strategy": {"name": "fedmri"}}))
    assert "strategies/partial.py" in noted


@pytest.mark.parametrize(
    "late", ["from .aid import f", "from . import aid", "from plug.aid import f", "import plug.aid"]
)
def test_a_helper_that_a_function_imports_is_noted_too(late, tmp_path, monkeypatch):
    (tmp_path / "plug").mkdir()
    for name, text in {
        "__init__": "",
        "mine": f"class Mine:\n    def step(self):\n        {late}\n",
        "aid": "def f():\n    from plug import other\n",
        "other": "",
        "stranger": "",
    }.items():
        (tmp_path / "plug" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import plug.mine  # type: ignore[import-not-found]

    monkeypatch.setattr(code, "_kinds", lambda experiment: [plug.mine.Mine])
    try:
        noted = code.source_code(Experiment.read({"sites": "nowhere"}))
    finally:
        for name in [one for one in sys.modules if one.partition(".")[0] == "plug"]:
            del sys.modules[name]
    assert {Path(one).name for one in noted} == {"mine.py", "aid.py", "other.py"}


def test_the_helpers_of_the_registry_that_are_imported_late_are_noted():
    noted = code.source_code(Experiment.read({"sites": "nowhere", "reconstructor": {"name": "tv"}}))
    assert {"sites/classical/fista.py", "sites/classical/variation.py"} & set(noted)


@pytest.fixture
def edited(monkeypatch):
    """Edits strategies/fedprox.py, as a run sees it."""

    def edit():
        real = code.source_code
        monkeypatch.setattr(code, "source_code", lambda one: {**real(one), "strategies/fedprox.py": "0" * 64})

    return edit


@pytest.mark.slow
def test_a_finished_run_of_other_code_is_returned_with_one_line_that_names_the_file(given, workspace, edited):
    first = run(given, workspace=workspace, in_process=True)
    assert run(given, workspace=workspace, in_process=True).mean == first.mean  # the same code: not a word
    edited()
    with pytest.warns(UserWarning, match=r"strategies/fedprox\.py.*--rerun") as said:
        again = run(given, workspace=workspace, in_process=True)
    assert (again.mean, again.trained_rounds, len(said)) == (first.mean, 0, 1)
    with pytest.warns(UserWarning, match=r"strategies/fedprox\.py"):
        TrainedRun.load(workspace, first.digest)


@pytest.mark.slow
def test_a_training_that_is_taken_over_says_so_too(given, workspace, edited):
    run(given, workspace=workspace, in_process=True)
    edited()
    other = {**given, "evaluation": {**given["evaluation"], "mask_seed": 7}}
    with pytest.warns(UserWarning, match=r"strategies/fedprox\.py.*taken over"):
        assert run(other, workspace=workspace, in_process=True).trained_rounds == 0


@pytest.mark.slow
def test_a_run_that_goes_on_under_other_code_keeps_the_code_of_its_first_rounds(given, workspace, edited):
    from fedrecon.platform.storage.workspace import RunFolder

    given = {**given, "training": {**given["training"], "rounds": 2}}
    digest = _interrupted_after_round_1(given, workspace)
    before = RunFolder(workspace, digest).noted()["code"]
    edited()
    with pytest.warns(UserWarning, match=r"strategies/fedprox\.py.*round 1"):
        assert run(given, workspace=workspace, in_process=True).digest == digest
    assert RunFolder(workspace, digest).noted()["code"] == before
    with pytest.warns(UserWarning, match=r"strategies/fedprox\.py"):
        run(given, workspace=workspace, in_process=True)


def _interrupted_after_round_1(given, workspace):
    from fedrecon.platform.runs.context import RunContext
    from fedrecon.platform.runs.run import steps

    going = steps(Experiment.read(given), RunContext(workspace, "in-process"))
    assert next(going).round == 1
    going.close()
    (folder,) = (path for path in (workspace / "runs").iterdir() if path.is_dir())
    return folder.name


def test_a_run_of_a_version_that_noted_no_code_is_no_news(given):
    assert code.changed_files(None) == code.changed_files({"experiment": given}) == []


def test_a_run_is_compared_with_the_code_of_its_own_experiment(given):
    """A prior is taken over under another mask, whose file the first run never used."""
    own = Experiment.read(given)
    noted = {"experiment": own.as_dict(), "code": code.source_code(own)}
    assert code.changed_files(noted) == []
    gone = {**noted, "code": {**noted["code"], "strategies/gone.py": "0" * 64}}
    assert code.changed_files(gone) == ["strategies/gone.py"]
