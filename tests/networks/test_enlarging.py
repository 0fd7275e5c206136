"""Laws of networks that enlarge, published parameter counts, attention, and the self-ensemble."""

import dataclasses

import numpy as np
import pytest
import torch
from test_networks import owners

from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.degradations import DEGRADATIONS
from fedrecon.sites.imaging.measurement import Images
from fedrecon.sites.scoring.ensemble import self_ensemble
from fedrecon.sites.training.patch import cut
from fedrecon.strategies import make_strategy
from fedrecon.strategies.networks import NETWORKS
from fedrecon.strategies.networks.choice import NetworkChoice
from fedrecon.strategies.networks.mscan import CrossScaleAttention

ENLARGE = [name for name, one in NETWORKS.items() if one.kind == "super-resolution"]

SMALL = {
    "mscan": {"channels": 4, "groups": 1, "blocks": 1},
    "srcnn": {"channels": 4},
    "edsr": {"channels": 4, "blocks": 2},
    "rcan": {"channels": 8, "groups": 1, "blocks": 1, "reduction": 2},
}


def draw(scale=2, shape=(24, 24), batch=2, seed=0, factor=1.0, kind="kspace-truncation"):
    kspace = torch.randn(batch, 1, *shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))
    return DEGRADATIONS[kind](scale=scale).measure(factor * kspace, torch.ones_like(kspace))


def build(name, scale=2, complex_valued=True, **parameters):
    torch.manual_seed(0)
    images = Images(complex_valued, (24, 24), 1, ("a", "b"), scale)
    return NetworkChoice.parse({"name": name, **SMALL[name], **parameters}).build(images)


@pytest.mark.parametrize("name", ENLARGE)
@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize(("scale", "shape"), [(2, (24, 24)), (2, (18, 30)), (3, (24, 27)), (4, (32, 24))])
def test_an_image_of_the_high_resolution_comes_out(name, complex_valued, scale, shape):
    image = build(name, scale, complex_valued)(draw(scale, shape))
    assert image.shape == (2, *shape)
    assert image.dtype == torch.complex64
    assert image.isfinite().all()
    assert image.imag.any() == complex_valued


@pytest.mark.parametrize("name", ENLARGE)
@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_scaled_data_gives_the_scaled_image(name, kind):
    network = build(name)
    with torch.no_grad():
        expected = 1e3 * network(draw(kind=kind))
        scaled = network(draw(kind=kind, factor=1e3))
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ENLARGE)
def test_it_begins_near_zero_padding_and_every_parameter_has_a_gradient(name):
    network, one = build(name), draw()
    image = network(one)
    assert (image - one.zero_filled).norm() < 0.3 * one.zero_filled.norm()
    assert (image - one.zero_filled).norm() > 0
    image.abs().square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("name", ENLARGE)
def test_parts_split_the_parameters_and_the_trunk_is_the_largest(name):
    network = build(name)
    assert all(len(parts) == 1 for parts in owners(network).values())
    counts = dict.fromkeys(network.parts, 0)
    for key, parameter in network.named_parameters():
        counts[owners(network)[key][0]] += parameter.numel()
    assert counts["encoder"] > counts["head"] > 0


@pytest.mark.parametrize("name", ENLARGE)
def test_slices_do_not_see_each_other_and_empty_ones_stay_finite(name):
    network, one, other = build(name), draw(), draw(seed=1)
    mixed = dataclasses.replace(
        one,
        low=torch.stack([one.low[0], other.low[1]]),
        zero_filled=torch.stack([one.zero_filled[0], other.zero_filled[1]]),
    )
    with torch.no_grad():
        torch.testing.assert_close(network(mixed)[0], network(one)[0])
    empty = draw(factor=0)
    image = network(empty)
    image.abs().sum().backward()
    assert image.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", ENLARGE)
def test_a_patch_is_seen_as_it_is_within_its_slice(name):
    """Away from its edges the network says the same of a patch as of the whole slice, but for means over the image."""
    network, one = build(name), draw(shape=(64, 64), batch=3)
    if name in ("mscan", "rcan"):
        for module in network.modules():
            if hasattr(module, "weigh"):  # attention looks at the whole image, on purpose
                module.weigh[2].weight.data.zero_()
    rng = np.random.default_rng(0)
    patch = cut(one, 32, rng)
    assert patch.low.shape == (3, 16, 16)
    assert patch.zero_filled.shape == (3, 32, 32)
    with torch.no_grad():
        whole, part = network(one), network(patch)
    inside = part[:, 14:18, 14:18]
    places = whole.unfold(1, 4, 1).unfold(2, 4, 1)
    for k in range(3):
        gap = (places[k] - inside[k]).abs().amax(dim=(-2, -1))
        assert float(gap.min()) < 1e-4 * float(whole.abs().max())
        assert float(gap.median()) > 1e-2 * float(whole.abs().max())


