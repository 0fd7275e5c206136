"""An experiment's keys: what is refused and how, what its digest identifies, what a file may say."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.schema import json_schema
from fedrecon.sites.errors import InputError
from fedrecon.strategies import STRATEGIES

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = {"a": "0123", "b": "4567"}
BASE = {
    "name": "x",
    "sites": "data",
    "operator": {"mask": "random", "acceleration": 4, "per_site": {"b": {"acceleration": 2}}},
    "strategy": {"name": "fedprox", "mu": 0.5},
    "network": {"name": "unet", "channels": 16},
}


def read(*overrides, **changes):
    return Experiment.read({**BASE, **changes}, overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainin.rounds=3", "Did you mean 'training'"),
        ("training.round=3", "Did you mean 'rounds'"),
        ("training.learning_rte=3", "Did you mean 'learning_rate'"),
        ("evaluation.evry=3", "Did you mean 'every'"),
        ("resources.gpu_per_site=3", "Did you mean 'gpus_per_site'"),
        ("operator.aceleration=3", "Did you mean 'acceleration'"),
        ("operator.mask=randm", "Did you mean 'random'"),
        ("operator.per_site.b.mask=radal", "Did you mean 'radial'"),
        ("operator.per_site.b.nois=2", "operator.per_site.b.*Did you mean 'noise'"),
        ("strategy.name=fedavgg", "Did you mean 'fedavg'"),
        ("strategy.mue=1", "Did you mean 'mu'"),
        ("network.name=unett", "Did you mean 'unet'"),
        ("network.chanels=8", "Did you mean 'channels'"),
        ("reconstructor=zero_fill", "Did you mean 'zero_filled'"),
        ("training.loss=l11", "Did you mean 'l1'"),
        ("reconstructor={name: tv, wight: 1}", "Did you mean 'weight'"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest_right_one(override, message):
    with pytest.raises(InputError, match=message):
        read(override)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("name=''", "name"),
        ("name=[1]", "name"),
        ("sites=3", "sites"),
        ("sites=[a, b]", "sites"),
        ("task=segmentation", "task.*'reconstruction'"),
        ("operator=random", "operator"),
        ("operator.acceleration=0.5", "acceleration.*at least 1"),
        ("operator.acceleration=null", "acceleration"),
        ("operator.acceleration=.inf", "acceleration"),
        ("operator.acceleration=four", "acceleration"),
        ("operator.center_fraction=0", "center_fraction"),
        ("operator.center_fraction=1.5", "center_fraction"),
        ("operator.noise=0.5", "noise.*at least 1"),
        ("operator.noise=.inf", "noise"),
        ("operator.fixed_mask=maybe", "fixed_mask"),
        ("operator.per_site=north", "per_site"),
        ("operator.per_site=[north]", "per_site"),
        ("operator.per_site.b=random", "per_site"),
        ("operator.per_site.b.acceleration=0", "per_site.b.*acceleration|acceleration"),
        ("strategy={mu: 1}", "'name' is missing"),
        ("strategy.mu=-1", "mu"),
        ("strategy.mu=.nan", "mu"),
        ("network={channels: 3}", "'name' is missing"),
        ("network.channels=0", "channels"),
        ("network.channels=many", "channels"),
        ("network.norm=group", "norm"),
        ("reconstructor=3", "reconstructor"),
        ("reconstructor={name: network, channels: 3}", "network"),
        ("training=3", "training"),
        ("training.rounds=-1", "rounds"),
        ("training.rounds=1.5", "rounds"),
        ("training.local_epochs=0", "local_epochs"),
        ("training.batch_size=0", "batch_size"),
        ("training.optimizer=lion", "optimizer"),
        ("training.learning_rate=0", "learning_rate"),
        ("training.learning_rate=.inf", "learning_rate"),
        ("training.schedule=step", "schedule"),
        ("training.augment=maybe", "augment"),
        ("training.precision=float16", "precision"),
        ("training.optimizer_state=forget", "optimizer_state"),
        ("evaluation.every=0", "every"),
        ("evaluation.max_slices=0", "max_slices"),
        ("evaluation.mask_seed=x", "mask_seed"),
        ("evaluation.panels=x", "panels"),
        ("resources.threads=0", "threads"),
        ("resources.gpus_per_site=-1", "gpus_per_site"),
        ("resources.gpus_per_site=all", "gpus_per_site"),
        ("resources.cpus_per_site=.inf", "cpus_per_site"),
        ("resources.crew=threads", "crew"),
        ("resources.max_restarts=-1", "max_restarts"),
        ("resources.min_sites=0", "min_sites"),
        ("resources.start_timeout=0", "start_timeout"),
        ("allow_pooling=maybe", "allow_pooling"),
        ("seed=1.5", "seed"),
    ],
)
def test_a_wrong_value_is_refused_and_its_key_named(override, key):
    with pytest.raises(InputError, match=key):
        read(override)


@pytest.mark.parametrize("given", [1.5, 2, 4096])
def test_a_site_of_more_than_one_gpu_is_refused_wherever_it_is_given(given):
    """Two were reserved and one was used. An experiment, an override, a study, a sweep's base and its search."""
    from fedrecon.tune.search.config import Sweep
    from fedrecon.tune.study.config import Study
    from fedrecon.tune.trials.planner import Planner

    says = rf"resources\.gpus_per_site.*{given:g}\b.*one GPU.*auto, 0 to 1"
    more = {"resources": {"gpus_per_site": given}}
    study = {"name": "s", "experiment": {**BASE, **more}, "methods": {"a": {}}}
    how = {"name": "s", "metric": "mean/psnr", "mode": "max", "experiment": BASE}
    searching, _ = Sweep.read({**how, "search": {"resources.gpus_per_site": {"grid": [1, given]}}})
    settings, _ = Sweep.read({**how, "search": {"seed": {"grid": [0]}}})
    for refused in (
        lambda: read(**more),
        lambda: read(f"resources.gpus_per_site={given}"),
        lambda: Planner.of(settings, {**BASE, **more}),
        lambda: Planner(searching, BASE).trial(0, {"resources.gpus_per_site": given}),
        lambda: Experiment.read(Study.read(study)[1]),
    ):
        with pytest.raises(InputError, match=says):
            refused()
    assert read("resources.gpus_per_site=1").resources.gpus_per_site == 1


