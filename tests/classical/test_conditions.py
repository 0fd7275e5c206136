"""A classical method is refused where it can do nothing but give the zero-filled image under its own name."""

import pytest
import torch

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium import checks
from fedrecon.platform.consortium.checks import check_experiment
from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.classical import RECONSTRUCTORS, make_reconstructor
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.coils import estimate_maps
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.sites.imaging.measurement import measure
from fedrecon.sites.scoring import tuning
from fedrecon.sites.wire import TunedReconstructor


def refused(method, *condition):
    try:
        method.check(*condition)
    except InputError:
        return True
    return False


@pytest.mark.parametrize(
    ("name", "parameters", "n_coils", "box", "wanted"),
    [
        ("grappa", {"kernel_y": 3, "kernel_x": 5}, 4, (3, 5), False),
        ("grappa", {"kernel_y": 3, "kernel_x": 5}, 4, (2, 5), True),
        ("grappa", {"kernel_y": 3, "kernel_x": 5}, 4, (3, 4), True),
        ("low_rank", {"rank": 24}, 1, (1, 1), False),
        ("low_rank", {"rank": 25}, 1, (64, 64), True),
        ("low_rank", {"rank": 35, "kernel": 3}, 4, (1, 1), False),
        ("low_rank", {"rank": 36, "kernel": 3}, 4, (1, 1), True),
        ("tv", {}, 1, (1, 1), False),
    ],
)
def test_what_it_needs_of_coils_and_centre(name, parameters, n_coils, box, wanted):
    assert refused(make_reconstructor(name, **parameters), n_coils, box) == wanted


@pytest.mark.parametrize("name", [name for name, kind in RECONSTRUCTORS.items() if not kind.needs_low])
@pytest.mark.parametrize("n_coils", [1, 2])
@pytest.mark.parametrize("fraction", [0.04, 0.12, 0.24])
def test_it_is_refused_exactly_where_it_gives_the_zero_filled_image(name, n_coils, fraction):
    mask = MASKS["gaussian2d"](acceleration=3, center_fraction=fraction)
    box = mask.calibration((26, 24))
    kspace = torch.randn(1, n_coils, 26, 24, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    sampled = torch.from_numpy(mask.sample((26, 24), 0))[None, None]
    measurement = measure(kspace, sampled, estimate_maps(kspace, box))
    methods = {make_reconstructor(name), *make_reconstructor(name).candidates()}
    for method in sorted(methods, key=repr)[:6]:
        if name in ("tv", "wavelet"):  # what changes the image does so in the first iterations
            method = method.model_copy(update={"iterations": 10})
        image, expected, exact = method.reconstruct(measurement), measurement.zero_filled, 1e-4
        if named := (name, n_coils) == ("cg_sense", 1):  # refused nowhere: every run and report names it
            expected, exact = expected / (1 + method.weight), 5e-3  # the solver stops before the last digits
        same = torch.allclose(image, expected, rtol=exact, atol=exact)
        assert same == (named or refused(method, n_coils, box) or name == "zero_filled")


def test_candidates_that_can_do_nothing_are_dropped_and_the_first_says_why_none_is_left():
    assert {one.rank for one in make_reconstructor("low_rank").tried([(1, (9, 9))])} == {12, 17, 21}
    assert {one.kernel_x for one in make_reconstructor("grappa").tried([(4, (5, 5)), (4, (3, 9))])} == {3}
    with pytest.raises(InputError, match=r"windows of 3 x 3 .* has 1 x 1"):
        make_reconstructor("grappa").tried([(4, (1, 1))])
    with pytest.raises(InputError, match="at most 25, so rank=31"):
        make_reconstructor("low_rank", rank=31).tried([(1, (9, 9))])


def test_the_boxes_of_a_mix_are_those_of_all_that_a_slice_can_draw():
    mixed = Undersampling.read({"mask": {"choice": ["random", "gaussian2d"]}, "acceleration": {"choice": [1, 2]}})
    alone = [MASKS[name](acceleration=2).calibration((64, 48)) for name in ("random", "gaussian2d")]
    assert mixed.boxes((64, 48)) == {(64, 48), *alone}


def test_all_equal_scores_are_told_as_a_tie():
    def tie(*scores):
        return tuning.tie(TunedReconstructor("north", "tv", {}, tuple({"psnr": score} for score in scores)))

    assert "'north'" in tie(20.0, 20.0)
    assert tie(20.0, 20.1) == tie(20.0) == tie() == ""


def test_a_site_where_it_can_do_nothing_is_refused_before_anything_starts(consortium, capsys):
    """The tiny sites have one coil, but for one of them that has two."""
    paths = {name: str(path) for name, path in consortium.items()}
    shards = {name: Shard.open(path) for name, path in consortium.items()}
    coils = {name: shard.volumes[0].n_coils for name, shard in shards.items()}

    def checked(reconstructor, fraction):
        operator = {"mask": "random", "acceleration": 2, "center_fraction": fraction}
        check_experiment(
            Experiment.read({"sites": paths, "operator": operator, "reconstructor": reconstructor}), shards
        )

    checks.tell_once.cache_clear()
    checked("grappa", 0.16)
    told = capsys.readouterr().err.splitlines()
    assert {name for name in coils if any(f"'{name}' has one coil" in line for line in told)} == {
        name for name, n_coils in coils.items() if n_coils == 1
    }
    checked("grappa", 0.16)
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError, match=r"site '.*': grappa .* 32 x 2"):
        checked("grappa", 0.06)
    with pytest.raises(InputError, match=r"site '.*': low_rank"):
        checked({"name": "low_rank", "rank": 50}, 0.16)
    checked({"name": "low_rank"}, 0.16)
