"""FedGIMP: its step against one written out here, the server's side by hand, what stays and what is refused."""

import numpy as np
import pytest
import torch
from cases import EVERY_OPTION
from tiny import STYLE, Federation, make_volume
from torch.nn import functional as F

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.runs.run import run
from fedrecon.sites.data.shard import write_shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.measurement import Images
from fedrecon.sites.seeding import torch_generator
from fedrecon.sites.training.method import LocalFit
from fedrecon.sites.training.parameters import Parameters
from fedrecon.sites.training.settings import Training
from fedrecon.sites.wire import State, TrainReply, TrainRequest
from fedrecon.strategies import make_strategy
from fedrecon.strategies.fedgimp import ANCHORS, PROBABILITY
from fedrecon.strategies.moving_average import AVERAGE
from fedrecon.strategies.networks.choice import NetworkChoice

pytestmark = pytest.mark.usefixtures("few_drawn")


def f32(*values):
    return np.array(values, np.float32)


def gimp(**parameters):
    return make_strategy("fedgimp", parameters)


def built():
    torch.manual_seed(0)
    return NetworkChoice.parse(STYLE).build(Images(False, (32, 32), 1, ("north", "south")))


def fit_of(method, network, round_number=1, rate=0.01):
    request = TrainRequest(round_number, f32())
    parameters = Parameters(network, lambda name: method.shares(name, network))
    training = Training(augment=False, batch_size=4)
    draws = torch_generator(1, "fit", round_number, "north")
    fit = LocalFit("north", request, network, parameters, training, rate, draws, {}, ("north", "south"), n_slices=6)
    network.train()
    method.receive(fit)
    fit.optimizers = method.optimizers(fit)
    fit.indices = (4, 1, 0, 5)
    return fit


class Batch:
    """Four images of peak 2."""

    def __init__(self):
        values = torch.rand(4, 32, 32, generator=torch.Generator().manual_seed(2))
        self.target = torch.polar(2 * values / values.amax((1, 2), keepdim=True), values)
        self.scale = torch.full((4,), 2.0)


