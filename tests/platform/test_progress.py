"""What a person sees: a line a round when piped, a bar on a terminal."""

import io

from fedrecon.platform.federation.progress import Progress
from fedrecon.sites.errors import listed, tell
from fedrecon.sites.phases import phase


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_one_line_a_round_when_piped(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("fedrecon.platform.federation.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(40, stream=stream)
    progress.say("begun")
    now[0] += 6
    progress.round(3, {"a": 0.25, "b": 0.75}, {}, 1.96)
    now[0] += 2
    progress.round(4, {"a": 0.5}, {"a": 20.0, "b": 21.0}, 2.0)
    now[0] += 4
    progress.round(5, {}, {}, 2.0)
    progress.close()
    assert stream.getvalue().splitlines() == [
        "begun",
        # the first round seen: its own seconds; from then on the clock, scoring included
        "round 3/40  loss 0.5000  2.0 s  1:13 left",
        "round 4/40  loss 0.5000  validation PSNR 20.50 dB (a 20.00, b 21.00)  2.0 s  1:12 left",
        "round 5/40  loss nan  2.0 s  1:45 left",
    ]


def test_after_a_resume_the_time_left_follows_from_the_rounds_of_this_call(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fedrecon.platform.federation.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(1000, start=400, stream=stream)
    now[0] += 60
    progress.round(401, {"a": 1.0}, {}, 60.0)
    assert stream.getvalue() == "round 401/1000  loss 1.0000  60.0 s  9:59:00 left\n"


def test_a_bar_on_a_terminal_and_the_stream_is_never_stdout(capsys):
    stream = Terminal()
    progress = Progress(2, stream=stream)
    progress.say("begun")
    with phase("drawing [x] panels", 2) as done:
        done()
        progress._bar.refresh()
    progress.round(1, {"a": 0.5}, {"a": 20.0}, 1.0)
    progress.round(2, {"a": 0.5}, {}, 1.0)
    progress.close()
    progress.close()
    assert "begun" in stream.getvalue()
    assert "2/2" in stream.getvalue()
    assert "drawing [x] panels 2/2" in stream.getvalue()
    with phase("after the bar"):
        pass
    assert "after the bar" not in stream.getvalue()
    assert "loss 0.5000" in stream.getvalue()
    assert capsys.readouterr() == ("", "")


def test_the_default_stream_is_stderr(capsys):
    Progress(1).say("begun")
    assert capsys.readouterr() == ("", "begun\n")


def test_a_name_that_a_terminal_would_obey_is_shown_as_an_escape(capsys):
    stream = io.StringIO()
    Progress(0, stream=stream).say("no store at /x\x1b[2Jy [red]z")
    assert stream.getvalue() == "no store at /x\\x1b[2Jy [red]z\n"
    tell("a\x07b")
    assert capsys.readouterr() == ("", "a\\x07b\n")


def test_a_line_of_a_thousand_sites_names_the_lowest_ones():
    stream = io.StringIO()
    psnr = {f"s{number}": 20.0 + (number * 7) % 1000 / 100 for number in range(1000)}
    Progress(2, stream=stream).round(1, {"s0": 0.5}, psnr, 1.0)
    (line,) = stream.getvalue().splitlines()
    assert "dB (lowest of 1000: s0 20.00, " in line
    assert line.count(", s") + 1 == 8
    assert listed(list("abc")) == "a, b, c"
    assert listed(map(str, range(1000)), 2) == "0, 1 and 998 more"
