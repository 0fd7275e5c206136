"""The address of a store of runs, and whether anything answers there. Loads no MLflow: it would retry for minutes."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from fedrecon.platform.config.address import no_answer
from fedrecon.sites.errors import InputError, brief, cause_of, unknown

DATABASE = "mlflow.db"
SQLITE = "sqlite:///"
SERVERS = ("http", "https", "databricks", "databricks-uc", "uc")
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SCHEMES = (*SERVERS, "sqlite", "postgresql", "mysql", "mssql")
_ASKS_WHO = (401, 403, 407)


def tracking_uri(uri: str | None, workspace: Path) -> str:
    """The tracking URI: the argument, else MLFLOW_TRACKING_URI, else the workspace's own SQLite file.

    Raises:
        InputError: the URI cannot hold runs.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or SQLITE + str(workspace.absolute() / DATABASE)
    if "://" not in chosen or chosen.startswith("file:"):
        raise InputError(
            f"the tracking URI '{public(chosen)}' cannot hold runs: give http(s)://HOST:PORT of an MLflow server or "
            f"sqlite:///FILE (a folder of files is no longer supported by MLflow)."
        )
    if not chosen.startswith(SQLITE):
        return chosen
    if wrong := [mark for mark in "%?" if mark in chosen]:
        # '%' begins an escape there, '?' an option. MLflow and its database library read both in different ways.
        path = chosen.removeprefix(SQLITE)
        raise InputError(f"the path of the database cannot hold '{wrong[0]}': {path}; choose another --workspace")
    return SQLITE + str(Path(chosen.removeprefix(SQLITE)).absolute())


def check_reachable(uri: str | None, workspace: Path, seconds: float = 5.0) -> None:
    """Refuses an address that names no store, and a server or database that does not answer.

    Args:
        seconds: the time that a server has to answer.

    Raises:
        InputError: the message says what is wrong with the address.
    """
    chosen = tracking_uri(uri, workspace)
    try:
        parts = urllib.parse.urlsplit(public(chosen))
        kind, port = parts.scheme.split("+")[0], parts.port
    except ValueError as error:
        raise InputError(f"the tracking URI {brief(public(chosen))} is no address: {error}") from None
    if kind not in _SCHEMES:
        raise InputError(f"the tracking URI {brief(public(chosen))}: {unknown('scheme', kind, _SCHEMES)}")
    if chosen.startswith(SQLITE):
        return
    if kind not in SERVERS:
        _check_driver(chosen)
    if (port := port or _PORTS.get(kind)) is None or not parts.hostname:
        return
    reason = no_answer(parts.hostname, port, seconds)
    if reason is None and kind in ("http", "https"):
        reason = _is_no_mlflow(parts.geturl(), seconds)
    if reason is not None:
        what = "MLflow server" if kind in SERVERS else "database"
        raise InputError(f"no {what} answers at '{public(chosen)}': {reason}")


def noted(uri: str, workspace: Path) -> str:
    """How a journal notes a store: without a password; the workspace's own file is an empty text, and may be moved."""
    return "" if uri == SQLITE + str(workspace.absolute() / DATABASE) else public(uri)


def public(uri: str) -> str:
    """The URI without what may be secret: all before its last ``@``, and its query. A file's path has neither."""
    if uri.startswith(SQLITE):
        return uri
    scheme, slashes, rest = uri.partition("://") if re.match("[^/@]*://", uri) else ("", "", uri)
    head, *query = re.split("[?#]", rest, maxsplit=1)
    # An @ behind a ? may end a password that holds the ?, or be of the query: nobody knows which part is the host.
    return scheme + slashes + ("..." if "@" in "".join(query) else head.rpartition("@")[2])


def _check_driver(uri: str) -> None:
    import sqlalchemy

    try:
        sqlalchemy.make_url(uri).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        raise InputError(f"the database of the tracking URI needs the Python package '{error.name}'") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise InputError(f"the tracking URI is no address of a database: {cause_of(error)}") from None


def _is_no_mlflow(uri: str, seconds: float) -> str | None:
    """Why the server that answers is no MLflow server; None if it is one, or asks for a name and password first."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=seconds) as answer:
            return None if answer.read(100).strip() == b"OK" else "a server answers, but it is no MLflow server"
    except urllib.error.HTTPError as error:
        return None if error.code in _ASKS_WHO else f"a server answers with {error.code}: it is no MLflow server"
    except TimeoutError:
        return f"nothing within {seconds:g} s, though the port is open"
    except (OSError, ValueError) as error:  # also what urllib calls an URLError, and an answer that is not HTTP
        return str(getattr(error, "reason", None) or cause_of(error))
