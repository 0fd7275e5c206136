"""The denoiser: EDM's preconditioning by hand, what reaches its output, images of any size."""

import math

import pytest
import torch

from fedrecon.sites.imaging.measurement import Images
from fedrecon.strategies.networks.choice import NetworkChoice
from fedrecon.strategies.networks.denoiser import positions, preconditioning

SITES = ("a", "b")
SMALL = {"name": "denoiser", "channels": 4, "pools": 1, "hidden": 8}


def build(size=(16, 16), **parameters):
    torch.manual_seed(0)
    return NetworkChoice.parse({**SMALL, **parameters}).build(Images(True, size, 1, SITES)).eval()


def test_the_preconditioning_by_hand():
    found = preconditioning(torch.tensor([3.0, 4.0]), 4.0)
    expected = [(16 / 25, 1 / 2), (12 / 5, 16 / 32**0.5), (1 / 5, 1 / 32**0.5), (math.log(3) / 4, math.log(4) / 4)]
    for one, values in zip(found, expected, strict=True):
        assert one.tolist() == pytest.approx(values)


def test_the_output_is_the_skip_and_the_scaled_network(monkeypatch):
    network = build(sigma_data=4.0, position=False)
    given = []
    monkeypatch.setattr(network, "_raw", lambda inputs, code: given.append(inputs) or torch.ones_like(inputs))
    found = network(torch.full((1, 2, 4, 4), 10.0), torch.tensor([3.0]), network.label("a", 1))
    assert given[0].unique().item() == pytest.approx(10 / 5)
    assert found.unique().item() == pytest.approx(10 * 16 / 25 + 12 / 5)


@torch.no_grad()
def test_an_image_almost_without_noise_stays():
    network, image = build(), torch.randn(2, 2, 16, 16)
    found = network(image, torch.full((2,), 1e-5), network.label("a", 2))
    torch.testing.assert_close(found, image, atol=1e-4, rtol=0)


@torch.no_grad()
def test_noise_level_site_and_position_reach_the_output():
    """Of the same input: a normalisation after the first convolution would have removed a constant noise level."""
    network = build()
    torch.nn.init.normal_(network.codes)
    inputs, where = torch.randn(1, 2, 16, 16), positions(16, 16, torch.device("cpu"))

    def raw(sigma=0.1, site="a", place=where):
        code = network.embedding(_waves(sigma)) + network.label(site, 1) @ network.codes
        return network._raw(torch.cat([inputs, place], dim=1), code)

    def _waves(sigma):
        from fedrecon.strategies.networks.denoiser import _waves

        return _waves(torch.tensor([math.log(sigma) / 4]))

    usual = raw()
    for other in (raw(sigma=0.3), raw(site="b"), raw(site="elsewhere"), raw(place=where * 0.5)):
        assert (other - usual).abs().mean() > 0.002 * usual.abs().mean()


def test_a_site_that_the_network_does_not_know_has_no_code():
    network = build()
    assert network.label("b", 2).tolist() == [[0.0, 1.0]] * 2
    assert network.label("elsewhere", 1).tolist() == [[0.0, 0.0]]
    assert not network.codes.any()  # so an untrained code is no code


@pytest.mark.parametrize("content", ["magnitude", "complex"])
@pytest.mark.parametrize(("shuffle", "pools", "size"), [(1, 0, (5, 8)), (2, 2, (33, 20)), (4, 1, (16, 16))])
@torch.no_grad()
def test_images_of_any_size_keep_it(content, shuffle, pools, size):
    network = build(size, content=content, shuffle=shuffle, pools=pools)
    image = torch.randn(3, *size, dtype=torch.complex64)
    planes = network.encoded(image)
    assert network(planes, torch.full((3,), 0.2), network.label("a", 3)).shape == planes.shape
    expected = image if content == "complex" else image.abs().to(torch.complex64)
    torch.testing.assert_close(network.decoded(planes), expected)


def test_untrained_weights_follow_from_the_seed_alone():
    network = build()
    one, two, other = (network.untrained(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["first.weight"], other["first.weight"])
