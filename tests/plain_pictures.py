"""Pictures without text and colours, for tests in which a picture only has to be there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedrecon.sites.scoring import picture
from fedrecon.sites.scoring.panel import _png


def plain(reference: Any, zero_filled: Any, reconstruction: NDArray[Any], maximum: float, *_: Any, **__: Any) -> bytes:
    """The reconstruction alone, as PNG."""
    grey = np.clip(255 * np.abs(reconstruction) / maximum, 0, 255).astype(np.uint8)
    return _png(Image.fromarray(grey).convert("RGB"))


@contextmanager
def plain_pictures() -> Iterator[None]:
    """Sites in this process reconstruct what they show, and draw it plainly: Matplotlib takes longer than the rest.

    What a panel shows is tested in test_panels.py and test_apply.py.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "panel", plain)
        yield