@pytest.mark.slow
def test_one_step_is_the_published_one():
    """Non-saturating logistic losses, R1 with gamma 10 on reals, Adam(0, 0.99), no mixing: written out."""
    method, batch = gimp(mixing=0), Batch()
    network = built()
    fit = fit_of(method, network)
    losses = method.step(fit, batch)

    other = built()
    generator, discriminator = other.generator.train(), other.discriminator
    draws = torch_generator(1, "fit", 1, "north")
    label = torch.tensor([[1.0, 0.0]]).expand(4, -1)
    w = generator.mapper(torch.randn(4, 8, generator=draws), label)
    generator.average.copy_(0.995 * generator.average + 0.005 * w.detach().mean(0))
    noise = [torch.randn(4, 1, n, n, generator=draws) for n in (4, 4, 8, 8, 16, 16, 32, 32)]
    fake = generator.synthesizer(w.unsqueeze(1).expand(-1, generator.n_layers, -1), noise)
    real = (batch.target.abs() - 1).unsqueeze(1).requires_grad_()  # 2 |x| / peak - 1
    for_d = torch.optim.Adam(discriminator.parameters(), 0.01, betas=(0.0, 0.99))
    for_g = torch.optim.Adam(generator.parameters(), 0.01, betas=(0.0, 0.99))
    on_real, on_fake = discriminator(real, label), discriminator(fake.detach(), label)
    (gradient,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
    judged = -F.logsigmoid(on_real).mean() - F.logsigmoid(-on_fake).mean()
    for_d.zero_grad()
    (judged + 5 * gradient.pow(2).sum((1, 2, 3)).mean()).backward()
    for_d.step()
    for_g.zero_grad()
    loss = -F.logsigmoid(discriminator(fake, label)).mean()
    loss.backward()
    for_g.step()

    assert losses["loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    assert losses["discriminator"].item() == pytest.approx(judged.item(), rel=1e-5)
    found, compared = network.state_dict(), 0
    first = ("generator.synthesizer.constant", "generator.synthesizer.layers.0.bias")
    for name, value in other.named_parameters():
        if name in first:  # they shift a constant field, which is normalised to zero: a gradient of rounding alone
            continue
        sure = value.grad.abs() > 1e-5  # Adam makes a full step even of a gradient that is rounding alone
        compared += int(sure.sum())
        torch.testing.assert_close(found[name][sure], value[sure], rtol=0, atol=1e-3, msg=name)
    assert compared > 0.8 * sum(one.numel() for one in other.parameters())
    torch.testing.assert_close(found["generator.average"], generator.average)
    moved = dict(built().named_parameters())
    assert any(
        not torch.equal(moved[name], one)
        for name, one in network.discriminator.named_parameters(prefix="discriminator")
    )


@pytest.mark.slow
def test_the_published_network_takes_a_step():
    """At its published width, of one site's two images; with three sites, as published, of a sixteenth of the side."""
    torch.manual_seed(0)
    size = 16
    images = Images(False, (size, size), 1, ("north", "south", "west"))
    network, method = NetworkChoice.parse({"name": "style"}).build(images), gimp()
    fit = fit_of(method, network, rate=0.002)
    before = [one.detach().clone() for one in (network.generator.mapper.codes, network.discriminator.logits.weight)]
    batch = Batch()
    batch.target, batch.scale = torch.rand(2, size, size, dtype=torch.complex64), torch.ones(2)
    losses = method.step(fit, batch)
    assert all(value.isfinite() for value in losses.values())
    after = [network.generator.mapper.codes, network.discriminator.logits.weight]
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert torch.equal(before[0][1:], after[0][1:])  # the codes of other sites stay


def test_the_penalty_of_a_linear_discriminator_by_hand():
    """D(x) = <a, x> has the gradient a everywhere: (gamma / 2) |a|^2, on every third step times three."""
    method = gimp(r1=4, r1_every=3)
    network = built()
    fit = fit_of(method, network)
    a = torch.randn(1, 32, 32)
    network.discriminator.forward = lambda images, label: (images * a).sum((1, 2, 3))
    real, label = torch.rand(4, 1, 32, 32), network.label("north", 4)
    values = [method._penalty(fit, real, label) for _ in range(5)]
    assert [value is None for value in values] == [False, True, True, False, True]
    assert values[0].item() == pytest.approx(3 * 4 / 2 * a.square().sum().item(), rel=1e-5)
    assert gimp(r1=0)._penalty(fit_of(gimp(r1=0), network), real, label) is None


@pytest.mark.slow
def test_anchors_pull_their_images_to_the_slices_alone_at_first():
    method, batch = gimp(anchor=3, anchor_rounds=1, anchor_rate=2, mixing=0), Batch()
    network = built()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    fit = fit_of(method, network)
    latents = fit.scratch[ANCHORS].detach().clone()
    assert latents.shape == (6, 8)
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.02)
    losses = method.step(fit, batch)
    assert set(losses) == {"loss", "anchor"}
    now = network.state_dict()
    assert all(torch.equal(before[n], now[n]) for n in now if n.startswith("discriminator"))
    assert any(not torch.equal(before[n], now[n]) for n in now if n.startswith("generator"))
    moved = (fit.scratch[ANCHORS].detach() != latents).any(dim=1).tolist()
    assert moved == [True, True, False, False, True, True]  # the slices of the batch: 4, 1, 0, 5
    assert method.reply(fit, 1) == {}
    assert fit.memory[ANCHORS].shape == (48,)

    later = fit_of(method, network, round_number=2)
    assert later.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)
    assert {"loss", "anchor", "discriminator"} <= set(method.step(later, batch))


def test_what_a_site_keeps_and_what_it_shares():
    method, network = gimp(), built()
    shared = {
        name for name, _ in [*network.named_parameters(), *network.named_buffers()] if method.shares(name, network)
    }
    assert all(name.startswith("generator.") for name in shared)
    assert {"generator.mapper.codes", "generator.average", "generator.synthesizer.constant"} <= shared
    assert not any(method.shares(name, network) for name, _ in network.discriminator.named_parameters("discriminator"))


def test_the_mean_is_uniform_and_its_moving_average_stays_on_the_server():
    n_slices = {"a": 6, "b": 2}
    assert gimp().weights(n_slices) == {"a": 0.5, "b": 0.5}

    def replies(a, b):
        return [TrainReply("a", 1, 6, f32(a)), TrainReply("b", 1, 2, f32(b))]

    method, state = gimp(moving_average=0.05), State(0, f32(0))
    first = method.merge(state, replies(2, 4), n_slices)
    assert (first.shared.tolist(), first.extra[AVERAGE].tolist()) == ([3.0], [3.0])  # decay 0 / 10
    second = method.merge(first, replies(5, 9), n_slices)
    assert second.shared.tolist() == [7.0]
    assert second.extra[AVERAGE].tolist() == pytest.approx([0.05 * 3 + 0.95 * 7])  # 0.05 < 1 / 11
    assert method.request(second).extra == {}
    assert method.request(second).shared.tolist() == [7.0]
    assert method.scoring_request(second).shared.tolist() == second.extra[AVERAGE].tolist()
    plain = gimp().merge(state, replies(2, 4), n_slices)
    assert plain.extra == {}
    assert gimp().scoring_request(plain).shared.tolist() == [3.0]


