"""Whom the runs before a run saw, where its training began with the network of another one (``training.start``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrecon.platform.storage.run_lookup import find_run


def began_with(experiment: Mapping[str, Any], workspace: Path) -> dict[str, Any]:
    """The subjects, scans and hospitals of the run that an experiment begins with, and of those before that one.

    Args:
        experiment: the experiment as a plain dict.

    Returns:
        ``subjects``, ``scans`` and ``hospitals`` of :func:`fedrecon.platform.consortium.checks.noted_shards`, each site
        as ``SITE of run DIGEST``; empty without ``training.start``.

    Raises:
        InputError: one of these runs is not in the workspace.
    """
    name = experiment.get("training", {}).get("start")
    if name is None:
        return {}
    folder = find_run(workspace, name)
    noted, own = folder.noted() or {}, f" of run {folder.digest}"
    before = start_of(noted, workspace)
    return {
        key: {**{f"{site}{own}": one for site, one in noted.get(key, {}).items()}, **before.get(key, {})}
        for key in ("subjects", "scans", "hospitals")
    }


def start_of(noted: Mapping[str, Any], workspace: Path) -> Mapping[str, Any]:
    """What a run's note says of the run that it began with. Notes of older versions say nothing: that run is asked."""
    known: Mapping[str, Any] | None = noted.get("start")
    return began_with(noted.get("experiment", {}), workspace) if known is None else known
