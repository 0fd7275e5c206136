"""An image below the window of SSIM cannot be scored: that is said before a run starts, and no picture needs it."""

import numpy as np
import pytest
from tiny import make_volume

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.checks import check_experiment
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.scoring.panel import _scores


def shard(folder, **shapes):
    volumes = [
        make_volume(f"v-{split}", split, 2, 1, seed, shapes.get(split, (12, 12)))
        for seed, split in enumerate(("train", "validation", "test"))
    ]
    write_shard(folder / "north.h5", "north", volumes, simulated=True, phase="smooth", origin="phantom")
    return Shard.open(folder / "north.h5")


@pytest.mark.parametrize(("split", "shape"), [("test", (6, 12)), ("validation", (12, 6))])
def test_a_scored_volume_of_six_pixels_is_refused_before_anything_starts(tmp_path, split, shape):
    one = Experiment.read({"sites": str(tmp_path), "reconstructor": "zero_filled", "operator": {"acceleration": 1}})
    with pytest.raises(InputError, match=f"v-{split} cannot be scored: SSIM needs 7 pixels"):
        check_experiment(one, {"north": shard(tmp_path, **{split: shape})})


def test_seven_pixels_are_enough_and_a_volume_that_trains_needs_none(tmp_path):
    found = shard(tmp_path, train=(6, 6), validation=(7, 7), test=(7, 12))
    one = Experiment.read({"sites": str(tmp_path), "reconstructor": "zero_filled", "operator": {"acceleration": 1}})
    check_experiment(one, {"north": found})


def test_a_picture_below_the_window_has_its_psnr_alone():
    image = np.full((6, 9), 2.0)
    assert _scores(image, image + 0.2, 2.0) == "20.0 dB"
    image = np.full((7, 9), 2.0)
    assert _scores(image, image, 2.0) == "inf dB   SSIM 1.000"
