"""A parameter that a person sets for a classical method is kept; tuning varies the others alone."""

import pytest
from pydantic import Field
from small_sweeps import base, planned

import fedrecon
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.runs.report import tuned
from fedrecon.sites.classical import RECONSTRUCTORS, make_reconstructor


def changed(name):
    """Every parameter that tuning varies, with a value that is neither its default nor a candidate's."""
    method = make_reconstructor(name)
    for key in type(method).model_fields:
        values = {getattr(one, key) for one in method.candidates()}
        if len(values) > 1:
            yield key, 7 if all(isinstance(one, int) for one in values) else 0.3


SET = [(name, key, value) for name in RECONSTRUCTORS for key, value in changed(name)]


def test_every_tuned_parameter_is_in_the_list():
    found = {(name, key) for name, key, _ in SET}
    assert found == {("cg_sense", "weight"), ("tv", "weight"), ("wavelet", "weight"), ("low_rank", "rank")} | {
        ("grappa", key) for key in ("weight", "kernel_y", "kernel_x")
    }


@pytest.mark.parametrize(("name", "key", "value"), SET)
def test_what_is_set_is_kept_and_the_rest_is_tuned(name, key, value):
    tried = make_reconstructor(name, **{key: value}).tried()
    assert {getattr(one, key) for one in tried} == {value}
    varied = {field for field in type(tried[0]).model_fields if len({getattr(one, field) for one in tried}) > 1}
    assert varied == {other for method, other, _ in SET if method == name} - {key}
    assert len(set(map(repr, tried))) == len(tried)


@pytest.mark.parametrize("name", RECONSTRUCTORS)
def test_without_anything_set_all_candidates_are_tried_also_when_defaults_were_written_out(name):
    method = make_reconstructor(name)
    assert method.tried() == method.candidates()
    assert make_reconstructor(name, **method.model_dump()).tried() == method.candidates()
    assert method.own_science == type(method)().own_science  # a setting that is written out is none of its own


def test_a_parameter_without_a_default_is_one_that_was_set():
    class Needs(RECONSTRUCTORS["tv"]):
        weight: float = Field(ge=0)

    assert [one.weight for one in Needs(weight=0.3).tried()] == [0.3]


def test_only_the_digest_of_what_was_tuned_against_its_setting_moves():
    def digest(**parameters):
        return Experiment.read({"sites": "data", "reconstructor": {"name": "tv", **parameters}}).digest({"a": "b"})

    assert make_reconstructor("tv", iterations=7).own_science == {}
    assert make_reconstructor("tv", weight=0.3).own_science
    assert len({digest(), digest(iterations=7), digest(weight=0.3)}) == 3


def test_it_is_kept_through_a_sweep_a_run_and_an_evaluation(consortium, workspace):
    """The experiment of a trial has every default written out, and so has the record that ``evaluate`` reads."""
    start = base(consortium, reconstructor={"name": "tv", "iterations": 2}, resources={"crew": "in-process"})
    chosen = {}
    for trial in planned(start, {"reconstructor.weight": {"grid": [0.3, 0.005]}}):
        written = Experiment.read(Experiment.read(trial.experiment.as_dict()).as_dict())
        result = fedrecon.run(written, workspace=workspace).as_dict()
        found = result["environment"]["tuned"]
        chosen[written.reconstructor["weight"]] = {one["weight"] for one in found.values()}
        assert {one["iterations"] for one in found.values()} == {2}
        if written.reconstructor["weight"] == 0.3:
            assert tuned(result) == [
                f"Parameters at {', '.join(found)}: phase=True, weight=0.3, iterations=2, dual_iterations=5, real=False"
            ]
        again = fedrecon.evaluate(result["digest"], workspace=workspace)
        assert {row["site"]: row["psnr"] for row in again["rows"]} == {
            name: one["psnr"] for name, one in result["sites"].items()
        }
    assert chosen[0.3] == {0.3}
    assert chosen[0.005] <= {one.weight for one in make_reconstructor("tv").candidates()}
