"""Which run is meant: by digest or its beginning, run id, name or ``latest``, in every command that takes a run."""

import argparse
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from command_line import Called

from fedrecon.cli import _parser
from fedrecon.platform.storage.run_lookup import RUN, find_run
from fedrecon.platform.storage.workspace import RunFolder, forget_trained, note_trained
from fedrecon.sites.errors import InputError, RunError

NORTH, SOUTH, TWICE = "a1b2c3d4e5f60718", "a1b2c3ffffffffff", "0123456789abcdef"
RESULT = {"run_id": "", "status": "finished", "rounds": 1, "bytes_up": 0, "bytes_down": 0, "sites": {}, "mean": {}}


def write(workspace, digest, name, finished=True, at=0):
    folder = RunFolder(workspace, digest)
    note = {"run_id": f"id-{digest}", "experiment": {"name": name}, "images": {}, "subjects": {}}
    folder.note_run(note)
    if finished:
        folder.save_result({**RESULT, "digest": digest})
        (folder.path / "finished").write_text(f"{at}\n")


@pytest.fixture
def workspace(tmp_path):
    write(tmp_path, NORTH, "north", at=3_000)
    write(tmp_path, SOUTH, "south", at=1_000)
    write(tmp_path, TWICE, "twice", at=2_000)
    write(tmp_path, "f" * 16, "twice", finished=False)
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "digest"),
    [
        (NORTH, NORTH), ("a1b2c3d", NORTH), ("a1b2c3f", SOUTH), (f"id-{SOUTH}", SOUTH), ("south", SOUTH),
        ("latest", NORTH), ("012345", TWICE),
    ],
)  # fmt: skip
def test_a_run_is_found_by_each_of_its_names(workspace, reference, digest):
    assert find_run(workspace, reference).digest == digest


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("a1b2c3", (NORTH, SOUTH)),  # the beginning of two digests
        ("twice", (TWICE, "f" * 16)),  # a name of two runs, though only one of them is finished
        ("nort", ("'north'",)),
        ("lates", ("'latest'",)),
        (NORTH[:-1] + "9", (f"'{NORTH}'",)),
        ("01234", (TWICE, "6")),  # a beginning that is too short
        ("", ("latest",)),
    ],
)
def test_what_fits_several_or_none_is_refused_with_the_nearest(workspace, reference, words):
    with pytest.raises(InputError) as refused:
        find_run(workspace, reference)
    assert all(word in str(refused.value) for word in words)
    assert refused.value.unknown == (reference,)


@pytest.mark.parametrize("marked", [True, False])
def test_the_latest_run_is_the_last_one_though_the_clock_went_back_a_day(workspace, marked):
    """The mark of the newest result is as that run left it; a workspace of an earlier version has none."""
    day_on, mark = time.time_ns() + 86_400 * 10**9, workspace / "runs" / ".newest"
    mark.touch()
    (workspace / "runs" / SOUTH / "finished").write_text(f"{day_on}\n")
    os.utime(mark, ns=(day_on, day_on))
    assert find_run(workspace, "latest").digest == SOUTH
    if not marked:
        mark.unlink()
    for again in (TWICE, NORTH):
        RunFolder(workspace, again).save_result({**RESULT, "digest": again})
        assert find_run(workspace, "latest").digest == again


def test_the_latest_run_of_a_copied_workspace_is_that_of_the_original(workspace, tmp_path):
    copy = shutil.copytree(workspace, tmp_path.parent / f"{tmp_path.name}-copy")
    for order, digest in enumerate((NORTH, TWICE, SOUTH)):  # the copy of SOUTH is the newest file
        os.utime(copy / "runs" / digest / "result.json", ns=(order * 10**9, order * 10**9))
    assert find_run(copy, "latest").digest == NORTH
    for digest in (NORTH, TWICE, SOUTH):  # runs of an earlier version have the times of their files alone
        (copy / "runs" / digest / "finished").unlink()
    assert find_run(copy, "latest").digest == SOUTH


def test_a_name_that_is_also_the_beginning_of_a_digest_is_refused(workspace):
    write(workspace, "c" * 16, NORTH[:8])
    with pytest.raises(InputError, match=f"{NORTH}.*{'c' * 16}|{'c' * 16}.*{NORTH}"):
        find_run(workspace, NORTH[:8])


def test_an_unfinished_run_is_found_only_if_it_may_be(workspace):
    assert find_run(workspace, "ffffff", finished=False).digest == "f" * 16
    with pytest.raises(InputError, match="not finished"):
        find_run(workspace, "ffffff")


