"""For files whose runs leave pictures, of which no pixel is looked at."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def pictures() -> Iterator[None]:
    """A panel is built from its images, crosses and is recorded, but its figure is not drawn."""
    from PIL import Image

    from fedrecon.sites.scoring import panel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panel, "_compressed", lambda figure: panel._png(Image.new("RGB", (8, 8))))
        yield
