"""``training.start``: whom the first training saw is not tested; a network that stayed as it began is applied so."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from tiny import DENOISER, STYLE, UNET, make_volume

import fedrecon
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.resources import DEAD
from fedrecon.platform.federation.attendance import MISSED, Attendance
from fedrecon.platform.runs import warm_start
from fedrecon.platform.storage.checked_json import KEY
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.data.shard import write_shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.measurement import Images

TRAINING = {"rounds": 1, "batch_size": 2}
BASE = {"network": UNET, "operator": {"mask": "random", "acceleration": 3}, "evaluation": {"panels": False}}


def shard(folder, site, seed, **splits):
    """A shard of that name whose subjects are in these splits."""
    volumes = [make_volume(name, split, 2, 1, seed + k) for k, (name, split) in enumerate(splits.items())]
    write_shard(folder / f"{site}.h5", site, volumes, simulated=True, phase="smooth")
    return {site: str(folder / f"{site}.h5")}


def run(workspace, sites, name, start=None, rounds=1, **changes):
    training = {**TRAINING, "rounds": rounds, "start": start}
    return fedrecon.run(
        {**BASE, "name": name, "sites": sites, "training": training, **changes}, workspace=workspace, in_process=True
    )


@pytest.mark.slow
def test_whom_the_first_training_saw_is_not_tested(workspace, tmp_path):
    first = run(workspace, shard(tmp_path, "a", 0, anna="train", ben="validation", carl="test"), "first")
    other = shard(tmp_path, "b", 10, dora="train", emil="validation", fred="test")
    second = run(workspace, other, "second", first.digest)
    leaking = shard(tmp_path, "c", 0, anna="test", gina="train", hugo="validation")
    renamed = shard(tmp_path, "e", 0, zoe="test", gina="train", hugo="validation")  # anna's scan under another name
    note = workspace / "runs" / second.digest / "run.json"
    known = json.loads(note.read_text())
    assert list(known["start"]["subjects"]) == [f"a of run {first.digest}"]
    for start, forgets in ((first.digest, False), (second.digest, False), (second.digest, True)):
        if forgets:  # as earlier versions noted a run: the one that it began with is asked
            note.write_text(json.dumps({key: value for key, value in known.items() if key not in ("start", KEY)}))
        said = r"training.start: .*tests anna, who was in the split 'train' at site 'a of run"
        with pytest.raises(InputError, match=said):
            run(workspace, leaking, "third", start, rounds=0)
        given = {**BASE, "name": "third", "sites": leaking, "training": {**TRAINING, "start": start}}
        from fedrecon.platform.runs.preview import preview

        with pytest.raises(InputError, match=said):
            preview(given, workspace=workspace, in_process=True)
        with pytest.raises(InputError, match="trial 0 .*" + said):  # before Ray starts, in a plan and in a call
            fedrecon.sweep(given, {"training.learning_rate": {"grid": [0.01]}}, workspace=workspace)
        study = {"name": "s", "experiment": given, "methods": {"fedavg": {}}, "test": {"sites": "trained"}}
        with pytest.raises(InputError, match="trial 0 .*" + said):
            fedrecon.study(study, workspace=workspace, dry_run=True)
        with pytest.raises(InputError, match="tests anna, who was in the split 'train' at site 'a"):
            fedrecon.evaluate(start, sites=leaking, workspace=workspace)
        same = "tests the volume 'zoe.*', and the split 'train' at site 'a.*same image: one scan under two names"
        with pytest.raises(InputError, match=r"training.start: .*" + same):
            run(workspace, renamed, "third", start, rounds=0)
        with pytest.raises(InputError, match=same):
            fedrecon.evaluate(start, sites=renamed, workspace=workspace)
    kept = shard(tmp_path, "d", 20, carl="test", ida="train", jan="validation")  # tested there too
    assert run(workspace, kept, "fourth", second.digest, rounds=0).status == "finished"


@pytest.mark.slow
def test_the_network_of_a_run_that_lost_a_site_begins_only_what_allows_it(consortium, workspace):
    sites = {name: str(consortium[name]) for name in ("north", "middle")}
    first = run(workspace, sites, "first")
    Attendance(RunFolder(workspace, first.digest).path / MISSED, list(sites)).note(1, {"north": DEAD})
    with pytest.raises(InputError, match=rf"training.start: run {first.digest} missed replies \(north: round 1"):
        run(workspace, sites, "second", first.digest)
    allowed = run(workspace, sites, "second", first.digest, resources={"min_sites": 1})
    assert allowed.missed == {"start": {"north": DEAD}}
    with pytest.warns(RuntimeWarning, match="north: round 1"):  # set aside, and run anew with all sites
        assert run(workspace, sites, "first").missed == {}
    with pytest.warns(RuntimeWarning, match="start"):
        again = run(workspace, sites, "second", first.digest)
    assert (again.digest, again.missed, again.trained_rounds) == (allowed.digest, {}, 1)
    with pytest.raises(InputError, match="set aside by a rerun"):
        run(workspace, sites, "third", f"{first.digest}.before-1")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["local", "fedper"])
def test_a_network_that_stayed_as_it_began_is_applied_as_it_began(strategy, consortium, workspace, tmp_path):
    sites = {name: str(consortium[name]) for name in ("north", "middle")}
    first = run(workspace, sites, "shared")
    asked = {"strategy": {"name": strategy}}
    began = run(workspace, sites, f"began-{strategy}", first.digest, rounds=0, **asked)
    for site, scores in first.sites.items():  # nothing was trained: it is the network of the first run
        assert began.sites[site]["psnr"] == pytest.approx(scores["psnr"], abs=1e-6)
    found = fedrecon.evaluate(began.digest, workspace=workspace)
    for row in found["rows"]:
        assert row["psnr"] == pytest.approx(began.sites[row["site"]]["psnr"], abs=1e-6)
    untrained = run(workspace, sites, f"random-{strategy}", rounds=0, **asked)
    assert untrained.sites["north"]["psnr"] != pytest.approx(began.sites["north"]["psnr"], abs=1e-3)


CODES = {"strategy": {"name": "feddiff"}, "network": DENOISER}
CODELESS = {"strategy": {"name": "feddiff", "without_site": 1}, "network": DENOISER}
POOLED = {"strategy": {"name": "pooled_feddiff"}, "network": DENOISER}


def begins(monkeypatch, given, sites, runs):
    """Checks that this experiment may begin with run ``r``; ``runs`` are noted as (experiment, sites, start)."""

    def found(workspace, name):
        source, own, start = runs[name]
        one = Experiment.read({"sites": "d", **source, "training": {"start": start}})
        images = asdict(Images(True, (32, 32), 1, own))
        return SimpleNamespace(digest=name, noted=lambda: {"experiment": one.as_dict(), "images": images})

    monkeypatch.setattr(warm_start, "find_run", found)
    monkeypatch.setattr(warm_start, "network_of", lambda folder: folder)
    monkeypatch.setattr(warm_start, "noted_start", lambda *_: {"hospitals": {}, "subjects": {}})
    chosen = Experiment.read({"sites": "d", **given, "training": {"start": "r"}})
    warm_start.check_start(chosen, {}, "", sites)


@pytest.mark.parametrize(
    ("network", "key"),
    [
        ({**UNET, "residual": False}, r"network.residual=True, and this experiment has False"),
        (
            {"name": "dual_domain", "channels": 2, "pools": 1},
            "the network 'unet', and this experiment has 'dual_domain'",
        ),
        ({**UNET, "channels": 3}, "network.channels=2"),
    ],
)
def test_a_network_of_other_settings_is_no_start(network, key, monkeypatch):
    runs = {"r": ({"network": UNET}, ("a", "b"), None)}
    begins(monkeypatch, {"network": {**UNET, "dropout": 0.3}}, ("a", "b"), runs)
    with pytest.raises(InputError, match=rf"^training.start: run r trained .*{key}"):
        begins(monkeypatch, {"network": network}, ("a", "b"), runs)
    runs = {"r": (CODES, ("a", "b"), None)}
    with pytest.raises(InputError, match=r"network.sigma_data=0.25, and this experiment has 4"):
        begins(monkeypatch, {**CODES, "network": {**DENOISER, "sigma_data": 4.0}}, ("a", "b"), runs)


@pytest.mark.parametrize(
    ("given", "sites", "runs", "owners"),
    [
        (CODES, ("a", "b"), {"r": (CODES, ("a", "b"), None)}, ""),
        (CODES, ("b", "c"), {"r": (CODES, ("a", "b"), None)}, "a, b"),
        (CODELESS, ("b", "c"), {"r": (CODES, ("a", "b"), None)}, ""),  # its codes take no part
        (CODES, ("b", "c"), {"r": (POOLED, ("a", "b"), None)}, ""),  # nobody's: zeros
        (CODES, ("b", "c"), {"r": (CODELESS, ("b", "c"), "q"), "q": (CODES, ("a", "b"), None)}, "a, b"),
        ({"network": UNET}, ("b", "c"), {"r": ({"network": UNET}, ("a",), None)}, ""),  # no codes at all
    ],
)
def test_a_code_of_one_site_is_not_given_to_another(given, sites, runs, owners, monkeypatch):
    if not owners:
        begins(monkeypatch, given, sites, runs)
        return
    with pytest.raises(InputError, match=rf"a code of each of its sites \({owners}\).*other sites \(b, c\)"):
        begins(monkeypatch, given, sites, runs)


def test_the_private_discriminator_of_a_source_is_the_reason_of_its_refusal(monkeypatch):
    one = Experiment.read({"sites": "d", "strategy": "fedgimp", "network": STYLE, "training": {"start": "r"}})
    source = SimpleNamespace(
        experiment=one, images=Images(True, (32, 32), 1, ("a",)), members=(), folder=SimpleNamespace(digest="r")
    )
    monkeypatch.setattr("fedrecon.platform.inference.trained_run.TrainedRun.load", lambda *_: source)
    with pytest.raises(InputError, match=r"run r: its sites keep parts .*\(discriminator\..* and \d+ others\)"):
        warm_start.start_values(one, "")
