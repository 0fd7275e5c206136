"""The wall: what crosses it is of the list, recorded and consented to; no name and no private part gets through."""

import json
import re
import traceback
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clusters import local_cluster
from hospitals import PERSON, hospital
from plain_pictures import plain_pictures
from safetensors.numpy import load_file
from test_training_run import finish
from tiny import NETWORKS, PARAMETERS, UNET, make_volume

import fedrecon
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.execution import wire_log
from fedrecon.platform.execution.wire_log import WireLog, described
from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.inference.reconstruct import reconstruct
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.run import steps
from fedrecon.platform.storage.parquet import read_table
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.platform.storage.workspace import RunFolder
from fedrecon.sites.data.pseudonyms import KEY_FILE, Pseudonyms
from fedrecon.sites.data.shard import Shard, write_shard
from fedrecon.sites.errors import RunError
from fedrecon.sites.score_columns import KINDS
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.wire import MESSAGES, Description, TrainReply, TrainRequest

pytestmark = pytest.mark.slow

UNDRAWN = {"every": 2, "panels": False}
"""Drawing takes longer than all else in these runs."""


def given(paths, name="fedavg", **more):
    return {
        "sites": {site: str(path) for site, path in paths.items()},
        "strategy": {"name": name, **PARAMETERS.get(name, {})},
        "network": NETWORKS.get(name, UNET),
        "training": {"rounds": 2, "batch_size": 2, "learning_rate": 0.01},
        "evaluation": UNDRAWN,
        **more,
    }


def crossed(workspace, result):
    """The rows of a run's ``wire.parquet``."""
    columns = read_table(run_store(None, workspace).local_artifact(result.run_id, "wire.parquet"))
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture
def undrawn():
    """No pixel of a picture is looked at here."""
    with plain_pictures():
        yield


def test_what_a_message_holds_and_its_hash_by_hand():
    reply = TrainReply("a", 3, 7, np.arange(3, dtype=np.float32), {"change": np.ones(2, np.float32)}, {"loss": 0.5})
    row = described(reply)
    assert row["type"] == "TrainReply"
    shapes = dict(zip(row["names"], row["shapes"], strict=True))
    assert (shapes["shared"], shapes["extra/change"], shapes["losses"]) == ("3", "2", "")
    other = TrainReply("a", 3, 7, np.arange(3, dtype=np.float32) + 1, {"change": np.ones(2, np.float32)}, {"loss": 0.5})
    assert described(reply)["hash"] == row["hash"] != described(other)["hash"]


def test_the_record_keeps_every_message_at_once_and_survives_a_torn_line(tmp_path):
    path = tmp_path / "wire.jsonl"
    log = WireLog(path)
    for number in (1, 2, 3):
        log.sent(("north",), (TrainRequest(number, np.zeros(2, np.float32)),))
        assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == list(range(1, number + 1))
    with path.open("a") as file:
        file.write('{"round": 3, "si')

    again = WireLog(path, 2)  # round 3 was not committed: its messages left, and leave once more
    again.sent(("north",), (TrainRequest(3, np.zeros(2, np.float32)),))

    assert [row["round"] for row in again.rows] == [1, 2, 3, 3]
    assert WireLog(path).rows == again.rows


@pytest.fixture(scope="module")
def pool():
    """The actors of the first test on Ray, for the next one: a process that imports torch is four CPU-seconds."""
    from fedrecon.platform.execution.site_actor import ActorPool

    with local_cluster(num_cpus=2):
        pool = ActorPool()
        yield pool
        pool.close()


def run_in(workspace, described_as, executor, pool):
    """As ``fedrecon.run`` does it, with the actors of a pool."""
    context = RunContext(workspace, executor, pool=pool)
    return finish(steps(Experiment.read({**described_as, "resources": {"cpus_per_site": 0.5}}), context))[1]


