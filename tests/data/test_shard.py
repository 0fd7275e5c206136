"""A shard survives the round trip to disk, reads nothing before it is asked, and knows of changes."""

import multiprocessing
import os
import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_volumes import make_volume

from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.errors import InputError

PLAIN = {"simulated": True, "phase": "none"}


def test_written_is_read_in_labels_and_in_bits(make_shard):
    volumes = (
        make_volume("b_1", "b", "test", coils=3),
        make_volume("a_1", "a", "train", slices=2, ny=30, seed=4),
    )
    path = make_shard(
        "north",
        *volumes,
        contrast="T2",
        field_strength_t=1.5,
        simulated=False,
        phase="measured",
        vendor="x",
        echo=0.1,
    )
    shard = Shard.open(path)
    assert (shard.site, shard.contrast, shard.field_strength_t, shard.voxel_mm) == (
        "north",
        "T2",
        1.5,
        (3.0, 1.0, 1.5),
    )
    assert (shard.simulated, shard.phase, shard.n_coils) == (False, "measured", 3)
    assert shard.attributes == {"vendor": "x", "echo": 0.1}
    assert [volume.name for volume in shard.volumes] == ["a_1", "b_1"]
    for data in volumes:
        norm = float(np.linalg.norm(data.reference.astype(np.float64)))
        assert replace(data.about(), norm=norm) in shard.volumes
        np.testing.assert_array_equal(shard.kspace(data.name), data.kspace)
        np.testing.assert_array_equal(shard.reference(data.name), data.reference)
    assert [volume.subject for volume in shard.split("test")] == ["b"]
    shard.verify()


def test_uncompressed_slices_are_read_where_they_lie_page_aligned_and_read_only(make_shard):
    shard = Shard.open(make_shard())
    stored, kspace = shard.stored("a_1"), shard.kspace("a_1")
    assert shard.mapped
    assert stored.offset % 4096 == 0
    for index in (0, -1, slice(1, 3), slice(2, 2)):
        np.testing.assert_array_equal(stored[index], kspace[index])
    with pytest.raises(IndexError):
        stored[len(kspace)]
    for values in (kspace, stored[0]):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_file_that_is_cut_while_it_is_read_is_refused_by_name_and_kills_nobody(make_shard, compression):
    """Of a mapped file, this would be a SIGBUS: the end of this process."""
    path = make_shard("north", compression=compression)
    shard = Shard.open(path)
    stored = shard.stored("c_1")
    os.truncate(path, 5000)
    reads = [lambda: Shard.open(path), lambda: shard.kspace("c_1"), lambda: shard.reference("c_1"), shard.check_hash]
    for read in [*reads, *([lambda: stored[1]] if compression is None else [])]:
        with pytest.raises(InputError, match=r"north\.h5: (is truncated|cannot be read)") as refused:
            read()
        assert "\n" not in str(refused.value)
    path.unlink()
    if compression is None:
        with pytest.raises(InputError, match=r"north\.h5: cannot be read"):
            stored[1]


def test_compression_changes_the_file_and_not_the_content_hash(tmp_path):
    volume = make_volume()
    plain = write_shard(tmp_path / "plain.h5", "s", [volume], **PLAIN)
    packed = write_shard(tmp_path / "packed.h5", "s", [volume], compression="gzip", **PLAIN)
    shard = Shard.open(tmp_path / "packed.h5")
    assert packed == plain == shard.content_hash
    assert not shard.mapped
    shard.verify()
    np.testing.assert_array_equal(shard.kspace("a_1"), volume.kspace)
    with pytest.raises(ValueError, match="read-only"):
        shard.kspace("a_1")[0] = 0


def test_content_hash_follows_data_and_labels_and_not_the_order_of_writing(tmp_path):
    def hashed(*volumes, site="s"):
        return write_shard(tmp_path / "x.h5", site, volumes, **PLAIN)

    a, b = make_volume("a_1", "a"), make_volume("b_1", "b", seed=1)
    assert hashed(a, b) == hashed(b, a)
    others = [
        hashed(a),
        hashed(a, b, site="t"),
        hashed(a, make_volume("b_1", "b", seed=2)),
        hashed(a, make_volume("b_1", "B", seed=1)),
        hashed(a, make_volume("b_1", "b", "test", seed=1)),
    ]
    assert len({hashed(a, b), *others}) == 6


