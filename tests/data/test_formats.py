"""Laws over every format, fastMRI and raw k-space; NIfTI has its own file."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from small_files import HEADER, rss, write_any, write_fastmri
from small_volumes import Imported, make_kspace

from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats import FORMATS
from fedrecon.sites.formats.importing import import_data
from fedrecon.sites.formats.one_file import read_input
from fedrecon.sites.imaging.metrics import ssim
from fedrecon.sites.scoring.slice_scores import score
from fedrecon.sites.training.batches import Slices

RECON = "<reconSpace><matrixSize><x>12</x><y>30</y><z>1</z></matrixSize></reconSpace><encodingLimits>"


@pytest.mark.parametrize("name", FORMATS)
class TestEveryFormat:
    @pytest.mark.slow
    def test_a_folder_becomes_a_sound_shard(self, name, tmp_path):
        folder = tmp_path / "in"
        folder.mkdir()
        for stem in ("a_1.2", "a_2", "b_1", "c_1"):
            write_any(name, folder, stem)
        (folder / "notes.txt").write_text("not imported")
        path = import_data(name, folder, "north", tmp_path / "out", contrast="T9")
        shard = Imported.of(path)
        shard.verify()
        shard.require_training()
        assert path.path == tmp_path / "out" / "north.h5"
        names = shard.names
        assert {volume.name for volume in shard.volumes} == set(map(names.volume, ("a_1.2", "a_2", "b_1", "c_1")))
        assert shard.subjects == {
            names.subject(name): split for name, split in {"a": "train", "b": "validation", "c": "test"}.items()
        }
        assert shard.pseudonym_key == names.fingerprint
        assert (shard.site, shard.contrast, shard.simulated) == ("north", "T9", FORMATS[name].simulated)
        assert shard.phase == ("smooth" if FORMATS[name].simulated else "measured")

    def test_the_same_import_has_the_same_content(self, name, tmp_path):
        source = write_any(name, tmp_path, "a_1")
        key = tmp_path / "one.key"
        hashes = {Shard.open(import_data(name, [source], "s", tmp_path / out, key=key)).content_hash for out in "xy"}
        assert len(hashes) == 1
        assert Shard.open(import_data(name, [source], "s", tmp_path / "z")).content_hash not in hashes

    def test_truncated_and_foreign_files_are_refused_by_name(self, name, tmp_path):
        source = write_any(name, tmp_path, "a_1")
        content = source.read_bytes()
        for broken in (content[: len(content) // 2], b"", b"nothing of the kind"):
            source.write_bytes(broken)
            with pytest.raises(InputError) as error:
                import_data(name, [source], "s", tmp_path / "out")
            assert str(error.value).startswith(f"{source}: ")
            assert [path.name for path in (tmp_path / "out").iterdir()] == ["consortium.key"]

    def test_missing_doubled_and_unsuited_sources_are_refused(self, name, tmp_path):
        source = write_any(name, tmp_path, "a_1")
        (tmp_path / "x.txt").write_text("x")
        cases = {
            "no such file or folder": [tmp_path / "nowhere"],
            "is there twice": [source, source],
            "no file that ends in": [tmp_path / "x.txt"],
            "no source was given": [],
        }
        for message, sources in cases.items():
            with pytest.raises(InputError, match=message):
                import_data(name, sources, "s", tmp_path / "out")

    def test_summary_and_suffixes_are_there(self, name, tmp_path):
        assert FORMATS[name].summary
        assert all(suffix.startswith(".") for suffix in FORMATS[name].suffixes)


def test_unknown_formats_and_choices_of_another_format_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"unknown format 'nifty'. Did you mean 'nifti'"):
        import_data("nifty", tmp_path, "s", tmp_path)
    with pytest.raises(InputError, match="format 'npy': unknown key 'size'"):
        import_data("npy", tmp_path, "s", tmp_path, size=64)


# --- fastMRI ---


def test_fastmri_single_and_multi_coil_by_their_own_definition(tmp_path):
    for coils in (1, 3):
        kspace = make_kspace(coils=coils)
        stored = kspace if coils > 1 else kspace[:, 0]
        crop = rss(kspace)[:, 4:20, 2:18].astype(np.float32)
        key = "reconstruction_rss" if coils > 1 else "reconstruction_esc"
        source = write_fastmri(tmp_path / "file1.h5", stored, **{key: crop})
        shard = Imported.of(import_data("fastmri", [source], f"s{coils}", tmp_path / "out"))
        np.testing.assert_array_equal(shard.kspace("file1"), kspace)
        np.testing.assert_allclose(shard.reference("file1")[:, 4:20, 2:18], crop, atol=1e-5)
        assert shard.contrast == "AXT2"


def test_fastmri_header_gives_padding_voxel_and_field(tmp_path):
    source = write_fastmri(tmp_path / "f.h5", make_kspace(), ismrmrd_header=HEADER)
    shard = Imported.of(import_data("fastmri", [source], "s", tmp_path / "out"))
    assert shard.field_strength_t == 2.89
    assert shard.voxel_mm == (4.5, 2.0, 3.0)
    # padding_left = 20 // 2 - 8 = 2, padding_right = 2 + 15 + 1 = 18; but there are samples, and they are kept
    np.testing.assert_array_equal(shard.kspace("f"), make_kspace())
    assert shard.imported["files"][0]["notes"] == ["header-contradicts-samples"]
    np.testing.assert_allclose(shard.reference("f"), rss(shard.kspace("f")), atol=1e-5)


FASTMRI_BROKEN = {
    "no kspace": ({"reconstruction_rss": np.ones((3, 4, 4))}, "dataset 'kspace' is missing"),
    "real": ({"kspace": make_kspace().real}, "'kspace' is float32"),
    "rank": ({"kspace": make_kspace()[0, 0]}, "'kspace' has the shape (24, 20)"),
    "axes": ({"kspace": make_kspace(coils=2).transpose(0, 2, 3, 1)}, "axes look out of order"),
    "zero slices": ({"kspace": make_kspace()[:0]}, "zero slices"),
    "NaN": ({"kspace": np.full((1, 1, 16, 16), np.nan, np.complex64)}, "NaN or infinity"),
    "infinity": ({"kspace": np.full((1, 1, 16, 16), np.inf, np.complex64)}, "NaN or infinity"),
    "zero": ({"kspace": np.zeros((1, 1, 16, 16), np.complex64)}, "all zero"),
    "reference": (
        {"kspace": make_kspace(), "reconstruction_esc": np.ones((2, 8, 8))},
        "does not fit the k-space",
    ),
    "header": ({"kspace": make_kspace(), "ismrmrd_header": "<a>"}, "'ismrmrd_header' cannot be read"),
}


@pytest.mark.parametrize("case", FASTMRI_BROKEN)
def test_broken_fastmri_files_are_named(case, tmp_path):
    datasets, message = FASTMRI_BROKEN[case]
    source = tmp_path / "f.h5"
    with h5py.File(source, "w") as file:
        for key, value in datasets.items():
            file[key] = value
    with pytest.raises(InputError) as error:
        import_data("fastmri", [source], "s", tmp_path / "out")
    assert message in str(error.value)
    assert str(source) in str(error.value)


# --- raw k-space ---


@pytest.mark.parametrize(("index", "shape"), [((0, 0), (1, 1)), (0, (1, 2)), (slice(None), (3, 2))])
def test_npy_of_two_three_and_four_axes(index, shape, tmp_path):
    kspace = make_kspace(coils=2)[index].astype(np.complex128)
    np.save(tmp_path / "k.npy", kspace)
    shard = Imported.of(import_data("npy", [tmp_path / "k.npy"], "s", tmp_path))
    assert shard.kspace("k").shape == (*shape, 24, 20)
    np.testing.assert_allclose(shard.kspace("k").reshape(kspace.shape), kspace, rtol=1e-6)
    np.testing.assert_allclose(shard.reference("k"), rss(shard.kspace("k")), atol=1e-5)


def test_npy_undersampled_has_no_reference_and_zero_padding_has(tmp_path):
    kspace = make_kspace()
    undersampled, padded = kspace.copy(), kspace.copy()
    undersampled[..., ::4] = 0
    padded[..., :3] = 0
    for name, array, expected in (("u", undersampled, False), ("p", padded, True)):
        np.save(tmp_path / f"{name}.npy", array)
        (volume,) = read_input(tmp_path / f"{name}.npy")
        assert (volume.reference is not None) is expected
        assert volume.split == "test"


def test_npy_refusals(tmp_path):
    cases = {
        "expected complex": make_kspace().real,
        r"has the shape \(20,\)": make_kspace()[0, 0, 0],
        "axes look out of order": make_kspace(coils=2)[0].transpose(1, 2, 0),
        "not centred": np.fft.ifftshift(make_kspace(), (-2, -1)),
        "all zero": np.zeros((16, 16), np.complex64),
        "NaN or infinity": np.full((16, 16), np.nan, np.complex64),
        "cannot be read": np.array([{}]),
    }
    for message, array in cases.items():
        np.save(tmp_path / "k.npy", array)
        with pytest.raises(InputError, match=message):
            import_data("npy", [tmp_path / "k.npy"], "s", tmp_path / "out")


# --- one file to reconstruct ---


def test_read_input_knows_shards_fastmri_and_npy(make_shard, tmp_path):
    assert [data.name for data in read_input(make_shard())] == ["a_1", "b_1", "c_1"]
    assert [data.name for data in read_input(write_any("fastmri", tmp_path, "f_1"))] == ["f_1"]
    with pytest.raises(InputError, match="is no k-space that can be reconstructed"):
        list(read_input(write_any("nifti", tmp_path, "n_1")))
    with pytest.raises(InputError, match="no such file"):
        list(read_input(tmp_path / "nowhere.npy"))


@pytest.mark.slow
def test_scores_are_of_the_matrix_that_fastmri_scores(tmp_path):
    """The stored image's matrix, else the header's reconstructed one; the shard keeps and seals it."""
    kspace, header = make_kspace(coils=2), HEADER.replace("<encodingLimits>", RECON)
    stored = rss(kspace)[:, 6:18, 2:18]
    cases = {
        "header": ({"ismrmrd_header": header}, (12, 20), set()),
        "image": ({"reconstruction_rss": stored}, (12, 16), set()),
        "both": (
            {"reconstruction_rss": stored, "ismrmrd_header": header},
            (12, 16),
            {"header-contradicts-image"},
        ),
        "narrow": ({"reconstruction_rss": rss(kspace)[:, :, 4:16]}, (12, 12), set()),
        "high": ({"reconstruction_rss": rss(kspace)}, (20, 20), set()),
        "neither": ({}, None, set()),
    }
    for name, (datasets, crop, notes) in cases.items():
        source = write_fastmri(tmp_path / f"{name}_1.h5", kspace, **datasets)
        done = import_data("fastmri", source, name, tmp_path)
        (volume,), ((_, record),) = Shard.open(done).volumes, done.read.items()
        assert (volume.crop, {note.kind for note in record.notes} - {"header-contradicts-samples"}) == (crop, notes), (
            name
        )
        y, x = crop or (24, 20)
        reference = rss(kspace)[:, 12 - y // 2 : 12 + y // 2, 10 - x // 2 : 10 + x // 2]
        assert volume.maximum == pytest.approx(reference.max(), rel=1e-5)
        Shard.open(done).verify()
    for edit in (lambda group: group.attrs.update(crop=(14, 20)), lambda group: group.attrs.pop("crop")):
        path = Path(import_data("fastmri", tmp_path / "header_1.h5", "header", tmp_path, overwrite=True))
        with h5py.File(path, "r+") as file:
            (name,) = file
            edit(file[name])
        with pytest.raises(InputError, match=r"hash differs|its maximum"):
            Shard.open(path).check_hash()


def test_a_slice_is_scored_within_the_crop_alone(tmp_path):
    """An error outside of the crop counts for nothing: the scores are those of the cut images."""
    kspace = make_kspace(coils=2)
    source = write_fastmri(tmp_path / "a_1.h5", kspace, reconstruction_rss=rss(kspace)[:, 6:18, 2:18])
    shard = Shard.open(import_data("fastmri", source, "s", tmp_path, noise_sigma=1.0))
    operators = {"s": Undersampling.read({"mask": "random", "acceleration": 2})}
    slices = Slices({"s": shard}, operators, "test", torch.device("cpu"))
    images = torch.from_numpy(rss(kspace)[:1].astype(np.complex64))
    images[:, 8, 5] *= 1.5
    images[:, :6] += 100
    table = score(slices, [slices.items[:1]], "test", lambda *_: images, 0, "global", "s").columns
    row = {name: values[0] for name, values in table.items()}
    cut = (np.abs(images.numpy())[:, 6:18, 2:18], rss(kspace)[:1, 6:18, 2:18])
    assert row["stage"] == "output"
    assert row["n_pixels"] == 12 * 16
    assert row["squared_error"] == pytest.approx(((cut[0] - cut[1]) ** 2).sum(), rel=1e-3)
    assert row["ssim"] == pytest.approx(ssim(cut[1], cut[0], shard.volumes[0].maximum), rel=1e-4)
