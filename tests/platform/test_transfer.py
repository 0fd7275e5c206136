"""A finished run tested elsewhere: its own digest and run, the training of another, the scores of ``evaluate``."""

import shutil

import numpy as np
import pytest
from tiny import NETWORKS, UNET, make_volume

import fedrecon
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.checks import ConsortiumShards
from fedrecon.platform.consortium.consent import what_leaves
from fedrecon.platform.execution.wire_log import WIRE_LINES, WireLog
from fedrecon.platform.inference.evaluate import evaluate, rows
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.runs.preview import preview
from fedrecon.platform.runs.results import ALREADY, ANEW
from fedrecon.platform.storage.parquet import read_scores
from fedrecon.platform.storage.run_lookup import network_of
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.data.shard import write_shard
from fedrecon.sites.errors import InputError, RunError

FEDBN = {"strategy": {"name": "fedbn"}, "network": NETWORKS["fedbn"]}


@pytest.fixture(scope="module")
def paths(consortium):
    return {site: str(path) for site, path in consortium.items()}


def described(paths, strategy="fedavg", leave_out=(), **changes):
    return {
        "sites": {site: path for site, path in paths.items() if site not in leave_out},
        "strategy": {"name": strategy},
        "network": NETWORKS.get(strategy, UNET),
        "training": {"rounds": 2, "batch_size": 2, "learning_rate": 0.01},
        "evaluation": {"every": 2, "panels": False},
        **changes,
    }


def run(given, workspace):
    return fedrecon.run(given, workspace=workspace, in_process=True)


def walls(workspace, digest, after=0):
    """The sites whose walls the messages of a run crossed, by what crossed, in the order of the record."""
    found = {}
    for row in WireLog(RunFolder(workspace, digest).path / WIRE_LINES).rows[after:]:
        found.setdefault(row["type"], []).append(row["site"])
    return found


@pytest.mark.slow
def test_it_takes_over_the_training_and_scores_as_evaluate_does(paths, workspace):
    own = run(described(paths), workspace)
    elsewhere = run(described(paths, test={"operator": {"acceleration": 2.5, "noise": 3.0}}), workspace)
    assert (own.trained_rounds, elsewhere.trained_rounds) == (2, 0)
    assert elsewhere.digest != own.digest
    assert elsewhere.training_digest == own.training_digest
    scored = ("test", "validation")
    assert walls(workspace, elsewhere.digest)["Scores"] == [site for site in sorted(paths) for _ in scored]
    assert {**elsewhere.as_dict(), "resumed_from": 2, "began": ALREADY} == run(
        described(paths, test={"operator": {"acceleration": 2.5, "noise": 3.0}}), workspace
    ).as_dict()
    quieter = run(described(paths, test={"operator": {"acceleration": 2.5}}), workspace)
    rows = {row["site"]: row for row in evaluate(own.digest, accelerations=[2.5], workspace=workspace)["rows"]}
    for site, one in quieter.sites.items():
        assert one["psnr"] == pytest.approx(rows[site]["psnr"], abs=1e-9)
        assert elsewhere.sites[site]["zero_filled"]["psnr"] < one["zero_filled"]["psnr"]


@pytest.mark.slow
def test_evaluate_and_a_test_block_fix_one_of_a_mix(paths, workspace):
    mixed = {"mask": {"choice": ["random", "gaussian2d"]}, "acceleration": {"uniform": [2, 3]}, "center_fraction": 0.1}
    own = run(described(paths, operator=mixed), workspace)
    fixed = {"mask": "random", "acceleration": 2.5}
    elsewhere = run(described(paths, operator=mixed, test={"operator": fixed}), workspace)
    assert (own.trained_rounds, elsewhere.trained_rounds) == (2, 0)
    found = evaluate(own.digest, mask="random", accelerations=[2.5], workspace=workspace)["rows"]
    assert {(row["mask"], row["acceleration"]) for row in found} == {("random", 2.5)}
    for row in found:
        assert row["psnr"] == pytest.approx(elsewhere.sites[row["site"]]["psnr"], abs=1e-9)
    again = evaluate(own.digest, workspace=workspace)["rows"]
    assert len(again) == len(paths)  # one row a site, though each slice has its own acceleration
    for row in again:
        assert (row["mask"], row["acceleration"]) == ("random/gaussian2d R=2-3", 2.5)
        assert 1.9 < row["measured_acceleration"] < 3.5
        assert row["psnr"] == pytest.approx(own.sites[row["site"]]["psnr"], abs=1e-9)
    noted = run_store(None, workspace).find(own.run_id)
    assert "random/gaussian2d R=2-3" in noted.name
    assert noted.params["operator.acceleration"] == "2-3"
    halves = evaluate(own.digest, accelerations=[2], workspace=workspace)["rows"]
    assert {(row["mask"], row["acceleration"]) for row in halves} == {("random/gaussian2d", 2)}


