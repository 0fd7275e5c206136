"""Bad inputs over every command: none ends in a traceback, in death or in silence (``make fuzz`` runs 20,000)."""

from functools import cache

import fuzz
import pytest

from fedrecon import cli


@pytest.mark.slow
def test_a_thousand_bad_inputs_end_in_words(tmp_path, monkeypatch):
    """The parser is made once: reading changes nothing of it, and to make it takes longer than all else in a case."""
    monkeypatch.setattr(cli, "_parser", cache(cli._parser))
    assert fuzz.fuzz(tmp_path, 1000, seed=20, run=fuzz.in_process) == []


@pytest.mark.slow
def test_one_of_them_as_a_process(tmp_path):
    assert fuzz.fuzz(tmp_path, 1, seed=21, run=fuzz.as_process) == []


def test_the_fuzz_sees_what_is_wrong(tmp_path, monkeypatch):
    def broken(argv):
        raise ZeroDivisionError if len(argv) > 2 else SystemExit(139)

    monkeypatch.setattr(fuzz, "main", broken)
    found = [fuzz.in_process(fuzz.Case(argv)) for argv in (["run", "x", "y"], ["run"])]
    assert "ZeroDivisionError" in str(found[0])
    assert found[1] == "exit code 139"
    assert fuzz.wrong(1, "", "", [], 0) == "no word"
    assert fuzz.wrong(0, "Ray says\n{}", "", ["--json"], 0) == "no JSON on stdout"
    assert fuzz.wrong(2, "", "error: \x1b[31m", [], 0) == "a control character"
    assert fuzz.wrong(2, "", "error", [], 99) == "99.0 s"
