"""The spread of a diffusion prior's samples against a posterior in closed form; a denoiser adapted to a slice."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_feddiff import SIZE, built, measured

from fedrecon.platform.federation.coverage import calibrated, coverage, mean_coverage, temperature
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.fourier import fft2c
from fedrecon.sites.imaging.measurement import measure
from fedrecon.sites.scoring.spread import compared
from fedrecon.sites.training.method import Subject
from fedrecon.sites.wire import TrainRequest, temperature_of
from fedrecon.strategies import make_strategy
from fedrecon.strategies.half_quadratic import HalfQuadratic, denoiser, restored
from fedrecon.strategies.subject_adaptation import SubjectAdaptation, adapted, misfit

ONE = Subject("north", ("s",), (0,), 0)
TWO = Subject("north", ("s", "s"), (4, 5), 0)


class Exact:
    """The exact denoiser of a Gaussian prior with the standard deviation ``spread`` of each pixel."""

    content = "complex"

    def __init__(self, mean, spread):
        self.mean, self.spread = torch.view_as_real(mean).movedim(-1, 1), spread

    def eval(self):
        return self

    def label(self, site, count):
        return torch.zeros(count, 1)

    def encoded(self, image):
        return torch.view_as_real(image).movedim(-1, 1)

    def decoded(self, planes):
        return torch.complex(planes[:, 0], planes[:, 1])

    def __call__(self, planes, levels, label):
        at = (levels[:, None, None, None] / self.spread) ** 2
        return (planes + at * self.mean) / (1 + at)


def gaussian(noise=0.05):
    """A measurement of one slice, the exact denoiser, and the posterior's standard deviation of each pixel."""
    draws = torch.Generator().manual_seed(0)
    spread = 0.1 + 0.3 * torch.linspace(0, 1, SIZE).expand(SIZE, SIZE)  # grows from left to right
    mean = torch.full((1, SIZE, SIZE), 6 + 0j)
    image = mean + spread * torch.randn(1, SIZE, SIZE, dtype=torch.complex64, generator=draws) * 2**0.5
    mask = torch.rand(1, 1, SIZE, SIZE, generator=draws) < 0.5
    one = measure(fft2c(image)[:, None], mask, torch.ones(1, 1, SIZE, SIZE, dtype=torch.complex64))
    one = SimpleNamespace(**{**vars(one), "noise": torch.tensor([noise])})
    unit = float(one.scale)
    one.back_projected, one.repeated = one.zero_filled, lambda times: repeated(one, times)
    eye = torch.eye(SIZE * SIZE, dtype=torch.complex64).view(-1, SIZE, SIZE)
    given = (mask[0] * fft2c(eye)).flatten(1).mT.to(torch.complex128)  # A as a matrix
    precision = given.mH @ given / noise**2 + torch.diag(1 / spread.flatten().double() ** 2)
    known = torch.linalg.inv(precision).diagonal().real.sqrt().view(SIZE, SIZE)
    return one, Exact(mean / unit, spread / unit), known


def repeated(one, times):
    names = ("kspace", "zero_filled", "scale", "noise", "back_projected")
    many = {name: getattr(one, name).repeat(times, *[1] * (getattr(one, name).ndim - 1)) for name in names}
    return SimpleNamespace(**{**vars(one), **many, "operator": one.operator.repeated(times)})


@pytest.mark.slow
def test_the_spread_is_the_posterior_s_over_the_root_of_two():
    """With slowly falling levels, zeta 1 draws half of a Gaussian posterior's variance: the temperature is 2^0.5."""
    one, network, known = gaussian()
    splitting = {"sigma_max": 0.3, "sigma_min": 0.001, "iterations": 2, "batch": 150}
    method = make_strategy("feddiff", {"splitting": splitting, "uncertainty": {"samples": 150, "steps": 80}})
    found = 2**0.5 * method.spread(network, one, ONE)[0].double()
    assert (known.max() / known.min()) > 2
    assert (found / known).mean().item() == pytest.approx(1, abs=0.02)
    assert (found / known - 1).abs().max() < 0.3  # a standard deviation from 150 samples is 6 % off
    assert np.corrcoef(found.flatten(), known.flatten())[0, 1] > 0.93


def rows(sites, judged=100):
    """Columns of one slice a site, from (squared error, squared spread, within 1, within 2)."""
    kinds = ("object_squared_error", "object_squared_spread", "within_1", "within_2")
    columns = {name: [one[k] for one in sites.values()] for k, name in enumerate(kinds)}
    return columns | {"site": list(sites), "object_pixels": [judged] * len(sites), "against": ["truth"] * len(sites)}


def test_the_temperature_and_the_coverage_by_hand():
    columns = rows({"a": (8.0, 2.0, 60, 90), "b": (16.0, 1.0, 70, 100)})
    assert temperature(columns) == pytest.approx(math.sqrt((4 + 16) / 2))
    found = coverage(columns)
    assert found["a",] == {"within_1": 0.6, "within_2": 0.9, "n_pixels": 100, "against": "truth"}
    mean = mean_coverage([found["a",], {**found["b",], "against": "measured"}])
    assert mean == {
        "within_1": pytest.approx(0.65),
        "within_2": pytest.approx(0.95),
        "n_pixels": 200,
        "against": "both",
    }
    joined = {name: [*values, *values] for name, values in columns.items()}
    assert coverage(joined)["a",]["n_pixels"] == 200
    assert temperature(joined) == temperature(columns)


