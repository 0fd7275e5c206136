"""A reference that is not the image of its k-space is refused, and none that an importer or a phantom writes is."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from small_files import rss, write_any
from small_volumes import make_kspace, make_volume

from fedrecon.sites.data import fitting
from fedrecon.sites.data.fitting import check_fit, evenly
from fedrecon.sites.data.inspect import inspect
from fedrecon.sites.data.seal import seal
from fedrecon.sites.data.shard import Shard, open_sealed, write_shard
from fedrecon.sites.data.volume import check_volume
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats import FORMATS, Label
from fedrecon.sites.phantom.protocol import PROTOCOLS
from fedrecon.sites.phantom.scanner import scan
from fedrecon.sites.seeding import generator

CHANGES = {
    "times 22, as numpy scales by default": lambda kspace: kspace * 22,
    "5 % more": lambda kspace: kspace * np.float32(1.05),
    "slices in reverse order": lambda kspace: kspace[::-1],
    "one axis reversed": lambda kspace: kspace[..., ::-1],
    "one slice of another": lambda kspace: np.concatenate([kspace[:2], kspace[:1]]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_another_image_is_not_sealed_and_not_written_and_is_found(case, make_shard, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRECON_CACHE", str(tmp_path / "cache"))
    path = make_shard()
    with h5py.File(path, "r+") as file:
        kspace = CHANGES[case](file["a_1/kspace"][()])
        file["a_1/kspace"][...] = kspace
    before = path.read_bytes()
    with pytest.raises(
        InputError, match=r"volume 'a_1': slice \d: the reference is not the image of the k-space"
    ) as at:
        seal(path)
    assert "\n" not in str(at.value)
    assert path.read_bytes() == before
    ((problem,), shards) = (inspect(path)[key] for key in ("problems", "shards"))
    assert not shards
    assert "is not the image of the k-space" in problem["message"]
    volume = replace(make_volume("a_1", "a", "train", coils=2), kspace=kspace)
    with pytest.raises(InputError, match="is not the image of the k-space"):
        write_shard(tmp_path / "x.h5", "x", [volume], simulated=True, phase="none")
    assert not (tmp_path / "x.h5").exists()


def test_the_message_says_both_maxima_and_the_difference():
    """One coil of 3 + 4i over its whole image is 5 everywhere; a reference of 10 differs by half of the larger."""
    kspace = np.zeros((2, 1, 8, 8), np.complex64)
    kspace[0, 0, 4, 4] = kspace[1, 0, 4, 4] = 8 * (3 + 4j)  # orthonormal: DC is the mean times the root of 64
    kspace[:, :, 0] = 1e-30  # rows 0 to 4: the box is not square
    right = np.full((2, 8, 8), 5, np.float32)
    check_fit("volume 'v'", kspace, right)  # only a part of the box was measured: it is not compared
    kspace[kspace == 0] = 1e-30
    check_fit("volume 'v'", kspace, right)
    check_fit("volume 'v'", kspace, right * np.float32(1.02))
    right[1] = 10
    with pytest.raises(InputError, match=r"volume 'v': slice 1: .* by 50% of .* \(allowed: 2%\)") as error:
        check_fit("volume 'v'", kspace, right)
    assert "reaches 10, " in str(error.value)
    assert str(error.value).endswith(" 5.")


def test_an_undersampled_slice_is_not_compared_and_a_scored_part_changes_nothing():
    volume = make_volume(coils=2)
    columns = np.arange(20) % 2 == 0
    check_volume(replace(volume, kspace=volume.kspace * columns))
    part = replace(volume, crop=(12, 10))
    check_volume(part)
    with pytest.raises(InputError, match="is not the image"):
        check_volume(replace(part, kspace=2 * part.kspace))


def test_zeros_around_the_samples_belong_to_the_image():
    kspace = make_kspace(coils=2, ny=32, nx=24)
    kspace[:, :, :9] = kspace[..., :5] = kspace[..., 20:] = 0
    volume = replace(make_volume(), kspace=kspace, reference=rss(kspace).astype(np.float32))
    check_volume(volume)
    with pytest.raises(InputError, match="is not the image"):
        check_volume(replace(volume, kspace=kspace * 2))


def test_a_large_volume_costs_a_bounded_number_of_transforms(monkeypatch):
    assert evenly(3, 32) == [0, 1, 2]
    assert evenly(1, 32) == [0]
    assert (len(evenly(256, 32)), evenly(256, 32)[0], evenly(256, 32)[-1]) == (32, 0, 255)
    monkeypatch.setattr(fitting, "COMPARED", 2)
    kspace = make_kspace(slices=5)
    reference = rss(kspace).astype(np.float32)
    reference[1:4] *= 2
    check_fit("v", kspace, reference)
    reference[4] *= 2
    with pytest.raises(InputError, match="slice 4"):
        check_fit("v", kspace, reference)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_writes_fits_closely(name, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "APART", 1e-5)
    source = write_any(name, tmp_path, "p_1")
    options = {"size": 12} if FORMATS[name].simulated else {"coils": 1}
    for given in ({}, options):
        ((_, data, _),) = FORMATS[name](**given).read([source], lambda _: Label("v", "s", "test"))
        assert not isinstance(data, InputError), data
        assert data.reference is not None
        check_volume(data)


@pytest.mark.slow
@pytest.mark.parametrize("coils", [1, 4])
def test_what_a_phantom_writes_fits_closely(coils, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "APART", 1e-5)
    one = scan(generator(3), PROTOCOLS["flair"], 32, coils)
    check_fit("v", one.kspace, one.reference)


def test_opening_a_shard_compares_nothing(make_shard, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDRECON_CACHE", str(tmp_path / "cache"))
    path = make_shard()
    monkeypatch.setattr("fedrecon.sites.data.volume.check_fit", lambda *_: pytest.fail("compared"))
    Shard.open(path)
    open_sealed(path)
