"""Distances of drawn images to real ones: the kernel by hand, a perfect prior, a copying one, a poor one."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import make_volume

from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.member.site import Site
from fedrecon.sites.score_columns import DISTANCES
from fedrecon.sites.scoring import prior_distance as sampling
from fedrecon.sites.scoring.prior_distance import compare, grid, kernel_distance
from fedrecon.sites.training.batches import Slices


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    path = tmp_path_factory.mktemp("sampling") / "a.h5"
    volumes = [make_volume(f"v{k}", split, n, 1, k) for k, (split, n) in enumerate([("train", 24), ("validation", 16)])]
    write_shard(path, "a", volumes, simulated=True, phase="smooth", origin="phantom")
    full = Undersampling.read({"mask": "random", "acceleration": 1})
    return [
        Slices({"a": Shard.open(path)}, {"a": full}, split, torch.device("cpu")) for split in ("train", "validation")
    ]


def picks(images):
    def draw(count, generator):
        return images[torch.randint(len(images), (count,), generator=generator)]

    return draw


def test_the_kernel_distance_by_hand():
    """d = 1: k(x, y) = (x y + 1)^3. Within a: k(0, 1) = 1; within b: k(2, 0) = 1; across: 1, 1, 27 and 1."""
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [0.0]])
    assert kernel_distance(a, b) == pytest.approx(1 + 1 - 2 * (1 + 1 + 27 + 1) / 4)


def test_it_is_unbiased():
    """Of two samples of one distribution it is zero on average, below as often as above."""
    draws = torch.Generator().manual_seed(0)
    values = [
        kernel_distance(torch.randn(12, 4, generator=draws), torch.randn(20, 4, generator=draws)) for _ in range(300)
    ]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    assert 0.3 < np.mean(np.array(values) > 0) < 0.7


@pytest.mark.slow
def test_real_images_are_near_noise_is_far_and_a_copy_is_told(splits):
    train, held_out = splits
    known, fresh = sampling.images(train), sampling.images(held_out)
    other = torch.rand(40, 32, 32, generator=torch.Generator().manual_seed(1))
    copied, honest, noise = (compare(picks(one), known, fresh, 0, "a") for one in (known, fresh, other))
    assert copied["nearest"] < 0.02
    assert honest["nearest"] == pytest.approx(1, abs=0.2)
    assert noise["nearest"] > 1.5
    assert honest["kernel_distance"] < copied["kernel_distance"] < noise["kernel_distance"]
    assert {one["kernel_distance_real"] for one in (copied, honest, noise)} == {honest["kernel_distance_real"]}
    assert compare(picks(fresh), known, fresh, 0, "a") == honest
    assert tuple(honest) == DISTANCES


def test_too_few_slices_are_no_reason_to_fail(splits):
    train, _ = splits
    known = sampling.images(train)
    assert compare(picks(known), known[:2], known, 0, "a") == {}
    assert compare(picks(known), known, known[:1], 0, "a") == {}


def test_brightness_alone_is_no_distance(splits):
    train, held_out = splits
    known, fresh = sampling.images(train), sampling.images(held_out)
    one, half = (compare(picks(factor * fresh), known, fresh, 0, "a") for factor in (1.0, 0.5))
    assert half["kernel_distance"] == pytest.approx(one["kernel_distance"], abs=1e-4)


def test_a_prior_s_frame_around_smaller_slices_is_no_distance(tmp_path):
    path = tmp_path / "a.h5"
    volumes = [
        make_volume(f"v{k}", one, n, 1, k, (20, 28)) for k, (one, n) in enumerate([("train", 9), ("validation", 8)])
    ]
    write_shard(path, "a", volumes, simulated=True, phase="smooth", origin="phantom")
    full = Undersampling.read({"mask": "random", "acceleration": 1})
    train, held_out = (
        Slices({"a": Shard.open(path)}, {"a": full}, one, torch.device("cpu")) for one in ("train", "validation")
    )
    known, frame = sampling.images(train), torch.zeros(9, 32, 32)
    frame[:, 6:26, 2:30] = known  # the centre (10, 14) falls on (16, 16)
    assert compare(picks(frame), known, sampling.images(held_out), 0, "a")["nearest"] < 0.02


def slices_of(path, given, split):
    """The fully sampled slices of a split; ``given`` holds the split, the number of slices, coils and shape of each."""
    volumes = [make_volume(f"v{k}", one, n, coils, k, shape) for k, (one, n, coils, shape) in enumerate(given)]
    write_shard(path, "a", volumes, simulated=True, phase="smooth", origin="phantom")
    full = Undersampling.read({"mask": "random", "acceleration": 1})
    return Slices({"a": Shard.open(path)}, {"a": full}, split, torch.device("cpu"))


def test_the_matrix_of_most_slices_counts_slices(tmp_path):
    """16 slices are one batch; two slices of other coil counts are two."""
    given = [("train", 16, 1, (32, 32)), ("train", 1, 1, (24, 24)), ("train", 1, 2, (24, 24))]
    train = slices_of(tmp_path / "a.h5", given, "train")
    assert sampling.images(train).shape == (16, 32, 32)
    assert sampling.images(train, (24, 24)).shape == (2, 24, 24)
    assert sampling.images(train, (8, 8)).shape == (0, 8, 8)


def test_two_fields_of_view_have_no_distance(tmp_path, splits):
    """A prior that copies would look as honest as any: the validation slices of another field are far from all."""
    known = sampling.images(splits[0])
    assert compare(picks(known), known, torch.rand(8, 48, 48), 0, "a") == {}


def test_a_site_compares_validation_slices_of_the_training_slices_matrix(tmp_path):
    given = [("train", 4, 1, (32, 32)), ("validation", 6, 1, (48, 48)), ("validation", 3, 1, (32, 32))]
    train = slices_of(tmp_path / "a.h5", given, "train")
    held_out = slices_of(tmp_path / "a.h5", given, "validation")
    site = SimpleNamespace(_full={"train": train, "validation": held_out}.get)
    assert [one.shape for one in Site._real.func(site)] == [(4, 32, 32), (3, 32, 32)]


def test_the_grid_shows_drawn_images_above_real_ones(splits):
    train, _ = splits
    picture = np.asarray(
        Image.open(io.BytesIO(grid(lambda n, draws: torch.full((n, 32, 32), 0.5), sampling.images(train), 0, "a")))
    )
    height, width = picture.shape
    assert (height, width) == (2 * 96, 8 * 96)
    assert (picture[:96] == 128).all()
    expected = (sampling.images(train)[0] * 255).round().numpy().astype(np.uint8)
    assert (picture[96::3, :96:3] == expected).all()


def test_grids_of_two_rounds_are_of_the_same_latents(splits):
    train, _ = splits

    def draw(count, generator):
        return torch.rand(count, 32, 32, generator=generator)

    known = sampling.images(train)
    assert grid(draw, known, 0, "a") == grid(draw, known, 0, "a") != grid(draw, known, 1, "a")
