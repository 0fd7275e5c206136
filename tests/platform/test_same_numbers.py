"""One number, one meaning: what two commands say of the same data and network is the same, or one of them refuses."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny import UNET, make_volume, smooth_images

import fedrecon
from fedrecon.platform.federation.attendance import MISSED, Attendance
from fedrecon.platform.runs.preview import preview
from fedrecon.platform.storage.parquet import read_scores
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.data.shard import write_shard
from fedrecon.sites.data.volume import VolumeData
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.magnitude import smooth_phase
from fedrecon.sites.imaging.numpy_fourier import fft2c_numpy

pytestmark = pytest.mark.usefixtures("no_pixels")


BASE = {"operator": {"mask": "random", "acceleration": 3}, "evaluation": {"panels": False, "every": 1}}
TV = {"name": "tv", "iterations": 10, "dual_iterations": 2}


def shard(path, site, seed, splits=("train", "validation", "test"), n=2):
    volumes = [make_volume(f"{site}-{one}", one, n, 1, seed + k) for k, one in enumerate(splits)]
    write_shard(path, site, volumes, simulated=True, phase="smooth", origin="phantom")
    return str(path)


def psnr(path, volume):
    """PSNR of a reconstructed file, in dB."""
    with h5py.File(path) as file:
        reference, made = (file[volume][key][()].astype(float) for key in ("reference", "reconstruction"))
    return 10 * np.log10(reference.max() ** 2 / ((reference - made) ** 2).mean())


@pytest.mark.slow
def test_a_classical_method_keeps_the_parameters_of_the_run_where_it_cannot_be_tuned(workspace, tmp_path, capsys):
    own = shard(tmp_path / "own.h5", "own", 1)
    new = shard(tmp_path / "new.h5", "new", 30, ("test",))
    run = fedrecon.run(
        {**BASE, "name": "tuned", "sites": {"own": own}, "reconstructor": TV}, workspace=workspace, in_process=True
    )
    weight = run.environment["tuned"]["own"]["weight"]
    (row,) = fedrecon.evaluate("tuned", sites={"new": new}, workspace=workspace)["rows"]
    said = capsys.readouterr().err
    assert "note: site 'new' has no validation subjects: 'tv' keeps the parameters of the run (" in said
    assert f"weight={weight}" in said
    fedrecon.evaluate("tuned", workspace=workspace)
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "tuned on its validation subjects" in line]
    assert told.startswith("site 'own': 'tv' takes ")
    assert f"weight={weight}" in told
    fedrecon.reconstruct("tuned", new, tmp_path / "new-tv.h5", workspace=workspace)
    assert row["psnr"] == pytest.approx(psnr(tmp_path / "new-tv.h5", "new-test"), abs=2e-4)
    result = RunFolder(workspace, run.digest)
    other = {**result.result(), "environment": {"tuned": {"own": {"weight": 0.1}, "b": {"weight": 0.2}}}}
    result.save_result(other)
    with pytest.raises(InputError, match=r"site 'new' has no validation subjects to tune it on.*own \(weight=0.1\)"):
        fedrecon.evaluate("tuned", sites={"new": new}, workspace=workspace)


def with_phase(path, site, seed, phase):
    """A shard of heads without phase (``none``), or with one (``measured``)."""
    volumes = []
    for k, split in enumerate(("train", "validation", "test")):
        name = f"{site}-{split}"
        image = np.abs(smooth_images(3, np.random.default_rng(seed + k))).astype(np.complex64)
        turned = image if phase == "none" else image * smooth_phase(image.shape, 0, name)
        kspace = fft2c_numpy(turned)[:, None].astype(np.complex64)
        volumes.append(VolumeData(name, name, split, kspace, np.abs(image).astype(np.float32), 1e-3))
    write_shard(path, site, volumes, simulated=True, phase=phase, origin="phantom")
    return str(path)


@pytest.mark.slow
def test_a_network_of_images_without_phase_reconstructs_a_scan_as_it_is_scored(workspace, tmp_path):
    """The scan has a phase, which is estimated in both; without that its PSNR would be 6 dB lower."""
    own, scan = with_phase(tmp_path / "a.h5", "a", 1, "none"), with_phase(tmp_path / "scan.h5", "scan", 40, "measured")
    given = {"operator": {**BASE["operator"], "center_fraction": 0.12}, "evaluation": {"panels": False}}
    network = {"name": "unrolled", "cascades": 2, "channels": 2, "pools": 1}
    given |= {"name": "plain", "sites": {"a": own}, "network": network, "training": {"rounds": 1, "batch_size": 2}}
    fedrecon.run(given, workspace=workspace, in_process=True)
    (row,) = fedrecon.evaluate("plain", sites={"scan": scan}, workspace=workspace)["rows"]
    for site, path, expected in (("scan", scan, row["psnr"]), ("a", own, None)):
        out = tmp_path / f"{site}-out.h5"
        fedrecon.reconstruct("plain", path, out, workspace=workspace)
        if expected is None:
            (own_row,) = fedrecon.evaluate("plain", workspace=workspace)["rows"]
            expected = own_row["psnr"]
        assert psnr(out, f"{site}-test") == pytest.approx(expected, abs=2e-4)


@pytest.mark.slow
def test_data_written_anew_at_the_path_of_a_run_are_not_the_data_of_the_run(workspace, tmp_path):
    own = shard(tmp_path / "a.h5", "a", 1)
    run = fedrecon.run(
        {**BASE, "name": "zf", "sites": {"a": own}, "reconstructor": "zero_filled"},
        workspace=workspace,
        in_process=True,
    )
    (row,) = fedrecon.evaluate("zf", workspace=workspace)["rows"]
    assert row["psnr"] == pytest.approx(run.sites["a"]["psnr"], abs=1e-9)
    Path(shard(tmp_path / "other.h5", "a", 70)).replace(own)
    with pytest.raises(InputError, match=f"site 'a': {own} is not the shard of run {run.digest} .*--sites"):
        fedrecon.evaluate("zf", workspace=workspace)
    (other,) = fedrecon.evaluate("zf", sites={"a": own}, workspace=workspace)["rows"]
    assert abs(other["psnr"] - row["psnr"]) > 0.01


@pytest.mark.slow
def test_the_sites_of_a_folder_that_changed_are_not_the_sites_of_the_run(workspace, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number, name in enumerate("ab"):
        shard(folder / f"{name}.h5", name, 10 * number)
    run = {**BASE, "name": "folder", "sites": str(folder), "reconstructor": "zero_filled"}
    fedrecon.run(run, workspace=workspace, in_process=True)
    whole = fedrecon.evaluate("folder", workspace=workspace)["means"]
    shard(folder / "c.h5", "c", 70)
    with pytest.raises(InputError, match=r"c is new.*--sites"):
        fedrecon.evaluate("folder", workspace=workspace)
    (folder / "c.h5").unlink()
    assert fedrecon.evaluate("folder", workspace=workspace)["means"] == whole
    (folder / "b.h5").unlink()
    with pytest.raises(InputError, match=r"b is gone.*--sites"):
        fedrecon.evaluate("folder", workspace=workspace)


@pytest.mark.slow
def test_one_shard_under_two_names_is_warned_of_by_a_run_as_by_its_plan(workspace, tmp_path, capsys):
    own = shard(tmp_path / "a.h5", "a", 1)
    twice = {**BASE, "name": "twice", "sites": {"a": own, "b": own}, "reconstructor": "zero_filled"}
    for call in (preview, fedrecon.run):
        call(twice, workspace=workspace, in_process=True)
        assert capsys.readouterr().err.count("the sites 'a' and 'b' are one shard") == 1


@pytest.mark.slow
def test_a_plan_counts_the_slices_that_are_used(workspace, consortium):
    sites = {name: str(path) for name, path in consortium.items()}
    given = {"name": "few", "sites": sites, "network": UNET, "operator": BASE["operator"]}
    given |= {"evaluation": {"panels": False, "max_slices": {"validation": 1, "test": 2}}}
    given |= {"training": {"rounds": 2, "batch_size": 1, "max_slices": 1}}
    given |= {"resources": {"min_sites": 2, "straggler": "skip"}}
    seen = preview(given, workspace=workspace, in_process=True)
    assert set(map(tuple, (one.items() for one in seen["slices"].values()))) == {
        (("train", 1), ("validation", 1), ("test", 2))
    }
    folder = RunFolder(workspace, seen["digest"])
    folder.path.mkdir(parents=True)
    note = Attendance(folder.path / MISSED, list(sites))  # as a run notes it whose site was late in its first round
    note.note(1, {"north": "late"})
    run = fedrecon.run(given, workspace=workspace, in_process=True)
    assert run.environment["budget"] == {
        site: f"{1 if site == 'north' else 2} updates, {1 if site == 'north' else 2} passes" for site in sites
    }
    (planned, *_) = fedrecon.evaluate(run.digest, workspace=workspace, dry_run=True)["rows"]
    (scored, *_) = fedrecon.evaluate(run.digest, workspace=workspace)["rows"]
    assert [planned[key] for key in ("site", "n_slices", "n_volumes")] == [
        scored[key] for key in ("site", "n_slices", "n_volumes")
    ]
    assert planned["n_slices"] == 2


@pytest.mark.slow
def test_evaluations_with_other_consents_have_tables_of_their_own(workspace, consortium, tmp_path):
    sites = {name: str(path) for name, path in consortium.items()}
    given = {**BASE, "name": "per", "sites": sites, "network": UNET, "strategy": "fedper"}
    given |= {"training": {"rounds": 1, "batch_size": 2, "learning_rate": 0.05}}
    fedrecon.run(given, workspace=workspace, in_process=True)
    new = shard(tmp_path / "new.h5", "new", 50, ("validation", "test"))
    found = {
        one: fedrecon.evaluate("per", sites={"new": new}, unseen="nearest", published=[one], workspace=workspace)
        for one in ("north", "south")
    }
    for one, table in found.items():
        assert set(read_scores(table["scores"])["model"]) == {f"nearest: {one}"}


@pytest.mark.slow
def test_a_training_that_is_taken_over_has_the_rounds_that_were_trained(workspace, consortium):
    sites = {name: str(consortium[name]) for name in ("north", "middle")}
    for rate in (0.3, 1.0, 3.0):  # too high: the first round is the best
        training = {"rounds": 3, "batch_size": 2, "learning_rate": rate, "keep": "best"}
        given = {**BASE, "name": f"best-{rate}", "sites": sites, "network": UNET, "training": training}
        first = fedrecon.run(given, workspace=workspace, in_process=True)
        if first.kept_round < 3:
            break
    assert (first.rounds, first.trained_rounds) == (3, 3)
    assert first.kept_round < 3
    evaluation = {**BASE["evaluation"], "panels": True}
    taken = fedrecon.run({**given, "evaluation": evaluation}, workspace=workspace, in_process=True)
    tested = fedrecon.run({**given, "test": {"operator": BASE["operator"]}}, workspace=workspace, in_process=True)
    for one in (taken, tested):
        assert (one.rounds, one.trained_rounds, one.resumed_from, one.kept_round) == (3, 0, 3, first.kept_round)
        assert one.mean["psnr"] == pytest.approx(first.mean["psnr"], abs=1e-9)
    assert taken.validation["mean/loss"] == first.validation["mean/loss"]  # of the kept round, not of the last one
    assert taken.environment["budget"] == first.environment["budget"]
    rows = fedrecon.evaluate(taken.digest, workspace=workspace)["means"]
    assert rows[0]["psnr"] == pytest.approx(first.mean["psnr"], abs=1e-9)
