"""A prior adapted to measurements: the objective by hand, each slice on its own, what is kept and what is untouched."""

import numpy as np
import pytest
import torch

from fedrecon.sites.imaging.fourier import fft2c
from fedrecon.sites.imaging.masks import MASKS, make_mask
from fedrecon.sites.imaging.masks.mask import ColumnMask
from fedrecon.sites.imaging.measurement import Images, measure
from fedrecon.sites.training.method import Subject
from fedrecon.strategies import adaptation
from fedrecon.strategies.adaptation import Adaptation, adapt
from fedrecon.strategies.networks.choice import NetworkChoice

SIZE = 16
DEFAULT = Adaptation().variables
STYLE = {"name": "style", "latent": 8, "layers": 2, "channel_base": 128, "channel_max": 8, "skips": True}


@pytest.fixture(scope="module")
def prior():
    torch.manual_seed(3)
    return NetworkChoice.parse(STYLE).build(Images(False, (SIZE, SIZE), 1, ("a", "b"))).eval()


def data(n=3, coils=1, seed=0, scale=1.0, part=0.5):
    draws = torch.Generator().manual_seed(seed)
    image = torch.rand(n, 1, SIZE, SIZE, generator=draws).to(torch.complex64)
    maps = torch.randn(n, coils, SIZE, SIZE, dtype=torch.complex64, generator=draws)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    mask = torch.rand(n, 1, SIZE, SIZE, generator=draws) < part
    mask[..., 6:10, 6:10] = True
    return measure(scale * fft2c(maps * image), mask, maps)


def some(measurement, *picks):
    """The measurement of some of its slices."""
    index = list(picks)
    return measure(
        measurement.kspace[index], measurement.operator.mask[index], measurement.operator.maps[index]
    ), Subject("a", tuple(f"s{k}" for k in picks), tuple(picks), 5)


def settings(**changes):
    return Adaptation(**{"steps": 12, "rate": 0.02, "holdout": 0.25, **changes})


def test_the_objective_by_hand():
    """One sample wrong by 3 + 4i in a grid of 16: sqrt(25 / 16); a step of height 2 along 4 rows: 4 x 2 / 16."""
    residual = torch.zeros(1, 1, 4, 4, dtype=torch.complex64)
    residual[0, 0, 1, 2] = 3 + 4j
    seen = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert adaptation._rms(residual, seen, 16).item() == pytest.approx(5 / 4)
    seen[0, 0, 1, 2] = False
    assert adaptation._rms(residual, seen, 16).item() == pytest.approx(0, abs=1e-5)
    step = torch.zeros(1, 4, 4, dtype=torch.complex64)
    step[0, :, 2:] = 2j
    assert adaptation._variation(step).item() == pytest.approx(4 * 2 / 16)


