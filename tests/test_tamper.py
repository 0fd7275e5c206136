"""A few of the cases of ``make tamper``: no result that differs, no traceback, no death."""

from collections import Counter

import pytest
import tamper
from tamper import KINDS, OTHER, SAID, SAME, Case, prepare

pytestmark = pytest.mark.slow


def test_what_was_tampered_with_is_refused_in_one_line_or_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRECON_CACHE", str(tmp_path / "cache"))
    keepers = prepare(tmp_path, ["fedper"])
    assert keepers == ["fedper"]
    outcomes: Counter[str] = Counter()
    for number in range(len(KINDS)):
        outcome, said = Case(number, 18, KINDS, ["fedper"], keepers).run(tmp_path)
        assert outcome in (SAID, SAME, OTHER), f"case {number}: {outcome}: {said}"
        outcomes[outcome] += 1
    assert outcomes[SAID] > len(KINDS) / 2


def test_each_outcome_is_told_from_the_others(tmp_path, monkeypatch):
    """The tool itself: a result that differs, a traceback and a death are seen as such."""

    def other(rng, world, place):
        return "other", lambda: {"digest": "a", "mean": 2}, {"digest": "a", "mean": 1}

    acts = {
        tamper.WRONG: other,
        tamper.SAME: lambda *_: ("same", lambda: {"digest": "a"}, {"digest": "a"}),
        tamper.OTHER: lambda *_: ("new", lambda: {"digest": "b"}, {"digest": "a"}),
        tamper.TRACE: lambda *_: ("bad", lambda: 1 / 0, {}),
        tamper.DEATH: lambda *_: ("dead", lambda: tamper.os.kill(tamper.os.getpid(), 9), {}),
    }
    (tmp_path / "sites").mkdir()
    (tmp_path / "one" / "other").mkdir(parents=True)
    for number, outcome in enumerate(acts):
        assert Case(number, 0, acts, ["one"], []).run(tmp_path)[0] == outcome
