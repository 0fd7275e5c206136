"""Laws of an import, over every format: the pixels, the split, the sources, the summary, and what is written."""

import itertools
import json
import os
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from small_files import write_any, write_fastmri
from small_volumes import Imported, make_kspace

from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import FileError, InputError
from fedrecon.sites.formats import FORMATS, Label
from fedrecon.sites.formats.importing import import_data
from fedrecon.sites.formats.nifti_file import open_nifti
from fedrecon.sites.formats.one_file import read_input
from fedrecon.sites.formats.record import FileRecord

ORIENTATIONS = [
    "".join(axes) for order in itertools.permutations(("RL", "AP", "SI")) for axes in itertools.product(*order)
]
STORED = [(dtype, order, scaled) for dtype in ("u1", "i2", "f4", "f8") for order in "<>" for scaled in (False, True)]


def stored(values, axes: str, dtype: str, order: str, scaled: bool):
    """The volume (RAS+) as bytes of a file whose voxel axes point as ``axes`` says."""
    codes = nibabel.orientations
    turn = codes.ornt_transform(codes.axcodes2ornt("RAS"), codes.axcodes2ornt(axes))
    affine = np.diag([1.5, 1.0, 4.0, 1.0]) @ codes.inv_ornt_aff(turn, values.shape)
    turned = codes.apply_orientation(values, turn)
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(order + dtype))
    image = nibabel.Nifti1Image(2 * turned - 4 if scaled else turned, affine, header)
    image.header.set_slope_inter(*((0.5, 2) if scaled else (1, 0)))
    return image.to_bytes()


@pytest.mark.slow
def test_one_image_has_the_same_pixels_however_it_is_stored(tmp_path):
    values = 2 + np.arange(5 * 6 * 4, dtype=np.float32).reshape(5, 6, 4)
    path, seen = tmp_path / "a.nii", set()
    for number, axes in enumerate(ORIENTATIONS):
        for how in STORED if number == 0 else [STORED[number % len(STORED)], STORED[(5 * number) % len(STORED)]]:
            path.write_bytes(stored(values, axes, *how))
            record = FileRecord()
            images, voxel = open_nifti(path, record).slices()
            np.testing.assert_array_equal(images, values.transpose(2, 1, 0)[:, ::-1, ::-1], err_msg=f"{axes} {how}")
            np.testing.assert_allclose(voxel, (4.0, 1.0, 1.5), rtol=1e-6)
            assert record.orientation == axes
            seen.add(axes)
    assert len(seen) == 48


@pytest.mark.slow
def test_the_plane_is_the_patients_however_it_is_stored(tmp_path):
    values = 2 + np.arange(5 * 6 * 4, dtype=np.float32).reshape(5, 6, 4)
    expected = {
        "sagittal": values.transpose(0, 2, 1)[:, ::-1, ::-1],
        "coronal": values.transpose(1, 2, 0)[:, ::-1, ::-1],
        "axial": values.transpose(2, 1, 0)[:, ::-1, ::-1],
    }
    for axes, (plane, images) in itertools.product(ORIENTATIONS[::5], expected.items()):
        (tmp_path / "a.nii").write_bytes(stored(values, axes, "f4", "<", False))
        np.testing.assert_array_equal(open_nifti(tmp_path / "a.nii", FileRecord(), plane).slices()[0], images)
        across = {"sagittal": "RL", "coronal": "AP", "axial": "SI"}[plane]
        axis = next(number for number, letter in enumerate(axes) if letter in across)
        np.testing.assert_array_equal(open_nifti(tmp_path / "a.nii", FileRecord(), str(axis)).slices()[0], images)


def pairs(kspace, order="<"):
    return np.stack([kspace.real, kspace.imag], axis=-1).astype(f"{order}f4")


def records(kspace, order="<", names=("real", "imag")):
    made = np.zeros(kspace.shape, [(name, f"{order}f4") for name in names])
    made[names[0]], made[names[1]] = kspace.real, kspace.imag
    return made


@pytest.mark.parametrize("name", ["fastmri", "npy"])
def test_one_k_space_is_the_same_however_it_is_stored(name, tmp_path):
    kspace = make_kspace(coils=2)
    ways = {
        "c8": kspace,
        "c16": kspace.astype(np.complex128),
        "big": kspace.astype(">c8"),
        "pairs": pairs(kspace),
        "big pairs": pairs(kspace, ">"),
        "records": records(kspace),
        "big records": records(kspace, ">", ("Re", "Im")),
    }
    for way, values in ways.items():
        source = tmp_path / ("f_1.npy" if name == "npy" else "f_1.h5")
        if name == "npy":
            np.save(source, values)
        else:
            write_fastmri(source, values)
        (found,) = read_input(source)
        np.testing.assert_array_equal(found.kspace, kspace, err_msg=way)
        assert found.kspace.dtype == np.complex64
        assert found.kspace.dtype.isnative