@pytest.mark.slow
def test_without_a_training_to_take_over_it_trains_first_as_a_run_of_its_own(paths, workspace):
    given = described(paths, seed=5, test={"operator": {"acceleration": 2.0}})
    elsewhere = run(given, workspace)
    assert elsewhere.trained_rounds == 2
    base = Experiment.read(given).alone
    own = run(base, workspace)
    assert own.trained_rounds == 0
    assert own.training_digest == elsewhere.training_digest
    store = run_store(None, workspace)
    assert store.find(elsewhere.run_id).run_id != store.find(own.run_id).run_id


@pytest.mark.slow
def test_a_run_begins_where_its_dry_run_said(paths, workspace):
    given = described(paths, leave_out=["south"], seed=6)
    first = run(given, workspace)
    assert first.began == ANEW
    whole = f"the training of {first.digest}", f"the training of run {first.digest}"
    scored = {"every": 2, "panels": False, "max_slices": 1}
    for one, begins, began in (
        (given, "finished already", ALREADY),
        ({**given, "evaluation": scored}, f"takes over {whole[0]}", f"took over {whole[1]}"),
        ({**given, "test": {"operator": {"acceleration": 2.0}}}, f"takes over {whole[0]}", f"took over {whole[1]}"),
        ({**given, "seed": 8, "test": {"operator": {"acceleration": 2.0}}}, "anew", ANEW),
        ({**given, "seed": 8}, "finished already", ALREADY),
        ({"sites": given["sites"], "reconstructor": "zero_filled", "evaluation": scored}, "anew", ANEW),
        ({"sites": given["sites"], "reconstructor": "zero_filled", "evaluation": scored}, "finished already", ALREADY),
    ):
        assert preview(one, workspace=workspace, in_process=True)["begins"] == begins
        assert run(one, workspace).began == began
    again = preview(given, workspace=workspace, in_process=True, rerun=True)
    assert again["begins"] == "anew"


def test_pictures_are_announced_where_they_are_drawn_and_a_test_draws_none(paths):
    given = Experiment.read(described(paths, evaluation={"panels": True}, test={"operator": {"acceleration": 2.0}}))
    shards = ConsortiumShards.of(given).trained
    said, own = ([line for line in what_leaves(one, shards) if "picture" in line] for one in (given, given.alone))
    assert (len(said), len(own)) == (0, 1)


@pytest.mark.slow
def test_what_is_done_with_it_is_done_with_the_run_that_was_tested(paths, workspace):
    own = run(described(paths), workspace)
    elsewhere = run(described(paths, test={"operator": {"acceleration": 2.0}}), workspace)
    assert TrainedRun.load(workspace, elsewhere.digest).folder.digest == own.digest
    assert TrainedRun.load(workspace, elsewhere.run_id).experiment.test is None


@pytest.mark.slow
def test_a_site_that_did_not_train_is_tested(paths, workspace):
    result = run(described(paths, leave_out=["south"], test={"sites": {"south": paths["south"]}}), workspace)
    assert list(result.sites) == ["south"]
    trained, known = TrainedRun.load(workspace, result.digest).folder, walls(workspace, result.digest)
    assert {site for sites in known.values() for site in sites} == {"south"}
    before = len(WireLog(trained.path / WIRE_LINES).rows)
    again = evaluate(result.digest, sites={"south": paths["south"]}, workspace=workspace)["rows"]
    later = walls(workspace, trained.digest, before)
    assert later["Scores"] == ["south"]
    assert {site for sites in later.values() for site in sites} == {"south"}
    assert result.sites["south"]["psnr"] == pytest.approx(again[0]["psnr"], abs=1e-9)


@pytest.mark.slow
def test_runs_and_tests_keep_the_scores_of_the_validation_subjects_apart(paths, workspace):
    """A study chooses by them. Those of a training are its last validation; a test scores them under its operator."""
    own = run(described(paths), workspace)
    elsewhere = run(described(paths, test={"operator": {"acceleration": 2.5}}), workspace)
    classical = run({"sites": paths, "reconstructor": "zero_filled", "evaluation": {"panels": False}}, workspace)
    for result, acceleration in ((own, 4.0), (elsewhere, 2.5), (classical, 4.0)):
        store = run_store(None, workspace)
        columns, test = (
            read_scores(store.local_artifact(result.run_id, f"{name}.parquet")) for name in ("validation", "scores")
        )
        assert set(columns["split"]) == {"validation"}
        assert set(test["split"]) == {"test"}
        assert sorted(set(columns["subject"])) == sorted(f"{site}-validation" for site in paths)
        assert set(columns["acceleration"]) == set(test["acceleration"]) == {acceleration}
        scores = {row["site"]: row["psnr"] for row in rows(columns)}
        if result is own:
            assert scores == pytest.approx({site: own.validation[f"site/{site}/psnr"] for site in paths})
        assert {row["site"]: row["psnr"] for row in rows(test)} == pytest.approx(
            {site: one["psnr"] for site, one in result.sites.items()}
        )


