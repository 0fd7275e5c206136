"""Pictures of a study: one test slice, reconstructed by every method."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fedrecon.platform.consortium.shards import is_here
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites import atomic
from fedrecon.tune.study.analysis.inputs import Panel
from fedrecon.tune.study.matrix import Cell

if TYPE_CHECKING:
    from fedrecon.platform.config.experiment import Experiment
    from fedrecon.platform.consortium.consent import UnseenPolicy
    from fedrecon.platform.inference.comparison import ComparedMethod
    from fedrecon.platform.inference.trained_run import TrainedRun
    from fedrecon.tune.study.campaign import StudyCampaign

SITES = 2
"""The number of sites with a picture. Each picture costs a reconstruction by every method."""

CAPTION = (
    "The middle slice of the first test volume: image with PSNR, a crop where the reference is sharpest, three times "
    "the error; one grey window, from 0 to the 99th percentile of the reference."
)


def panels(campaign: StudyCampaign) -> list[Panel]:
    """One picture for each of the first :data:`SITES` sites, under the first test operator.

    A site is left out if its data do not allow pictures, or if its shard lies on another node: its images stay there.
    A method is left out if a private part of its network that the site needs lies on another node.

    The picture of a method shows a training that did not see the site, if one exists, with its first seed.
    """
    from fedrecon.sites.training.local_loop import threads

    evaluation = campaign.matrix.whole.evaluation
    reasons, found = campaign.reasons(), []
    cells = [
        cell
        for cell in campaign.matrix.cells
        if cell.digest not in reasons
        and is_here(campaign.matrix.shards[cell.tested_on])
        and evaluation.draws(campaign.matrix.shards[cell.tested_on].origin)
    ]
    with threads(campaign.matrix.whole.resources.threads):
        tested = {cell.tested_on for cell in cells}
        for site in [site for site in campaign.matrix.shards if site in tested][:SITES]:
            chosen = _chosen([cell for cell in cells if cell.tested_on == site])
            chosen = {name: cell for name, cell in chosen.items() if _is_whole(campaign, cell)}
            if not chosen:
                continue
            first = next(iter(chosen.values()))
            title = f"{site}, {first.operator}"
            trained = [f"{name}: {_training(cell)}" for name, cell in chosen.items() if cell.seed is not None]
            caption = f"{CAPTION} {'; '.join(trained)}"
            runs = sorted({cell.digest for cell in chosen.values()})
            found.append(Panel(title, caption, _drawn(campaign, site, chosen), runs))
    return found


def _drawn(campaign: StudyCampaign, site: str, chosen: Mapping[str, Cell]) -> bytes:
    """The picture as PNG. It is drawn once and kept in a file, because some methods need a long time for a slice.

    It is drawn anew after a rerun: that has the same digest, and it may have another network.
    """
    from fedrecon.platform.inference.comparison import WIDE, side_by_side

    labels = {name: campaign.matrix.method(name).label for name in chosen}
    made_by = [(labels[name], cell.digest, _result(campaign, cell)) for name, cell in chosen.items()]
    key = repr([WIDE, site, campaign.chosen.test.stage, *made_by])
    path = campaign.trial_table.folder / "panels" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.png"
    if not path.is_file():
        before = "zero-filled" if campaign.matrix.whole.task == "reconstruction" else "zero-padded"
        shown = {labels[name]: _shown(campaign, cell) for name, cell in chosen.items()}
        atomic.write_bytes(path, side_by_side(shown, site, before))
    return path.read_bytes()


def _result(campaign: StudyCampaign, cell: Cell) -> str:
    """The hash of the result that fills a cell. It holds the id of the run, so no two runs have the same."""
    content = (RunFolder(campaign.workspace, cell.digest).path / "result.json").read_bytes()
    return hashlib.sha256(content).hexdigest()


def _chosen(cells: Sequence[Cell]) -> dict[str, Cell]:
    """The chosen cell of each method. All have the operator of the first cell."""
    first = cells[0]
    alike = [
        cell
        for cell in cells
        if (cell.mask, cell.acceleration, cell.noise) == (first.mask, first.acceleration, first.noise)
    ]
    found: dict[str, Cell] = {}
    for cell in sorted(alike, key=lambda cell: cell.seen_site):
        found.setdefault(cell.method, cell)
    order = list(dict.fromkeys(cell.method for cell in cells))
    return {name: found[name] for name in order if name in found}


def _shown(campaign: StudyCampaign, cell: Cell) -> ComparedMethod:
    from fedrecon.platform.inference.comparison import ComparedMethod
    from fedrecon.platform.inference.scoring import networks_at

    experiment, trained, rule = _tested(campaign, cell)
    shard, operator = campaign.matrix.shards[cell.tested_on], experiment.tested_at(cell.tested_on)
    hospital, _ = next(networks_at(trained, cell.tested_on, shard, operator, rule))
    return ComparedMethod(hospital, trained, campaign.chosen.test.stage)


def _is_whole(campaign: StudyCampaign, cell: Cell) -> bool:
    """Whether this node has all private network parts that the tested site needs. Parts may lie on other nodes."""
    from fedrecon.platform.inference.unseen_sites import needed

    if not campaign.matrix.method(cell.method).personal:
        return True
    _, trained, rule = _tested(campaign, cell)
    return all(trained.holds(member) for member in needed(trained, cell.tested_on, rule))


def _tested(campaign: StudyCampaign, cell: Cell) -> tuple[Experiment, TrainedRun, UnseenPolicy]:
    """The experiment that fills a cell, its trained run, and its policy for sites that did not train."""
    from fedrecon.platform.inference.trained_run import TrainedRun
    from fedrecon.platform.runs.transfer_run import unseen_policy

    experiment = next(one.experiment for one in campaign.matrix.trials if one.digest == cell.digest)
    trained = replace(TrainedRun.load(campaign.workspace, cell.digest), experiment=experiment.alone)
    return experiment, trained, unseen_policy(experiment, trained)


def _training(cell: Cell) -> str:
    with_what = f" with {cell.trained_with}" if cell.trained_with else ""
    return f"trained on {cell.trained_on}{with_what}, seed {cell.seed}"
