"""The notebooks of docs/ run, and show in the documentation what their cells print."""

import re
import shutil
from pathlib import Path

import pytest
from clusters import local_cluster
from notebooks import printed

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Path:
    """Where both run, as a reader runs them: one after the other in one folder. Its MLflow store is there already."""
    made = tmp_path_factory.mktemp("notebooks")
    (made / "workspace").mkdir()
    shutil.copy(mlflow_template / "mlflow.db", made / "workspace" / "mlflow.db")
    return made


def words(text: str) -> list[str]:
    """What is printed but numbers: those are another machine's."""
    return [word for word in re.findall(r"[^\s\d]+", text) if re.search("[A-Za-z]{2}", word)]


@pytest.mark.ray
def test_the_notebooks_run_and_print_what_they_show(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEDRECON_WORKSPACE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "110")
    with local_cluster(num_cpus=2):
        for name in ("own-data", "sweep-and-study"):
            cells = list(printed(NOTEBOOKS / f"{name}.ipynb", folder))
            assert len(cells) > 4
            for cell, text in cells:
                shown = "".join("".join(one["text"]) for one in cell["outputs"])
                assert words(text) == words(shown), cell["id"]