@pytest.mark.slow
def test_where_each_hospital_has_its_own_network_theirs_are_averaged(paths, workspace):
    test = {"sites": {"south": paths["south"]}}
    given = described(paths, "local", leave_out=["south"], publish_private="all", test=test)
    result = run(given, workspace)
    columns = read_scores(run_store(None, workspace).local_artifact(result.run_id, "scores.parquet"))
    assert sorted(set(columns["model"])) == ["middle", "north"]
    crossed = walls(workspace, result.digest)
    assert set(crossed["Scores"]) == {"south"}  # tested with networks of north and middle
    assert set(crossed.get("PrivatePart", ())) <= {"middle", "north"}
    by_model = {
        row["model"]: row["psnr"]
        for row in evaluate(result.digest, sites={"south": paths["south"]}, workspace=workspace)["rows"]
    }
    assert result.sites["south"]["psnr"] == pytest.approx(np.mean(list(by_model.values())), abs=1e-9)


@pytest.mark.slow
def test_a_published_private_part_is_used_at_a_site_that_did_not_train(paths, workspace):
    shared = {"leave_out": ["south"], "publish_private": "all"}
    test = {"sites": {"south": paths["south"]}, "unseen": "average"}
    result = run(described(paths, "fedbn", **shared, test=test), workspace)
    columns = read_scores(run_store(None, workspace).local_artifact(result.run_id, "scores.parquet"))
    assert set(columns["model"]) == {"average"}
    crossed = walls(workspace, result.digest)
    assert set(crossed["Scores"]) == {"south"}
    assert crossed["PrivatePart"] == ["middle", "north"]  # whose part it was, and not who gets it


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (FEDBN, "site 'south' does not train"),
        ({**FEDBN, "test.unseen": "average"}, "No agreement: middle, north"),
        ({**FEDBN, "test.unseen": "nearest"}, "the rule nearest needs a site that agreed"),
        ({"strategy": {"name": "local"}}, "own network at other sites needs .* No agreement: middle, north"),
        ({"strategy": {"name": "local"}, "publish_private": ["north"]}, "No agreement: middle"),
        ({"test.unseen": "average"}, "shares its whole network"),
        ({"test.operator": {"acceleration": 40}}, "site 'south'"),
    ],
)  # fmt: skip
def test_what_cannot_be_tested_is_refused_before_anything_is_trained(changes, message, paths, tmp_path):
    from fedrecon.platform.config.overrides import apply_values

    given = described(paths, leave_out=["south"], test={"sites": {"south": paths["south"]}})
    with pytest.raises(InputError, match=message):
        run(apply_values(given, changes), tmp_path)
    assert not list(tmp_path.glob("runs/*/run.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reconstructor": "tv", "test": {"operator": {"acceleration": 2}}}, "learns nothing"),
        ({"test": {"degradation": {"scale": 2}}}, "test.degradation: this task is described by 'operator'"),
        ({"test": {"operator": {"per_site": {}}}}, "test.operator holds for all sites"),
        ({"test": {"operator": {"aceleration": 2}}}, "Did you mean 'acceleration'"),
        ({"test": {"unseen": "averag"}}, "test.unseen"),
        ({"test": {"unseen": "average"}}, "name them by test.sites"),
        ({"test": {"sites": "d", "fine_tune_epochs": 3}}, "no rule"),
        ({"test": {"sites": "d", "unseen": "nearest", "fine_tune_epochs": 3}}, "given: nearest"),
    ],
)
def test_a_test_that_cannot_be_is_refused_with_its_file(changes, message, paths):
    with pytest.raises(InputError, match=message):
        Experiment.read(described(paths, **changes))


def test_a_test_subject_that_trained_is_refused(paths, tmp_path):
    shard = tmp_path / "other.h5"
    volumes = [make_volume("north-train", "test", 2, 1, 0)]
    write_shard(shard, "other", volumes, simulated=True, phase="smooth", origin="phantom")
    with pytest.raises(InputError, match=r"'other'.*north-train.*'train'.*'north'"):
        run(described(paths, test={"sites": {"other": str(shard)}}), tmp_path)
    assert not list(tmp_path.glob("runs/*/run.json"))


