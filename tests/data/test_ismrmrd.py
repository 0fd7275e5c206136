"""ISMRMRD: against an independent reading with the library, and by hand."""

from types import SimpleNamespace

import h5py
import ismrmrd
import numpy as np
import pytest
from small_files import mrd_lines, rss, write_fastmri, write_mrd
from small_volumes import make_kspace

from fedrecon.sites.data.volume import central
from fedrecon.sites.errors import FileError, InputError
from fedrecon.sites.formats import FORMATS, Label
from fedrecon.sites.formats.importing import import_data
from fedrecon.sites.formats.ismrmrd_header import Header
from fedrecon.sites.formats.one_file import read_input
from fedrecon.sites.formats.record import FileRecord

X, Y = 24, 20
NOISE = [ismrmrd.ACQ_IS_NOISE_MEASUREMENT]
CALIBRATION = [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION]


def load(path, **options):
    record = FileRecord()
    return FORMATS["ismrmrd"](**options).load(path, Label("v", "s", "train"), record), record


def kinds(record):
    return {note.kind for note in record.notes}


@pytest.fixture
def kspace():
    return make_kspace(coils=2)


def centred(transform, values, axes):
    return np.fft.fftshift(transform(np.fft.ifftshift(values, axes=axes), axes=axes, norm="ortho"), axes=axes)


@pytest.mark.slow
def test_a_full_2d_scan_has_the_samples_that_the_library_reads(tmp_path, kspace):
    path = write_mrd(tmp_path / "a.h5", mrd_lines(kspace), (X, Y, 1), field=2.89)
    (found, record), expected = load(path), np.zeros_like(kspace)
    file = ismrmrd.Dataset(str(path), "dataset", create_if_needed=False)
    for number in range(file.number_of_acquisitions()):
        line = file.read_acquisition(number)
        expected[line.idx.slice, :, :, line.idx.kspace_encode_step_1] = line.data
    file.close()
    np.testing.assert_array_equal(found.kspace, expected)
    np.testing.assert_allclose(found.reference, rss(kspace), rtol=1e-5)
    assert (found.voxel_mm, found.field_strength_t, found.noise) == ((1.0, 1.0, 1.0), 2.89, None)
    assert (record.facts, kinds(record)) == ({"noise scan": "none"}, set())


@pytest.mark.slow
def test_whitening_is_the_one_computed_by_hand(tmp_path, kspace):
    """Noise of coil 0 is 2 a, of coil 1 a + b, with independent a and b of sigma 1 in each part: C = [[4, 2], [2, 2]].

    Its Cholesky factor is [[2, 0], [1, 1]], whose inverse is [[1/2, 0], [-1/2, 1]].
    """
    a, b = np.array([1, -1, 1, -1]) * (1 + 1j), np.array([1, 1, -1, -1]) * (1 + 1j)
    noise = (np.stack([2 * a, a + b]), {"flags": NOISE})
    path = tmp_path / "a.h5"
    (found, record) = load(write_mrd(path, [noise, *mrd_lines(kspace)], (X, Y, 1)))
    expected = np.stack([kspace[:, 0] / 2, kspace[:, 1] - kspace[:, 0] / 2], axis=1)
    np.testing.assert_allclose(found.kspace, expected, atol=1e-5 * np.abs(kspace).max())
    assert found.noise == 1.0
    assert record.facts["noise scan"] == "whitens 2 coils, 4 samples"
    # A noise scan of a quarter of the sample time has four times the power; half of it reached the recorder.
    noise[1]["sample_time_us"] = 1.25
    (scaled, _) = load(write_mrd(path, [noise, *mrd_lines(kspace)], (X, Y, 1), band=0.5))
    np.testing.assert_allclose(scaled.kspace, expected * np.sqrt(4 * 0.5), atol=1e-5 * np.abs(kspace).max())
    noise[1]["sample_time_us"] = 0
    (unknown, record) = load(write_mrd(path, [noise, *mrd_lines(kspace)], (X, Y, 1)))
    assert (unknown.noise, kinds(record)) == (None, {"noise-level-unknown"})
    with pytest.raises(FileError, match="--noise-sigma"):
        load(path, noise_sigma=1.0)
    for wrong in (np.ones((3, 8)), np.ones((2, 3)), np.ones((2, 8)), np.array([[1, -1, 1, 1], [0, 0, 0, 0]])):
        with pytest.raises(FileError, match="noise scan"):
            load(write_mrd(path, [(wrong, {"flags": NOISE}), *mrd_lines(kspace)], (X, Y, 1)))


