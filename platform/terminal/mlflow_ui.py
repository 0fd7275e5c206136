"""``fedrecon ui``: an MLflow server over the workspace, opened on the page that shows runs."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fedrecon.platform.storage.tracking.address import DATABASE, SQLITE
from fedrecon.platform.storage.tracking.mlflow_store import ARTIFACTS, ENVIRONMENT
from fedrecon.platform.storage.tracking.runs_view import VIEW
from fedrecon.platform.storage.tracking.tracker import STUDIES, SUMMARIES
from fedrecon.platform.terminal.output import say
from fedrecon.sites.errors import InputError, RunError
from fedrecon.sites.phases import phase

PORT = 5000
START_SECONDS = 90.0
LOG = "mlflow-ui.log"


def serve(workspace: Path, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serves the workspace until Ctrl-C. Prints the address, and on a terminal opens a browser.

    Args:
        workspace: the folder of ``mlflow.db``.
        host: the address to listen on; with 127.0.0.1 only this machine can reach the server.
        port: the port; None takes 5000, or a free port if 5000 is taken.

    Raises:
        InputError: the workspace has no runs, or the port is taken.
        RunError: the server did not start; the message shows the end of its log.
    """
    with serving(workspace, host, port) as address:
        say(f"MLflow shows the runs of {workspace} at\n  {address}\nCtrl-C ends it.")
        if sys.stdout.isatty():
            webbrowser.open(address)
        with _ended_by_signal() as ended:
            ended.wait()
    print("ended", file=sys.stderr)


@contextmanager
def serving(workspace: Path, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Runs a server during the body, and yields the address of its runs page. All its processes end after the body."""
    workspace = workspace.absolute()
    experiment = newest_experiment(workspace)
    port = _port(host, port)
    log = workspace / LOG
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(host, port),
            env=environment(workspace, port),
            cwd=workspace,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with phase("starting MLflow"):
            _wait(process, f"http://{host}:{port}/health", log)
        yield runs_page(host, port, experiment, saved=_has_view(workspace, experiment))
    finally:
        _end(process)


def command(host: str, port: int) -> list[str]:
    """The server's command line: one worker. ``mlflow server`` would start the same, without :mod:`.own_origin`."""
    application = "fedrecon.platform.terminal.own_origin:mlflow_application"
    options = ("--host", host, "--port", str(port), "--workers", "1", "--log-level", "warning")
    return [sys.executable, "-m", "uvicorn", "--factory", *options, application]


def environment(workspace: Path, port: int) -> dict[str, str]:
    """The server's environment: no telemetry, no job runner, this workspace's store, and only names of this machine."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "_MLFLOW_"))}
    artifacts = (workspace / ARTIFACTS).as_uri()
    return {
        **kept,
        **ENVIRONMENT,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},localhost:{port}",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_SERVER_FILE_STORE": SQLITE + str(workspace / DATABASE),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": artifacts,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }


def runs_page(host: str, port: int, experiment: str, saved: bool = False) -> str:
    """The address of the page with an experiment's runs and charts. Without the query MLflow opens its GenAI page.

    Args:
        saved: whether the experiment has the saved view of :mod:`fedrecon.platform.storage.tracking.runs_view`.
    """
    view = f"&viewStateShareKey={VIEW}" if saved else ""
    return f"http://{host}:{port}/#/experiments/{experiment}/runs?workflowType=machine_learning{view}"


def _has_view(workspace: Path, experiment: str) -> bool:
    """Whether the experiment has the saved view; a workspace of an earlier version has none until its next run."""
    query = "SELECT 1 FROM experiment_tags WHERE experiment_id = ? AND key = ?"
    with closing(sqlite3.connect(f"{(workspace / DATABASE).as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(query, (experiment, f"mlflow.sharedViewState.{VIEW}")).fetchone() is not None


def newest_experiment(workspace: Path) -> str:
    """The id of the MLflow experiment with the newest run. Summaries of sweeps and studies count only if alone.

    The id is read with sqlite3, because MLflow itself takes 2 s.

    Raises:
        InputError: the workspace has no database or no run, or the file is not a database of MLflow.
    """
    path = workspace / DATABASE
    if not path.is_file():
        raise InputError(
            f"no runs in '{workspace}': the file {DATABASE} does not exist. Run an experiment first (fedrecon run), or "
            "name the right folder with --workspace."
        )
    query = (
        "SELECT runs.experiment_id FROM runs JOIN experiments ON runs.experiment_id = experiments.experiment_id "
        "WHERE runs.lifecycle_stage = 'active' ORDER BY experiments.name IN (?, ?), runs.start_time DESC LIMIT 1"
    )
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            row = database.execute(query, (SUMMARIES, STUDIES)).fetchone()
    except sqlite3.DatabaseError as error:
        raise InputError(f"'{path}' is not an MLflow database: {error}.") from error
    if row is None:
        raise InputError(f"no runs in '{workspace}': run an experiment first (fedrecon run).")
    return str(row[0])


def _port(host: str, port: int | None) -> int:
    if port is not None:
        if not _free(host, port):
            raise InputError(f"port {port} of {host} is taken: choose another port with --port.")
        return port
    if _free(host, PORT):
        return PORT
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _wait(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    why = f"it did not answer within {START_SECONDS:.0f} s" if process.poll() is None else "it ended"
    raise RunError(f"the MLflow server did not start: {why}. The end of {log}:\n{tail}")


def _end(process: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    """Ends the server and its workers. They are one process group, because of ``start_new_session``."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        time.sleep(0.2)
    process.wait()


@contextmanager
def _ended_by_signal() -> Iterator[threading.Event]:
    """Yields an event that Ctrl-C and SIGTERM set, so that the server never outlives this process."""
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