def test_no_sites_no_experiment():
    with pytest.raises(InputError, match="'sites' is missing"):
        Experiment.read({"name": "x"})
    with pytest.raises(InputError, match="a mapping of keys is needed, got list"):
        Experiment.read([1])


def test_several_faults_are_told_at_once():
    with pytest.raises(InputError) as caught:
        read("training.rounds=-1", "evaluation.every=0")
    assert len(str(caught.value).splitlines()) == 2


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such experiment file"):
        Experiment.read(tmp_path / "missing.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: [")
    with pytest.raises(InputError, match=r"bad\.yaml: not valid YAML"):
        Experiment.read(bad)
    bad.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="not valid YAML"):
        Experiment.read(bad)
    bad.write_text("- 1")
    with pytest.raises(InputError, match=r"bad\.yaml: a mapping"):
        Experiment.read(bad)


OTHER = {
    "operator": "operator.acceleration=3",
    "mask": "operator.mask=radial",
    "center_fraction": "operator.center_fraction=0.1",
    "noise": "operator.noise=2",
    "fixed_mask": "operator.fixed_mask=true",
    "per_site": "operator.per_site.b.acceleration=3",
    "strategy": "strategy.name=fedavg",
    "mu": "strategy.mu=0.4",
    "weighting": "strategy.weighting=uniform",
    "network": "network.name=unrolled",
    "channels": "network.channels=8",
    "pools": "network.pools=2",
    "reconstructor": "reconstructor=tv",
    "rounds": "training.rounds=11",
    "local_epochs": "training.local_epochs=2",
    "batch_size": "training.batch_size=8",
    "optimizer": "training.optimizer=sgd",
    "learning_rate": "training.learning_rate=0.002",
    "schedule": "training.schedule=cosine",
    "loss": "training.loss=mse",
    "augment": "training.augment=false",
    "precision": "training.precision=bfloat16",
    "optimizer_state": "training.optimizer_state=keep",
    "max_slices": "evaluation.max_slices=5",
    "mask_seed": "evaluation.mask_seed=1",
    "seed": "seed=1",
}
NOT_TRAINING = {"max_slices", "mask_seed"}


@pytest.mark.parametrize("key", OTHER)
def test_the_digest_changes_with_the_science(key):
    one, other = read(), read(OTHER[key])
    assert one.digest(CONTENTS) != other.digest(CONTENTS)
    assert (one.training_digest(CONTENTS) == other.training_digest(CONTENTS)) == (key in NOT_TRAINING)