@pytest.fixture(params=FORMATS)
def ward(request, tmp_path):
    """Files of six persons below folders, with spaces and umlauts in their names, and what they were."""
    folder = tmp_path / "in"
    for number in range(1, 7):
        place = folder / f"Müller {number}" / "ses-1"
        place.mkdir(parents=True)
        write_any(request.param, place, f"Patient {number}_scan")
    (folder / "notes.txt").write_text("x")
    return request.param, folder


def state(folder: Path):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def kinds(summary):
    """The kinds of warnings, but for the one that all files of these tests hold one image."""
    return {note.kind for note in summary.notes if "same image" not in note.text}


def without_key(summary):
    """The summary without what follows from the key, which a dry run does not make."""
    shown = summary.as_dict()
    for file in shown["files"]:
        for label in ("name", "subject", "noise"):
            del file["volume"][label]
    return {**shown, "written": None}


@pytest.mark.slow
def test_a_dry_run_says_the_same_and_writes_nothing_and_no_source_is_touched(ward, tmp_path):
    name, folder = ward
    before = state(folder)
    planned = import_data(name, folder, "s", tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    done = import_data(name, folder, "s", tmp_path / "out")
    assert state(folder) == before
    assert (planned.written, done.written) == (False, True)
    assert without_key(planned) == without_key(done)
    json.dumps(done.as_dict())


@pytest.mark.slow
def test_the_summary_agrees_with_the_shard_and_the_shard_keeps_it_without_names(ward, tmp_path):
    name, folder = ward
    summary = import_data(name, folder, "s", tmp_path / "out")
    shard = Imported.of(summary)
    shard.verify()
    said, kept = summary.as_dict(), shard.imported
    assert said["usable_for"] == kept["usable_for"] == shard.summary()["usable_for"]
    assert kept["slices"]["kept"] == shard.summary()["n_slices"] == sum(volume.n_slices for volume in shard.volumes)
    assert kept["slices"]["found"] - sum(kept["slices"]["dropped"].values()) == kept["slices"]["kept"]
    assert said["other_files"] == {".txt": 1}
    splits = {names: split for split, some in said["splits"].items() for names in some}
    assert {shard.names.subject(subject): split for subject, split in splits.items()} == shard.subjects
    assert {file["volume"]["name"] for file in kept["files"]} == {volume.name for volume in shard.volumes}
    raw = Path(summary).read_bytes()
    assert not [word for word in ("Patient", "Müller", "ses-1") if word.encode() in raw]
    assert all(len(line) < 200 for line in summary.lines())


@pytest.mark.slow
def test_a_shard_is_replaced_only_if_it_is_said_and_only_by_a_good_one(ward, tmp_path):
    name, folder = ward
    first = Shard.open(import_data(name, folder, "s", tmp_path / "out"))
    with pytest.raises(InputError, match="--overwrite"):
        import_data(name, folder, "s", tmp_path / "out")
    bad = next(folder.rglob("Patient 3*"))
    bad.write_bytes(b"")
    with pytest.raises(InputError):
        import_data(name, folder, "s", tmp_path / "out", overwrite=True)
    assert Shard.open(first.path).content_hash == first.content_hash
    done = import_data(name, folder, "s", tmp_path / "out", overwrite=True, skip_bad=True)
    assert done.overwrote
    assert list(done.skipped) == [bad]
    assert len(Shard.open(done).volumes) == 5


@pytest.mark.slow
def test_all_bad_files_are_named_at_once_and_left_out_on_request(ward, tmp_path):
    name, folder = ward
    files = sorted(path for path in folder.rglob("Patient*"))
    files[0].write_bytes(b"/annex/objects/MD5E-s1--0")
    files[2].write_bytes(files[2].read_bytes()[: files[2].stat().st_size // 2])
    files[4].unlink()
    files[4].symlink_to("away")
    with pytest.raises(InputError) as error:
        import_data(name, folder, "s", tmp_path / "out")
    assert [line.split(": ")[0] for line in str(error.value).splitlines()[:3]] == [str(files[n]) for n in (0, 2, 4)]
    assert not (tmp_path / "out" / "s.h5").exists()
    summary = import_data(name, folder, "s", tmp_path / "out", skip_bad=True)
    assert list(summary.skipped) == [files[n] for n in (0, 2, 4)]
    assert "git-annex" in summary.skipped[files[0]]
    assert "away" in summary.skipped[files[4]]
    assert len(Shard.open(summary).volumes) == 3


def test_no_import_writes_onto_its_source_or_onto_a_foreign_file(ward, tmp_path):
    name, folder = ward
    source = sorted(folder.rglob("Patient*"))[0]
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "s.h5"
    for make in (os.link, os.symlink):
        make(source, target)
        content = source.read_bytes()
        for overwrite in (False, True):
            with pytest.raises(InputError, match="source"):
                import_data(name, source, "s", tmp_path / "out", overwrite=overwrite)
        assert source.read_bytes() == content
        target.unlink()
    target.write_bytes(b"somebody's")
    with pytest.raises(InputError, match="no shard"):
        import_data(name, source, "s", tmp_path / "out", overwrite=True)
    assert target.read_bytes() == b"somebody's"


@pytest.mark.slow
def test_one_folder_a_patient_gives_subjects_by_folder(ward, tmp_path):
    name, folder = ward
    for path in sorted(folder.rglob("Patient*")):
        path.rename(path.with_name("T1" + "".join(path.suffixes)))
    summary = import_data(name, folder, "s", tmp_path / "out", dry_run=True, subject_pattern=r"Müller \d")
    assert sorted(set(summary.subjects.values())) == [f"Müller {number}" for number in range(1, 7)]
    by_name = import_data(name, folder, "s", tmp_path / "out", dry_run=True)
    assert sorted(set(by_name.subjects.values())) == [f"Müller {number}" for number in range(1, 7)]


@pytest.mark.slow
def test_a_list_says_subjects_and_splits_and_serves_several_sites(ward, tmp_path):
    name, folder = ward
    rows = [f"Patient {n}_scan\tP{(n + 1) // 2}\t{('train', 'validation', 'test')[(n - 1) // 2]}" for n in range(1, 7)]
    table = tmp_path / "list.tsv"

    def imported(*lines):
        table.write_text("\n".join(("file\tsubject\tsplit", *lines)), encoding="utf-8-sig")
        return import_data(name, folder, "s", tmp_path / "out", dry_run=True, subjects_from=table)

    summary = imported(*rows, "Patient 9_scan\tP9\ttrain")
    assert summary.splits == {"train": ["P1"], "validation": ["P2"], "test": ["P3"]}
    assert kinds(summary) == {"rows-without-file"}
    wrong = {
        "no row for": rows[:5],
        "two rows": [*rows, rows[0]],
        "unknown split 'tset'. Did you mean 'test'": [*rows[:5], "Patient 6_scan\tP9\ttset"],
        "is in 'train' and 'test'": [*rows[:5], "Patient 6_scan\tP1\ttest"],
        "line 7": [*rows[:5], "Patient 6_scan\tP3"],
    }
    for message, lines in wrong.items():
        with pytest.raises(InputError, match=message):
            imported(*lines)
    table.write_text("file\tsubjct\n")
    with pytest.raises(InputError, match="Did you mean 'subject'"):
        import_data(name, folder, "s", tmp_path / "out", subjects_from=table)


@pytest.mark.slow
def test_an_absent_test_subject_is_a_warning_only_beside_one_that_is_here(ward, tmp_path):
    name, folder = ward
    summary = import_data(name, folder, "s", tmp_path, dry_run=True, test_subjects=["Patient 6", "Patient 7"])
    assert summary.splits["test"] == ["Patient 6"]
    assert kinds(summary) == {"subject-not-here"}
    with pytest.raises(InputError, match="Patient 7") as error:
        import_data(name, folder, "s", tmp_path, dry_run=True, test_subjects=["Patient 7"])
    assert error.value.unknown == ("Patient 7",)


def test_every_format_reads_labels_only_from_its_argument(ward):
    """The volume has the labels that it was given, and the record those of the volume."""
    name, folder = ward
    reader = FORMATS[name]()
    source = sorted(folder.rglob("Patient*"))[0]
    ((path, data, record),) = reader.read([source], lambda _: Label("v", "s", "validation"))
    assert (path, data.name, data.subject, data.split) == (source, "v", "s", "validation")
    assert record.volume == data.about()
    ((_, error, _),) = reader.read([source.with_name("gone")], lambda _: Label("v", "s", "train"))
    assert isinstance(error, FileError)
    assert error.path == str(source.with_name("gone"))
    assert error.path not in error.reason


def test_a_summary_text_that_is_long_fits_in_the_shard(tmp_path, make_shard):
    path = make_shard()
    with h5py.File(path, "r+") as file:
        file.attrs["import_summary"] = json.dumps({"files": ["x" * 100] * 2000})  # more than 64 KiB
    assert len(Shard.open(path).imported["files"]) == 2000
