"""The page of errors and the code say the same: its messages are the code's, and each file that refuses is on it."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
FLOORS = ("sites", "strategies", "platform", "tune", "src/fedrecon/commands")
REFUSES = re.compile(
    r"\b((?:Input|File|Files|Run|DiskFull|Busy|RefusedTrial|Value)Error|unknown)\((?!error\b|at_site\()"
)
"""A call that makes an error, but for one that passes the text of another on."""

WITHOUT_ROW = {"ValueError", "unknown"}
"""What needs a section, but no message on the page: arguments in code, and names, of which one row tells."""


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def tables() -> dict[str, list[list[str]]]:
    """The rows of each section's table, without its head."""
    found: dict[str, list[list[str]]] = {}
    for part in PAGE.split("\n## ")[1:]:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        found[part.splitlines()[0]] = [cells(line) for line in lines[2:]]
    return found


TABLES = tables()
HOME = {
    path: section
    for section, paths in (row[:2] for row in TABLES.pop("Which file says it"))
    for path in re.findall(r"`([^`]+)`", paths)
}
ROWS = [(section, row[0]) for section, rows in TABLES.items() for row in rows]


@cache
def sources() -> dict[str, str]:
    """The text of each file, with strings that go on in the next line made one."""
    files = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
    files += sorted((ROOT / "src" / "fedrecon").glob("*.py"))
    return {path.relative_to(ROOT).as_posix(): re.sub(r'"\s+f?"', "", path.read_text()) for path in files}


def home(path: str) -> str | None:
    """The section of a file: that of the longest path of the page that it lies in."""
    return HOME[max(near, key=len)] if (near := [one for one in HOME if path.startswith(one)]) else None


def says(row: str, text: str) -> bool:
    return all(phrase in text for phrase in re.findall(r"`([^`]+)`", row))


def refusals(text: str) -> set[str]:
    """The kinds of errors that a file makes, but for the classes and functions that it defines."""
    return set(REFUSES.findall(re.sub(r"(?m)^(class|def) .*$", "", text)))


@pytest.mark.parametrize(("section", "row"), ROWS)
def test_every_message_of_the_page_is_said_by_a_file_of_its_section(section: str, row: str) -> None:
    assert "`" in row
    assert [path for path, text in sources().items() if says(row, text) and home(path) == section]


@pytest.mark.slow
def test_every_file_that_refuses_has_a_section_and_a_message_on_the_page() -> None:
    refusing = {path: refusals(text) for path, text in sources().items() if refusals(text)}
    assert len(refusing) > 100
    assert [path for path in refusing if home(path) not in TABLES] == []
    without = {
        path
        for path, kinds in refusing.items()
        if not kinds <= WITHOUT_ROW and not any(says(row, sources()[path]) for _, row in ROWS)
    }
    assert without == set()


def test_every_path_of_the_page_is_that_of_a_file() -> None:
    assert [path for path in HOME if not any(one.startswith(path) for one in sources())] == []


def test_every_row_has_a_remedy_and_every_section_a_general_one() -> None:
    assert [row for rows in TABLES.values() for row in rows if len(row) != 3 or not all(row)] == []
    for section in TABLES:
        assert re.search(rf"\n## {re.escape(section)}\n\n[A-Z]", PAGE), section