@pytest.mark.slow
def test_the_noise_level_is_that_of_the_samples_after_every_step(tmp_path):
    rng = np.random.default_rng(0)
    mix = np.array([[3, 0], [1 + 1j, 0.5]])

    def draw(*shape):
        return np.tensordot(mix, rng.normal(size=(2, *shape, 2)) @ (1, 1j), 1)

    lines = [(draw(4096), {"flags": NOISE})]
    lines += [(draw(64), {"kspace_encode_step_1": step, "average": n}) for step in range(32) for n in range(4)]
    (found, record) = load(write_mrd(tmp_path / "a.h5", lines, (64, 32, 1), keep=32))
    assert found.kspace.shape == (1, 2, 32, 32)
    assert found.noise == 0.5
    assert record.facts["averages"] == "4"
    flat = found.kspace[0].reshape(2, -1)
    np.testing.assert_allclose(flat @ flat.conj().T / (2 * flat.shape[1]), 0.25 * np.eye(2), atol=0.02)


@pytest.mark.slow
def test_oversampling_is_cut_from_the_image(tmp_path, kspace):
    wide = centred(np.fft.fftn, np.pad(centred(np.fft.ifftn, kspace, (-2,)), [(0, 0), (0, 0), (12, 12), (0, 0)]), (-2,))
    (found, record) = load(write_mrd(tmp_path / "a.h5", mrd_lines(wide), (2 * X, Y, 1), keep=X))
    np.testing.assert_allclose(found.kspace, kspace, atol=1e-5 * np.abs(kspace).max())
    assert record.facts["readout"] == "48 to 24 samples, oversampling removed"
    assert found.voxel_mm == (1.0, 1.0, 1.0)
    # An asymmetric echo: the first 20 of 48 samples are missing, and 8 more were discarded.
    labels = {"center_sample": 12, "discard_pre": 8}
    lines = mrd_lines(wide[:, :, 12:])
    for _, own in lines:
        own.update(labels)
    (partial, record) = load(write_mrd(tmp_path / "a.h5", lines, (2 * X, Y, 1), keep=X))
    np.testing.assert_array_equal((partial.kspace != 0).any(axis=(0, 1, 3)), np.arange(X) >= 10)
    assert "partial-echo" in kinds(record)


@pytest.mark.slow
def test_a_3d_scan_is_decoupled_along_its_readout(tmp_path):
    rng = np.random.default_rng(1)
    volume = rng.normal(size=(2, 6, 20, 32)) * np.hanning(32) + 3  # coils, z, y, x: the outer x are oversampling
    kspace = centred(np.fft.fftn, volume + 0j, (-3, -2, -1))
    lines = [
        (kspace[:, z, y], {"kspace_encode_step_1": y, "kspace_encode_step_2": z}) for z in range(6) for y in range(20)
    ]
    (found, record) = load(write_mrd(tmp_path / "a.h5", lines, (32, 20, 6), keep=16))
    assert found.kspace.shape == (16, 2, 6, 20)
    expected = np.sqrt((np.abs(volume) ** 2).sum(axis=0))[..., 8:24].transpose(2, 0, 1)
    np.testing.assert_allclose(found.reference, expected, rtol=1e-4)
    assert record.slices == 16


@pytest.mark.slow
def test_calibration_lines_fill_what_the_image_lacks(tmp_path, kspace):
    image, centre = mrd_lines(kspace, range(0, Y, 2)), mrd_lines(2 * kspace, range(6, 14), flags=CALIBRATION)
    path = tmp_path / "a.h5"
    (found, record) = load(write_mrd(path, centre + image, (X, Y, 1)))
    expected = np.zeros_like(kspace)
    expected[..., 7:14:2], expected[..., ::2] = 2 * kspace[..., 7:14:2], kspace[..., ::2]
    np.testing.assert_array_equal(found.kspace, expected)
    slices = len(kspace)
    assert record.facts["ACS lines"] == f"{4 * slices} of {8 * slices} calibration lines fill the k-space"
    assert found.reference is None
    (found, record) = load(write_mrd(path, centre + image, (X, Y, 1), mode="external"))
    expected[..., 7:14:2] = 0
    np.testing.assert_array_equal(found.kspace, expected)
    assert "calibration-left-out" in kinds(record)


