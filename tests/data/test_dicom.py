"""DICOM: the same pixels as NIfTI, what is no volume, and that nothing of a person is shown or kept."""

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from small_dicom import STACK, loaded, refuse, series
from small_files import image, write_dicom
from small_volumes import Imported

from fedrecon.sites.errors import FileError, InputError
from fedrecon.sites.formats import Label
from fedrecon.sites.formats.dicom import DICOM
from fedrecon.sites.formats.dicom_image import _stored
from fedrecon.sites.formats.importing import import_data

PLANES = {"axial": [1, 0, 0, 0, 1, 0], "sagittal": [0, 1, 0, 0, 0, -1], "coronal": [1, 0, 0, 0, 0, -1]}


def as_nifti(path: Path, stack, axes, step, scale=(1, 0)) -> Path:
    """The same voxels as NIfTI; the affine is that of DICOM (PS3.3, C.7.6.2.1.1) with x and y turned round."""
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = 2.0 * np.array(axes[:3]), 1.5 * np.array(axes[3:])
    affine[:3, 2], affine[:3, 3] = step, 10
    affine[:2] *= -1
    values = stack.transpose(2, 1, 0) * np.float64(scale[0]) + scale[1]
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("plane", "side"), [("axial", 1), ("axial", -1), ("sagittal", -1), ("coronal", 1)])
def test_a_subject_has_the_same_pixels_as_dicom_and_as_nifti(plane, side, tmp_path):
    axes = PLANES[plane]
    step = tuple(side * 5.0 * np.cross(axes[:3], axes[3:]))
    scale = {"RescaleSlope": 0.5, "RescaleIntercept": 3}
    folder = series(tmp_path / "a_1", STACK, step, ImageOrientationPatient=axes, **scale)
    nifti = as_nifti(tmp_path / "a_1.nii", STACK, axes, step, (0.5, 3))
    for number, options in enumerate(({"size": 12}, {"plane": "coronal"})):
        one, two = (
            import_data(name, source, f"{name}{number}", tmp_path / "out", slices="all", **options)
            for name, source in (("dicom", folder), ("nifti", nifti))
        )
        ((_, ours),), ((_, theirs),) = one.read.items(), two.read.items()
        assert (ours.plane, ours.field_of_view_mm) == (theirs.plane, theirs.field_of_view_mm)
        assert ours.volume.name == theirs.volume.name
        mine, other = (Imported.of(done) for done in (one, two))
        np.testing.assert_array_equal(mine.reference("a_1"), other.reference("a_1"))
        np.testing.assert_array_equal(mine.kspace("a_1"), other.kspace("a_1"))


def test_frames_of_one_file_are_the_images_of_many(tmp_path):
    many, _ = loaded(series(tmp_path / "many", slices := STACK[[0, 1, 2, 3]]))
    one, record = loaded(write_dicom(tmp_path / "one.dcm", slices, position=(10, 10, 10)))
    np.testing.assert_array_equal(one.reference, many.reference)
    assert one.voxel_mm == many.voxel_mm == (5.0, 1.5, 2.0)
    assert record.facts["images"] == "4 in 1 file"


def test_the_stated_phase_encoding_says_which_plane_is_the_slice(tmp_path):
    thin = {"SliceThickness": 1.0, "step": (0.0, 0.0, 1.0)}
    assert loaded(series(tmp_path / "a", **thin))[1].plane == "sagittal"  # of the thickest voxels, as in NIfTI
    _, record = loaded(series(tmp_path / "b", **thin, InPlanePhaseEncodingDirection="ROW"))
    assert (record.plane, record.rule) == ("axial", "phase-encoding direction")


