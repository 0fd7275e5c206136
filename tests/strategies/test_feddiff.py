"""FedDiff: its loss by hand, its reconstruction against the posterior of a Gaussian prior, what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import DENOISER, Federation

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.runs.run import run
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.degradations import DEGRADATIONS
from fedrecon.sites.imaging.fourier import fft2c, ifft2c
from fedrecon.sites.imaging.measurement import Images, measure
from fedrecon.sites.member.site import Site
from fedrecon.sites.seeding import torch_generator
from fedrecon.sites.training.local_loop import train
from fedrecon.sites.training.method import LocalFit, Subject
from fedrecon.sites.training.parameters import Parameters
from fedrecon.sites.training.settings import Training
from fedrecon.sites.wire import TrainRequest
from fedrecon.strategies import half_quadratic, make_strategy
from fedrecon.strategies.feddiff import BANDS
from fedrecon.strategies.half_quadratic import HalfQuadratic, draws_of, restored, split
from fedrecon.strategies.networks.choice import NetworkChoice
from fedrecon.strategies.networks.denoiser import positions

pytestmark = pytest.mark.usefixtures("few_drawn")
SIZE = 16


def built(**parameters):
    torch.manual_seed(0)
    network = NetworkChoice.parse({**DENOISER, **parameters})
    return network.build(Images(True, (SIZE, SIZE), 1, ("north", "south")))


class Batch:
    """Images of a constant 1 + 2i, twice as large as their scale says."""

    target = torch.full((8, SIZE, SIZE), 2 + 4j)
    scale = torch.full((8,), 2.0)


def test_an_image_is_drawn_at_the_positions_that_its_site_trained_with(monkeypatch):
    """At a site of a smaller matrix than the network's: -1 to 1 over its own matrix, and no frame around it."""
    seen, network = [], built(position=True)
    raw = network._raw
    monkeypatch.setattr(network, "_raw", lambda inputs, code: seen.append(inputs[:, -2:]) or raw(inputs, code))
    with torch.no_grad():
        made = make_strategy("feddiff", {}).draw(network, "north", 2, torch.Generator().manual_seed(0), (12, 10))
    assert made.shape == (2, 12, 10)
    assert all(torch.equal(one, positions(12, 10, made.device).expand(2, -1, -1, -1)) for one in seen)


@pytest.mark.parametrize(("count", "size"), [(3, (12, 10)), (0, (SIZE, SIZE))])
def test_a_site_draws_at_the_matrix_of_its_slices(count, size):
    asked = []

    def draw(network, site, count, draws, size):
        asked.append(size)
        return torch.rand(count, *size, generator=draws)

    real = torch.rand(count, *size), torch.rand(count, *size)
    plan = SimpleNamespace(method=SimpleNamespace(draw=draw), seed=0, images=Images(True, (SIZE, SIZE), 1, ("a",)))
    here = {"shards": {"a": None}, "pictured": ("a",), "load": lambda request: None}
    site = SimpleNamespace(plan=plan, model=torch.nn.Identity(), name="a", _real=real, **here)
    made = Site.samples(site, SimpleNamespace(round=1))
    assert set(asked) == {size}
    assert made.pictures["a"]
    assert bool(made.numbers) == (count > 0)


def fit_of(method, network):
    parameters = Parameters(network, lambda name: method.shares(name, network))
    draws = torch_generator(1, "fit", 1, "north")
    request = TrainRequest(1, parameters.shared.detach().numpy().copy())
    return LocalFit("north", request, network, parameters, Training(), 0.01, draws, {}, ("north", "south"))


class Stub(torch.nn.Module):
    """A denoiser that returns a constant, and keeps what it was given."""

    sigma_data = 0.5

    def __init__(self, network, planes):
        super().__init__()
        self.encoded, self.label, self.planes, self.given = network.encoded, network.label, planes, []

    def forward(self, *given):
        self.given.append(given)
        return self.planes.view(1, 2, 1, 1).expand_as(given[0])


