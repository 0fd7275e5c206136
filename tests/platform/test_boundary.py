"""The one boundary: every error becomes a line and an exit code, stdout is JSON's, and names are shown escaped."""

import ast
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from command_line import Called
from tiny import make_volume, write_consortium

from fedrecon.commands import experiments
from fedrecon.platform.config.yaml_text import read_yaml
from fedrecon.platform.execution import ray_cluster
from fedrecon.platform.reporting.table import Row, Table, plain, words
from fedrecon.platform.reporting.terminal import print_table
from fedrecon.platform.storage.tracking.address import check_reachable
from fedrecon.platform.terminal.boundary import LET_THROUGH, LOG, outcome
from fedrecon.platform.terminal.output import json_alone, print_json
from fedrecon.sites.data.shard import write_shard
from fedrecon.sites.errors import InputError, brief, visible
from fedrecon.sites.plugin import parse
from fedrecon.tune.search.space import points, read_space
from fedrecon.tune.study.config import Study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(capsys):
    return lambda *arguments: Called(capsys, *arguments)


def _damaged(kind):
    """An error as a library raises it."""
    import nibabel
    import sqlalchemy
    from mlflow.exceptions import MlflowException
    from safetensors import SafetensorError

    return {
        "denied": (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 2),
        "no folder": (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a/b"), 2),
        "full": (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 1),
        "hdf5": (OSError("Unable to synchronously open file (truncated file)"), 1),
        "memory": (MemoryError(), 1),
        "json": (json.JSONDecodeError("Expecting value", "{", 1), 1),
        "utf-8": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2),
        "yaml": (yaml.YAMLError("bad"), 2),
        "zlib": (zlib.error("Error -3"), 2),
        "mlflow": (MlflowException("no such run\nsecond line"), 1),
        "sqlalchemy": (sqlalchemy.exc.OperationalError("select", {}, Exception("locked")), 1),
        "safetensors": (SafetensorError("header too large"), 1),
        "nibabel": (nibabel.filebasedimages.ImageFileError("no image"), 2),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["denied", "no folder", "full", "hdf5", "memory", "json", "utf-8", "yaml", "zlib", "mlflow", "sqlalchemy",
     "safetensors", "nibabel"],
)  # fmt: skip
def test_every_foreseen_error_is_one_line_with_its_exit_code(kind, tmp_path):
    error, code = _damaged(kind)
    message, found = outcome(error, tmp_path)
    assert found == code
    assert len(message.splitlines()) == 1
    assert "/a/b" in message or error.args != (error.errno if hasattr(error, "errno") else None, "", "/a/b")
    assert not (tmp_path / LOG).exists()


def test_rays_errors_are_foreseen(tmp_path):
    class GetTimeoutError(Exception):
        pass

    GetTimeoutError.__module__ = "ray.exceptions"
    assert outcome(GetTimeoutError("late"), tmp_path) == (
        "failed: Ray: GetTimeoutError: late; the same command goes on from the last committed round",
        1,
    )


def test_an_error_that_nobody_expected_keeps_its_traceback_in_the_workspace(call, tmp_path, monkeypatch):
    def broken(_):
        raise ZeroDivisionError("by \x1b[31mzero")

    monkeypatch.setattr(experiments, "_list", broken)
    with pytest.raises(ZeroDivisionError):
        call("list", "masks")
    monkeypatch.delenv(LET_THROUGH)
    monkeypatch.setenv("FEDRECON_WORKSPACE", str(tmp_path / "w"))
    shown = call("list", "masks")
    assert (shown.code, shown.out) == (1, "")
    assert len(shown.err.splitlines()) == 1
    assert str(tmp_path / "w" / LOG) in shown.err
    assert "\x1b" not in shown.err
    assert "in broken" in (tmp_path / "w" / LOG).read_text()


def test_the_log_outside_of_the_workspace_is_the_user_s_own_file(tmp_path, monkeypatch):
    """Its name can be foreseen: a link, or a pipe, that waits there is not written to."""
    monkeypatch.delenv(LET_THROUGH)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    victim, log = tmp_path / "bashrc", tmp_path / f"fedrecon-{os.getuid()}-{LOG}"
    victim.write_text("# mine")
    for planted in (lambda: log.symlink_to(victim), lambda: os.mkfifo(log)):
        planted()
        assert outcome(RuntimeError("x"), Path("/proc/nowhere"))[0].endswith(os.devnull)
        assert victim.read_text() == "# mine"
        log.unlink()
    assert outcome(RuntimeError("x"), Path("/proc/nowhere"))[0].endswith(str(log))
    assert log.stat().st_mode & 0o777 == 0o600
    assert "RuntimeError: x" in log.read_text()


