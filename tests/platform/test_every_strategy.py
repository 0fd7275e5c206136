"""A finished run of every strategy: what crossed the wall, its scores once more, and its private parts by consent."""

from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_wall import crossed, given, private_files
from tiny import PARAMETERS

import fedrecon
from fedrecon.platform.config.science import TRAINED
from fedrecon.platform.execution.wire_log import WireLog
from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites import wire, wire_check
from fedrecon.sites.errors import InputError
from fedrecon.strategies import STRATEGIES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_drawn", "no_pixels")]

CASES = {**{name: {} for name in STRATEGIES}, "fedavg, moments kept": {"optimizer_state": "keep"}}

PICTURES = ("fedavg", "fedgimp")
"""Drawing takes longer than all else in these runs: of a network that reconstructs and of a prior it is seen here."""


class Watched:
    """Every object that goes through the gate, in either direction, of any executor in this process."""

    def __init__(self, monkeypatch):
        self.seen = []
        from fedrecon.sites.member import gate

        real = gate.call

        def call(site, method, arguments):
            answer = real(site, method, arguments)
            self.seen += [*arguments, *([] if answer is None else [answer])]
            return answer

        monkeypatch.setattr(gate, "call", call)


class Finished(NamedTuple):
    """A run from its start to its artifacts, without consent, then ``evaluate``: two tests look at it."""

    name: str
    given: dict
    result: fedrecon.Result
    evaluated: dict
    seen: list
    by_evaluate: list
    """The rows that ``evaluate`` added to the record."""


@pytest.fixture(scope="module")
def consortium(consortium):
    """Two of the sites: one with one coil, one with two."""
    return {name: consortium[name] for name in ("north", "middle")}


@pytest.fixture(scope="module", params=CASES)
def finished(request, consortium, workspace, few_drawn):
    name = request.param.split(",")[0]
    described = given(consortium, name, evaluation={"every": 2, "panels": request.param in PICTURES, "max_slices": 1})
    described["training"] |= CASES[request.param]
    with pytest.MonkeyPatch.context() as patch:
        watched = Watched(patch)
        result = fedrecon.run(described, workspace=workspace, in_process=True)
        lines = RunFolder(workspace, result.digest).path / "wire.jsonl"
        trained = len(WireLog(lines).rows)
        found = evaluate(result.digest, workspace=workspace)
    return Finished(name, described, result, found, watched.seen, WireLog(lines).rows[trained:])


def test_all_that_crosses_is_of_the_list_and_in_the_record(finished, consortium, workspace):
    assert {"TrainRequest", "ScoreTask", "Scores"} <= {row["type"] for row in finished.by_evaluate}
    assert [*dict.fromkeys(row["site"] for row in finished.by_evaluate)] == [
        row["site"] for row in finished.evaluated["rows"]
    ]
    assert finished.seen
    for message in finished.seen:
        assert wire_check.check_message(message) is message
    assert not any(isinstance(one, wire.PrivatePart) for one in finished.seen)
    rounds = [{*one.standing, *one.kept} for one in finished.seen if isinstance(one, wire.TrainRequest)]
    assert max(map(len, rounds)) == 1  # a site hears in which round it replied itself, and of no other

    rows = crossed(workspace, finished.result)
    assert {row["type"] for row in rows} <= {one.__name__ for one in wire.MESSAGES}
    assert {row["direction"] for row in rows} == {"up", "down"}
    replies = [row for row in rows if row["type"] == "TrainReply"]
    members = STRATEGIES[finished.name](**PARAMETERS.get(finished.name, {})).roster(sorted(consortium))
    assert [(row["round"], row["site"]) for row in replies] == [(n, m) for n in (1, 2) for m in members]
    assert all(row["direction"] == "up" for row in replies)
    requests = [row for row in rows if row["type"] == "TrainRequest" and row["round"] == 1]
    assert len({row["hash"] for row in requests}) == 1  # all sites get the same
    assert finished.result.bytes_up == sum(
        4 * np.prod([int(n) for n in shape.split("x")])
        for row in replies
        for part, shape in zip(row["names"], row["shapes"], strict=True)
        if shape and (part == "shared" or part.startswith("extra/"))
    )


def test_scored_again_it_has_the_run_s_own_scores_by_each_site_s_own_network(finished, workspace):
    result, found = finished.result, finished.evaluated
    rows = found["rows"]
    assert found["science_version"] == found["run_science_version"] == TRAINED
    assert {row["site"]: row["psnr"] for row in rows} == pytest.approx(
        {site: one["psnr"] for site, one in result.sites.items()}, abs=1e-9
    )
    members = TrainedRun.load(workspace, result.digest).members
    assert [row["model"] for row in rows] == [row["site"] if members else "global" for row in rows]


def test_a_hospital_that_is_tested_gets_the_network_without_paths_and_rounds_of_others(finished, consortium, workspace):
    from fedrecon.platform.inference.remote_scoring import _network, _trained_run

    trained = TrainedRun.load(workspace, finished.result.digest)
    network = _network(trained, {}, "north")
    assert not any(str(path) in repr(network) for path in consortium.values())
    assert {*network.state.standing} <= {"north"}
    there = _trained_run(network)
    assert (there.experiment.method, there.models("north")) == (trained.experiment.method, trained.models("north"))


def test_private_parts_reach_driver_and_tracker_by_consent_alone(finished, workspace):
    """None before; asked again with everybody's consent the run gives those that the sites use, and records it."""
    result = finished.result
    assert private_files(workspace, result) == []
    assert "PrivatePart" not in {row["type"] for row in crossed(workspace, result)}
    trained = TrainedRun.load(workspace, result.digest)
    if not trained.members:
        return
    with pytest.raises(InputError, match="did not agree"):
        trained.private_part(trained.members[0], ())

    agreed = {**finished.given, "publish_private": "all"}
    again = fedrecon.run(agreed, workspace=workspace, in_process=True)
    assert (again.run_id, again.trained_rounds) == (result.run_id, 0)
    assert private_files(workspace, result) == sorted(f"{member}.safetensors" for member in trained.members)
    rows = WireLog(RunFolder(workspace, result.digest).path / "wire.jsonl").rows
    parts = [(row["site"], row["direction"]) for row in rows if row["type"] == "PrivatePart"]
    assert sorted(parts) == sorted((member, "up") for member in trained.members)
    store = run_store(None, workspace)
    for member in trained.members:
        kept = load_file(store.local_artifact(result.run_id, f"private/{member}.safetensors"))
        used = trained.private_part(member, [member]).parameters
        assert {key: values.tobytes() for key, values in kept.items()} == {
            key: values.tobytes() for key, values in used.items()
        }