@pytest.mark.ray
def test_on_ray_the_record_is_the_same(consortium, mlflow_template, tmp_path, pool):
    found = {}
    pair = {"ward": consortium["north"], "middle": consortium["middle"]}
    for where in ("in-process", "actors"):
        place = tmp_path / where
        place.mkdir()
        (place / "mlflow.db").write_bytes((mlflow_template / "mlflow.db").read_bytes())
        told = given(pair, "fedper", evaluation={"every": 2, "panels": True}, publish_private="all")
        result = run_in(place, told, where, pool)
        found[where] = list(crossed(place, result))
    keys = ("round", "site", "direction", "type", "names", "shapes", "hash")

    def exact(rows):  # seconds and process ids differ
        same = [row for row in rows if row["type"] in ("TrainRequest", "ScoreTask", "PanelTask", "PrivatePart")]
        return sorted([row[key] for key in keys] for row in same)

    assert exact(found["actors"]) == exact(found["in-process"])
    assert {"PanelTask", "PrivatePart"} <= {row["type"] for row in found["actors"]}
    # The executor of actors asks for descriptions once more, to see that every shard opens.
    kinds = {
        where: sorted((row["site"], row["type"]) for row in rows if row["type"] != "Description")
        for where, rows in found.items()
    }
    assert kinds["actors"] == kinds["in-process"]


def test_an_actor_answers_no_other_method(consortium, monkeypatch):
    """In this process: what an actor does with a call is its own, and Ray only brings the answer."""
    import ray

    from fedrecon.platform.execution.site_actor import SiteActor, Tenancy

    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    actor, tenancy = SiteActor(), Tenancy("one", _plan(consortium))
    for method in ("slices", "adopt", "_private", "load", "__init__"):
        with pytest.raises(RunError, match="unknown method of a site"):
            actor.call(tenancy, (), method)


def test_the_text_of_a_librarys_error_stays_where_the_actor_is(consortium, monkeypatch, tmp_path):
    import ray

    from fedrecon.platform.execution.site_actor import SiteActor, Tenancy
    from fedrecon.sites.member.site import Site

    def broken(self):
        raise ValueError(f"not positive: [{1 / 8:.3f}]")

    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "node"))
    monkeypatch.setattr(Site, "describe", broken)
    plan = replace(_plan(consortium), memory=str(tmp_path / "north"))
    with pytest.raises(RunError) as error:
        SiteActor().call(Tenancy("one", plan), (), "describe")
    assert "0.125" not in "".join(traceback.format_exception(error.value))
    assert "[0.125]" in (tmp_path / "north" / "errors.log").read_text()


def _plan(consortium):
    from fedrecon.platform.consortium.network import images, site_plan

    experiment = Experiment.read(given(consortium))
    shards = {"north": Shard.open(consortium["north"])}
    operators = {"north": experiment.operator_at("north")}
    return site_plan(experiment, images(shards), "north", {"north": str(consortium["north"])}, operators)


def test_the_page_names_all_types_all_columns_of_scores_and_all_of_a_description():
    page = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
    assert [name for name in [*(one.__name__ for one in MESSAGES), *KINDS] if f"`{name}`" not in page] == []
    described = next(line for line in page.splitlines() if line.startswith("| `Description`"))
    words = {"pid": "process id", "shards": "content hash", "gpus": "GPU", "instruction_set": "instruction set"}
    told = [words.get(one.name, one.name) for one in fields(Description) if one.name != "site"]
    assert [word for word in told if word not in described] == []


# --- consent ---


def private_files(workspace, result):
    root = run_store(None, workspace).local_artifact(result.run_id, "weights.safetensors").parent
    return sorted(path.name for path in root.rglob("private/*"))


def test_consent_publishes_those_who_gave_it_and_asking_again_adds_others(consortium, workspace):
    def asked(consent):
        described_as = given(consortium, "fedper", seed=2, publish_private=consent)
        return fedrecon.run(described_as, workspace=workspace, in_process=True)

    one = asked(["north"])
    assert private_files(workspace, one) == ["north.safetensors"]
    lines = RunFolder(workspace, one.digest).path / "wire.jsonl"
    parts = [row["site"] for row in crossed(workspace, one) if row["type"] == "PrivatePart"]
    assert parts == ["north"]
    again = asked("all")
    assert (again.run_id, again.trained_rounds) == (one.run_id, 0)
    assert private_files(workspace, one) == [f"{site}.safetensors" for site in ("middle", "north", "south")]
    assert RunFolder(workspace, one.digest).published() == ["middle", "north", "south"]
    later = [row["site"] for row in WireLog(lines).rows if row["type"] == "PrivatePart"][1:]
    assert {"middle", "south"} <= {*later}  # what is published later is in the record
    folder = RunFolder(workspace, one.digest)
    for consent, noted in ((["south"], ["south"]), ([], []), (["north"], ["north"])):  # the newest one holds
        asked(consent)
        assert folder.noted()["experiment"]["publish_private"] == noted


