"""Sampling masks: laws over the whole registry, and fastMRI's formulas written down a second time."""

import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.masks import MASKS, centred, make_mask, measured_acceleration
from fedrecon.sites.imaging.masks.mask import EllipseMask, calibration_box
from fedrecon.sites.imaging.masks.poisson2d import _slope

SHAPES = [(64, 64), (63, 48), (45, 71)]
every = pytest.mark.parametrize("name", MASKS)
plane = pytest.mark.parametrize("name", [n for n, family in MASKS.items() if issubclass(family, EllipseMask)])


@every
@pytest.mark.parametrize("shape", SHAPES)
def test_the_seed_alone_makes_the_mask(name, shape):
    mask = make_mask(name, acceleration=4)
    first = mask.sample(shape, 7)
    before = np.random.get_state()[1].tolist()
    again = make_mask(name, acceleration=4).sample(shape, 7)
    assert np.random.get_state()[1].tolist() == before
    assert first.shape == shape
    assert first.dtype == bool
    assert (first == again).all()
    assert any((first != mask.sample(shape, seed)).any() for seed in range(8, 12))
    assert (mask.sample(shape, 2**62 + 5) != mask.sample(shape, 5)).any() or name == "equispaced_fraction"


@pytest.mark.slow
@every
@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    acceleration=st.floats(1, 7),
    fraction=st.floats(0.03, 0.1),
    seed=st.integers(0, 2**63 - 1),
)
def test_the_calibration_box_is_sampled(name, shape, acceleration, fraction, seed):
    mask = make_mask(name, acceleration=acceleration, center_fraction=fraction)
    sampled = mask.sample(shape, seed)
    box = tuple(centred(n, size) for n, size in zip(shape, mask.calibration(shape), strict=True))
    assert sampled[shape[0] // 2, shape[1] // 2]
    assert sampled[box].shape == mask.calibration(shape)
    assert sampled[box].all()


@every
def test_the_calibration_box_is_as_large_as_said(name):
    """8 % of 128: ten columns; or a radius of 5.78, in which the 9 x 9 box (corner at 5.66) lies."""
    expected = (9, 9) if issubclass(MASKS[name], EllipseMask) else (128, 10)
    assert make_mask(name, acceleration=4).calibration((128, 128)) == expected


@plane
@pytest.mark.parametrize("shape", [*SHAPES, (128, 128)])
@pytest.mark.parametrize("acceleration", [1.3, 2, 4, 8])
def test_the_acceleration_is_exact_in_the_plane(name, shape, acceleration):
    mask = make_mask(name, acceleration=acceleration)
    for seed in range(3):
        assert measured_acceleration(mask.sample(shape, seed)) == pytest.approx(acceleration, rel=0.01)


@pytest.mark.parametrize(
    ("shape", "acceleration", "fraction"),
    [((32, 32), 2, 0.04), ((32, 32), 8, 0.04), ((40, 64), 12, 0.2), ((48, 32), 12, 0.04), ((65, 63), 6, 0.2)],
)
def test_poisson_discs_that_leave_too_few_samples_are_filled(shape, acceleration, fraction):
    """Each of these had draws with up to 34 samples less."""
    mask = make_mask("poisson2d", acceleration=acceleration, center_fraction=fraction)
    counts = {int(mask.sample(shape, seed).sum()) for seed in range(6)}
    assert counts == {round(shape[0] * shape[1] / acceleration)}


def complete(sampled, size):
    return sampled[tuple(centred(n, side) for n, side in zip(sampled.shape, size, strict=True))].all()


@settings(max_examples=200, deadline=None)
@given(shape=st.tuples(st.integers(1, 12), st.integers(1, 12)), share=st.floats(0.5, 1), seed=st.integers(0, 999))
def test_the_box_of_a_mask_is_sampled_and_no_side_can_grow(shape, share, seed):
    sampled = np.random.default_rng(seed).random(shape) < share
    sampled[shape[0] // 2, shape[1] // 2] = True
    y, x = calibration_box(sampled)
    assert complete(sampled, (y, x))
    for larger in ((y + 1, x), (y, x + 1)):
        assert larger[0] > shape[0] or larger[1] > shape[1] or not complete(sampled, larger)


def test_the_box_by_hand():
    cross = np.zeros((16, 16), bool)
    cross[8], cross[:, 8] = True, True
    assert calibration_box(cross) == (16, 1)  # it was 2 x 2, with a corner that was not sampled
    inner = np.zeros((9, 9), bool)
    inner[2:7, 3:6] = True
    assert calibration_box(inner) == (5, 3)
    with pytest.raises(InputError, match="DC at N//2"):
        calibration_box(np.zeros((4, 4), bool))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spread"), [("random", 0.25), ("equispaced_fraction", 0.04)])
@pytest.mark.parametrize("acceleration", [2, 4, 6.5])
def test_the_acceleration_of_columns_holds_on_average(name, spread, acceleration):
    mask = make_mask(name, acceleration=acceleration)
    rates = 1 / np.array([measured_acceleration(mask.sample((4, 368), seed)) for seed in range(300)])
    assert rates.mean() * acceleration == pytest.approx(1, rel=0.02)
    assert rates.std() * acceleration < spread


@pytest.mark.parametrize("name", ["random", "equispaced_fraction"])
def test_columns_are_whole(name):
    mask = make_mask(name, acceleration=4).sample((31, 64), 0)
    assert (mask == mask[:1]).all()
    mask[0, 0] ^= True  # writable: every row is its own memory
    assert mask[0, 0] != mask[1, 0]


@every
def test_acceleration_one_samples_everything(name):
    mask = make_mask(name, acceleration=1, center_fraction=1)
    assert mask.sample((9, 12), 0).all()
    assert mask.calibration((9, 12)) == (9, 12)


@every
@pytest.mark.parametrize("wrong", [0.99, 0, -4, float("nan"), float("inf"), "four"])
def test_a_wrong_acceleration_is_refused(name, wrong):
    with pytest.raises(InputError, match=f"mask '{name}'.*acceleration"):
        make_mask(name, acceleration=wrong)


def test_wrong_names_are_refused_with_the_right_one():
    with pytest.raises(InputError, match="Did you mean 'poisson2d'"):
        make_mask("poison2d", acceleration=4)
    with pytest.raises(InputError, match="Did you mean 'center_fraction'"):
        make_mask("random", acceleration=4, centre_fraction=0.1)


@every
def test_a_centre_that_is_too_large_is_refused_and_the_figure_given_does(name):
    mask = make_mask(name, acceleration=4, center_fraction=0.6)
    with pytest.raises(InputError, match="acceleration 4 cannot be reached on 96 x 64") as caught:
        mask.sample((96, 64), 0)
    figure = float(str(caught.value).split(" would do")[0].split()[-1])
    assert figure > 0.2
    cured = make_mask(name, acceleration=4, center_fraction=figure)
    assert measured_acceleration(cured.sample((96, 64), 0)) == pytest.approx(4, rel=0.15)
    with pytest.raises(InputError):
        make_mask(name, acceleration=4, center_fraction=figure + 0.02).check((96, 64))


@pytest.mark.parametrize("name", ["random", "equispaced_fraction"])
def test_an_empty_centre_is_refused(name):
    with pytest.raises(InputError, match=r"center_fraction from 0\.05 to 0\.2 would do"):
        make_mask(name, acceleration=4, center_fraction=0.02).check((20, 20))


@every
def test_an_acceleration_beyond_the_matrix_is_refused(name):
    with pytest.raises(InputError, match="at most"):
        make_mask(name, acceleration=1000).check((16, 16))
    with pytest.raises(InputError, match="at least 1 x 1"):
        make_mask(name, acceleration=2).check((0, 16))


def fastmri_columns(kind, n, acceleration, center_fraction, seed):
    """fastMRI's masks from their definition, in plain numbers: first the centre, then the draw."""
    state = np.random.RandomState()
    state.seed(seed)
    state.randint(1)  # fastMRI first chooses among its list of one acceleration
    low = round(n * center_fraction)
    if kind == "random":
        p = (n / acceleration - low) / (n - low)
        chosen = [u < p for u in state.uniform(size=n)]
    else:
        spacing = acceleration * (low - n) / (low * acceleration - n)
        position = float(state.randint(0, high=round(spacing)))
        offset, chosen, i = position, [False] * n, 0
        while position < n - 1:
            chosen[round(position)] = True
            i += 1
            position = offset + i * spacing
    pad = (n - low + 1) // 2
    return np.array([chosen[i] or pad <= i < pad + low for i in range(n)])


@pytest.mark.parametrize("name", ["random", "equispaced_fraction"])
@pytest.mark.parametrize(("n", "acceleration", "fraction"), [(368, 4, 0.08), (368, 8, 0.04), (181, 4, 0.08)])
def test_columns_equal_fastmri(name, n, acceleration, fraction):
    mask = make_mask(name, acceleration=acceleration, center_fraction=fraction)
    for seed in range(50):
        expected = fastmri_columns(name, n, acceleration, fraction, seed)
        assert (mask.sample((3, n), seed) == expected).all()


def test_golden_columns():
    """Written down once, so that neither our formula nor the other one can drift."""
    assert np.flatnonzero(make_mask("random", acceleration=4).sample((1, 48), 3)).tolist() == GOLDEN["random"]
    columns = make_mask("equispaced_fraction", acceleration=4).sample((1, 48), 3)
    assert np.flatnonzero(columns).tolist() == GOLDEN["equispaced_fraction"]


GOLDEN = {
    "random": [6, 8, 10, 16, 22, 23, 24, 25, 35],
    "equispaced_fraction": [2, 8, 13, 18, 22, 23, 24, 25, 30, 35, 40, 46],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian2d", "poisson2d", "radial"])
def test_the_density_falls_off(name):
    """Rings around DC: denser inside, averaged over draws; and all four quadrants alike."""
    mask = make_mask(name, acceleration=6)
    mean = np.mean([mask.sample((96, 96), seed) for seed in range(30)], axis=0)
    y, x = np.mgrid[-48:48, -48:48]
    r = np.hypot(y, x)
    rings = [mean[(r >= a) & (r < a + 8)].mean() for a in (8, 16, 24, 32, 40)]
    assert all(a > b for a, b in pairwise(rings))
    quadrants = [mean[1:48, 1:48].sum(), mean[1:48, 49:].sum(), mean[49:, 1:48].sum(), mean[49:, 49:].sum()]
    assert max(quadrants) / min(quadrants) < 1.1


@pytest.mark.slow
def test_the_normal_density_is_the_one_stated():
    """Few points of many: their spread is width * sqrt(N//2) = 2 * sqrt(64) = 16 pixels."""
    mask = make_mask("gaussian2d", acceleration=100, center_fraction=0.01, width=2)
    y, x = np.nonzero(np.sum([mask.sample((128, 128), seed) for seed in range(40)], axis=0))
    counts = np.sum([mask.sample((128, 128), seed) for seed in range(40)], axis=0)[y, x]
    assert np.sqrt(np.average((y - 64.0) ** 2, weights=counts)) == pytest.approx(16, rel=0.06)
    assert np.sqrt(np.average((x - 64.0) ** 2, weights=counts)) == pytest.approx(16, rel=0.06)


def test_the_uniform_density_is_flat():
    mean = np.mean([make_mask("uniform2d", acceleration=4).sample((64, 64), seed) for seed in range(60)], axis=0)
    assert mean[:8].mean() == pytest.approx(mean[-8:].mean(), rel=0.08)
    assert mean[:8].mean() == pytest.approx(mean[12:20, 12:20].mean(), rel=0.15)


def test_poisson_points_keep_their_distance():
    """No two samples are closer than the slope times their distance from the centre's edge."""
    mask = make_mask("poisson2d", acceleration=12)
    shape = (96, 96)
    slope = _slope(mask, shape)
    assert slope > 2
    y, x = np.nonzero(mask.sample(shape, 0))
    d = np.hypot(y[:, None] - y, x[:, None] - x) + 1e9 * np.eye(len(y))
    outside = np.maximum(mask.distance(shape) - 1, 0)
    floor = slope * (outside / outside.max())[y, x]
    assert (d >= np.minimum(floor[:, None], floor)).all()


def test_radial_samples_lie_on_spokes():
    """R = 24 on 97 x 97 is about four full spokes, and these mirror at DC; only the last one is cut."""
    mask = make_mask("radial", acceleration=24, center_fraction=0.02).sample((97, 97), 5)
    assert 3 <= mask.sum() / 97 <= 4.5
    inner = mask[8:-8, 8:-8]
    assert (inner != inner[::-1, ::-1]).sum() <= 2


@pytest.mark.parametrize("name", MASKS)
def test_a_draw_is_fast(name):
    mask = make_mask(name, acceleration=4)
    mask.sample((128, 128), 0)
    seconds = []
    for seed in range(5):
        start = time.process_time()
        mask.sample((128, 128), seed)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.03


@pytest.mark.slow
def test_masks_load_no_torch():
    code = "import sys, fedrecon.sites.imaging.masks; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@every
def test_families_say_what_they_draw(name):
    assert MASKS[name].__doc__


def test_the_offsets_of_a_disc_are_all_its_points_and_no_other():
    from fedrecon.sites.imaging.masks.poisson2d import _offsets

    offsets, ends = _offsets(20, 4, 100)
    points = [(y, x) for y in range(-4, 5) for x in range(-4, 5)]
    for size in range(21):
        found = sorted(offsets[: ends[size]].tolist())
        assert found == sorted(y * 100 + x for y, x in points if y * y + x * x < size)


def test_the_narrowest_density_still_draws_with_its_seed():
    narrow = MASKS["gaussian2d"](acceleration=4, width=0.1)
    assert not np.array_equal(narrow.sample((32, 32), 0), narrow.sample((32, 32), 1))
    with pytest.raises(ValidationError):
        MASKS["gaussian2d"](acceleration=4, width=0.09)
