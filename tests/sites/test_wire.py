"""Nothing but flat float32 vectors, numbers and names crosses a hospital's wall."""

import dataclasses

import numpy as np
import pytest

from fedrecon.sites import wire
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


def test_the_wire_has_five_frozen_types():
    kinds = {name for name, one in vars(wire).items() if isinstance(one, type) and one.__module__ == wire.__name__}
    assert kinds == {"State", "TrainRequest", "TrainReply", "Scores", "Samples"}
    for kind in (State, TrainRequest, TrainReply, Scores, Samples):
        assert kind.__dataclass_params__.frozen
    hints = {
        (kind.__name__, f.name): str(f.type)
        for kind in (State, TrainRequest, TrainReply, Samples)
        for f in dataclasses.fields(kind)
    }
    room = {"int", "float", "str", "Vector", "Mapping[str, Vector]", "Mapping[str, float]", "Mapping[str, int]"}
    assert {of for of, kind in hints.items() if kind not in room} == {("Samples", "pictures")}
    assert not any(kind.startswith("Samples") and "Vector" in hints[kind, name] for kind, name in hints)


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
