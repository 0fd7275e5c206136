"""What ``reconstruct`` writes of a test volume has the scores that the run, or ``evaluate``, gives it."""

from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from tiny import DENOISER, UNET, make_volume

import fedrecon
from fedrecon.platform.inference.given_volume import check_volume
from fedrecon.platform.inference.reconstruct import Images
from fedrecon.platform.inference.tuned_by_run import use_tuned
from fedrecon.sites.classical.tv import TotalVariation
from fedrecon.sites.data.shard import write_shard
from fedrecon.sites.data.volume import central
from fedrecon.sites.errors import InputError

pytestmark = pytest.mark.usefixtures("few_drawn")
OPERATOR = {"mask": "random", "acceleration": 3, "center_fraction": 0.1}
TRAINING = {"rounds": 1, "batch_size": 2}
PRIOR = {"name": "feddiff", "splitting": {"steps": 2}}
CASES = {
    "noise": {"reconstructor": "zero_filled", "operator": {**OPERATOR, "noise": 3}},
    "tuned": {"reconstructor": {"name": "tv", "iterations": 5}, "operator": OPERATOR},
    "network": {"network": UNET, "training": TRAINING, "operator": {**OPERATOR, "noise": 2}},
    "prior": {"strategy": PRIOR, "network": DENOISER, "training": TRAINING, "operator": {**OPERATOR, "noise": 2}},
}


@pytest.fixture(scope="module")
def sites(consortium, tmp_path_factory):
    """A site with smooth phase, and one whose images have none."""
    path = tmp_path_factory.mktemp("plain") / "plain.h5"
    volumes = [
        make_volume(f"plain-{split}", split, 2, 2, 7 + k) for k, split in enumerate(("train", "validation", "test"))
    ]
    write_shard(path, "plain", volumes, simulated=True, phase="none")
    return {"north": str(consortium["north"]), "plain": str(path)}


