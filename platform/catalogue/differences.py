"""Two runs side by side: the settings that differ, and the test scores with their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrecon.platform.catalogue.overview import overview
from fedrecon.platform.config.experiment import OF_TRAINING
from fedrecon.platform.federation.attendance import in_words
from fedrecon.platform.runs.report import flat
from fedrecon.platform.runs.run_environment import DECISIVE
from fedrecon.platform.storage.parquet import read_scores
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import InputError
from fedrecon.sites.score_columns import METRICS


def compare(first: RunFolder, second: RunFolder) -> dict[str, Any]:
    """What differs between two runs.

    Returns:
        ``runs``: the two runs, as :meth:`Overview.as_dict`. ``settings``: the values ``[a, b]`` of each dotted key that
        differs; None where a run has not the key. ``data``, ``code``, ``environment``: the same of the content hashes
        of the shards, of the source files, and of devices and versions. ``scores``: for each site and ``mean``, by
        metric, ``a``, ``b`` and ``difference``, which is b - a. ``notes``: why scores cannot be compared as they stand.

    Raises:
        InputError: it is the same run. RunError: a file of a run is damaged.
    """
    if first.path == second.path:
        raise InputError(f"both are run {first.digest}: name two runs")
    noted, results = ([one.noted() or {} for one in (first, second)], [one.result() or {} for one in (first, second)])
    environments = [one.environment() or {} for one in (first, second)]
    return {
        "runs": [overview(one).as_dict() for one in (first, second)],
        "settings": _differing(*map(_settings, noted)),
        "data": _differing(*map(_contents, environments)),
        "code": _differing(*(dict(one.get("code") or {}) for one in noted)),
        "environment": _differing(*map(_machine, environments)),
        "scores": _scores(*results),
        "notes": _notes((first, second), noted, results),
    }


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [a.get(key), b.get(key)] for key in {**a, **b} if a.get(key) != b.get(key)}


def _trains(noted: Mapping[str, Any]) -> bool:
    return bool(noted.get("experiment", {}).get("reconstructor", {}).get("name", "network") == "network")


def _settings(noted: Mapping[str, Any]) -> dict[str, str]:
    """The settings with an effect, by dotted key; of a plug-in file its name, because its text is compared as code."""
    idle = () if _trains(noted) else OF_TRAINING
    experiment = {key: value for key, value in noted.get("experiment", {}).items() if key not in idle}
    return dict(flat({**experiment, "plugins": [one["file"] for one in experiment.get("plugins", ())]}))


def _contents(environment: Mapping[str, Any]) -> dict[str, str]:
    members = environment.get("members", {}).values()
    return {site: content[:16] for one in members for site, content in (one.get("shards") or {}).items()}


def _machine(environment: Mapping[str, Any]) -> dict[str, str]:
    """Versions and devices; one line each, if all members have the same."""
    members = environment.get("members", {})
    found = {key: str(environment[key]) for key in ("python", "crew") if key in environment}
    for key in DECISIVE:
        values = {name: str(one.get(key)) for name, one in members.items()}
        same = len(set(values.values())) == 1
        found |= {key: next(iter(values.values()))} if same else {f"{name}.{key}": one for name, one in values.items()}
    return found


def _scores(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float | None]]]:
    sites = {**a.get("sites", {}), **b.get("sites", {})}
    found = {}
    for name in (*sorted(sites), "mean"):
        one, other = (run.get("mean", {}) if name == "mean" else run.get("sites", {}).get(name, {}) for run in (a, b))
        found[name] = {metric: _pair(one.get(metric), other.get(metric)) for metric in METRICS}
    return found


def _pair(a: float | None, b: float | None) -> dict[str, float | None]:
    return {"a": a, "b": b, "difference": None if a is None or b is None or a == b == float("inf") else b - a}


def _tested(folder: RunFolder) -> dict[str, set[str]]:
    """The test subjects of each site; empty without a table of scores."""
    path = folder.journal().artifact_path("scores.parquet")
    if path is None:
        return {}
    columns, found = read_scores(path), dict[str, set[str]]()
    for site, subject in zip(columns["site"], columns["subject"], strict=True):
        found.setdefault(site, set()).add(subject)
    return found


def _notes(folders: Sequence[RunFolder], noted: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[str]:
    """Why the two scores of a row are not of the same thing."""
    names = [one.digest for one in folders]
    notes = [f"run {name} has no result yet" for name, one in zip(names, results, strict=True) if not one]
    references = [one.get("experiment", {}).get("evaluation", {}).get("reference", "measured") for one in noted]
    if len(set(references)) > 1:
        notes.append(f"the scores are against other references: {references[0]} and {references[1]}")
    tested = [_tested(one) for one in folders]
    for site in sorted(tested[0].keys() & tested[1].keys()):
        if tested[0][site] != tested[1][site]:
            notes.append(f"site '{site}' tests other subjects in the two runs")
    if all(results) and (lonely := sorted(results[0]["sites"].keys() ^ results[1]["sites"].keys())):
        notes.append(f"the means are over other sites: only one run tests {', '.join(lonely)}")
    versions = [one.get("science_version") for one in noted]
    if len(set(versions)) > 1 and len(set(map(_trains, noted))) == 1:  # each kind has a version of its own
        notes.append(f"the runs are of other versions of the science: {versions[0]} and {versions[1]}")
    for name, result in zip(names, results, strict=True):
        if missed := in_words(result.get("missed", {})):
            notes.append(f"run {name} went on without {missed}")
    return notes
