"""Laws of every reconstructor, and that choosing one loads no torch."""

import subprocess
import sys

import pytest
import torch

from fedrecon.sites.classical import RECONSTRUCTORS, make_reconstructor
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.coils import estimate_maps
from fedrecon.sites.imaging.degradations import DEGRADATIONS
from fedrecon.sites.imaging.fourier import fft2c
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.sites.imaging.measurement import measure


def draw(n_coils, size, factor=1.0):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, *size, dtype=torch.complex64, generator=generator)
    maps = torch.randn(2, n_coils, *size, dtype=torch.complex64, generator=generator)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    mask = torch.rand(2, 1, *size, generator=generator) < 0.5
    return measure(factor * fft2c(maps * image), mask, maps)


def smooth(n_coils, size, mask="gaussian2d", count=2):
    """Different slices under different masks: flat squares, smooth coils, maps from the calibration box."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    family = MASKS[mask](acceleration=2, center_fraction=0.25)
    centres = torch.linspace(-1, 1, n_coils)
    coils = torch.stack([torch.exp(-((y - c) ** 2) - (x + c * c) ** 2 + 1j * c * x) for c in centres])
    images = torch.stack([((y.abs() < 0.8 - 0.2 * n) & (x.abs() < 0.5 + 0.1 * n)) * (1.0 + n) for n in range(count)])
    masks = torch.stack([torch.from_numpy(family.sample(size, seed))[None] for seed in range(count)])
    kspace = fft2c(coils * images[:, None])
    return measure(kspace, masks, estimate_maps(kspace, family.calibration(size)), with_target=True)


def pick(measurement, chosen, factor=1.0):
    """Some of its slices, all data times a factor."""
    operator = measurement.operator
    return measure(factor * measurement.kspace[chosen], operator.mask[chosen], operator.maps[chosen])


def short(name):
    """Few iterations: near its end FISTA keeps or drops a step by its last bits, which are those of a batch's size."""
    one = make_reconstructor(name)
    return one.model_copy(update={"iterations": 12}) if hasattr(one, "iterations") else one


ANY = [name for name, one in RECONSTRUCTORS.items() if not one.needs_low]
LOW = [(1, (16, 16)), (4, (18, 24)), (4, (16, 16)), (1, (18, 24))]
IN_PAIRS = [
    pytest.param(kind, *LOW[2 * (number % 2) + more], id=f"{kind}-{more}")
    for number, kind in enumerate(DEGRADATIONS)
    for more in (0, 1)
]
"""Every degradation with one coil and with four, with a square and with an oblong image."""

UNDER_MASKS = [
    pytest.param(name, mask, *((4, (25, 30)) if (i + j) % 2 else (1, (24, 21))), id=f"{mask}-{name}")
    for i, name in enumerate(ANY)
    for j, mask in enumerate(MASKS)
]
"""Every reconstructor under every mask, by turns on several coils and on one."""

IN_KSPACE = [name for name, one in RECONSTRUCTORS.items() if one.needs_kspace]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECONSTRUCTORS)
@pytest.mark.parametrize(("kind", "n_coils", "size"), IN_PAIRS)
def test_gives_an_image_of_the_high_resolution_from_a_low_one(name, kind, n_coils, size):
    reconstructor = make_reconstructor(name)

    def degraded(factor):
        one = draw(n_coils, size, factor)
        return DEGRADATIONS[kind](scale=2).measure(one.kspace, one.operator.maps)

    if reconstructor.needs_kspace and not DEGRADATIONS[kind].in_kspace:
        with pytest.raises(InputError, match="fills in k-space"):
            reconstructor.reconstruct(degraded(1.0))
        return
    image = reconstructor.reconstruct(degraded(1.0))
    assert image.shape == (2, *size)
    assert image.dtype == torch.complex64
    scaled = reconstructor.reconstruct(degraded(2.0**13))
    torch.testing.assert_close(scaled / 2.0**13, image, rtol=0, atol=1e-4 * float(image.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize(("n_coils", "size"), [(1, (16, 16)), (4, (13, 10))])
def test_gives_an_image_of_that_size_at_the_scale_of_the_data(name, n_coils, size):
    reconstructor = make_reconstructor(name)
    image = reconstructor.reconstruct(draw(n_coils, size))
    assert image.shape == (2, *size)
    assert image.dtype == torch.complex64
    scaled = reconstructor.reconstruct(draw(n_coils, size, factor=2.0**13))
    torch.testing.assert_close(scaled / 2.0**13, image, rtol=0, atol=1e-4 * float(image.abs().max()))


@pytest.mark.parametrize(("name", "mask", "n_coils", "size"), UNDER_MASKS)
def test_under_every_mask_slices_are_solved_apart_and_the_unit_does_not_matter(name, mask, n_coils, size):
    reconstructor = short(name)
    measurement = smooth(n_coils, size, mask)
    together = reconstructor.reconstruct(measurement)
    assert torch.isfinite(torch.view_as_real(together)).all()
    for n in range(2):
        alone = reconstructor.reconstruct(pick(measurement, [n], factor=10.0))
        torch.testing.assert_close(alone[0] / 10, together[n], rtol=0, atol=1e-3 * float(measurement.scale[n]))


@pytest.mark.parametrize("name", ANY)
def test_a_slice_without_signal_stays_zero_and_leaves_the_others_alone(name):
    reconstructor = short(name)
    measurement = smooth(3, (20, 17))
    factors = torch.tensor([0.0, 1.0])[:, None, None, None]
    image = reconstructor.reconstruct(pick(measurement, [0, 1], factors))
    assert not image[0].any()
    expected = reconstructor.reconstruct(pick(measurement, [1]))[0]
    torch.testing.assert_close(image[1], expected, rtol=0, atol=1e-4 * float(measurement.scale[1]))


@pytest.mark.parametrize("name", ANY)
def test_the_same_bits_every_time(name):
    first, second = (short(name).reconstruct(smooth(3, (20, 17))) for _ in range(2))
    assert torch.equal(torch.view_as_real(first), torch.view_as_real(second))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ANY if name != "zero_filled"])
