"""The examples of docs/extending.md, as files, and an experiment that names them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"

EXAMPLES = {
    text.split("\n")[0].removeprefix("# "): text
    for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
}
"""The text of each example by the name of its file."""


def write_examples(folder: Path) -> list[str]:
    """Writes them into a folder. Returns their paths."""
    for name, text in EXAMPLES.items():
        (folder / name).write_text(text)
    return [str(folder / name) for name in EXAMPLES]


def extended(consortium: Mapping[str, Path], plugins: Any, **changes: Any) -> dict[str, Any]:
    """An experiment whose strategy, network and mask are the examples."""
    return {
        "plugins": plugins,
        "sites": {name: str(path) for name, path in consortium.items()},
        "operator": {"mask": "falling", "acceleration": 2, "center_fraction": 0.1},
        "strategy": {"name": "half"},
        "network": {"name": "tiny", "channels": 4},
        "training": {"rounds": 1, "batch_size": 2},
        "evaluation": {"panels": False},
        **changes,
    }