def test_stdout_carries_json_alone(tmp_path):
    code = (
        "import os, sys\n"
        "from fedrecon.platform.terminal.output import json_alone, print_json\n"
        "with json_alone(True):\n"
        "    print('MLflow says'); os.write(1, b'Ray says\\n'); os.system('echo a process says')\n"
        "    print_json({'a': 1})\n"
        "print('after')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == '{\n  "a": 1\n}\nafter\n'
    assert [f"{who} says" in done.stderr for who in ("MLflow", "Ray", "a process")] == [True] * 3


def test_json_alone_works_where_stdout_has_no_descriptor(capsys):
    with json_alone(True):
        print("noise")
        print_json([1])
    assert capsys.readouterr() == ("[\n  1\n]\n", "noise\n")


def test_names_are_shown_escaped_and_markup_stays_text():
    assert visible("a\x1b[31m\x07\u202e\ud800\nü\t+") == "a\\x1b[31m\\x07\\u202e\\ud800\nü\t+"
    assert brief(10**5000).startswith("an integer of 16610 bits")
    assert len(brief("x" * 10**6)) < 100
    stream = io.StringIO()
    name = "[/red][bold]x\x1b[2J"
    print_table(Table(name, words(name), [Row([plain(name)])], note=name), stream)
    assert stream.getvalue().count("[/red][bold]x\\x1b[2J") == 4


@pytest.mark.slow
def test_the_command_line_is_one_line_when_it_is_wrong(call):
    number = "9" * 5000
    for argv in (
        [], ["rnu"], ["run"], ["list", "maks"], ["run", "a", "--x"], ["data", "simulate", "d", "--size", number],
        ["ui", "--port", "99999999"], ["evaluate", "r", "--acceleration", "nan"],
    ):  # fmt: skip
        shown = call(*argv)
        assert (shown.code, shown.out, len(shown.err.splitlines())) == (2, "", 1)
        assert "--help" in shown.err


# The cases as people had them


@pytest.fixture
def experiment(tmp_path):
    """An experiment of three sites, one of them ``t1+gd``, that trains nothing."""
    paths = write_consortium(tmp_path / "sim")
    (tmp_path / "sim" / "middle.h5").unlink()
    volumes = [make_volume(one, one, 2, 1, 5 + k) for k, one in enumerate(("train", "validation", "test"))]
    write_shard(tmp_path / "sim" / "t1+gd.h5", "t1+gd", volumes, simulated=True, phase="smooth")
    del paths["middle"]
    content = {
        "name": "small", "sites": str(tmp_path / "sim"), "operator": {"mask": "random", "acceleration": 2},
        "reconstructor": "zero_filled", "evaluation": {"max_slices": 2},
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "small.yaml"


@pytest.mark.slow
def test_a_plus_in_a_site_and_marks_in_the_workspace_work(call, experiment, mlflow_template, tmp_path):
    workspace = tmp_path / "w 1#y+ü"
    workspace.mkdir()
    shutil.copy(mlflow_template / "mlflow.db", workspace)
    done = call("run", experiment, "--in-process", "--workspace", workspace, "--json")
    assert (done.code, set(done.json["sites"])) == (0, {"north", "south", "t1+gd"})
    again = call("run", experiment, "--in-process", "--workspace", workspace)
    assert again.code == 0
    assert f"fedrecon ui --workspace '{workspace}'" in again.out
    from fedrecon.platform.storage.tracking.store import run_store

    data = run_store(None, workspace).client.get_run(done.json["run_id"]).data
    assert any("t1 plus gd" in key for key in data.metrics)
    assert {one.name for one in tmp_path.iterdir()} == {"sim", "small.yaml", workspace.name}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["w?x=1", "w100%25done", "100%"])
def test_a_path_that_no_address_of_a_database_can_hold_is_refused(call, experiment, tmp_path, name):
    refused = call("run", experiment, "--in-process", "--workspace", tmp_path / name)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert name in refused.err
    assert {one.name for one in tmp_path.iterdir()} <= {"sim", "small.yaml", name}  # no database beside the workspace


@pytest.mark.slow
def test_what_may_not_be_read_or_written_is_one_line(experiment, tmp_path):
    """As a process without root's right to ignore permissions; others than root have no such right."""
    np.save(tmp_path / "a_1.npy", np.ones((4, 4), np.complex64))
    for name in ("ro", "shut"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o555 if name == "ro" else 0)
    (tmp_path / "plain").touch()
    (tmp_path / "sim" / "north.h5").chmod(0)
    calls = [
        ["data", "import", "npy", "a_1.npy", "--site", "s", "--out", "ro"],
        ["data", "import", "npy", "shut", "--site", "s", "--out", "out"],
        ["data", "inspect", "sim"],
        ["run", "small.yaml", "--in-process", "--workspace", "ro"],
        ["run", "small.yaml", "--in-process", "--workspace", "plain"],
        ["run", "shut/x.yaml", "--in-process"],
    ]
    code = f"import sys; from fedrecon.cli import main\nfor one in {calls}:\n    print(main(one), file=sys.stderr)"
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*without, sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    codes = [line for line in lines if len(line) == 1]
    assert codes == ["2"] * len(calls), done.stderr
    assert len(lines) == 2 * len(calls), done.stderr
    assert "south" in done.stdout  # the sound shard is shown beside


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("htp://127.0.0.1:5000", "'http'"),
        ("postgresql://u:p@127.0.0.1:5/db", "psycopg"),
        ("http://127.0.0.1:99999999", "99999999"),
        ("http://[::1", "no address"),
        ("http://127.0.0.1:9", "no MLflow server answers"),
    ],
)
def test_an_address_that_is_no_store_is_refused(uri, says):
    with pytest.raises(InputError, match=r".") as refused:
        check_reachable(uri, Path())
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.slow
def test_a_server_that_is_no_mlflow_or_says_nothing_is_refused():
    import socket
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if "/other" in self.path else 200)
            self.end_headers()
            self.wfile.write(b"OK" if "/mlflow" in self.path else b"hello")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        check_reachable(f"{address}/mlflow", Path())
        for path in ("/other", "/page"):
            with pytest.raises(InputError, match="no MLflow server"):
                check_reachable(address + path, Path())
        server.shutdown()
    with socket.socket() as dead:  # an end of a tunnel: it takes the call, and never answers
        dead.bind(("127.0.0.1", 0))
        dead.listen()
        with pytest.raises(InputError, match=r"nothing within 0\.2 s"):
            check_reachable(f"http://127.0.0.1:{dead.getsockname()[1]}", Path(), seconds=0.2)