PERSON = {
    "PatientName": "Zwingli^Huldrych",
    "PatientID": "QX-48151623",
    "PatientBirthDate": "14840101",
    "StudyDate": "15311011",
    "AccessionNumber": "ACC9876543",
    "InstitutionName": "Grossmuenster Spital",
    "ReferringPhysicianName": "Bullinger^Heinrich",
    "StudyInstanceUID": "1.2.840.777.15.31",
    "SeriesInstanceUID": "1.2.840.777.15.31.9",
    "StudyDescription": "Zwingli annual",
    "SeriesDescription": "T2 Zwingli 1531",
    "ProtocolName": "proto QX-48151623",
}
SECRET = ("Zwingli", "Huldrych", "QX-4815", "48151623", "1484", "1531", "ACC98", "Grossm", "Bulling", "1.2.840.777")
BROKEN = {
    "modality": {"Modality": "ZWINGLI 1531"},
    "orientation": {"ImageOrientationPatient": None},
    "spacing": {"PixelSpacing": [0.0, 1.0]},
    "slope": {"RescaleSlope": 0},
    "photometric": {"PhotometricInterpretation": "ZWINGLI1531"},
    "kind": {"ImageType": ["ZWINGLI", "QX-48151623", "P"]},
    "short": {"PixelData": b"Zwingli^Huldrych"},
    "zero": {"PixelData": bytes(640)},
}


@pytest.mark.slow
def test_no_name_date_or_id_reaches_a_shard_a_log_or_an_error(tmp_path, caplog, capsys, recwarn):
    folder = series(tmp_path / "scan", **PERSON)
    shown = []
    for dry in (True, False):
        summary = import_data("dicom", folder, "s", tmp_path / "out", dry_run=dry)
        shown += [*summary.lines(), json.dumps(summary.as_dict()), repr(summary)]
    kept = Imported.of(summary)
    assert set(kept.subjects) == {kept.names.subject(PERSON["PatientID"])}
    assert kept.contrast == "t2"
    raw = Path(summary).read_bytes()
    assert not [word for word in SECRET if word.casefold().encode() in raw.lower()]
    wrong = tmp_path / "wrong.dcm"
    for case, elements in BROKEN.items():
        write_dicom(wrong, image(), **{**PERSON, **elements})
        with pytest.raises(InputError) as error:
            import_data("dicom", wrong, "w", tmp_path / "out")
        assert len(str(error.value).splitlines()) == 1, case
        shown.append(str(error.value))
    content = write_dicom(wrong, image(), **PERSON).read_bytes()
    quoted = content.replace(b"1.5\\2.0 ", b"1\\1531AB")  # pydicom's error for a number quotes it
    assert quoted != content
    wrong.write_bytes(quoted)
    with pytest.raises(InputError) as error:
        import_data("dicom", wrong, "w", tmp_path / "out")
    shown.append(str(error.value))
    for place in range(140, len(content) - 640, 29):
        for changed in (content[:place], content[:place] + b"\xff\x00\xffZwi" + content[place + 6 :]):
            wrong.write_bytes(changed)
            try:
                shown += import_data("dicom", wrong, "w", tmp_path / "out", dry_run=True).lines()
            except InputError as error:
                shown.append(str(error))
    with pytest.raises(InputError) as error:
        import_data("dicom", folder, "s", tmp_path / "out", overwrite=True, test_subjects=["nobody"])
    shown.append(str(error.value))
    (tmp_path / "scan" / "other").mkdir()
    series(tmp_path / "scan" / "other", **{**PERSON, "SeriesInstanceUID": "1.2.840.777.15.31.8"})
    with pytest.raises(InputError) as error:
        import_data("dicom", folder, "s", tmp_path / "out", overwrite=True, subject_pattern="scan$|other")
    shown += [str(error.value), caplog.text, *capsys.readouterr(), *(str(one.message) for one in recwarn)]
    text = "\n".join(shown).casefold()
    assert not [word for word in SECRET if word.casefold() in text]


@pytest.mark.slow
def test_a_patient_is_one_subject_and_is_named_by_id_or_pseudonym(tmp_path):
    for number, person in enumerate(("P1", "P1", "P2", "P3")):
        series(tmp_path / "in" / f"scan{number}", STACK + np.uint16(number), PatientID=person)
    done = import_data("dicom", tmp_path / "in", "s", tmp_path / "out", test_subjects=["P1"])
    names = Imported.of(done).names
    assert done.splits["test"] == [names.subject("P1")]
    assert {path.name for path, subject in done.subjects.items() if subject == names.subject("P1")} == {
        "scan0",
        "scan1",
    }
    again = {"dry_run": True, "test_subjects": [names.subject("P1")]}
    assert import_data("dicom", tmp_path / "in", "s2", tmp_path / "out", **again).splits == done.splits
    fresh = import_data("dicom", tmp_path / "in", "s3", tmp_path / "new", dry_run=True, test_subjects=["P1"])
    assert "no-key" in {note.kind for note in fresh.notes}
    assert len(fresh.splits["test"]) == 1


