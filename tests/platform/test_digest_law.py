"""Digests stay: those of every plug-in are written down, and a key that is added later moves none of them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from fedrecon.platform.config.experiment import Experiment
from fedrecon.sites.classical import RECONSTRUCTORS
from fedrecon.sites.imaging.degradations import DEGRADATIONS
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.sites.plugin import ADDED_LATER, Plugin, Settings, science_of
from fedrecon.sites.scoring.settings import Evaluation
from fedrecon.sites.training.settings import Training
from fedrecon.strategies import STRATEGIES
from fedrecon.strategies.networks import NETWORKS

CONTENTS = {"a": "content-a", "b": "content-b"}
WRITTEN = json.loads(Path(__file__).with_name("digests.json").read_text())
"""Digest and training digest of each of :func:`experiments`. Science version 2 moved all that train, and no other.
Noise in measured samples alone moved those that add noise (the last one), and no other. The number of samples of
``poisson2d`` and the boxes of ``ssdu`` moved theirs, and the weighted variates those of ``scaffold``."""


def experiments() -> Iterator[tuple[str, dict[str, Any]]]:
    """The default experiment of every plug-in, and one that sets many keys."""
    base = {"sites": "data"}
    for name in STRATEGIES:
        yield f"strategy {name}", {**base, "strategy": {"name": name}}
    for name, entry in NETWORKS.items():
        strategy = {"name": {"prior": "fedgimp", "denoiser": "feddiff"}.get(entry.kind, "fedavg")}
        task = {"task": "super-resolution"} if entry.kind == "super-resolution" else {}
        yield f"network {name}", {**base, "strategy": strategy, **task, "network": {"name": name}}
    for name in MASKS:
        yield f"mask {name}", {**base, "operator": {"mask": name, "acceleration": 4}}
    for name in DEGRADATIONS:
        block = {"degradation": {"kind": name, "scale": 2}, "network": {"name": "mscan"}}
        yield f"degradation {name}", {**base, "task": "super-resolution", **block}
    for name, kind in RECONSTRUCTORS.items():
        task = {"task": "super-resolution"} if kind.needs_low else {}
        yield f"reconstructor {name}", {**base, **task, "reconstructor": name}
    ssdu = {"training": {"loss": "ssdu", "augment": False}, "operator": {"acceleration": 4, "fixed_mask": True}}
    yield "loss ssdu", {**base, **ssdu}
    test = {"operator": {"acceleration": 6}, "unseen": "average", "sites": {"c": "c.h5"}}
    yield "test", {**base, "test": test, "strategy": {"name": "fedper"}}
    per_site = {"a": {"acceleration": 6, "noise": 2}}
    loss = {"l1": 1, "mse": 0.5}
    yield (
        "every key",
        {
            **base,
            "training": {"local_steps": 3, "max_slices": {"a": 4}, "loss": loss, "schedule": "cosine"},
            "evaluation": {"max_slices": {"test": 2}, "every": 3},
            "operator": {"mask": "random", "acceleration": 4, "per_site": per_site},
            "seed": 3,
        },
    )


def digests(raw: dict[str, Any]) -> list[str | None]:
    one = Experiment.read(raw)
    return [one.digest(CONTENTS, {"c": "content-c"} if one.test else None), one.training_digest(CONTENTS)]


EXPERIMENTS = dict(experiments())


def test_every_plug_in_of_today_has_its_digest_written_down():
    """A new plug-in adds its line; a changed one raises the science version, on purpose."""
    assert EXPERIMENTS.keys() == WRITTEN.keys()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_digest_is_the_one_that_was_written_down(name):
    assert digests(EXPERIMENTS[name]) == WRITTEN[name]


PLUGINS = {
    "strategy": (STRATEGIES, "strategy"),
    "mask": (MASKS, "operator"),
    "degradation": (DEGRADATIONS, "degradation"),
    "reconstructor": (RECONSTRUCTORS, "reconstructor"),
}
"""By kind, the registry and the block of an experiment that takes the plug-in's parameters."""


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, (registry, _) in PLUGINS.items() for name in registry]
)
def test_a_key_that_a_plug_in_gets_later_counts_only_away_from_its_default(kind, name, monkeypatch):
    registry, block = PLUGINS[kind]

    class Invented(registry[name]):
        invented: Annotated[int, ADDED_LATER] = 3

    monkeypatch.setitem(registry, name, Invented)
    raw, written = EXPERIMENTS[f"{kind} {name}"], WRITTEN[f"{kind} {name}"]
    given = raw[block] if isinstance(raw[block], dict) else {"name": name}
    assert digests(raw) == written
    assert digests({**raw, block: {**given, "invented": 3}}) == written
    assert digests({**raw, block: {**given, "invented": 4}}) != written


@pytest.mark.parametrize("name", NETWORKS)
def test_a_key_that_a_network_gets_later_counts_only_away_from_its_default(name, monkeypatch):
    class Invented(NETWORKS[name].parameters):
        invented: Annotated[int, ADDED_LATER] = Field(3, ge=1)

    entry = NETWORKS[name]
    monkeypatch.setitem(NETWORKS, name, replace(entry, parameters=Invented))
    raw = EXPERIMENTS[f"network {name}"]
    assert digests(raw) == WRITTEN[f"network {name}"]
    assert digests({**raw, "network": {"name": name, "invented": 4}}) != WRITTEN[f"network {name}"]


@pytest.mark.parametrize("block", [Training, Evaluation])
def test_a_key_that_a_block_gets_later_counts_only_away_from_its_default(block):
    class Invented(block):
        invented: Annotated[list[int], ADDED_LATER] = Field(default_factory=list)

    assert Invented().science() == block().science()
    assert Invented(invented=[1]).science() == {**block().science(), "invented": [1]}


def test_a_later_key_inside_a_nested_block_follows_the_law_too():
    class Inner(Settings):
        first: int = 1
        invented: Annotated[int, ADDED_LATER] = 3

    class Outer(Plugin):
        inner: Inner = Inner()

    assert science_of(Outer()) == {"inner": {"first": 1}}
    assert science_of(Outer(inner=Inner(invented=4))) == {"inner": {"first": 1, "invented": 4}}


def test_passes_beside_steps_mean_nothing():
    def found(**training):
        return digests({"sites": "data", "training": training})

    assert found(local_steps=3, local_epochs=5) == found(local_steps=3) != found(local_epochs=5)
    assert Training(local_epochs=5).science()["local_epochs"] == 5


@pytest.mark.parametrize("key", ["truncation", "truncated"])
def test_what_a_network_does_at_inference_alone_leaves_the_digest_of_its_training(key):
    raw = {"sites": "data", "strategy": {"name": "fedgimp"}, "network": {"name": "style", key: 1}}
    (run, training), written = digests(raw), WRITTEN["network style"]
    assert run != written[0]
    assert training == written[1]
    assert digests({**raw, "network": {"name": "style", "latent": 8}})[1] != training
