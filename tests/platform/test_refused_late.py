"""What only another node, or only the last step, can see is refused too."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from cases import federation
from tiny import make_volume, write_consortium

from fedrecon.platform.consortium.network import check_part
from fedrecon.platform.execution import remote_shards
from fedrecon.platform.inference import reconstruct, remote_scoring
from fedrecon.sites.errors import InputError, RunError
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.wire import PrivatePart, RemoteScores, ScoreTask, ShardLabels


@pytest.mark.slow
def test_a_shard_on_another_node_is_compared_with_its_seals_there(tmp_path, monkeypatch):
    """Without Ray: the node's answer is made in this process."""
    paths = {name: str(path) for name, path in write_consortium(tmp_path).items()}
    monkeypatch.setattr(remote_shards, "connected", lambda address: nullcontext())
    ask = lambda function, questions, subject: {site: function(*given) for site, given in questions.items()}  # noqa: E731
    monkeypatch.setattr(remote_shards, "ask_sites", ask)
    found = remote_shards.remote_shards(paths, "there")
    assert found["north"].attributes_hash
    for change in (
        lambda file: file.attrs.__setitem__("origin", "scanner"),
        lambda file: file["north-train/kspace"].__setitem__(0, 1),
    ):
        with h5py.File(paths["north"], "r+") as file:
            change(file)
        with pytest.raises(InputError, match=r"site 'north', on its own node: .*fedrecon data seal"):
            remote_shards.remote_shards(paths, "there")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_not_written(value, monkeypatch):
    image = np.ones((2, 32, 32), np.float32)
    image[1, 3, 4] = value
    images = {"output": image, "zero_filled": np.ones_like(image)}
    monkeypatch.setattr(reconstruct, "batches", lambda *_: iter(()))
    monkeypatch.setattr(reconstruct, "_reconstructed", lambda *_: iter([(images, image > 0)]))
    operator = SimpleNamespace(described=str, noise=1, boxes=lambda _: {(32, 32)})
    resources = SimpleNamespace(threads=1)
    experiment = SimpleNamespace(task="reconstruction", resources=resources, operator_at=lambda _: operator)
    trained = SimpleNamespace(experiment=experiment, images=SimpleNamespace(sites=("north",)))
    site = SimpleNamespace(plan=SimpleNamespace(reconstructor=None))
    with pytest.raises(RunError, match="'x': the reconstruction holds NaN or infinity in 1 of 2048 output"):
        reconstruct._volume(trained, site, "north", make_volume("x", "test", 2, 1, 0), False, None)


LABELS_OF_OTHERS = {
    "another site's": (lambda one: replace(one, site="south"), "answered with the name 'south'"),
    "another type": (lambda one: ScoreTask("test"), "returns ShardLabels, and returned ScoreTask"),
    "none": (lambda one: ShardLabels("north"), "labels of its shard are refused: 'path': Field required"),
    "a volume of one label": (
        lambda one: replace(one, labels={**one.labels, "volumes": [{"name": "x"}]}), "'volumes.0.subject'",
    ),
    "a text as a number": (lambda one: replace(one, labels={**one.labels, "schema_version": "x"}), "'schema_version'"),
    "a name that is a path": (lambda one: replace(one, labels={**one.labels, "site": "../x"}), "a name is made of"),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS_OF_OTHERS)
def test_labels_from_another_node_are_those_of_the_site_that_was_asked(name, consortium, monkeypatch):
    change, says = LABELS_OF_OTHERS[name]
    answer = remote_shards.labels("north", str(consortium["north"]))
    monkeypatch.setattr(remote_shards, "connected", lambda address: nullcontext())
    monkeypatch.setattr(remote_shards, "ask_sites", lambda *_: {"north": change(answer)})
    with pytest.raises(RunError, match=f"^site 'north': .*{says}"):
        remote_shards.remote_shards({"north": str(consortium["north"])}, "there")


