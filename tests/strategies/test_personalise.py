"""Local rounds at the end of a training: for every strategy of the registry, or refused by name."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import NETWORKS, PARAMETERS

sys.path.insert(0, str(Path(__file__).parents[1] / "platform"))

from drivers import experiment
from memory_store import MemoryStore

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.network import layout_for
from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.run import steps
from fedrecon.sites.errors import InputError
from fedrecon.strategies import STRATEGIES

SHARING = [name for name, kind in STRATEGIES.items() if not kind.not_personal]
PARTS = ("all", "head", ["decoder", "head"])


def given_for(sites, strategy, personalise=None, **training):
    given = experiment(sites, strategy, **{"rounds": 3, **training})
    given["network"] = dict(NETWORKS.get(strategy, given["network"]))
    given["evaluation"] |= {"max_slices": 1, "every": 3}
    given["strategy"] = {"name": strategy, **PARAMETERS.get(strategy, {})}
    if personalise is not None:
        given["strategy"]["personalise"] = personalise
    return given


def finish(given, folder, after=0):
    context = RunContext(workspace=folder, executor="in-process", store=MemoryStore())
    course = steps(Experiment.read(given), context)
    for _ in range(after):
        next(course)
    if after:
        course.close()
        course = steps(Experiment.read(given), context)
    while True:
        try:
            next(course)
        except StopIteration as end:
            return end.value, TrainedRun.load(folder, end.value.digest)


def shared(run):
    """The shared parameters by name: their order in the vector differs with what is personal."""
    layout = layout_for(run.experiment, run.images)
    return {name: np.array(value) for name, value in layout.named(run.state.shared, shared=True).items()}


def own(run, member):
    return dict(run.private_part(member, run.members).parameters)


@pytest.fixture
def pair(consortium):
    return {name: consortium[name] for name in ("north", "middle")}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SHARING)
def test_the_last_rounds_are_local_from_the_shared_weights(pair, tmp_path, strategy):
    """What is shared stays at the last shared round; each site has its own; an interruption changes no bit."""
    number = SHARING.index(strategy)
    parts = PARTS[number % len(PARTS)] if strategy not in ("fedper", "lg_fedavg", "fedmri") else "all"
    state = "keep" if number % 2 else "reset"
    given = given_for(pair, strategy, {"rounds": 2, "parts": parts}, optimizer_state=state)
    result, run = finish(given, tmp_path / "calm")
    base, before = finish(given_for(pair, strategy, rounds=1, optimizer_state=state), tmp_path / "base")
    ours, theirs = shared(run), shared(before)
    assert ours.keys() == theirs.keys()
    assert all(np.allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-8) for name in ours)
    assert run.members == ("middle", "north")
    north, middle = own(run, "north"), own(run, "middle")
    assert any(not np.array_equal(north[name], middle[name]) for name in north)
    assert any(name in ours and not np.array_equal(north[name], ours[name]) for name in north)
    assert base.bytes_up == result.bytes_up  # nothing goes up in a local round

    _, cut = finish(given, tmp_path / "cut", after=2)
    assert cut.state.shared.tobytes() == run.state.shared.tobytes()
    assert {n: v.tobytes() for n, v in own(cut, "north").items()} == {n: v.tobytes() for n, v in north.items()}
    rows = evaluate(result.digest, workspace=tmp_path / "calm")["rows"]
    assert {r["site"]: r["psnr"] for r in rows} == pytest.approx({s: one["psnr"] for s, one in result.sites.items()})


@pytest.mark.slow
def test_the_rest_stays_as_it_was_shared(pair, tmp_path):
    _, run = finish(given_for(pair, "fedavg", {"rounds": 2, "parts": "head"}), tmp_path)
    assert set(own(run, "north")) < set(shared(run))


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in SHARING])
def test_where_nothing_is_shared_it_is_refused_by_name(pair, strategy):
    with pytest.raises(InputError, match=f"'{strategy}' has no local rounds"):
        Experiment.read(given_for(pair, strategy, {"rounds": 1}))


@pytest.mark.parametrize(
    ("personalise", "training", "says"),
    [
        ({"rounds": 4}, {}, "fewer than the 4"),
        ({"rounds": -1}, {}, "rounds"),
        ({"rounds": 1, "parts": []}, {}, "parts"),
        ({"turns": 1}, {}, "turns"),
        ({"rounds": 1}, {"patience": 1}, "patience"),
    ],
)
def test_what_makes_no_sense_is_refused(pair, personalise, training, says):
    with pytest.raises(InputError, match=says):
        Experiment.read(given_for(pair, "fedavg", personalise, **training))


def test_an_unknown_part_is_refused_before_it_starts(pair, tmp_path):
    with pytest.raises(InputError, match=r"personalise\.parts"):
        finish(given_for(pair, "fedavg", {"rounds": 1, "parts": ["hat"]}), tmp_path)


def test_no_local_rounds_are_the_method_itself(pair):
    contents = dict.fromkeys(pair, "x")
    plain, none, one, head = (
        Experiment.read(given_for(pair, "fedavg", given))
        for given in (None, {"rounds": 0}, {"rounds": 1}, {"rounds": 1, "parts": "head"})
    )
    assert plain == none
    assert len({each.digest(contents) for each in (plain, one, head)}) == 3
    assert len({each.training_digest(contents) for each in (plain, one, head)}) == 3
    assert Experiment.read(one.as_dict()) == one


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "personalise"), [("fedavg", None), ("fedavg", {"rounds": 1}), ("pooled", None)])
def test_an_unseen_site_fine_tunes_from_the_shared_weights(pair, consortium, tmp_path, strategy, personalise):
    result, run = finish(given_for(pair, strategy, personalise), tmp_path)
    everywhere = {name: str(consortium[name]) for name in (*pair, "south")}
    rows = evaluate(result.digest, workspace=tmp_path, sites=everywhere, unseen="fine-tune", fine_tune_epochs=2)["rows"]
    models = {row["site"]: row["model"] for row in rows}
    assert models["south"] == "fine-tuned 2 epochs from the shared weights"
    if not run.members:
        assert models["north"] == "global"
        plain = evaluate(result.digest, workspace=tmp_path, sites=everywhere)["rows"]
        south = [{row["site"]: row["psnr"] for row in one}["south"] for one in (rows, plain)]
        assert south[0] != south[1]
        with pytest.raises(InputError, match="whole network"):
            evaluate(result.digest, workspace=tmp_path, sites=everywhere, unseen="nearest")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "fedbn", "local"])
def test_a_warm_start_begins_with_the_weights_of_the_run(pair, tmp_path, strategy):
    """Without a round the network is that of the run; what a site keeps for itself starts there too."""
    first = given_for(pair, "fedavg", rounds=1)
    first["network"] = given_for(pair, strategy)["network"]
    result, run = finish(first, tmp_path)
    again, warm = finish(given_for(pair, strategy, rounds=0, start="latest"), tmp_path)
    assert warm.experiment.training.start == result.digest
    weights, ours = shared(run), shared(warm)
    assert all(ours[name].tobytes() == weights[name].tobytes() for name in ours)
    assert {s: one["psnr"] for s, one in again.sites.items()} == {s: one["psnr"] for s, one in result.sites.items()}
    named, _ = finish(given_for(pair, strategy, rounds=0, start=result.digest[:8]), tmp_path)
    assert named.digest == again.digest


@pytest.mark.slow
def test_another_network_and_private_parts_are_no_start(pair, tmp_path):
    local, _ = finish(given_for(pair, "local", rounds=1), tmp_path)
    with pytest.raises(InputError, match="for themselves"):
        finish(given_for(pair, "fedavg", start=local.digest), tmp_path)
    shared_, _ = finish(given_for(pair, "fedavg", rounds=1), tmp_path)
    other = given_for(pair, "fedavg", start=shared_.digest)
    other["network"] = {**other["network"], "channels": 3}
    with pytest.raises(InputError, match=r"training\.start"):
        finish(other, tmp_path)
    with pytest.raises(InputError, match="nothere"):
        finish(given_for(pair, "fedavg", start="nothere"), tmp_path)