def test_series_in_one_folder_are_told_apart_and_files_need_no_suffix(tmp_path):
    for name, uid in (("x", "1.2.3"), ("y", "1.2.4")):
        for number, pixels in enumerate(STACK):
            write_dicom(tmp_path / f"1.2.{name}.{number}", pixels, None, (0, 0, number), SeriesInstanceUID=uid)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "note.txt").write_text("x")
    reader = DICOM()
    paths, others = reader.find([tmp_path])
    assert others == {"": 1, ".txt": 1}
    assert [(path.name, len(reader.files(path))) for path in paths] == [("1.2.x.0", 4), ("1.2.y.0", 4)]
    assert reader.stem(paths[0]) == "1.2.x.0"


KINDS = {
    "phase": {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]},
    "real": {"ImageType": ["ORIGINAL", "PRIMARY", "R_FFE", "R", "FFE"]},
    "imaginary": {"ComplexImageComponent": "IMAGINARY"},
    "computed maps": {
        "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"],
        "FrameType": ["ORIGINAL", "PRIMARY", "T1", "T1 MAP"],
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_magnitudes_are_read(kind, tmp_path):
    folder = series(tmp_path / "a", **KINDS[kind])
    with pytest.raises(FileError, match=f"no magnitude images: 4 {kind}"):
        loaded(folder)
    for number, pixels in enumerate(STACK):
        write_dicom(folder / f"m{number}", pixels, folder, (10, 10, 10 + 5 * number))
    data, record = loaded(folder)
    assert [note.kind for note in record.notes] == ["not-magnitude"]
    np.testing.assert_array_equal(data.reference, loaded(series(tmp_path / "b"))[0].reference)


@pytest.mark.slow
def test_what_is_no_stack_is_refused(tmp_path):
    missing = series(tmp_path / "missing")
    (missing / "2").unlink()  # the second of four
    refuse(missing, "not evenly spaced")
    refuse(series(tmp_path / "sheared", step=(0.0, 1.0, 5.0)), r"shifted against each other, by 1 mm")
    twice = series(tmp_path / "twice")
    (twice / "copy").write_bytes((twice / "0").read_bytes())
    refuse(twice, "holds an image twice, in 0 and copy")
    turned = series(tmp_path / "turned")
    write_dicom(turned / "9", image(), turned, (10, 10, 30), ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    refuse(turned, "several planes")
    sized = series(tmp_path / "sized")
    write_dicom(sized / "9", image(20, 18), sized, (10, 10, 30))
    refuse(sized, "20x16 .* 20x18")
    refuse(series(tmp_path / "mosaic", STACK[:1], ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]), "mosaic")
    broken = series(tmp_path / "broken")
    (broken / "0").write_bytes((broken / "0").read_bytes()[:-100])
    refuse(broken, "broken: 0: is damaged")


def test_contrast_and_field_are_those_of_the_header(tmp_path):
    said = {
        "t1": {"SeriesDescription": "Sag T1w mprage"},
        "flair": {"SeriesDescription": "ax_T2_FLAIR"},
        "t2star": {"ProtocolName": "ep2d T2*"},
        "pd": {"AcquisitionContrast": "PROTON_DENSITY", "SeriesDescription": "t2"},
        "": {"SeriesDescription": "t1 and t2"},
    }
    for contrast, elements in said.items():
        data, _ = loaded(write_dicom(tmp_path / "a.dcm", image(), MagneticFieldStrength=3, **elements))
        assert (data.acquisition, data.field_strength_t) == (contrast, 3.0)
    weighted = {"ImageType": ["ORIGINAL", "PRIMARY", "T1", "M"]}  # a contrast, and no map of T1
    data, record = loaded(write_dicom(tmp_path / "a.dcm", image(), MagneticFieldStrength=15000, **weighted))
    assert data.field_strength_t is None
    assert [note.kind for note in record.notes] == ["header-implausible"]


