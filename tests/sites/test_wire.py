"""Nothing but flat float32 vectors, numbers and names crosses a hospital's wall."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fedrecon.sites import wire, wire_check
from fedrecon.sites.errors import RunError
from fedrecon.sites.member import gate
from fedrecon.sites.wire import Samples, Scores, State, TrainReply, TrainRequest, vector


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 2), np.float32),
        np.zeros((1, 3), np.float32),
        np.float32(1),
        np.zeros(3, np.complex64),
        np.zeros(3, np.float64),
        np.zeros(3, np.float16),
        np.zeros(3, np.uint8),
        [1.0, 2.0],
    ],
)
def test_what_is_no_flat_float32_vector_is_refused(values):
    with pytest.raises(TypeError, match="only flat float32 vectors"):
        vector(values)


def test_a_flat_float32_vector_passes_as_it_is():
    values = np.arange(3, dtype=np.float32)
    assert vector(values) is values


NAMED = {
    "State", "TrainRequest", "TrainReply", "Scores", "Samples", "ScoreTask", "PanelTask", "Panels", "PrivatePart",
    "TunedReconstructor", "Description", "ShardLabels", "TrainedNetwork", "RemoteScoreTask", "RemoteScores", "Exchange",
}  # fmt: skip
"""Every class of the wire: a new one is added here on purpose, and to docs/privacy.md."""


def test_the_wire_is_a_closed_list_of_frozen_types():
    kinds = {name for name, one in vars(wire).items() if isinstance(one, type) and one.__module__ == wire.__name__}
    assert kinds == NAMED
    assert {one.__name__ for one in wire.MESSAGES} == NAMED - {"State", "Exchange"}
    for name in NAMED:
        assert getattr(wire, name).__dataclass_params__.frozen


def test_every_type_of_the_wire_is_explained_to_hospitals():
    page = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
    for one in wire.MESSAGES:
        assert f"`{one.__name__}`" in page


REQUEST = TrainRequest(1, np.zeros(3, np.float32))
PNG = wire_check.PNG + b"and so on" + wire_check.PNG_END
GOOD = {
    "request": REQUEST,
    "reply": TrainReply("a", 1, 2, np.zeros(3, np.float32), {"c": np.ones(3, np.float32)}, {"loss": 0.5}),
    "scores": Scores("a", "test", {"ssim": (1.0, 2.0), "site": ("a", "a")}),
    "samples": Samples("a", 1, {"nearest": 1.0}, {"a": PNG}),
    "panels": wire.Panels("a", {"a": PNG}),
    "private": wire.PrivatePart("a", 1, {"weight": np.zeros((2, 3), np.float32)}),
    "task": wire.ScoreTask("test", 3),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_in_the_list_passes(name):
    assert wire_check.check_message(GOOD[name]) is GOOD[name]


@dataclasses.dataclass(frozen=True)
class Smuggler(TrainReply):
    """Looks like a reply, and holds an image."""

    image: object = None


BAD = {
    "an array": np.zeros(3, np.float32),
    "a dict": {"image": 1},
    "a type of one's own": Smuggler("a", 1, 2, np.zeros(3, np.float32), image=np.zeros((4, 4))),
    "an image as the shared vector": TrainReply("a", 1, 2, np.zeros((4, 4), np.float32)),
    "k-space as an extra": TrainReply("a", 1, 2, np.zeros(3, np.float32), {"k": np.zeros(3, np.complex64)}),
    "a double as an extra": TrainReply("a", 1, 2, np.zeros(3, np.float32), {"k": np.zeros(3)}),
    "an array as a loss": TrainReply(
        "a", 1, 2, np.zeros(3, np.float32), {}, {"loss": np.zeros(3, np.float32)}, 0, b"x"
    ),
    "bytes as a score": Scores("a", "test", {"ssim": (PNG,)}),
    "an array as a score": Scores("a", "test", {"ssim": np.zeros(4, np.float32)}),
    "a column of one's own": Scores("a", "test", {"pixels": (0.1, 0.2)}),
    "columns of two lengths": Scores("a", "test", {"ssim": (0.1, 0.2), "slice": (1,)}),
    "a vector as a loss": TrainReply("a", 1, 2, np.zeros(3, np.float32), {}, {"raw": np.zeros(3, np.float32)}),
    "a list as a distance": Samples("a", 1, {"nearest": [0.1, 0.2]}),
    "a score that is NaN": Scores("a", "test", {"ssim": (0.1, float("nan")), "subject": ("p", "q")}),
    "an error that is infinite": Scores("a", "test", {"squared_error": (float("inf"),)}),
    "a score as text": Scores("a", "test", {"ssim": ("0.1",)}),
    "a half slice": Scores("a", "test", {"slice": (0.5,)}),
    "a distance that is NaN": Samples("a", 1, {"nearest": float("nan")}),
    "an integer of more than 64 bits as a slice": Scores("a", "test", {"slice": (2**63,)}),
    "an integer that no float holds as an error": Scores("a", "test", {"squared_error": (10**400,)}),
    "half a character as a subject": Scores("a", "test", {"subject": ("a\ud800",)}),
    "a line as a subject": Scores("a", "test", {"subject": ("a\nb",)}),
    "a distance that no float holds": Samples("a", 1, {"nearest": 10**400}),
    "a distance of one's own": Samples("a", 1, {"psnr": 99.0}),
    "a masked array, which may hide NaN": TrainReply("a", 1, 2, np.ma.masked_array(np.zeros(3, np.float32), [1, 0, 0])),
    "a torn picture": wire.Panels("a", {"a": wire_check.PNG + b"raw pixels"}),
    "an array as a picture": wire.Panels("a", {"a": np.zeros((4, 4), np.float32)}),
    "other bytes as a picture": wire.Panels("a", {"a": b"raw pixels"}),
    "an object as a note": wire.PanelTask("test", Path("x")),
    "k-space as a private part": wire.PrivatePart("a", 1, {"k": np.zeros((2, 3), np.complex64)}),
}


@pytest.mark.parametrize("name", BAD)
def test_by_force_nothing_else_passes(name):
    with pytest.raises(
        RunError, match=r"wall|hold them|numbers alone|differ in length|must be finite|instead of|table cannot hold"
    ):
        wire_check.check_message(BAD[name])


class Stub:
    """A site that answers what it is told to."""

    name, shards = "a", ("a",)

    def __init__(self, answer):
        self.answer = answer

    def __getattr__(self, name):
        return lambda *_: self.answer


def test_the_gate_answers_the_methods_of_the_list_alone():
    good = GOOD["reply"]
    assert gate.call(Stub(good), "fit", (REQUEST,)) is good
    for method in ("slices", "shards", "plan", "memory", "adopt", "_private", "__class__", "reconstruct", "load"):
        with pytest.raises(RunError, match="unknown method of a site"):
            gate.call(Stub(good), method, (REQUEST,))
    with pytest.raises(RunError, match="fit takes TrainRequest, given nothing"):
        gate.call(Stub(good), "fit", ())
    with pytest.raises(RunError, match="evaluate takes TrainRequest, ScoreTask, given TrainRequest, str"):
        gate.call(Stub(good), "evaluate", (REQUEST, "test"))
    with pytest.raises(RunError, match="fit of 'a' returns TrainReply, and returned Panels"):
        gate.call(Stub(GOOD["panels"]), "fit", (REQUEST,))
    with pytest.raises(RunError, match="cannot cross"):
        gate.call(Stub(BAD["k-space as an extra"]), "fit", (REQUEST,))
    with pytest.raises(RunError, match="fit of 'a' answered with the name 'b' instead of its own"):
        gate.call(Stub(dataclasses.replace(good, site="b")), "fit", (REQUEST,))
    scores = dataclasses.replace(GOOD["scores"], site="b")
    with pytest.raises(RunError, match="evaluate of 'a' answered with the name 'b' instead of its own"):
        gate.check_answer("evaluate", (), scores, "a")
    with pytest.raises(RunError, match="returns nothing"):
        gate.call(Stub(good), "use_reconstructor", (wire.TunedReconstructor("a", "tv", {}),))


SCORED, TEST = (REQUEST, wire.ScoreTask("test")), wire.PanelTask("test", "round 1", ("a", "b"))
TOLD = ("a", 1, "cpu", 1, "torch", "AVX2")
STRANGE = {
    "scores of another split": ("evaluate", SCORED, Scores("m", "validation", {}), "split = 'validation' instead of"),
    "samples of another round": ("samples", (REQUEST,), Samples("m", 77, {}), "round = 77 instead of 1"),
    "a reply of another round": ("fit", (REQUEST,), TrainReply("m", 2, 1, np.zeros(3, np.float32)), "round = 2"),
    "a round as a float": ("samples", (REQUEST,), Samples("m", 1.0, {}), "round = 1.0 instead of 1"),
    "a part of another round": ("private_part", (REQUEST,), wire.PrivatePart("m", 9, {}), "round = 9 instead of 1"),
    "a picture of another's shard": ("panels", (REQUEST, TEST), wire.Panels("m", {"b": PNG}), "for 'b'; asked for: a"),
    "a picture that was not asked for": ("panels", (REQUEST, TEST), wire.Panels("m", {"c": PNG}), "for 'c'"),
    "another's drawn images": ("samples", (REQUEST,), Samples("m", 1, {}, {"a": PNG}), "for 'a'; asked for: m"),
    "another's shard": ("describe", (), wire.Description("m", *TOLD[1:], {"b": "0"}), "for 'b'; asked for: a, c"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_an_answer_belongs_to_its_call_and_tells_of_the_members_own_shards(name):
    """The member m holds the shards a and c."""
    method, arguments, answer, says = STRANGE[name]
    with pytest.raises(RunError, match=says):
        gate.check_answer(method, arguments, answer, "m", ("a", "c"))


def test_what_was_asked_for_passes_the_gate():
    for method, arguments, answer in (
        ("evaluate", SCORED, Scores("m", "test", {})),
        ("panels", (REQUEST, TEST), wire.Panels("m", {"a": PNG})),
        ("panels", (REQUEST, wire.PanelTask("test", "")), wire.Panels("m", {"a": PNG, "c": PNG})),
        ("samples", (REQUEST,), Samples("m", 1, {}, {"m": PNG})),
        ("describe", (), wire.Description("m", *TOLD[1:], {"a": "0", "c": "1"})),
    ):
        assert gate.check_answer(method, arguments, answer, "m", ("a", "c")) is answer


def test_every_method_of_the_list_is_one_of_the_site():
    from fedrecon.sites.member.site import Site

    for name in wire.METHODS:
        assert callable(getattr(Site, name))


def test_bytes_are_those_of_the_vectors():
    extra = {"c": np.zeros(3, np.float32)}
    assert TrainRequest(1, np.zeros(5, np.float32), extra).nbytes == 32
    assert TrainReply("a", 1, 2, np.zeros(5, np.float32), extra).nbytes == 32
    assert TrainRequest(1, np.zeros(0, np.float32)).nbytes == 0


def test_the_next_state_keeps_who_stood_where():
    one = np.ones(1, np.float32)
    state = State(4, one, {"m": one}, {"a": 4, "b": 3}).next(one * 2, {"m": one * 3}, {"a": 5, "c": 5})
    assert (state.round, state.shared.tolist(), state.extra["m"].tolist()) == (5, [2], [3])
    assert state.standing == {"a": 5, "b": 3, "c": 5}
