import asyncio
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from fedrecon.platform.storage.tracking.runs_view import VIEW, runs_view
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.tracking.tracker import SUMMARIES, RunRecord
from fedrecon.platform.terminal import mlflow_ui as ui
from fedrecon.platform.terminal.own_origin import guarded
from fedrecon.sites.errors import InputError, RunError


@pytest.mark.slow
def test_the_command_serves_the_workspace_with_one_worker(tmp_path):
    line = ui.command("127.0.0.1", 5001)
    assert line[1:4] == ["-m", "uvicorn", "--factory"]
    assert line[-1] == "fedrecon.platform.terminal.own_origin:mlflow_application"
    options = dict(zip(line[4:-1:2], line[5:-1:2], strict=True))
    assert (options["--host"], options["--port"], options["--workers"]) == ("127.0.0.1", "5001", "1")
    given = ui.environment(tmp_path, 5001)
    assert given["_MLFLOW_SERVER_FILE_STORE"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert given["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] == (tmp_path / "artifacts").as_uri()


OWN, OTHER = "http://127.0.0.1:5001", "http://127.0.0.1:8888"


@pytest.mark.parametrize(
    ("method", "headers", "passes"),
    [
        ("POST", {"origin": OWN}, True),
        ("POST", {"origin": OWN, "sec-fetch-site": "same-origin"}, True),
        ("POST", {}, True),  # MLflow's own client
        ("GET", {"origin": OTHER}, True),
        ("POST", {"origin": OTHER}, False),
        ("DELETE", {"origin": "http://localhost:5001"}, False),
        ("PATCH", {"origin": "null"}, False),
        ("PUT", {"origin": OWN, "sec-fetch-site": "same-site"}, False),
        ("POST", {"sec-fetch-site": "cross-site"}, False),
        ("PROPFIND", {"origin": "https://127.0.0.1:5001"}, False),
        (None, {"origin": OTHER}, False),
    ],
)
def test_writes_are_taken_from_the_own_page_alone(method, headers, passes):
    sent = []

    async def application(scope, receive, send):
        sent.append("passed")

    async def send(message):
        sent.append(message.get("status", message["type"]))

    raw = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1:5001", **headers}.items()]
    scope = {"type": "http", "method": method, "headers": raw} if method else {"type": "websocket", "headers": raw}
    asyncio.run(guarded(application)(scope, None, send))
    refused = [403, "http.response.body"] if method else ["websocket.close"]
    assert sent == (["passed"] if passes else refused)


def test_the_environment_is_quiet_and_points_to_no_other_store(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    given = ui.environment(Path("/w"), 5001)
    assert "MLFLOW_TRACKING_URI" not in given
    assert given["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert given["MLFLOW_DISABLE_TELEMETRY"] == given["DO_NOT_TRACK"] == "true"
    assert given["PATH"] == os.environ["PATH"]


def test_the_address_is_the_runs_page_not_the_genai_page():
    address = ui.runs_page("127.0.0.1", 5000, "3")
    assert address == "http://127.0.0.1:5000/#/experiments/3/runs?workflowType=machine_learning"


@pytest.mark.slow
def test_it_opens_on_the_saved_view_that_a_run_left(mlflow_template, tmp_path):
    shutil.copy(mlflow_template / "mlflow.db", tmp_path / "mlflow.db")
    store = run_store(None, tmp_path)
    store.open(RunRecord("opened", "run", "digest-opened")).finish("FINISHED")
    opened = ui.newest_experiment(tmp_path)
    assert not ui._has_view(tmp_path, opened)
    assert store.save_view("opened", VIEW, runs_view()) == opened
    assert ui._has_view(tmp_path, opened)
    assert ui.runs_page("127.0.0.1", 5000, opened, saved=True).endswith(f"&viewStateShareKey={VIEW}")
    first = runs_view()["compareRunCharts"][0]
    assert (first["metricKey"], first["type"]) == ("validation/mean/psnr", "LINE")


@pytest.mark.slow
def test_it_opens_on_experiments_not_on_the_sweeps_own_runs(mlflow_template, tmp_path):
    shutil.copy(mlflow_template / "mlflow.db", tmp_path / "mlflow.db")
    store = run_store(None, tmp_path)
    for name in ("opened", SUMMARIES):
        store.open(RunRecord(name, "run", f"digest-{name}")).finish("FINISHED")
    opened = store.client.get_experiment_by_name("opened").experiment_id
    assert ui.newest_experiment(tmp_path) == opened


def test_a_workspace_without_database_is_the_users_error(tmp_path):
    with pytest.raises(InputError, match=r"mlflow\.db does not exist"):
        ui.serve(tmp_path / "missing")


def test_a_workspace_without_runs_is_the_users_error(tmp_path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE runs (experiment_id, lifecycle_stage, start_time)")
        database.execute("CREATE TABLE experiments (experiment_id, name)")
        database.execute("INSERT INTO runs VALUES (1, 'deleted', 5)")
        database.commit()
    with pytest.raises(InputError, match="run an experiment first"):
        ui.newest_experiment(tmp_path)


def test_a_file_that_is_no_database_is_the_users_error(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, but it is there" * 100)
    with pytest.raises(InputError, match="not an MLflow database"):
        ui.newest_experiment(tmp_path)


@pytest.mark.slow
def test_a_taken_port_is_the_users_error_and_the_default_moves(tmp_path, mlflow_workspace, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}"):
            ui._port("127.0.0.1", port)
        monkeypatch.setattr(ui, "PORT", port)
        assert ui._port("127.0.0.1", None) != port


@pytest.mark.slow
def test_a_server_that_ends_at_once_shows_its_log(mlflow_workspace, monkeypatch):
    started = run_store(None, mlflow_workspace).open(RunRecord("ui", "a run", "digest-ui"))
    monkeypatch.setattr(ui, "command", lambda *_: ["sh", "-c", "echo the reason; exit 3"])
    with pytest.raises(RunError, match="the reason"), ui.serving(mlflow_workspace):
        pass
    assert started.run_id


def _tagged(base, run_id, origin, host=None):
    """The answer to a page of this origin that sets a tag."""
    headers = {"Content-Type": "application/json"} | ({"Origin": origin} if origin else {})
    headers |= {"Host": host} if host else {}
    body = json.dumps({"run_id": run_id, "key": "a", "value": "b"}).encode()
    asked = urllib.request.Request(f"{base}/api/2.0/mlflow/runs/set-tag", body, headers)
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.server
def test_a_live_server_shows_the_run_and_leaves_nothing(mlflow_workspace: Path, monkeypatch):
    tracker = run_store(None, mlflow_workspace).open(RunRecord("ui", "a run", "digest-ui"))
    tracker.metrics(1, {"mean/psnr": 21.5})
    tracker.finish("FINISHED")
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    experiment = run_store(None, mlflow_workspace).client.get_experiment_by_name("ui").experiment_id
    with ui.serving(mlflow_workspace) as address:
        base, page = address.split("/#/")
        assert page == f"experiments/{experiment}/runs?workflowType=machine_learning"
        with urllib.request.urlopen(base, timeout=10) as answer:
            assert b"<title>MLflow" in answer.read()
        url = f"{base}/api/2.0/mlflow/runs/get?run_id={tracker.run_id}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            run = json.load(answer)["run"]
        assert run["info"]["run_name"] == "a run"
        assert run["data"]["metrics"][0]["value"] == 21.5
        assert {_tagged(base, tracker.run_id, origin) for origin in (base, None)} == {200}
        assert {_tagged(base, tracker.run_id, origin) for origin in (OTHER, "http://localhost:1")} == {403}
        assert _tagged(base, tracker.run_id, "http://evil.example", host="evil.example") == 403
        os.killpg(started[0], 0)  # signal 0 only asks whether the group of processes is there
    with pytest.raises(ProcessLookupError):
        os.killpg(started[0], 0)
