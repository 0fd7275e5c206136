"""A file that takes values from elsewhere, or declares more than it holds, is refused before its data are read."""

import dataclasses

import h5py
import numpy as np
import pytest
from small_volumes import make_kspace, make_volume

from fedrecon.platform.config.experiment import Experiment
from fedrecon.sites.data.self_contained import MAX_RATIO
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.data.volume import LABELS
from fedrecon.sites.errors import InputError
from fedrecon.sites.formats.importing import import_data
from fedrecon.sites.phantom.consortium import simulate

REFERENCE = "holds object or region references"


def _external_link(file, other, key):
    del file[key]
    file[key] = h5py.ExternalLink(other, f"/{key}")


def _soft_link(file, other, key):
    file["elsewhere"] = h5py.ExternalLink(other, "/")
    del file[key]
    file[key] = h5py.SoftLink(f"/elsewhere/{key}")
    del file["elsewhere"]


def _virtual(file, other, key):
    shape, dtype = file[key].shape, file[key].dtype
    del file[key]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(other, key, shape, dtype)
    file.create_virtual_dataset(key, layout)


def _external_storage(file, other, key):
    with h5py.File(other) as source:
        offset = source[key].id.get_offset()
    old = file[key]
    shape, dtype, n_bytes = old.shape, old.dtype, old.nbytes
    del file[key]
    file.create_dataset(key, shape, dtype, external=[(other, offset, n_bytes)])


def _declared(file, other, key):
    del file[key]
    file.create_dataset(key, (10**6, 1000, 1000), np.complex64)


def _declared_chunks(file, other, key):
    del file[key]
    file.create_dataset(key, (10**6, 1000, 1000), np.complex64, chunks=(1, 100, 100))


def _declared_compressed(file, other, key):
    del file[key]
    file.create_dataset(key, (10**6, 1000, 1000), np.complex64, chunks=(1, 100, 100), compression="gzip")


def _bomb(file, other, key):
    del file[key]
    file.create_dataset(key, data=np.zeros((4, 1024, 1024), np.complex64), compression="gzip")


def _reference(file, other, key):
    file["pointer"] = np.array([file[key].ref], h5py.ref_dtype)


def _region(file, other, key):
    file["pointer"] = np.array([file[key].regionref[0]], h5py.regionref_dtype)


def _reference_in_compound(file, other, key):
    file.create_dataset("pointer", (2,), np.dtype([("n", "i4"), ("to", h5py.ref_dtype, (2,))]))


def _reference_attribute(file, other, key):
    file[key].attrs["pointer"] = file[key].ref


def _references_of_the_root(file, other, key):
    file.attrs.create("pointers", np.array([file[key].ref], h5py.ref_dtype))


POINTS_ELSEWHERE = {
    "external link": (_external_link, "is an external link to"),
    "soft link": (_soft_link, "is a soft link to"),
    "virtual": (_virtual, "is a virtual dataset"),
    "external storage": (_external_storage, "lies in another file"),
    "declared": (_declared, "declares 8000000000000 bytes and stores 0"),
    "declared in chunks": (_declared_chunks, "declares 8000000000000 bytes and stores 0"),
    "declared, compressed": (_declared_compressed, f"at most {MAX_RATIO} times"),
    "bomb": (_bomb, f"at most {MAX_RATIO} times"),
    "reference": (_reference, REFERENCE),
    "region": (_region, REFERENCE),
    "reference in a compound": (_reference_in_compound, REFERENCE),
    "reference in an attribute": (_reference_attribute, REFERENCE),
    "reference at the root": (_references_of_the_root, REFERENCE),
}


