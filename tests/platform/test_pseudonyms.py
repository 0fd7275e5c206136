"""Names of people: pseudonyms under one key of the consortium, from the import to a test of the finished run."""

import stat
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest
from hospitals import PERSON, hospital
from tiny import UNET

import fedrecon
from fedrecon.platform.consortium import checks
from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.sites.data.pseudonyms import Pseudonyms
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.importing import import_data


def given(paths, **more):
    return {
        "sites": {site: str(path) for site, path in paths.items()},
        "network": UNET,
        "training": {"rounds": 1, "batch_size": 2},
        "evaluation": {"every": 1},
        **more,
    }


@pytest.mark.slow
def test_one_key_keeps_a_person_one_subject_and_two_keys_are_refused(tmp_path):
    key = tmp_path / "shared.key"
    first = Shard.open(hospital(tmp_path / "a", tmp_path / "one", key))
    second = Shard.open(hospital(tmp_path / "b", tmp_path / "two", key, people=("x", "y", PERSON)))
    person = Pseudonyms.of(key).subject(PERSON)
    assert (first.subjects[person], second.subjects[person]) == ("train", "test")
    with pytest.raises(InputError, match=f"the subject '{person}' is in the split"):
        fedrecon.run(given({"a": first.path, "b": second.path}), workspace=tmp_path / "w", in_process=True)
    other = hospital(tmp_path / "c", tmp_path / "three", people=("u", "v", "w", "z"))
    with pytest.raises(InputError, match="imported with different keys"):
        fedrecon.run(given({"a": first.path, "b": other}), workspace=tmp_path / "w", in_process=True)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "new" / "a.key"
    made = Pseudonyms.of(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Pseudonyms.of(path) == made
    assert made.key.hex() not in repr(made)
    assert made.subject("x") == Pseudonyms.of(path).subject("x") != Pseudonyms.of(tmp_path / "b.key").subject("x")
    assert made.subject("x")[1:] != made.volume("x")[1:]
    path.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        Pseudonyms.of(path)
    assert [one.name for one in path.parent.iterdir()] == ["a.key"]
    (tmp_path / "empty.key").touch(0o600)
    with pytest.raises(InputError, match="holds no key"):
        Pseudonyms.of(tmp_path / "empty.key")


def test_a_name_has_one_pseudonym_in_both_spellings_of_unicode():
    names = Pseudonyms(bytes(32))
    assert names.subject("M\u00fcller") == names.subject("Mu\u0308ller") != names.subject("Muller")
    assert names.subject(b"M\xfcller".decode("utf-8", "surrogateescape"))  # a name of an old file system


def test_imports_that_start_at_once_read_one_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        keys = {one.key for one in pool.map(Pseudonyms.of, [tmp_path / "a.key"] * 32)}
    assert len(keys) == 1


def test_no_k_space_tells_whether_a_name_is_right(tmp_path):
    """The simulated phase follows from the pseudonym: under two keys one file has two phases."""
    images = np.random.default_rng(0).random((16, 16, 3), np.float32)
    nibabel.save(nibabel.Nifti1Image(images, np.eye(4)), tmp_path / f"{PERSON}.nii")
    one, two = (import_data("nifti", [tmp_path / f"{PERSON}.nii"], "w", tmp_path / key) for key in "ab")
    first, second = (Shard.open(path) for path in (one, two))
    assert not np.allclose(first.kspace(first.volumes[0].name), second.kspace(second.volumes[0].name))
    assert np.allclose(first.reference(first.volumes[0].name), second.reference(second.volumes[0].name))


@pytest.mark.slow
def test_a_test_finds_another_key_and_another_hospital_under_a_known_name(tmp_path):
    key = tmp_path / "shared.key"
    ours = hospital(tmp_path / "a", tmp_path / "one", key)
    base = given({"ward": ours}, strategy={"name": "local"})
    done = fedrecon.run(base, workspace=tmp_path / "w", in_process=True)
    foreign = hospital(tmp_path / "c", tmp_path / "two", people=("u", "v", "w", "z"))
    for test in (
        lambda: evaluate(done.digest, sites={"other": str(foreign)}, published=["all"], workspace=tmp_path / "w"),
        lambda: fedrecon.run(
            {**base, "publish_private": "all", "test": {"sites": {"other": str(foreign)}}},
            workspace=tmp_path / "w",
            in_process=True,
        ),
    ):
        with pytest.raises(InputError, match="sites 'ward' and 'other' were imported with different keys"):
            test()
    checks.check_same_hospitals({"other": Shard.open(ours)}, {"ward": {"site": "ward", "key": None}})
    with pytest.raises(InputError, match="site 'ward' trained with the shard of 'clinic'"):
        checks.check_same_hospitals({"ward": Shard.open(ours)}, {"ward": {"site": "clinic", "key": None}})


def test_an_import_that_fails_names_the_file_to_who_imports(tmp_path):
    np.save(tmp_path / f"{PERSON}_1.npy", np.zeros((2, 1, 16, 16), np.complex64))
    with pytest.raises(InputError, match=f"'{PERSON}_1'.*all zero"):
        import_data("npy", [tmp_path / f"{PERSON}_1.npy"], "ward", tmp_path / "out")
