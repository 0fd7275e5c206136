"""Super-resolution through the whole platform: experiments, runs, evaluations, images enlarged."""

import json
import shutil

import h5py
import nibabel
import numpy as np
import pytest
from tiny import DENOISER, MSCAN, UNET

import fedrecon
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.overrides import apply_overrides
from fedrecon.platform.consortium.checks import check_experiment
from fedrecon.platform.consortium.shards import open_sites
from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.inference.reconstruct import reconstruct
from fedrecon.platform.storage.parquet import read_scores
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.nifti import load_magnitude, save_enlarged

pytestmark = pytest.mark.usefixtures("no_pixels")


CONTENTS = {"a": "0123", "b": "4567"}
BASE = {"name": "x", "sites": "data", "task": "super-resolution"}


def read(*overrides, **changes):
    return Experiment.read({**BASE, **changes}, overrides)


def test_defaults_are_truncated_k_space_and_mscan():
    one = read()
    assert one.degradation == {"kind": "kspace-truncation", "scale": 2, "noise": 1.0}
    assert one.operator == {}
    assert one.network["name"] == "mscan"
    assert one.scale == 2
    assert one.operator_at("a").label() == "kspace-truncation x2"
    assert Experiment.read(one.as_dict()) == one
    assert Experiment.read(json.loads(json.dumps(one.as_dict()))).digest(CONTENTS) == one.digest(CONTENTS)
    assert Experiment.read({"sites": "data"}).degradation == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["operator.mask=random"], "belongs to task: reconstruction.*described by 'degradation'"),
        (["task=reconstruction", "degradation.scale=2"], "belongs to task: super-resolution.*'operator'"),
        (["degradation.kind=bicubc"], "Did you mean 'bicubic'"),
        (["degradation.scal=2"], "Did you mean 'scale'"),
        (["degradation.scale=5"], "scale"),
        (["degradation.scale={choice: [2, 3]}"], "one value is needed.*one size.*one scale"),
        (["degradation.kind={choice: [bicubic]}"], "one value is needed.*nothing in degradation"),
        (["degradation.deviation=1"], "unknown key in degradation.*'deviation'"),
        (["degradation.noise=0.5"], "at least 1"),
        (["degradation.per_site={a: {kind: bicubik}}"], "Did you mean 'bicubic'"),
        (["degradation.per_site={a: {scale: 4}}"], "'mscan' is built for one scale, and the sites have 2, 4"),
        (["network.name=style"], "network.name=mscan"),
        (["task=reconstruction", "network.name=mscan"], "network.name=unet"),
        (["network.name=dual_domain", "degradation.kind=bicubic"], "kspace-truncation"),
        (["reconstructor=low_rank", "degradation.kind=bicubic"], "'low_rank'.*kspace-truncation"),
        (["reconstructor=grappa", "degradation.per_site={a: {kind: blur-downsample}}"], "'grappa'.*kspace-truncation"),
        (["strategy.name=fedgimp", "network.name=mscan"], "trains a prior network"),
        (["training.patch=15"], "a multiple of the scale 2 is needed, such as 16"),
        (["training.patch=16", "network.name=unet"], "patch.*super-resolution"),
        (["task=reconstruction", "training.patch=16"], "patch.*super-resolution"),
        (["evaluation.self_ensemble=true", "network.name=unet"], "self_ensemble"),
        (["task=reconstruction", "reconstructor=bicubic"], "needs task=super-resolution"),
        (["training.loss={l1: 1, gradient_profil: 1}"], "Did you mean 'gradient_profile'"),
        (["training.loss={l1: -1}"], "loss.l1.*at least 0"),
        (["training.loss={l1: 0}"], "needs a weight above 0"),
        (["training.loss={gradient_profile: 1}"], "one of l1, mse, complex_l1, ssdu needs a weight above 0"),
        (["training.loss.gradient_profile=0.1"], "one of l1, mse, complex_l1, ssdu needs a weight above 0"),
        (["degradation.scale=5", "training.patch=16"], "degradation"),
        (["reconstructor=bicubic", "evaluation.self_ensemble=true"], "self_ensemble"),
        (["network={name: srcnn, kernel: 2}"], "kernel"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        read(*overrides)


def test_what_makes_sense_is_not():
    read("network.name=mscan", "network.scales=1")
    read("network.name=unet", "degradation.per_site={a: {scale: 4}}")
    read("network.name=dual_domain")
    read("strategy.name=fedgimp")
    read("reconstructor=bicubic")
    read("reconstructor=low_rank")
    read("reconstructor=cg_sense", "degradation.kind=bicubic")
    read("training.patch=16", "evaluation.self_ensemble=true")


def test_one_loss_of_weight_one_is_that_loss():
    assert read("training.loss={l1: 1}").digest(CONTENTS) == read("training.loss=l1").digest(CONTENTS)


def test_a_patch_larger_than_the_slices_is_refused(consortium):
    sites = {site: str(path) for site, path in consortium.items()}
    one = read("training.patch=64", sites=sites)
    with pytest.raises(InputError, match=r"training\.patch 64 is more than the 32 pixels"):
        check_experiment(one, open_sites(sites))


def test_another_kind_keeps_what_every_kind_has():
    raw = {**BASE, "degradation": {"kind": "blur-downsample", "scale": 3, "deviation": 0.7, "noise": 2}}
    raw["degradation"]["per_site"] = {"a": {"noise": 3}}
    changed = apply_overrides(raw, ["degradation.kind=bicubic", "degradation.scale=4"])["degradation"]
    assert changed["per_site"]["a"] == {"kind": "bicubic", "scale": 4, "noise": 3}
    assert {key: changed[key] for key in ("kind", "scale", "noise")} == {"kind": "bicubic", "scale": 4, "noise": 2}


@pytest.mark.parametrize(
    ("override", "trains_alike"),
    [
        ("degradation.kind=bicubic", False),
        ("degradation.scale=4", False),
        ("degradation.noise=2", False),
        ("training.patch=16", False),
        ("training.loss={l1: 1, gradient_profile: 0.1}", False),
        ("network={name: mscan, scales: 2}", False),
        ("evaluation.self_ensemble=true", True),
    ],
)
def test_digests(override, trains_alike):
    one, other = read(), read(override)
    assert one.digest(CONTENTS) != other.digest(CONTENTS)
    assert (one.training_digest(CONTENTS) == other.training_digest(CONTENTS)) == trains_alike


def test_one_prior_serves_both_tasks():
    prior, masks = read("strategy.name=fedgimp"), {"task": "reconstruction", "strategy": {"name": "fedgimp"}}
    assert prior.training_digest(CONTENTS) == Experiment.read({**BASE, **masks}).training_digest(CONTENTS)


@pytest.fixture(scope="module")
def trained(consortium, workspace):
    """A federated MSCAN, its self-ensemble and the bicubic baseline; a U-Net and low rank where one site will do."""
    base = {
        **BASE,
        "sites": {site: str(path) for site, path in consortium.items()},
        "training": {"rounds": 2, "batch_size": 2, "learning_rate": 0.01, "loss": {"l1": 1, "gradient_profile": 0.01}},
        "evaluation": {"every": 2, "panels": False},
        "network": MSCAN,
    }
    alone = {**base, "sites": {"north": base["sites"]["north"]}}
    made = {
        "mscan": {**base, "evaluation": {"every": 2, "panels": True}},
        "unet": {**alone, "network": UNET},
        "bicubic": {**base, "reconstructor": "bicubic"},
        "low_rank": {**alone, "reconstructor": "low_rank"},
        "ensemble": {**base, "evaluation": {"every": 2, "panels": False, "self_ensemble": True}},
    }
    return {name: fedrecon.run(one, workspace=workspace, in_process=True) for name, one in made.items()}


@pytest.mark.slow
def test_a_run_scores_against_zero_padding(trained, workspace):
    """Rows name the degradation; ``zero_filled`` is zero-padded k-space, the same for every method."""
    mscan, bicubic = trained["mscan"], trained["bicubic"]
    assert mscan.rounds == 2
    for site, one in mscan.sites.items():
        assert one["zero_filled"] == bicubic.sites[site]["zero_filled"]
        assert one["psnr"] != one["zero_filled"]["psnr"]
    store = run_store(None, workspace)
    scores = read_scores(store.local_artifact(mscan.run_id, "scores.parquet"))
    assert set(scores["mask"]) == {"kspace-truncation"}
    assert set(scores["acceleration"]) == set(scores["measured_acceleration"]) == {4.0}
    assert "zero-padded k-space" in store.local_artifact(mscan.run_id, "report.md").read_text()
    report = store.local_artifact(mscan.run_id, "report.md").read_text()
    assert "10.1007/s00530-024-01415-8" in report


@pytest.mark.slow
def test_the_terms_of_the_loss_are_recorded(trained, workspace):
    from fedrecon.platform.storage.parquet import read_rounds

    last = read_rounds(run_store(None, workspace).local_artifact(trained["mscan"].run_id, "rounds.parquet"))[-1]
    for losses in last["losses"].values():
        assert losses["loss"] == pytest.approx(losses["l1"] + losses["gradient_profile"], rel=1e-5)


@pytest.mark.slow
def test_the_self_ensemble_takes_the_training_of_the_other_and_scores_otherwise(trained):
    assert trained["ensemble"].trained_rounds == 0
    one, other = trained["mscan"].sites["north"], trained["ensemble"].sites["north"]
    assert one["psnr"] != other["psnr"]
    assert one["zero_filled"] == other["zero_filled"]


@pytest.mark.slow
def test_evaluate_under_other_degradations(trained, workspace):
    rows = evaluate(trained["mscan"].digest, workspace=workspace)["rows"]
    for row in rows:
        assert row["psnr"] == pytest.approx(trained["mscan"].sites[row["site"]]["psnr"], abs=1e-9)
    other = evaluate(trained["mscan"].digest, degradation="bicubic", workspace=workspace)["rows"]
    assert {(row["mask"], row["acceleration"]) for row in other} == {("bicubic", 4.0)}
    scales = evaluate(trained["unet"].digest, scales=(2, 4), workspace=workspace)["rows"]
    assert {row["acceleration"] for row in scales} == {4.0, 16.0}
    easy, hard = ([r["zero_filled"]["psnr"] for r in scales if r["acceleration"] == rate] for rate in (4.0, 16.0))
    assert all(a > b for a, b in zip(easy, hard, strict=True))


@pytest.mark.slow
def test_what_works_in_kspace_is_evaluated_where_there_is_some(trained, workspace):
    assert evaluate(trained["low_rank"].digest, scales=(4,), workspace=workspace)["rows"]
    with pytest.raises(InputError, match=r"'low_rank'.*'bicubic'"):
        evaluate(trained["low_rank"].digest, degradation="bicubic", workspace=workspace)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (4,)}, "'mscan' of this run was built for scale 2"),
        ({"accelerations": (4,)}, "--degradation and --scale, not --mask"),
        ({"mask": "random"}, "--degradation and --scale, not --mask"),
        ({"degradation": "bicubik"}, "Did you mean 'bicubic'"),
        ({"scales": (9,)}, "built for scale 2"),
    ],
)
def test_evaluate_refuses_what_is_not_of_this_task(trained, workspace, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(trained["mscan"].digest, workspace=workspace, **options)


@pytest.mark.slow
def test_reconstruct_a_shard_with_references_degrades_it_first(trained, consortium, workspace, tmp_path):
    out = tmp_path / "images.h5"
    done = reconstruct(trained["mscan"].digest, consortium["south"], out, workspace=workspace)
    assert all("simulated by the run's degradation" in one["sampling"] for one in done["volumes"])
    with h5py.File(out) as file:
        group = file["south-test"]
        assert group["reconstruction"].shape == (2, 32, 32)
        error = np.sum((group["reconstruction"][()] - group["reference"][()]) ** 2, dtype=float)
        nmse = error / np.sum(group["reference"][()] ** 2, dtype=float)
    assert nmse == pytest.approx(trained["mscan"].sites["south"]["nmse"], rel=1e-3)


@pytest.mark.slow
def test_k_space_of_low_resolution_is_enlarged_as_it_is(trained, workspace, consortium, tmp_path):
    kspace = np.array(Shard.open(consortium["north"]).kspace("north-test"))
    np.save(tmp_path / "scan.npy", kspace)
    scan = (trained["bicubic"].digest, tmp_path / "scan.npy")
    done = reconstruct(*scan, tmp_path / "x.h5", as_is=True, workspace=workspace)
    simulated = reconstruct(*scan, tmp_path / "simulated.h5", workspace=workspace)
    assert "simulated by the run's degradation" in simulated["volumes"][0]["sampling"]
    (volume,) = done["volumes"]
    assert volume["sampling"] == "enlarged by 2 as it is"
    assert volume["measured_acceleration"] == 4
    with h5py.File(tmp_path / "x.h5") as file:
        image = next(iter(file.values()))["reconstruction"][()]
    reference = Shard.open(consortium["north"]).reference("north-test")
    assert image.shape == (2, 64, 64)
    blocks = image.reshape(2, 32, 2, 32, 2).mean(axis=(2, 4))
    off = np.abs(blocks - np.roll(reference, 1, axis=-1)).mean()
    assert np.abs(blocks - reference).mean() < min(0.02 * reference.max(), 0.4 * off)
    half = kspace.copy()
    half[..., ::2] = 0
    np.save(tmp_path / "half.npy", half)
    with pytest.raises(InputError, match="samples are missing"):
        reconstruct(scan[0], tmp_path / "half.npy", tmp_path / "y.h5", workspace=workspace)


@pytest.mark.slow
def test_an_empty_slice_is_enlarged_to_an_empty_slice(trained, workspace, tmp_path):
    source = volume(tmp_path / "scan.nii")
    image = nibabel.load(source)
    values = np.asarray(image.dataobj).copy()
    values[..., 1] = 0
    nibabel.save(nibabel.Nifti1Image(values, image.affine), source)
    reconstruct(trained["bicubic"].digest, source, tmp_path / "x.nii", workspace=workspace)
    made = np.asarray(nibabel.load(tmp_path / "x.nii").dataobj)
    assert made[..., 1].max() == 0
    assert made[..., 0].max() > 0


@pytest.mark.slow
def test_the_spread_of_an_enlarged_volume_lies_beside_it_in_the_same_space(consortium, mlflow_template, tmp_path):
    shutil.copy(mlflow_template / "mlflow.db", tmp_path / "mlflow.db")
    given = {
        "task": "super-resolution",
        "sites": {"north": str(consortium["north"])},
        "degradation": {"scale": 2},
        "strategy": {"name": "feddiff", "splitting": {"steps": 2}, "uncertainty": {"samples": 2, "steps": 2}},
        "network": DENOISER,
        "training": {"rounds": 1, "batch_size": 2},
        "evaluation": {"max_slices": 1},
    }
    result = fedrecon.run(given, workspace=tmp_path, in_process=True)
    source = volume(tmp_path / "scan.nii.gz")
    done = reconstruct(result.digest, source, tmp_path / "x.NII.gz", workspace=tmp_path)
    image, spread = (nibabel.load(tmp_path / f"x{end}.NII.gz") for end in ("", "-uncertainty"))
    assert image.shape == spread.shape == (40, 32, 3)
    assert np.array_equal(image.affine, spread.affine)
    assert np.asarray(spread.dataobj).min() >= 0 < np.asarray(spread.dataobj).max()
    assert done["uncertainty"]["temperature"] == result.uncertainty["temperature"]
    kept = source.rename(tmp_path / "y-uncertainty.nii.gz")
    with pytest.raises(InputError, match="never onto a source"):
        reconstruct(result.digest, kept, tmp_path / "y.nii.gz", workspace=tmp_path)


def volume(path, axes="LPS", shape=(20, 16, 3), zooms=(1.0, 1.5, 5.0)):
    """A smooth blob beside the middle, in voxel axes that point as ``axes`` says."""
    codes = nibabel.orientations.axcodes2ornt(axes)
    affine = nibabel.orientations.inv_ornt_aff(codes, shape)
    affine[:3, :3] = affine[:3, :3] * np.array(zooms)
    x, y, z = (np.arange(n) for n in shape)
    blob = np.exp(-(((x[:, None, None] - 12) / 4) ** 2) - ((y[None, :, None] - 6) / 3) ** 2) * (1 + z)
    nibabel.save(nibabel.Nifti1Image((100 * blob).astype(np.float32), affine), path)
    return path


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIL"])
@pytest.mark.parametrize("scale", [2, 3])
def test_enlarged_volumes_lie_where_the_small_ones_lay(axes, scale, tmp_path):
    """Each slice's voxels repeated: the centre of mass in millimetres, the extent and the voxel size say so."""
    source, out = volume(tmp_path / "small.nii.gz", axes), tmp_path / "large.nii.gz"
    images, _ = load_magnitude(source)
    save_enlarged(out, source, np.repeat(np.repeat(images, scale, 1), scale, 2), scale)
    small, large = nibabel.load(source), nibabel.load(out)

    def centre(image):
        values = np.asarray(image.dataobj, dtype=float)
        places = np.stack(np.meshgrid(*(np.arange(n) for n in values.shape), indexing="ij"), -1)
        mean = (places * values[..., None]).sum((0, 1, 2)) / values.sum()
        return nibabel.affines.apply_affine(image.affine, mean)

    np.testing.assert_allclose(centre(large), centre(small), atol=1e-4)
    assert np.prod(large.shape) == scale**2 * np.prod(small.shape)
    assert large.header.get_xyzt_units() == small.header.get_xyzt_units()
    assert int(large.header["sform_code"]) == int(small.header["sform_code"])
    assert sorted(np.round(large.header.get_zooms(), 4)) == pytest.approx([1 / scale, 1.5 / scale, 5], abs=1e-3)


@pytest.mark.slow
def test_a_nifti_volume_is_enlarged_in_its_space(trained, workspace, tmp_path):
    source, out = volume(tmp_path / "scan.nii"), tmp_path / "scan-x2.nii.gz"
    done = reconstruct(trained["bicubic"].digest, source, out, workspace=workspace)
    assert done["volumes"][0]["sampling"] == "enlarged by 2 as it is"
    images, voxel_mm = load_magnitude(out)
    small, _ = load_magnitude(source)
    assert images.shape == (3, 32, 40)
    assert voxel_mm == (5.0, 0.75, 0.5)
    blocks = images.reshape(3, 16, 2, 20, 2).mean(axis=(2, 4))
    assert np.abs(blocks - small).max() < 0.05 * small.max()
    reconstruct(trained["mscan"].digest, source, tmp_path / "scan.h5", workspace=workspace)
    reconstruct(trained["mscan"].digest, source, tmp_path / "scan.png", workspace=workspace)


@pytest.mark.slow
def test_what_nifti_cannot_be(trained, workspace, consortium, tmp_path):
    with pytest.raises(InputError, match="only a NIfTI volume can be written as NIfTI"):
        reconstruct(trained["mscan"].digest, consortium["north"], tmp_path / "x.nii", workspace=workspace)
    with pytest.raises(InputError, match="no such file"):
        reconstruct(trained["mscan"].digest, tmp_path / "none.nii", tmp_path / "x.nii", workspace=workspace)