# --- pictures ---


def test_auto_draws_phantoms_alone_and_the_digest_does_not_move():
    auto, always, never = (Evaluation(panels=one) for one in ("auto", True, False))
    assert [one.draws("phantom") for one in (auto, always, never)] == [True, True, False]
    assert [one.draws("") for one in (auto, always, never)] == [False, True, False]
    assert Evaluation() == auto
    assert auto.science() == always.science() != never.science()
    assert auto.science()["panels"] is True


def patients_and_phantom(folder):
    paths = {}
    for seed, (site, origin) in enumerate((("patients", {}), ("phantom", {"origin": "phantom"}))):
        splits = ("train", "validation", "test")
        volumes = [make_volume(f"{site}-{split}", split, 2, 1, 3 * seed + k) for k, split in enumerate(splits)]
        paths[site] = folder / f"{site}.h5"
        write_shard(paths[site], site, volumes, simulated=True, phase="smooth", **origin)
    return paths


@pytest.mark.usefixtures("undrawn")
def test_a_finished_run_that_is_asked_again_notes_the_narrower_consent_to_pictures(tmp_path, workspace, capsys):
    paths = patients_and_phantom(tmp_path)

    def asked(panels):
        alone = {"evaluation": {"every": 1, "panels": panels}, "training": {"rounds": 1}}
        result = fedrecon.run(given(paths, **alone), workspace=workspace, in_process=True)
        return result.digest, RunFolder(workspace, result.digest).noted()["experiment"]["evaluation"]["panels"]

    assert [asked(panels)[1] for panels in (True, True, "auto", True)] == [True, True, "auto", "auto"]
    digest, _ = asked("auto")
    for overrides, drawn in (([], ["phantom"]), (["evaluation.panels=true"], ["patients", "phantom"])):
        capsys.readouterr()
        found = evaluate(digest, overrides, workspace=workspace)["pictures"]
        assert sorted(Path(path).name.split("-")[0] for path in found) == drawn
        assert f"pictures of {', '.join(drawn)} leave" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("panels", "drawn"), [("auto", ["phantom"]), (True, ["patients", "phantom"]), (False, [])])
def test_pictures_of_patients_leave_only_where_the_key_says_so(panels, drawn, tmp_path, mlflow_template, capsys):
    (tmp_path / "mlflow.db").write_bytes((mlflow_template / "mlflow.db").read_bytes())
    paths = patients_and_phantom(tmp_path)
    alone = {"evaluation": {"every": 1, "panels": panels}, "training": {"rounds": 1}}
    result = fedrecon.run(given(paths, **alone), workspace=tmp_path, in_process=True)
    said = capsys.readouterr().err
    assert f"(evaluation.panels: {str(panels).lower()})" in said
    assert (f"pictures of {', '.join(drawn)} leave" in said) if drawn else ("no picture leaves" in said)
    folder = RunFolder(tmp_path, result.digest).path / "panels"
    assert sorted(path.stem for path in folder.glob("*.png")) == drawn
    rows = [row for row in crossed(tmp_path, result) if row["type"] == "Panels"]
    assert {row["site"] for row in rows if any(name.startswith("pictures/") for name in row["names"])} == set(drawn)


# --- names of people ---


def everything_written(*folders):
    """Content and names of all files under the folders."""
    for folder in folders:
        for path in folder.rglob("*"):
            yield str(path.relative_to(folder)).encode()
            if path.is_file():
                yield path.read_bytes()


