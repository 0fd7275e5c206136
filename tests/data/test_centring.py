"""K-space that is not centred along an axis is refused by that axis; what scanners and importers give is not."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_files import rss
from small_volumes import make_kspace, make_volume
from tiny import make_volume as smooth

from fedrecon.sites.data.volume import check_volume
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.importing import import_data

REAL = os.environ.get("FEDRECON_REAL_DATA")


def refused(kspace) -> str:
    """Why this k-space is refused; empty if it is not."""
    reference = rss(kspace).astype(np.float32)
    try:
        check_volume(replace(make_volume(), kspace=kspace.astype(np.complex64), reference=reference))
    except InputError as error:
        return str(error)
    return ""


def image_along(kspace, axis):
    return np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axes=axis), axis=axis, norm="ortho"), axes=axis)


def scans():
    """K-space with DC at N//2 = 16, 12 and 24, of one coil and of two, with and without noise; 48 x 40 is real."""
    yield smooth("v", "test", 3, 1, 0).kspace
    yield smooth("v", "test", 2, 2, 1, (24, 33)).kspace
    yield smooth("v", "test", 1, 1, 2, (49, 40)).kspace
    yield make_kspace(coils=2, ny=48, nx=40)


SCANS = list(scans())


def test_an_echo_that_comes_early_or_late_is_taken():
    for samples in (-3, 3):  # of 48
        assert refused(np.roll(SCANS[3], samples, -2)) == ""


def test_what_an_earlier_version_let_into_a_shard_is_read():
    one = make_volume()
    for data in (
        replace(one, reference=(2 * one.reference).astype(np.float32)),
        replace(one, kspace=np.fft.ifftshift(one.kspace, axes=-1), reference=one.reference[..., ::-1].copy()),
    ):
        check_volume(data, sealed=True)
        with pytest.raises(InputError, match=r"not the image|not centred"):
            check_volume(data)


@pytest.mark.parametrize("scan", range(len(SCANS)))
def test_each_axis_that_is_not_centred_is_named_with_its_centre(scan):
    kspace = SCANS[scan]
    y, x = kspace.shape[-2:]
    assert refused(kspace) == ""
    for axes, said in (
        ((-1,), [f"sample 0 of {x} along x (expected: {x // 2})"]),
        ((-2,), [f"sample 0 of {y} along y (expected: {y // 2})"]),
        ((-2, -1), [f"sample 0 of {y} along y", f"sample 0 of {x} along x"]),
    ):
        message = refused(np.fft.ifftshift(kspace, axes=axes))
        assert all(one in message for one in said), message
        assert ("along y" in message, "along x" in message) == (-2 in axes, -1 in axes)
        assert "it is not centred" in message
    assert f"sample {y // 2 - 8} of {y} along y (expected: {y // 2})" in refused(np.roll(kspace, -8, -2))
    assert f"sample {x // 2 + 5} of {x} along x (expected: {x // 2})" in refused(np.roll(kspace, 5, -1))


@pytest.mark.parametrize("scan", range(len(SCANS)))
def test_an_image_along_an_axis_is_refused_by_that_axis(scan):
    kspace = SCANS[scan]
    for image, name in (
        (image_along(kspace, -1), "x"),
        (image_along(kspace, -2), "y"),
        (image_along(image_along(kspace, -1), -2), "y"),
    ):
        assert f"along {name} the values are those of an image, not of k-space" in refused(image)


@pytest.mark.parametrize("scan", range(len(SCANS)))
def test_a_centre_that_is_off_by_a_sample_is_that_of_a_scan(scan):
    for shift in (-1, 1):
        assert refused(np.roll(SCANS[scan], (shift, -shift), (-2, -1))) == ""


def test_what_was_not_measured_moves_no_centre():
    whole = smooth("v", "test", 2, 2, 1, (48, 40)).kspace
    echo, fourier, padded, comb, poisson = (whole.copy() for _ in range(5))
    echo[:, :, :20] = 0  # of 48 samples the first 20 were not measured
    fourier[..., 24:] = 0  # 5/8 of the steps
    padded[:, :, :12] = padded[:, :, 36:] = padded[..., :17] = padded[..., 31:] = 0
    comb[..., np.arange(40) % 8 != 7] = 0  # every eighth column and no centre: 15 and 23 are the nearest to 20
    poisson *= (np.random.default_rng(0).random((48, 40)) < 0.2) | (np.hypot(*np.mgrid[-24:24, -20:20]) < 4)
    for kspace in (echo, fourier, padded, comb, poisson):
        assert refused(kspace) == ""
    moved = np.zeros_like(whole)
    moved[:, :, :24, :20] = whole[:, :, 12:36, 10:30]  # the zeros stand on one side: DC is at (12, 10)
    assert "sample 12 of 48 along y (expected: 24) and sample 10 of 40 along x (expected: 20)" in refused(moved)


def test_noise_and_a_point_have_no_centre():
    for seed in range(5):
        values = np.random.default_rng(seed).normal(size=(2, 1, 1, 16, 16))
        assert refused(values[0] + 1j * values[1]) == ""
    point = np.exp(2j * np.pi * np.arange(32) * 5 / 32) * np.ones((1, 1, 24, 1))  # a point at (12, 21), say
    assert refused(point) == ""


def test_one_axis_is_refused_by_an_import(tmp_path):
    np.save(tmp_path / "p_1.npy", np.fft.ifftshift(make_kspace(), axes=-1))
    with pytest.raises(InputError, match=r"sample 0 of 20 along x \(expected: 10\): it is not centred"):
        import_data("npy", tmp_path / "p_1.npy", "s", tmp_path / "out")
    assert not (tmp_path / "out" / "s.h5").exists()


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="FEDRECON_REAL_DATA is not set")
def test_real_scans_are_taken_and_refused_once_they_are_moved():
    for name, leading in (("head_sagittal_t1_1ch", (1, 1)), ("brain_8ch_poisson_r8", (1,))):
        stored = np.load(Path(str(REAL)) / "raw-kspace" / f"{name}.npy")
        kspace = stored.reshape(*leading, *stored.shape)
        assert refused(kspace) == ""
        assert "it is not centred" in refused(np.roll(kspace, kspace.shape[-1] // 8, -1))
        assert "along y the values are those of an image" in refused(image_along(kspace, -2))
