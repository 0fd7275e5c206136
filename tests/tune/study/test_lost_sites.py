"""A finished run that lost a site: its cell is missing, and so is every mean that needs it."""

import pytest
from small_studies import found
from test_study_plan import planned_campaign

from fedrecon.platform.federation.attendance import MISSED, Attendance
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.tune.study.analysis.analyse import analyse
from fedrecon.tune.study.analysis.condition import Condition, Score
from fedrecon.tune.study.scores import DIED, lost_replies, missing

PSNR = {"middle": 30.0, "north": 20.0, "south": 40.0}


@pytest.fixture(scope="module")
def paths(consortium):
    return {site: str(path) for site, path in consortium.items()}


def scored(matrix, lost):
    """The scores of every cell but those of one site of the trained method."""
    cells = [cell for cell in matrix.cells if (cell.method, cell.tested_on) != ("unet", lost)]
    return [
        Score(
            **cell.part(Condition), slices_per_site=cell.slices_per_site, subject=f"{cell.tested_on}{i}",
            psnr=PSNR[cell.tested_on], ssim=0.9, nmse=0.01, n_slices=1, run_id="run", digest=cell.digest,
        )
        for cell in cells
        for i in range(2)
    ]  # fmt: skip


@pytest.mark.slow
def test_a_mean_without_a_site_that_died_is_missing(paths, tmp_path):
    """By hand: zero-filled has (30 + 20 + 40) / 3 = 30. Without north the network would have 35; it has no mean."""
    methods = {"unet": {"strategy.name": "fedavg"}, "zero-filled": {"reconstructor": "zero_filled"}}
    campaign = planned_campaign(paths, tmp_path, methods=methods)
    campaign.fill()
    for row in campaign.trial_table.rows:
        row.status, row.run_id = "FINISHED", "run"
    rows = scored(campaign.matrix, "")
    assert (missing(campaign, rows), lost_replies(campaign)) == ([], "")

    rows = scored(campaign.matrix, "north")
    trained = next(cell.digest for cell in campaign.matrix.cells if cell.method == "unet")
    (unknown,) = missing(campaign, rows)
    assert (unknown.tested_on, unknown.reason) == ("north", "not scored by its run")
    folder = RunFolder(campaign.workspace, trained)
    folder.path.mkdir(parents=True)
    attendance = Attendance(folder.path / MISSED, list(PSNR))
    attendance.note(1, {"north": "dead"})
    attendance.note("test", {"north": "dead when it was scored"})
    (gone,) = missing(campaign, rows)
    assert (gone.method, gone.tested_on, gone.seed, gone.reason) == ("unet", "north", 0, DIED)
    assert lost_replies(campaign).endswith("north: round 1 (dead); north: test (dead when it was scored).")

    statistics = analyse(found(rows, [gone]))
    (group,) = statistics.tables
    means = {name: statistics.at(group, statistics.overall(group), name).mean for name in ("unet", "zero-filled")}
    assert means == {"unet": None, "zero-filled": 30.0}
    assert statistics.at(group, statistics.overall(group), "unet").reason == f"north: {DIED}"
