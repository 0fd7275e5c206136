"""The noise level of a shard: known, given, estimated within 15 % of the truth, or unknown."""

from dataclasses import replace
from functools import cache

import h5py
import ismrmrd
import nibabel
import numpy as np
import pytest
from small_files import write_any, write_mrd
from small_volumes import centred_fft, make_volume

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.checks import check_experiment, check_masks
from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats import FORMATS, Label
from fedrecon.sites.formats.importing import import_data
from fedrecon.sites.formats.one_file import read_input
from fedrecon.sites.formats.record import FileRecord
from fedrecon.sites.imaging.noise import estimate_noise
from fedrecon.sites.phantom import PROTOCOLS
from fedrecon.sites.phantom.scanner import crop, scan
from fedrecon.sites.seeding import generator


@cache
def scanned(contrast):
    return scan(generator(0, "phantom", contrast, 1), PROTOCOLS[contrast], 64, 4)


CONTRASTS = [c if c in ("t1w", "flair") else pytest.param(c, marks=pytest.mark.slow) for c in PROTOCOLS]


@pytest.mark.slow
@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("size", [32, 48, 64])
def test_the_estimate_is_the_known_sigma_or_none(contrast, coils, size):
    """A cropped k-space has the samples of a smaller matrix, with the same noise. It was up to 3.7 times too high."""
    one = scanned(contrast)
    found = estimate_noise(crop(one.kspace[:, :coils], size))
    if found is None:
        assert size < 64 or (contrast, coils) == ("t1w", 1), "64 pixels hold enough air for an answer"
    else:
        assert found == pytest.approx(one.noise, rel=0.15)


def test_white_noise_and_a_smooth_object_by_hand():
    rng = np.random.default_rng(0)
    noise = 0.5 * rng.normal(size=(4, 2, 64, 64, 2)).view(np.complex128)[..., 0]
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    image = np.broadcast_to(100 * np.exp(-8 * (x**2 + y**2)), (4, 2, 64, 64))
    for kspace in (noise, centred_fft(image) + noise):
        assert estimate_noise(kspace.astype(np.complex64)) == pytest.approx(0.5, rel=0.05)
    padded = np.pad(centred_fft(image) + noise, ((0, 0), (0, 0), (8, 8), (0, 16)))  # zeros were never measured
    assert estimate_noise(padded.astype(np.complex64)) == pytest.approx(0.5, rel=0.05)


def test_it_says_that_it_cannot_tell():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    noise = 0.01 * rng.normal(size=(2, 1, 64, 64, 2)).view(np.complex128)[..., 0]
    full = 1 + 0.3 * np.sin(9 * x + 5 * y**2)  # anatomy up to the edges: no air
    masked = np.hypot(x, y) < 0.5  # air was set to zero
    rician = np.abs(masked + 10 * noise) * np.exp(2j * x)
    undersampled = np.where(rng.random(64) < 0.5, 1, 0) * centred_fft(masked + noise)
    few = noise[:1, :, :32, :32]
    for kspace in (centred_fft(full + noise), centred_fft(masked + 0 * noise), centred_fft(rician), undersampled, few):
        assert estimate_noise(kspace.astype(np.complex64)) is None
    assert estimate_noise(np.zeros((1, 1, 64, 64), np.complex64)) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_given_sigma_is_kept_by_every_format_and_an_unknown_one_is_none(name, tmp_path):
    (tmp_path / "in").mkdir()
    for stem in ("a_1", "b_1", "c_1"):
        write_any(name, tmp_path / "in", stem)
    shard = Shard.open(import_data(name, tmp_path / "in", "north", tmp_path, noise_sigma=0.125))
    assert {volume.noise for volume in shard.volumes} == {0.125}
    assert (shard.attributes["noise_from"], shard.summary()["noise"]) == ("given", 0.125)
    shard.verify()
    other = Shard.open(import_data(name, tmp_path / "in", "south", tmp_path))
    assert {volume.noise for volume in other.volumes} == {None}  # 24 x 20 pixels, and a masked NIfTI volume
    assert (other.attributes["noise_from"], other.summary()["noise"]) == ("estimate", None)
    assert other.data(other.volumes[0].name).noise is None
    other.verify()
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="noise_sigma"):
            import_data(name, tmp_path / "in", "east", tmp_path, noise_sigma=wrong)


def read(name, path, **options):
    record = FileRecord()
    found = FORMATS[name](**options).load(path, Label("v", "s", "train"), record)
    return found.noise, {note.kind for note in record.notes}


