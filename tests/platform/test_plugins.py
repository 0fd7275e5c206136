"""Plug-ins without a fork: what travels, what is in the digest, whose names they are, and what is refused."""

import importlib
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import Called
from examples import EXAMPLES, extended, write_examples

import fedrecon
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.plugins import registry
from fedrecon.platform.consortium.network import images, site_plan
from fedrecon.platform.consortium.shards import open_sites
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.data.shard import Shard
from fedrecon.sites.errors import InputError
from fedrecon.sites.extension import registry as lookup
from fedrecon.sites.extension import text_modules
from fedrecon.sites.extension.plugin_file import PluginFile

CONTENTS = {"a": "content-a"}

MASK = """
from fedrecon.sites.imaging.masks.random import Random

class Mine(Random):
    "A mask."
    width: int = {width}

MASKS = {{"mine": Mine}}
"""


def masked(folder: Path, text: str = MASK.format(width=1), name: str = "mine.py") -> Experiment:
    (folder / name).write_text(text)
    given = {"plugins": [str(folder / name)], "sites": "data", "operator": {"mask": "mine", "acceleration": 4}}
    return Experiment.read(given)


def test_the_examples_are_short():
    assert set(EXAMPLES) == {"half.py", "median.py", "tiny.py", "falling.py", "npz.py"}
    assert all(sum(1 for line in text.splitlines() if line.strip()) <= 20 for text in EXAMPLES.values())


@pytest.fixture(scope="module")
def pair(consortium):
    """The sites of what is trained here: each is a process of its own on Ray."""
    return {name: consortium[name] for name in ("north", "middle")}