def test_a_run_that_was_set_aside_has_its_whole_name_only(workspace):
    (workspace / "runs" / NORTH).rename(workspace / "runs" / f"{NORTH}.before-1")
    assert find_run(workspace, "a1b2c3").digest == SOUTH  # the only one left that begins so
    assert find_run(workspace, f"{NORTH[:6]}.before-1").digest == f"{NORTH}.before-1"
    assert find_run(workspace, "latest").digest == TWICE
    with pytest.raises(InputError):
        find_run(workspace, "north")


def test_a_damaged_note_hides_no_other_run(workspace):
    (workspace / "runs" / SOUTH / "run.json").write_text("{")
    assert find_run(workspace, "north").digest == NORTH
    assert find_run(workspace, "a1b2c3f").digest == SOUTH
    (workspace / "runs" / SOUTH / "result.json").write_text("{")
    with pytest.raises(RunError):
        find_run(workspace, SOUTH)


def test_many_runs_are_not_all_listed(tmp_path):
    for number in range(40):
        write(tmp_path, f"{number:016x}", f"run-{number}")
    with pytest.raises(InputError, match="runs list") as refused:
        find_run(tmp_path, "run_7")
    assert "'run-7'" in str(refused.value)
    assert len(str(refused.value)) < 1000


def parsers(parser, path=()):
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from parsers(inner, (*path, name))


TAKES_RUN = [
    (path, action)
    for path, parser in parsers(_parser())
    for action in parser._actions
    if action.dest == "run" and not action.option_strings
]


@pytest.mark.parametrize(("path", "action"), TAKES_RUN, ids=lambda one: " ".join(one) if type(one) is tuple else "")
def test_every_command_that_takes_a_run_looks_it_up_alike(capsys, workspace, path, action):
    assert action.help.startswith(RUN)
    others = {"reconstruct": ["x.npy", "-o", str(workspace / "o.h5")], "export": ["--out", str(workspace / "x")]}
    others["register"] = ["--name", "knee"]
    given = ["nort", *(["north"] if action.nargs == 2 else []), *others.get(path[-1], [])]
    called = Called(capsys, *path, *given, "--workspace", workspace)
    assert called.code == 2
    assert "unknown run 'nort'. Did you mean 'north'?" in called.err


def test_the_law_sees_the_commands():
    assert {" ".join(path) for path, _ in TAKES_RUN} >= {"evaluate", "reconstruct", "plot", "runs show", "runs rm"}


def test_the_answer_says_which_run_was_taken(capsys, workspace):
    called = Called(capsys, "runs", "show", "south", "--json", "--workspace", workspace)
    assert SOUTH in called.err
    assert json.loads(called.out)["digest"] == SOUTH


def test_a_run_that_is_unknown_names_the_five_newest(tmp_path):
    many = [RunFolder(tmp_path, f"{number:016x}") for number in range(20)]
    for number, one in enumerate(many):
        one.path.mkdir(parents=True, exist_ok=True)
        os.utime(one.path, (number, number))
    with pytest.raises(InputError) as refused:
        find_run(tmp_path, "zzz")
    assert re.findall(r"\b0{14}\w\w\b", str(refused.value)) == [one.digest for one in many[:14:-1]]
    assert "fedrecon runs list" in str(refused.value)


def test_a_whole_digest_reads_no_other_run(workspace, monkeypatch):
    """A sweep that begins with a trained run looks it up once a trial, among all of them."""
    read, noted = [], RunFolder.noted
    monkeypatch.setattr(RunFolder, "noted", lambda folder: (read.append(folder.digest), noted(folder))[1])
    assert find_run(workspace, NORTH).digest == NORTH
    assert read == []


def test_the_note_of_a_training_is_forgotten_without_reading_the_others(workspace, monkeypatch):
    for number, digest in enumerate((NORTH, SOUTH)):
        folder = RunFolder(workspace, digest)
        folder.note_run({**folder.noted(), "training_digest": str(number) * 16})
        note_trained(folder, str(number) * 16)
    (workspace / "trained" / "of-another.json").write_text("damaged")
    RunFolder(workspace, NORTH).set_aside()
    left = {path.name for path in (workspace / "trained").iterdir()}
    assert left == {"1" * 16 + ".json", "of-another.json"}
    (RunFolder(workspace, SOUTH).path / "run.json").unlink()  # without its own note, all are read
    forget_trained(RunFolder(workspace, SOUTH))
    assert not list((workspace / "trained").iterdir())


def test_a_result_is_saved_without_a_look_at_the_others(workspace, monkeypatch):
    """Each of a thousand trials would look at a thousand results."""
    folder = RunFolder(workspace, TWICE)
    folder.save_result({**RESULT, "digest": TWICE})
    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", lambda *_: pytest.fail("looked"))
        folder.save_result({**RESULT, "digest": TWICE})
    assert find_run(workspace, "latest").digest == TWICE
