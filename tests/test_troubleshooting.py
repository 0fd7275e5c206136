"""The page of errors quotes the code: a message that was reworded is reworded there too."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ROWS = [line.split(" | ")[0].removeprefix("| ") for line in PAGE.splitlines() if line.startswith("| `")]


@pytest.fixture(scope="module")
def code() -> str:
    """All sources, with strings that go on in the next line made one."""
    files = (path for floor in ("sites", "strategies", "platform", "tune") for path in (ROOT / floor).rglob("*.py"))
    return re.sub(r'"\s+f?"', "", "\n".join(path.read_text() for path in sorted(files)))


@pytest.mark.parametrize("row", ROWS)
def test_every_message_of_the_page_is_one_of_the_code(row: str, code: str) -> None:
    phrases = re.findall(r"`([^`]+)`", row)
    assert phrases
    assert [phrase for phrase in phrases if phrase not in code] == []
