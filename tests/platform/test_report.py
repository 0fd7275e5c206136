import io
import re
from collections import Counter

from fedrecon.platform.reporting.table import Column, Row, Table, plain
from fedrecon.platform.reporting.terminal import print_table
from fedrecon.platform.runs.report import below_zero_filled, flat, report, scores_table


def scores(psnr):
    part = {"psnr": psnr - 3, "ssim": 0.5, "nmse": 0.1}
    return {
        "psnr": psnr,
        "ssim": 0.81234,
        "nmse": 0.05,
        "n_volumes": 2,
        "n_slices": 12,
        "with_data_consistency": {**part, "psnr": psnr + 1},
        "zero_filled": part,
    }


RESULT = {
    "run_id": "r1",
    "digest": "d1",
    "status": "FINISHED",
    "rounds": 30,
    "bytes_up": 2_500_000,
    "bytes_down": 0,
    "sites": {"t1w": scores(30.0), "t2w": scores(28.0)},
    "mean": scores(29.0),
}
EXPERIMENT = {"name": "quick", "strategy": {"name": "fedavg"}, "training": {"rounds": 30}}
ENVIRONMENT = {"versions": {"torch": "2.13.0"}, "threads": 1, "device": {"t1w": "cpu"}}


def test_a_row_of_the_table():
    lines = scores_table(RESULT).splitlines()
    assert lines[2] == (
        "| t1w | 2 | 12 | 30.00 | 0.8123 | 0.0500 | 31.00 | 0.5000 | 0.1000 | 27.00 | 0.5000 | 0.1000 |"
    )
    assert lines[-1].startswith("| **mean** |")
    assert len({line.count("|") for line in lines}) == 1


def test_a_missing_output_is_a_dash():
    result = {**RESULT, "mean": {"psnr": 1.0, "ssim": None, "nmse": 0.5}}
    assert scores_table(result).splitlines()[-1].count("–") == 7


def test_it_says_what_ran_and_whom_to_cite():
    entry = "@article{mcmahan2017,\n  title = {Federated}\n}"
    text = report(RESULT, EXPERIMENT, [entry, entry, ""], ENVIRONMENT)
    for part in ("# quick", "| digest | d1 |", "| versions.torch | 2.13.0 |", "| bytes_up | 2.5 MB |"):
        assert part in text
    assert "| training.rounds | 30 |" in text
    assert text.count("@article{mcmahan2017") == 1
    assert "data range is the maximum" in text


def test_marks_are_there_only_when_they_hold():
    plain = report(RESULT, EXPERIMENT, [], ENVIRONMENT)
    assert "Simulated" not in plain
    assert "Pooled" not in plain
    assert "bibtex" not in plain
    marked = report(
        RESULT,
        EXPERIMENT,
        [],
        {**ENVIRONMENT, "simulated": ["t1w", "t2w"]},
        moved_data=True,
    )
    assert "**Simulated k-space** at t1w, t2w" in marked
    assert "**Pooled data**" in marked


def test_nested_keys_are_dotted_and_pipes_do_not_break_a_table():
    assert flat({"a": {"b": [1, 2]}, "c": None}) == [("a.b", "1, 2"), ("c", "None")]
    assert "x\\|y" in report(RESULT, {"name": "n", "odd": "x|y"}, [], {})


def test_what_is_below_zero_filled_comes_first_and_names_the_sites():
    low = {**scores(28.0), "zero_filled": {"psnr": 28.5, "ssim": 0.5, "nmse": 0.1}}
    result = {**RESULT, "sites": {"t1w": scores(30.0), "t2w": low}}
    line = below_zero_filled(result, EXPERIMENT)
    assert "t2w (28.00 dB, zero-filled 28.50)" in line
    assert "t1w" not in line
    text = report(result, EXPERIMENT, [], ENVIRONMENT)
    assert text.index(line) < text.index("## Test scores")
    assert below_zero_filled(RESULT, EXPERIMENT) == ""
    assert below_zero_filled(result, {"reconstructor": {"name": "zero_filled"}}) == ""


def test_a_narrow_terminal_wraps_numbers_and_cuts_none(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    values = ["69ad2c0123456789", "random R=4", "−23.5678"]
    table = Table("t", [Column("run"), Column("operator"), Column("PSNR", numeric=True)], [Row([*map(plain, values)])])
    stream = io.StringIO()
    print_table(table, stream)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= 30
    assert "…" not in "".join(lines)
    kept = Counter("".join(lines))
    assert all(kept[one] >= count for one, count in Counter("".join(values).replace(" ", "")).items())
