"""What a plug-in returns or raises in a run is told with the plug-in's file and the command that tests it."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Called
from examples import EXAMPLES, PAGE, write_examples

from fedrecon.platform.config.plugins import registry
from fedrecon.platform.federation.reply_gate import check_merged
from fedrecon.platform.terminal.boundary import LET_THROUGH, outcome
from fedrecon.sites.errors import RunError
from fedrecon.sites.extension import text_modules
from fedrecon.sites.extension.plugin_file import PluginFile
from fedrecon.sites.formats.record import FileRecord
from fedrecon.sites.imaging.measurement import Images, Measurement
from fedrecon.sites.wire import State
from fedrecon.strategies.strategy import Strategy

MERGE = "def merge(self, state, replies, n_slices):\n"


def test_what_a_plug_in_may_have_caused_later_names_the_command_that_tests_it(tmp_path, monkeypatch):
    monkeypatch.delenv(LET_THROUGH, raising=False)
    monkeypatch.setattr(text_modules, "_SOURCES", {"fedrecon_plugin_x": {"half.py": "", "helper.py": ""}})
    later, code = outcome(TypeError("list indices"), tmp_path)
    assert (code, "fedrecon check-plugin half.py" in later) == (1, True)
    of_ray = ValueError("soon")
    of_ray.traceback_str = 'File "/x/site.py", line 3, in fit\n  File "helper.py", line 12, in loss'
    failed = RunError("site 'a', round 1: ValueError: soon")
    failed.__cause__ = of_ray
    assert outcome(failed, tmp_path)[0].endswith(
        "- in the plug-in, line 12 of helper.py: fedrecon check-plugin half.py"
    )
    monkeypatch.setattr(text_modules, "_SOURCES", {})
    assert outcome(TypeError("list indices"), tmp_path)[0].count("a defect of fedrecon") == 1
    assert outcome(failed, tmp_path)[0] == f"failed: {failed}"


def strategy(folder: Path, hook: str) -> Any:
    """A strategy of a plug-in file with this hook."""
    text = EXAMPLES["half.py"].replace('"half"', '"mine"')
    (folder / "mine.py").write_text(
        f"{text[: text.index('    def merge')]}    {hook}\n\n\nSTRATEGIES = {{'mine': Half}}\n"
    )
    return registry("strategies", [PluginFile.read(folder / "mine.py")])["mine"]()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("{k: 2 / len(n_slices) for k in n_slices}", "sum to 2, expected 1"),
        ("[1 / len(n_slices)] * len(n_slices)", "as list instead of a dict of a, b"),
        ("{'a': 1.0}", "of a instead of a dict of a, b"),
        ("{'a': 2.0, 'b': -1.0}", "-1.0 of 'b'"),
        ("{'a': float('nan'), 'b': 1.0}", "nan of 'a'"),
        ("{'a': '1', 'b': 0}", "'1' of 'a'"),
    ],
)
def test_weights_that_are_no_weights_end_the_run_before_the_first_reply(given, found, tmp_path):
    one = strategy(tmp_path, f"def weights(self, n_slices): return {given}")
    state = State(0, np.zeros(1, np.float32))
    with pytest.raises(RunError, match=rf"^strategy 'mine': weights.*{found}.*; fedrecon check-plugin mine\.py$"):
        one.merge(state, iter(()), {"a": 1, "b": 3})


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("np.zeros(3, np.float32)", r"ndarray instead of state\.next"),
        ("state", "a state of round 4"),
        ("state.next(np.zeros(3), {}, {})", r"float64 of shape \(3,\)"),
        ("state.next(np.zeros(2, np.float32), {}, {})", "2 shared parameters instead of 3"),
        ("state.next(state.shared, {'m': [1.0]}, {})", "m of type list"),
    ],
)
def test_a_merge_that_returns_no_state_is_named_with_its_file(given, found, tmp_path):
    one = strategy(
        tmp_path, f"def merge(self, state, replies, n_slices):\n        import numpy as np\n        return {given}"
    )
    before = State(4, np.zeros(3, np.float32))
    with pytest.raises(RunError, match=rf"^strategy 'mine', round 5: merge returned.*{found}.*check-plugin mine\.py$"):
        check_merged(one.merge(before, iter(()), {"a": 1}), before, one)


def imported(tmp_path: Path, capsys: Any, load: str, *options: str) -> Called:
    """An import of three archives by the format of the page, whose ``load`` begins with this line."""
    write_examples(tmp_path)
    text = EXAMPLES["npz.py"].replace("        with np.load", f"        {load}\n        with np.load")
    (tmp_path / "npz.py").write_text(text)
    for number in range(3):
        np.savez(tmp_path / f"s{number}.npz", kspace=np.full((1, 2, 16, 16), number + 1, np.complex64))
    command = ["data", "import", "npz", tmp_path, "--site", "x", "--out", tmp_path / "shards"]
    split = ["--validation-subjects", "s1", "--test-subjects", "s2"]
    return Called(capsys, *command, *split, "--plugins", tmp_path / "npz.py", *options)


def test_what_a_format_of_one_s_own_raises_refuses_its_file(tmp_path, capsys):
    load = "if source.stem != 's2': raise ValueError('cut')"
    called = imported(tmp_path, capsys, load)
    assert called.code == 2
    refused = [line for line in called.err.splitlines() if line.startswith("refused: ")]
    assert [Path(line.split(": ")[1]).name for line in refused] == ["s0.npz", "s1.npz"]
    assert all("ValueError: cut (line " in line and line.endswith(" of npz.py)") for line in refused)
    assert imported(tmp_path, capsys, load, "--skip-bad", "--dry-run").code == 0


def test_a_format_that_counts_no_slices_is_refused_in_words(tmp_path, capsys):
    text = EXAMPLES["npz.py"]
    try:
        EXAMPLES["npz.py"] = text.replace("        record.slices = len(kspace)\n", "")
        called = imported(tmp_path, capsys, "pass")
    finally:
        EXAMPLES["npz.py"] = text
    assert (called.code, "record.slices" in called.err) == (2, True)


def test_an_unknown_format_names_the_option_for_files_of_one_s_own(tmp_path, capsys):
    called = Called(capsys, "data", "import", "cimg", tmp_path, "--site", "x", "--out", tmp_path)
    assert (called.code, "--plugins FILE" in called.err) == (2, True)


def fields(table: str) -> set[str]:
    """The names in the first column of a table of the page, by the head of that column."""
    rows = PAGE.read_text().split(f"| {table} |")[1].split("\n\n")[0].splitlines()[2:]
    return set(re.findall(r"`(\w+)", " ".join(row.split(" | ")[0] for row in rows)))


def test_the_tables_of_the_page_name_every_hook_and_field():
    hooks = {name for name, one in vars(Strategy).items() if inspect.isfunction(one) and name[0] != "_"}
    properties = {name for name, one in vars(Strategy).items() if isinstance(one, property)}
    assert hooks <= fields("hook, in the order of calls") <= hooks | properties
    for table, kind in (("of `images`", Images), ("of `measurement`", Measurement), ("of `record`", FileRecord)):
        assert fields(table) == {one.name for one in dataclasses.fields(kind)}
