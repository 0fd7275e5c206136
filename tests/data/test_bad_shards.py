"""Each way in which a shard can be broken has its own clear message, and takes no other shard down."""

import dataclasses
import json
import re
import shutil

import h5py
import numpy as np
import pytest
from small_volumes import make_volume

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.checks import ConsortiumShards
from fedrecon.platform.consortium.shards import open_sites
from fedrecon.sites.data.inspect import inspect
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.data.splits import check_consortium
from fedrecon.sites.errors import InputError

PLAIN = {"simulated": True, "phase": "none"}


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(change):
    def edit(path):
        with h5py.File(path, "r+") as file:
            change(file)

    return edit


def _replace(key, make):
    def change(file):
        old = file[key][()]
        del file[key]
        file[key] = make(old)

    return _edit(change)


def _set(key, value):
    return _edit(lambda file: file.attrs.__setitem__(key, value))


def _set_volume(key, value):
    return _edit(lambda file: file["a_1"].attrs.__setitem__(key, value))


def _with(index, value):
    def make(array):
        array[index] = value
        return array

    return make


BROKEN = {
    "missing": (lambda path: path.unlink(), "there is no such file"),
    "empty": (lambda path: path.write_bytes(b""), "is not an HDF5 file"),
    "text": (lambda path: path.write_text("not HDF5"), "is not an HDF5 file"),
    "truncated": (_truncate, "is truncated"),
    "other HDF5": (_edit(lambda file: file.attrs.clear()), "no shard of fedrecon"),
    "newer schema": (_set("schema_version", 99), "schema version 99"),
    "no site": (_edit(lambda file: file.attrs.__delitem__("site")), "the attribute 'site' is missing"),
    "no volumes": (_edit(lambda file: file.clear()), "holds no volume"),
    "no kspace": (_edit(lambda file: file.__delitem__("a_1/kspace")), "dataset 'kspace' is missing"),
    "no split": (_edit(lambda file: file["a_1"].attrs.__delitem__("split")), "attribute 'split' is missing"),
    "odd split": (_set_volume("split", "dev"), "split 'dev' is none of train, validation, test"),
    "subject in two splits": (_set_volume("patient_id", "c"), "subject 'c' is in 2 splits"),
    "rank": (_replace("a_1/kspace", lambda a: a[0, 0]), "expected (slices, coils, y, x)"),
    "dtype": (_replace("a_1/kspace", lambda a: a.astype(np.complex128)), "k-space is complex128"),
    "real dtype": (_replace("a_1/kspace", lambda a: a.real), "k-space is float32"),
    "zero slices": (_replace("a_1/kspace", lambda a: a[:0]), "zero slices"),
    "axis order": (
        _replace("a_1/kspace", lambda a: a.transpose(0, 2, 3, 1).copy()),
        "axes look out of order",
    ),
    "reference shape": (_replace("a_1/reconstruction_rss", lambda a: a[:, :-2]), "expected a reference of"),
    "reference dtype": (_replace("a_1/reconstruction_rss", lambda a: a.astype("f8")), "reference is float64"),
    "NaN": (
        _replace("a_1/kspace", _with((1, 0, 2, 2), np.nan)),
        "slice 1 of the k-space holds NaN or infinity",
    ),
    "infinity": (
        _replace("a_1/kspace", _with((2, 1, 0, 0), np.inf)),
        "slice 2 of the k-space holds NaN or infinity",
    ),
    "all zero": (_replace("a_1/kspace", _with(0, 0)), "slice 0 of the k-space is all zero"),
    "zero image": (_replace("a_1/reconstruction_rss", _with(1, 0)), "all-zero image"),
    "negative image": (_replace("a_1/reconstruction_rss", _with((0, 0, 0), -1)), "negative values"),
    "NaN image": (_replace("a_1/reconstruction_rss", _with((0, 0, 0), np.nan)), "reference holds NaN"),
    "not centred": (_replace("a_1/kspace", lambda a: np.fft.ifftshift(a, (-2, -1))), "it is not centred"),
    "changed data": (_replace("a_1/kspace", _with((0, 0, 0, 0), 1)), "the content hash differs"),
    "changed label": (_set_volume("patient_id", "d"), "the content hash differs"),
    "changed maximum": (_set_volume("max", 1.0), "'max' is not its maximum"),
    "odd label": (_set_volume("noise", "much"), "cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_shard_is_named_and_takes_no_other_down(case, make_shard, tmp_path):
    damage, message = BROKEN[case]
    folder = tmp_path / "sites"
    folder.mkdir()
    shutil.move(make_shard("good", make_volume("z_1", "z")), folder)
    path = shutil.move(make_shard("bad"), folder / "bad.h5")
    damage(path)
    with pytest.raises(InputError) as error:
        Shard.open(path).verify()
    assert message in str(error.value)
    assert str(path) in str(error.value)
    if case != "missing":
        found = inspect(folder)
        assert [shard["site"] for shard in found["shards"]] == ["good"]
        assert [(problem["path"], message in problem["message"]) for problem in found["problems"]] == [
            (str(path), True)
        ]


REFUSED = {
    "same volume": ([make_volume(), make_volume()], "volume 'a_1' is there twice"),
    "split subject": ([make_volume(), make_volume("a_2", "a", "test")], "subject 'a' is there twice"),
    "nothing": ([], "no volume to write"),
    "split": ([make_volume(split="dev")], "split 'dev' is none of"),
    "volume name": ([make_volume("a/1")], "volume 'a/1': a name is made of"),
    "noise": ([dataclasses.replace(make_volume(), noise=-1.0)], "noise level is -1.0"),
    "rank": (
        [dataclasses.replace(make_volume(), kspace=make_volume().kspace[0])],
        "expected (slices, coils, y, x)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_writer_refuses(case, tmp_path):
    volumes, message = REFUSED[case]
    with pytest.raises(InputError) as error:
        write_shard(tmp_path / "x.h5", "x", volumes, **PLAIN)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_writer_refuses_a_site_name_that_is_no_metric_name(tmp_path):
    with pytest.raises(InputError, match="site 'a b'"):
        write_shard(tmp_path / "x.h5", "a b", [make_volume()], **PLAIN)


@pytest.mark.slow
def test_noise_alone_is_no_wrong_centre(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        noise = rng.normal(size=(1, 1, 16, 16, 2)).astype(np.float32).view(np.complex64)[..., 0]
        data = dataclasses.replace(make_volume(), kspace=noise, reference=None)
        write_shard(tmp_path / f"{number}.h5", "x", [data], **PLAIN)


@pytest.mark.slow
def test_a_folder_in_order_has_no_problem_and_is_json(make_shard, tmp_path):
    make_shard("north")
    make_shard("south", make_volume("z_1", "z"))
    found = inspect(tmp_path)
    assert found["problems"] == []
    assert json.loads(json.dumps(found)) == found
    north = found["shards"][0]
    assert north["splits"]["test"] == {"subjects": ["c"], "n_volumes": 1, "n_slices": 2}
    assert north["matrix"] == [[24, 20], [30, 20]]
    assert (north["n_subjects"], north["n_slices"], north["n_coils"], north["noise"]) == (3, 8, 2, 0.25)
    assert inspect(tmp_path / "north.h5")["shards"] == [north]


def test_inspect_needs_something_to_inspect(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no shard"):
        inspect(tmp_path)


@pytest.mark.slow
def test_a_site_name_used_twice_and_a_subject_in_two_splits_are_refused(make_shard, tmp_path):
    north = make_shard("north")
    shutil.copy(north, tmp_path / "again.h5")
    south = make_shard("south", make_volume("a_9", "a", "test"), make_volume("b_9", "b", "validation", seed=3))
    shards = [Shard.open(path) for path in (north, tmp_path / "again.h5", south)]
    check_consortium(shards[:1])
    with pytest.raises(InputError, match="site name 'north' is used twice"):
        check_consortium(shards[:2])
    with pytest.raises(InputError, match=r"'a'.*'train'.*'north'.*'test'") as error:
        check_consortium(shards[::2])
    assert "subject 'b'" not in str(error.value)
    problems = [problem["message"] for problem in inspect(tmp_path)["problems"]]
    assert len(problems) == 2
    assert len(inspect(tmp_path)["shards"]) == 3


def test_one_scan_under_two_names_that_trains_and_tests_is_a_problem(make_shard, tmp_path):
    """The same image at two sites: of two subjects and two splits it is named, of one split it is not."""
    folder = tmp_path / "sites"
    folder.mkdir()
    ours = [make_volume("a_1", "a", "train", coils=2), make_volume("b_1", "b", "test", coils=2, seed=1)]
    ours += [make_volume("c_1", "c", "validation", coils=2, seed=2)]
    theirs = [make_volume("y_1", "y", "test", coils=2), make_volume("x_1", "x", "test", coils=2, seed=1)]
    shutil.move(make_shard("north", *ours), folder)
    shutil.move(make_shard("south", *theirs), folder)
    found = inspect(folder)
    assert len(found["shards"]) == 2
    ((path, message),) = ((problem["path"], problem["message"]) for problem in found["problems"])
    assert path == str(folder)
    assert "'a_1' (site 'north', split 'train') and 'y_1' (site 'south', split 'test') hold the same image" in message
    assert "\n" not in message
    with pytest.raises(InputError, match=re.escape(message)):  # a run says the same, and reads no image
        open_sites(str(folder))
    moved = {name: str(folder / f"{name}.h5") for name in ("north", "south")}
    with pytest.raises(InputError, match=re.escape(message)):
        open_sites(moved)
    elsewhere = Experiment.read({"sites": {"north": moved["north"]}, "test": {"sites": {"south": moved["south"]}}})
    with pytest.raises(InputError, match=re.escape(f"test.sites: {message}")):
        ConsortiumShards.of(elsewhere).check(elsewhere)


def test_one_scan_without_an_image_is_found_by_its_samples(make_shard, tmp_path):
    """k-space without a reference has no norm: inspecting reads it, a run does not know."""
    for site, subject, split in (("north", "a", "train"), ("south", "y", "test")):
        scan = make_volume(f"{subject}_1", subject, split, coils=2)
        make_shard(site, dataclasses.replace(scan, reference=None))
    (problem,) = inspect(tmp_path)["problems"]
    said = "'a_1' (site 'north', split 'train') and 'y_1' (site 'south', split 'test') hold the same image"
    assert said in problem["message"]
