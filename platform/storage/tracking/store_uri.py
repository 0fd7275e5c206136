"""Checks the address of a store of runs before any work. MLflow itself would retry for minutes, or raise."""

from __future__ import annotations

import re
import urllib.error
import urllib.parse
import urllib.request

from fedrecon.platform.config.address import no_answer
from fedrecon.sites.errors import InputError, brief, cause_of, unknown

SERVERS = ("http", "https", "databricks", "databricks-uc", "uc")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ASKS_WHO = (401, 403, 407)
SQLITE = "sqlite:///"


def check_path(uri: str) -> None:
    """Refuses the address of an SQLite file whose path is read otherwise there: '%' begins an escape, '?' an option.

    MLflow and its database library read it in different ways, so no quoting helps.

    Raises:
        InputError: the message names the path.
    """
    if uri.startswith(SQLITE) and (wrong := [mark for mark in "%?" if mark in uri]):
        path = uri.removeprefix(SQLITE)
        raise InputError(f"the path of the database cannot hold '{wrong[0]}': {path}; choose another --workspace")


def public(uri: str) -> str:
    """The URI without a user's name and password."""
    return re.sub(r"//[^/]*@", "//", uri)


def check_address(uri: str, seconds: float = 10.0) -> None:
    """Refuses an address that names no store, and a server or database that does not answer.

    Args:
        seconds: the time that a server has to answer.

    Raises:
        InputError: the message says what is wrong with the address.
    """
    try:
        parts = urllib.parse.urlsplit(uri)
        kind, port = parts.scheme.split("+")[0], parts.port
    except ValueError as error:
        raise InputError(f"the tracking URI {brief(public(uri))} is no address: {error}") from None
    if kind not in (*SERVERS, *DATABASES):
        raise InputError(f"the tracking URI {brief(public(uri))}: {unknown('scheme', kind, (*SERVERS, *DATABASES))}")
    if kind in ("http", "https"):
        port = port or {"http": 80, "https": 443}[kind]
        if (reason := no_answer(parts.hostname or "", port, seconds) or _is_no_mlflow(uri, seconds)) is not None:
            raise InputError(f"no MLflow server answers at '{public(uri)}': {reason}")
    elif kind in DATABASES and not uri.startswith("sqlite:///"):
        _check_driver(uri)
        if parts.hostname and port and (reason := no_answer(parts.hostname, port, seconds)) is not None:
            raise InputError(f"no database answers at {parts.hostname}:{port}: {reason}")


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
