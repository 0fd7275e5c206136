"""One call of a study: its matrix, its trials and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon.platform.config.replaced import replaced
from fedrecon.sites.errors import tell
from fedrecon.sites.phases import phase
from fedrecon.tune.engine.campaign import Campaign, Rerun
from fedrecon.tune.study.analysis.condition import Condition, Missing
from fedrecon.tune.study.config import Study
from fedrecon.tune.study.matrix import Matrix
from fedrecon.tune.trials.planner import Planner, Shape, absolute

if TYPE_CHECKING:
    from fedrecon.tune.engine.records import CampaignRecords

FOLDER = "studies"


class StudyCampaign(Campaign):
    """The steps of one call of a study.

    Args:
        chosen: the study. base: the content of its base experiment.
        workspace, address, tracking_uri, rerun, keep_checkpoints: see :func:`fedrecon.tune.study.run.study`.
        write_outputs: a function that writes the data set and the report and returns the MLflow address; None if
            the call only reads the study.
    """

    def __init__(
        self,
        chosen: Study,
        base: dict[str, Any],
        workspace: Path,
        address: str | None = None,
        tracking_uri: str | None = None,
        rerun: Rerun = False,
        write_outputs: Callable[[StudyCampaign, CampaignRecords], str | None] | None = None,
        keep_checkpoints: bool = False,
    ) -> None:
        planner = Planner(chosen, base, address=address)
        super().__init__(planner, FOLDER, workspace, address, tracking_uri, rerun, keep_checkpoints)
        self.chosen, self.base, self._write_outputs = chosen, base, write_outputs

    @cached_property
    def matrix(self) -> Matrix:
        """The planned matrix of trainings and cells."""
        return Matrix(self.chosen, self.planner.base, self.planner).plan()

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.trial_table.folder / "report"

    def fill(self) -> None:
        """Adds a row to the trial table for each planned trial: the trainings and the tests that fill the cells."""
        for trial in self.matrix.trials:
            self.trial_table.add(trial)

    def announce(self) -> None:
        """Prints the plan and a rough estimate of its duration."""
        trials = self.matrix.trials
        shape, done = Shape.of(trials), len(trials) - self.trial_table.count("WAITING")
        parts = [
            f"{len(self.chosen.methods)} methods, {len(self.matrix.cells)} cells",
            f"{shape.trainings} trainings of {shape.rounds} rounds in all",
            f"{len(trials) - shape.trainings} evaluations",
        ]
        if done and self.rerun is not True:
            parts.append(f"{done} of these {len(trials)} done already")
        tell(f"{self.chosen.name}: {', '.join(parts)}{self.duration()}")
        for line in self.replaced():
            tell(line)

    def content(self) -> tuple[str, dict[str, Any]]:
        """The name and content of the study's own file in its folder."""
        return "study.yaml", {**self.chosen.model_dump(mode="json"), "experiment": absolute(self.base)}

    def tags(self, number: int) -> dict[str, str]:
        """The MLflow tags of a trial's run, from the trial's number."""
        return {"fedrecon.study": self.chosen.name, f"fedrecon.study.{self.chosen.name}": str(number)}

    def conclude(self, records: CampaignRecords) -> None:
        """Writes the data set and the report."""
        assert self._write_outputs is not None
        with phase("writing the scores and the report"):
            self.url = self._write_outputs(self, records)

    def replaced(self) -> Iterator[str]:
        """Yields what each method takes away from the base with a block of its own."""
        for name, patch in self.chosen.methods.items():
            yield from (f"methods.{name}: {line}" for line in replaced(self.planner.base, patch))

    def reasons(self) -> dict[str, str]:
        """The reason why a trial has no scores, by the trial's digest. Finished trials are left out."""
        return {
            row.trial.digest: row.error
            or ("not run yet" if row.status in ("WAITING", "RUNNING") else row.status.lower())
            for row in self.trial_table.rows
            if row.status != "FINISHED"
        }

    def missing(self) -> list[Missing]:
        """The cells whose trial has no result. :func:`fedrecon.tune.study.scores.missing` adds what a result lacks."""
        reasons = self.reasons()
        return [
            Missing(**cell.part(Condition), reason=reasons[cell.digest])
            for cell in self.matrix.cells
            if cell.digest in reasons
        ]