def test_no_two_experiments_share_a_digest():
    digests = {read(override).digest(CONTENTS) for override in OTHER.values()}
    assert len(digests) == len(OTHER)


@pytest.mark.parametrize(
    "override",
    [
        "name=y",
        "sites=elsewhere",
        "sites={a: p, b: q}",
        "resources.threads=3",
        "resources.crew=in-process",
        "resources.min_sites=1",
        "allow_pooling=true",
        "strategy.mu=0.50",
        "training.rounds=10",
    ],
)
def test_the_digest_ignores_name_paths_and_resources(override):
    assert read(override).digest(CONTENTS) == read().digest(CONTENTS)
    assert read(override).training_digest(CONTENTS) == read().training_digest(CONTENTS)


def test_the_digest_changes_with_the_data_and_the_sites():
    digest = read().digest(CONTENTS)
    assert digest != read().digest({**CONTENTS, "a": "0124"})
    assert digest != read().digest({"b": "0123", "a": "4567"})
    assert digest != read().digest({"a": "0123"})
    assert digest == read().digest(dict(reversed(CONTENTS.items())))


def test_where_nothing_is_trained_only_what_counts_counts():
    one = read("reconstructor=tv")
    assert one.training_digest(CONTENTS) is None
    assert one.rounds == 0
    for override in ("strategy.name=fedavg", "network.channels=4", "training.rounds=3"):
        assert read("reconstructor=tv", override).digest(CONTENTS) == one.digest(CONTENTS)
    for override in ("reconstructor.weight=0.1", "operator.acceleration=3", "evaluation.mask_seed=2"):
        assert read("reconstructor=tv", override).digest(CONTENTS) != one.digest(CONTENTS)


def test_defaults_written_out_are_the_same_experiment():
    one = read()
    full = one.as_dict()
    assert full["training"]["optimizer_state"] == "auto"
    assert one.as_run()["training"]["optimizer_state"] == one.flat()["training.optimizer_state"] == "reset"
    assert Experiment.read(one.as_run()).digest(CONTENTS) == one.digest(CONTENTS)
    assert full["operator"]["per_site"]["b"] == {
        "mask": "random",
        "acceleration": 2.0,
        "center_fraction": 0.08,
        "noise": 1.0,
        "fixed_mask": False,
    }
    for again in (Experiment.read(full), Experiment.read(one), pickle.loads(pickle.dumps(one))):
        assert again == one
        assert again.digest(CONTENTS) == one.digest(CONTENTS)
    assert Experiment.read(json.loads(json.dumps(full))) == one


@pytest.mark.parametrize(("first", "then"), [("feddiff", "fedavg"), ("fedavg", "feddiff"), ("fedgimp", "local")])
def test_a_strategy_that_is_changed_in_a_written_out_experiment_has_its_own_defaults(first, then):
    base = Experiment.read({"sites": "data", "strategy": first}).as_dict()
    plain = Experiment.read({"sites": "data", "strategy": then})
    changed = Experiment.read(base | {"strategy": then, "network": plain.network})
    assert changed.fitting.optimizer_state == STRATEGIES[then].optimizer_state
    assert changed.digest(CONTENTS) == plain.digest(CONTENTS)


def test_a_file_round_trip(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(read().as_dict()))
    assert Experiment.read(path) == Experiment.read(str(path)) == read()


def test_every_site_measures_as_it_says():
    one = read("operator.per_site.c={mask: radial, noise: 2}")
    assert one.operator_at("a").flat()["acceleration"] == 4
    assert one.operator_at("b").flat()["acceleration"] == 2
    assert one.operator_at("c").flat() == {
        "mask": "radial",
        "acceleration": 4.0,
        "center_fraction": 0.08,
        "noise": 2.0,
        "fixed_mask": False,
    }


def test_a_site_of_another_mask_family_inherits_what_both_know():
    """gaussian2d has a width and random has none; the experiment must also read its own description."""
    operator = {"mask": "gaussian2d", "acceleration": 4, "width": 5, "per_site": {"b": {"mask": "random"}}}
    one = read(operator=operator)
    assert one.operator_at("a").flat()["width"] == 5
    assert one.operator_at("b").flat() == Experiment.read(one.as_dict()).operator_at("b").flat()
    assert one.operator_at("b").flat()["acceleration"] == 4
    assert Experiment.read(one.as_dict()) == one


