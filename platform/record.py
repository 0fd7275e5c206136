"""A run's record: metrics to the tracker, then the commit of the round, then the word to the person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fedrecon.platform.aggregate import METRICS, mean, site_scores, volume_scores

if TYPE_CHECKING:
    from fedrecon.platform.checkpoint import Checkpoints
    from fedrecon.platform.federation import Round
    from fedrecon.platform.progress import Progress
    from fedrecon.platform.tracking import Tracker
    from fedrecon.sites.wire import State

STAGE_KEYS = {"output": "", "data_consistency": "with_data_consistency", "zero_filled": "zero_filled"}
"""Stage of a score to the key under which it stands in the JSON; the method's own output stands at the top."""


@dataclass(frozen=True)
class Committed:
    """A committed round, as a search over many experiments sees it.

    Attributes:
        round: 1, 2, ...
        metrics: losses and, where they were due, validation scores, under their names in MLflow.
    """

    round: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What was to be seen of a state beside its losses; empty where nothing was due.

    Attributes:
        scores: columns of validation scores. pictures: PNG by their names in the tracker. numbers: by the same.
    """

    scores: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


class Record:
    """Commits rounds. The checkpoint is written last, and is the only truth: what a crash leaves half done before it
    is done again with the same bits, and the tracker skips what it has.

    Args:
        committed: what the checkpoint that the run goes on from says (:attr:`content`); empty for a new run.

    Attributes:
        rounds: rows of ``rounds.parquet`` of all committed rounds.
        curve: their losses and validation scores.
    """

    def __init__(
        self, tracker: Tracker, checkpoints: Checkpoints, progress: Progress, committed: Mapping[str, Any]
    ) -> None:
        self.tracker, self.checkpoints, self.progress = tracker, checkpoints, progress
        self.rounds: list[dict[str, Any]] = list(committed.get("rounds", ()))
        self.curve = [Committed(one["round"], one["metrics"]) for one in committed.get("curve", ())]

    @property
    def content(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"rounds": self.rounds, "curve": [asdict(one) for one in self.curve]}

    @property
    def validation(self) -> dict[str, float]:
        """The last validation scores, by their names in MLflow."""
        scored = [one.metrics for one in self.curve if "mean/psnr" in one.metrics]
        return dict(scored[-1]) if scored else {}

    def take_over(self, state: State, losses: Mapping[str, float], seen: Seen) -> Committed:
        """Commits a state that another run trained, with what this experiment's evaluation makes of it."""
        values = {**losses, **flat_metrics(summarise(seen.scores)), **seen.numbers}
        self.curve = [self._note(state.round, values, seen.pictures)]
        self.checkpoints.save(state, self.content)
        return self.curve[-1]

    def commit(self, finished: Round, state: State, seen: Seen) -> Committed:
        """Records one round and commits its state."""
        losses = {member: values["loss"] for member, values in finished.losses.items() if "loss" in values}
        summary = summarise(seen.scores) if seen.scores else {}
        # MLflow's page that compares runs opens on the metric that was logged first
        values = flat_metrics(summary)
        if losses:
            values["mean/loss"] = sum(losses.values()) / len(losses)
        values |= {f"site/{member}/{name}": v for member, one in finished.losses.items() for name, v in one.items()}
        values |= seen.numbers
        values |= {
            "seconds": finished.seconds,
            "traffic/bytes_up": finished.bytes_up,
            "traffic/bytes_down": finished.bytes_down,
            "traffic/extra_bytes_up": finished.extra_up,
            "traffic/extra_bytes_down": finished.extra_down,
            "restarts": finished.restarts,
        }
        committed = self._note(finished.number, values, seen.pictures)
        self.rounds.append(finished.row())
        self.curve.append(committed)
        self.checkpoints.save(state, self.content)
        psnr = {site: one["psnr"] for site, one in summary.get("sites", {}).items()}
        self.progress.round(finished.number, losses, psnr, finished.seconds)
        return committed

    def _note(self, step: int, values: Mapping[str, float], pictures: Mapping[str, bytes]) -> Committed:
        """Tells the tracker, and keeps what tells how good a round was."""
        self.tracker.metrics(step, values)
        for name, png in pictures.items():
            self.tracker.image(name, step, png)
        self.tracker.flush()
        return Committed(step, {key: value for key, value in values.items() if key.startswith(("mean/", "site/"))})


def summarise(columns: Mapping[str, Any]) -> dict[str, Any]:
    """``{"sites": {NAME: scores}, "mean": scores}`` from one row per slice; the mean over sites is unweighted.

    Where several networks reconstructed at a site (each hospital's own, at one that did not train), theirs is the
    unweighted mean over them.
    """
    found: dict[tuple[str, str], list[Any]] = {}
    for row in site_scores(volume_scores(columns)):
        found.setdefault((row["site"], row["stage"]), []).append(row)
    by_site: dict[str, dict[str, Any]] = {}
    for (site, stage), rows in found.items():
        entry = by_site.setdefault(site, {})
        if key := STAGE_KEYS[stage]:
            entry[key] = mean(rows)
        else:
            entry |= {**mean(rows), "n_volumes": rows[0]["n_volumes"], "n_slices": rows[0]["n_slices"]}
    return {"sites": by_site, "mean": _mean(list(by_site.values()))}


def flat_metrics(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """MLflow's metric names: ``site/NAME/psnr``, ``mean/psnr``, ``mean/zero_filled/psnr``, ..."""
    flat: dict[str, float] = {}
    owners = {"mean": summary["mean"]} if "mean" in summary else {}
    owners |= {f"site/{name}": one for name, one in summary.get("sites", {}).items()}
    for owner, scores in owners.items():
        for key in STAGE_KEYS.values():
            part = scores.get(key, {}) if key else scores
            middle = f"{key}/" if key else ""
            flat |= {f"{prefix}{owner}/{middle}{metric}": part[metric] for metric in METRICS if metric in part}
    return flat


def _mean(sites: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {key: sum(one[key] for one in sites) for key in ("n_volumes", "n_slices")}
    for key in STAGE_KEYS.values():
        scores = mean([one[key] if key else one for one in sites])
        total |= {key: scores} if key else scores
    return total
