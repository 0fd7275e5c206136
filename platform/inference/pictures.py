"""Pictures of a trained network at work: the run's panel, for a reconstructed file or at the sites of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedrecon.platform.inference.one_site import OneSite
from fedrecon.sites import atomic
from fedrecon.sites.wire import PanelTask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedrecon.platform.inference.trained_run import TrainedRun

MOST = 4
"""The largest number of slices of a reconstructed volume that are drawn."""


@dataclass
class SitePictures:
    """One picture of each site and operator of an evaluation, if ``evaluation.panels`` allows pictures of its shard.

    Attributes:
        trained: the run. by_name: the PNG files by name, without suffix.
    """

    trained: TrainedRun
    by_name: dict[str, bytes] = field(default_factory=dict)

    def draw(self, member: OneSite, model: str, operator: str) -> None:
        """Asks a site for its picture.

        Args:
            model: the name of the network that reconstructs there. operator: the label of the operator.
        """
        experiment = self.trained.experiment
        what = experiment.strategy["name"] if experiment.trains else experiment.reconstructor["name"]
        answer = member.call("panels", self.trained.request, PanelTask("test", f"test, {what}"))
        for site, png in answer.pictures.items():
            # Several networks reconstruct where the members' own ones do, which share nothing.
            own = [model] if self.trained.all_private and site not in self.trained.members else []
            self.by_name["-".join(_safe(part) for part in (site, operator, *own))] = png

    def write(self, folder: Path) -> list[str]:
        """Writes the pictures into the folder, and returns their paths."""
        paths = {folder / f"{name}.png": png for name, png in self.by_name.items()}
        for path, png in paths.items():
            atomic.write_bytes(path, png)
        return [str(path) for path in paths]


def volume_picture(
    stages: Mapping[str, NDArray[np.float32]], reference: NDArray[np.float32] | None, caption: str, before: str
) -> bytes:
    """The run's panel for up to :data:`MOST` slices of one volume, below one another, as PNG.

    Args:
        stages: magnitude images (slices, y, x), with ``output`` and ``zero_filled``, and ``uncertainty`` where the
            method tells the spread of its error.
        reference: magnitude (slices, y, x), or None: then nothing is compared with it.
        caption: the line under each panel; ``{slice}`` stands for the number of the slice.
        before: the title of the zero-filled image.
    """
    from fedrecon.sites.scoring.panel import montage, panel

    maximum = float((stages["output"] if reference is None else reference).max())
    drawn = []
    for index in _spread(len(stages["output"])):
        own, under = None if reference is None else reference[index], caption.replace("{slice}", str(index))
        given = own, stages["zero_filled"][index], stages["output"][index], maximum, under
        spread = stages["uncertainty"][index] if "uncertainty" in stages else None
        drawn.append(panel(*given, before=before, spread=spread))
    return montage(drawn)


def _spread(count: int) -> Sequence[int]:
    """Up to :data:`MOST` numbers of slices, evenly spread and away from both ends."""
    n = min(MOST, count)
    return [int(one) for one in np.unique(np.linspace(0, count - 1, n + 2).round().astype(int)[1:-1])]


def _safe(text: str) -> str:
    """The text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._+]+", "_", text).strip("_")
