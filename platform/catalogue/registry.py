"""``fedrecon runs register``: the network of a run as a version in MLflow's registry of models."""

from __future__ import annotations

from typing import Any

from fedrecon.platform.runs.sync import store_of
from fedrecon.platform.storage.run_lookup import network_of
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import InputError


def register(
    folder: RunFolder, name: str, alias: str | None = None, model: str | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Makes a version of the registered model ``name`` in the store that has the run.

    Args:
        folder: a finished run; for a test of a trained network, the run that trained it is taken.
        alias: a name for this version; None gives none.
        model: the site whose network it is, if each site has its own.
        dry_run: check all that, also that the store has the model, and register nothing.

    Returns:
        ``digest``, ``store``, ``name``, ``version``, ``alias``, ``uri`` and ``written``. A dry run has no
        ``version`` and no ``uri``: they are None.

    Raises:
        InputError: the run is not finished or not in MLflow, has no model, or MLflow refuses a name.
    """
    if not name.strip() or (alias is not None and not alias.strip()):
        raise InputError("--name and --alias are not empty")
    if folder.result() is None:
        raise InputError(f"run {folder.digest} is not finished; the same command fedrecon run continues it")
    trained = network_of(folder)
    journal = trained.journal()
    if not journal.run_id:
        raise InputError(f"MLflow has not got run {trained.digest} yet: fedrecon sync sends it")
    from fedrecon.platform.storage.tracking.store import run_store

    store = run_store(store_of(journal, folder.workspace), folder.workspace)
    return {"digest": trained.digest, **store.register(journal.run_id, name, alias, model, dry_run)}
