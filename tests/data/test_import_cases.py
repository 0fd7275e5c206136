"""Inputs that importers got wrong elsewhere, by their kind: what becomes of each."""

import gzip
import json
import struct
import zlib

import h5py
import nibabel
import numpy as np
import pytest
from small_files import HEADER, write_fastmri
from small_volumes import Imported, make_kspace

from fedrecon.cli import main
from fedrecon.sites.data.fitting import sampled_share
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.importing import import_data
from fedrecon.sites.formats.nifti_file import open_nifti
from fedrecon.sites.formats.record import FileRecord


def head(shape=(24, 28, 6), seed=0):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    values = np.clip(1.1 - np.sqrt((x / 0.75) ** 2 + (y / 0.85) ** 2 + (z / 1.5) ** 2), 0, None) * 800
    return (values + np.abs(np.random.default_rng(seed).normal(0, 4, shape))).astype(np.float32)


def save(path, values, voxel=(1, 1, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*voxel, 1.0])), path)
    return path


def kinds(summary):
    return [note.kind for note in summary.notes]


# --- metadata and data ---


def test_dim_info_and_a_single_slice_and_the_user_decide_the_plane(tmp_path):
    image = nibabel.Nifti1Image(head((16, 16, 12)), np.diag([3.4, 3.4, 3.0, 1]))
    image.header.set_dim_info(freq=0, phase=1, slice=2)
    nibabel.save(image, tmp_path / "a.nii")
    thin = save(tmp_path / "b.nii", head((16, 16, 12)), (3.4, 3.4, 3.0))
    single = save(tmp_path / "c.nii", head((16, 1, 12)), (4.0, 1.0, 1.0))
    save(tmp_path / "d.nii", head((16, 18, 6))[..., 3], (1.0, 1.0, 1.0))
    found = {}
    for path, plane in (("a", None), ("b", None), ("b", "axial"), ("b", "0"), ("c", None), ("d", None)):
        record = FileRecord()
        images, _ = open_nifti(tmp_path / f"{path}.nii", record, plane).slices()
        found[path, plane] = (record.plane, record.rule, images.shape)
    assert found == {
        ("a", None): ("axial", "dim_info", (12, 16, 16)),
        ("b", None): ("coronal", "thickest voxels", (16, 12, 16)),
        ("b", "axial"): ("axial", "--plane", (12, 16, 16)),
        ("b", "0"): ("sagittal", "--plane", (16, 12, 16)),
        ("c", None): ("coronal", "axis of length one", (1, 12, 16)),
        ("d", None): ("axial", "axis of length one", (1, 18, 16)),
    }
    with pytest.raises(InputError, match="only slice is coronal"):
        open_nifti(single, FileRecord(), "axial")
    with pytest.raises(InputError, match="plane"):
        import_data("nifti", thin, "s", tmp_path, plane="transversal")


