"""A shard whose content is not what its hash says is refused, and sealed anew on request."""

import os
import pickle
import time

import h5py
import numpy as np
import pytest
from small_volumes import make_volume

from fedrecon.sites.data.seal import seal
from fedrecon.sites.data.shard import Shard, VolumeData, open_sealed
from fedrecon.sites.data.stamp import Stamp, _entry, note
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.numpy_fourier import fft2c_numpy


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEDRECON_CACHE", str(folder))
    return folder / "seals"


@pytest.fixture
def settled(monkeypatch):
    """Files that were written now count as written long ago."""
    monkeypatch.setattr("fedrecon.sites.data.stamp._SETTLED_NS", -(10**12))


def _edit(change):
    def edit(path):
        with h5py.File(path, "r+") as file:
            change(file)

    return edit


def _value(key, factor=1.5):
    def change(file):
        file[key][0] = file[key][0] * factor

    return _edit(change)


def _bytes(path):
    with h5py.File(path) as file:
        offset = file["a_1/kspace"].id.get_offset()
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(np.full(2, 0.5, np.float32).tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nothing had happened


def _label(key, value):
    return _edit(lambda file: file["a_1"].attrs.__setitem__(key, value))


def _root(key, value):
    return _edit(lambda file: file.attrs.__setitem__(key, value))


def _swap(file):
    file.move("a_1", "x")
    file.move("b_1", "a_1")
    file.move("x", "b_1")


# What is sealed anew still fits together: the reference is the image of the k-space within 2 % of its maximum.
TAMPERED = {
    "k-space": _value("a_1/kspace", 1.005),
    "reference": _edit(lambda file: file["a_1/reconstruction_rss"].__setitem__((0, 0, 0), 0.01)),
    "bytes, with the old time": _bytes,
    "subject": _label("patient_id", "d"),
    "split": _label("split", "test"),
    "noise": _label("noise", 0.5),
    "site": _root("site", "south"),
    "contrast": _root("contrast", "other"),
    "phase": _root("phase", "smooth"),
    "simulated": _root("simulated", False),
    "hash": _root("content_hash", "0" * 64),
    "volume left out": _edit(lambda file: file.__delitem__("b_1")),
    "volumes swapped": _edit(_swap),
}


BOTH = ("k-space", "bytes, with the old time", "volumes swapped", "origin", "norm")
"""The cases that are shown to a reader that noted the shard before and to one that never saw it."""


def seen(cases):
    """Each case with a reader; the other cases have the two kinds of readers in turn."""
    noted = (True, False)
    pairs = [(case, first) for at, case in enumerate(cases) for first in noted if case in BOTH or first == at % 2]
    ids = [f"{case}-{'noted before' if first else 'never seen'}" for case, first in pairs]
    return pytest.mark.parametrize(("case", "first"), pairs, ids=ids)


@pytest.mark.slow
@seen(TAMPERED)
def test_a_shard_that_was_changed_is_refused_until_it_is_sealed_anew(case, first, make_shard, settled):
    path = make_shard()
    before = Shard.open(path).content_hash
    if first:
        open_sealed(path)
    TAMPERED[case](path)
    with pytest.raises(InputError, match="the content hash differs") as error:
        open_sealed(path)
    says, has = seal(path)
    assert f"says {says}, the content has {has}" in str(error.value)
    assert f"fedrecon data seal {path}" in str(error.value)
    assert "\n" not in str(error.value)
    assert (has == before) == (case == "hash")
    assert open_sealed(path).content_hash == has
    Shard.open(path).verify()
    assert Shard.open(path).mapped
    assert seal(path) == (has, has)


UNHASHED = {
    "origin": _root("origin", "phantom"),
    "key": _root("pseudonym_key", "0" * 16),
    "field strength": _root("field_strength_t", 7.0),
    "voxel": _root("voxel_mm", (1.0, 2.0, 3.0)),
    "an own attribute": _root("vendor", "x"),
    "voxel of a volume": _label("voxel_mm", (1.0, 2.0, 3.0)),
    "sequence of a volume": _label("acquisition", "x"),
    "norm": _label("norm", 2.0),
}


@pytest.mark.slow
@seen(UNHASHED)
def test_an_attribute_outside_the_content_hash_is_sealed_and_enters_no_digest(case, first, make_shard, settled):
    path = make_shard()
    before = Shard.open(path)
    if first:
        open_sealed(path)
    UNHASHED[case](path)
    for use in (open_sealed, lambda path: Shard.open(path).verify(), lambda path: pickle.loads(pickle.dumps(before))):
        with pytest.raises(InputError, match=r"its attributes are not what was written .*fedrecon data seal") as error:
            use(path)
        assert before.attributes_hash in str(error.value)
    assert seal(path) == (before.content_hash, before.content_hash)
    after = open_sealed(path)
    assert (after.content_hash, after.attributes_hash) == (before.content_hash, Shard.open(path).attributes_hash)
    assert (after.attributes_hash == before.attributes_hash) == (case == "norm")  # that follows from the data


@pytest.mark.slow
def test_a_shard_without_a_seal_of_its_attributes_is_accepted_and_gets_one(make_shard):
    path = make_shard(origin="phantom")
    whole = Shard.open(path)
    _edit(lambda file: file.attrs.__delitem__("attributes_hash"))(path)
    assert open_sealed(path).attributes_hash == "" == Shard.open(path).summary()["attributes_hash"]
    assert seal(path) == (whole.content_hash, whole.content_hash)
    assert open_sealed(path) == whole


def test_a_pickled_shard_is_compared_with_its_content(make_shard):
    path = make_shard()
    sent = pickle.dumps(Shard.open(path))
    _value("a_1/kspace")(path)
    with pytest.raises(InputError, match="the content hash differs"):
        pickle.loads(sent)


@pytest.mark.slow
def test_a_maximum_that_is_none_is_refused_and_sealed(make_shard):
    path = make_shard()
    _label("max", 1.0)(path)
    with pytest.raises(InputError, match=r"'max' is not its maximum; .*fedrecon data seal"):
        open_sealed(path)
    before = Shard.open(path).content_hash
    assert seal(path) == (before, before)
    assert open_sealed(path).content_hash == before


def test_what_cannot_be_right_is_not_sealed(make_shard):
    path = make_shard()
    _value("a_1/kspace", np.nan)(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="NaN"):
        seal(path)
    assert path.read_bytes() == before


def test_sealing_what_is_sealed_writes_nothing(make_shard):
    path = make_shard()
    before = Stamp.of(path)
    seal(path)
    assert Stamp.of(path) == before


@pytest.mark.slow
def test_a_norm_follows_from_the_data_where_the_maximum_stays(make_shard):
    """One pixel becomes half as bright: the square of the norm loses three quarters of its square."""
    image = np.full((1, 16, 16), 2.0, np.float32)
    image[0, 8, 8] = 4
    path = make_shard("north", VolumeData("a_1", "a", "train", fft2c_numpy(image)[:, None], image, 0.25))
    image[0, 3, 3] = 1
    with h5py.File(path, "r+") as file:
        file["a_1/kspace"][...], file["a_1/reconstruction_esc"][...] = fft2c_numpy(image), image
    seal(path)
    ((volume,), norm) = Shard.open(path).volumes, np.sqrt(254 * 4 + 16 + 1)
    assert (volume.maximum, volume.norm) == (4.0, pytest.approx(norm, rel=1e-12))
    _label("norm", norm * (1 + 1e-7))(path)  # the last bits of another processor
    _label("max", 3.0)(path)
    seal(path)
    ((volume,),) = (Shard.open(path).volumes,)
    assert (volume.maximum, volume.norm) == (4.0, norm * (1 + 1e-7))


def test_the_data_are_read_once_for_each_state_of_the_file(make_shard, monkeypatch, settled):
    path, read = make_shard(), []
    check = Shard.check_hash
    monkeypatch.setattr(Shard, "check_hash", lambda shard: (read.append(shard.path), check(shard)))
    for _ in range(3):
        open_sealed(path)
    assert len(read) == 1
    os.utime(path)
    for _ in range(2):
        open_sealed(path)
    assert len(read) == 2
    make_shard("north", make_volume())
    open_sealed(path)
    assert len(read) == 3


@pytest.mark.slow
def test_a_file_that_changed_just_now_is_not_noted(make_shard, cache):
    path = make_shard()
    open_sealed(path)
    assert not cache.exists()
    time.sleep(2.1)
    open_sealed(path)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"stamp": 1}', "\x00"])
def test_a_damaged_note_is_no_note(content, make_shard, cache):
    path = make_shard()
    entry = _entry(Stamp.of(path))
    entry.parent.mkdir(parents=True)
    entry.write_text(content)
    open_sealed(path)


def test_a_note_of_another_hash_is_no_reason_to_refuse(make_shard):
    path = make_shard()
    note(Stamp.of(path), "0" * 64, time.time_ns() + 10**12)
    open_sealed(path)


def test_a_folder_that_cannot_be_written_costs_only_time(make_shard, tmp_path, monkeypatch, settled):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDRECON_CACHE", str(tmp_path / "file"))
    open_sealed(make_shard())


def test_a_file_that_changes_while_it_is_read_is_refused(make_shard, monkeypatch):
    path = make_shard()
    monkeypatch.setattr(Shard, "check_hash", lambda shard: os.utime(shard.path))
    with pytest.raises(InputError, match="changed while it was read"):
        open_sealed(path)


def test_a_link_stays_a_link(make_shard, tmp_path):
    path = make_shard()
    link = tmp_path / "link.h5"
    link.symlink_to(path)
    _value("a_1/kspace", 1.005)(path)
    seal(link)
    assert link.is_symlink()
    open_sealed(path)
