"""Subjects come from file names, and are split as a whole."""

import pytest

from fedrecon.sites.data.splits import assign_splits, subject_of
from fedrecon.sites.errors import InputError


def test_subject_is_the_name_up_to_its_first_underscore():
    assert [subject_of(stem) for stem in ("p1_study1_T1W", "p1_study2_T1W", "file1000")] == [
        "p1",
        "p1",
        "file1000",
    ]


def test_pattern_gives_its_first_group_or_its_whole_match():
    assert subject_of("file_brain_AXT2_200_2000019", r"_(\d+)$") == "2000019"
    assert subject_of("x-sub07-ses1", r"sub\d+") == "sub07"


def test_bad_patterns_are_refused():
    with pytest.raises(InputError, match="is no regular expression"):
        subject_of("a", "(")
    with pytest.raises(InputError, match="finds no subject in 'a'"):
        subject_of("a", r"\d+")


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, "t"), (2, "Tt"), (3, "TVt"), (5, "TTTVt"), (10, "TTTTTTTVtt"), (20, "T" * 15 + "V" + "tttt")],
)
def test_default_split_by_hand(n, expected):
    letter = {"train": "T", "validation": "V", "test": "t"}
    splits = assign_splits(reversed([f"s{number:02}" for number in range(n)]))
    assert "".join(letter[splits[subject]] for subject in sorted(splits)) == expected


def test_named_subjects_are_taken_exactly():
    assert assign_splits("dacb", ["b"], ["c"]) == {"a": "train", "b": "validation", "c": "test", "d": "train"}
    assert assign_splits("ab", test=["a"]) == {"a": "test", "b": "train"}


def test_wrong_names_are_refused():
    with pytest.raises(InputError, match=r"unknown subject 'pat04'.* Did you mean 'patient04'"):
        assign_splits(["patient04", "patient09"], test=["pat04"])
    with pytest.raises(InputError, match="for validation and for test: a"):
        assign_splits("ab", ["a"], ["a"])
