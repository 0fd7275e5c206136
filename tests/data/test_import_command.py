"""The command of the import: options from the formats' fields, lists that are not cut, and files of any kind."""

import os
import pickle
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import h5py
import numpy as np
import pytest
from command_line import Called
from pydantic import Field
from small_volumes import make_kspace, make_volume

from fedrecon.platform.execution.remote_shards import labels
from fedrecon.platform.inference.reconstruct import reconstruct
from fedrecon.sites.data.seal import seal
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import FileError, FilesError, InputError
from fedrecon.sites.formats import FORMATS, Format
from fedrecon.sites.formats.importing import import_data


def write(folder: Path, *names: str) -> list[Path]:
    """Good files of raw k-space or of the fastMRI layout, by suffix; each has its own image."""
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        kspace = make_kspace(2, 2, 16, 16, number)
        if path.suffix == ".npy":
            np.save(path, kspace)
        else:
            with h5py.File(path, "w") as file:
                file["kspace"] = kspace
    return paths


@pytest.fixture
def call(capsys):
    return lambda *arguments: Called(capsys, "data", "import", *arguments)


class Series(Format):
    """A format that groups files by folder.

    Attributes:
        mode: what it
            does.
        zero: values.
    """

    mode: Literal["fast", "slow"] | int = "fast"
    zero: tuple[Literal["nan", "negative"], ...] = ()
    frame: Annotated[int | None, Field(alias="volume", ge=0, description="which one")] = None
    size: int | None = None
    suffixes: ClassVar = (".npy",)
    summary: ClassVar = "series"

    def find(self, sources):
        paths, others = super().find(sources)
        return sorted({path.parent for path in paths}), others

    def files(self, source):
        return sorted(source.glob("*.npy"))

    def load(self, source, label, record):
        record.note("seen", f"{self.mode!r} {'+'.join(self.zero)} {self.frame}")
        record.slices = len(self.files(source))
        return make_volume(label.name, label.subject, label.split, slices=record.slices)


@pytest.mark.slow
def test_a_new_format_brings_its_options_and_its_way_to_find_files(call, monkeypatch, tmp_path):
    monkeypatch.setitem(FORMATS, "series", Series)
    write(tmp_path / "in", "p1/1.npy", "p1/2.npy", "p2/1.npy")
    given = ("series", tmp_path / "in", "--site", "s", "--out", tmp_path / "out", "--json")
    shown = call(*given, "--mode", "3", "--zero", "nan, negative", "--volume", "2").json
    files = {Path(one["file"]).name: (one["volume"]["n_slices"], one["notes"][0]["text"]) for one in shown["files"]}
    assert files == {"p1": (2, "3 nan+negative 2"), "p2": (1, "3 nan+negative 2")}
    for wrong, word in (("--mode", "fastt"), ("--zero", "nan,positive"), ("--volume", "-1"), ("--phase", "none")):
        refused = call(*given, "--overwrite", wrong, word)
        assert (refused.code, refused.out) == (2, "")
    text = " ".join(call("--help").out.split())
    assert all(
        word in text for word in ("--mode fast|slow|N", "what it does.", "--volume N", "which one", "nan,negative")
    )
    (tmp_path / "in" / "p2" / "1.npy").unlink()
    (tmp_path / "in" / "p2" / "1.npy").symlink_to("nowhere")
    assert f"{tmp_path}/in/p2/1.npy: " in call(*given, "--overwrite").err
    os.link(tmp_path / "in" / "p1" / "2.npy", tmp_path / "in" / "t.h5")
    with pytest.raises(InputError, match="is a source"):  # a file of a group is a source too
        import_data("series", tmp_path / "in" / "p1", "t", tmp_path / "in", overwrite=True)


def test_every_field_of_a_format_is_an_option_with_its_help(call):
    text = " ".join(call("--help").out.split())
    for kind in FORMATS.values():
        for key, field in kind.model_fields.items():
            assert f" --{(field.alias or key).replace('_', '-')} " in text


def test_the_errors_of_files_keep_their_fields():
    error = pickle.loads(pickle.dumps(FilesError([FileError(Path("in/a.npy"), "is wrong.")], "Mend it.")))
    assert [(one.path, one.reason) for one in error.refused] == [("in/a.npy", "is wrong.")]
    assert (error.advice, str(error)) == ("Mend it.", "in/a.npy: is wrong.\nMend it.")


