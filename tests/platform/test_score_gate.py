"""Scores are those that were asked for: every row of every shard, once, with values that an image may have."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from cases import federation
from honest import as_scores, gate_of, honest, rows_of, volume
from tiny import UNET, Federation, make_volume

from fedrecon.platform.federation.score_gate import LABELS
from fedrecon.platform.federation.scorer import Scorer
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.errors import RunError
from fedrecon.sites.member.site import Site
from fedrecon.sites.score_columns import SPREADS
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.wire import Scores, ScoreTask, State
from fedrecon.strategies import make_strategy

GATE = gate_of({"a": 3, "b": 2})
STATE = State(7, np.zeros(1, np.float32))


def changed(gate=GATE, at=0, **values):
    """What site b answers, with other values in one of its rows."""
    rows = rows_of(gate, "b", "test")
    rows[at] |= values
    return as_scores("b", "test", rows)


def without(*columns, **more):
    rows = [{k: v for k, v in row.items() if k not in columns} | more for row in rows_of(GATE, "b", "test")]
    return as_scores("b", "test", rows)


ROWS = rows_of(GATE, "b", "test")
WRONG = {
    "none": (as_scores("b", "test", []), "lack 6 rows"),
    "its hard slice left out": (as_scores("b", "test", ROWS[:3]), "lack 3 rows"),
    "one stage left out": (as_scores("b", "test", [*ROWS[:2], *ROWS[3:]]), "lack 1 rows"),
    "zero-filled alone": (as_scores("b", "test", ROWS[2::3]), "lack 4 rows"),
    "a row twice": (as_scores("b", "test", [*ROWS, ROWS[0]]), "twice"),
    "one slice a thousand times": (as_scores("b", "test", ROWS[:3] * 1000), "twice"),
    "rows of another site too": (as_scores("b", "test", ROWS + rows_of(GATE, "a", "test")), "more rows"),
    "rows of another site alone": (as_scores("b", "test", rows_of(GATE, "a", "test")), "site = 'a' instead of 'b'"),
    "no column": (Scores("b", "test", {}), "lack the column"),
    "a column less": (without("ssim"), "lack the column 'ssim'"),
    "a column of a spread": (without(object_pixels=0), "more than they should: the column 'object_pixels'"),
    "another split": (changed(split="validation"), "split = 'validation' instead of 'test'"),
    "another volume": (changed(volume="easy"), "volume = 'easy' instead of 'b-test'"),
    "another subject": (changed(subject="x"), "subject = 'x' instead of 'b-test-s'"),
    "another slice": (changed(slice=10**30), f"slice = {10**30} instead of 0"),
    "another stage": (changed(stage="x"), "stage = 'x' instead of 'output'"),
    "a maximum that is not the label's": (changed(volume_maximum=4.0), "volume_maximum = 4.0 instead of 2.0"),
    "pixels that are not the label's": (changed(n_pixels=10**15), "instead of 32"),
    "another mask": (changed(mask="poisson2d"), "mask = 'poisson2d' instead of 'random'"),
    "another acceleration": (changed(acceleration=8.0), "acceleration = 8.0 instead of 4"),
    "another network": (without(model="a"), "model = 'a'"),
    "two networks": (changed(model="b"), "model = 'b, global'"),
    "a negative error": (changed(squared_error=-1.0), "squared_error = -1.0"),
    "an error that no float holds": (changed(squared_error=10**400), "squared_error = 1000"),
    "an error that is NaN": (changed(squared_error=math.nan), "squared_error = nan"),
    "an infinite norm": (changed(squared_norm=math.inf), "squared_norm = inf"),
    "a norm beyond the maximum": (changed(squared_norm=32 * 2.0**2 + 1), "squared_norm = 129"),
    "an SSIM above 1": (changed(ssim=1e9), "ssim = 1000000000.0"),
    "an SSIM below -1": (changed(ssim=-1.5), "ssim = -1.5"),
    "a negative acceleration": (changed(measured_acceleration=-1.0), "measured_acceleration = -1.0"),
    "a negative time": (replace(honest(GATE, "b", "test"), seconds=-1.0), "seconds = -1.0"),
    "a time that is NaN": (replace(honest(GATE, "b", "test"), seconds=math.nan), "seconds = nan"),
}


class Answers:
    """Members that answer what is written here."""

    def __init__(self, *answers, members=None):
        self.answers, self.members = answers, members or tuple(one.site for one in answers)

    def evaluate(self, request, split, part=None):
        return list(self.answers)


def score(*answers, gate=GATE, members=None):
    method = make_strategy("fedavg", {})
    scorer = Scorer(Answers(*answers, members=members), method, gate)
    return scorer(method.scoring_request(STATE), "test").columns


@pytest.mark.parametrize("name", WRONG)
def test_scores_that_were_not_asked_for_are_refused_in_one_line_that_names_the_site(name):
    answer, says = WRONG[name]
    with pytest.raises(RunError) as caught:
        score(honest(GATE, "a", "test"), answer)
    message = str(caught.value)
    assert message.startswith("site 'b', round 7: its scores of the test subjects ")
    assert says in message
    assert "\n" not in message


def test_what_was_asked_for_passes_in_any_order():
    answer = as_scores("b", "test", ROWS[::-1])
    assert len(score(honest(GATE, "a", "test"), answer)["site"]) == 9 + 6


def test_bounds_themselves_pass():
    for edge in ({"ssim": 1.0}, {"ssim": -1.0}, {"squared_error": 0.0}, {"squared_norm": 32 * 2.0**2}):
        score(honest(GATE, "a", "test"), changed(**edge))


def test_a_member_that_is_dead_owes_nothing_and_a_living_one_that_is_silent_is_named():
    assert set(score(honest(GATE, "b", "test"), members=("b",))["site"]) == {"b"}
    dead = score(honest(GATE, "a", "test"), honest(GATE, "b", "test"), members=("b",))  # it died after its answer
    assert set(dead["site"]) == {"b"}
    with pytest.raises(RunError, match=r"site 'a', round 7: its scores of the test subjects lack 9 rows"):
        score(honest(GATE, "b", "test"), members=("a", "b"))


def test_rows_may_come_in_parts_each_once():
    owed = GATE.asked("test")
    owed.checked([honest(GATE, "a", "test", slice(0, 2))])
    with pytest.raises(RunError, match="site 'a': its scores of the test subjects lack 3 rows"):
        owed.check_whole(["a"])
    with pytest.raises(RunError, match="slice 1, stage output twice"):
        owed.checked([honest(GATE, "a", "test", slice(1, 3))])
    owed.checked([honest(GATE, "a", "test", slice(2, 3))])  # what was refused has taken nothing
    owed.check_whole(["a"])


def test_one_network_scores_all_parts():
    owed = GATE.asked("test")
    owed.checked([honest(GATE, "b", "test", slice(0, 1))])
    own = as_scores("b", "test", [row | {"model": "b"} for row in ROWS[3:]])
    with pytest.raises(RunError, match="site 'b': its scores of the test subjects have model = 'b, global'"):
        owed.checked([own])
    GATE.asked("test").checked([own])


def test_of_several_members_none_or_all_are_taken():
    owed, good = GATE.asked("test"), honest(GATE, "a", "test").columns
    with pytest.raises(RunError, match="site 'b'"):
        owed.take({"a": good, "b": changed(ssim=2.0).columns})
    owed.take({"a": good, "b": honest(GATE, "b", "test").columns})
    owed.check_whole(["a", "b"])


def test_a_site_without_references_owes_nothing():
    volumes = [volume("one", "test", 2), volume("two", "test", 3, has_reference=False)]
    gate = gate_of({"a": volumes, "b": []})
    assert len({row[3] for row in gate.rows("a", "test")}) == 1
    score(honest(gate, "a", "test"), honest(gate, "b", "test"), gate=gate)


def test_the_labels_that_count_are_those_of_the_scored_part_and_of_the_reference():
    """By hand: 6 x 2 of 8 x 4 pixels; the maximum of the truth; 2 of 5 slices, the first and the last."""
    held = [volume("one", "test", 5, crop=(6, 2), truth_maximum=1.5)]
    gate = gate_of({"a": held}, reference="truth", max_slices={"test": 2})
    rows = [dict(zip(LABELS, row, strict=True)) for row in gate.rows("a", "test")]
    assert {(row["slice"], row["n_pixels"], row["volume_maximum"]) for row in rows} == {(0, 12, 1.5), (4, 12, 1.5)}
    assert [row["stage"] for row in rows] == ["output", "data_consistency", "zero_filled"] * 2


SPREAD = gate_of({"a": 1, "b": 1}, spread=True)
NO_SPREAD = {
    "more within one than within two": {"within_1": 7},
    "more within than there are": {"within_2": 9},
    "more than the image has": {"object_pixels": 33},
    "a negative sum": {"object_squared_spread": -1.0},
    "of nothing": {"against": ""},
    "of something else": {"against": "x"},
}


@pytest.mark.parametrize("name", NO_SPREAD)
def test_a_spread_that_no_image_has_is_refused(name):
    good = honest(SPREAD, "a", "test")
    score(good, honest(SPREAD, "b", "test"), gate=SPREAD)
    with pytest.raises(RunError, match=r"site 'b'.*stage output; refused"):
        score(good, changed(SPREAD, **NO_SPREAD[name]), gate=SPREAD)


def test_only_the_own_image_has_a_spread_and_a_method_with_one_tells_it():
    good = honest(SPREAD, "a", "test")
    with pytest.raises(RunError, match=r"site 'b'.*stage zero_filled; refused"):
        score(good, changed(SPREAD, at=2, object_pixels=8), gate=SPREAD)
    rows = [{k: v for k, v in row.items() if k not in SPREADS} for row in rows_of(SPREAD, "b", "test")]
    with pytest.raises(RunError, match="lack the column 'against'"):
        score(good, as_scores("b", "test", rows), gate=SPREAD)


@pytest.mark.slow
def test_the_gate_takes_microseconds_a_row():
    gate = gate_of({f"s{n:04}": 10 for n in range(1000)})
    answers = [honest(gate, one, "test") for one in gate.roster]
    start = time.perf_counter()
    owed = gate.asked("test")
    owed.checked(answers)
    owed.check_whole(gate.roster)
    assert (time.perf_counter() - start) / 30_000 < 50e-6  # it is about 2 on an idle core


# Sites themselves


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("name", ["fedavg", "fedavg_x2", "pooled", "pooled_bicubic", "local", "fedper"])
def test_a_site_writes_the_rows_that_its_labels_say(name, split, consortium, tmp_path):
    one = federation(name, consortium, tmp_path / "memory")
    request = one.method.scoring_request(one.begin())
    for answer in one.executor().evaluate(request, split):
        found = set(zip(*(answer.columns[label] for label in LABELS), strict=True))
        assert found == set(one.gate.rows(answer.site, split))


def test_so_does_a_site_with_a_scored_part_a_truth_and_a_limit(tmp_path):
    whole = [make_volume(f"v{n}", split, 3, 1, n) for n, split in enumerate(("train", "validation", "test"))]
    cut = [replace(one, crop=(20, 30), truth=(0.9 * one.reference).astype(np.float32)) for one in whole]
    write_shard(tmp_path / "a.h5", "a", cut, simulated=True, phase="smooth", origin="phantom")
    evaluation = Evaluation(max_slices=2, reference="truth")
    one = Federation(make_strategy("fedavg", {}), {"a": tmp_path / "a.h5"}, network=UNET)
    (plan,) = one.plans()
    gate = replace(one.gate, evaluation=evaluation)
    site = Site(replace(plan, evaluation=evaluation))
    executor = Answers(site.evaluate(one.method.scoring_request(one.begin()), ScoreTask("test")))
    columns = Scorer(executor, one.method, gate)(one.method.scoring_request(one.begin()), "test").columns
    (held,) = Shard.open(tmp_path / "a.h5").split("test")
    assert set(columns["volume_maximum"]) == {held.truth_maximum} != {held.maximum}
    assert set(columns["n_pixels"]) == {600}
    assert sorted(set(columns["slice"])) == [0, 2]


def test_a_run_whose_site_answers_without_its_rows_ends_before_a_mean(consortium, monkeypatch):
    evaluate = Site.evaluate

    def empty(self, request, task):
        answer = evaluate(self, request, task)
        rows = dict.fromkeys(answer.columns, ()) if self.name == "north" else answer.columns
        return replace(answer, columns=rows)

    monkeypatch.setattr(Site, "evaluate", empty)
    one = federation("fedavg", consortium, rounds=1, scored=True)
    with pytest.raises(RunError, match="site 'north', round 1: its scores of the validation subjects lack 6 rows"):
        one.train()
