"""A classical method's parameters: the best of its candidates on validation slices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import make_volume

from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.classical import make_reconstructor
from fedrecon.sites.classical.reconstructor import Reconstructor
from fedrecon.sites.data.loose_volume import LooseVolume
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.scoring.tuning import tune
from fedrecon.sites.training.batches import Slices


class Gain(Reconstructor):
    """The zero-filled image times a number; at acceleration 1 the right number is 1."""

    gain: float = 3.0

    def reconstruct(self, measurement):
        return self.gain * measurement.zero_filled

    def candidates(self):
        return tuple(self.model_copy(update={"gain": gain}) for gain in (0.25, 0.5, 1.1, 2.0))


@pytest.fixture
def validation(consortium):
    operators = {"north": Undersampling.read({"mask": "random", "acceleration": 1})}
    return Slices({"north": Shard.open(consortium["north"])}, operators, "validation", torch.device("cpu"))


def test_the_best_on_validation_is_chosen(validation):
    chosen, table = tune(Gain(), validation, mask_seed=0)
    assert chosen.gain == 1.1
    assert [row["gain"] for row in table] == [0.25, 0.5, 1.1, 2.0]
    scores = []
    for item in validation.items:
        truth = np.array(validation.shards["north"].reference(item.volume.name)[item.index], np.float64)
        scores.append(10 * np.log10(item.volume.maximum**2 / np.mean((0.1 * truth) ** 2)))
    assert table[2]["psnr"] == pytest.approx(np.mean(scores), abs=1e-3)


def test_without_candidates_nothing_is_searched(validation):
    method = make_reconstructor("zero_filled")
    assert tune(method, validation, 0) == (method, [])


def test_it_looks_at_few_slices(validation, monkeypatch):
    looked = []
    original = Slices.scoring
    monkeypatch.setattr(
        Slices, "scoring", lambda self, batch, seed: looked.append(batch) or original(self, batch, seed)
    )
    monkeypatch.setattr("fedrecon.sites.scoring.tuning.MAX_SLICES", 1)
    tune(Gain(), validation, 0)
    assert {item.index for batch in looked for item in batch} == {0}


@pytest.mark.parametrize("times", [1e-20, 1e-12, 1.0, 1e12])
def test_the_unit_of_a_scan_decides_nothing(times):
    volume = make_volume("scan", "validation", 2, 1, 5)
    kspace, reference = ((one * np.float32(times)).astype(one.dtype) for one in (volume.kspace, volume.reference))
    source = LooseVolume(replace(volume, kspace=kspace, reference=reference, noise=None))
    operators = {"north": Undersampling.read({"mask": "random", "acceleration": 1})}
    chosen, table = tune(Gain(), Slices({"north": source}, operators, "validation", torch.device("cpu")), mask_seed=0)
    assert chosen.gain == 1.1
    assert len({round(row["psnr"], 3) for row in table}) == 4