def test_what_has_no_parameters_is_no_part():
    assert build("srcnn").parts["decoder"] == ()
    with pytest.raises(InputError, match="no parameter in its part 'decoder'"):
        make_strategy("fedmri", {}).shares("trunk.0.weight", build("srcnn"))
    with pytest.raises(InputError, match="has no normalisation; unet"):
        make_strategy("fedbn", {}).shares("trunk.0.weight", build("mscan"))


@pytest.mark.parametrize("name", ENLARGE)
def test_another_scale_or_none_is_refused(name):
    with pytest.raises(ValueError, match="enlarges by 2, but these images need a factor of 4"):
        build(name)(draw(4, (32, 32)))
    with pytest.raises(ValueError, match="images need a factor of 1"):
        build(name)(dataclasses.replace(draw(), low=None))
    with pytest.raises(ValueError, match="low-resolution"):
        NetworkChoice.parse({"name": name}).build(Images(True, (24, 24), 1, ("a",)))


def count(name, n_channels_complex=False, scale=2, **parameters):
    images = Images(n_channels_complex, (24, 24), 1, ("a",), scale)
    network = NetworkChoice.parse({"name": name, **parameters}).build(images)
    return sum(p.numel() for p in network.parameters())


@pytest.mark.slow
def test_published_sizes():
    """EDSR-baseline x2 has 1,369,859 on three channels: 1,367,553 on one. SRCNN 9-1-5 has 8,032 weights, 97 biases."""
    assert count("edsr") == 1_369_859 - 2 * 64 * 9 - 2 * (64 * 9 + 1)
    assert count("srcnn") == 8_032 + 97
    assert count("srcnn", kernel=5) == 9 * 9 * 64 + 5 * 5 * 64 * 32 + 5 * 5 * 32 + 97
    # 10 groups of 20 blocks of 64 features: 15,444,667 on three channels, 24 of them fixed (the means of colours)
    published = {"channels": 64, "groups": 10, "blocks": 20, "reduction": 16}
    assert count("rcan", **published) == 15_444_667 - 24 - 2 * 64 * 9 - 2 * (64 * 9 + 1)


def test_the_options_of_mscan_take_away_what_they_say():
    full, one_scale, no_attention = count("mscan"), count("mscan", scales=1), count("mscan", attention=False)
    assert one_scale < full
    assert full - no_attention == 6 * ((60 * 5 + 5) + (5 * 60 + 60))  # six blocks of 20 features at three scales
    plain = build("mscan", attention=False)
    assert not any("attention" in name for name, _ in plain.named_parameters())


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_weights_of_the_scales(scales):
    """Sum 1 over several scales, each feature on its own; of one scale a number in (0, 1)."""
    torch.manual_seed(0)
    weights = CrossScaleAttention(4, scales, 2)(torch.randn(2, scales, 4, 5, 6))
    assert weights.shape == (2, scales, 4, 1, 1)
    assert ((weights > 0) & (weights <= 1)).all()
    if scales > 1:
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 4, 1, 1))
        assert not torch.allclose(weights[:, :, 0], weights[:, :, 1])


@pytest.mark.parametrize("name", ENLARGE)
@pytest.mark.parametrize("shape", [(24, 24), (24, 32)])
def test_the_self_ensemble_commutes_with_mirrors_and_turns(name, shape):
    network, one = build(name, complex_valued=False), draw(shape=shape)
    one = dataclasses.replace(one, low=one.low.abs() + 0j, zero_filled=one.zero_filled.abs() + 0j)
    flipped = dataclasses.replace(one, low=one.low.flip(-1), zero_filled=one.zero_filled.flip(-1))
    with torch.no_grad():
        mean = self_ensemble(network, one)
        torch.testing.assert_close(self_ensemble(network, flipped), mean.flip(-1))
        assert not torch.allclose(network(flipped), network(one).flip(-1))
        if shape[0] == shape[1]:
            turned = dataclasses.replace(one, low=one.low.mT, zero_filled=one.zero_filled.mT)
            torch.testing.assert_close(self_ensemble(network, turned), mean.mT)


def test_the_self_ensemble_of_what_knows_no_direction_is_itself():
    one = draw()
    torch.testing.assert_close(self_ensemble(lambda measurement: measurement.zero_filled, one), one.zero_filled)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("mscan", {"channels": 20, "reduction": 6}, "fewer than 4 of 20 features.*at most 5, or its default 4"),
        ("mscan", {"channels": 2, "reduction": 1}, "allowed: 4"),
        ("mscan", {"channels": 20, "reduction": 5, "attention": False}, "network.attention is false"),
        ("rcan", {"channels": 32, "reduction": 33}, "fewer than 1 of 32 features.*at most 32"),
    ],
)
def test_a_reduction_that_changes_nothing_is_refused(name, given, said):
    with pytest.raises(InputError, match=rf"network.reduction: {given['reduction']} .*{said}"):
        build(name, **given)
    build(name, **{**given, "reduction": {"mscan": 4, "rcan": 8}[name]})
    build("mscan", channels=20, reduction=5)