@pytest.mark.slow
def test_partial_fourier_is_named_and_other_lines_are_left_out(tmp_path, kspace):
    lines = mrd_lines(kspace, range(6, Y))
    lines += [(kspace[0, :, :, 0], {"flags": [ismrmrd.ACQ_IS_NAVIGATION_DATA]})] * 3
    (found, record) = load(write_mrd(tmp_path / "a.h5", lines, (X, Y, 1)))
    np.testing.assert_array_equal(found.kspace[..., 6:], kspace[..., 6:])
    assert not found.kspace[..., :6].any()
    assert record.facts["lines left out"] == "3 navigator"
    assert kinds(record) == {"partial-fourier"}


WRONG = {
    "trajectory is 'radial'": ({"trajectory": "radial"}, {}),
    "'repetition'": ({}, {"repetition": 1}),
    "'contrast'": ({}, {"contrast": 1}),
    "reverse": ({}, {"flags": [ismrmrd.ACQ_IS_REVERSE]}),
    "compressed": ({}, {"flags": [ismrmrd.ACQ_COMPRESSION1]}),
    "encoding_space_ref": ({}, {"encoding_space_ref": 1}),
    "outside the encoded matrix": ({}, {"kspace_encode_step_1": 99}),
    "2 lines have one slice": ({}, {"kspace_encode_step_1": 1}),
    "center_sample": ({}, {"center_sample": 3}),
}


@pytest.mark.slow
@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_read_is_refused_by_its_name(message, tmp_path, kspace):
    header, labels = WRONG[message]
    lines = mrd_lines(kspace)
    lines[0][1].update(labels)
    with pytest.raises(FileError, match=message):
        load(write_mrd(tmp_path / "a.h5", lines, (X, Y, 1), **header))


@pytest.mark.slow
def test_the_word_cartesian_is_known_in_any_case(tmp_path, kspace):
    (found, _) = load(write_mrd(tmp_path / "a.h5", mrd_lines(kspace), (X, Y, 1), trajectory="Cartesian"))
    np.testing.assert_array_equal(found.kspace, kspace)


@pytest.mark.slow
def test_a_file_of_the_other_h5_format_names_its_own(tmp_path, kspace):
    mine = write_mrd(tmp_path / "a.h5", mrd_lines(kspace), (X, Y, 1))
    other = write_fastmri(tmp_path / "b.h5", kspace)
    for path, wrong, right in ((mine, "fastmri", "ismrmrd"), (other, "ismrmrd", "fastmri")):
        with pytest.raises(InputError, match=f"fedrecon data import {right}"):
            import_data(wrong, path, "s", tmp_path, dry_run=True)
        (found,) = read_input(path)
        np.testing.assert_array_equal(found.kspace, kspace)


@pytest.mark.slow
def test_the_patient_of_the_header_is_one_subject_and_no_name_is_kept(tmp_path, kspace):
    subject = "<subjectInformation><patientName>Mueller</patientName><patientID>P-77</patientID></subjectInformation>"
    for stem in ("a_1", "b_1"):
        write_mrd(tmp_path / f"{stem}.mrd", mrd_lines(kspace), (X, Y, 1), subject=subject)
    done = import_data("ismrmrd", tmp_path, "s", tmp_path / "out")
    assert set(done.subjects.values()) == {"P-77"}
    raw = done.path.read_bytes()
    assert not [word for word in ("Mueller", "P-77") if word.encode() in raw]


def oversampled(kspace, extra, axis):
    """The k-space of the same image in a view that is wider by ``extra`` pixels on each side along ``axis``."""
    wide = [(0, 0)] * kspace.ndim
    wide[axis] = (extra, extra)
    return centred(np.fft.fftn, np.pad(centred(np.fft.ifftn, kspace, (axis,)), wide), (axis,))


