"""What only another node, or only the last step, can see is refused too."""

from contextlib import nullcontext
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from tiny import make_volume, write_consortium

from fedrecon.platform.execution import remote_shards
from fedrecon.platform.inference import reconstruct
from fedrecon.sites.errors import InputError, RunError


@pytest.mark.slow
def test_a_shard_on_another_node_is_compared_with_its_seals_there(tmp_path, monkeypatch):
    """Without Ray: the node's answer is made in this process."""
    paths = {name: str(path) for name, path in write_consortium(tmp_path).items()}
    monkeypatch.setattr(remote_shards, "connected", lambda address: nullcontext())
    ask = lambda function, questions, subject: {site: function(*given) for site, given in questions.items()}  # noqa: E731
    monkeypatch.setattr(remote_shards, "ask_sites", ask)
    found = remote_shards.remote_shards(paths, "there")
    assert found["north"].attributes_hash
    for change in (
        lambda file: file.attrs.__setitem__("origin", "scanner"),
        lambda file: file["north-train/kspace"].__setitem__(0, 1),
    ):
        with h5py.File(paths["north"], "r+") as file:
            change(file)
        with pytest.raises(InputError, match=r"site 'north', on its own node: .*fedrecon data seal"):
            remote_shards.remote_shards(paths, "there")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_not_written(value, monkeypatch):
    image = np.ones((2, 32, 32), np.float32)
    image[1, 3, 4] = value
    images = {"output": image, "zero_filled": np.ones_like(image)}
    monkeypatch.setattr(reconstruct, "batches", lambda *_: iter(()))
    monkeypatch.setattr(reconstruct, "_reconstructed", lambda *_: iter([(images, image > 0)]))
    operator = SimpleNamespace(described=str, noise=1)
    resources = SimpleNamespace(threads=1)
    experiment = SimpleNamespace(task="reconstruction", resources=resources, operator_at=lambda _: operator)
    trained = SimpleNamespace(experiment=experiment, images=SimpleNamespace(sites=("north",)))
    with pytest.raises(RunError, match="'x': the reconstruction holds NaN or infinity in 1 of 2048 output"):
        reconstruct._volume(trained, None, "north", make_volume("x", "test", 2, 1, 0), False, None)
