"""Scores in parts: what came back is kept, and taken from there; samples between the rounds, scores at the end."""

import json

import numpy as np
import pytest
from cases import CASES
from honest import gate_of, honest

from fedrecon.platform.federation.mosaic import Mosaic
from fedrecon.platform.federation.scorer import Scorer, forget
from fedrecon.platform.storage import checked_json
from fedrecon.sites.scoring.panel import montage, tile
from fedrecon.sites.wire import Panels, Samples, State

STATE = State(4, np.zeros(1, np.float32))
PNG = tile(*(np.eye(4, dtype=np.float32),) * 3, 1.0, "a")


SLICES = {"a": 5, "b": 2}
GATE = gate_of(SLICES)


class Members:
    """Two sites of five and two slices, two adapted together; it fails at the call of this number."""

    def __init__(self, fails=None, dies=None):
        self.members, self.dies = ("a", "b"), dies
        self.asked, self.drawn, self.pictured, self.fails = [], 0, 0, fails

    def evaluate(self, request, split, part=None):
        if len(self.asked) == self.fails:
            raise KeyboardInterrupt
        self.asked.append(part)
        if len(self.asked) - 1 == self.dies:
            self.members = ("b",)
        some = slice(None) if part is None else slice(2 * part, 2 * part + 2)
        sites = {site: 2.0 * len(range(n)[some]) for site, n in SLICES.items() if site in self.members}
        return [honest(GATE, site, split, some, seconds) for site, seconds in sites.items()]

    def samples(self, request):
        self.drawn += 1
        return [Samples("a", request.round, {"kernel_distance": 0.25}, {"a": PNG})]

    def panels(self, request, task):
        self.pictured += 1
        return [
            Panels(site, {site: PNG} if site != "c" else {}, "no font" if site == "c" else "") for site in task.sites
        ]


def method(name):
    case = CASES[name]
    return case.kind(**case.parameters)


def test_a_method_that_adapts_is_asked_for_a_batch_at_a_time(tmp_path):
    told = []
    scorer = Scorer(members := Members(), method("fedgimp"), GATE, tmp_path / "parts", told.append)
    scored = scorer(method("fedgimp").request(STATE), "test")
    assert members.asked == [0, 1, 2, 3]  # the last one finds nothing
    assert scored.n_slices == 7
    assert (scored.seconds, scored.seconds_per_slice) == (14.0, 2.0)
    pairs = list(zip(scored.columns["site"], scored.columns["slice"], scored.columns["stage"], strict=True))
    assert pairs[:4] == [
        ("a", 0, "output"),
        ("a", 0, "data_consistency"),
        ("a", 0, "zero_filled"),
        ("a", 1, "output"),
    ]
    assert len(set(pairs)) == len(pairs) == 21
    assert told == [f"test subjects: {n} slices reconstructed, 2.0 s each" for n in (4, 6, 7)]


