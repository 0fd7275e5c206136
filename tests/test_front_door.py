"""What ``import fedrecon`` offers: every name, typed, shown by help, with an example that runs."""

import doctest
import inspect
import pydoc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fedrecon
from fedrecon.platform.inference.evaluate import check_amounts
from fedrecon.sites.errors import InputError
from fedrecon.sites.phantom import simulate

FUNCTIONS = ("run", "evaluate", "reconstruct", "sweep", "study", "load_sweep", "load_study")
ROOT = Path(__file__).parents[1]


def test_importing_it_loads_nothing_heavy_and_no_floor():
    code = (
        "import fedrecon, sys; "
        "print(sorted(name for name in sys.modules if name.startswith(('fedrecon.', 'torch', 'ray', 'mlflow'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['fedrecon.version']"


def test_every_name_is_there_and_an_unknown_one_is_refused():
    for name in fedrecon.__all__:
        assert getattr(fedrecon, name) is not None
    assert set(fedrecon.__all__) <= set(dir(fedrecon))
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        fedrecon.swep  # noqa: B018


def test_each_name_comes_from_where_the_type_checker_looks_for_it():
    """``_MODULES`` and the imports under TYPE_CHECKING say the same."""
    source = inspect.getsource(fedrecon)
    for name, module in fedrecon._MODULES.items():
        lines = [line for line in source.splitlines() if line.strip().startswith(f"from {module} import ")]
        assert any(name in line.partition(" import ")[2].replace(",", " ").split() for line in lines), name
    assert {*fedrecon._MODULES, "__version__"} == set(fedrecon.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_typed_and_documented(name):
    function = getattr(fedrecon, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(one.annotation is not inspect.Parameter.empty for one in signature.parameters.values())
    assert "Example:\n        >>> import fedrecon" in inspect.getsource(function)
    assert "Raises:" in function.__doc__


def test_help_shows_them_all():
    shown = pydoc.render_doc(fedrecon, renderer=pydoc.plaintext)
    for name in FUNCTIONS:
        assert f"    {name}(" in shown
    for name in ("Result", "SweepResult", "StudyResult", "EvaluationResult", "ReconstructionResult", "Experiment"):
        assert f"class {name}(" in shown


@pytest.mark.ray
def test_the_examples_run_in_order_and_print_what_they_say(tmp_path, monkeypatch, mlflow_template):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDRECON_WORKSPACE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "workspace").mkdir()
    shutil.copy(mlflow_template / "mlflow.db", tmp_path / "workspace" / "mlflow.db")
    simulate(tmp_path / "data" / "demo", size=32, subjects=3)
    from clusters import local_cluster

    failures: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with local_cluster(num_cpus=2):
        for name in FUNCTIONS:
            function = getattr(fedrecon, name)
            test = doctest.DocTestParser().get_doctest(inspect.getdoc(function), {}, name, None, 0)
            assert test.examples
            runner.run(test, out=failures.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(failures)


def test_what_is_no_name_or_no_list_is_refused_in_a_line(tmp_path):
    for given in (66825, Path("latest")):
        with pytest.raises(InputError, match="a run is named by a text"):
            fedrecon.evaluate(given, workspace=tmp_path)
    with pytest.raises(InputError, match=r"sweep\(file=...\) with search, samples"):
        fedrecon.sweep(file="sweeps/learning-rate.yaml", search={"seed": {"grid": [0, 1]}}, samples=0)
    for given in (2, "23"):
        with pytest.raises(InputError, match="accelerations: a list of numbers is needed"):
            check_amounts("accelerations", given)