def test_an_experiment_never_changes():
    one = read()
    with pytest.raises(ValueError, match="frozen"):
        one.seed = 3
    assert one.flat()["training.rounds"] == "10"
    assert one.flat()["operator.per_site.b.acceleration"] == "2.0"


def test_scores_are_due_every_so_often_and_after_the_last_round():
    one = read("training.rounds=7", "evaluation.every=3")
    assert [number for number in range(1, 8) if one.scores_due(number)] == [3, 6, 7]


@pytest.mark.slow
def test_the_schema_accepts_the_files_that_are_there_and_refuses_others():
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (Ray brings it)")
    schema = json_schema()
    validator = jsonschema.validators.validator_for(schema)(schema)
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
        given = yaml.safe_load(path.read_text())
        if "sites" in given:  # sweeps and studies are other files
            validator.validate(given)
    validator.validate({**BASE, "reconstructor": "tv"})
    validator.validate({**BASE, "reconstructor": {"name": "tv", "weight": 0.1}})
    validator.validate({**BASE, "strategy": {"name": "half"}})  # a plug-in may have this name
    for wrong in (
        {**BASE, "strategy": {"name": "fedavg", "mu": 1}},
        {**BASE, "network": {"name": "unet", "channels": 0}},
        {**BASE, "training": {"rounds": -1}},
        {**BASE, "sits": "x"},
        {"name": "x"},
    ):
        assert not validator.is_valid(wrong), wrong
    json.dumps(schema)


@pytest.mark.slow
def test_reading_an_experiment_loads_no_torch_ray_or_mlflow():
    code = (
        "import sys; from fedrecon.platform.config.experiment import Experiment\n"
        "from fedrecon.platform.config.schema import json_schema\n"
        f"one = Experiment.read({BASE!r}, ['strategy.mu=1', 'operator.mask=poisson2d'])\n"
        "one.digest({'a': '1'}); one.method; one.operator_at('b').mask.check((64, 64)); json_schema()\n"
        "print([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_defaults_and_the_same_values_given_are_one_experiment():
    short = Experiment.read({"sites": "x"})
    assert short.as_dict() == Experiment.read(short.as_dict()).as_dict()
    assert short.digest({"a": "1"}) == Experiment.read({"sites": "x", "strategy": {"name": "fedavg"}}).digest(
        {"a": "1"}
    )


@pytest.mark.parametrize("key", ["strategy", "network", "reconstructor"])
def test_a_bare_name_is_the_plug_in_with_its_defaults(key):
    name = {"strategy": "fedprox", "network": "unrolled", "reconstructor": "tv"}[key]
    bare, block = (Experiment.read({"sites": "data", key: given}) for given in (name, {"name": name}))
    assert bare == block
    assert bare.digest({"a": "x"}) == block.digest({"a": "x"})
    assert Experiment.read({"sites": "data", key: name}, [f"{key}.name={name}"]) == block
    for wrong in (7, [name], None):
        with pytest.raises(InputError, match=rf"{key}: a mapping of keys is needed"):
            Experiment.read({"sites": "data", key: wrong})


WRONG = [
    ("training.rounds=three", r"training\.rounds: a whole number is needed \(given: 'three'\)"),
    ("training.rounds=1.5", r"training\.rounds: a whole number is needed \(given: 1\.5\)"),
    ("training.rounds=-1", r"training\.rounds: at least 0 is needed \(given: -1\)"),
    ("training.learning_rate=fast", r"training\.learning_rate: a number is needed \(given: 'fast'\)"),
    ("training.rounds=[1]", r"training\.rounds: a whole number is needed \(given: \[1\]\)"),
    ("training=3", "training: a mapping of keys is needed"),
    ("name=3", "name: a text is needed"),
    ("allow_pooling=perhaps", "allow_pooling: true or false is needed"),
    ("task=segmentation", "task: 'reconstruction' or 'super-resolution' is needed"),
    ("training.optimizer_state=lost", "training.optimizer_state: 'auto', 'reset' or 'keep' is needed"),
    ("training.learnig_rate=1", r"unknown key 'training\.learnig_rate'\. Did you mean 'learning_rate'"),
]


@pytest.mark.parametrize(("override", "found"), WRONG)
def test_what_is_needed_is_said_in_our_words(override, found):
    with pytest.raises(InputError, match=found) as refused:
        Experiment.read({"sites": "data"}, [override])
    assert "Input should be" not in str(refused.value)
