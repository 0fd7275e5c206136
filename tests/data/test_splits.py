"""Subjects come from file names, and are split as a whole."""

import numpy as np
import pytest
from small_volumes import make_kspace

from fedrecon.sites.data.splits import Scans, assign_splits, subject_of
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.importing import import_data


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


def test_a_scan_is_known_by_labels_of_another_processor():
    """Of one file: as it was imported, by another BLAS, without AVX2, and by a NumPy that transforms in doubles."""
    known = Scans([("260.2066567506271 2.689652681350708 6 (160, 160)", "train")])
    for labels in (
        "260.20665675062816 2.689652681350708",
        "260.20665686827215 2.689652681350708",
        "260.20669 2.6896533",
    ):
        assert known.get(f"{labels} 6 (160, 160)") == "train"
    for labels in ("260.2066567506271 2.689652681350708 6 (160, 162)", "260.2067 2.68966 6 (160, 160)"):
        assert known.get(labels) is None
    assert known.get("260.2068 2.689652681350708 6 (160, 160)") is None


def test_equal_scans_are_found_wherever_their_norm_lies():
    """The oracle compares all pairs. Cells have borders, and no pair is lost at one."""
    random = np.random.default_rng(0)
    scans = [
        (norm * (1 + shift), 1.0 + tilt)
        for norm in np.exp(random.uniform(-9, 9, 200))
        for shift, tilt in ((0, 0), (1.9e-7, 0), (-1.9e-7, 9e-7), (2.1e-7, 0), (0, 1.1e-6))
    ]
    for at in range(0, len(scans), 5):
        first, *others = [f"{float(norm)!r} {maximum!r} 1 (2, 2)" for norm, maximum in scans[at : at + 5]]
        known = Scans([(first, at)])
        assert [known.get(other) for other in others] == [at, at, None, None]
        assert known.setdefault(others[0], -1) == at
        assert known.setdefault(others[2], -1) == -1


TREES = {
    "baseline": ["baseline/p01", "baseline/p02", "followup/p01", "followup/p02"],
    "scanners": ["scannerA/p01_T1", "scannerA/p02_T1", "scannerB/p01_T1b", "scannerB/p02_T1"],
    "folders of persons in folders of time points": ["pre/p01/T1", "pre/p02/T1", "post/p01/T1", "post/p02/T1"],
    "dates": ["patient1/20200110_T1", "patient1/20230401_T1", "patient2/20200305_T1", "patient2/20230612_T1"],
    "dates of one person": ["2020-01-10_T1", "2023-04-01_T1"],
    "words": ["anna/before_T1", "anna/after_T1", "ben/early_T1", "ben/late_T1"],
    "deeper words": ["a/p1/before_T1", "a/p1/after_T1", "b/p2/early_T1", "b/p2/late_T1"],
    "a folder a person": ["p01/T1", "p02/T1"],
    "a folder a person and visit": ["p01/ses-1/anat/T1", "p01/ses-2/anat/T1", "p02/ses-1/anat/T1"],
    "a folder a person and date": ["p01/20200110/img_1", "p02/20200110/img_1"],
    "a file a person": ["p01_T1", "p02_T1"],
    "BIDS": ["one/sub-01/anat/sub-01_T1w", "one/sub-02/anat/sub-02_T1w", "two/sub-03/anat/sub-03_T1w"],
}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ("baseline", "'baseline', 'followup' are named by their folders, and 'p01', 'p02' lies in several of them"),
        ("scanners", "'scannerA', 'scannerB' are named by their folders, and 'p01', 'p02' lies in several of them"),
        ("folders of persons in folders of time points", "and 'p01', 'p02' lies in several of them"),
        ("dates", "'20230612', and folders hold several of them: 'patient1', 'patient2'; if a person"),
        ("dates of one person", "subjects have the names of dates: '2020-01-10', '2023-04-01'; if a person"),
        ("words", "each of 4 files is a subject by itself, and folders hold several: 'anna', 'ben'; if a person"),
        ("deeper words", "each of 4 files is a subject by itself, and folders hold several: 'a/p1', 'b/p2'; if"),
        ("a folder a person", None),
        ("a folder a person and visit", None),
        ("a folder a person and date", None),
        ("a file a person", None),
        ("BIDS", None),
    ],
)
def test_visits_that_would_be_subjects_are_warned_of(tree, expected, tmp_path):
    for number, name in enumerate(TREES[tree]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, make_kspace(1, seed=number))
    summary = import_data("npy", tmp_path, "s", tmp_path / "out", dry_run=True)
    texts = [note.text for note in summary.notes if note.kind in ("each-file-a-subject", "one-as-people")]
    assert len(texts) == (expected is not None)
    assert expected is None or expected in texts[0]