@pytest.mark.slow
def test_neither_term_depends_on_the_number_of_coils():
    """Of an image under maps of unit length the data term is that of one coil, whatever their number; so one ``tv``."""
    for coils in (1, 3):
        one = data(coils=coils)
        seen = torch.ones_like(one.operator.mask)
        images = torch.rand(3, SIZE, SIZE, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
        residual = fft2c(one.operator.maps * images.unsqueeze(1))
        expected = images.abs().square().mean(dim=(1, 2)).sqrt()
        torch.testing.assert_close(adaptation._rms(residual, seen, SIZE * SIZE), expected)


def test_the_published_objective_is_ours_times_a_constant():
    """sqrt(mean |M F d|^2) + 1e-4 sum TV with the unnormalised transform, on images of 256 x 256."""
    image, other = (torch.rand(1, 1, 256, 256, dtype=torch.complex64) for _ in range(2))
    mask = torch.rand(1, 1, 256, 256) < 0.3
    published = (mask * torch.fft.fft2(image - other)).abs().square().mean().sqrt()
    published += 1e-4 * (image.diff(dim=-1).abs().sum() + image.diff(dim=-2).abs().sum())
    ours = adaptation._rms(fft2c(image - other), torch.fft.fftshift(mask, dim=(-2, -1)), 256 * 256)
    ours += Adaptation().tv * adaptation._variation(image[:, 0])
    assert (published / ours).item() == pytest.approx(256, rel=1e-4)
    assert (Adaptation().steps, Adaptation().rate) == (1200, 0.01)


@pytest.mark.slow
def test_what_the_others_are_changes_no_bit_of_a_slice(prior):
    one, other = data(coils=2), data(coils=2, seed=1)
    kspace = torch.cat([one.kspace[:1], other.kspace[1:]])
    mixed = measure(
        kspace,
        *(
            torch.cat([getattr(m.operator, name)[part] for m, part in ((one, slice(1)), (other, slice(1, 3)))])
            for name in ("mask", "maps")
        ),
    )
    subject = some(one, 0, 1, 2)[1]
    first, second = (adapt(settings(), prior, each, subject) for each in (one, mixed))
    assert torch.equal(first.image[0], second.image[0])
    assert not torch.equal(first.image[1], second.image[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("coils", "variables"),
    [(1, ("z",)), (3, ("w", "weights")), (1, ("noise",)), (3, ("weights",)), (1, ("phase",)), (3, DEFAULT)],
)
def test_slices_together_are_as_each_alone(prior, coils, variables, monkeypatch):
    """Where Adam does not blow rounding up: a gradient that is zero but for it makes a step of full length."""
    monkeypatch.setattr(adaptation, "EPS", 1e-3)
    whole = data(coils=coils)
    chosen = settings(variables=variables, steps=6)
    together = adapt(chosen, prior, *some(whole, 0, 1, 2))
    for k in range(3):
        alone = adapt(chosen, prior, *some(whole, k))
        peak = float(together.image[k].abs().max())
        torch.testing.assert_close(together.image[k : k + 1], alone.image, rtol=0, atol=2e-3 * peak)
    assert together.loss[-1].sum() < together.loss[0].sum(), together.loss[-1] - together.loss[0]


@pytest.mark.slow
def test_the_prior_stays_as_it_is_and_twice_gives_the_same_bits(prior):
    before = {name: one.clone() for name, one in prior.state_dict().items()}
    first, second = (adapt(settings(), prior, *some(data(), 0, 1)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert all(torch.equal(before[name], one) for name, one in prior.state_dict().items())
    assert all(one.grad is None for one in prior.parameters())


@pytest.mark.slow
def test_the_data_s_unit_changes_nothing(prior, monkeypatch):
    monkeypatch.setattr(adaptation, "EPS", 1e-3)
    one, two = (adapt(settings(), prior, *some(data(scale=scale), 0, 1)) for scale in (1.0, 1e3))
    torch.testing.assert_close(two.image / 1e3, one.image, rtol=1e-3, atol=1e-4)


def test_no_steps_are_the_static_prior_with_the_gain_of_least_squares(prior):
    measurement, subject = some(data(), 0, 1)
    fitted = adapt(settings(steps=0), prior, measurement, subject)
    with torch.no_grad():
        noise = adaptation._noise(prior.generator, subject, 8)
        drawn = prior.decoded(prior.generator(torch.zeros(2, 8), prior.label("a", 2), noise), (2, SIZE, SIZE))
    samples = measurement.operator.forward(drawn)
    seen, _ = adaptation._split(0.25, measurement.operator.mask, subject)
    fit, power = (samples.conj() * measurement.kspace).real * seen, samples.abs().square() * seen
    gain = fit.sum((1, 2, 3)) / power.sum((1, 2, 3))
    torch.testing.assert_close(fitted.image, gain.clamp_min(0)[:, None, None] * drawn, rtol=1e-3, atol=1e-3)
    assert (fitted.steps, fitted.kept.tolist(), fitted.loss.shape) == (0, [0, 0], (1, 2))


def test_samples_held_out_are_measured_spare_the_middle_and_are_a_slice_s_own():
    measurement, subject = some(data(part=0.6), 0, 1, 2)
    mask = measurement.operator.mask
    seen, held = adaptation._split(0.2, mask, subject)
    assert torch.equal(seen | held, mask)
    assert not (seen & held).any()
    assert not held[..., 6:10, 6:10].any()
    assert 0.1 < held.sum() / mask.sum() < 0.3
    alone, _ = adaptation._split(0.2, mask[1:2], some(data(), 1)[1])
    assert torch.equal(alone, seen[1:2])
    assert torch.equal(adaptation._split(0, mask, subject)[0], mask)
    few, none = adaptation._split(0.02, mask, subject)  # fewer than 16 of about 150 samples: none at all
    assert torch.equal(few, mask)
    assert not none.any()


@pytest.mark.parametrize("name", MASKS)
def test_where_a_mask_measures_whole_columns_whole_columns_are_held_out(name):
    """The law over every family of masks: a held-out sample has no measured neighbour in its own column."""
    shape, subject = (64, 48), Subject("a", ("s", "s", "t"), (0, 1, 0), 0)
    family = make_mask(name, acceleration=3)
    mask = torch.from_numpy(np.stack([family.sample(shape, k) for k in range(3)])[:, None])
    seen, held = adaptation._split(0.03, mask, subject)
    assert torch.equal(seen | held, mask)
    assert not (seen & held).any()
    assert held.flatten(1).any(dim=1).all()
    assert not held[..., 30:34, 22:26].any()
    if isinstance(family, ColumnMask):
        columns = held.any(dim=-2, keepdim=True)
        assert torch.equal(held, columns.expand_as(held))
        assert (columns.flatten(1).sum(dim=1) == 1).all()  # 3 % of 16 columns are less than one
        many = adaptation._split(0.25, mask, subject)[1][:, 0, 0]
        assert many.sum(dim=1).tolist() == [round(0.25 * n) for n in mask[:, 0, 0].sum(dim=1).tolist()]
        assert len({tuple(row) for row in many.int().tolist()}) == 3
    assert not adaptation._split(0, mask, subject)[1].any()


@pytest.mark.slow
def test_the_loss_never_sees_what_is_held_out(prior):
    """Other values in the samples held out: the same path, to the bit; only what is kept may differ."""
    measurement, subject = some(data(), 0, 1)
    chosen = settings(holdout=0.2, steps=8)
    _, held = adaptation._split(0.2, measurement.operator.mask, subject)
    changed = measurement.kspace + held * 5
    spoiled = type(measurement)(changed, measurement.operator, measurement.zero_filled, measurement.scale)
    loss = adapt(chosen, prior, measurement, subject).loss
    other = adapt(chosen, prior, spoiled, subject).loss
    assert loss.shape == other.shape
    assert torch.equal(loss, other)


@pytest.mark.slow
def test_the_image_that_fits_the_held_out_samples_best_is_kept(prior, monkeypatch):
    measurement, subject = some(data(), 0, 1)
    judged = []
    rms = adaptation._rms

    def noting(residual, samples, pixels):
        value = rms(residual, samples, pixels)
        if not residual.requires_grad:
            judged.append(value)
        return value

    monkeypatch.setattr(adaptation, "_rms", noting)
    fitted = adapt(settings(rate=0.1, steps=30), prior, measurement, subject)
    assert fitted.kept.tolist() == torch.stack(judged).argmin(dim=0).tolist()


@pytest.mark.slow
def test_a_slice_is_done_for_itself_whoever_goes_on(prior, monkeypatch):
    """One that gets no better is not moved on by a company that does."""
    monkeypatch.setattr(adaptation, "EPS", 1e-3)
    whole = data()
    chosen = settings(steps=40, patience=5, rate=0.05, holdout=0.2)
    together = adapt(chosen, prior, *some(whole, 0, 1, 2))
    alone = [adapt(chosen, prior, *some(whole, k)) for k in range(3)]
    assert len(set(together.kept.tolist())) > 1
    assert together.kept.tolist() == [one.kept.item() for one in alone]
    assert together.steps == max(one.steps for one in alone)


@pytest.mark.slow
def test_under_bfloat16_every_variable_still_moves_the_image(prior):
    measurement, subject = some(data(), 0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        fitted = adapt(settings(variables=("weights",), steps=20, rate=0.05), prior, measurement, subject)
    exact = adapt(settings(variables=("weights",), steps=20, rate=0.05), prior, measurement, subject)
    torch.testing.assert_close(fitted.loss[-1], exact.loss[-1], rtol=0.2, atol=0)


@pytest.mark.slow
def test_it_stops_when_no_slice_gets_better(prior):
    chosen = settings(rate=1e-9, steps=200, patience=5, variables=("weights",))
    assert adapt(chosen, prior, *some(data(), 0, 1)).steps < 50
    assert adapt(settings(holdout=0, steps=20, patience=5), prior, *some(data(), 0)).steps == 20


@pytest.mark.slow
def test_an_untrained_prior_does_not_depend_on_what_was_learned(prior):
    measurement = some(data(), 0)
    control = settings(prior="untrained", steps=3)
    expected = adapt(control, prior, *measurement).image
    other = NetworkChoice.parse(STYLE).build(Images(False, (SIZE, SIZE), 1, ("a", "b"))).eval()
    assert torch.equal(adapt(control, other, *measurement).image, expected)
    assert not torch.equal(adapt(settings(steps=3), other, *measurement).image, expected)


@pytest.mark.slow
def test_a_smooth_phase_that_the_maps_do_not_hold_is_found():
    """Data of the prior's own image times a phase: without the variable the measured samples cannot be met."""
    torch.manual_seed(1)
    prior = NetworkChoice.parse(STYLE).build(Images(False, (SIZE, SIZE), 1, ("a", "b"))).eval()
    _, subject = some(data(), 0, 1)
    with torch.no_grad():
        noise = adaptation._noise(prior.generator, subject, 8)
        image = prior.decoded(prior.generator(torch.zeros(2, 8), prior.label("a", 2), noise), (2, SIZE, SIZE))
    bend = torch.linspace(-1, 1, SIZE)
    image = image * torch.polar(torch.ones(SIZE, SIZE), bend[:, None] * bend**2)
    whole = torch.ones(2, 1, SIZE, SIZE)
    measurement = measure(fft2c(image.unsqueeze(1)), whole.bool(), whole.to(torch.complex64))
    chosen = {"steps": 60, "rate": 0.05, "tv": 0, "phase_size": 5}
    off, on = (
        adapt(settings(**chosen, variables=variables), prior, measurement, subject)
        for variables in (("z",), ("phase",))
    )
    assert (on.loss[-1] < 0.15 * on.loss[0]).all()
    assert (off.loss[-1] > 0.5 * off.loss[0]).all()


def test_where_w_is_adapted_the_mapper_is_not(prior):
    measurement, subject = some(data(), 0, 1)
    slices = adaptation._Slices(settings(variables=("w", "weights")), prior, measurement, subject, measurement.kspace)
    shapes = [tuple(one.shape) for one in slices.variables]
    assert (2, *prior.generator.mapper.codes.shape) not in shapes
    assert (2, prior.generator.n_layers, 8) in shapes
    assert len(shapes) == 2 + len(list(prior.generator.synthesizer.parameters()))


def test_noise_maps_stay_standardised_and_large_ones_zero(prior):
    measurement, subject = some(data(), 0, 1)
    kspace = measurement.kspace / measurement.scale[:, None, None, None]
    slices = adaptation._Slices(settings(variables=("noise",), noise_to=8), prior, measurement, subject, kspace)
    for one in slices.noisy:
        with torch.no_grad():
            one.mul_(3).add_(1)
    slices.standardise()
    for one in slices.noise:
        if one.shape[-1] <= 8:
            torch.testing.assert_close(one.square().mean((-2, -1)), torch.ones(2, 1), rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(one.mean((-2, -1)), torch.zeros(2, 1), rtol=0, atol=1e-5)
        else:
            assert not one.any()


def test_the_phase_of_an_image_is_exact_under_autocast(prior, monkeypatch):
    measurement, subject = some(data(), 0, 1)
    slices = adaptation._Slices(settings(variables=("phase",)), prior, measurement, subject, measurement.kspace)
    monkeypatch.setattr(slices, "_drawn", lambda: torch.ones(2, SIZE, SIZE, dtype=torch.complex64))
    with torch.no_grad():
        slices.phase.copy_(3 * torch.randn(slices.phase.shape, generator=torch.Generator().manual_seed(0)))
        exact = slices.image()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(slices.image(), exact)


@pytest.mark.slow
def test_an_empty_slice_stays_finite(prior):
    measurement, _ = some(data(), 0)
    empty = measure(0 * measurement.kspace, measurement.operator.mask, measurement.operator.maps)
    assert adapt(settings(), prior, empty, Subject("a", ("s",), (0,), 0)).image.isfinite().all()