def test_an_empty_test_is_none_and_older_digests_stand(paths):
    one, other = Experiment.read(described(paths)), Experiment.read(described(paths, test={}))
    sites = ConsortiumShards.of(one)
    assert other.test is None
    assert sites.digest(one) == ConsortiumShards.of(other).digest(other)
    assert "test" not in one.shown()


@pytest.mark.slow
def test_the_digest_holds_where_and_how_it_is_tested_but_not_where_the_files_lie(paths, tmp_path):
    def digest(test, **changes):
        one = Experiment.read(described(paths, leave_out=["south"], test=test, **changes))
        return ConsortiumShards.of(one).digest(one)

    moved = tmp_path / "moved.h5"
    shutil.copy(paths["south"], moved)
    south, north = {"south": paths["south"]}, {"north": paths["north"]}
    base = digest({"sites": south})
    assert digest({"sites": {"south": str(moved)}}) == base
    others = [
        digest({"sites": north}),
        digest({"sites": south, "operator": {"noise": 2}}),
        digest({"sites": south, "operator": {"acceleration": 2}}),
        digest({"sites": south, "unseen": "average"}),
        digest({"sites": south, "unseen": "average"}, publish_private="all"),
    ]
    assert len({base, *others}) == 6


@pytest.mark.slow
def test_a_training_that_has_not_come_to_its_end_is_not_taken_over(paths, workspace):
    """As a rerun that was killed leaves it: a note of the training, and a checkpoint of its first round."""
    given = described(paths, leave_out=["south"], seed=11)
    own = run(given, workspace)
    checkpoints = RunFolder(workspace, own.digest).checkpoints
    last = max(checkpoints.paths(), key=lambda path: path.name)
    shutil.rmtree(last) if last.is_dir() else last.unlink()
    (RunFolder(workspace, own.digest).path / "result.json").unlink()
    elsewhere = run({**given, "test": {"operator": {"acceleration": 2.0}}}, workspace)
    again = run(given, workspace)
    assert again.rounds == elsewhere.rounds == 2
    assert again.sites == own.sites


@pytest.mark.slow
def test_a_test_stays_with_the_network_that_it_tested(paths, workspace):
    """Its run is set aside by a rerun, which may have other bits, and is deleted later."""
    given = described(paths, leave_out=["south"], seed=14)
    tested = RunFolder(workspace, run({**given, "test": {"operator": {"acceleration": 2.0}}}, workspace).digest)
    own, trained = evaluate(tested.digest, workspace=workspace), network_of(tested)
    assert fedrecon.run(given, workspace=workspace, in_process=True, rerun=True).digest == trained.digest
    aside = network_of(tested)
    assert aside.digest == f"{trained.digest}.before-1"
    assert evaluate(tested.digest, workspace=workspace)["means"] == own["means"]
    shutil.rmtree(aside.path)
    with pytest.raises(RunError, match=f"run {tested.digest} tested a network of run {trained.digest} that is gone"):
        evaluate(tested.digest, workspace=workspace)


@pytest.mark.slow
def test_what_is_set_aside_is_taken_over_by_nobody(paths, workspace):
    from fedrecon.platform.storage.workspace import find_trained

    own = run(described(paths, leave_out=["south"], seed=12), workspace)
    assert find_trained(workspace, own.training_digest) is not None
    RunFolder(workspace, own.digest).set_aside()
    assert find_trained(workspace, own.training_digest) is None


@pytest.mark.slow
def test_who_agrees_to_publish_is_said_by_the_test_and_not_by_the_training(paths, workspace):
    """Trained without a word of it, tested with everybody's consent."""
    shared = {"leave_out": ["south"], "seed": 13}
    run(described(paths, "fedbn", **shared), workspace)
    test = {"sites": {"south": paths["south"]}, "unseen": "average"}
    result = run(described(paths, "fedbn", **shared, publish_private="all", test=test), workspace)
    assert result.trained_rounds == 0
    assert list(result.sites) == ["south"]


@pytest.mark.slow
def test_a_killed_test_goes_on_and_is_tested_once(paths, workspace):
    given = described(paths, leave_out=["south"], seed=9, test={"operator": {"acceleration": 2.0}})
    first = run(given, workspace)
    folder = RunFolder(workspace, first.digest)
    (folder.path / "result.json").unlink()  # as if it had died before the last write
    again = run(given, workspace)
    assert again.run_id == first.run_id
    assert again.sites == first.sites
    assert again.trained_rounds == 0
