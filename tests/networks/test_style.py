"""The style-based prior: published sizes, hand-computed pieces, each slice on its own, and weights of each slice."""

import pytest
import torch
from torch.func import functional_call

from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.measurement import Images
from fedrecon.strategies.networks.choice import NetworkChoice
from fedrecon.strategies.networks.equalised import Convolution, Dense, doubled
from fedrecon.strategies.networks.style import _spread

SMALL = {"name": "style", "latent": 8, "layers": 2, "channel_base": 256, "channel_max": 8}
SITES = ("a", "b", "c")


def build(size=(32, 32), device="cpu", **parameters):
    torch.manual_seed(0)
    with torch.device(device):
        return NetworkChoice.parse({**SMALL, **parameters}).build(Images(True, size, 1, SITES))


def count(module):
    return sum(one.numel() for one in module.parameters())


def inputs(network, n=3, seed=0):
    draws = torch.Generator().manual_seed(seed)
    latents = torch.randn(n, network.generator.mapper.latent, generator=draws)
    return latents, network.label("b", n), network.generator.noise(n, draws)


def published(size, content="magnitude", n_sites=3):
    images = Images(content == "complex", (size, size), 1, SITES[:n_sites])
    with torch.device("meta"):
        return NetworkChoice.parse({"name": "style", "content": content}).build(images)


@pytest.mark.slow
def test_the_published_configuration_has_the_published_parameters():
    network = published(256)
    assert count(network.generator.mapper) == 2_364_928
    assert count(network.generator.synthesizer) == 23_977_537
    assert count(network.discriminator) == 23_043_523
    assert network.generator.n_layers == 14
    assert published(512).generator.n_layers == 16


@pytest.mark.parametrize(("size", "layers"), [(64, 10), (128, 12)])
def test_smaller_ones_are_the_same_with_fewer_layers(size, layers):
    network = published(size)
    assert network.generator.n_layers == layers
    assert count(network.generator.mapper) == 2_364_928


@pytest.mark.parametrize("content", ["magnitude", "complex"])
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize(("size", "side"), [((32, 32), 32), ((33, 20), 64), ((5, 8), 8)])
def test_images_of_any_size_fit_into_the_next_power_of_two(content, skips, size, side):
    network = build(size, content=content, skips=skips)
    planes = network.generator(*inputs(network))
    assert planes.shape == (3, 1 if content == "magnitude" else 2, side, side)
    assert planes.isfinite().all()
    assert network.discriminator(planes, network.label("b", 3)).shape == (3,)
    image = torch.complex(torch.rand(3, *size), torch.rand(3, *size))
    back = network.decoded(network.encoded(image), image.shape)
    torch.testing.assert_close(back, image if content == "complex" else image.abs().to(back.dtype))


def test_air_around_a_small_magnitude_image_is_minus_one():
    network = build((6, 8))
    planes = network.encoded(torch.ones(1, 6, 8, dtype=torch.complex64))
    assert planes.shape == (1, 1, 8, 8)
    assert planes[0, 0, :, 0].tolist() == [-1, 1, 1, 1, 1, 1, 1, -1]


def test_a_gradient_reaches_every_parameter():
    network = build(skips=True)
    planes = network.generator(*inputs(network, 4))
    network.discriminator(planes, network.label("b", 4)).sum().backward()
    idle = {name for name, one in network.named_parameters() if one.grad is None or not one.grad.any()}
    assert idle == set()
    codes = network.generator.mapper.codes.grad
    assert codes[1].any()
    assert not codes[[0, 2]].any()  # a site draws under its own label alone


def test_a_matrix_larger_than_the_frame_is_refused():
    network = build()
    for shape in ((1, 33, 32), (1, 32, 40)):
        with pytest.raises(InputError, match=r"draws 32 x 32 pixels: too few for a matrix of"):
            network.decoded(torch.zeros(1, 1, 32, 32), shape)
        with pytest.raises(InputError, match="too few"):
            network.encoded(torch.zeros(shape, dtype=torch.complex64))


def test_labels_decide_and_an_unknown_site_is_the_mean_of_all():
    network = build()
    assert network.label("b", 2).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert network.label("elsewhere", 1)[0].tolist() == pytest.approx([1 / 3] * 3)
    latents, _, noise = inputs(network)
    a, b = (network.generator(latents, network.label(site, 3), noise) for site in "ab")
    assert (a != b).any()