def test_a_long_folder_for_temporary_files_is_refused_before_ray_starts(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/scratch/" + "slurm_job_directory_" * 4)
    with pytest.raises(InputError, match="RAY_TMPDIR=SHORT_FOLDER"):
        ray_cluster.connect(None)
    monkeypatch.setenv("RAY_TMPDIR", "/s")
    ray_cluster.check_temporary_folder()


def test_a_huge_grid_is_refused_from_its_lengths():
    grid = {f"k{at}": {"grid": list(range(50))} for at in range(5)}
    with pytest.raises(InputError, match="312500000 trials; more than 100000"):
        points(read_space(grid), 1, 0, {}.get, 100_000)
    parent = {"k0": {"grid": list(range(50))}}
    tied = {f"k{at}": {"grid": list(range(50)), "when": {"k0": list(range(50))}} for at in range(1, 6)}
    with pytest.raises(InputError, match="more than 1000 trials"):
        points(read_space({**parent, **tied}), 1, 0, {}.get, 1000)
    assert len(points(read_space({"k": {"grid": [1, 2]}}), 10**6, 0, {}.get, 100_000)) == 2


def test_a_study_of_too_many_cells_is_refused():
    content = {"name": "s", "experiment": "e.yaml", "methods": {"a": {}}, "seeds": list(range(1000))}
    content["train"] = {"operators": {"acceleration": list(range(2, 102)), "center_fraction": [0.1, 0.2]}}
    with pytest.raises(InputError, match="200000 cells"):
        parse(Study, content, "s.yaml")


def test_scientific_notation_is_one_number_everywhere():
    text = "lr: {grid: [1e-3, 1e-4]}\nbatch: {grid: [2, 4], when: {lr: 1e-3}}"
    found = points(read_space(read_yaml(text, "s.yaml")), 1, 0, {}.get)
    assert found == [{"lr": 1e-3, "batch": 2}, {"lr": 1e-3, "batch": 4}, {"lr": 1e-4}]


@pytest.mark.slow
def test_overrides_may_stand_behind_options(call, experiment):
    for argv in (["--in-process", "seed=true"], ["seed=true", "--in-process"], ["--json", "seed=true", "--in-process"]):
        shown = call("run", experiment, *argv)
        assert (shown.code, shown.out) == (2, "")
        assert "seed: a number is needed" in shown.err
    assert "'seed'" in call("run", experiment, "--in-process", "seed").err


@pytest.mark.slow
def test_nothing_that_runs_code_is_ever_loaded():
    """No ``torch.load``, no pickle, no arrays of objects: a file cannot bring code with it."""
    for folder in ("platform", "sites", "strategies", "tune", "src/fedrecon"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"} & {*names}, path
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    called = ast.unparse(node.func)
                    assert called not in ("torch.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load"), path
                    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert called != "np.load" or given.get("allow_pickle") == "False", path
                    assert given.get("allow_pickle", "False") == "False", path
                assert not (isinstance(node, ast.Name) and node.id in ("eval", "exec")), path


def test_an_array_of_objects_is_refused(call, tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("kspace", data=["x"], dtype=h5py.string_dtype())
    for kind, name in (("npy", "a.npy"), ("fastmri", "b.h5")):
        shown = call("data", "import", kind, tmp_path / name, "--site", "s", "--out", tmp_path / "out")
        assert (shown.code, len(shown.err.splitlines())) == (2, 1)