@pytest.mark.parametrize(
    "columns", [{"site": ["a"]}, rows({"a": (1.0, 0.0, 0, 0)}), rows({"a": (1.0, 1.0, 9, 9)}, judged=0), rows({})]
)
def test_without_anything_to_find_it_from_there_is_no_temperature(columns):
    request = TrainRequest(1, np.zeros(1, np.float32))
    assert temperature(columns) is None
    assert temperature_of(calibrated(request, None)) == 1
    assert temperature_of(calibrated(request, 1.5)) == 1.5


def test_a_calibrated_spread_covers_68_and_95_percent_of_the_object():
    draws = torch.Generator().manual_seed(0)
    truth = torch.full((2, 200, 200), 5.0)
    truth[:, :, :50] = 0.1  # air: at most 5 % of the maximum
    spread = 0.1 + torch.rand(truth.shape, generator=draws)
    image = truth + spread * torch.randn(truth.shape, generator=draws)
    image[:, :, :50] = 100.0
    items = [SimpleNamespace(volume=SimpleNamespace(crop=None, maximum=5.0))] * 2
    slices = SimpleNamespace(true_images=lambda items: truth, reference=lambda items: truth + 9)
    for k, one in enumerate(compared(slices, items, image, spread)):
        inside = truth[k] > 1
        assert one["object_pixels"] == 200 * 150
        assert one["within_1"] / one["object_pixels"] == pytest.approx(0.6827, abs=0.01)
        assert one["within_2"] / one["object_pixels"] == pytest.approx(0.9545, abs=0.01)
        errors = (image - truth)[k][inside].double()
        assert one["object_squared_error"] == pytest.approx(errors.square().sum().item())
        assert one["object_squared_spread"] == pytest.approx(spread[k][inside].double().square().sum().item())
        assert one["against"] == "truth"
    slices.true_images = lambda items: None
    noisy = compared(slices, items, image, spread)[0]
    assert (noisy["against"], noisy["object_pixels"]) == ("measured", 200 * 200)


def test_the_samples_of_a_batch_are_those_of_one_after_the_other():
    one, _ = measured()
    network = built()
    settings = HalfQuadratic(steps=3, zeta=1, samples=3)
    together, alone = (restored(settings.model_copy(update={"batch": n}), network, one, TWO) for n in (16, 1))
    assert together.shape == (3, 2, SIZE, SIZE)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_spread_is_that_of_its_samples():
    one, _ = measured()
    method, network = make_strategy("feddiff", {"uncertainty": {"samples": 3, "steps": 4}}), built()
    found = method.spread(network, one, TWO)
    drawn = restored(HalfQuadratic(steps=4, zeta=1, samples=3), network, one, TWO).abs()
    by_hand = ((drawn - drawn.mean(dim=0)).square().sum(dim=0) / 2).sqrt()
    torch.testing.assert_close(found, by_hand, atol=1e-6, rtol=1e-4)
    assert torch.equal(method.spread(network, one, TWO), found)
    assert method.has_spread
    assert not make_strategy("feddiff", {}).has_spread
    with pytest.raises(InputError, match="one sample has no spread"):
        make_strategy("feddiff", {"uncertainty": {"samples": 1}})


@pytest.mark.slow
@pytest.mark.parametrize("content", ["complex", "magnitude"])
def test_an_adapted_denoiser_fits_the_samples_of_its_slice_better(content):
    one, _ = measured()
    network, splitting = built(content=content), HalfQuadratic(steps=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def fit(weights, subject=TWO, measurement=one):
        image = restored(splitting, network, measurement, subject)[0] / measurement.scale[:, None, None]
        denoise = denoiser(network, network.label(subject.site, len(measurement.scale)), weights)
        return torch.stack([misfit(measurement, denoise(image, image, level)) for level in splitting.levels()]).sum(0)

    weights = adapted(SubjectAdaptation(steps=12, rate=0.01), splitting, network, one, TWO)
    assert (fit(weights) < 0.9 * fit(None)).all()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(value.requires_grad for value in weights.values())
    maps = torch.ones(1, 1, SIZE, SIZE, dtype=torch.complex64)
    second = replace(measure(one.kspace[1:], one.operator.mask[1:], maps), noise=one.noise[1:])
    alone = adapted(
        SubjectAdaptation(steps=12, rate=0.01), splitting, network, second, Subject("north", ("s",), (5,), 0)
    )
    for name, value in alone.items():  # the other slice of the batch changes nothing
        torch.testing.assert_close(value[0], weights[name][1], atol=5e-3, rtol=0)


@pytest.mark.slow
def test_the_adaptation_changes_the_image_and_is_off_by_default():
    one, _ = measured()
    network, splitting = built(), {"steps": 3}
    images = [
        make_strategy("feddiff", {"splitting": splitting, **more}).reconstruct(network, one, TWO)
        for more in ({}, {"adaptation": {"steps": 0}}, {"adaptation": {"steps": 3, "rate": 0.01}})
    ]
    assert torch.equal(images[0], images[1])
    assert (images[0] - images[2]).abs().max() > 1e-4
