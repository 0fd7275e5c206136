"""Choosing a network: what is refused and how, what survives a round trip, and that it loads no torch."""

import inspect
import json
import pickle
import subprocess
import sys

import pytest

from fedrecon.sites.errors import InputError
from fedrecon.strategies.networks import NETWORKS
from fedrecon.strategies.networks.choice import NetworkChoice


@pytest.mark.parametrize("name", NETWORKS)
def test_the_registry_and_the_class_agree_on_parameters_and_defaults(name):
    signature = inspect.signature(NETWORKS[name].load().__init__).parameters
    keywords = {k: p.default for k, p in signature.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert list(signature)[:2] == ["self", "images"]
    assert keywords == NETWORKS[name].parameters().model_dump()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_choice_survives_its_dict_json_and_pickle(name):
    choice = NetworkChoice.parse({"name": name})
    assert NetworkChoice.parse(json.loads(json.dumps(choice.as_dict()))) == choice
    assert pickle.loads(pickle.dumps(choice)) == choice
    assert hash(choice) == hash(NetworkChoice.parse(choice.as_dict()))


def test_given_parameters_replace_defaults():
    choice = NetworkChoice.parse({"name": "unet", "channels": 16, "norm": "batch"})
    assert choice.as_dict() == {
        "name": "unet", "channels": 16, "pools": 4, "dropout": 0.0, "residual": True, "norm": "batch",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "unett"}, "unknown network 'unett'. Did you mean 'unet'?"),
        ({"name": "unet", "chanels": 3}, "Did you mean 'channels'?"),
        ({"name": "unet", "channels": 0}, "channels: .*at least 1.*given: 0"),
        ({"name": "unet", "channels": "many"}, "channels: .*given: 'many'"),
        ({"name": "unet", "norm": "layer"}, "'instance', 'instance_affine' or 'batch'.*given: 'layer'"),
        ({"name": "unet", "dropout": 1.0}, "dropout: .*less than 1"),
        ({"channels": 16}, "'name' is missing"),
    ],
)
def test_what_is_wrong_is_refused_with_what_is_allowed(given, said):
    with pytest.raises(InputError, match=said):
        NetworkChoice.parse(given)


@pytest.mark.slow
def test_choosing_loads_no_torch():
    code = (
        "import sys; from fedrecon.strategies.networks.choice import NetworkChoice as C;"
        "C.parse({'name': 'unrolled', 'cascades': 2}).as_dict(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
