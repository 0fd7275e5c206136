"""The simulated consortium: the physics by hand, and what every simulated hospital must be."""

from __future__ import annotations

import socket
from collections import Counter
from math import exp
from pathlib import Path

import numpy as np
import pytest

from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.numpy_fourier import fft2c_numpy, ifft2c_numpy
from fedrecon.sites.phantom import DEFAULT_SITES, PROTOCOLS, Population, simulate, split_of, volumes
from fedrecon.sites.phantom.anatomy import subject_tissues, thick_atlas
from fedrecon.sites.phantom.consortium import members
from fedrecon.sites.phantom.contrast import TISSUES, GradientEcho, InversionRecovery, SpinEcho, Tissue
from fedrecon.sites.phantom.fields import smooth_field, spline_basis
from fedrecon.sites.phantom.protocol import own_scanner
from fedrecon.sites.phantom.scanner import coil_maps, crop, scan
from fedrecon.sites.phantom.synthesis import synthetic_tissues
from fedrecon.sites.seeding import generator

LOG2 = float(np.log(2))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The anatomy lies in the installed package: a connection is a fault."""

    def refuse(*_: object) -> None:
        raise AssertionError("the phantom opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_spin_echo_by_hand():
    # TR of two half-lives of T1, TE of one half-life of T2: 0.8 * (1 - 1/4) * 1/2
    tissue = Tissue(t1=1000, t2=100, t2_star=50, density=0.8)
    assert SpinEcho(2000 * LOG2, 100 * LOG2).signal(tissue) == pytest.approx(0.3)


def test_inversion_recovery_by_hand():
    # 1 - 2/2 + 1/8 after one half-life of inversion in three of repetition; half of that at the echo
    tissue = Tissue(t1=1000, t2=100, t2_star=50, density=0.8)
    sequence = InversionRecovery(3000 * LOG2, 1000 * LOG2, 100 * LOG2)
    assert sequence.signal(tissue) == pytest.approx(0.05)
    early = InversionRecovery(1e9, 0, 0)
    assert early.signal(tissue) == pytest.approx(-0.8)


def test_gradient_echo_by_hand():
    # E1 = 1/2, 60 degrees: sin = sqrt(3)/2, (1/2) / (1 - 1/4) = 2/3; half of that at the echo
    tissue = Tissue(t1=1000, t2=100, t2_star=50, density=0.6)
    sequence = GradientEcho(1000 * LOG2, 50 * LOG2, 60)
    assert sequence.signal(tissue) == pytest.approx(0.6 * 3**0.5 / 2 * 2 / 3 / 2)


def test_gradient_echo_peaks_at_the_ernst_angle():
    tissue = TISSUES[3.0]["white"]
    ernst = np.degrees(np.arccos(exp(-250 / tissue.t1)))
    at = {angle: GradientEcho(250, 4, angle).signal(tissue) for angle in (ernst - 2, ernst, ernst + 2)}
    assert max(at, key=lambda angle: at[angle]) == ernst


# Brightest first, as a radiologist names the contrast.
ORDER = {
    "t1w": ("white", "grey", "csf"),
    "t2w": ("csf", "grey", "white"),
    "pdw": ("grey", "white", "csf"),
    "flair": ("lesion", "grey", "white", "csf"),
}


@pytest.mark.slow
@pytest.mark.parametrize("contrast", PROTOCOLS)
def test_tissues_in_the_image_have_the_contrasts_order(contrast):
    protocol, size = PROTOCOLS[contrast], 240
    position = (np.arange(size) - size // 2) * (protocol.field_of_view_mm / size)
    tissues = subject_tissues(generator(4), thick_atlas(protocol.slice_mm), position, position)
    image = scan(generator(4), protocol, size, n_coils=1).reference
    mean = {name: np.median(image[tissues[name] > 0.95]) for name in ("white", "grey", "csf")}
    order = [name for name in ORDER[contrast] if name in mean]
    assert sorted(mean, key=lambda name: -mean[name]) == order
    signal = {name: protocol.sequence.signal(TISSUES[protocol.field_strength_t][name]) for name in ORDER[contrast]}
    assert sorted(signal, key=lambda name: -abs(signal[name])) == list(ORDER[contrast])
    if contrast == "flair":
        assert mean["csf"] < 0.3 * mean["white"]


@pytest.mark.slow
def test_tissue_shares_are_shares_and_air_surrounds_the_head():
    position = np.linspace(-120, 120, 80)
    tissues = subject_tissues(generator(0), thick_atlas(4.0), position, position)
    total = np.sum(list(tissues.values()), axis=0)
    assert min(share.min() for share in tissues.values()) >= -1e-5
    assert total.max() <= 1.1  # interpolated white and grey may overlap the rim by a little
    assert total[:, [0, -1]].max() == 0
    assert total[:, :, [0, -1]].max() == 0
    assert total[:, 40, 40] == pytest.approx(1, abs=1e-4)
    assert set(tissues) == set(TISSUES[1.5]) == set(TISSUES[3.0])


def test_spline_weights_sum_to_one_and_fields_have_unit_variance():
    line = np.linspace(0, 100, 37)
    np.testing.assert_allclose(spline_basis(line, 13.0).sum(axis=1), 1, rtol=1e-6)
    fields = smooth_field(generator(1), (np.array([0.0]), np.array([0.0]), np.array([0.0])), 1.0, n_fields=4000)
    assert fields.shape == (4000, 1, 1, 1)
    assert fields.std() == pytest.approx(1, abs=0.05)  # at a control; 0.7 ** 3 of it in the middle of a cell


@pytest.mark.parametrize("n_coils", [1, 2, 5])
def test_coil_maps_have_unit_sum_of_squares_and_differ(n_coils):
    maps = coil_maps(generator(0), n_coils, np.linspace(-100, 100, 21))
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(axis=0), 1, rtol=1e-5)
    assert maps.shape == (n_coils, 21, 21)
    assert n_coils == 1 or np.abs(maps[0] - maps[1]).max() > 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("contrast", "size", "n_coils"), [("t1w", 64, 1), ("t2w", 97, 4), ("flair", 128, 2)])
def test_kspace_is_centred_noisy_as_stated_and_of_smooth_phase(contrast, size, n_coils):
    one = scan(generator(7), PROTOCOLS[contrast], size, n_coils)
    assert one.kspace.shape == (6, n_coils, size, size)
    assert one.kspace.dtype == np.complex64
    assert one.reference.dtype == np.float32
    energy = (np.abs(one.kspace) ** 2).sum(axis=(0, 1))
    peak = np.array(np.unravel_index(energy.argmax(), energy.shape))
    assert np.abs(peak - size // 2).max() <= 1  # a smooth phase may move the peak by a sample
    edge = max(4, size // 16)
    corner = ifft2c_numpy(one.kspace)[..., :edge, :edge]
    assert np.stack([corner.real, corner.imag]).std() == pytest.approx(one.noise, rel=0.1)
    image = ifft2c_numpy(one.kspace)
    np.testing.assert_allclose(one.reference, np.sqrt((np.abs(image) ** 2).sum(axis=1)), rtol=1e-5)


@pytest.mark.parametrize(("size", "factor"), [(64, 4), (97, 3), (128, 2), (65, 4), (256, 1)])
def test_cropped_kspace_keeps_dc_at_the_middle(size, factor):
    flat = fft2c_numpy(np.ones((size * factor, size * factor), np.float32))
    assert np.argwhere(np.abs(crop(flat, size)) > 1).tolist() == [[size // 2, size // 2]]


@pytest.mark.slow
@pytest.mark.parametrize("contrast", PROTOCOLS)
def test_phase_breaks_the_conjugate_symmetry(contrast):
    one = scan(generator(7), PROTOCOLS[contrast], 65, 1)
    mirrored = np.conj(one.kspace[..., ::-1, ::-1])
    mirrored *= np.exp(1j * np.angle(np.vdot(mirrored, one.kspace)))
    assert np.linalg.norm(one.kspace - mirrored) > 0.2 * np.linalg.norm(one.kspace)


@pytest.mark.slow
def test_simulate_writes_a_shard_a_hospital(tmp_path: Path):
    paths = simulate(tmp_path / "new", subjects=3, size=64)
    assert [path.name for path in paths] == [f"{name}.h5" for name in DEFAULT_SITES]
    shards = [Shard.open(path) for path in paths]
    people = [volume.subject for shard in shards for volume in shard.volumes]
    assert len(set(people)) == len(people) == 12
    for shard, name in zip(shards, DEFAULT_SITES, strict=True):
        protocol = PROTOCOLS[name]
        assert (shard.site, shard.contrast, shard.simulated, shard.phase) == (name, name, True, "smooth")
        assert shard.field_strength_t == protocol.field_strength_t
        assert shard.voxel_mm == pytest.approx((protocol.slice_mm, *[protocol.field_of_view_mm / 64] * 2))
        assert {volume.split for volume in shard.volumes} == {"train", "validation", "test"}
        for volume in shard.volumes:
            assert volume.subject.startswith(f"{name}-")
            assert (volume.n_slices, volume.n_coils, volume.shape) == (6, protocol.n_coils, (64, 64))
            assert 0 < volume.noise < 0.2 * volume.maximum


@pytest.mark.slow
def test_same_seed_same_bits_and_nobody_depends_on_others(tmp_path: Path):
    def digests(**changed):
        given = {"site": "t1w", "contrast": "t1w", "subjects": 1, "size": 48} | changed
        return [volume.digest() for volume in volumes(**given)]

    first = digests()
    assert first == digests()
    more = digests(subjects=2)
    assert more[:1] == first
    assert len({*more, *digests(seed=1), *digests(site="other")}) == 4
    (alone,) = simulate(tmp_path / "one", sites=["pdw"], subjects=1, size=48)
    _, beside = simulate(tmp_path / "two", sites=["t1w", "pdw"], subjects=1, size=48)
    assert Shard.open(alone).content_hash == Shard.open(beside).content_hash


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [(1, (0, 0, 1)), (2, (1, 0, 1)), (3, (1, 1, 1)), (6, (3, 1, 2)), (24, (12, 4, 8))],
)
def test_split_counts(subjects, expected):
    counts = Counter(split_of(index) for index in range(subjects))
    assert tuple(counts[split] for split in ("train", "validation", "test")) == expected


@pytest.mark.slow
def test_two_hospitals_of_one_contrast_and_coils_for_all(tmp_path: Path):
    paths = simulate(tmp_path, sites=["north:t2w", "south:t2w"], subjects=1, size=48, coils=3)
    north, south = (Shard.open(path) for path in paths)
    assert (north.site, south.site, north.contrast, south.contrast) == ("north", "south", "t2w", "t2w")
    assert {volume.n_coils for volume in (*north.volumes, *south.volumes)} == {3}
    assert north.volumes[0].split == "test"


POSITION = np.linspace(-115, 115, 80)


@pytest.fixture(scope="module")
def people():
    """The tissues of 20 synthesised subjects, on a coarse grid: as many as 120 training slices have."""
    return [synthetic_tissues(generator(i, "person"), 4.0, POSITION, POSITION) for i in range(20)]


@pytest.mark.slow
def test_synthesised_tissues_are_shares_of_heads_in_air(people):
    for tissues in people:
        total = np.sum(list(tissues.values()), axis=0)
        assert set(tissues) == set(TISSUES[3.0])
        assert min(share.min() for share in tissues.values()) >= 0
        assert total.max() <= 1 + 1e-5
        assert max(total[:, [0, -1]].max(), total[:, :, [0, -1]].max()) == 0  # the first and last rows and columns
        assert total[:, 40, 40] == pytest.approx(1, abs=1e-4)
        volume = {name: share.sum() for name, share in tissues.items()}
        assert 0.15 < volume["grey"] / (volume["grey"] + volume["white"]) < 0.7
        assert 0 < volume["csf"] < volume["grey"] + volume["white"]


@pytest.mark.slow
def test_each_synthesised_subject_has_folds_and_a_size_of_its_own(people):
    """Grey matter of any two subjects overlaps less than that of any two that deform one atlas; and heads differ more.

    So none of 20 subjects repeats another: more training slices show more anatomy.
    """
    atlas = [subject_tissues(generator(i), thick_atlas(4.0), POSITION, POSITION) for i in range(5)]

    def overlaps(found):
        grey = [tissues["grey"][2] > 0.5 for tissues in found]
        pairs = [(a, b) for at, a in enumerate(grey) for b in grey[:at]]
        return [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]

    def spread(found):
        return np.std([np.log(np.sum(list(tissues.values()))) for tissues in found])

    assert max(overlaps(people)) < min(overlaps(atlas))
    assert np.mean(overlaps(people)) < 0.8 * np.mean(overlaps(atlas))
    assert spread(people) > spread(atlas)
    fluid = [tissues["csf"].sum() / (tissues["white"] + tissues["grey"]).sum() for tissues in people]
    assert max(fluid) > 1.5 * min(fluid)


def test_a_synthesised_subject_depends_on_its_generator_alone():
    first, again = (synthetic_tissues(generator(3), 4.0, POSITION, POSITION) for _ in range(2))
    for name, share in first.items():
        np.testing.assert_array_equal(share, again[name])


def test_own_scanners_differ_and_keep_the_contrast():
    before = PROTOCOLS["t2w"]
    found = [own_scanner(before, generator(0, "scanner", name)) for name in ("north", "south", "east")]
    contrast = {(one.sequence, one.field_strength_t, one.slice_mm, one.fat_suppression) for one in found}
    assert contrast == {(before.sequence, before.field_strength_t, before.slice_mm, before.fat_suppression)}
    for name in ("field_of_view_mm", "snr", "bias", "phase"):
        assert len({getattr(one, name) for one in found}) == 3
    assert all(before.field_of_view_mm <= one.field_of_view_mm <= 1.06 * before.field_of_view_mm for one in found)
    assert all(before.snr / 1.7 <= one.snr <= 1.7 * before.snr for one in found)


@pytest.mark.parametrize(
    ("subjects", "slices", "expected"),
    [
        # of 6 subjects 0 and 4 are tested, 2 validates; subjects 1, 3, 5, 7, ... train with 6 slices each
        (6, 2, {"train": [2], "validation": [6], "test": [6, 6]}),
        (6, 8, {"train": [6, 2], "validation": [6], "test": [6, 6]}),
        (6, 26, {"train": [6, 6, 6, 6, 2], "validation": [6], "test": [6, 6]}),
        (3, None, {"train": [6], "validation": [6], "test": [6]}),
    ],
)
def test_a_site_has_as_many_training_slices_as_asked_and_the_same_others(subjects, slices, expected):
    found: dict[str, list[int]] = {}
    for index, kept in members(subjects, slices):
        found.setdefault(split_of(index), []).append(kept)
    assert found == expected


@pytest.mark.slow
def test_the_last_training_subject_keeps_its_middle_slices():
    given = {"site": "a", "contrast": "t1w", "subjects": 2, "size": 32}
    whole, cut = (next(one for one in volumes(**given, slices=n) if one.split == "train") for n in (6, 2))
    np.testing.assert_array_equal(cut.kspace, whole.kspace[2:4])
    assert (cut.name, cut.noise) == (whole.name, whole.noise)


@pytest.mark.slow
def test_the_default_consortium_keeps_its_values():
    """No digest of its bits: the last ones depend on the instructions that the processor has."""
    one = next(volumes("t1w", "t1w", 1, 48))
    image, centre = one.reference, one.kspace[0, 0, 24, 24]
    ramps = (np.arange(48), np.arange(48)[:, None], np.arange(6)[:, None, None])  # each pixel counts by its place
    found = [image.mean(), image.std(), image.max(), *((image * ramp).sum() for ramp in ramps)]
    np.testing.assert_allclose(found, [0.079795, 0.078472, 0.312543, 25613.27, 24799.50, 2653.031], rtol=1e-4)
    np.testing.assert_allclose(image[[0, 2, 5], [24, 20, 30], [24, 30, 18]], [0.081306, 0.157149, 0.211702], rtol=1e-4)
    np.testing.assert_allclose([centre, one.noise], [-1.723213 + 2.462407j, 0.00361168], rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"population": Population(anatomy="varid")}, "Did you mean 'varied'?"),
        ({"population": Population(scanners="owned")}, "Did you mean 'own'?"),
        ({"population": Population(slices=(2, 120))}, "slices has 2 numbers for 4 sites"),
        ({"population": Population(slices=(0,))}, "slices is 0; allowed: 1 to"),
        ({"sites": ["t1"]}, "unknown contrast 't1'. Did you mean 't1w'?"),
        ({"sites": ["a:flare"]}, "Did you mean 'flair'?"),
        ({"sites": ["t1w", "t1w"]}, "site 't1w' is given twice"),
        ({"sites": [":t1w"]}, "site ''"),
        ({"sites": ["../x:t1w"]}, "site '../x'"),
        ({"sites": []}, "no sites"),
        ({"subjects": 0}, "subjects is 0; allowed: 1 to"),
        ({"size": 8}, "size is 8; allowed: 32 to"),
        ({"coils": 0}, "coils is 0"),
        ({"subjects": 1.5}, "subjects is 1.5; allowed: 1 to"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(tmp_path: Path, given, said):
    with pytest.raises(InputError) as refused:
        simulate(tmp_path / "out", **given)
    assert said in str(refused.value)
    assert not (tmp_path / "out").exists()