@pytest.mark.parametrize("case", POINTS_ELSEWHERE)
def test_a_shard_holds_all_its_values(case, make_shard):
    change, message = POINTS_ELSEWHERE[case]
    other, path = make_shard("other", make_volume()), make_shard("north", make_volume())
    with h5py.File(path, "r+") as file:
        change(file, str(other), "a_1/kspace")
    with pytest.raises(InputError) as error:
        Shard.open(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", POINTS_ELSEWHERE)
def test_an_imported_file_holds_all_its_values(case, tmp_path):
    change, message = POINTS_ELSEWHERE[case]
    paths = [tmp_path / name / "p1.h5" for name in ("other", "given")]
    for path in paths:
        path.parent.mkdir()
        with h5py.File(path, "w") as file:
            file["kspace"] = make_kspace()[:, 0]
    with h5py.File(paths[1], "r+") as file:
        change(file, str(paths[0]), "kspace")
    with pytest.raises(InputError) as error:
        import_data("fastmri", [paths[1]], "s", tmp_path / "out")
    assert message in str(error.value)


def test_a_linked_volume_is_refused(make_shard):
    other, path = make_shard("other", make_volume()), make_shard("north", make_volume())
    with h5py.File(path, "r+") as file:
        file["b_1"] = h5py.ExternalLink(str(other), "/a_1")
    with pytest.raises(InputError, match="'b_1' is an external link"):
        Shard.open(path)


def test_groups_in_a_circle_end(make_shard):
    path = make_shard("north", make_volume())
    with h5py.File(path, "r+") as file:
        file["a_1/again"] = file["a_1"]
    assert Shard.open(path).volumes[0].name == "a_1"


def test_what_hdf5_may_hold_beside_plain_arrays_stays_allowed(tmp_path):
    path = tmp_path / "p1.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["kspace"] = make_kspace()[:, 0]
        file["nothing"] = file.attrs["nothing"] = h5py.Empty("f4")
        file["no row"] = np.zeros((0, 3))
        file["text"], file["texts"] = "text", np.array(["one", "two"], object)
        file["type"] = np.dtype("f8")
        file.create_dataset("chunks", data=np.ones((33, 7)), chunks=(8, 4))
        file.create_dataset("filters", data=np.ones((33, 7)), chunks=(8, 4), shuffle=True, fletcher32=True)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((5,))
        h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_INT32, space, compact)
    import_data("fastmri", [path], "s", tmp_path / "out")


def test_compressed_and_small_shards_stay_allowed(tmp_path):
    write_shard(tmp_path / "s.h5", "s", [make_volume()], simulated=True, phase="none", compression="gzip")
    Shard.open(tmp_path / "s.h5").verify()


PLACES = {
    "site": lambda file, name: file.attrs.__setitem__("site", name),
    "contrast": lambda file, name: file.attrs.__setitem__("contrast", name),
    "subject": lambda file, name: file["a_1"].attrs.__setitem__("patient_id", name),
    "volume": lambda file, name: file.move("a_1", name.replace("/", "\\")),
}


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("name", ["../../x", "..", "a\nb", ".hidden", "x" * 201 + "/"])
def test_names_are_checked_where_a_shard_is_read(kind, name, make_shard):
    path = make_shard("north", make_volume())
    with h5py.File(path, "r+") as file:
        if kind == "volume" and name == "..":
            name = "..."
        PLACES[kind](file, name)
    with pytest.raises(InputError, match=f"north.h5: {kind} "):
        Shard.open(path)


def test_names_of_a_shard_on_another_node_are_checked(make_shard):
    shard = Shard.open(make_shard("north", make_volume()))
    with pytest.raises(InputError, match=r"site '\.\./x'"):
        dataclasses.replace(shard, site="../x")


def test_no_site_has_the_name_of_the_mean_over_sites(make_shard, tmp_path):
    """In a table of scores by site its row would be that of the mean. Other things may have this name."""
    said = r"site 'mean': a site may not have the name of the mean over all sites\."
    with pytest.raises(InputError, match=said):
        make_shard("mean")
    with pytest.raises(InputError, match=said):
        simulate(tmp_path / "out", sites=["mean:t1w"])
    with pytest.raises(InputError, match=said):
        Experiment.read({"sites": {"mean": "x.h5", "north": "y.h5"}, "reconstructor": "zero_filled"})
    for name in LABELS:
        with pytest.raises(InputError, match=f"site '{name}': a site may not have the name of {LABELS[name]}"):
            Experiment.read({"sites": {name: "x.h5"}, "reconstructor": "zero_filled"})
    path = make_shard("north", make_volume("mean", "mean", "test"))
    assert [(one.name, one.subject) for one in Shard.open(path).volumes] == [("mean", "mean")]
    with h5py.File(path, "r+") as file:
        file.attrs["site"] = "mean"
    with pytest.raises(InputError, match=f"north.h5: {said}"):
        Shard.open(path)


@pytest.mark.parametrize("contrast", ["T2 FLAIR", "Überlagert (T1)", "t1w"])
def test_a_contrast_may_hold_blanks(contrast, make_shard):
    assert Shard.open(make_shard("north", make_volume(), contrast=contrast)).contrast == contrast


def test_the_writer_refuses_a_contrast_that_nobody_could_read(make_shard):
    with pytest.raises(InputError, match=r"contrast '\.\./x'"):
        make_shard("north", make_volume(), contrast="../x")