@pytest.mark.slow
def test_padding_is_zero_and_each_image_has_its_own_scale(tmp_path):
    padded = image() + np.uint16(9) * (image() == 0)
    data, record = loaded(write_dicom(tmp_path / "a.dcm", padded, PixelPaddingValue=9))
    plain, _ = loaded(write_dicom(tmp_path / "b.dcm", image()))
    np.testing.assert_array_equal(data.reference, plain.reference)
    assert record.replaced == {"padding": int((padded == 9).sum())}
    for number in range(4):
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        write_dicom(folder / f"{number}", image(), folder, (0, 0, 5 * number), RescaleSlope=number + 2)
    scaled, record = loaded(folder)
    np.testing.assert_array_equal(scaled.reference, loaded(series(tmp_path / "c"))[0].reference)
    assert [note.kind for note in record.notes] == ["scales-differ"]


def test_padding_is_zero_after_the_scale_also_where_it_is_zero_and_up_to_its_limit(tmp_path):
    """Slope 2 and intercept 100: the picture is 2 p + 100 inside, and 0 in its padding, whatever that is stored as."""
    inside = image() > 0
    expected = np.where(inside, 2.0 * image() + 100, 0)
    scale = {"RescaleSlope": 2, "RescaleIntercept": 100}
    many = (2000 + np.arange(16) % 5 * np.ones((20, 1))).astype(np.uint16)
    for outside, elements in (
        (np.uint16(2000), {"PixelPaddingValue": 2000}),
        (np.uint16(0), {"PixelPaddingValue": 0}),
        (many, {"PixelPaddingValue": 2000, "PixelPaddingRangeLimit": 2004}),
        (many, {"PixelPaddingValue": 2004, "PixelPaddingRangeLimit": 2000}),
    ):
        path = write_dicom(tmp_path / "a.dcm", np.where(inside, image(), outside), **scale, **elements)
        data, record = loaded(path, slices="all")
        np.testing.assert_allclose(np.unique(data.reference), np.unique(expected))
        assert record.replaced == {"padding": int((~inside).sum())}
    signed = np.where(inside, image(), -2000).astype(np.int16)
    _, record = loaded(write_dicom(tmp_path / "a.dcm", signed, PixelRepresentation=1, PixelPaddingValue=-2000))
    assert record.replaced == {"padding": int((~inside).sum())}
    assert [_stored(63536, np.dtype(one)) for one in ("i2", "u2", "i4")] == [-2000, 63536, 63536]
    assert [_stored(-2000, np.dtype(one)) for one in ("i2", "u2")] == [-2000, 63536]
    _, record = loaded(write_dicom(tmp_path / "a.dcm", image(), PixelPaddingValue=0))
    assert record.replaced == {}  # without an intercept they are zero already


def test_bits_above_those_that_are_stored_are_no_values(tmp_path):
    plain, _ = loaded(write_dicom(tmp_path / "a.dcm", image()))
    overlaid = image() | np.uint16(1 << 14) * (np.arange(16) < 6).astype(np.uint16)
    data, record = loaded(write_dicom(tmp_path / "b.dcm", overlaid, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(data.reference, plain.reference)
    assert not record.notes


@pytest.mark.slow
def test_every_file_of_pydicom_is_read_or_refused_in_one_line(recwarn):
    import pydicom.data

    folder = Path(pydicom.data.__file__).parent / "test_files"
    read, refused = set(), set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        ((_, found, _),) = DICOM().read([path], lambda _: Label("v", "s", "train"))
        if isinstance(found, FileError):
            assert len(str(found).splitlines()) == 1
            assert len(found.reason) < 200
        (refused if isinstance(found, FileError) else read).add(path.name)
    assert read >= {"MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "examples_overlay.dcm", "15820"}
    assert refused >= {"MR_truncated.dcm", "CT_small.dcm", "DICOMDIR", "README.txt"}
    assert not [one for one in recwarn if "pydicom" in str(one.filename)]


def test_without_pydicom_one_line_says_what_to_install(tmp_path, monkeypatch):
    source = write_dicom(tmp_path / "a.dcm", image())
    for module in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"pip install 'fedrecon\[dicom\]'") as error:
        import_data("dicom", source, "s", tmp_path / "out")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()