def wanted(path, axis, size, encoded):
    """The file, whose reconstructed field of view is ``size`` mm along ``axis``, and twice as fine."""
    with h5py.File(path, "r+") as file:
        text = file["dataset/xml"][0].decode()
        before, after = text.split("<reconSpace>")
        matrix, view = after.split("<fieldOfView_mm>", 1)
        matrix = matrix.replace(f"<{axis}>{encoded}</{axis}>", f"<{axis}>{2 * size}</{axis}>", 1)
        view = view.replace(f"<{axis}>{encoded}</{axis}>", f"<{axis}>{size}</{axis}>", 1)
        del file["dataset/xml"]
        text = f"{before}<reconSpace>{matrix}<fieldOfView_mm>{view}"
        file["dataset/xml"] = np.array([text], h5py.string_dtype())
    return path


@pytest.mark.slow
def test_oversampling_of_a_phase_encoding_is_not_scored(tmp_path, kspace):
    wide = oversampled(kspace, 6, -1)
    path = wanted(write_mrd(tmp_path / "a.h5", mrd_lines(wide), (X, Y + 12, 1)), "y", Y, Y + 12)
    (found, record) = load(path)
    assert found.kspace.shape[-2:] == (X, Y + 12)
    assert (found.crop, kinds(record)) == ((X, Y), set())
    np.testing.assert_allclose(central(found.reference, found.crop), rss(kspace), atol=1e-4)
    small = wanted(write_mrd(tmp_path / "b.h5", mrd_lines(wide), (X, Y + 12, 1)), "y", 5, Y + 12)
    (found, record) = load(small)
    assert (found.crop, kinds(record)) == (None, {"header-implausible"})


@pytest.mark.slow
def test_oversampling_of_the_slices_of_a_slab_is_not_scored(tmp_path):
    volume = make_kspace(slices=1, coils=2, ny=8, nx=16)[0][..., None] * centred(
        np.fft.fftn, np.ones(10) + 0j, (0,)
    )  # coils, z, y, x
    wide = oversampled(volume, 3, 1)
    lines = [
        (wide[:, z, y], {"kspace_encode_step_1": y, "kspace_encode_step_2": z}) for z in range(14) for y in range(16)
    ]
    (found, _) = load(wanted(write_mrd(tmp_path / "a.h5", lines, (10, 16, 14)), "z", 8, 14))
    assert (found.kspace.shape, found.crop) == ((10, 2, 14, 16), (8, 16))
    assert not central(found.reference, (8, 16)).max() < found.reference.max()


def test_a_slab_of_few_partitions_is_scored_whole():
    """The window of SSIM has seven pixels: no part of 6 x 128 can be scored, so there is none."""
    header = SimpleNamespace(encoded=(256, 128, 6), encoded_mm=(256.0, 256.0, 60.0), wanted_mm=(256.0, 200.0, 60.0))
    record = FileRecord()
    assert (Header.scored(header, (6, 128), record), kinds(record)) == (None, {"header-implausible"})


@pytest.mark.slow
def test_a_full_readout_whose_centre_is_elsewhere_is_refused(tmp_path, kspace):
    for centre in (0, X // 2 - 1, X // 2, X // 2 + 1):  # 0: the writer did not say
        (found, _) = load(write_mrd(tmp_path / "a.h5", mrd_lines(kspace, center_sample=centre), (X, Y, 1)))
        np.testing.assert_array_equal(found.kspace, kspace)
    for centre in (7, 18):
        path = write_mrd(tmp_path / "a.h5", mrd_lines(kspace, center_sample=centre), (X, Y, 1))
        with pytest.raises(FileError, match=f"24 samples with the centre {centre} leave the readout of 24"):
            load(path)


@pytest.mark.slow
def test_slices_of_several_planes_are_no_volume(tmp_path, kspace):
    axial = {"read_dir": (1, 0, 0), "phase_dir": (0, 1, 0), "slice_dir": (0, 0, 1)}
    sagittal = {"read_dir": (0, 0, 1), "phase_dir": (0, 1, 0), "slice_dir": (1, 0, 0)}
    lines = mrd_lines(kspace, **axial)
    (found, _) = load(write_mrd(tmp_path / "a.h5", lines, (X, Y, 1)))
    np.testing.assert_array_equal(found.kspace, kspace)
    for _, own in lines:
        own.update(sagittal if own["slice"] == 1 else axial)
    with pytest.raises(FileError, match="differ in read_dir: several planes"):
        load(write_mrd(tmp_path / "a.h5", lines, (X, Y, 1)))