@pytest.mark.parametrize("fails", [0, 1, 2, 3])
def test_what_was_scored_before_a_crash_is_not_asked_again(tmp_path, fails):
    request = method("fedgimp").request(STATE)
    expected = Scorer(Members(), method("fedgimp"), GATE)(request, "test")
    with pytest.raises(KeyboardInterrupt):
        Scorer(Members(fails), method("fedgimp"), GATE, tmp_path / "parts")(request, "test")
    second = Members()
    scorer = Scorer(second, method("fedgimp"), GATE, tmp_path / "parts")
    assert scorer(request, "test") == expected
    assert second.asked == list(range(fails, 4))
    other = Members()
    Scorer(other, method("fedgimp"), GATE, tmp_path / "parts")(request, "validation")
    assert other.asked == [0, 1, 2, 3]  # another split has parts of its own
    forget(tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_a_part_is_whole_or_not_there(tmp_path):
    Scorer(Members(), method("fedgimp"), GATE, tmp_path)(method("fedgimp").request(STATE), "test")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert [name[-7:] for name in files] == ["-0.json", "-1.json", "-2.json"]  # not of the end: another may go further
    assert json.loads((tmp_path / files[0]).read_text())["seconds"] == 8.0


def test_a_part_that_is_not_what_was_asked_for_is_asked_again(tmp_path):
    """An earlier version kept what a site sent without a look at it."""
    request = method("fedgimp").request(STATE)
    expected = Scorer(Members(), method("fedgimp"), GATE, tmp_path / "parts")(request, "test")
    (first, *_) = sorted((tmp_path / "parts").iterdir())
    one = checked_json.read(first, "", tmp_path.name, ())
    one["columns"][1]["ssim"][0] = 2.0  # of the second member: of the first nothing may be taken
    checked_json.write(first, one, tmp_path.name)
    members = Members()
    with pytest.warns(UserWarning, match="site 'b', round 4: its scores of the test subjects have ssim = 2.0"):
        assert Scorer(members, method("fedgimp"), GATE, tmp_path / "parts")(request, "test") == expected
    assert members.asked == [0, 3]


def test_parts_are_of_one_state(tmp_path):
    """The last round is trained again after a crash before its commit, and may come out otherwise."""
    Scorer(Members(), method("fedgimp"), GATE, tmp_path)(method("fedgimp").request(STATE), "test")
    other = Scorer(members := Members(), method("fedgimp"), GATE, tmp_path)
    other(method("fedgimp").request(State(4, np.ones(1, np.float32))), "test")
    assert members.asked == [0, 1, 2, 3]


def test_of_a_member_that_dies_amid_the_parts_nothing_counts(tmp_path):
    scored = Scorer(Members(dies=1), method("fedgimp"), GATE, tmp_path)(method("fedgimp").request(STATE), "test")
    assert set(scored.columns["site"]) == {"b"}
    healthy = Scorer(members := Members(), method("fedgimp"), GATE, tmp_path)(method("fedgimp").request(STATE), "test")
    assert healthy == Scorer(Members(), method("fedgimp"), GATE)(method("fedgimp").request(STATE), "test")
    assert members.asked == [1, 2, 3]  # the first part is of both


def test_other_methods_are_asked_once(tmp_path):
    scored = Scorer(members := Members(), method("fedavg"), GATE, tmp_path)(method("fedavg").request(STATE), "test")
    assert members.asked == [None]
    assert scored.n_slices == 7
    assert list(tmp_path.iterdir()) == []


def test_a_prior_shows_samples_and_is_scored_at_the_end():
    scorer = Scorer(members := Members(), method("fedgimp"), GATE, mosaic=Mosaic(("a",)))
    seen = scorer.validation(STATE, last=False)
    assert seen.scores == {}
    assert seen.pictures == {"a": PNG}
    assert seen.numbers == {"site/a/kernel_distance": 0.25}
    assert (members.asked, members.pictured) == ([], 0)
    assert scorer.validation(STATE, last=True).scores["site"]
    assert scorer.picture(STATE, seen.pictures) == {"samples/sites": montage([PNG])}
    assert (members.drawn, members.pictured) == (2, 0)
    assert scorer.picture(STATE) == {"samples/sites": montage([PNG])}  # round 0: nothing is drawn yet
    assert members.drawn == 3


def test_the_others_show_reconstructions_and_a_site_that_cannot_draw_is_named():
    said = []
    scorer = Scorer(members := Members(), method("fedavg"), GATE, mosaic=Mosaic(("a", "b", "c")), trouble=said.append)
    seen = scorer.validation(STATE, last=False)
    assert (seen.pictures, members.pictured) == ({}, 0)  # what is committed waits for no picture
    assert seen.scores["site"]
    assert scorer.picture(STATE) == {"panels/sites": montage([PNG, PNG])}
    assert len(said) == 1
    assert "'c'" in said[0]
    assert "no font" in said[0]
    assert (members.drawn, seen.numbers) == (0, {})
    assert Scorer(members, method("fedavg"), GATE).picture(STATE) == {}
    assert members.pictured == 1


def test_the_scores_and_the_picture_of_a_state_are_one_request(monkeypatch):
    """Across nodes its vectors travel once; another state has a request of its own."""
    asked = []
    evaluate = Members.evaluate
    monkeypatch.setattr(Members, "evaluate", lambda self, *given: asked.append(given[0]) or evaluate(self, *given))
    monkeypatch.setattr(Members, "panels", lambda self, request, task: asked.append(request) or [])
    scorer = Scorer(Members(), method("fedavg"), GATE, mosaic=Mosaic(("a", "b")))
    other = State(5, np.zeros(1, np.float32))
    scorer.validation(STATE, last=False)
    scorer.picture(STATE)
    scorer.picture(STATE)
    scorer.validation(STATE, last=False)
    scorer.picture(other)
    assert [asked[0] is one for one in asked] == [True, True, False, False, False]
    assert [one.round for one in asked] == [5, 5, 5, 5, 6]
    assert scorer._asked is None  # a request holds the vectors of its state
