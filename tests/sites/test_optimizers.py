"""The optimisers: a site's process loads neither torch's compiler nor scipy, and who compiles gets the real one."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedrecon.sites.errors import InputError
from fedrecon.sites.training.optimizers import optimizer

TRAIN = """
import sys, torch
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.network import check_network
from fedrecon.sites.data.shard import Shard
style = {"name": "style", "latent": 8, "layers": 2, "channel_base": 128, "channel_max": 4, "skips": True}
given = {"sites": {"north": sys.argv[1]}, "strategy": {"name": "fedgimp"}, "network": style}
check_network(Experiment.read(given), {"north": Shard.open(sys.argv[1])})
from fedrecon.sites.training.optimizers import OPTIMIZERS, optimizer
for name in OPTIMIZERS:
    model = torch.nn.Linear(3, 2)
    one = optimizer(name, model.parameters(), 0.1)
    for _ in range(2):
        one.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        one.step()
    one.load_state_dict(one.state_dict())
loaded = [name for name in sys.modules if name.startswith("torch._dynamo")]
assert loaded == ["torch._dynamo"] and not hasattr(sys.modules["torch._dynamo"], "__file__"), loaded
import fedrecon.sites.member.site
assert not [name for name in sys.modules if name.startswith("scipy")]
from torch._dynamo.exc import TorchDynamoException
import torch._dynamo.config
assert sys.modules["torch._dynamo"].__file__.endswith("__init__.py")
assert torch._dynamo is sys.modules["torch._dynamo"] and torch._dynamo.optimize
one.zero_grad()
one.step()
"""


@pytest.mark.slow
def test_a_site_loads_no_compiler_and_no_scipy_and_who_asks_for_the_compiler_gets_the_real_one(
    consortium: dict[str, Path],
) -> None:
    """Nor does a driver, which builds the network on the device ``meta`` to check it."""
    done = subprocess.run([sys.executable, "-c", TRAIN, str(consortium["north"])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_optimiser_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="Did you mean 'adamw'"):
        optimizer("adamww", [], 0.1)