def test_augmentation_follows_how_sure_the_discriminator_is():
    method = gimp(augmentation="adaptive", augmentation_images=40, augmentation_target=0.5)
    fit = fit_of(method, built())
    seen = []
    for logits in ((1, 1, 1, 1), (1, 1, 1, 1), (-1, 1, -1, 1), *((2, 2, 2, 2),) * 12):
        method._adjust(fit, torch.tensor(logits, dtype=torch.float32))
        seen.append(float(fit.memory[PROBABILITY][0]))
    assert seen[:4] == pytest.approx([0.1, 0.2, 0.1, 0.2])
    assert seen[-1] == pytest.approx(0.8)  # and no further
    assert gimp()._probability(fit_of(gimp(), built())) == 0


def test_style_mixing_gives_later_layers_another_latent(monkeypatch):
    network = built()
    given = []
    synthesizer = network.generator.synthesizer
    monkeypatch.setattr(synthesizer, "forward", lambda styles, noise: given.append(styles) or styles)
    for mixing in (0, 1):
        method = gimp(mixing=mixing)
        method._fakes(fit_of(method, network), 4)
    same, mixed = ((one == one[:, :1]).all(-1) for one in given)
    assert same.all()
    assert not mixed.all(dim=1).any()
    assert mixed[:, 0].all()
    for row in mixed:  # one crossing: equal to the first up to it, different from there on
        assert row.tolist() == sorted(row.tolist(), reverse=True)