@pytest.fixture(scope="module")
def finished(pair, mlflow_template, tmp_path_factory):
    """A run of the three examples, from an experiment's file; all files are gone when it has finished."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copy(mlflow_template / "mlflow.db", folder / "mlflow.db")
    (source := folder / "source").mkdir()
    write_examples(source)
    (source / "experiment.yaml").write_text(yaml.safe_dump(extended(pair, list(EXAMPLES))))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        result = fedrecon.run(source / "experiment.yaml", workspace=folder, in_process=True)
        shutil.rmtree(source)
        yield folder, result


@pytest.mark.slow
def test_a_run_keeps_its_plug_ins_and_is_evaluated_when_the_files_are_gone(finished, consortium, tmp_path):
    workspace, result = finished
    rows = fedrecon.evaluate(result.digest, workspace=workspace)["rows"]
    assert {row["site"]: (row["mask"], row["psnr"]) for row in rows} == {
        site: ("falling", pytest.approx(one["psnr"], abs=1e-9)) for site, one in result.sites.items()
    }
    done = fedrecon.reconstruct(result.digest, consortium["north"], tmp_path / "out.h5", workspace=workspace)
    assert done["volumes"]
    kept = RunFolder(workspace, result.digest).path / "plugins"
    assert {path.name: path.read_text() for path in kept.rglob("*.py")} == EXAMPLES


@pytest.mark.slow
def test_the_record_of_a_run_names_the_files_and_their_hashes(finished):
    workspace, result = finished
    noted = RunFolder(workspace, result.digest).noted()
    experiment = Experiment.read(noted["experiment"])
    shown = experiment.flat()["plugins"]
    assert all(f"{one.file} ({one.digest[:16]})" in shown for one in experiment.plugins)
    assert len(shown) < 200, "no source text among the parameters of MLflow"
    assert "plugins" not in Experiment.read({"sites": "data"}).flat()
    assert set(noted["code"]) >= {"strategies/fedavg.py", "sites/imaging/masks/mask.py"}


@pytest.mark.slow
def test_the_same_text_is_the_same_run_and_an_edit_is_another(finished, pair, tmp_path):
    workspace, result = finished
    given = extended(pair, write_examples(tmp_path))
    assert fedrecon.run(given, workspace=workspace, in_process=True).run_id == result.run_id
    (tmp_path / "half.py").write_text(EXAMPLES["half.py"] + "# edited\n")
    shards = {name: shard.content_hash for name, shard in open_sites(given["sites"]).items()}
    edited = Experiment.read(given)
    assert edited.digest(shards) != result.digest
    assert edited.training_digest(shards) != result.training_digest


@pytest.mark.slow
@pytest.mark.parametrize("part", ["half.py", "tiny.py", "falling.py"])
def test_every_plug_in_that_is_used_is_in_both_digests(part, consortium, tmp_path):
    before = Experiment.read(extended(consortium, write_examples(tmp_path)))
    (tmp_path / part).write_text(EXAMPLES[part] + "\n")
    after = Experiment.read(extended(consortium, [str(tmp_path / name) for name in EXAMPLES]))
    assert after.digest(CONTENTS) != before.digest(CONTENTS)
    assert after.training_digest(CONTENTS) != before.training_digest(CONTENTS)


def test_a_plug_in_that_is_listed_and_not_used_changes_no_digest(tmp_path):
    plain = Experiment.read({"sites": "data"})
    listed = Experiment.read({"sites": "data", "plugins": write_examples(tmp_path)})
    assert listed.digest(CONTENTS) == plain.digest(CONTENTS)


def test_an_experiment_survives_json_without_its_files(tmp_path):
    one = masked(tmp_path)
    (tmp_path / "mine.py").unlink()
    again = Experiment.read(json.loads(json.dumps(one.as_dict())))
    assert again == one
    assert again.digest(CONTENTS) == one.digest(CONTENTS)


def test_two_experiments_of_one_process_do_not_mix(tmp_path):
    one = masked(tmp_path)
    other = masked(tmp_path, MASK.format(width=2))
    assert [each.operator_at("").plugin.width for each in (one, other, one)] == [1, 2, 1]
    assert one.operator_at("").science() != other.operator_at("").science()
    assert [each.operator_at("").family for each in (one, other)] == ["mine", "mine"]
    with pytest.raises(InputError, match="unknown mask 'mine'"):
        Experiment.read({"sites": "data", "operator": {"mask": "mine", "acceleration": 4}})


@pytest.mark.slow
def test_a_plan_brings_its_plug_ins_to_a_process_that_never_saw_them(consortium, tmp_path):
    one = Experiment.read(extended(consortium, write_examples(tmp_path)))
    shards = {name: Shard.open(path) for name, path in consortium.items()}
    plan = site_plan(one, images(shards), "north", {}, {"north": one.operator_at("north")})
    packed = pickle.dumps(plan)
    before = {name: module for name, module in sys.modules.items() if name.startswith(text_modules.PREFIX)}
    for name in before:
        del sys.modules[name]
    text_modules._SOURCES.clear()
    try:
        found = pickle.loads(packed)
        assert (found.method.part, found.operators["north"].family) == (0.5, "falling")
        assert type(found.method) is not type(one.method)
        assert found.network.build(found.images).first.out_channels == 4
    finally:
        sys.modules.update(before)


# --- what a plug-in imports ---


def test_what_it_imports_from_beside_it_travels_and_is_in_the_digest(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "widths.py").write_text("from .deep import one\nWIDTH = one + 4\n")
    (tmp_path / "tools" / "deep.py").write_text("import helper\none = helper.one\n")
    (tmp_path / "helper.py").write_text("one = 1\n")
    (tmp_path / "late.py").write_text("LATE = 7\n")
    text = (
        MASK.format(width="tools.widths.WIDTH")
        + "\n    def late(self):\n        from late import LATE as x\n        return x\n"
    )
    text = "import tools.widths\n" + text.replace('\nMASKS = {"mine": Mine}\n', "") + '\nMASKS = {"mine": Mine}\n'
    one = masked(tmp_path, text)
    (file,) = one.plugins
    assert set(file.sources) == {"mine.py", "tools/widths.py", "tools/deep.py", "helper.py", "late.py"}
    (tmp_path / "late.py").unlink()
    assert (one.operator_at("").plugin.width, one.operator_at("").plugin.late()) == (5, 7)
    assert not {"helper", "tools", "late"} & sys.modules.keys()
    (tmp_path / "late.py").write_text("LATE = 8\n")
    assert masked(tmp_path, text).digest(CONTENTS) != one.digest(CONTENTS)


def cited(paper: str) -> str:
    """A mask that cites its work like this."""
    return MASK.format(width=1).replace("width: int = 1", f'paper = "{paper}"')


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import nowhere", r"line 1: imports 'nowhere'.*neither"),
        ("def f():\n    from nowhere.at import all", r"line 2: imports 'nowhere\.at'"),
        ("from . import nowhere", r"imports 'nowhere', which is not beside"),
        ("from .. import above", "goes above"),
        ("import importlib as i\ni.import_module('helper')", "line 2: no digest sees what this call loads"),
        ("import command_line", r"imports 'command_line'.*command_line\.py.*other nodes would not"),
        ("try:\n    import command_line\nexcept ImportError:\n    pass", "other nodes would not"),
        ("def f(:", r"line 1: not valid Python"),
        ("x = __file__", r"line 1 of mine\.py: NameError.*__file__"),
        ("raise RuntimeError('soon')", r"cannot be imported, line 1 of mine\.py: RuntimeError: soon"),
        ("x = 1", r"adds nothing.*STRATEGIES"),
        ("MASKS = [1]", "MASKS is no dict"),
        ("class A:\n    pass\nMASKS = {'a': A}", r"masks 'a'.*subclass of Mask"),
        ("class A:\n    pass\nNETWORKS = {'a': A}", r"networks 'a' is a class; write \"a\": entry\(A, \.\.\.\)"),
        (
            "from fedrecon.strategies.fedavg import FedAvg\nSTRATEGIES = {'mean': FedAvg}",
            r"\['mean'\].*a class of this plug-in",
        ),
        (
            "from fedrecon.strategies.networks.network import entry\nNETWORKS = {'a': entry('a')}",
            r"entry\(CLASS, \.\.\.\)",
        ),
        (
            EXAMPLES["tiny.py"].replace("Field(8, ge=1)", "8"),
            r"entry\(Tiny, channels=8\): a pydantic Field is needed, such as Field\(8, ge=1\)",
        ),
        (MASK.format(width=1) + 'MASKS["other"] = Mine', "one class two names"),
        (
            cited("Yin et al., ICML 2018"),
            r"mine\.py: 'mine': paper is no BibTeX entry: 'Yin et al.*@inpro",
        ),
        (cited("@article{yin, title = {Trimmed}"), r"'mine': paper is no BibTeX entry: neither a field.*yin"),
        (
            EXAMPLES["tiny.py"].replace('paper = ""', 'paper = "Mine, 2025"'),
            r"'tiny': paper is no.*'Mine, 2025'",
        ),
        (EXAMPLES["tiny.py"].replace('paper = ""', "paper = None"), r"'tiny': paper is no BibTeX entry: None"),
        (MASK.format(width=1).replace('"mine"', '"random"'), r"'random' is taken by fedrecon"),
        (MASK.format(width=1).replace('"mine"', '"a b"'), r"masks 'a b'"),
    ],
)
def test_what_is_refused(line, found, tmp_path):
    (tmp_path / "mine.py").write_text(line)
    with pytest.raises(InputError, match=found):
        Experiment.read({"plugins": [str(tmp_path / "mine.py")], "sites": "data"})


def test_modules_that_may_be_missing_and_imports_for_type_checkers_are_allowed(tmp_path):
    tried = "try:\n    import nowhere\nexcept ImportError:\n    nowhere = None\n"
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nowhere import x\n"
    assert masked(tmp_path, tried + typed + MASK.format(width=3)).operator_at("").plugin.width == 3


def test_a_name_is_taken_once_and_a_file_is_needed(tmp_path):
    (tmp_path / "a.py").write_text(MASK.format(width=1))
    (tmp_path / "b.py").write_text(MASK.format(width=2))
    with pytest.raises(InputError, match=r"b\.py: masks: the name 'mine' is taken by a\.py"):
        Experiment.read({"plugins": [str(tmp_path / "a.py"), str(tmp_path / "b.py")], "sites": "data"})
    with pytest.raises(InputError, match=r"gone\.py: no such plug-in file"):
        Experiment.read({"plugins": [str(tmp_path / "gone.py")], "sites": "data", "operator": {"mask": "mine"}})
    (tmp_path / "e.yaml").write_text("plugins: [gone.py]\nsites: data\n")
    with pytest.raises(InputError, match=r"e\.yaml: plugins: .*gone\.py: no such plug-in file"):
        Experiment.read(tmp_path / "e.yaml")
    with pytest.raises(InputError, match=r"plugins: a list"):
        Experiment.read({"plugins": "a.py", "sites": "data"})
    with pytest.raises(InputError, match="below one folder"):
        Experiment.read({"plugins": [{"file": "a.py", "sources": {"a.py": "", "../b.py": ""}}], "sites": "data"})


# --- installed packages ---

INSTALLED = """
[fedrecon.masks]
mine = outside_masks.wide:Mine
random = outside_masks.wide:Mine
broken = outside_masks.nowhere:Mine
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with entry points, as pip leaves it; ``write`` changes its code, as if the process were new."""
    info = tmp_path / "outside_masks-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-masks\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(INSTALLED)
    (tmp_path / "outside_masks").mkdir()
    (tmp_path / "outside_masks" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def forget():
        for name in [one for one in sys.modules if one.startswith("outside_masks")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        lookup._entry_points.cache_clear()
        lookup.installed.cache_clear()
        lookup.load_installed.cache_clear()

    def write(text):
        forget()
        (tmp_path / "outside_masks" / "wide.py").write_text(text)
        return {"sites": "data", "operator": {"mask": "mine", "acceleration": 4}}

    yield write
    forget()


def test_an_installed_package_adds_names_with_its_code_in_the_digest(package):
    one = Experiment.read(package(MASK.format(width=1)))
    assert (one.operator_at("").family, one.operator_at("").plugin.width) == ("mine", 1)
    first = one.digest(CONTENTS)
    assert Experiment.read(package(MASK.format(width=1))).digest(CONTENTS) == first
    assert Experiment.read(package(MASK.format(width=1) + "#")).digest(CONTENTS) != first


def test_a_taken_name_of_an_installed_package_is_refused_where_it_is_used(package, tmp_path):
    plain = package(MASK.format(width=1))
    with pytest.raises(InputError, match=r"'random' is taken: fedrecon and outside-masks 1\.2"):
        Experiment.read({"sites": "data"})
    with pytest.raises(InputError, match=r"'mine' is taken: mine\.py and outside-masks 1\.2"):
        masked(tmp_path)
    with pytest.raises(InputError, match=r"outside-masks 1\.2: masks 'broken' cannot be imported: ModuleNotFound"):
        Experiment.read({**plain, "operator": {"mask": "broken", "acceleration": 4}})


# --- the command line, the import of data, and sweeps ---


def test_an_error_in_a_plug_in_is_no_defect_of_fedrecon(consortium, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("FEDRECON_RAISE", raising=False)
    write_examples(tmp_path)
    check = "    def check(self, training):\n        training.nothing\n\n"
    moved = EXAMPLES["half.py"].replace("    def merge", f"{check}    def merge")
    (tmp_path / "half.py").write_text(moved)
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(extended(consortium, list(EXAMPLES))))
    called = Called(capsys, "run", tmp_path / "experiment.yaml", "--in-process", "--workspace", tmp_path)
    assert called.code == 1
    assert "nothing" in called.err
    assert f"line {moved.splitlines().index('        training.nothing') + 1} of half.py" in called.err
    assert "defect" not in called.err


def test_list_shows_where_each_comes_from(tmp_path, capsys):
    write_examples(tmp_path)
    found = Called(capsys, "list", "strategies", "--plugins", tmp_path / "half.py", "--json").json
    assert (found["origins"]["half"], found["origins"]["fedavg"]) == ("half.py", "fedrecon")
    assert "part=0.5" in found["strategies"]["half"]
    shown = Called(capsys, "list", "strategies", "--plugins", tmp_path / "half.py").out.splitlines()
    assert [line.split()[:2] for line in shown][-1] == ["half", "half.py"]
    assert "half" not in registry("strategies")


def test_a_format_of_one_s_own_is_imported(tmp_path, capsys):
    write_examples(tmp_path)
    image = np.ones((1, 2, 16, 16), np.complex64)
    for number in range(3):
        np.savez(tmp_path / f"s{number}.npz", kspace=image * (number + 1))
    command = ["data", "import", "npz", tmp_path, "--site", "x", "--out", tmp_path / "shards"]
    split = ["--validation-subjects", "s1", "--test-subjects", "s2", "--plugins", tmp_path / "npz.py"]
    assert Called(capsys, *command, *split).code == 0
    shard = Shard.open(tmp_path / "shards" / "x.h5")
    assert shard.site == "x"
    assert [volume.n_coils for volume in shard.volumes] == [2, 2, 2]
    assert Called(capsys, *command).code == 2


def test_a_sweep_carries_the_text_of_its_base(tmp_path):
    from fedrecon.tune.search.config import Sweep

    (tmp_path / "mine.py").write_text(MASK.format(width=1))
    base = {"plugins": ["mine.py"], "sites": "data", "operator": {"mask": "mine", "acceleration": 4}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "sweep.yaml").write_text(
        "experiment: base.yaml\nname: x\nmetric: mean/psnr\nmode: max\nsearch: {seed: {grid: [1, 2]}}\n"
    )
    _, content = Sweep.read(tmp_path / "sweep.yaml")
    (tmp_path / "mine.py").unlink()
    assert Experiment.read(content).operator_at("").plugin.width == 1


def test_a_plug_in_file_is_read_once_and_named_without_its_folder(tmp_path):
    (tmp_path / "mine.py").write_text(MASK.format(width=1))
    one = PluginFile.read(tmp_path / "mine.py")
    (other := tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "mine.py", other)
    assert PluginFile.read(other / "mine.py").digest == one.digest
    assert one.added("masks")["mine"] is PluginFile.read(other / "mine.py").added("masks")["mine"]


# --- on Ray ---


@pytest.mark.slow
@pytest.mark.ray
def test_actors_train_with_plug_ins_whose_files_are_gone_to_the_same_bits(finished, pair, tmp_path):
    from clusters import local_cluster

    workspace, result = finished
    one = Experiment.read(extended(pair, write_examples(tmp_path), resources={"crew": "actors", "cpus_per_site": 0.5}))
    for name in EXAMPLES:
        (tmp_path / name).unlink()
    shutil.copy(workspace / "mlflow.db", tmp_path / "mlflow.db")
    with local_cluster(num_cpus=2):
        there = fedrecon.run(one, workspace=tmp_path, address="auto", tracking_uri=None)
    assert (there.digest, there.sites) == (result.digest, result.sites)