@pytest.mark.parametrize("mask", ["random", "poisson2d"])
def test_some_candidate_gains_on_the_zero_filled_image(name, mask):
    measurement = smooth(4, (40, 40), mask)
    assert measurement.target is not None

    def error(image):
        return (image - measurement.target).norm() / measurement.target.norm()

    enough = 0.6 * error(measurement.zero_filled)
    assert any(error(one.reconstruct(measurement)) < enough for one in make_reconstructor(name).candidates())


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_KSPACE)
@pytest.mark.parametrize("n_coils", [1, 4])
def test_measured_samples_are_kept_exactly(name, n_coils):
    measurement = smooth(n_coils, (25, 30))
    mask = measurement.operator.mask.expand_as(measurement.kspace)
    for one in make_reconstructor(name).candidates():
        full = one.complete(measurement.kspace, measurement.operator.mask)
        assert torch.equal(torch.view_as_real(full[mask]), torch.view_as_real(measurement.kspace[mask]))
    assert full.dtype == torch.complex64


@pytest.mark.parametrize("name", IN_KSPACE)
def test_with_every_sample_nothing_is_changed(name):
    measurement = draw(3, (12, 11))
    full = measure(measurement.kspace, torch.ones_like(measurement.operator.mask), measurement.operator.maps)
    torch.testing.assert_close(make_reconstructor(name).reconstruct(full), full.zero_filled)


@pytest.mark.parametrize("name", RECONSTRUCTORS)
def test_candidates_differ_from_it_in_what_is_tuned_alone(name):
    candidates = make_reconstructor(name, phase=False).candidates()
    assert candidates
    assert len(set(map(repr, candidates))) == len(candidates)
    assert all(type(c) is RECONSTRUCTORS[name] and c.phase is False for c in candidates)


def test_zero_filled_is_its_only_candidate_and_gives_the_zero_filled_image():
    reconstructor = make_reconstructor("zero_filled")
    measurement = draw(4, (16, 16))
    assert reconstructor.candidates() == (reconstructor,)
    assert reconstructor.reconstruct(measurement) is measurement.zero_filled


def test_tv_keeps_its_other_parameters_while_the_weight_is_tuned():
    candidates = make_reconstructor("tv", iterations=7, real=True).candidates()
    assert {(c.iterations, c.real) for c in candidates} == {(7, True)}
    assert len({c.weight for c in candidates}) == len(candidates) > 1


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("tvv", {}, "Did you mean 'tv'?"),
        ("tv", {"wieght": 1.0}, "Did you mean 'weight'?"),
        ("tv", {"weight": -1.0}, "weight: .*at least 0"),
        ("zero_filled", {"weight": 1.0}, "unknown key 'weight'"),
        ("cg_sense", {"weight": -0.1}, "at least 0"),
        ("cg_sens", {}, "Did you mean 'cg_sense'?"),
        ("wavelet", {"moments": 0}, "moments: .*at least 1"),
        ("wavelet", {"level": 2}, "Did you mean 'levels'?"),
        ("grappa", {"kernel_x": 4}, "kernel_x: an odd number is needed"),
        ("grappa", {"kernel_y": 9}, "kernel_y: .*at most 7"),
        ("grappa", {"weight": 0}, "weight: .*at least"),
        ("low_rank", {"rank": 0}, "rank: .*at least 1"),
    ],
)
def test_what_is_wrong_is_refused(name, parameters, said):
    with pytest.raises(InputError, match=said):
        make_reconstructor(name, **parameters)


@pytest.mark.slow
def test_choosing_loads_no_torch():
    code = "import sys; from fedrecon.sites.classical import RECONSTRUCTORS as all; "
    code += "[one().candidates() for one in all.values()]; "
    run = subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], check=False)
    assert run.returncode == 0
