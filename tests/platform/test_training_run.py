"""The course of one experiment: its steps, its interruption, and a training that another run did already."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from drivers import ROUNDS, experiment
from memory_store import MemoryStore, MemoryTracker
from safetensors.numpy import load_file

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.federation.aggregate import site_scores, volume_scores
from fedrecon.platform.federation.attendance import MISSED, Attendance
from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.run import run, steps
from fedrecon.platform.storage.checkpoint import Checkpoints
from fedrecon.platform.storage.parquet import read_scores
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.errors import RunError


@pytest.fixture
def pair(consortium):
    """Two of the sites: one with one coil, one with two."""
    return {name: consortium[name] for name in ("north", "middle")}


@pytest.fixture(autouse=True)
def kept(tmp_path_factory, monkeypatch):
    """A run writes its artifacts to a scratch folder: what the tracker in memory was given is copied."""

    def keep(self, path, folder):
        place = tmp_path_factory.mktemp("artifacts") / path.name
        self.run.artifacts[f"{folder}/{path.name}" if folder else path.name] = Path(shutil.copy(path, place))

    monkeypatch.setattr(MemoryTracker, "_write_artifact", keep)


def begin(given, workspace, store, **more):
    context = RunContext(workspace=workspace, executor="in-process", store=store, **more)
    return steps(Experiment.read(given), context)


def finish(course):
    """What a course yields, and its result."""
    committed = []
    while True:
        try:
            committed.append(next(course))
        except StopIteration as end:
            return committed, end.value


@pytest.fixture(scope="module")
def made():
    """What :func:`trained` has trained."""
    return {}


@pytest.fixture
def trained(made, pair, tmp_path_factory):
    """Gives a folder a finished training of the pair: its store, its rounds and its result.

    The same one is trained once, and each test changes a copy of its own.
    """

    def give(folder, strategy="fedavg", **training):
        key = strategy, *training.items()
        if key not in made:
            place, store = tmp_path_factory.mktemp("trained"), MemoryStore()
            made[key] = place, store, *finish(begin(experiment(pair, strategy, **training), place, store))
        place, store, rounds, result = made[key]
        shutil.copytree(place, folder, dirs_exist_ok=True)
        return copy.deepcopy(store), rounds, result

    return give


def bits(workspace, result):
    """The last state, by name, and the private memory of that round."""
    folder = RunFolder(workspace, result.digest)
    state, _ = folder.checkpoints.latest()
    return {
        "round": state.round,
        "shared": state.shared.tobytes(),
        "extra": {name: value.tobytes() for name, value in state.extra.items()},
        "standing": dict(state.standing),
    }


def weights(run_):
    return {path: load_file(file) for path, file in run_.artifacts.items() if path.endswith(".safetensors")}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[path].keys() == other[path].keys()
        and all(one[path][name].tobytes() == other[path][name].tobytes() for name in one[path])
        for path in one
    )


def scores(result):
    return {"sites": result.sites, "mean": result.mean, "validation": result.validation}


@pytest.mark.slow
def test_every_committed_round_is_yielded_before_the_result(pair, tmp_path):
    store = MemoryStore()
    course = begin(experiment(pair, "fedavg"), tmp_path, store)
    for number in range(1, ROUNDS + 1):
        one = next(course)
        assert one.round == number
        (folder,) = tmp_path.glob("runs/*/checkpoints")
        state, record = Checkpoints(folder).latest()
        assert (state.round, len(record["curve"])) == (number, number)
        assert "mean/loss" in one.metrics
        assert ("mean/psnr" in one.metrics) == (number % 2 == 0)  # evaluation.every is 2
        assert not any(key.startswith("test/") for key in one.metrics)
    assert not list(tmp_path.glob("runs/*/result.json"))
    rest, result = finish(course)
    assert rest == []
    assert (result.rounds, result.resumed_from, result.trained_rounds) == (ROUNDS, 0, ROUNDS)
    assert result.validation == one.metrics
    assert [one.info.status for one in store.runs] == ["FINISHED"]


@pytest.mark.slow
def test_a_finished_run_yields_its_rounds_again_and_trains_nothing(pair, tmp_path, trained):
    store, first, result = trained(tmp_path)
    again, told = finish(begin(experiment(pair, "fedavg"), tmp_path, store))
    assert again == first
    assert (told.trained_rounds, told.resumed_from, told.run_id) == (0, ROUNDS, result.run_id)
    assert len(store.runs) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "after"), [("fedavg", 0), ("fedavg", 1), ("local", 3), ("fedavg", ROUNDS)])
def test_a_closed_training_is_killed_and_goes_on_to_the_same_bits(pair, tmp_path, trained, strategy, after):
    given = experiment(pair, strategy, optimizer_state="keep")
    calm, committed, expected = trained(tmp_path / "calm", strategy, optimizer_state="keep")
    stormy = MemoryStore()
    course = begin(given, tmp_path / "stormy", stormy)
    for _ in range(after):
        next(course)
    course.close()
    assert [one.info.status for one in stormy.runs] == (["KILLED"] if after else [])
    seen, result = finish(begin(given, tmp_path / "stormy", stormy))
    assert [one.round for one in seen] == [1, 2, 3, 4]
    assert [one.metrics for one in seen] == [one.metrics for one in committed]
    assert (result.resumed_from, result.trained_rounds) == (after, ROUNDS - after)
    assert [one.info.status for one in stormy.runs] == ["FINISHED"]
    assert bits(tmp_path / "stormy", result) == bits(tmp_path / "calm", expected)
    assert same(weights(stormy.runs[0]), weights(calm.runs[0]))
    assert scores(result) == scores(expected)
    for key in ("train/mean/loss", "validation/mean/psnr"):
        points = [(one.step, one.value) for one in stormy.runs[0].points if one.key == key]
        assert points == [(one.step, one.value) for one in calm.runs[0].points if one.key == key]


@pytest.mark.slow
def test_a_failing_run_is_recorded_as_failed(pair, tmp_path, monkeypatch):
    from fedrecon.platform.federation.round_loop import rounds

    def broken(*arguments):
        yield next(rounds(*arguments))
        raise RunError("the room is on fire")

    monkeypatch.setattr("fedrecon.platform.federation.round_loop.rounds", broken)
    store = MemoryStore()
    course = begin(experiment(pair, "fedavg"), tmp_path, store)
    next(course)
    with pytest.raises(RunError, match="on fire"):
        next(course)
    assert [one.info.status for one in store.runs] == ["FAILED"]


@pytest.mark.slow
def test_a_checkpoint_that_is_damaged_after_the_end_is_not_evaluated_as_the_round_before(pair, tmp_path):
    _, result = finish(begin(experiment(pair, "fedavg"), tmp_path, MemoryStore(), keep_checkpoints=True))
    folder = RunFolder(tmp_path, result.digest)
    assert TrainedRun.of(folder).state.round == ROUNDS
    newest = folder.checkpoints.paths()[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    refused = pytest.raises(
        RunError, match=f"its result is of round {ROUNDS}, and the last checkpoint .* {ROUNDS - 1} "
    )
    with refused, pytest.warns(UserWarning, match="cannot be read"):
        TrainedRun.of(folder)


@pytest.mark.slow
def test_a_checkpoint_of_a_round_beyond_the_last_is_no_finished_run(pair, tmp_path, trained):
    """The run goes on from the round before, to the same bits."""
    given = experiment(pair, "fedavg")
    _, _, expected = trained(tmp_path / "calm")
    course = begin(given, tmp_path / "cut", MemoryStore())
    next(course)
    course.close()
    checkpoints = RunFolder(tmp_path / "cut", expected.digest).checkpoints
    state, record = checkpoints.latest()
    torn = replace(state, round=99, standing={})
    Checkpoints(tmp_path / "other", expected.digest).save(torn, record).rename(checkpoints._path(99))
    with pytest.warns(UserWarning, match=f"its round is 99, the experiment has {ROUNDS}"):
        _, result = finish(begin(given, tmp_path / "cut", MemoryStore()))
    assert result.trained_rounds == ROUNDS - 1
    assert bits(tmp_path / "cut", result) == bits(tmp_path / "calm", expected)


def other(given, **evaluation):
    return {**given, "evaluation": {**given["evaluation"], **evaluation}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "training", "compared"),
    [("fedavg", {}, {5, 6}), ("fedavg", {"optimizer_state": "keep"}, {6}), ("local", {}, {6}), ("ditto", {}, {6})],
    ids=["fedavg", "fedavg-keep", "local", "several losses"],
)
def test_what_differs_only_in_its_evaluation_takes_the_training_over(
    pair, tmp_path, trained, strategy, training, compared
):
    """A chain of three: the third one takes over from whoever there is; each as if it had run alone.

    The second one of a chain is compared where the strategy is FedAvg.
    """
    given = experiment(pair, strategy, **training)
    store, _, first = trained(tmp_path / "shared", strategy, **training)
    psnr = {first.validation["mean/psnr"]}
    for number, seed in enumerate((5, 6), start=1):
        one = other(given, mask_seed=seed)
        seen, taken = finish(begin(one, tmp_path / "shared", store))
        assert taken.digest != first.digest
        assert taken.training_digest == first.training_digest
        assert (taken.rounds, taken.resumed_from, taken.trained_rounds) == (ROUNDS, ROUNDS, 0)
        assert [step.round for step in seen] == [ROUNDS]
        tags = store.runs[number].info.tags
        assert tags["fedrecon.trained_by"] in {run_.info.digest for run_ in store.runs[:number]}
        assert tags["fedrecon.training_digest"] == first.training_digest
        assert same(weights(store.runs[number]), weights(store.runs[0]))
        assert (taken.bytes_up, taken.bytes_down) == (first.bytes_up, first.bytes_down)
        psnr.add(taken.validation["mean/psnr"])
        if seed not in compared:
            continue
        alone = MemoryStore()
        _, expected = finish(begin(one, tmp_path / f"alone-{seed}", alone))
        assert expected.trained_rounds == ROUNDS
        assert "fedrecon.trained_by" not in alone.runs[0].info.tags
        assert bits(tmp_path / "shared", taken) == bits(tmp_path / f"alone-{seed}", expected)
        assert taken.validation == expected.validation
        assert (taken.sites, taken.mean) == (expected.sites, expected.mean)
    assert len(psnr) == 3


@pytest.mark.slow
def test_a_run_that_took_a_training_over_can_be_evaluated_by_itself(pair, tmp_path, trained):
    """Also where each site has its own network, and after the run that trained was set aside."""
    store, _, first = trained(tmp_path, "local")
    _, taken = finish(begin(other(experiment(pair, "local"), mask_seed=5), tmp_path, store))
    RunFolder(tmp_path, first.digest).set_aside()
    rows = evaluate(taken.digest, workspace=tmp_path)["rows"]
    assert {row["site"]: row["psnr"] for row in rows} == pytest.approx(
        {site: one["psnr"] for site, one in taken.sites.items()}, abs=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "local"])
def test_a_take_over_that_was_cut_short_goes_on(pair, tmp_path, trained, strategy):
    store, _, first = trained(tmp_path, strategy)
    one = other(experiment(pair, strategy), mask_seed=5)
    course = begin(one, tmp_path, store)
    step = next(course)
    course.close()
    assert store.runs[1].info.status == "KILLED"
    seen, taken = finish(begin(one, tmp_path, store))
    assert seen == [step]
    assert (taken.trained_rounds, taken.resumed_from) == (0, ROUNDS)
    assert store.runs[1].info.status == "FINISHED"
    assert taken.validation == step.metrics
    assert taken.validation["mean/psnr"] != first.validation["mean/psnr"]
    assert len(store.runs) == 2


@pytest.mark.slow
def test_rerun_trains_again(pair, tmp_path, trained):
    store, _, _ = trained(tmp_path)
    seen, result = finish(begin(other(experiment(pair, "fedavg"), mask_seed=5), tmp_path, store, rerun=True))
    assert [one.round for one in seen] == [1, 2, 3, 4]
    assert (result.trained_rounds, result.resumed_from) == (ROUNDS, 0)
    assert "fedrecon.trained_by" not in store.runs[1].info.tags


@pytest.mark.slow
def test_a_training_that_is_not_finished_is_not_taken_over(pair, tmp_path):
    given, store = experiment(pair, "fedavg"), MemoryStore()
    course = begin(given, tmp_path, store)
    next(course)
    course.close()
    _, result = finish(begin(other(given, mask_seed=5), tmp_path, store))
    assert (result.trained_rounds, result.resumed_from) == (ROUNDS, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"operator": {"mask": "random", "acceleration": 2}}, {"strategy": {"name": "fedprox"}}]
)
def test_what_trains_otherwise_trains_itself(pair, tmp_path, trained, change):
    store, _, _ = trained(tmp_path, rounds=1)
    _, result = finish(begin({**experiment(pair, "fedavg", rounds=1), **change}, tmp_path, store))
    assert result.trained_rounds == 1


@pytest.mark.slow
def test_a_classical_reconstructor_yields_no_round(pair, tmp_path):
    given, store = {**experiment(pair, "fedavg"), "reconstructor": "zero_filled"}, MemoryStore()
    seen, result = finish(begin(given, tmp_path, store))
    assert seen == []
    assert (result.rounds, result.trained_rounds, result.training_digest) == (0, 0, None)
    # A search that has networks and classical methods in it compares them on validation subjects.
    (table,) = tmp_path.rglob("validation.parquet")
    rows = site_scores(volume_scores(read_scores(table)))
    own = [one["psnr"] for one in rows if one["stage"] == "output"]
    assert (len(own), result.validation["mean/psnr"]) == (2, pytest.approx(sum(own) / 2))
    assert store.runs[0].info.status == "FINISHED"
    again, told = finish(begin(given, tmp_path, store))
    assert (again, told.run_id) == ([], result.run_id)


@pytest.mark.slow
def test_in_mlflow_too(pair, tmp_path, mlflow_template, monkeypatch):
    """The tags stand where a sweep looks for them."""
    from fedrecon.platform.storage.tracking.store import run_store

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(mlflow_template / "mlflow.db", tmp_path / "mlflow.db")
    given = experiment(pair, "fedavg", rounds=1)
    first = run(given, workspace=tmp_path, in_process=True)
    taken = run(other(given, mask_seed=5), workspace=tmp_path, in_process=True, tags={"fedrecon.sweep": "s"})
    client = run_store(None, tmp_path).client
    told = client.get_run(taken.run_id)
    assert told.data.tags["fedrecon.trained_by"] == first.digest
    assert told.data.tags["fedrecon.sweep"] == "s"
    assert told.data.tags["mlflow.user"]
    assert f"{taken.mean['psnr']:.2f}" in told.data.tags["mlflow.note.content"]
    assert len(told.info.run_name) <= 60
    assert told.info.run_name.startswith("fedavg unet-2 · random R=3 · 1 round · 2 sites · seed 0")
    assert "1 round ·" in told.info.run_name
    assert told.info.status == "FINISHED"
    assert told.data.metrics["validation/mean/psnr"] == taken.validation["mean/psnr"]
    assert Path(client.download_artifacts(taken.run_id, "weights.safetensors")).is_file()


@pytest.mark.slow
def test_a_run_that_missed_a_reply_is_for_those_who_allowed_it(pair, tmp_path):
    """It goes on without whom it left out before, says so, and serves nobody who asked for every reply."""
    whole, store = experiment(pair, "fedavg"), MemoryStore()
    lenient = {**whole, "resources": {"min_sites": 1, "straggler": "skip"}}
    missed = {"2": {"north": "late"}}
    course = begin(lenient, tmp_path, store)
    next(course)
    course.close()
    (folder,) = (tmp_path / "runs").glob("*/checkpoints")
    Attendance(folder.parent / MISSED, ["middle", "north"]).note(2, missed["2"])
    _, late = finish(begin(lenient, tmp_path, store))
    assert (late.missed, late.missing_sites, set(late.sites)) == (missed, (), set(pair))
    rows = [row["replied"] for row in Checkpoints(folder).latest()[1]["rounds"]]
    assert rows == [["middle", "north"], ["middle"], *[["middle", "north"]] * (ROUNDS - 2)]
    replayed = bits(tmp_path, late)["shared"]
    assert store.runs[0].info.tags["fedrecon.missed_replies"] == "north: round 2 (late)"
    assert "north: round 2 (late)" in store.runs[0].artifacts["report.md"].read_text()
    assert finish(begin(lenient, tmp_path, store))[1].trained_rounds == 0

    _, taken = finish(begin(other(lenient, mask_seed=5), tmp_path, store))
    assert (taken.trained_rounds, taken.missed) == (0, missed)
    _, trained = finish(begin(other(whole, mask_seed=6), tmp_path, store))
    assert (trained.trained_rounds, trained.missed) == (ROUNDS, {})

    with pytest.warns(RuntimeWarning, match=r"missed replies \(north: round 2 \(late\)\)"):
        _, anew = finish(begin(whole, tmp_path, store))
    assert (anew.digest, anew.missed) == (late.digest, {})
    assert anew.trained_rounds == ROUNDS
    assert bits(tmp_path, anew) == bits(tmp_path, trained)
    assert bits(tmp_path, anew)["shared"] != replayed
    assert RunFolder(tmp_path, f"{late.digest}.before-1").result()["missed"] == missed
    assert finish(begin(lenient, tmp_path, store))[1].missed == {}