@pytest.mark.parametrize(
    ("unit", "scale", "voxel"),
    [("micron", 1000, (4, 1, 1)), ("meter", 0.001, (4, 1, 1)), ("mm", 1, (4, 1, 1)), ("meter", 1, None)],
)
def test_units_are_read_and_sizes_that_cannot_be_are_unknown(unit, scale, voxel, tmp_path):
    image = nibabel.Nifti1Image(head(), np.diag([scale, scale, 4 * scale, 1.0]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    summary = import_data("nifti", tmp_path / "a.nii", "s", tmp_path)
    found = Imported.of(summary).voxel_mm
    assert found is None if voxel is None else found == pytest.approx(voxel)
    assert [note.kind for note in next(iter(summary.read.values())).notes] == ["voxel-size-unknown"] * (voxel is None)


def patched(path, *patches):
    content = bytearray(nibabel.Nifti1Image(head().astype("i2"), np.diag([-1, 1, 4, 1.0])).to_bytes())
    for form, at, *values in patches:
        struct.pack_into(form, content, at, *values)
    path.write_bytes(bytes(content))
    return path


NO_SFORM, QFORM = ("<12f", 280, *[0] * 12), ("<h", 252, 1)
HEADERS = {
    "zero sform": ([NO_SFORM], "singular"),
    "flat sform": ([("<4f", 312, 0, 0, 0, 0)], "singular"),
    "NaN sform": ([("<12f", 280, *[float("nan")] * 12)], "not finite"),
    "negative": ([("<h", 46, -6)], r"dimensions \[24, 28, -6\] are impossible"),
    "huge": ([("<3h", 42, 32000, 32000, 32000)], "are impossible"),
    "longer": ([("<h", 46, 60)], "truncated: it holds 8416 of"),
    "type": ([("<h", 70, 999)], "is not a NIfTI volume"),
    "complex": ([("<2h", 70, 32, 64), ("<h", 46, 1)], "expected a real magnitude"),
    "sizes": ([("<3f", 80, 2, 2, 4)], "pixdim says voxels of 2 x 2 x 4, the affine 1 x 1 x 4"),
}
SOUND_HEADERS = {
    "qform for a zero sform": ([NO_SFORM, QFORM, ("<3f", 256, 0, 0, 0)], ["affine"]),
    "a rounding error in a quaternion": ([("<2h", 252, 1, 0), ("<3f", 256, 0, 1.000001, 0)], []),
    "pixdim that was never filled": ([("<3f", 80, 1, 1, 1)], ["voxel-sizes-differ"]),
    "no orientation": ([("<2h", 252, 0, 0)], ["no-orientation"]),
    "bad unit": ([("<b", 123, 7)], ["unit-unknown"]),
}


def test_an_sform_and_a_qform_that_differ_are_named_and_never_change_the_plane(tmp_path):
    for other, refused in (
        (np.diag([-1, 1, 4, 1.0]), False),
        (np.eye(4)[[0, 2, 1, 3]] @ np.diag([1, 1, 4, 1.0]), True),
    ):
        image = nibabel.Nifti1Image(head(), np.diag([1, 1, 4, 1.0]))
        image.set_sform(np.diag([1, 1, 4, 1.0]), 1)
        image.set_qform(other, 1)
        nibabel.save(image, tmp_path / "a.nii")
        if refused:
            with pytest.raises(InputError, match="one of them is wrong"):
                open_nifti(tmp_path / "a.nii", FileRecord())
        record = FileRecord()
        assert open_nifti(tmp_path / "a.nii", record, "2").slices()[0].shape == (6, 28, 24)
        assert [note.kind for note in record.notes] == ["orientations-differ"]


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_cannot_be_are_refused_in_one_line(case, tmp_path, capsys):
    patches, message = HEADERS[case]
    path = patched(tmp_path / "a.nii", *patches)
    assert main(["data", "import", "nifti", str(path), "--site", "s", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    with pytest.raises(InputError, match=message):
        open_nifti(path, FileRecord())


@pytest.mark.parametrize("case", SOUND_HEADERS)
def test_headers_that_can_be_proven_are_read(case, tmp_path):
    patches, notes = SOUND_HEADERS[case]
    record = FileRecord()
    images, voxel = open_nifti(patched(tmp_path / "a.nii", *patches), record).slices()
    assert sorted(images.shape) == [6, 24, 28]
    assert voxel == pytest.approx((4.0, 1.0, 1.0))
    assert [note.kind for note in record.notes] == notes


def test_a_checksum_that_exists_is_verified(tmp_path):
    values = (head((32, 36, 8), 3) / 4).clip(0, 255).astype("u1")
    raw = nibabel.Nifti1Image(values, np.diag([-1, 1, 4, 1.0])).to_bytes()
    packed, rng = gzip.compress(raw, 6), np.random.default_rng(0)
    while True:  # flip one bit until only the checksum can tell
        bad = bytearray(packed)
        bad[int(rng.integers(200, len(packed) - 200))] ^= 1 << int(rng.integers(8))
        try:
            got = zlib.decompressobj(-15).decompress(bytes(bad[10:]))
        except zlib.error:
            continue
        if len(got) >= len(raw) and got[:352] == raw[:352] and got != raw:
            break
    for content in (bytes(bad), packed[:-4], packed[:-300]):
        (tmp_path / "a.nii.gz").write_bytes(content)
        with pytest.raises(InputError, match="damaged or truncated"):
            open_nifti(tmp_path / "a.nii.gz", FileRecord())
    (tmp_path / "a.nii").write_bytes(packed)  # packed, and named as if it were not
    assert open_nifti(tmp_path / "a.nii", FileRecord()).values.shape == (32, 36, 8)


def test_values_that_are_no_magnitudes_need_a_word_and_are_counted(tmp_path):
    values = head()
    nan, spline, ct = values.copy(), values.copy(), values - 1000
    nan[values < 10] = np.nan
    spline[0] = -0.5
    for name, stored in {"nan": nan, "spline": spline, "ct": ct}.items():
        save(tmp_path / f"{name}.nii", stored)
    for name, word in (("nan", "nan"), ("spline", "negative")):
        record = FileRecord()
        with pytest.raises(InputError, match=f"% of its voxels.*--zero {word}"):
            open_nifti(tmp_path / f"{name}.nii", record)
        found = open_nifti(tmp_path / f"{name}.nii", record, zero=(word,))
        wrong = values < 10 if name == "nan" else spline < 0
        np.testing.assert_array_equal(found.values == 0, wrong)
        assert list(record.replaced.values()) == [int(wrong.sum())]
    with pytest.raises(InputError, match="is it CT") as error:
        open_nifti(tmp_path / "ct.nii", FileRecord(), zero=("nan", "negative"))
    assert "--zero" not in str(error.value)


def test_a_volume_is_chosen_from_0_and_axes_of_length_one_are_none(tmp_path):
    volumes = np.stack([head(seed=0), head(seed=1)], axis=-1)
    save(tmp_path / "two.nii", volumes)
    save(tmp_path / "five.nii", volumes[:, :, :, None])
    save(tmp_path / "one.nii", volumes[..., :1, None])
    for name in ("two", "five"):
        for number in (0, 1):
            found = open_nifti(tmp_path / f"{name}.nii", FileRecord(), volume=number)
            np.testing.assert_array_equal(found.values, volumes[..., number])
        with pytest.raises(InputError, match=r"2 volumes; --volume N takes one of them \(from 0\)"):
            open_nifti(tmp_path / f"{name}.nii", FileRecord())
        with pytest.raises(InputError, match="--volume 2: has 2 volumes"):
            open_nifti(tmp_path / f"{name}.nii", FileRecord(), volume=2)
    np.testing.assert_array_equal(open_nifti(tmp_path / "one.nii", FileRecord()).values, volumes[..., 0])


def test_a_dark_slice_between_good_ones_stays(tmp_path):
    values = head((24, 28, 24))
    values[..., [0, 9, 23]] *= 0.05
    save(tmp_path / "a.nii", values)
    summary = import_data("nifti", tmp_path / "a.nii", "s", tmp_path)
    (record,) = summary.read.values()
    (dropped,) = record.dropped.values()
    assert 9 not in dropped
    assert (
        dropped
        == [n for n in range(24) if n < dropped[len(dropped) // 2] or n >= dropped[len(dropped) // 2]][:0] + dropped
    )
    assert record.volume.n_slices == 24 - len(dropped) > 12
    every = import_data("nifti", tmp_path / "a.nii", "t", tmp_path, slices="all")
    assert every.as_dict()["slices"] == {"kept": 24, "found": 24, "dropped": {}}


# --- measured k-space ---


def test_sampling_is_judged_slice_by_slice():
    kspace = np.ones((4, 2, 16, 16), np.complex64)
    for number, one in enumerate(kspace):
        one[..., number::4] = 0
    assert sampled_share(kspace) == 0.75  # the union of all slices has every sample
    kspace[:, 1] = 1
    assert sampled_share(kspace) == 1.0  # another coil has them


@pytest.mark.slow
def test_full_kspace_beside_a_mask_has_its_reference(tmp_path):
    mask = (np.arange(20) % 4 == 0).astype("f4")
    for name, kspace, declared, reference, notes in (
        ("full", make_kspace(coils=2), mask, True, ["mask-contradicts-samples"]),
        ("ones", make_kspace(coils=2), np.ones(20), True, []),
        ("under", make_kspace(coils=2) * mask, mask, False, ["no-reference"]),
        ("other", make_kspace(coils=2) * mask, np.roll(mask, 1), False, ["no-reference", "mask-contradicts-samples"]),
        ("short", make_kspace(coils=2), mask[:10], True, ["mask-contradicts-samples"]),
    ):
        source = write_fastmri(tmp_path / f"{name}.h5", kspace.astype(np.complex64), mask=declared)
        summary = import_data("fastmri", source, name, tmp_path / "out")
        (record,) = summary.read.values()
        assert record.volume.has_reference is reference, name
        assert [note.kind for note in record.notes] == notes, name


def test_a_target_wider_than_its_kspace_and_a_wrong_target(tmp_path):
    kspace = make_kspace(coils=2)
    axes = (-2, -1)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)
    rss = np.sqrt((np.abs(images) ** 2).sum(axis=1))
    padded = np.pad(rss, ((0, 0), (0, 0), (2, 2)))  # 20 columns become 24
    for name, stored, notes in (("wide", 7 * padded, []), ("wrong", np.ones((3, 24, 24)), ["reference-differs"])):
        source = write_fastmri(tmp_path / f"{name}.h5", kspace, reconstruction_rss=stored)
        (record,) = import_data("fastmri", source, name, tmp_path / "out").read.values()
        assert [note.kind for note in record.notes] == notes


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("<y>20</y>", "<y>40</y>", "header-contradicts-matrix"),
        ("<x>48</x>", "<x>0.0048</x>", "header-implausible"),
        ("2.89", "28900", "header-implausible"),
    ],
)
def test_a_header_that_cannot_be_right_changes_nothing(old, new, kind, tmp_path):
    source = write_fastmri(tmp_path / "f.h5", make_kspace(), ismrmrd_header=HEADER.replace(old, new))
    summary = import_data("fastmri", source, "s", tmp_path / "out")
    (record,) = summary.read.values()
    assert kind in [note.kind for note in record.notes]
    shard = Imported.of(summary)
    assert None in (shard.voxel_mm, shard.field_strength_t)
    np.testing.assert_array_equal(shard.kspace("f"), make_kspace())


def test_headers_and_names_in_arrays_of_length_one_and_bytes(tmp_path):
    source = tmp_path / "a_1.mat"
    text = np.array([HEADER], h5py.string_dtype())
    write_fastmri(source, make_kspace(), ismrmrd_header=text)
    with h5py.File(source, "r+") as file:
        file.attrs["acquisition"] = np.bytes_(b"AXT2")
        file.attrs["patient_id"] = np.array(["p 7"], h5py.string_dtype())
    summary = import_data("fastmri", source, "s", tmp_path / "out")
    shard = Imported.of(summary)
    assert (shard.contrast, shard.field_strength_t, shard.voxel_mm) == ("AXT2", 2.89, (4.5, 2.0, 3.0))
    assert summary.splits["test"] == ["p 7"]
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(InputError, match=r"-v7\.3"):
        import_data("fastmri", tmp_path / "old.mat", "t", tmp_path / "out")


def test_numbers_beyond_complex64_are_refused(tmp_path):
    for factor, word in ((1e40, "above"), (1e-60, "below")):
        np.save(tmp_path / "a.npy", make_kspace().astype(np.complex128) * factor)
        with pytest.raises(InputError, match=word):
            import_data("npy", tmp_path / "a.npy", "s", tmp_path)


# --- nothing is destroyed ---


def test_no_other_command_replaces_a_source_or_a_shard(tmp_path, capsys):
    save(tmp_path / "a_1.nii", head())
    shard = import_data("nifti", tmp_path / "a_1.nii", "t1w", tmp_path).path
    np.save(tmp_path / "k.npy", make_kspace())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for source, output in (("k.npy", "k.npy"), ("a_1.nii", "a_1.nii"), ("t1w.h5", "t1w.h5"), ("k.npy", "t1w.h5")):
        arguments = ["reconstruct", "latest", str(tmp_path / source), "-o", str(tmp_path / output)]
        assert main(arguments) == 2
        assert str(tmp_path / output) in capsys.readouterr().err
    assert main(["data", "simulate", str(tmp_path), "--sites", "t2w", "t1w", "--size", "32", "--subjects", "1"]) == 2
    assert str(shard) in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- persons ---


def patients(folder):
    folder.mkdir()
    for number in range(10):
        path = write_fastmri(folder / f"file_brain_AXT{number % 2 + 1}_{number:03d}.h5", make_kspace(1, seed=number))
        with h5py.File(path, "r+") as file:
            file.attrs["patient_id"] = f"patient{number // 2}"
    return folder


@pytest.mark.slow
def test_a_patient_of_fastmri_is_in_one_split(tmp_path):
    folder = patients(tmp_path / "raw")
    summary = import_data("fastmri", folder, "s", tmp_path / "out")
    assert sorted(set(summary.subjects.values())) == [f"patient{number}" for number in range(5)]
    with pytest.raises(InputError, match="patient 'patient0' of the files would be 2 subjects"):
        import_data("fastmri", folder, "t", tmp_path / "out", subject_pattern=".*")
    merged = import_data("fastmri", folder, "u", tmp_path / "out", subject_pattern="file", dry_run=True)
    assert "people-as-one" in kinds(merged)


def test_an_id_that_names_nobody_is_none(tmp_path):
    for number in range(3):
        write_fastmri(tmp_path / f"p{number}_x.h5", make_kspace(1, seed=number))  # patient_id: anonymous
    summary = import_data("fastmri", tmp_path, "s", tmp_path / "out")
    assert sorted(set(summary.subjects.values())) == ["p0", "p1", "p2"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["IXI002-Guys-0828-T1", "IXI003-Guys-0829-T1"], "each-file-a-subject"),
        (["sub-01_T1w", "sub-1_T1w"], "one-as-people"),
        (["anna-v1_T1", "anna-v2_T1"], "one-as-people"),
        (["file_1", "file_2"], "people-as-one"),
        (["p1/x_T1", "p2/x_T2"], "people-as-one"),
        (["a_T1w", "b_FLAIR"], "mixed-contrasts"),
    ],
)
def test_names_that_give_doubt_are_warned_of(names, expected, tmp_path):
    for number, name in enumerate(names):
        save(tmp_path / "in" / f"{name}.nii", head((16, 18, 3), number))
    assert expected in kinds(import_data("nifti", tmp_path / "in", "s", tmp_path / "out", dry_run=True))


# --- the command ---


@pytest.mark.slow
def test_the_command_prints_or_gives_json_and_the_same_facts(tmp_path, capsys):
    for number in range(3):
        save(tmp_path / "in" / f"p{number}_T1.nii", head((16, 18, 3), number))
    (tmp_path / "in" / "p9_T1.mgz").write_bytes(b"x")
    command = ["data", "import", "nifti", str(tmp_path / "in"), "--site", "s", "--out", str(tmp_path / "out")]
    assert main([*command, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["written"], found["n_files"], found["other_files"]) == (False, 3, {".mgz": 1})
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(tmp_path / "out" / "s.h5")
    assert "1 .mgz" in said
    assert main(command) == 2
    assert main([*command, "--overwrite", "--zero", "nan,negative", "--slices", "all", "--plane", "axial"]) == 0
    assert main(["data", "inspect", str(tmp_path / "out"), "--json"]) == 0