@pytest.mark.parametrize(("planes", "error"), [((1.0, 2.0), 0.0), ((0.0, 0.0), (1 + 4) / 2)])
def test_the_loss_is_the_squared_error_over_the_square_of_c_out(planes, error):
    method = make_strategy("feddiff", {"brightness": 0, "without_site": 0})
    fit = fit_of(method, network := built())
    fit.model = stub = Stub(network, torch.tensor(planes))
    found = method.loss(fit, Batch())
    noisy, sigma, label, _ = stub.given[0]
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    assert found.item() == pytest.approx((error * weight).mean().item(), rel=1e-4, abs=1e-12)
    assert label.tolist() == [[1.0, 0.0]] * 8
    real = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    spread = (noisy - real).flatten(1).std(dim=1)
    torch.testing.assert_close(spread, sigma, rtol=0.2, atol=0)  # 512 numbers each
    ranks = torch.special.ndtr((sigma.log() + 2.5) / 1.2) * 8
    assert sorted(int(rank) for rank in ranks) == list(range(8))  # one level in each eighth
    third = (ranks * 3 / 8).long()
    for k, name in enumerate(BANDS):
        assert fit.noted[name].item() == pytest.approx((error * weight)[third == k].mean().item(), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(("clip", "norm"), [(0.0, 13.0), (2.6, 2.6), (100.0, 13.0)])
def test_a_gradient_above_the_clip_is_scaled_down_to_it(clip, norm):
    method = make_strategy("feddiff", {"clip": clip})
    fit = fit_of(method, built())
    for parameter in fit.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    first, *_, last = fit.model.parameters()
    first.grad.view(-1)[0], last.grad.view(-1)[0] = 5.0, 12.0
    method.gradients(fit)
    found = torch.stack([one.grad.norm() for one in fit.model.parameters()]).norm()
    assert found.item() == pytest.approx(norm, rel=1e-5)
    assert last.grad.view(-1)[0].item() == pytest.approx(12 / 13 * norm, rel=1e-5)


def test_codes_are_dropped_and_patches_know_where_they_lie():
    method = make_strategy("feddiff", {"without_site": 1, "patch": 6, "brightness": 0})
    fit = fit_of(method, network := built())
    ramp = torch.arange(SIZE) / SIZE
    batch = Batch()
    batch.target = 2 * (ramp[:, None] + 1j * ramp).expand(8, SIZE, SIZE)
    fit.model = stub = Stub(network, torch.zeros(2))
    method.loss(fit, batch)
    noisy, sigma, label, where = stub.given[0]
    assert not label.any()
    assert noisy.shape == where.shape == (8, 2, 6, 6)
    row = (where[:, 0, 0, 0] + 1) / 2 * (SIZE - 1)  # the number of the first row of each patch
    assert len(row.round().unique()) > 2
    quiet = int(sigma.argmin())
    seen = noisy[quiet, 0].mean(dim=1)[0] * SIZE
    assert seen.item() == pytest.approx(row[quiet].item(), abs=3 * SIZE * sigma.min().item())


def test_the_proximal_term_is_fedprox_s():
    values = []
    for mu in (0.0, 1e6):
        method = make_strategy("feddiff", {"mu": mu})
        fit = fit_of(method, built())
        method.receive(fit)
        fit.parameters.flat.data += 0.01
        values.append(method.loss(fit, Batch()).item())
    n = fit.parameters.flat.numel()
    assert values[1] - values[0] == pytest.approx(50 * n, rel=1e-2)  # mu / 2 times the square of the distance


def test_a_loss_that_some_steps_lack_is_the_mean_over_the_others(consortium):
    plan = Federation(make_strategy("feddiff", {}), consortium, network=DENOISER).executor().sites["north"]

    class Sometimes(type(plan.plan.method)):
        def step(self, fit, batch):
            return {"loss": torch.tensor(1.0), **({"seen": torch.tensor(6.0)} if fit.batch == 0 else {})}

    fit = fit_of(method := Sometimes(), built())
    fit.training = Training(batch_size=1)
    steps, losses = train(method, fit, plan.slices("train"), 0)
    assert (steps, losses) == (3, {"loss": 1.0, "seen": 6.0})


def measured(noise=0.1, count=2, seed=0):
    """One coil, half of k-space: the measurement with its noise, and its prior mean."""
    draws = torch.Generator().manual_seed(seed)
    planes = torch.randn(2, count, SIZE, SIZE, 2, generator=draws)
    mean = 1 + torch.view_as_complex(planes[0]) / 4
    image = mean + 0.3 * torch.view_as_complex(planes[1])
    mask = torch.rand(count, 1, SIZE, SIZE, generator=draws) < 0.5
    kspace = fft2c(image)[:, None] + noise * torch.randn(count, 1, SIZE, SIZE, dtype=torch.complex64, generator=draws)
    taken = measure(kspace, mask, torch.ones(count, 1, SIZE, SIZE, dtype=torch.complex64))
    return replace(taken, noise=torch.full((count,), noise)), mean


def gaussian(one, mean, spread=0.3):
    """The exact denoiser of a Gaussian prior around ``mean``, and its posterior mean, which k-space gives in full."""
    unit = one.scale[:, None, None]

    def denoise(noisy, fitted, sigma):
        at = (sigma * unit / spread) ** 2
        return (noisy + at * mean / unit) / (1 + at)

    given, noise = one.operator.mask[:, 0] / one.noise[:, None, None] ** 2, 1 / spread**2
    return denoise, ifft2c((given * one.kspace[:, 0] + noise * fft2c(mean)) / (given + noise))


def error(image, expected):
    return ((image - expected).abs().square().sum() / expected.abs().square().sum()).sqrt().item()


@pytest.mark.slow
def test_with_a_gaussian_prior_it_tends_to_the_posterior_mean():
    one, mean = measured()
    denoise, expected = gaussian(one, mean)
    found = {
        steps: error(split(HalfQuadratic(steps=steps, sigma_max=1, sigma_min=0.003), denoise, one, []), expected)
        for steps in (4, 20, 100)
    }
    assert found[100] < 1e-3 < found[20] < found[4] < error(one.zero_filled, expected) / 2


@pytest.mark.slow
def test_the_noise_of_the_measurement_is_used():
    """With ten times the noise the same samples count less; without a known level the setting holds."""
    one, mean = measured()
    noisier = replace(one, noise=10 * one.noise)
    settings = HalfQuadratic(steps=100, sigma_max=1, sigma_min=0.003)
    for each in (one, noisier):
        denoise, expected = gaussian(each, mean)
        assert error(split(settings, denoise, each, []), expected) < 0.01
    unit = one.scale.max().item()
    told = replace(one, noise=None, scale=torch.full_like(one.scale, unit))
    known = replace(told, noise=one.noise)
    denoise, _ = gaussian(known, mean)
    by_setting = HalfQuadratic(steps=5, noise=0.1 / unit)
    torch.testing.assert_close(split(by_setting, denoise, told, []), split(HalfQuadratic(steps=5), denoise, known, []))


def test_samples_follow_from_seed_subject_and_slice_alone():
    one, _ = measured()
    network = built()
    settings = HalfQuadratic(steps=3, zeta=1, samples=2)

    def found(measurement, *slices):
        return restored(settings, network, measurement, Subject("north", ("s",) * len(slices), slices, 0))

    both = found(one, 4, 5)
    second = replace(
        measure(one.kspace[1:], one.operator.mask[1:], torch.ones(1, 1, SIZE, SIZE) + 0j), noise=one.noise[1:]
    )
    torch.testing.assert_close(found(second, 5)[:, 0], both[:, 1], atol=1e-5, rtol=1e-4)
    assert (both[0] - both[1]).abs().max() > 1e-3
    assert torch.equal(found(one, 4, 5), both)
    assert len(draws_of(Subject("north", ("s", "s"), (4, 5), 0), 1)) == 2


@pytest.mark.parametrize("content", ["magnitude", "complex"])
@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_a_lower_resolution_is_one_more_operator(kind, content):
    one, _ = measured()
    low = DEGRADATIONS[kind](scale=2).measure(one.kspace, one.operator.maps)
    image = make_strategy("feddiff", {}).reconstruct(built(content=content), low, Subject("north", ("s",), (0,), 0))
    assert image.shape == (2, SIZE, SIZE)
    assert error(low.operator.forward(image), low.kspace) < 0.05


def test_the_noise_of_a_scored_slice_is_the_scan_s_times_the_operator_s(consortium):
    operator = {"mask": "random", "acceleration": 3, "noise": 2}
    site = Federation(make_strategy("feddiff", {}), consortium, network=DENOISER, operator=operator)
    slices = site.executor().sites["north"].slices("test")
    batch = next(slices.iterate(2))
    assert slices.scoring(batch, 0).noise.tolist() == pytest.approx([2e-3] * 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategy": {"name": "feddiff"}, "training": {"loss": "mse"}}, "loss: feddiff has its own"),
        ({"strategy": {"name": "feddiff", "splitting": {"samples": 2}}}, "set zeta=1"),
        ({"strategy": {"name": "feddiff", "splitting": {"sigma_min": 0.5}}}, "sigma_min: at most sigma_max"),
        ({"strategy": {"name": "feddiff"}, "network": {"name": "style"}}, "network.name=denoiser"),
        ({"strategy": {"name": "fedgimp"}, "network": {"name": "denoiser"}}, "network.name=style"),
        ({"strategy": {"name": "feddiff"}, "training": {"keep": "best"}}, "scored after its last round"),
        ({"strategy": {"name": "pooled_feddiff", "private": ["head"]}}, "strategy.private: one member holds all data"),
        ({"strategy": {"name": "pooled_feddiff", "mu": 1}}, "strategy.mu: one member holds all data"),
        ({"strategy": {"name": "pooled_feddiff", "weighting": "uniform"}}, "weighting: .*would change nothing"),
        ({"strategy": {"name": "pooled_feddiff", "without_site": 0.9}}, "no site has a code; leave it at 0.2"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(change, said):
    with pytest.raises(InputError, match=said):
        Experiment.read({"sites": "data", **change})


def test_patches_need_their_position():
    images, blind = Images(True, (SIZE, SIZE), 1, ("north",)), NetworkChoice.parse({**DENOISER, "position": False})
    make_strategy("feddiff", {}).build(blind, images)
    with pytest.raises(InputError, match=r"network.position"):
        make_strategy("feddiff", {"patch": 8}).build(blind, images)
    make_strategy("feddiff", {"patch": SIZE}).build(NetworkChoice.parse(DENOISER), images)
    with pytest.raises(InputError, match=rf"strategy.patch: {SIZE + 1} would change nothing"):
        make_strategy("feddiff", {"patch": SIZE + 1}).build(NetworkChoice.parse(DENOISER), images)


@pytest.mark.slow
def test_the_pooled_control_is_one_unconditional_denoiser_of_all_slices(consortium):
    one = Federation(make_strategy("pooled_feddiff", {"budget": "passes"}), consortium, network=DENOISER, rounds=1)
    assert one.roster == {"pooled": tuple(consortium)}
    first = one.begin()
    (reply,) = one.executor().fit(one.method.request(first))
    assert (reply.n_slices, reply.steps) == (6, 4)  # batches of two, each of one site: 2 + 1 + 1
    moved = one.layout.named(reply.shared != first.shared, shared=True)
    assert not moved["codes"].any()
    assert moved["last.weight"].mean() > 0.9


@pytest.mark.slow
def test_one_training_serves_every_operator(consortium, mlflow_template, tmp_path):
    import shutil

    shutil.copy(mlflow_template / "mlflow.db", tmp_path / "mlflow.db")
    given = {
        "sites": {site: str(path) for site, path in consortium.items()},
        "strategy": {"name": "feddiff", "moving_average": 0.5, "splitting": {"steps": 2}},
        "network": DENOISER,
        "training": {"rounds": 1, "batch_size": 2},
        "evaluation": {"panels": False, "max_slices": 1},
    }
    first = run(given, workspace=tmp_path, in_process=True)
    operator, splitting = {"mask": "gaussian2d", "acceleration": 2}, {"steps": 3, "zeta": 1, "samples": 2}
    strategy = {**given["strategy"], "splitting": splitting}
    other = run({**given, "operator": operator, "strategy": strategy}, workspace=tmp_path, in_process=True)
    assert (first.trained_rounds, other.trained_rounds) == (1, 0)
    assert other.mean["psnr"] != first.mean["psnr"]


CODELESS = {"name": "feddiff", "without_site": 1}


@pytest.mark.parametrize(
    ("strategy", "takes"), [({"name": "feddiff"}, True), (CODELESS, False), ({"name": "pooled_feddiff"}, False)]
)
def test_codes_that_nothing_trains_take_no_part(strategy, takes):
    """Those of a warm start: the image, the adapted image, the spread and a drawn image are the same without them."""
    keys = {"splitting": {"steps": 2}, "uncertainty": {"samples": 2, "steps": 2}, "adaptation": {"steps": 1}}
    given = {key: value for key, value in strategy.items() if key != "name"}
    plain, method = (make_strategy(strategy["name"], {**given, **some}) for some in ({"splitting": {"steps": 2}}, keys))
    one, _ = measured()
    subject, found = Subject("north", ("s", "s"), (0, 1), 0), []
    for code in (0.0, 3.0):
        network = built().eval()
        with torch.no_grad():
            network.codes.fill_(code)
            network.last.weight.mul_(10)
            draws = torch.Generator().manual_seed(0)
            found.append((
                plain.reconstruct(network, one, subject), method.reconstruct(network, one, subject),
                method.spread(network, one, subject), method.draw(network, "north", 1, draws, (SIZE, SIZE)),
            ))  # fmt: skip
    assert [not torch.equal(a, b) for a, b in zip(*found, strict=True)] == [takes] * 4


def test_a_warm_start_without_codes_has_digests_of_its_own():
    def digest(strategy, **training):
        as_then = {**strategy, "splitting": {"steps": 15}}
        given = {"sites": "d", "strategy": as_then, "network": DENOISER, "training": training}
        return Experiment.read(given).digest({"a": "x"})

    assert digest(CODELESS) == "59dbbe874ba45eee"
    assert digest(CODELESS, start="r") != "1ad6b7566a060a31"
    assert digest({"name": "feddiff"}, start="r") == "7c2f6b2279de18df"


@pytest.mark.parametrize(("samples", "steps", "drawn"), [(1, 0, 0), (3, 0, 2), (1, 2, 0), (3, 2, 2)])
def test_the_cost_of_a_score_counts_the_passes_of_the_denoiser(samples, steps, drawn, monkeypatch):
    """A third of a training step for each pass of the reconstructions, a whole one for each step of the adaptation."""
    splitting, uncertainty = {"steps": 2, "zeta": 1, "samples": samples}, {"samples": drawn, "steps": 3}
    given = {"splitting": splitting, "uncertainty": uncertainty, "adaptation": {"steps": steps}}
    method, seen, real = make_strategy("feddiff", given), [], half_quadratic.denoiser

    def counted(*given):
        denoise = real(*given)
        return lambda noisy, *more: seen.append(len(noisy)) or denoise(noisy, *more)

    monkeypatch.setattr(half_quadratic, "denoiser", counted)
    subject = Subject("north", ("s",), (0,), 0)
    with torch.no_grad():
        method.reconstruct(built(), measured(count=1)[0], subject)
        if drawn:
            method.spread(built(), measured(count=1)[0], subject)
    assert method.scoring_cost() == pytest.approx(0.4 + sum(seen) / 3 + steps)
