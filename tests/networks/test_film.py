"""What modulates and what is refined: learned sensitivities, and a network whose features follow the protocol."""

import pytest
import torch

from fedrecon.platform.config.experiment import Experiment
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.coils import rss
from fedrecon.sites.imaging.measurement import Images, measure
from fedrecon.strategies import make_strategy
from fedrecon.strategies.networks.choice import NetworkChoice
from fedrecon.strategies.networks.film import protocol
from fedrecon.strategies.networks.unrolled import refined

IMAGES = Images(True, (16, 32), 2, ("a",))


def build(name, **parameters):
    torch.manual_seed(0)
    return NetworkChoice.parse({"name": name, "cascades": 1, "channels": 2, "pools": 1, **parameters}).build(IMAGES)


def measured(mask=None):
    draws = torch.Generator().manual_seed(0)
    kspace, maps = (torch.randn(2, 2, 16, 32, dtype=torch.complex64, generator=draws) for _ in range(2))
    mask = torch.rand(2, 1, 16, 32, generator=draws) < 0.5 if mask is None else mask
    return measure(kspace, mask, maps / rss(maps)[:, None])


def zero(*modules):
    with torch.no_grad():
        for module in modules:
            for one in module.parameters():
                one.zero_()


def test_maps_that_are_not_corrected_stay_and_corrected_ones_have_unit_length():
    network, one = build("unrolled", sensitivity_channels=2), measured()
    new = refined(one, network.sensitivities)
    torch.testing.assert_close(rss(new.operator.maps), torch.ones(2, 16, 32))
    assert not torch.allclose(new.operator.maps, one.operator.maps, atol=1e-3)
    torch.testing.assert_close(new.back_projected, new.operator.adjoint(one.kspace))
    zero(network.sensitivities.head)
    plain = build("unrolled")
    plain.load_state_dict(network.state_dict(), strict=False)
    torch.testing.assert_close(network(one), plain(one))


def test_a_gradient_reaches_the_sensitivities_and_they_are_a_part():
    network, one = build("unrolled", sensitivity_channels=2), measured()
    network(one).abs().sum().backward()
    assert all(value.grad.abs().sum() > 0 for value in network.sensitivities.parameters())
    method = make_strategy("fedper", {"private": ["sensitivities"]})
    private = {name for name, _ in network.named_parameters() if not method.shares(name, network)}
    assert private == {f"sensitivities.{name}" for name, _ in network.sensitivities.named_parameters()}


def test_refined_maps_need_kspace():
    given = {"sites": "s", "task": "super-resolution", "network": {"name": "unrolled", "sensitivity_channels": 8}}
    with pytest.raises(InputError, match="kspace-truncation"):
        Experiment.read({**given, "degradation": {"kind": "bicubic", "scale": 2}})
    Experiment.read({**given, "degradation": {"kind": "kspace-truncation", "scale": 2}})
    test = {"sites": "t", "degradation": {"kind": "bicubic"}}
    with pytest.raises(InputError, match="kspace-truncation"):
        Experiment.read({**given, "degradation": {"kind": "kspace-truncation", "scale": 2}, "test": test})


@pytest.mark.slow
def test_the_network_of_the_published_size_has_thirty_million_parameters():
    with torch.device("meta"):
        network = build("unrolled", cascades=12, channels=18, pools=4, sensitivity_channels=8)
    count = sum(one.numel() for one in network.parameters())
    assert sum(one.numel() for one in network.sensitivities.parameters()) == 484_898
    assert count == 29_936_966


def test_the_protocol_by_hand():
    """Every fourth of 32 columns, two coils, 16 rows: R = 4, all rows, a fourth of the columns."""
    mask = torch.zeros(2, 1, 16, 32, dtype=torch.bool)
    mask[0, ..., ::4] = True
    mask[1] = True
    first, second = protocol(measured(mask)).tolist()
    assert first == [2, 1, 0.25, 1, -4, -3]
    assert second == [0, 1, 1, 1, -4, -3]


def test_without_codes_it_is_the_unrolled_network_and_codes_scale_and_shift():
    network, one = build("film", hidden=3), measured()
    plain = build("unrolled")
    plain.load_state_dict(network.state_dict(), strict=False)
    moved = network(one)
    zero(network.hypernetwork)
    torch.testing.assert_close(network(one), plain(one))
    assert not torch.allclose(moved, plain(one), rtol=1e-4)
    norm, seen = network._norms[0], []
    features = torch.arange(2 * 2 * 4.0).view(2, 2, 2, 2)
    codes = torch.zeros(2, 2 * sum(network._widths))
    codes[1, :4] = torch.tensor([1.0, 0, 0, 5])  # second slice: twice the first channel, 5 more in the second
    expected = norm(features).clone()
    expected[1, 0] *= 2
    expected[1, 1] += 5
    with network._modulated(codes):
        seen.append(norm(features))
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(norm(features)[1, 1], expected[1, 1] - 5)


def test_hyperfed_keeps_the_hypernetwork_alone_and_needs_one():
    method, network = make_strategy("hyperfed", {}), build("film")
    private = {name for name, _ in network.named_parameters() if not method.shares(name, network)}
    assert private == {f"hypernetwork.{name}" for name, _ in network.hypernetwork.named_parameters()}
    with pytest.raises(InputError, match="film"):
        method.build(NetworkChoice.parse({"name": "unet", "channels": 2}), IMAGES)
    make_strategy("hyperfed", {"private": []}).build(NetworkChoice.parse({"name": "unet", "channels": 2}), IMAGES)