def test_a_given_sigma_is_scaled_as_the_import_scales_the_samples(tmp_path):
    """Of a matrix of 40 x 20 (view 40 x 40 mm) 16 x 16 samples make an image of the same intensity: 16 / sqrt(800)."""
    values = np.random.default_rng(0).normal(1000, 8, (20, 40, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 1.0, 5.0, 1.0])), tmp_path / "a.nii")
    assert read("nifti", tmp_path / "a.nii", noise_sigma=8.0)[0] == 8.0
    assert read("nifti", tmp_path / "a.nii", noise_sigma=8.0, size=16)[0] == pytest.approx(8 * 16 / np.sqrt(800))
    reference = (
        FORMATS["nifti"](size=16, slices="all")
        .load(tmp_path / "a.nii", Label("v", "s", "train"), FileRecord())
        .reference
    )
    assert reference.std() == pytest.approx(8 * 16 / np.sqrt(800), rel=0.1)


@pytest.mark.parametrize(
    ("averages", "samples", "depth", "expected"),
    [(1, 32, 1, 3.0), (4, 32, 1, 1.5), (1, 24, 1, 3.0), (1, 24, 4, 3 * 0.75**0.5), (4, 24, 4, 1.5 * 0.75**0.5)],
)
def test_a_given_sigma_of_lines_is_that_of_their_mean_and_of_decoupled_slices(
    averages, samples, depth, expected, tmp_path
):
    rng = np.random.default_rng(0)
    lines = [
        (
            rng.normal(scale=3, size=(2, samples, 2)) @ (1, 1j),
            {"kspace_encode_step_1": y, "kspace_encode_step_2": z, "average": n, "center_sample": samples - 16},
        )
        for y in range(24)
        for z in range(depth)
        for n in range(averages)
    ]
    path = write_mrd(tmp_path / "a.h5", lines, (32, 24, depth))
    found = FORMATS["ismrmrd"](noise_sigma=3.0).load(path, Label("v", "s", "train"), FileRecord())
    measured = found.kspace[found.kspace != 0]
    assert found.noise == pytest.approx(expected)
    assert np.sqrt((np.abs(measured) ** 2).mean() / 2) == pytest.approx(expected, rel=0.06)
    scan = (rng.normal(scale=3, size=(2, 20000, 2)) @ (1, 1j), {"flags": [ismrmrd.ACQ_IS_NOISE_MEASUREMENT]})
    whitened, _ = read("ismrmrd", write_mrd(path, [scan, *lines], (32, 24, depth)))
    assert whitened == pytest.approx(expected / 3)
    if averages > 1:
        write_mrd(path, lines[:-1], (32, 24, depth))
        assert read("ismrmrd", path, noise_sigma=3.0) == (
            None,
            {"noise-level-unknown", *["partial-echo"][: samples < 32]},
        )


def test_a_file_to_reconstruct_has_an_estimate_too(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "k.npy", 0.5 * rng.normal(size=(1, 64, 64, 2)).view(np.complex128)[..., 0])
    (volume,) = read_input(tmp_path / "k.npy")
    assert volume.noise == pytest.approx(0.5, rel=0.05)


def test_a_multiple_of_an_unknown_noise_is_refused(tmp_path):
    splits = ("train", "validation", "test")
    volumes = [replace(make_volume(f"{one}_1", one, one), noise=None if one == "test" else 1.0) for one in splits]
    write_shard(tmp_path / "north.h5", "north", volumes, simulated=False, phase="measured")
    with h5py.File(tmp_path / "north.h5") as file:
        assert np.isnan(file["test_1"].attrs["noise"])
    shards = {"north": Shard.open(tmp_path / "north.h5")}
    check_experiment(Experiment.read({"sites": "d", "operator": {"acceleration": 2, "center_fraction": 0.2}}), shards)
    noisy = {"acceleration": 2, "center_fraction": 0.2, "noise": 2}
    with pytest.raises(InputError, match=r"site 'north': noise 2 .*test_1.*--noise-sigma"):
        check_experiment(Experiment.read({"sites": "d", "operator": noisy}), shards)
    with pytest.raises(InputError, match=r"site 'north': noise 2"):
        check_masks(shards, {"north": Undersampling.read(noisy)})


def test_no_noise_is_a_known_level(tmp_path):
    volumes = [replace(make_volume(f"{one}_1", one, one), noise=0.0) for one in ("train", "validation", "test")]
    write_shard(tmp_path / "north.h5", "north", volumes, simulated=False, phase="measured")
    check_masks(
        {"north": Shard.open(tmp_path / "north.h5")}, {"north": Undersampling.read({"acceleration": 2, "noise": 2})}
    )