@pytest.mark.parametrize(("rounds", "warned"), [(0, 0), (3, 1), (10, 1), (11, 0)])
def test_rounds_without_a_discriminator_are_said(rounds, warned):
    said = gimp(anchor=1, anchor_rounds=10).warnings(Training(rounds=rounds), {})
    assert len(said) == warned
    assert all(f"leaves none of the {rounds} rounds" in line for line in said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategy": {"name": "fedgimp", "anchor": 1}}, r"training: .*set training.augment to false"),
        (
            {"strategy": {"name": "fedgimp", "anchor_rounds": 3}, "training": {"augment": False}},
            "anchor_rounds without",
        ),
        (
            {"strategy": {"name": "fedgimp", "augmentation_target": 0.3}},
            "augmentation_target: 0.3 would change nothing",
        ),
        ({"strategy": {"name": "fedgimp", "augmentation_images": 7}}, "strategy.augmentation is none"),
        ({"strategy": {"name": "fedgimp", "anchor_rate": 2}}, "strategy.anchor is 0; leave it at 5"),
        ({"strategy": {"name": "fedgimp", "anchor_spread": 0.1}}, "anchor_spread: 0.1 would change nothing"),
        ({"strategy": {"name": "fedgimp", "r1": 0, "r1_every": 4}}, "r1_every: 4 would change nothing"),
        ({"strategy": {"name": "fedgimp"}, "training": {"optimizer": "sgd"}}, "optimizer: fedgimp has its own"),
        ({"strategy": {"name": "fedgimp", "adaptation": {"variables": ["z", "w"]}}}, "w replaces z"),
        ({"strategy": {"name": "fedgimp", "adaptation": {"variables": ["w", "w"]}}}, "name each variable once"),
        (
            {"strategy": {"name": "fedgimp"}, "network": {"name": "unet"}},
            "network.name=style",
        ),
        (
            {"strategy": {"name": "fedavg"}, "network": {"name": "style"}},
            r"'style'.*network.name=unet",
        ),
        ({"strategy": {"name": "fedgimp", "adaptation": {"step": 3}}}, "adaptation.*Did you mean 'steps'"),
        (
            {"strategy": {"name": "fedgimp", "adaptation": {"variables": ["x"]}}},
            "'z', 'w', 'noise', 'weights' or 'phase'",
        ),
        (
            {"strategy": {"name": "fedgimp", "adaptation": {"prior": "best"}}, "network": {"name": "style"}},
            "'untrained'",
        ),
        ({"strategy": {"name": "fedgimp", "adaptation": {"variables": []}}}, "variables: .*1 or more values"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(change, said):
    with pytest.raises(InputError, match=said):
        Experiment.read({"sites": "data", **change})


def test_noise_is_adapted_where_there_are_noise_maps():
    images = Images(True, (32, 32), 1, ("a",))

    def built(network=8, **adaptation):
        make_strategy("fedgimp", {"adaptation": adaptation}).build(
            NetworkChoice.parse({**STYLE, "noise_to": network}), images
        )

    built(0)  # the default names noise too
    built(0, variables=["w"])
    built(8, variables=["noise"])
    for network, largest in ((0, 8), (8, 0)):
        with pytest.raises(InputError, match="variables: noise would change nothing"):
            built(network, variables=["noise"], noise_to=largest)


def test_defaults_follow_the_strategy():
    experiment = Experiment.read({"sites": "data", "strategy": {"name": "fedgimp"}})
    assert experiment.network["name"] == "style"
    assert experiment.fitting.optimizer_state == "keep"
    plain = Experiment.read({"sites": "data"})
    assert (plain.network["name"], plain.fitting.optimizer_state) == ("unet", "reset")
    asked = Experiment.read({"sites": "d", "strategy": {"name": "fedgimp"}, "training": {"optimizer_state": "reset"}})
    assert asked.fitting.optimizer_state == "reset"


def test_one_training_serves_every_operator_and_adaptation():
    strategy = {"name": "fedgimp", "adaptation": {"steps": 3}}
    given = {"sites": "data", "strategy": strategy, "network": {"name": "style"}}
    contents = {"a": "1"}
    first = Experiment.read(given)
    for change in ("strategy.adaptation.prior=untrained", "strategy.adaptation.steps=0", "operator.acceleration=8"):
        other = Experiment.read(given, [change])
        assert other.training_digest(contents) == first.training_digest(contents)
        assert other.digest(contents) != first.digest(contents)
    for change in ("strategy.r1=1", "training.rounds=3", "network.latent=8"):
        assert Experiment.read(given, [change]).training_digest(contents) != first.training_digest(contents)


@pytest.fixture(scope="module")
def finished(consortium, mlflow_template, tmp_path_factory):
    """A trained prior, its experiment and its workspace."""
    import shutil

    place = tmp_path_factory.mktemp("fedgimp")
    shutil.copy(mlflow_template / "mlflow.db", place / "mlflow.db")
    given = {
        "sites": {site: str(path) for site, path in consortium.items()},
        "strategy": {"name": "fedgimp", **EVERY_OPTION},
        "network": STYLE,
        "training": {"rounds": 2, "batch_size": 2, "learning_rate": 0.01, "augment": False},
        "evaluation": {"every": 1, "max_slices": 1},
    }
    return given, run(given, workspace=place, in_process=True), place


@pytest.mark.slow
def test_between_rounds_a_prior_is_seen_by_what_it_draws(finished):
    from fedrecon.platform.storage.tracking.store import run_store

    _, result, place = finished
    client = run_store(None, place).client
    for site in ("north", "middle", "south"):
        told = {
            one.key
            for name in ("loss", "discriminator")
            for one in client.get_metric_history(result.run_id, f"train/site/{site}/{name}")
        }
        assert told == {f"train/site/{site}/loss", f"train/site/{site}/discriminator"}
    assert [one.step for one in client.get_metric_history(result.run_id, "validation/mean/psnr")] == [2]
    pictures = [one.path for one in client.list_artifacts(result.run_id, "images")]
    assert (
        sum("samples" in path and path.endswith(".png") for path in pictures) == 3
    )  # of rounds 0 to 2, all sites in one
    assert not any("panel" in path for path in pictures)
    assert client.get_metric_history(result.run_id, "test/seconds_per_slice")[0].value > 0
    assert result.seconds_per_slice > 0
    assert "private" not in {one.path for one in client.list_artifacts(result.run_id)}


@pytest.mark.slow
def test_another_operator_starts_at_stage_two(finished):
    given, first, place = finished
    changed = {"operator": {"mask": "gaussian2d", "acceleration": 2}, "evaluation": {"max_slices": 1, "panels": False}}
    other = run({**given, **changed}, workspace=place, in_process=True)
    assert (first.trained_rounds, other.trained_rounds) == (2, 0)
    assert other.mean["psnr"] != first.mean["psnr"]


@pytest.mark.slow
def test_it_is_evaluated_at_any_operator_and_at_a_site_that_never_trained_without_a_rule(finished, tmp_path):
    _, result, place = finished
    rows = evaluate(result.digest, mask="uniform2d", accelerations=[2, 4], workspace=place)["rows"]
    assert {(row["site"], row["acceleration"], row["model"]) for row in rows} == {
        (site, rate, "global") for site in ("north", "middle", "south") for rate in (2, 4)
    }
    path = tmp_path / "newcomer.h5"
    write_shard(path, "newcomer", [make_volume("new", "test", 2, 1, 70)], simulated=True, phase="smooth", origin="x")
    (row,) = evaluate(result.digest, sites={"newcomer": str(path)}, workspace=place)["rows"]
    assert (row["site"], row["model"]) == ("newcomer", "global")
    with pytest.raises(InputError, match="shares its whole network"):
        evaluate(result.digest, sites={"newcomer": str(path)}, unseen="average", workspace=place)


@pytest.mark.slow
def test_scores_do_not_depend_on_the_discriminator(consortium):
    one = Federation(gimp(**EVERY_OPTION), consortium, None, STYLE, {"augment": False})
    executor = one.executor()
    request = one.method.scoring_request(one.begin())
    before = [scores.columns for scores in executor.evaluate(request, "validation")]
    for site in executor.sites.values():
        site._first_private = site._first_private + 1
    assert [scores.columns for scores in executor.evaluate(request, "validation")] == before