@pytest.mark.slow
def test_a_list_of_refused_files_is_never_cut(call, tmp_path):
    paths = write(tmp_path, "good_1.npy", *(f"{number}_1.npy" for number in range(70)))
    for path in paths[1:]:
        path.write_bytes(b"")
    shown = call("npy", tmp_path, "--site", "s", "--out", tmp_path / "out", "--json")
    assert (shown.code, shown.out) == (2, "")
    assert all(f"{path}: " in shown.err for path in paths[1:])
    assert "--skip-bad" in shown.err


@pytest.mark.parametrize("name", ["fastmri", "npy"])
def test_a_pipe_and_a_closed_folder_are_refused_files(name, monkeypatch, tmp_path):
    """A pipe would be waited for, and a folder that may not be read would be passed over in silence."""
    suffix = FORMATS[name].suffixes[0]
    write(tmp_path, f"a_1{suffix}", f"b_1{suffix}", f"closed/c_1{suffix}")
    os.mkfifo(tmp_path / f"p_1{suffix}")
    real = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(FilesError) as error:
        import_data(name, tmp_path, "s", tmp_path / "out")
    assert sorted(one.path for one in error.value.refused) == [str(tmp_path / "closed"), str(tmp_path / f"p_1{suffix}")]


def test_a_folder_that_holds_its_own_shard_can_be_imported_again(tmp_path):
    write(tmp_path, "a_1.h5", "b_1.h5")
    import_data("fastmri", tmp_path, "s", tmp_path)
    again = import_data("fastmri", tmp_path, "s", tmp_path, overwrite=True)
    assert (len(again.read), again.other_files["shards of fedrecon"]) == (2, 1)


def test_a_key_where_the_shard_goes_and_a_scan_where_images_go_are_refused(tmp_path):
    scan, other = write(tmp_path, "scan.h5", "other.h5")
    before = other.read_bytes()
    with pytest.raises(InputError, match="is a source"):
        import_data("fastmri", scan, "s", tmp_path, key=tmp_path / "s.h5")
    assert not (tmp_path / "s.h5").exists()
    with pytest.raises(InputError, match="holds no reconstruction"):
        reconstruct("latest", scan, other, workspace=tmp_path / "w")
    assert other.read_bytes() == before


def test_the_folder_of_a_bids_tree_is_the_subject(tmp_path):
    names = ("sub-01/ses-1/anat/sub-01_ses-1_T1w", "sub-01/ses-2/anat/T1w", "sub-02/anat/T2w_x", "sub-03/z")
    write(tmp_path, *(f"{name}.npy" for name in names))
    summary = import_data("npy", tmp_path, "s", tmp_path / "out", dry_run=True)
    assert summary.splits == {"train": ["sub-01"], "validation": ["sub-02"], "test": ["sub-03"]}
    one = import_data("npy", tmp_path / "sub-02", "s", tmp_path / "out", dry_run=True)
    assert one.splits["test"] == ["sub-02"]  # as when others are imported with it


def test_a_shard_keeps_no_suffix_that_may_be_a_name(tmp_path):
    """Who imports sees them all."""
    write(tmp_path / "in", *(f"{name}_1.npy" for name in "abc"))
    foreign = ("report.mueller 1961-04-02", "scan.meier^erika", "x.txt", "x.nii.gz", "x.erika.gz", "readme")
    for name in foreign:
        (tmp_path / "in" / name).touch()
    summary = import_data("npy", tmp_path / "in", "s", tmp_path / "out")
    shown = summary.as_dict()["other_files"]
    assert {".mueller 1961-04-02", ".meier^erika", ".erika.gz"} < {*shown}
    assert Shard.open(summary.path).imported["other_files"] == {".txt": 1, ".nii.gz": 1, "": 1, "other": 3}


def test_what_an_import_did_stays_at_the_site(tmp_path):
    """And any other attribute that somebody wrote into the file."""
    summary = import_data("npy", write(tmp_path, "a_1.npy"), "s", tmp_path / "out")
    assert summary.kept()
    with h5py.File(summary.path, "r+") as file:
        file.attrs["operator_name"] = "Dr. House"
        stored = {*file.attrs}
    seal(summary.path)
    sent = labels("s", str(summary.path)).labels
    assert {"import_summary", "operator_name", "pseudonym_key"} <= stored
    assert set(sent["attributes"]) == {"pseudonym_key"}
    assert set(sent) == {  # docs/privacy.md lists them
        *("path", "site", "contrast", "field_strength_t", "voxel_mm", "simulated", "phase", "content_hash"),
        *("schema_version", "volumes", "attributes", "attributes_hash"),
    }
