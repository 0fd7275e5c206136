"""The sites of an experiment: found, opened, checked."""

import re
from pathlib import Path

import h5py
import pytest
from tiny import N_TRAIN, make_volume

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.checks import ConsortiumShards, check_experiment
from fedrecon.platform.consortium.network import images
from fedrecon.platform.consortium.shards import n_slices, open_sites
from fedrecon.sites.data.shard import write_shard
from fedrecon.sites.errors import InputError


def experiment(*overrides):
    return Experiment.read({"sites": "x", "operator": {"mask": "random", "acceleration": 3}}, overrides)


def write(folder, site, *splits, phase="none", origin="nifti", prefix=None, coils=1, shape=(32, 32)):
    prefix = site if prefix is None else prefix
    volumes = [make_volume(f"{prefix}{k}", split, 2, coils, k, shape) for k, split in enumerate(splits)]
    write_shard(folder / f"{site}.h5", site, volumes, simulated=True, phase=phase, origin=origin)
    return folder / f"{site}.h5"


ALL = ("train", "validation", "test")


def test_a_folder_and_a_mapping_give_the_same_sites_in_order_of_name(consortium):
    folder = next(iter(consortium.values())).parent
    found = open_sites(str(folder))
    assert list(found) == sorted(N_TRAIN)
    named = open_sites({name: str(consortium[name]) for name in ("south", "north", "middle")})
    assert list(named) == sorted(N_TRAIN)
    assert {n: s.content_hash for n, s in named.items()} == {n: s.content_hash for n, s in found.items()}
    assert {name: n_slices(shard, "train") for name, shard in found.items()} == N_TRAIN
    assert {n_slices(shard, "test") for shard in found.values()} == {2}


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="missing"):
        open_sites(str(tmp_path / "missing"))
    with pytest.raises(InputError, match=r"gone\.h5"):
        open_sites({"a": str(tmp_path / "gone.h5")})
    with pytest.raises(InputError, match=rf"^test\.sites\.a: gone\.h5: .*{re.escape(str(Path.cwd()))}$"):
        open_sites({"a": "gone.h5"}, key="test.sites")
    with pytest.raises(InputError, match=rf"^sites: data/gone: .*{re.escape(str(Path.cwd()))}$"):
        open_sites("data/gone")
    with pytest.raises(InputError, match="at least one site"):
        open_sites({})


@pytest.mark.slow
def test_what_a_network_is_built_for(tmp_path, consortium):
    shards = open_sites({name: str(path) for name, path in consortium.items()})
    kind = images(shards)
    assert (kind.complex_valued, kind.size, kind.n_coils, kind.sites) == (True, (32, 32), 2, tuple(sorted(N_TRAIN)))
    write(tmp_path, "a", *ALL, shape=(32, 24))
    write(tmp_path, "b", *ALL, shape=(16, 40), coils=3)
    kind = images(open_sites(str(tmp_path)))
    assert (kind.complex_valued, kind.size, kind.n_coils) == (False, (32, 40), 3)


def test_a_sound_experiment_passes(consortium):
    shards = open_sites({name: str(path) for name, path in consortium.items()})
    check_experiment(experiment(), shards)
    check_experiment(experiment("strategy.name=pooled"), shards)  # a phantom's data may be moved


@pytest.mark.slow
@pytest.mark.parametrize("mapping", [False, True])
def test_a_subject_in_two_splits_is_refused(tmp_path, mapping):
    one = write(tmp_path, "a", *ALL, prefix="p")
    two = write(tmp_path, "b", "test", "validation", "train", prefix="p")
    with pytest.raises(InputError, match=r"'p0'.*'train'.*'a'.*'test'.*'b'"):
        open_sites({"a": str(one), "b": str(two)} if mapping else str(tmp_path))


@pytest.mark.slow
def test_a_site_that_cannot_train_or_be_scored_is_refused(tmp_path):
    shards = open_sites({"a": str(write(tmp_path, "a", "test", "validation"))})
    with pytest.raises(InputError, match="'a' has no training subject"):
        check_experiment(experiment(), shards)
    check_experiment(experiment("reconstructor=zero_filled"), shards)
    for splits, missing in ((("train", "validation"), "test"), (("train", "test"), "validation")):
        shards = open_sites({"b": str(write(tmp_path, "b", *splits))})
        with pytest.raises(InputError, match=f"'b' has no subject in the split '{missing}'"):
            check_experiment(experiment(), shards)


def test_an_operator_that_cannot_be_is_refused(tmp_path):
    shards = open_sites({"north": str(write(tmp_path, "north", *ALL))})
    with pytest.raises(InputError, match="Did you mean 'north'"):
        check_experiment(experiment("operator.per_site.nrth.noise=2"), shards)
    with pytest.raises(InputError, match=r"site 'north': .*center_fraction"):
        check_experiment(experiment("operator.acceleration=8", "operator.center_fraction=0.5"), shards)
    with pytest.raises(InputError, match="site 'north': "):
        check_experiment(experiment("operator.per_site.north.acceleration=1000"), shards)


def test_data_of_patients_is_pooled_only_where_it_may_be_moved(tmp_path):
    shards = open_sites({"a": str(write(tmp_path, "a", *ALL))})
    with pytest.raises(InputError, match=r"a hold data of patients.*allow_pooling=true"):
        check_experiment(experiment("strategy.name=pooled"), shards)
    check_experiment(experiment("strategy.name=pooled", "allow_pooling=true"), shards)
    check_experiment(experiment("strategy.name=pooled", "strategy.allow_pooling=true"), shards)
    check_experiment(experiment("strategy.name=pooled", "reconstructor=tv"), shards)


@pytest.mark.parametrize("name", ["../../x", "/x", "a b", ".", ""])
def test_a_name_that_leads_out_of_a_folder_is_refused_wherever_it_is_read(name, tmp_path, consortium):
    sites = {name: str(consortium["north"])}
    for given in ({"sites": sites}, {"sites": "x", "test": {"sites": sites}}):
        with pytest.raises(InputError, match=r"site '.*': a name is made of"):
            Experiment.read(given)
    with pytest.raises(InputError, match=r"site '.*': a name is made of"):
        open_sites(sites)


@pytest.mark.parametrize("name", ["../x", "a\nb", ""])
def test_the_name_of_an_experiment_is_one_line_and_no_path(name):
    with pytest.raises(InputError, match="name"):
        Experiment.read({"sites": "x", "name": name})


@pytest.mark.parametrize("mapping", [False, True])
def test_a_shard_that_is_not_what_its_hash_says_is_refused(mapping, tmp_path):
    path = write(tmp_path, "a", *ALL)
    with h5py.File(path, "r+") as file:
        file["a0/kspace"][0] *= 2
    with pytest.raises(InputError, match=r"says \w{64}, the content has \w{64}\); .*fedrecon data seal .*a\.h5"):
        open_sites({"a": str(path)} if mapping else str(tmp_path))


def test_one_shard_under_two_names_is_named(consortium, capsys):
    sites = {"a": str(consortium["north"]), "b": str(consortium["north"]), "c": str(consortium["south"])}
    ConsortiumShards.of(Experiment.read({"sites": sites}))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "'a' and 'b'" in line
    assert str(consortium["north"]) in line
