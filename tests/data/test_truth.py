"""The noise-free truth of phantoms: what it is, that it is sealed, and that scores use it where it is asked for."""

import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from tiny import make_volume

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.checks import check_experiment, check_test_sites
from fedrecon.platform.runs.report import report
from fedrecon.platform.terminal.tables import result_table, rows_table
from fedrecon.sites.acquisition.undersampling import Undersampling
from fedrecon.sites.data.seal import seal
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.phantom.protocol import PROTOCOLS
from fedrecon.sites.phantom.scanner import scan
from fedrecon.sites.scoring.settings import AGAINST
from fedrecon.sites.scoring.slice_scores import score
from fedrecon.sites.seeding import generator
from fedrecon.sites.training.batches import Slices

SPLITS = ("train", "validation", "test")


def write(folder, truth=True):
    volumes = [make_volume(f"v-{split}", split, 2, 1, at) for at, split in enumerate(SPLITS)]
    if truth:
        volumes = [replace(one, truth=one.reference + np.float32(0.5)) for one in volumes]
    write_shard(folder / "north.h5", "north", volumes, simulated=True, phase="smooth", origin="phantom")
    return Shard.open(folder / "north.h5")


@pytest.mark.slow
def test_the_truth_is_the_phantom_without_its_noise():
    """Of one coil the noisy image is truth e^(i phase) + n: the difference of the magnitudes has the known sigma."""
    one = scan(generator(3), PROTOCOLS["flair"], 32, 1)
    bright = one.truth > 10 * one.noise
    assert bright.sum() > 500
    assert (one.reference - one.truth)[bright].std() == pytest.approx(one.noise, rel=0.1)
    assert one.truth[:, :2, :2].max() < one.noise  # air, where the reference has its noise floor
    assert one.reference[:, :2, :2].mean() == pytest.approx(one.noise * math.sqrt(math.pi / 2), rel=0.3)


@pytest.mark.slow
def test_a_shard_keeps_the_truth_and_its_seal_guards_it(tmp_path):
    shard = write(tmp_path)
    (volume,) = shard.split("test")
    data = shard.data(volume.name)
    assert volume.truth_maximum == data.truth.max() == pytest.approx(volume.maximum + 0.5)
    shard.verify()
    bare = write_shard(
        tmp_path / "bare.h5", "north", [replace(shard.data(v.name), truth=None) for v in shard.volumes],
        simulated=True, phase="smooth",
    )  # fmt: skip
    assert bare != shard.content_hash
    with pytest.raises(InputError, match="truth"):
        Shard.open(tmp_path / "bare.h5").truth("v-test")
    with h5py.File(shard.path, "r+") as file:
        file["v-test/truth"][0, 3, 4] = 9
    with pytest.raises(InputError, match="truth_max"):
        Shard.open(shard.path).check_hash()
    before, after = seal(shard.path)
    assert before != after
    assert Shard.open(shard.path).split("test")[0].truth_maximum == 9
    Shard.open(shard.path).verify()


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        (lambda x: x[:, 1:], "shape"),
        (lambda x: x.astype(np.float64), "float64"),
        (lambda x: x - 9, "negative"),
        (lambda x: x * np.nan, "NaN"),
    ],
)
def test_a_truth_that_cannot_be_is_refused(tmp_path, truth, said):
    volume = make_volume("v", "test", 2, 1, 0)
    with pytest.raises(InputError, match=said):
        write_shard(
            tmp_path / "x.h5", "x", [replace(volume, truth=truth(volume.reference))], simulated=True, phase="none"
        )


def test_scores_compare_with_the_truth_where_it_is_asked_for_and_training_never_does(tmp_path):
    """The exact image of the scan: no error against the measured reference, 1/2 in each pixel against this truth."""
    shard = write(tmp_path)
    full = {"north": Undersampling.read({"mask": "random", "acceleration": 1})}

    def scored(truth):
        slices = Slices({"north": shard}, full, "test", torch.device("cpu"), truth=truth)
        found = score(slices, slices.iterate(2), "test", lambda batch, _: batch.zero_filled, 0, "global", "north")
        rows = [row for row, stage in enumerate(found.columns["stage"]) if stage == "output"]
        return {name: [found.columns[name][row] for row in rows] for name in ("squared_error", "volume_maximum")}

    (volume,) = shard.split("test")
    measured, truth = scored(False), scored(True)
    assert max(measured["squared_error"]) < 1e-6
    assert measured["volume_maximum"] == [volume.maximum] * 2
    assert truth["squared_error"] == pytest.approx([0.25 * 32 * 32] * 2, rel=1e-4)
    assert truth["volume_maximum"] == [volume.truth_maximum] * 2
    batch = Slices({"north": shard}, full, "train", torch.device("cpu")).training(
        Slices({"north": shard}, full, "train", torch.device("cpu")).items, 0, 0, augment=False
    )
    np.testing.assert_array_equal(batch.reference.numpy(), shard.reference("v-train"))


@pytest.mark.slow
def test_a_reference_that_nobody_knows_is_refused_before_anything_starts(tmp_path):
    bare, own = {"north": write(tmp_path, truth=False)}, {"evaluation": {"reference": "truth"}}
    with pytest.raises(InputError, match=r"'north' has no noise-free truth.*'validation'.*measured"):
        check_experiment(Experiment.read({"sites": "d", **own}), bare)
    with pytest.raises(InputError, match=r"'north' has no noise-free truth.*'test'"):
        check_test_sites(bare, {}, {}, truth=True)
    check_experiment(Experiment.read({"sites": "d", **own}), {"north": write(tmp_path)})
    with pytest.raises(InputError, match=r"evaluation\.reference.*'measured' or 'truth'"):
        Experiment.read({"sites": "d", "evaluation": {"reference": "true"}})


def test_the_key_moves_the_digest_of_the_scores_alone_and_only_away_from_its_default():
    plain, same, other = (
        Experiment.read({"sites": "d", "evaluation": block})
        for block in ({}, {"reference": "measured"}, {"reference": "truth"})
    )
    contents = {"north": "content"}
    assert plain.digest(contents) == same.digest(contents) != other.digest(contents)
    assert plain.training_digest(contents) == other.training_digest(contents)


@pytest.mark.parametrize("reference", AGAINST)
def test_every_table_of_a_run_says_what_its_scores_are_compared_with(reference, capsys):
    numbers = {"psnr": 30.0, "ssim": 0.9, "nmse": 0.1}
    one = {**numbers, "n_volumes": 1, "n_slices": 2, "with_data_consistency": numbers, "zero_filled": numbers}
    result, experiment = {"name": "x", "sites": {"a": one}, "mean": one}, {"evaluation": {"reference": reference}}
    result_table(result, experiment)
    row = {"site": "a", "mask": "random", "acceleration": 4, "measured_acceleration": 4, "model": "global", **one}
    rows_table({"rows": [row], "means": [], "reference": reference, "uncertainty": None})
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count(AGAINST[reference]) == 2
    text = report(result, experiment, [], {})
    assert AGAINST[reference] in text
    assert all(other not in text for name, other in AGAINST.items() if name != reference)
