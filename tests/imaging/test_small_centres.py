"""Coil maps need a centre that holds them: a smaller one is warned of, and one of a single sample is refused."""

import pytest

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium import checks
from fedrecon.platform.consortium.checks import GOOD_BOX, check_experiment, check_masks
from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.masks import MASKS


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("shape", "side"), [((64, 48), 5), ((40, 90), 7), ((33, 33), 3)])
def test_the_fraction_that_is_offered_is_the_smallest_that_does(name, shape, side):
    mask = MASKS[name](acceleration=2)
    fraction = mask.fraction_for(shape, side)
    assert min(MASKS[name](acceleration=2, center_fraction=fraction).calibration(shape)) >= side
    assert min(MASKS[name](acceleration=2, center_fraction=fraction - 0.001).calibration(shape)) < side


@pytest.mark.parametrize("name", MASKS)
def test_none_is_offered_where_the_acceleration_leaves_no_room(name):
    assert MASKS[name](acceleration=24).fraction_for((32, 32), 9) is None


@pytest.fixture
def shards(consortium):
    """The tiny sites of 32 x 32 pixels: ``middle`` has two coils, the others one."""
    return {name: Shard.open(path) for name, path in consortium.items()}


def told(shards, capsys, **operator):
    checks.tell_once.cache_clear()
    block = {"mask": "gaussian2d", "acceleration": 3, **operator}
    paths = {name: str(shard.path) for name, shard in shards.items()}
    check_experiment(Experiment.read({"sites": paths, "operator": block}), shards)
    check_masks(shards, dict.fromkeys(shards, Undersampling.read(block)))
    return [line for line in capsys.readouterr().err.splitlines() if "coil maps" in line]


def test_a_site_of_several_coils_is_warned_of_once_with_a_fraction_that_does(shards, capsys):
    (line,) = told(shards, capsys, center_fraction=0.1)
    fraction = MASKS["gaussian2d"](acceleration=3).fraction_for((32, 32), GOOD_BOX)
    assert "'middle'" in line
    assert "3 x 3" in line
    assert f"center_fraction={fraction:g}" in line
    assert told(shards, capsys, center_fraction=fraction) == []


def test_a_mix_is_judged_by_each_of_its_masks(shards, capsys):
    assert told(shards, capsys, center_fraction=0.1, acceleration={"choice": [1, 3]})
    assert told(shards, capsys, center_fraction=0.1, acceleration=1) == []


def test_one_sample_is_refused_where_there_are_several_coils(shards, capsys):
    with pytest.raises(InputError, match=r"site 'middle': coil maps .* 1 x 1"):
        told(shards, capsys, center_fraction=0.04)
    assert told({"north": shards["north"]}, capsys, center_fraction=0.04) == []
