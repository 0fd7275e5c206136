"""Laws of networks that reconstruct: sizes, coils, scale, gradients, parts; the U-Net's published parameter counts."""

import dataclasses

import pytest
import torch

from fedrecon.sites.imaging.fourier import fft2c
from fedrecon.sites.imaging.measurement import Images, measure
from fedrecon.strategies.networks import NETWORKS
from fedrecon.strategies.networks.choice import NetworkChoice

RECONSTRUCT = [name for name, one in NETWORKS.items() if one.kind == "reconstruction"]

SMALL = {
    "unet": {"channels": 4},
    "dual_domain": {"channels": 4},
    "unrolled": {"cascades": 2, "channels": 4},
    "film": {"cascades": 2, "channels": 4, "pools": 2, "hidden": 4},
}
"""Parameters that keep these tests fast; a network without a line here is tested at its defaults."""


IN_PAIRS = [
    (False, 1, (32, 32)),
    (True, 4, (32, 32)),
    (False, 4, (65, 50)),
    (True, 1, (65, 50)),
    (False, 1, (17, 3)),
    (True, 4, (17, 3)),
]
"""Magnitude or complex, number of coils and size of the images: every two values of two of them meet."""


def draw(n_coils=1, size=(32, 32), batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, 1, *size, dtype=torch.complex64, generator=generator)
    maps = torch.randn(batch, n_coils, *size, dtype=torch.complex64, generator=generator)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    mask = torch.rand(batch, 1, *size, generator=generator) < 0.5
    return measure(1e-3 * fft2c(maps * image), mask, maps, with_target=True)


def build(name, complex_valued=True, **parameters):
    torch.manual_seed(0)
    images = Images(complex_valued, (32, 32), 4, ("a", "b"))
    return NetworkChoice.parse({"name": name, **SMALL.get(name, {}), **parameters}).build(images)


def owners(network):
    """Parameter name -> the parts it lies in; `norm` lies across the others."""
    return {
        name: [part for part, prefixes in network.parts.items() if part != "norm" and name.startswith(prefixes)]
        for name, _ in network.named_parameters()
    }


@pytest.mark.parametrize("name", RECONSTRUCT)
@pytest.mark.parametrize(("complex_valued", "n_coils", "size"), IN_PAIRS)
def test_any_coils_and_any_size_give_an_image_of_that_size(name, complex_valued, n_coils, size):
    image = build(name, complex_valued)(draw(n_coils, size))
    assert image.shape == (2, *size)
    assert image.dtype == torch.complex64
    assert image.isfinite().all()
    assert image.imag.any() == complex_valued


@pytest.mark.slow
@pytest.mark.parametrize("name", RECONSTRUCT)
@pytest.mark.parametrize(
    ("complex_valued", "factor"), [(False, 1e-3), (True, 7.0), (False, 1e5), (True, 1e-3), (True, 1e5)]
)
def test_scaled_data_gives_the_scaled_image(name, complex_valued, factor):
    network, one = build(name, complex_valued), draw(n_coils=4)
    scaled = measure(factor * one.kspace, one.operator.mask, one.operator.maps)
    with torch.no_grad():
        expected, got = network(one), network(scaled) / factor
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", RECONSTRUCT)
@pytest.mark.parametrize("norm", ["instance", "instance_affine", "batch"])
def test_a_gradient_reaches_every_parameter(name, norm):
    network, measurement = build(name, norm=norm), draw(n_coils=4)
    ((network(measurement) - measurement.target).abs() / measurement.scale[:, None, None]).sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", RECONSTRUCT)
@pytest.mark.parametrize("norm", ["instance", "instance_affine", "batch"])
def test_every_parameter_lies_in_exactly_one_part(name, norm):
    network = build(name, norm=norm)
    assert {"encoder", "decoder", "head", "norm"} <= set(network.parts)
    assert {len(parts) for parts in owners(network).values()} == {1}
    in_norms = [n for n, _ in network.named_parameters() if n.startswith(network.parts["norm"])]
    assert bool(in_norms) == (norm != "instance")


@pytest.mark.parametrize("name", RECONSTRUCT)
def test_slices_of_a_batch_do_not_mix(name):
    network, batch = build(name), draw(n_coils=4, batch=3)
    other = draw(n_coils=4, batch=3, seed=1)
    mixed = measure(
        torch.cat([batch.kspace[:1], other.kspace[1:]]),
        torch.cat([batch.operator.mask[:1], other.operator.mask[1:]]),
        torch.cat([batch.operator.maps[:1], other.operator.maps[1:]]),
    )
    peak = float(batch.scale.max())
    torch.testing.assert_close(network(mixed)[0], network(batch)[0], rtol=1e-4, atol=1e-5 * peak)


