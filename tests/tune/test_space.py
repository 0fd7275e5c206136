"""Grids, draws and conditions, by hand; what is wrong is refused with the nearest right name."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.sites.errors import InputError
from fedrecon.tune.search.space import KINDS, Dimension, points, read_space, suggest

METHODS = {"strategy.name": {"grid": ["fedavg", "fedprox"]}}
MU = {"strategy.mu": {"loguniform": [1e-4, 1.0], "when": {"strategy.name": "fedprox"}}}
RATE = {"training.learning_rate": {"loguniform": [1e-4, 1e-2]}}


def found(search, samples=1, seed=0, **base):
    return points(read_space(search), samples, seed, {k.replace("__", "."): v for k, v in base.items()}.get)


def refusal(search):
    with pytest.raises(InputError) as error:
        read_space(search)
    return str(error.value)


def test_a_grid_by_hand():
    assert found({"a": {"grid": [2, 4]}, "b": {"grid": ["x", "y", "z"]}}) == [
        {"a": 2, "b": "x"}, {"a": 2, "b": "y"}, {"a": 2, "b": "z"},
        {"a": 4, "b": "x"}, {"a": 4, "b": "y"}, {"a": 4, "b": "z"},
    ]  # fmt: skip


def test_a_grid_is_not_repeated_where_nothing_is_drawn():
    assert len(found({"a": {"grid": [2, 4]}}, samples=5)) == 2


def test_a_condition_takes_the_key_out_of_the_other_points():
    search = {**METHODS, "strategy.mu": {"grid": [0.1, 1.0], "when": {"strategy.name": "fedprox"}}}
    assert found(search) == [
        {"strategy.name": "fedavg"},
        {"strategy.name": "fedprox", "strategy.mu": 0.1},
        {"strategy.name": "fedprox", "strategy.mu": 1.0},
    ]


def test_only_the_points_that_drew_something_are_sampled_again():
    drawn = found({**METHODS, **MU}, samples=3)
    assert [point["strategy.name"] for point in drawn] == ["fedavg", "fedprox", "fedprox", "fedprox"]
    assert len({point["strategy.mu"] for point in drawn[1:]}) == 3


def test_a_condition_may_allow_several_values_and_name_several_keys():
    search = {
        "a": {"grid": [1, 2, 3]},
        "b": {"grid": [0, 1]},
        "c": {"grid": ["x"], "when": {"a": [1, 3], "b": 1}},
    }
    with_c = [(one["a"], one["b"]) for one in found(search) if "c" in one]
    assert with_c == [(1, 1), (3, 1)]
    assert len(found(search)) == 6


@pytest.mark.parametrize(("name", "n"), [("fedprox", 2), ("fedavg", 1)])
def test_a_condition_on_a_key_that_is_not_searched_looks_at_the_base(name, n):
    search = {"strategy.mu": {"grid": [0.1, 1.0], "when": {"strategy.name": "fedprox"}}}
    assert len(found(search, strategy__name=name)) == n


def test_conditions_may_depend_on_conditional_keys():
    search = {
        "c": {"grid": [5, 6], "when": {"b": 4}},
        "b": {"grid": [3, 4], "when": {"a": 2}},
        "a": {"grid": [1, 2]},
    }
    assert found(search) == [{"a": 1}, {"a": 2, "b": 3}, {"a": 2, "b": 4, "c": 5}, {"a": 2, "b": 4, "c": 6}]


def test_each_dimension_comes_after_those_that_it_depends_on_and_else_as_written():
    search = {**MU, "seed": {"grid": [0]}, **METHODS, **RATE}
    assert [one.key for one in read_space(search)] == [
        "seed", "strategy.name", "strategy.mu", "training.learning_rate",
    ]  # fmt: skip


def test_a_sample_has_the_same_draw_at_every_point_of_the_grid():
    search = {**METHODS, "seed": {"grid": [0, 1, 2]}, **RATE}
    drawn = found(search, samples=4)
    assert len(drawn) == 4 * 6
    by_sample = [drawn[8 * seed + 2 * k + m] for k in range(4) for seed in range(3) for m in range(2)]
    rates = [{point["training.learning_rate"] for point in by_sample[6 * k : 6 * (k + 1)]} for k in range(4)]
    assert [len(one) for one in rates] == [1, 1, 1, 1]
    assert len(set.union(*rates)) == 4


@pytest.mark.parametrize("front", [True, False])
def test_a_further_seed_only_appends_points(front):
    """Whether the seed comes first or last in the file, with draws and a condition on another key."""

    def drawn(seeds):
        own = {"seed": {"grid": seeds}}
        return found({**own, **METHODS, **MU, **RATE} if front else {**METHODS, **MU, **RATE, **own}, samples=2)

    before, after = drawn([3, 1]), drawn([3, 1, 2])
    assert after[: len(before)] == before
    assert [point["seed"] for point in before] == [3] * 4 + [1] * 4
    assert {point["seed"] for point in after[len(before) :]} == {2}


def test_a_draw_depends_on_seed_sample_and_key_alone():
    def rates(search, samples=2, seed=0):
        return [point["training.learning_rate"] for point in found(search, samples, seed)]

    first, second = rates(RATE)
    assert rates(RATE, seed=1) != [first, second]
    assert rates(RATE, samples=3)[:2] == [first, second]
    assert rates({**RATE, "training.batch_size": {"randint": [1, 8]}}) == [first, second]
    both = found({"a": {"uniform": [0, 1]}, "b": {"uniform": [0, 1]}})[0]
    assert both["a"] != both["b"]


def test_loguniform_is_uniform_in_the_logarithm_and_within_its_bounds():
    drawn = [one["training.learning_rate"] for one in found(RATE, samples=400)]
    assert all(1e-4 <= value <= 1e-2 for value in drawn)
    # half of it below the geometric mean, 1e-3: 200 +- 10; uniform draws would have 36 there
    assert 150 < sum(value < 1e-3 for value in drawn) < 250


def test_uniform_is_uniform_and_within_its_bounds():
    drawn = [one["a"] for one in found({"a": {"uniform": [-1, 3]}}, samples=400)]
    assert all(-1 <= value <= 3 for value in drawn)
    assert 150 < sum(value < 1 for value in drawn) < 250


def test_randint_has_both_of_its_bounds_and_gives_whole_numbers():
    drawn = [one["a"] for one in found({"a": {"randint": [2, 5]}}, samples=100)]
    assert {type(value) for value in drawn} == {int}
    assert set(drawn) == {2, 3, 4, 5}


def test_choice_draws_from_its_values():
    drawn = [one["a"] for one in found({"a": {"choice": ["x", None, 3]}}, samples=60)]
    assert set(drawn) == {"x", None, 3}


def test_numbers_may_be_written_as_yaml_reads_them_without_a_point():
    assert Dimension.read("a", {"loguniform": ["1e-4", 1]}).values == (1e-4, 1.0)


WRONG = {
    "no mapping": ([2, 4], "a mapping such as {grid: [...]} is needed, got [2, 4]"),
    "unknown kind": ({"loguniforn": [1, 2]}, "Did you mean 'loguniform'?"),
    "unknown condition": ({"whne": {"b": 1}}, "Did you mean 'when'?"),
    "two kinds": ({"grid": [1], "choice": [2]}, "exactly one of grid, choice, uniform, loguniform, randint"),
    "no kind": ({"when": {"b": 1}}, "got none"),
    "empty": ({"grid": []}, "a list with at least one value is needed, got []"),
    "text": ({"grid": "fedavg"}, "a list with at least one value is needed, got 'fedavg'"),
    "one value": ({"grid": 4}, "a list with at least one value is needed, got 4"),
    "twice": ({"grid": [2, 4, 2]}, "a value is given twice: [2, 4, 2]"),
    "twice in other words": ({"grid": [2, {"a": [1.0]}, 2.0]}, "a value is given twice: [2, {'a': [1.0]}, 2.0]"),
    "wrong way round": ({"uniform": [3, 1]}, "low must be below high, got [3, 1]"),
    "nothing between": ({"uniform": [1, 1]}, "low must be below high"),
    "infinite": ({"uniform": [0, math.inf]}, "low must be below high"),
    "three bounds": ({"uniform": [1, 2, 3]}, "two numbers [low, high] are needed, got [1, 2, 3]"),
    "no numbers": ({"uniform": ["x", "y"]}, "two numbers [low, high] are needed"),
    "logarithm of 0": ({"loguniform": [0, 1]}, "lower bound of a logarithmic range must be above 0, got [0, 1]"),
    "logarithm below 0": ({"loguniform": [-1, 1]}, "must be above 0"),
    "halves": ({"randint": [1, 2.5]}, "the bounds must be whole numbers, got [1, 2.5]"),
    "condition": ({"grid": [1], "when": ["b"]}, "a mapping of keys to values is needed, got ['b']"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_by_its_key(what):
    block, message = WRONG[what]
    said = refusal({"training.rounds": block})
    assert "search.training.rounds" in said
    assert message in said


def test_an_empty_search_is_refused():
    assert "at least one key" in refusal({})


@pytest.mark.parametrize(
    "search",
    [
        {"a": {"grid": [1], "when": {"a": 1}}},
        {"a": {"grid": [1], "when": {"b": 1}}, "b": {"grid": [1], "when": {"a": 1}}},
        {"x": {"grid": [1]}, "a": {"grid": [1], "when": {"b": 1}}, "b": {"grid": [1], "when": {"c": 1}},
         "c": {"grid": [1], "when": {"a": 1}}},
    ],
)  # fmt: skip
def test_conditions_in_a_circle_are_refused(search):
    said = refusal(search)
    assert "circle" in said
    assert "x" not in said.split("conditions of")[1].split("depend")[0]


class Asked:
    """Looks like an Optuna trial; answers with the highest that is allowed."""

    def __init__(self):
        self.calls = []

    def suggest_categorical(self, key, values):
        self.calls.append((key, "categorical", values))
        return values[-1]

    def suggest_float(self, key, low, high, log=False):
        self.calls.append((key, "log" if log else "float", (low, high)))
        return high

    def suggest_int(self, key, low, high):
        self.calls.append((key, "int", (low, high)))
        return high


def test_every_kind_is_asked_of_optuna_in_its_own_way():
    search = {
        **METHODS,
        **MU,
        "a": {"choice": [None, "x"]},
        "b": {"uniform": [0, 2]},
        "c": {"randint": [1, 3]},
        "d": {"grid": [1], "when": {"strategy.name": "fedavg"}},
    }
    trial = Asked()
    params = suggest(read_space(search), trial, {}.get)
    assert params == {"strategy.name": "fedprox", "strategy.mu": 1.0, "a": "x", "b": 2.0, "c": 3}
    assert trial.calls == [
        ("strategy.name", "categorical", [0, 1]),
        ("strategy.mu", "log", (1e-4, 1.0)),
        ("a", "categorical", [0, 1]),
        ("b", "float", (0.0, 2.0)),
        ("c", "int", (1, 3)),
    ]
    assert type(params["c"]) is int


@pytest.mark.slow
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    hanging=st.integers(1, 3),
    allowed=st.integers(1, 4),
    samples=st.integers(1, 3),
)
def test_the_number_of_points_is_the_product_of_the_active_grids(sizes, hanging, allowed, samples):
    """One more grid hangs on ``allowed`` values of the first one, and is active only there."""
    search = {f"k{i}": {"grid": list(range(size))} for i, size in enumerate(sizes)}
    search["hanging"] = {"grid": list(range(hanging)), "when": {"k0": list(range(allowed))}}
    made = found(search, samples=samples)
    active = min(allowed, sizes[0])
    assert len(made) == math.prod(sizes[1:]) * (sizes[0] - active + active * hanging)
    assert len({tuple(sorted(point.items())) for point in made}) == len(made)


@pytest.mark.slow
@given(samples=st.integers(1, 4), size=st.integers(1, 3), kind=st.sampled_from(["uniform", "loguniform", "randint"]))
def test_draws_multiply_the_grid_by_the_samples(samples, size, kind):
    assert KINDS[kind].draw is not None
    made = found({"a": {"grid": list(range(size))}, "b": {kind: [1, 10**6]}}, samples=samples)
    assert len(made) == samples * size
    assert len({point["b"] for point in made}) == samples


def test_true_and_one_are_two_values():
    assert len(read_space({"a": {"grid": [1, True, "1"]}})[0].values) == 3