def test_single_coil_volume_is_a_fastmri_group(make_shard):
    with h5py.File(make_shard("one", make_volume())) as file:
        group = file["a_1"]
        assert group["kspace"].shape == (3, 24, 20)
        assert group.attrs["max"] == group["reconstruction_esc"][()].max()
        assert group.attrs["norm"] == pytest.approx(np.linalg.norm(group["reconstruction_esc"][()]), rel=1e-5)
        assert group.attrs["patient_id"] == "a"
    with h5py.File(make_shard("two", make_volume(coils=2))) as file:
        assert sorted(file["a_1"]) == ["kspace", "reconstruction_rss"]


def test_pickles_as_its_path_and_refuses_another_file_there(make_shard):
    path = make_shard()
    shard = Shard.open(path)
    sent = pickle.dumps(shard)
    assert len(sent) < 500
    assert pickle.loads(sent) == shard
    make_shard("north", make_volume())
    with pytest.raises(InputError, match="replaced by another"):
        pickle.loads(sent)


def _sum(shard: Shard) -> float:
    return float(np.abs(shard.kspace("a_1")).sum())


@pytest.mark.slow
def test_several_processes_read_one_shard(make_shard):
    shard = Shard.open(make_shard())
    with multiprocessing.get_context("forkserver").Pool(3) as pool:
        assert set(pool.map(_sum, [shard] * 10)) == {_sum(shard)}


def test_a_failed_write_leaves_the_old_shard_and_no_rubbish(make_shard):
    path = make_shard()
    before = path.read_bytes()

    def volumes():
        yield make_volume()
        raise InputError("the second file is broken")

    with pytest.raises(InputError, match="second file"):
        write_shard(path, "north", volumes(), **PLAIN)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("bare", "uses"),
    [
        ((), ["reconstruct", "test", "train"]),
        (("train",), ["reconstruct", "test", "train with ssdu"]),
        (("test",), ["reconstruct", "train"]),
        (("validation",), ["reconstruct", "test", "train"]),
        (("train", "validation", "test"), ["reconstruct", "train with ssdu"]),
    ],
)
def test_what_subjects_without_references_are_usable_for(make_shard, bare, uses):
    """One subject a split; and in training one with a reference more, which does not make up for the other."""
    volumes = [make_volume(split, split, split) for split in ("train", "validation", "test")]
    volumes = [replace(one, reference=None) if one.split in bare else one for one in volumes]
    shard = Shard.open(make_shard("north", *volumes, make_volume("more", "more", "train")))
    assert shard.summary()["usable_for"] == uses


def test_a_volume_without_reference_trains_with_ssdu_or_is_reconstructed(make_shard):
    bare = replace(make_volume("a_1", "a", "train"), reference=None)
    shard = Shard.open(make_shard("north", bare))
    shard.verify()
    assert shard.summary()["usable_for"] == ["reconstruct", "train with ssdu"]
    assert shard.data("a_1").reference is None
    with pytest.raises(InputError, match=r"no reference.*ssdu"):
        shard.reference("a_1")
    with pytest.raises(InputError, match="no fully sampled reference in a_1"):
        shard.require_training()


def test_one_subject_is_valid_for_testing_and_refused_for_training(make_shard):
    shard = Shard.open(make_shard("north", make_volume("c_1", "c", "test")))
    shard.verify()
    shard.require_references("test")
    assert shard.summary()["usable_for"] == ["reconstruct", "test"]
    with pytest.raises(InputError, match="no training subject"):
        shard.require_training()
    with pytest.raises(InputError, match="no subject in the split 'validation'"):
        shard.require_references("validation")


def test_opening_reads_labels_only(make_shard):
    path = make_shard()
    with h5py.File(path) as file:
        offset = file["a_1/kspace"].id.get_offset()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(np.full(4, np.nan, np.float32).tobytes())
    shard = Shard.open(path)
    with pytest.raises(InputError, match=r"volume 'a_1': slice 0 .* NaN"):
        shard.verify()


def test_names_are_checked_and_near_ones_proposed(make_shard):
    shard = Shard.open(make_shard())
    with pytest.raises(InputError, match="Did you mean 'validation'"):
        shard.split("valid")
    with pytest.raises(InputError, match="Did you mean 'a_1'"):
        shard.kspace("a_2")


def test_path_is_absolute(make_shard, monkeypatch):
    path = make_shard()
    monkeypatch.chdir(path.parent)
    assert Shard.open("north.h5").path == path
    assert isinstance(Shard.open("north.h5").path, Path)
