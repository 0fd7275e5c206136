"""Laws of every reconstructor, and that choosing one loads no torch."""

import subprocess
import sys

import pytest
import torch

from fedrecon.sites.classical import RECONSTRUCTORS, make_reconstructor
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.degradations import DEGRADATIONS
from fedrecon.sites.imaging.fourier import fft2c
from fedrecon.sites.imaging.measurement import measure


def draw(n_coils, size, factor=1.0):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, *size, dtype=torch.complex64, generator=generator)
    maps = torch.randn(2, n_coils, *size, dtype=torch.complex64, generator=generator)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    mask = torch.rand(2, 1, *size, generator=generator) < 0.5
    return measure(factor * fft2c(maps * image), mask, maps)


ANY = [name for name, one in RECONSTRUCTORS.items() if not one.needs_low]


@pytest.mark.parametrize("name", RECONSTRUCTORS)
@pytest.mark.parametrize("kind", DEGRADATIONS)
@pytest.mark.parametrize("n_coils", [1, 4])
@pytest.mark.parametrize("size", [(16, 16), (18, 24)])
def test_gives_an_image_of_the_high_resolution_from_a_low_one(name, kind, n_coils, size):
    reconstructor = make_reconstructor(name)

    def degraded(factor):
        one = draw(n_coils, size, factor)
        return DEGRADATIONS[kind](scale=2).measure(one.kspace, one.operator.maps)

    image = reconstructor.reconstruct(degraded(1.0))
    assert image.shape == (2, *size)
    assert image.dtype == torch.complex64
    scaled = reconstructor.reconstruct(degraded(2.0**13))
    torch.testing.assert_close(scaled / 2.0**13, image, rtol=0, atol=1e-4 * float(image.abs().max()))


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize("n_coils", [1, 4])
@pytest.mark.parametrize("size", [(16, 16), (13, 10)])
def test_gives_an_image_of_that_size_at_the_scale_of_the_data(name, n_coils, size):
    reconstructor = make_reconstructor(name)
    image = reconstructor.reconstruct(draw(n_coils, size))
    assert image.shape == (2, *size)
    assert image.dtype == torch.complex64
    scaled = reconstructor.reconstruct(draw(n_coils, size, factor=2.0**13))
    torch.testing.assert_close(scaled / 2.0**13, image, rtol=0, atol=1e-4 * float(image.abs().max()))


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
        ("tv", {"weight": -1.0}, "weight: .*greater than or equal to 0"),
        ("zero_filled", {"weight": 1.0}, "unknown key 'weight'"),
    ],
)
def test_what_is_wrong_is_refused(name, parameters, said):
    with pytest.raises(InputError, match=said):
        make_reconstructor(name, **parameters)


def test_choosing_loads_no_torch():
    code = "import sys; from fedrecon.sites.classical import make_reconstructor as m; m('tv').candidates(); "
    run = subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], check=False)
    assert run.returncode == 0
