"""The address of a store of runs, and whether anything answers there. Loads no MLflow."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from fedrecon.platform.config.address import no_answer
from fedrecon.sites.errors import InputError

DATABASE = "mlflow.db"
SQLITE = "sqlite:///"
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def tracking_uri(uri: str | None, workspace: Path) -> str:
    """The tracking URI: the argument, else MLFLOW_TRACKING_URI, else the workspace's own SQLite file.

    Raises:
        InputError: the URI cannot hold runs.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or SQLITE + str(workspace.absolute() / DATABASE)
    if "://" not in chosen or chosen.startswith("file:"):
        raise InputError(
            f"the tracking URI '{chosen}' cannot hold runs: give http(s)://HOST:PORT of an MLflow server or "
            f"sqlite:///FILE (a folder of files is no longer supported by MLflow)."
        )
    if chosen.startswith(SQLITE):
        return SQLITE + str(Path(chosen.removeprefix(SQLITE)).absolute())
    return chosen


def check_reachable(uri: str | None, workspace: Path, seconds: float = 5.0) -> None:
    """Refuses a server that does not answer, without loading MLflow. Any HTTP answer is one.

    Raises:
        InputError: the URI cannot hold runs, or nothing answers there.
    """
    chosen = tracking_uri(uri, workspace)
    parts = urllib.parse.urlsplit(chosen)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite" or not parts.hostname:
        return
    reason: object = None
    try:
        if scheme in ("http", "https"):
            urllib.request.urlopen(f"{scheme}://{parts.netloc.rpartition('@')[2]}/health", timeout=seconds).close()
        elif port := parts.port or _PORTS.get(scheme):
            reason = no_answer(parts.hostname, port, seconds)
    except urllib.error.HTTPError as answer:
        answer.close()
    except urllib.error.URLError as error:
        reason = error.reason
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error
    if reason is not None:
        raise InputError(f"no MLflow server answers at '{public(chosen)}': {reason}.")


def noted(uri: str, workspace: Path) -> str:
    """How a journal notes a store: without a password; the workspace's own file is an empty text, and may be moved."""
    return "" if uri == SQLITE + str(workspace.absolute() / DATABASE) else public(uri)


def public(uri: str) -> str:
    """The URI without a password."""
    parts = urllib.parse.urlsplit(uri)
    return uri if "@" not in parts.netloc else parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