def psnr_of(path, volume, stage="reconstruction"):
    """10 log10(max^2 / MSE) of a written volume."""
    with h5py.File(path) as file:
        group = file[volume]
        reference, image = (group[name][()].astype(np.float64) for name in ("reference", stage))
    return 10 * np.log10(reference.max() ** 2 / np.mean((reference - image) ** 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_image_is_the_one_that_was_scored(name, sites, workspace, tmp_path):
    given = {"name": name, "sites": sites, "evaluation": {"panels": False, "every": 1}, **CASES[name]}
    result = fedrecon.run(given, workspace=workspace, in_process=True)
    if name == "tuned":  # else the case shows nothing
        assert {one["weight"] for one in result.environment["tuned"].values()} != {TotalVariation().weight}
    for site, path in sites.items():
        written = fedrecon.reconstruct(name, path, tmp_path / "x.h5", workspace=workspace)
        assert written["site"] == site
        own = [one["name"] for one in written["volumes"] if one["split"] == "test subject"]
        for stage, scores in (
            ("reconstruction", result.sites[site]),
            ("zero_filled", result.sites[site]["zero_filled"]),
            ("data_consistency", result.sites[site]["with_data_consistency"]),
        ):
            found = np.mean([psnr_of(tmp_path / "x.h5", volume, stage) for volume in own])
            assert found == pytest.approx(scores["psnr"], abs=2e-4)
        with h5py.File(tmp_path / "x.h5") as file:
            times = CASES[name]["operator"].get("noise")
            assert file[own[0]].attrs["operator"] == f"random R=3{f' noise {times}' if times else ''}"


def test_whose_parameters_are_taken_is_said_where_sites_were_tuned_differently():
    used = []
    worker = SimpleNamespace(use_reconstructor=used.append)

    def trained(**tuned):
        parameters = {site: {"weight": weight, "iterations": 5} for site, weight in tuned.items()}
        folder = SimpleNamespace(result=lambda: {"environment": {"tuned": parameters}})
        return SimpleNamespace(folder=folder, experiment=SimpleNamespace(trains=False, reconstructor={"name": "tv"}))

    with pytest.raises(InputError, match=r"say which: a \(weight=0.1, iterations=5\), b \(weight=0.2, "):
        use_tuned(trained(a=0.1, b=0.2), worker, None, "say which")
    use_tuned(trained(a=0.1, b=0.2), worker, "b", "say which")
    use_tuned(trained(a=0.3, b=0.3), worker, None, "say which")
    use_tuned(trained(), worker, None, "say which")  # nothing was tuned
    assert [one.parameters["weight"] for one in used] == [0.2, 0.3]


@pytest.mark.slow
def test_more_noise_than_a_scan_of_unknown_noise_is_refused(sites, workspace, tmp_path):
    given = {"name": "louder", "sites": sites, "evaluation": {"panels": False}, **CASES["noise"]}
    fedrecon.run(given, workspace=workspace, in_process=True)
    kspace = make_volume("v", "test", 1, 1, 3).kspace[0, 0]
    np.save(tmp_path / "scan.npy", kspace)
    with pytest.raises(InputError, match=r"noise 3 is a multiple of the scan's own noise.*operator.noise=1"):
        fedrecon.reconstruct("louder", tmp_path / "scan.npy", tmp_path / "x.h5", site="north", workspace=workspace)
    quiet = ["operator.noise=1"]
    out = fedrecon.reconstruct(
        "louder", tmp_path / "scan.npy", tmp_path / "x.h5", quiet, site="north", workspace=workspace
    )
    assert (out["volumes"][0]["operator"], out["volumes"][0]["split"]) == ("random R=3", "subject unknown")


@pytest.mark.parametrize("centre", [1, 3, 5])
def test_a_scan_whose_centre_gives_no_good_coil_maps_says_so(capsys, centre):
    volume = make_volume(f"small {centre}", "test", 1, 2, 3, (16, 16))
    mask = np.zeros((16, 16), bool)
    mask[:, 8 - centre // 2 : 8 + centre // 2 + 1] = mask[:, 1] = True
    scan = replace(volume, kspace=volume.kspace * mask)
    if centre == 1:
        with pytest.raises(InputError, match=f"'small {centre}': coil maps come from .* 16 x 1 samples"):
            check_volume(None, None, scan, True, False)
        return
    check_volume(None, None, scan, True, False)
    assert ("need 5 a side" in capsys.readouterr().err) is (centre == 3)


def test_an_oversampled_scan_is_shown_and_compared_in_its_scored_part(tmp_path, monkeypatch):
    """A difference outside of the crop changes nothing in the picture."""
    from fedrecon.platform.inference import reconstruct

    volume = replace(make_volume("v", "test", 1, 1, 3), crop=(16, 12))
    other = volume.reference.copy()
    other[:, 0] += 1
    monkeypatch.setattr(reconstruct, "volume_picture", lambda stages, *rest: given.append((stages, *rest)) or b"")
    given = []
    images = Images(volume, {"output": other}, None, False, "", "", "", "", False)
    reconstruct._write_png(tmp_path / "x.png", [images], "d" * 16)
    ((shown, reference, *_),) = given
    assert shown["output"].shape == reference.shape == (1, 16, 12)
    assert np.array_equal(shown["output"], reference)
    assert np.array_equal(reference, central(volume.reference, (16, 12)))


def test_samples_that_a_scan_has_not_are_measured_by_no_mask():
    """8 x 8 of 16 x 16 were scanned, and every second column is measured: 2. Of pixels it would be 16 / 7."""
    volume = make_volume("v", "test", 1, 1, 3, (16, 16))
    kspace = np.zeros_like(volume.kspace)
    kspace[..., 4:12, 4:12] = volume.kspace[..., 4:12, 4:12]
    mask = np.zeros((1, 16, 16), bool)
    mask[..., ::2] = True
    mask[..., 0] = False  # outside of the scan: it changes nothing
    stages = {"output": np.ones((1, 16, 16), np.float32)}
    images = Images(replace(volume, kspace=kspace), stages, mask, False, "", "", "", "", False)
    assert images.factor == 2
    given = replace(images, volume=volume, prospective=True)
    assert given.factor == 13 / 7  # columns 2 to 14: what lies around them was padded, or left out
    sampled = mask.copy()
    sampled[..., :4, :] = sampled[..., 12:, :] = False
    sampled[..., 2] = sampled[..., 14] = False
    assert replace(given, mask=sampled).factor == 9 / 5  # rows 4 to 11, columns 4 to 12
    enlarged = replace(given, stages={"output": np.ones((1, 32, 32), np.float32)}, mask=mask | True, enlarged=True)
    assert enlarged.factor == 4
