"""What a command is at: a line once a phase has lasted, a spinner on a terminal, and nothing on stdout."""

import io
import sys
import time

import pytest

from fedrecon.platform.terminal import phases
from fedrecon.sites.phases import counted, phase, shown_by


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(phases, "PATIENCE", 0.02)


def test_a_library_shows_nothing(capsys):
    with phase("quiet") as done:
        done()
    assert list(counted("items", [1, 2])) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_phase_that_lasts_is_a_line_with_its_count_on_stderr(soon, capsys):
    with shown_by(phases.show):
        for one in counted("simulating", range(3)):
            time.sleep(0.05 if one == 1 else 0)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "simulating 2/3 ..."


def test_a_short_phase_is_no_line(capsys):
    with shown_by(phases.show), phase("short"):
        pass
    assert capsys.readouterr() == ("", "")


def test_nothing_is_silent_for_two_seconds():
    assert phases.PATIENCE < 2


def test_a_phase_ends_with_its_error_and_without_its_thread(soon):
    import threading

    with pytest.raises(ZeroDivisionError), shown_by(phases.show), phase("broken"):
        raise ZeroDivisionError
    assert all(one.name != "phase" for one in threading.enumerate())
    with phase("nobody shows it"):
        pass


def test_a_terminal_has_one_spinner_and_it_leaves_stdout_alone(monkeypatch, capsys):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with shown_by(phases.show), phase("outer [red]"):
        with phase("inner", 2) as done:
            done()
            assert len(phases._LIVE) == 1
            phases._LIVE[0].refresh()
        phases._LIVE[0].refresh()
        print("a result")
    assert capsys.readouterr().out == "a result\n"
    assert "inner 2/2" in screen.getvalue()
    assert "outer [red]" in screen.getvalue()  # square brackets of a name are no markup
    assert not phases._LIVE
    assert not phases._TURNING


def test_a_count_stands_before_what_is_done_within_it(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with shown_by(phases.show), phase("scoring sites", 8) as done, phase("no count"), phase("drawing panels"):
        done()
        phases._LIVE[0].refresh()
    assert "scoring sites 2/8 · drawing panels" in screen.getvalue()
