"""Looks into an SQLite file of runs without MLflow, which takes 2 s to load."""

from __future__ import annotations

import sqlite3
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path

from fedrecon.platform.storage.tracking.address import SQLITE

_LOCATIONS = "SELECT artifact_location FROM experiments WHERE experiment_id != 0"  # the default one has no runs


def damage(path: Path) -> str | None:
    """Why the SQLite file is of no use to MLflow; None if it is sound, or if another process holds it just now."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.1)) as database:
            (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    if answer != "ok":
        return str(answer)
    return None if "runs" in tables else "it has no table of runs"


def holds_run(uri: str, run_id: str) -> bool:
    """Whether the store has the run, as far as it can be told without MLflow: an SQLite file is asked."""
    if not uri.startswith(SQLITE):
        return True
    path = Path(uri.removeprefix(SQLITE))
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0.1)) as database:
            return database.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone() is not None
    except sqlite3.OperationalError:
        return True  # another process holds it
    except sqlite3.DatabaseError:
        return False


def other_place(path: Path, artifacts: Path) -> Path | None:
    """The folder to which the SQLite file sends the artifacts of new runs, if it is another one than ``artifacts``.

    MLflow notes whole paths. So the file of a workspace that was moved or copied sends them to the first place. A
    folder that two paths lead to is one place. None also if that cannot be told now.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.1)) as database:
            noted = [urllib.parse.urlsplit(str(one)) for (one,) in database.execute(_LOCATIONS)]
    except sqlite3.DatabaseError:
        return None
    roots = {Path(urllib.request.url2pathname(one.path)).parent for one in noted if one.scheme == "file"}
    for root in sorted(roots):
        theirs, own = root.parent, artifacts.parent
        if root.name == artifacts.name and theirs != own and not (theirs.exists() and theirs.samefile(own)):
            return root
    return None


def set_aside(path: Path, why: str = "damaged") -> Path:
    """Renames an SQLite file that is of no use here. Its journals go with it: they would damage the new one."""
    number = sum(1 for _ in path.parent.glob(f"{path.name}.{why}-*")) + 1
    aside = path.with_name(f"{path.name}.{why}-{number}")
    path.rename(aside)
    for suffix in ("-journal", "-wal", "-shm"):
        if (other := path.with_name(path.name + suffix)).exists():
            other.rename(path.with_name(f"{path.name}{suffix}.{why}-{number}"))
    return aside
