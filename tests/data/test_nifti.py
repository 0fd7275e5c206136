"""NIfTI volumes: orientation, field of view, intensities, phase, end slices by hand; then the real ones."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from small_volumes import Imported, centred_fft

from fedrecon.sites.data.inspect import inspect
from fedrecon.sites.data.pseudonyms import KEY_FILE, Pseudonyms
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.importing import import_data
from fedrecon.sites.formats.magnitude import EMPTY, END, centre, kept_slices, low_pass, smooth_phase
from fedrecon.sites.formats.nifti import load_magnitude

ZOOMS = np.array([1.0, 1.0, 4.0])


def save(path: Path, values, zooms=ZOOMS, axes: str = "RAS") -> Path:
    """A NIfTI file whose voxel axes point as ``axes`` says."""
    affine = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(axes), values.shape)
    affine[:3, :3] = affine[:3, :3] * zooms
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def ras(shape=(8, 8, 6)):
    """A volume in RAS+ axes with a marked corner: right, anterior, superior."""
    values = np.ones(shape, np.float32)
    values[-1, -1, -1] = 9
    return values


@pytest.mark.parametrize("axes", ["RAS", "PIL"])
def test_axial_slices_have_anterior_up_left_on_the_right_and_run_upwards(axes, tmp_path):
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    values = nibabel.orientations.apply_orientation(ras((8, 10, 6)), turn)
    zooms = [4.0 if letter in "IS" else 1.0 for letter in axes]
    magnitude, voxel = load_magnitude(save(tmp_path / "v.nii", values, zooms, axes))
    assert magnitude.shape == (6, 10, 8)
    assert voxel == (4.0, 1.0, 1.0)
    # the top slice; its top row is anterior, its left column the patient's right
    assert np.argwhere(magnitude == 9).tolist() == [[5, 0, 0]]


@pytest.mark.parametrize(("thick", "shape"), [(0, (8, 6, 10)), (1, (10, 6, 8)), (2, (6, 10, 8))])
def test_the_thickest_axis_is_cut_and_superior_or_anterior_is_up(thick, shape, tmp_path):
    zooms = np.ones(3)
    zooms[thick] = 3
    magnitude, _ = load_magnitude(save(tmp_path / "v.nii", ras((8, 10, 6)), zooms))
    assert magnitude.shape == shape
    assert np.argwhere(magnitude == 9).tolist() == [[shape[0] - 1, 0, 0]]


def test_field_of_view_becomes_square_in_millimetres():
    magnitude = np.ones((1, 30, 20), np.float32)
    square, voxel = low_pass(magnitude, (5.0, 1.0, 2.0), None)  # 30 mm x 40 mm -> 40 mm x 40 mm
    assert (square.shape, voxel) == ((1, 40, 20), (5.0, 1.0, 2.0))
    assert np.flatnonzero(square[0, :, 0]).tolist() == list(range(5, 35))
    small, voxel = low_pass(magnitude, (5.0, 1.0, 2.0), 16)
    assert (small.shape, voxel) == ((1, 16, 16), (5.0, 2.5, 2.5))


def test_cropping_keeps_intensities_and_a_smooth_image():
    y, x = np.mgrid[:65, :65] - 32
    fine = 100 * np.exp(-(x**2 + y**2) / 200.0)[None].astype(np.float32)
    coarse, _ = low_pass(np.pad(fine, ((0, 0), (32, 31), (32, 31))), (1.0, 1.0, 1.0), 64)  # every second sample
    y, x = np.mgrid[:64, :64] - 32
    expected = np.where(np.hypot(x, y) < 15, 100 * np.exp(-4 * (x**2 + y**2) / 200.0), 0)
    np.testing.assert_allclose(coarse[0], expected, atol=2.0)
    assert coarse[0, 32, 32] == pytest.approx(100, rel=0.01)


def test_crop_and_pad_keep_the_centre_for_odd_and_even_sizes():
    for n in (7, 8):
        line = np.zeros((n, n))
        line[n // 2, n // 2] = 1
        for m in (4, 5, 8, 11):
            assert np.argwhere(centre(line, (m, m))).tolist() == [[m // 2, m // 2]]


def test_more_pixels_than_were_measured_are_refused(tmp_path):
    source = save(tmp_path / "a_1.nii", ras())
    with pytest.raises(InputError, match=r"a_1.nii: --size 16 is more than the 8 pixels"):
        import_data("nifti", [source], "s", tmp_path / "out", size=16)


def test_end_slices_are_left_out_by_the_stated_rule():
    area = [5, 1, 60, 40, 100, 100, 50, 49, 80]  # foreground voxels a slice; half of the best is 50
    magnitude = np.zeros((len(area), 10, 10), np.float32)
    for one, n in zip(magnitude, area, strict=True):
        one.reshape(-1)[:n] = 10
    magnitude[magnitude == 0] = 0.5  # below a tenth of the maximum: background
    kept, dropped = kept_slices(magnitude, every=False)
    assert kept.tolist() == [2, 3, 4, 5, 6, 7, 8]  # 40 and 49 lie between good slices
    assert dropped == {END: [0, 1]}
    assert kept_slices(magnitude, every=True)[0].tolist() == list(range(9))
    magnitude[3] = 0
    assert kept_slices(magnitude, every=True)[1] == {EMPTY: [3]}


def box(nz: int = 4):
    values = np.zeros((32, 32, nz), np.float32)
    values[8:24, 6:26] = 50
    values[12:16, 10:20] = 80
    return values


def test_phase_none_is_the_kspace_of_the_magnitude(tmp_path):
    source = save(tmp_path / "a_1.nii.gz", box())
    shard = Imported.of(import_data("nifti", [source], "s", tmp_path, size=16, phase="none"))
    np.testing.assert_allclose(shard.kspace("a_1")[:, 0], centred_fft(shard.reference("a_1")), atol=1e-3)
    assert (shard.phase, shard.simulated) == ("none", True)
    assert shard.voxel_mm == (4.0, 2.0, 2.0)


@pytest.mark.slow
def test_smooth_phase_changes_the_kspace_and_not_the_reference(tmp_path):
    source = save(tmp_path / "a_1.nii.gz", box())

    def imported(out, **choice):
        return Imported.of(
            import_data("nifti", [source], "s", tmp_path / out, size=16, key=tmp_path / "consortium.key", **choice)
        )

    none, smooth, again, other = (
        imported("n", phase="none"),
        imported("s"),
        imported("a", phase="smooth", seed=0),
        imported("o", seed=1),
    )
    assert smooth.content_hash == again.content_hash
    assert len({none.content_hash, smooth.content_hash, other.content_hash}) == 3
    np.testing.assert_array_equal(none.reference("a_1"), smooth.reference("a_1"))
    axes = (-2, -1)
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(smooth.kspace("a_1"), axes=axes), norm="ortho"), axes=axes)
    np.testing.assert_allclose(np.abs(image[:, 0]), smooth.reference("a_1"), atol=1e-3)
    flipped = np.conj(np.roll(smooth.kspace("a_1")[..., ::-1, ::-1], 1, axis=axes))
    assert np.linalg.norm(flipped - smooth.kspace("a_1")) > 0.3 * np.linalg.norm(flipped)  # no longer symmetric


def test_smooth_phase_is_smooth_within_and_across_slices():
    phasor = smooth_phase((30, 64, 64), 0, "v")
    np.testing.assert_allclose(np.abs(phasor), 1, rtol=1e-5)
    for axis, step in ((0, 0.5), (1, 0.6), (2, 0.6)):
        turn = np.angle(
            phasor.take(range(1, phasor.shape[axis]), axis) * phasor.take(range(phasor.shape[axis] - 1), axis).conj()
        )
        assert np.abs(turn).max() < step  # rad from pixel to pixel
    assert np.angle(phasor).std() > 0.3


def test_refusals(tmp_path):
    nan, negative = box(), box()
    nan[0, 0, 0], negative[0, 0, 0] = np.nan, -1
    cases = {
        "holds NaN or infinity": nan,
        "holds negative values": negative,
        "all-zero image": 0 * box(),
        r"has the shape \(32, 32, 4, 2\)": np.stack([box(), box()], axis=-1),
        "voxels are complex64": box().astype(np.complex64),
    }
    for message, values in cases.items():
        path = tmp_path / "a_1.nii"
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 4.0, 1.0])), path)
        with pytest.raises(InputError, match=message):
            import_data("nifti", [path], "s", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif("FEDRECON_REAL_DATA" not in os.environ, reason="FEDRECON_REAL_DATA is not set")
def test_real_volumes_become_three_sites(tmp_path):
    """Of each contrast a patient for each split, of all contrasts each patient, and of one patient two studies."""
    folder = Path(os.environ["FEDRECON_REAL_DATA"]) / "open-ms"
    imported = {
        "T1W": ("patient01_study1", "patient03_study2", "patient19_study2"),
        "T2W": ("patient01_study2", "patient03_study1", "patient04_study1"),
        "FLAIR": ("patient09_study2", "patient03_study2", "patient19_study1", "patient19_study2"),
    }
    for contrast, studies in imported.items():
        sources = [folder / f"{study}_{contrast}.nii.gz" for study in studies]
        test = sorted({source.name.split("_")[0] for source in sources} & {"patient04", "patient19"})
        import_data(
            "nifti",
            sources,
            contrast.lower(),
            tmp_path,
            contrast,
            size=64,
            validation_subjects=["patient03"],
            test_subjects=test,
        )
    found = inspect(tmp_path)
    assert found["problems"] == []
    assert [shard["site"] for shard in found["shards"]] == ["flair", "t1w", "t2w"]
    for shard in found["shards"]:
        assert set(shard["usable_for"]) == {"train", "test", "reconstruct"}
        names = Pseudonyms.of(tmp_path / KEY_FILE)
        assert shard["splits"]["validation"]["subjects"] == [names.subject("patient03")]
        opened = Shard.open(shard["path"])
        for volume in opened.volumes:
            assert 28 <= volume.n_slices <= 45  # of 36 to 48: the end slices are left out
            image = opened.reference(volume.name)
            rows = np.flatnonzero(image.mean(axis=(0, 2)) > 0.2 * image.mean(axis=(0, 2)).max())
            columns = np.flatnonzero(image.mean(axis=(0, 1)) > 0.2 * image.mean(axis=(0, 1)).max())
            assert rows[-1] - rows[0] > columns[-1] - columns[0]  # a head is longer than wide: rows are front to back


@pytest.mark.real
@pytest.mark.skipif("FEDRECON_REAL_DATA" not in os.environ, reason="FEDRECON_REAL_DATA is not set")
def test_real_raw_kspace_is_read(tmp_path):
    folder = Path(os.environ["FEDRECON_REAL_DATA"]) / "raw-kspace"
    head = Imported.of(import_data("npy", folder / "head_sagittal_t1_1ch.npy", "head", tmp_path))
    brain = Imported.of(import_data("npy", folder / "brain_8ch_poisson_r8.npy", "brain", tmp_path))
    assert head.summary()["usable_for"] == ["reconstruct", "test"]
    assert brain.summary()["usable_for"] == ["reconstruct"]
    assert (brain.n_coils, brain.volumes[0].shape, brain.phase) == (8, (230, 180), "measured")
