"""Laws of reading: a file of any format, however odd or damaged, gives its volume or one line that says why not."""

import itertools
import random
import struct
import warnings

import h5py
import nibabel
import numpy as np
import pytest
from small_files import HEADER, rss, write_any, write_fastmri
from small_volumes import make_kspace

from fedrecon.sites.errors import FileError
from fedrecon.sites.formats import FORMATS, Label
from fedrecon.sites.formats.format import text_of
from fedrecon.sites.formats.importing import import_data
from fedrecon.sites.formats.magnitude import END, interpolated, kept_slices


def read(name, path, **options):
    """The volume or the error, and the kinds of notes; a warning fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((_, found, record),) = FORMATS[name](**options).read([path], lambda _: Label("v", "s", "train"))
    return found, [note.kind for note in record.notes]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name, tmp_path):
    """Values of HDF5 alone: a damaged structure can end the process in libhdf5 itself."""
    good = write_any(name, tmp_path, "a_1")
    content, rng = good.read_bytes(), random.Random(3)
    kspace = make_kspace(coils=2).tobytes()
    begin = content.index(kspace) if kspace in content else 0
    end = begin + len(kspace) if begin else min(len(content), 360)
    structure = content.startswith(b"\x89HDF") and not begin
    for _ in range(10 if structure else 60):
        damaged = bytearray(content[: rng.randrange(len(content)) if structure else None])
        for _ in range(0 if structure else rng.choice((1, 2, 4))):
            damaged[rng.randrange(begin, end)] = rng.choice((0, 127, 128, 255, rng.randrange(256)))
        good.write_bytes(damaged)
        found, _ = read(name, good)
        if isinstance(found, FileError):
            assert "\n" not in found.reason
            assert str(good) not in found.reason


HEADS = [(at, form, value) for at, form, value in (
    (112, "<f", np.inf), (116, "<f", np.inf), (112, "<f", 3e38), (112, "<f", -1), (80, "<f", np.nan), (280, "<f", 3e38),
    (42, "<h", 0), (40, "<h", 9), (70, "<h", 4), (252, "<h", 300), (108, "<f", np.nan), (108, "<f", -1),
    (123, "<b", -1),
)]  # fmt: skip


@pytest.mark.parametrize(("at", "form", "value"), HEADS)
def test_an_odd_header_of_nifti_is_read_or_refused_in_one_line(at, form, value, tmp_path, capfd):
    values = np.zeros((16, 20, 4), np.int16)
    values[4:12, 5:15] = 100
    content = bytearray(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 5.0, 1.0])).to_bytes())
    struct.pack_into(form, content, at, value)
    (tmp_path / "a_1.nii").write_bytes(content)
    found, _ = read("nifti", tmp_path / "a_1.nii")
    if (at, value) in ((112, np.inf), (116, np.inf), (112, -1)):
        assert isinstance(found, FileError)
    assert "\n" not in getattr(found, "reason", "")
    assert capfd.readouterr().err == ""  # nibabel does not log beside it


ODD = {
    "group": None,
    "empty": h5py.Empty("f4"),
    "number": 3,
    "complex": np.ones((3, 4, 4), np.complex64),
    "text": "x",
    "texts": np.full((3, 4, 4), b"x"),
    "nothing": np.zeros((3, 0, 4), np.float32),
    "NaN": np.full((3, 4, 4), np.nan),
}


@pytest.mark.parametrize("key", ["kspace", "mask", "reconstruction_rss", "reconstruction_esc", "ismrmrd_header"])
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_dataset_of_fastmri_is_read_or_refused_in_one_line(key, odd, tmp_path):
    path = write_fastmri(tmp_path / "f_1.h5", make_kspace())
    with h5py.File(path, "r+") as file:
        if key in file:
            del file[key]
        if odd == "group":
            file.create_group(key)
        else:
            file[key] = ODD[odd]
    found, notes = read("fastmri", path)
    assert "\n" not in getattr(found, "reason", "")
    sound = (key, odd) == ("kspace", "complex")
    assert sound or isinstance(found, FileError) or {"mask-contradicts-samples", "reference-differs"} & set(notes)


# --- who was scanned ---


@pytest.mark.slow
def test_an_id_that_is_a_number_is_that_number(tmp_path):
    for number, patient in enumerate(
        (1234, 1490, np.int64(1234 + 2**33), np.array([7]), 12.0, np.nan, h5py.Empty("f4"))
    ):
        path = write_fastmri(tmp_path / f"f{number}_1.h5", make_kspace(1, seed=number))
        with h5py.File(path, "r+") as file:
            file.attrs["patient_id"] = patient
    summary = import_data("fastmri", tmp_path, "s", tmp_path / "out", dry_run=True)
    assert sorted(set(summary.subjects.values())) == sorted(["1234", "1490", str(1234 + 2**33), "7", "12", "f5", "f6"])
    assert text_of(np.array([[65, 66]], np.uint16)) == "AB"  # how MATLAB stores text


# --- header, mask and samples ---


PROTONS = "<experimentalConditions><H1resonanceFrequency_Hz>{}</H1resonanceFrequency_Hz></experimentalConditions>"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("<encoding>", "<encoding><trajectory>radial</trajectory>", "radial"),
        ("<encoding>", "<encoding><trajectory>cartesian</trajectory>", 2.89),
        ("<x>24</x>", "<x>inf</x>", "ismrmrd_header"),
        ("<encoding>", PROTONS.format(63.87e6) + "<encoding>", None),  # 1.5 T
        ("<encoding>", PROTONS.format(123.2e6) + "<encoding>", 2.89),
    ],
)
def test_a_header_is_compared_with_itself(old, new, expected, tmp_path):
    found, notes = read(
        "fastmri", write_fastmri(tmp_path / "f_1.h5", make_kspace(), ismrmrd_header=HEADER.replace(old, new))
    )
    if isinstance(expected, str):
        assert isinstance(found, FileError)
        assert expected in found.reason
    else:
        assert found.field_strength_t == expected
        assert ("header-contradicts-itself" in notes) is (expected is None)


@pytest.mark.slow
def test_a_mask_of_columns_slices_or_samples_is_compared_as_such(tmp_path):
    kspace = make_kspace(coils=2)
    slices, _, ny, nx = kspace.shape
    each = np.ones((slices, 1, nx), bool)
    for number, one in enumerate(each):
        one[:, number::4] = False
    plane = np.random.default_rng(0).random((1, ny, nx)) < 0.5
    for marked in (each, plane, plane.astype("f4"), each.astype("u1")):
        under = (kspace * (marked != 0)[:, None]).astype(np.complex64)
        for shown, wrong in ((marked, False), (np.squeeze(marked), False), (1 - marked.astype("f4"), True)):
            _, notes = read("fastmri", write_fastmri(tmp_path / "f_1.h5", under, mask=shown))
            assert ("mask-contradicts-samples" in notes) is wrong
    found, notes = read("fastmri", write_fastmri(tmp_path / "f_1.h5", kspace, mask=np.ones((ny, nx))))
    assert notes == []
    np.testing.assert_allclose(found.reference, rss(kspace), atol=1e-5)


# --- magnitude volumes ---


def ball(slices=24):
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (slices, 30, 26)), indexing="ij")
    return (100 * np.clip(1.1 - np.sqrt((x / 0.75) ** 2 + (y / 0.85) ** 2 + (z / 1.5) ** 2), 0, None)).astype(
        np.float32
    )


@pytest.mark.parametrize("factor", [0.0, 0.05, 20.0, 1000.0])
def test_one_odd_slice_changes_the_fate_of_no_other(factor):
    usual = kept_slices(ball(), every=False)[0].tolist()
    for odd in (9, 12):
        values = ball()
        values[odd] *= factor
        kept, dropped = kept_slices(values, every=False)
        others = [number for number in usual if number != odd]
        assert len(set(others) - set(kept.tolist())) <= 2 * len(values) // 24  # the first slices are near the limit
        assert set(kept.tolist()) <= set(usual)
        assert sorted(itertools.chain(kept.tolist(), *dropped.values())) == list(range(24))


def test_where_most_slices_go_it_is_noted(tmp_path):
    values = np.zeros((16, 20, 10), np.float32)
    values[6:9, 6:9] = 100
    values[2:14, 2:18, 4:6] = 100
    for every, notes in (("anatomy", ["most-slices-left-out", "few-values"]), ("all", ["few-values"])):
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 4, 1.0])), tmp_path / "a_1.nii")
        found, said = read("nifti", tmp_path / "a_1.nii", slices=every)
        assert sorted(said) == sorted(notes)
        assert len(found.kspace) == (2 if every == "anatomy" else 10)
    assert kept_slices(values.transpose(2, 1, 0), every=False)[1] == {END: [0, 1, 2, 3, 6, 7, 8, 9]}


@pytest.mark.slow
def test_labels_and_results_are_named(tmp_path):
    image = nibabel.Nifti1Image(ball().transpose(2, 1, 0), np.diag([1, 1, 4, 1.0]))
    for intent, notes in (("none", []), ("label", ["intent"]), ("z score", ["intent"])):
        image.header.set_intent(intent, (), allow_unknown=True)
        nibabel.save(image, tmp_path / "a_1.nii")
        assert read("nifti", tmp_path / "a_1.nii")[1] == notes
    wide = np.pad(ball(20).transpose(2, 1, 0), ((37, 37), (35, 35), (40, 40)))  # 100 x 100 x 100, with empty planes
    nibabel.save(nibabel.Nifti1Image(wide, np.eye(4)), tmp_path / "a_1.nii")
    assert "few-values" not in read("nifti", tmp_path / "a_1.nii")[1]


@pytest.mark.parametrize("factor", [1e-60, 1e40])
def test_values_that_a_float32_cannot_hold_are_refused(factor, tmp_path):
    nibabel.save(nibabel.Nifti1Image(ball().astype("f8") * factor, np.eye(4)), tmp_path / "a_1.nii")
    found, _ = read("nifti", tmp_path / "a_1.nii")
    assert isinstance(found, FileError)
    assert "float32" in found.reason


def test_a_size_that_cannot_be_gives_no_field_of_view(tmp_path):
    image = nibabel.Nifti1Image(ball().transpose(2, 1, 0), np.diag([1, 1, 4, 1.0]))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "a_1.nii")
    summary = import_data("nifti", tmp_path / "a_1.nii", "s", tmp_path, dry_run=True)
    (record,) = summary.read.values()
    assert (record.field_of_view_mm, record.volume.voxel_mm) == (None, None)


def test_an_image_that_was_zero_filled_is_known():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    image = (np.hypot(y / 0.8, x / 0.6) < 1) * (1 + 0.3 * (np.hypot(y - 0.3, x + 0.2) < 0.2))
    noisy = image + 0.02 * (rng.normal(size=(6, 96, 96)) + 1j * rng.normal(size=(6, 96, 96)))
    kspace = np.fft.fftshift(np.fft.fft2(noisy), axes=(1, 2))
    wide = np.pad(kspace, ((0, 0), (32, 32), (0, 0)))
    assert interpolated(np.abs(noisy)) is None
    line = np.abs(np.arange(-80, 80)) / 48
    tapered = 1 / (1 + np.exp(20 * (line - 0.85)))[:, None]
    for edge, expected in ((1, 0.6), (tapered, 0.56)):  # samples that end at once, or along a filter
        filled = np.abs(np.fft.ifft2(np.fft.ifftshift(wide * edge, axes=(1, 2))))
        share = interpolated(filled)
        assert share is not None
        assert share[0] == pytest.approx(expected, abs=0.06)
        assert share[1] == 1.0
    disturbed = noisy + 0.5 * np.cos(np.pi * 5 / 6 * np.arange(96))[:, None]  # one line of a radio station
    assert interpolated(np.abs(disturbed)) is None