class Asked:
    """Two sites on nodes of their own that test a network; ``rule`` of an unseen site."""

    def __init__(self, consortium, rule=None, models=("global",)):
        self.one = federation("fedavg", {name: consortium[name] for name in ("north", "south")})
        experiment = SimpleNamespace(
            evaluation=Evaluation(), classical=None, method=self.one.method, self_supervised=False
        )
        self.trained = SimpleNamespace(
            experiment=experiment, members=(), images=SimpleNamespace(sites=("north",)), state=SimpleNamespace(round=3),
            models=lambda name: models,
        )  # fmt: skip
        self.operators = {name: self.one.acquisition(name) for name in self.one.paths}
        self.unseen = SimpleNamespace(rule=rule)

    def answer(self, name, *models):
        request, executor = self.one.method.scoring_request(self.one.begin()), self.one.executor()
        splits = [
            next(each for each in executor.evaluate(request, split) if each.site == name)
            for split in ("test", "validation")
        ]
        return RemoteScores(name, tuple(named(one, model) for model in models or ("global",) for one in splits))

    def scored(self, monkeypatch, **answers):
        tasks = SimpleNamespace(result=lambda name, _: answers[name])
        monkeypatch.setattr(remote_scoring, "connected", lambda address: nullcontext())
        monkeypatch.setattr(remote_scoring, "site_tasks", lambda *_: nullcontext(tasks))
        monkeypatch.setattr(remote_scoring, "_published_parts", lambda *_: {key: {} for key in answers})
        monkeypatch.setattr(remote_scoring, "_question", lambda *_: ())
        shards = {name: self.one.shards[name] for name in answers}
        return remote_scoring.scored_remotely(self, shards, SimpleNamespace(max_restarts=0), None)


def named(scores, model):
    return replace(scores, columns={**scores.columns, "model": (model,) * len(scores.columns["model"])})


def test_scores_from_another_node_are_those_of_the_site_that_was_asked(consortium, monkeypatch):
    test = Asked(consortium)
    north, south = test.answer("north"), test.answer("south")
    found = test.scored(monkeypatch, north=north, south=south)
    assert [(set(one["site"]), set(one["split"])) for one in found] == [
        ({site}, {split}) for site in ("north", "south") for split in ("test", "validation")
    ]
    for wrong, says in (
        (north, "answered with the name 'north'"),
        (ScoreTask("test"), "returns RemoteScores, and returned ScoreTask"),
        (replace(south, scores=()), r"scored \[\] instead of"),
        (replace(south, scores=south.scores[:1] * 2), "scored .* instead of"),
        (replace(south, scores=north.scores), "scored .*'north', 'test'"),
        (test.answer("south", "north"), "model = 'north'"),
    ):
        with pytest.raises(RunError, match=f"^site 'south'.*{says}"):
            test.scored(monkeypatch, north=north, south=wrong)


def test_each_network_scores_once_and_one_that_a_rule_chose_has_any_name(consortium, monkeypatch):
    two = Asked(consortium, models=("a", "b"))
    assert len(two.scored(monkeypatch, south=two.answer("south", "a", "b"))) == 4
    with pytest.raises(RunError, match=r"site 'south', round 3: .*model = 'a'"):
        two.scored(monkeypatch, south=two.answer("south", "a", "a"))
    ruled = Asked(consortium, rule="nearest")
    assert len(ruled.scored(monkeypatch, south=ruled.answer("south", "nearest: north"))) == 2
    (test, validation) = ruled.answer("south", "nearest: north").scores
    mixed = {**test.columns, "model": ("nearest: north", *("global",) * (len(test.columns["model"]) - 1))}
    with pytest.raises(RunError, match=r"site 'south', round 3: .*model = 'global, nearest: north'"):
        ruled.scored(monkeypatch, south=RemoteScores("south", (replace(test, columns=mixed), validation)))


def test_a_private_part_is_one_of_the_network_and_of_the_round(consortium, monkeypatch):
    one = federation("fedper", consortium)
    values = np.zeros(len(one.layout.private), np.float32)
    part = PrivatePart("north", 3, one.layout.named(values, shared=False))
    assert check_part(part, one.layout) is part
    first = next(iter(part.parameters))
    for wrong, says in (
        ({}, "another network"),
        ({**part.parameters, "x": np.zeros(1, np.float32)}, "another network"),
        ({**part.parameters, first: np.zeros((1, 1, 1, 1, 1), np.float32)}, "shape"),
        ({**part.parameters, first: np.full_like(part.parameters[first], np.nan)}, "NaN or infinity"),
    ):
        with pytest.raises(RunError, match=f"^site 'north': its private part is refused: .*{says}"):
            check_part(replace(part, parameters=wrong), one.layout)
    trained = SimpleNamespace(request=SimpleNamespace(round=4), experiment=None, images=None)
    monkeypatch.setattr(remote_scoring, "layout_for", lambda *_: one.layout)
    assert remote_scoring._checked_part(trained, "north", replace(part, round=4)).round == 4
    with pytest.raises(RunError, match="round 3, not 4"):
        remote_scoring._checked_part(trained, "north", part)
    with pytest.raises(RunError, match=r"site 'south': .*answered with the name 'north'"):
        remote_scoring._checked_part(trained, "south", replace(part, round=4))
