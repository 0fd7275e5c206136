"""SIGTERM ends a command as Ctrl-C does, in one line, with exit code 143."""

import os
import signal

import pytest

from fedrecon import cli
from fedrecon.commands import experiments
from fedrecon.platform.terminal.signals import terminable


@pytest.fixture(autouse=True)
def ctrl_c_is_pythons_own():
    """Ray Tune leaves a handler of its own behind, after a sweep in the same process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def terminate(*_):
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_command_that_is_terminated(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(experiments, "_run", terminate)
    assert cli.main(["run", "x.yaml"]) == 143
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "same command" in err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("ignored", [signal.SIG_IGN, signal.SIG_DFL])
def test_where_a_shell_has_sigint_ignored(ignored):
    before = signal.signal(signal.SIGINT, ignored)
    try:
        with terminable() as termination, pytest.raises(KeyboardInterrupt):
            terminate()
    finally:
        signal.signal(signal.SIGINT, before)
    assert termination.received


def test_who_handles_sigint_handles_sigterm():
    """Ray Tune does: it lets a sweep end in good order, and the sweep says that it was interrupted."""
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with terminable() as termination:
            terminate()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (seen, termination.received) == ([signal.SIGINT], True)


def test_a_campaign_that_is_terminated(monkeypatch):
    from fedrecon.tune.sweep.command import COMMAND

    def interrupted(self, arguments):
        with pytest.raises(KeyboardInterrupt):
            terminate()
        return 130

    monkeypatch.setattr(type(COMMAND), "command", interrupted)
    assert cli.main(["sweep", "sweep.yaml"]) == 143


def test_an_interrupt_stays_130(monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "_list", interrupt)
    assert cli.main(["list", "masks"]) == 130