@pytest.mark.parametrize("skips", [False, True])
def test_slices_of_a_batch_do_not_mix(skips):
    network = build(skips=skips).eval()
    latents, label, noise = inputs(network)
    together = network.generator(latents, label, noise)
    alone = network.generator(latents[1:2], label[1:2], [one[1:2] for one in noise])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("skips", [False, True])
def test_weights_of_each_slice_give_what_each_network_gives(skips):
    """Two networks, one slice each, in one call against two calls."""
    first, second = build(skips=skips).eval(), build(skips=skips, latent=8).eval()
    with torch.no_grad():
        for one in second.generator.parameters():
            one.add_(0.1 * torch.randn_like(one))
        second.generator.average.normal_()
    latents, label, noise = inputs(first, 2)
    tensors = [dict(one.generator.named_parameters()) | dict(one.generator.named_buffers()) for one in (first, second)]
    stacked = {name: torch.stack([one[name] for one in tensors]) for name in tensors[0]}
    together = functional_call(first.generator, stacked, (latents, label, noise))
    for k, network in enumerate((first, second)):
        alone = network.generator(latents[k : k + 1], label[:1], [one[k : k + 1] for one in noise])
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-4, atol=1e-5)


def test_truncation_draws_w_to_its_mean_where_nothing_is_trained():
    network = build(truncation=0.5, truncated=2)
    generator = network.generator
    with torch.no_grad():
        generator.average.fill_(3.0)
    latents, label, _ = inputs(network)
    w = generator.mapper(latents, label)
    styles = generator.eval().styles(latents, label)
    torch.testing.assert_close(styles[:, 0], 3 + 0.5 * (w - 3))
    torch.testing.assert_close(styles[:, 1], styles[:, 0])
    torch.testing.assert_close(styles[:, 2], w)
    torch.testing.assert_close(generator.train().styles(latents, label)[:, 0], w)


def test_the_mean_of_w_moves_by_five_thousandths():
    generator = build().generator
    generator.track(torch.stack([torch.full((8,), 1.0), torch.full((8,), 3.0)]))
    torch.testing.assert_close(generator.average, torch.full((8,), 0.005 * 2))


def test_noise_only_where_it_is_asked_for():
    network = build(noise_to=8)
    assert network.generator.synthesizer.noise_sizes == [4, 4, 8, 8]
    assert build(noise_to=0).generator.synthesizer.noise_sizes == []
    maps = network.generator.noise(2, torch.Generator().manual_seed(0), largest=4)
    assert [bool(one.any()) for one in maps] == [True, True, False, False]


def test_the_discriminator_reads_the_logit_of_the_site():
    network = build()
    images = torch.randn(3, 1, 32, 32)
    a, b = (network.discriminator(images, network.label(site, 3)) for site in "ab")
    mixed = network.discriminator(images, torch.eye(3)[[0, 1, 0]])
    torch.testing.assert_close(mixed, torch.stack([a[0], b[1], a[2]]))


def test_doubling_is_bilinear_interpolation():
    x = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(doubled(x), torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear"))


def test_minibatch_deviation_by_hand():
    """Two images in one group: 0 and 2 everywhere have the deviation 1; equal ones have none."""
    images = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 2.0)])
    assert _spread(images).shape == (2, 1, 4, 4)
    torch.testing.assert_close(_spread(images), torch.ones(2, 1, 4, 4))
    assert float(_spread(images[:1]).max()) < 1e-3


def test_equalised_learning_rate_by_hand():
    dense = Dense(4, 1, gain=2.0, rate=0.5)
    with torch.no_grad():
        dense.weight.fill_(3.0)
        dense.bias.fill_(10.0)
    # weight x gain x rate / sqrt(inputs) = 3 x 2 x 0.5 / 2, bias x rate
    assert dense(torch.ones(1, 4)).item() == pytest.approx(4 * 1.5 + 5)
    convolution = Convolution(1, 1, 3, gain=3.0, bias=False)
    with torch.no_grad():
        convolution.weight.fill_(1.0)
    image = convolution(torch.ones(1, 1, 4, 4))
    assert image[0, 0, 1, 1].item() == pytest.approx(9)  # nine weights of 3 / sqrt(9)
    assert image[0, 0, 0, 0].item() == pytest.approx(4)


def test_an_untrained_network_is_the_one_that_the_seed_gave():
    network = build(content="complex")
    first = {name: one.clone() for name, one in network.state_dict().items()}
    with torch.no_grad():
        for one in network.parameters():
            one.zero_()
    again = network.untrained(0).state_dict()
    assert all(torch.equal(first[name], one) for name, one in again.items())
    assert not torch.equal(network.untrained(1).generator.mapper.codes, again["generator.mapper.codes"])
