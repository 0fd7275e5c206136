"""The options of all commands: the same where commands share them, in any order, and each order means the same."""

import argparse
import itertools
from pathlib import Path

import pytest
from command_line import Called

from fedrecon.cli import _parser
from fedrecon.commands.shared import KEYS, LACKING, lacking
from fedrecon.platform.terminal.arguments import SHARED
from fedrecon.sites.errors import InputError

PARSER = _parser()


def leaves(parser, path=()):
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield path, parser
    for action in inner:
        for name, one in action.choices.items():
            yield from leaves(one, (*path, name))


COMMANDS = dict(leaves(PARSER))
TRAINS = [("run",), ("sweep",), ("study",)]


def words(action):
    """What is given for an argument: a value of each kind that its type takes."""
    value = next(
        one for one in (*(action.choices or ()), "2", "64", "a.b=1", "word")
        if (action.choices or action.dest != "overrides" or "=" in one) and (action.type is None or reads(action, one))
    )  # fmt: skip
    if action.nargs == 0:
        return []
    count = {None: 1, "+": 2, "*": 2}.get(action.nargs, action.nargs)
    return [value] * count


def reads(action, word):
    try:
        return action.type(word) is not None
    except (argparse.ArgumentTypeError, ValueError):
        return False


def given(parser):
    """The words of each positional, and of each option that can stand beside the others."""
    positionals = [words(one) for one in parser._actions if not one.option_strings]
    exclusive = {id(one) for group in parser._mutually_exclusive_groups for one in group._group_actions[1:]}
    options = [
        [one.option_strings[-1], *words(one)]
        for one in parser._actions
        if one.option_strings and one.dest not in ("help", argparse.SUPPRESS) and id(one) not in exclusive
    ]
    return positionals, options


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_options_stand_at_any_place(path):
    positionals, options = given(COMMANDS[path])
    flat = list(itertools.chain(*positionals))
    # behind an option of many texts only another option ends its list
    options = [one for one in options if not greedy(COMMANDS[path], one[0])]
    last = list(itertools.chain(*options))
    wanted = vars(PARSER.read([*path, *flat, *last]))
    between = list(itertools.chain(*itertools.zip_longest(*[[[one] for one in flat], options], fillvalue=[])))
    for order in ([*last, *flat], list(itertools.chain(*between)), [*last[::1], "--", *flat]):
        assert vars(PARSER.read([*path, *order])) == wanted


def greedy(parser, name):
    action = parser._option_string_actions[name]
    return action.nargs == "+" and action.type is None


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_takes_a_shared_option_or_says_why_not(path):
    """In one line that names the command, the option and the reason, wherever the option stands."""
    missing = lacking(" ".join(path))
    positionals, options = given(COMMANDS[path])
    flat = list(itertools.chain(*positionals))
    for name, how in SHARED.items():
        own = [name] if how.get("action") else [name, "word"]
        if name in missing:
            for argv in ([*flat, *own], [*own, *flat], [name]):
                with pytest.raises(InputError) as refused:
                    PARSER.read([*path, *argv])
                assert f"fedrecon {' '.join(path)} takes no {name}: {missing[name]}" in str(refused.value)
        else:
            others = itertools.chain(*(one for one in options if one[0] != name))
            taken = PARSER.read([*path, *others, *own, *flat])
            assert getattr(taken, name[2:].replace("-", "_")) == ("word" if own[1:] else True)
    assert all(name not in missing or name not in COMMANDS[path].format_help() for name in SHARED)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_takes_changed_keys_or_says_why_not(path):
    missing, actions = lacking(" ".join(path)), COMMANDS[path]._actions
    assert (KEYS in missing) == all(one.dest != "overrides" for one in actions)
    positionals, options = given(COMMANDS[path])
    options = [one for one in options if not greedy(COMMANDS[path], one[0])]
    if KEYS in missing and all(isinstance(one.nargs, int | None) for one in actions if not one.option_strings):
        with pytest.raises(InputError, match=missing[KEYS]):
            PARSER.read([*path, *itertools.chain(*positionals, *options), "seed=1"])


def test_the_table_of_options_names_each_command_once():
    known = {" ".join(path) for path in COMMANDS}
    for option, by in LACKING.items():
        commands = list(itertools.chain(*by.values()))
        assert option in (*SHARED, KEYS)
        assert len(commands) == len(set(commands))
        assert set(commands) <= known


def test_the_documented_table_is_the_one_of_the_code():
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    for path in COMMANDS:
        missing = lacking(" ".join(path))
        marks = ["-" if name in missing else "yes" for name in (*SHARED, KEYS)]
        assert f"| `{' '.join(path)}` | {' | '.join(marks)} |" in text
    for reason in itertools.chain(*LACKING.values()):
        assert reason in " ".join(text.split())


@pytest.mark.parametrize("path", TRAINS, ids=" ".join)
def test_what_trains_has_all_shared_options_and_overrides(path):
    assert not lacking(" ".join(path))


@pytest.mark.parametrize("kind", ["sweep", "study"])
def test_showing_a_campaign_refuses_what_it_would_not_do(capsys, tmp_path, kind):
    for option in (["--dry-run"], ["--in-process"], ["--tracking-uri", "sqlite:///x"], ["--rerun"]):
        called = Called(capsys, kind, "show", "x", *option, "--workspace", tmp_path)
        assert called.code == 2
        assert option[0] in called.err


def test_a_list_of_numbers_ends_at_the_first_word_that_is_none():
    read = PARSER.read(["evaluate", "--acceleration", "2", "4", "latest", "operator.mask=random", "--json"])
    assert (read.acceleration, read.run, read.overrides) == ([2.0, 4.0], "latest", ["operator.mask=random"])
    assert PARSER.read(["data", "simulate", "--seed", "-3", "x"]).seed == -3
    assert PARSER.read(["reconstruct", "-ox.h5", "latest", "--as", "y"]).output == "x.h5"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["evaluate", "--acceleration", "two", "latest"], "two"),
        (["evaluate", "latest", "--typo", "x=1"], "--typo"),
        (["run", "--in-process", "seed=1", "--workspace"], "--workspace"),
        (["runs", "compare", "a", "--json"], "RUN"),
        (["rn", "x.yaml"], "command 'rn'. Did you mean 'run'"),
        (["list", "stategies"], "'strategies'"),
        (["runs", "list", "--jsn"], "'--json'"),
        (["--typo", "run", "x.yaml"], "--typo"),
        (["evaluate", "--s", "a", "latest"], "--s"),
    ],
)
def test_what_is_wrong_is_named(argv, named):
    with pytest.raises(InputError, match=named):
        PARSER.read(argv)


def test_the_order_of_the_readme_and_of_a_hurried_user(capsys, tmp_path):
    for order in (["--json", "runs", "list"], ["runs", "--json", "list"]):
        assert PARSER.read(order).json
    assert PARSER.read(["--workspace", "w", "run", "x"]).workspace == "w"
    with pytest.raises(InputError, match=r"required: EXPERIMENT.yaml \("):
        PARSER.read(["run"])
    for order in (["x.yaml", "--in-process", "seed=1"], ["--in-process", "x.yaml", "seed=1"], ["x.yaml", "seed=1"]):
        called = Called(capsys, "run", *order, "--workspace", tmp_path)
        assert called.code == 2
        assert "x.yaml" in called.err
