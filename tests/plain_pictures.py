"""Pictures without text and colours, for tests in which a picture only has to be there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedrecon.platform.reporting.document import Picture
from fedrecon.sites.scoring import picture
from fedrecon.sites.scoring.panel import _png


def plain(reference: Any, zero_filled: Any, reconstruction: NDArray[Any], maximum: float, *_: Any, **__: Any) -> bytes:
    """The reconstruction alone, as PNG."""
    grey = np.clip(255 * np.abs(reconstruction) / maximum, 0, 255).astype(np.uint8)
    return _png(Image.fromarray(grey).convert("RGB"))


def figure(name: str, caption: str, figure: Any, runs: Sequence[str] = ()) -> Picture:
    """The figure as two small files; it was built, and is not drawn."""
    return Picture(name, caption, _png(Image.new("RGB", (8, 8))), b'<svg xmlns="http://www.w3.org/2000/svg"/>', runs)


@contextmanager
def plain_pictures() -> Iterator[None]:
    """Sites in this process reconstruct what they show, and draw it plainly: Matplotlib takes longer than the rest.

    Figures of sweeps and studies are built and not drawn. What a panel shows is tested in test_panels.py and
    test_apply.py, what a figure shows in test_figures.py and test_study_report.py.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "panel", plain)
        for module in ("fedrecon.tune.sweep.figures", "fedrecon.tune.study.report.figures"):
            patch.setattr(f"{module}.picture", figure)
        yield