@pytest.mark.ray
def test_neither_a_name_of_a_file_nor_a_private_part_is_found_anywhere(tmp_path, mlflow_template, capfd, pool):
    """After a run, an evaluation, a reconstruction, a sweep and a study: workspace, MLflow, logs, Ray's session.

    The site's own folder holds its private memory, and the folder of the shards holds the key: nothing else does.
    """
    path = hospital(tmp_path / "in", tmp_path / "out")
    place = tmp_path / "workspace"
    place.mkdir()
    (place / "mlflow.db").write_bytes((mlflow_template / "mlflow.db").read_bytes())
    key = (tmp_path / "out" / KEY_FILE).read_text().strip()
    base = given({"ward": path}, "fedper", evaluation={"every": 2, "panels": True})
    with local_cluster(num_cpus=2):
        import ray

        session = Path(ray._private.worker._global_node.get_session_dir_path())
        run = run_in(place, base, "actors", pool)
        pool.close()  # an idle actor would hold what the trial needs
        evaluate(run.digest, accelerations=[2], workspace=place)
        reconstruct(run.digest, path, tmp_path / "images.h5", site="ward", workspace=place)
        zero = {**base, "reconstructor": "zero_filled"}
        fedrecon.sweep(zero, {"operator.acceleration": {"grid": [2]}}, name="one", workspace=place)
        apart = {**base, "resources": {"crew": "in-process"}}  # sites in actors and in trials are seen, each once
        study = {"name": "s", "experiment": apart, "methods": {"z": {"reconstructor": "zero_filled"}}}
        fedrecon.study(study, workspace=place)
        logs = list(everything_written(session))
    out, err = capfd.readouterr()
    texts = [*everything_written(place, tmp_path / "out"), *logs, out.encode(), err.encode()]
    texts.append((tmp_path / "images.h5").read_bytes())
    assert len(texts) > 50
    for secret in (PERSON, "Hildegard", "_scan"):
        assert not any(secret.encode() in text for text in texts)
    own_key = [text for text in texts if key.encode() in text]
    assert own_key == [(tmp_path / "out" / KEY_FILE).read_bytes()]
    pseudonym = Pseudonyms.of(tmp_path / "out" / KEY_FILE).subject("c")
    own = RunFolder(place, run.digest).memory("ward")
    kept = load_file(sorted(own.glob("round-*.safetensors"))[-1])["parameters"].tobytes()
    assert len(kept) >= 24
    others = [path for path in place.rglob("*") if path.is_file() and own not in path.parents]
    assert not any(kept[:24] in content for content in (*(path.read_bytes() for path in others), *logs))
    scores = read_table(run_store(None, place).local_artifact(run.run_id, "scores.parquet"))
    assert set(scores["subject"]) == {pseudonym}


def test_shards_without_a_key_are_named_at_the_start(consortium, workspace, capsys):
    fedrecon.run(given(consortium, seed=3), workspace=workspace, in_process=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "subjects" in line]
    assert any(set(consortium) <= set(re.findall(r"\w+", line)) for line in lines)


def test_no_name_of_another_site_goes_to_a_site(consortium):
    """What goes down holds no subject at all."""
    plan = _plan(consortium)
    subjects = {subject for path in consortium.values() for subject in Shard.open(path).subjects}
    assert not any(subject in repr(plan) for subject in subjects)


def test_a_request_to_many_sites_is_hashed_once_and_noted_for_each(monkeypatch):
    real, read = wire_log._content, []
    monkeypatch.setattr(wire_log, "_content", lambda value: read.append(type(value)) or real(value))
    log, request = WireLog(), TrainRequest(1, np.arange(3, dtype=np.float32))

    for site in ("north", "south"):
        log.sent((site,), (request,))
    log.sent(("north",), (TrainRequest(2, np.ones(3, np.float32)),))

    assert read.count(np.ndarray) == 2
    assert [(row["round"], row["site"]) for row in log.rows] == [(1, "north"), (1, "south"), (2, "north")]
    assert log.rows[0]["hash"] == log.rows[1]["hash"] != log.rows[2]["hash"]
