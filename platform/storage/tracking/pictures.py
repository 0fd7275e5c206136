"""Pictures of a run in MLflow, in the files in which MLflow's own ``log_image`` writes them.

MLflow's small version has 256 pixels, and its tile is a square of which one sees the upper half: a wide panel of four
images would be a strip of which one sees an edge. Here the small version has 448 pixels, so that two runs stand
side by side, and a wide picture lies at the top of its square. The full picture, which a click opens, is the PNG as it
was drawn.
"""

from __future__ import annotations

import io
import re
import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fedrecon.platform.storage.tracking.entities import own_key, stored_key
from fedrecon.sites import debris

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from PIL import Image

SMALL = 448
"""Width and height of the small version, in pixels: MLflow shows two runs side by side in a window of 1,600."""

_TAG = "mlflow.loggedImages"
_FILE = re.compile(r"(?P<key>.+)\+step\+(?P<step>\d+)\+timestamp\+.*\+compressed\.webp")


def log_picture(client: MlflowClient, run_id: str, key: str, step: int, png: bytes) -> None:
    """Writes a PNG and its small version under ``key`` at ``step``."""
    from PIL import Image

    name = stored_key(key).replace("/", "~")
    name = f"{name}+step+{step}+timestamp+{time.time_ns() // 1_000_000}+{uuid.uuid4()}"
    with debris.scratch() as scratch, Image.open(io.BytesIO(png)) as picture:
        (scratch / f"{name}.png").write_bytes(png)
        small(picture.convert("RGB")).save(scratch / f"{name}+compressed.webp")
        client.log_artifacts(run_id, str(scratch), "images")
    client.set_tag(run_id, _TAG, "True")


def small(picture: Image.Image) -> Image.Image:
    """The small version: a square, with the picture at its top in the middle; the rest is transparent."""
    from PIL import Image

    factor = SMALL / max(picture.size)
    width, height = (max(round(side * factor), 1) for side in picture.size)
    square = Image.new("RGBA", (SMALL, SMALL))
    square.paste(picture.resize((width, height), Image.Resampling.LANCZOS), ((SMALL - width) // 2, 0))
    return square


def logged(names: Iterable[str]) -> frozenset[tuple[str, int]]:
    """Key and step of the pictures among the files of these names."""
    found = [match for match in map(_FILE.fullmatch, names) if match]
    return frozenset((own_key(match["key"].replace("~", "/")), int(match["step"])) for match in found)