@pytest.mark.parametrize("name", RECONSTRUCT)
def test_nothing_but_the_measurement_is_read(name):
    network, measurement = build(name), draw()
    blind = dataclasses.replace(measurement, target=None, reference=None)
    torch.testing.assert_close(network(blind), network(measurement), rtol=0, atol=0)


@pytest.mark.parametrize("name", RECONSTRUCT)
def test_bfloat16_and_channels_last_change_little(name):
    network, measurement = build(name), draw(n_coils=4, size=(33, 32))
    with torch.no_grad():
        expected = network(measurement)
        with torch.autocast("cpu", torch.bfloat16):
            got = network.to(memory_format=torch.channels_last)(measurement)
    assert got.dtype == torch.complex64
    assert torch.linalg.vector_norm(got - expected) < 0.03 * torch.linalg.vector_norm(expected)
    assert (got != expected).any()


@pytest.mark.parametrize("name", RECONSTRUCT)
def test_empty_slices_stay_finite(name):
    measurement = measure(torch.zeros(1, 1, 32, 32, dtype=torch.complex64), *_all(1))
    network = build(name)
    image = network(measurement)
    image.abs().sum().backward()
    assert image.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def _all(n_coils):
    return torch.ones(1, 1, 32, 32, dtype=torch.bool), torch.ones(1, n_coils, 32, 32, dtype=torch.complex64)


@pytest.mark.slow
def test_the_published_unet_has_the_published_parameters():
    images = Images(False, (320, 320), 1, ("a",))
    network = NetworkChoice.parse({"name": "unet", "channels": 32, "pools": 4}).build(images)
    counts = dict.fromkeys(network.parts, 0)
    for name, parameter in network.named_parameters():
        counts[owners(network)[name][0]] += parameter.numel()
    assert counts["encoder"] == 4_709_664
    assert counts["decoder"] + counts["head"] == 3_046_433
    assert sum(counts.values()) == 7_756_097


@pytest.mark.parametrize("complex_valued", [False, True])
def test_a_residual_unet_that_corrects_nothing_is_its_input(complex_valued):
    network, measurement = build("unet", complex_valued), draw(n_coils=4)
    with torch.no_grad():
        network.unet.head.weight.zero_()
        network.unet.head.bias.zero_()
    zero_filled = measurement.zero_filled
    expected = zero_filled if complex_valued else zero_filled.abs().to(torch.complex64)
    torch.testing.assert_close(network(measurement), expected)


def test_one_cascade_without_correction_is_one_gradient_step():
    network, measurement = build("unrolled", cascades=1), draw(n_coils=4)
    with torch.no_grad():
        network.step.fill_(0.3)
        for regulariser in network.regularisers:
            regulariser.head.weight.zero_()
            regulariser.head.bias.zero_()
    a, x = measurement.operator, measurement.zero_filled
    torch.testing.assert_close(network(measurement), x - 0.3 * a.adjoint(a.forward(x) - measurement.kspace))


def test_shared_weights_are_one_regulariser_with_a_step_per_cascade():
    network = build("unrolled", cascades=3, shared_weights=True)
    assert len(network.regularisers) == 1
    assert network.step.shape == (3,)
    draws = draw(n_coils=4)
    assert network(draws).isfinite().all()


@pytest.mark.slow
def test_both_unets_of_the_dual_domain_network_have_the_published_encoders():
    """2.1 of the method notes: 4,709,952 parameters on k-space's two channels, 4,709,664 on the magnitude image."""
    network = NetworkChoice.parse({"name": "dual_domain"}).build(Images(False, (64, 64), 1, ("a",)))
    sizes = [sum(one.numel() for one in part.encoder.parameters()) for part in (network.kspace, network.image)]
    assert sizes == [4_709_952, 4_709_664]


def test_a_dual_domain_network_that_corrects_nothing_is_its_input():
    network, one = build("dual_domain"), draw(n_coils=4)
    with torch.no_grad():
        for part in (network.kspace, network.image):
            part.head.weight.zero_()
            part.head.bias.zero_()
        image = network(one)
    expected = one.operator.project(one.zero_filled, one.kspace)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_first_unet_changes_only_samples_that_were_not_measured():
    network, one = build("dual_domain"), draw()
    measured = one.operator.mask[:, 0]
    with torch.no_grad():
        network.kspace.head.bias.fill_(3.0)
        network.image.head.weight.zero_()
        network.image.head.bias.zero_()
        samples = fft2c(one.operator.maps[:, 0] * network(one))  # the map of one coil has magnitude one
    torch.testing.assert_close(samples[measured], one.kspace[:, 0][measured], rtol=0, atol=1e-7)
    assert (samples[~measured].abs() > 1e-4).all()
