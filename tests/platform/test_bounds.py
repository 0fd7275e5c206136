"""Every number of an experiment, a sweep and a study has two bounds; what is absurd is refused before torch loads."""

import inspect
import json
import math
import sys
import time

import pytest

import fedrecon.sites.classical
import fedrecon.sites.formats
import fedrecon.strategies
import fedrecon.strategies.networks
import fedrecon.tune.search.config
import fedrecon.tune.study.config  # noqa: F401 - the classes below are found by having been imported
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.config.yaml_text import MOST_BYTES, read_yaml, write_yaml
from fedrecon.sites.acquisition.mix import Mix
from fedrecon.sites.errors import InputError
from fedrecon.sites.imaging.degradations import DEGRADATIONS
from fedrecon.sites.imaging.masks import MASKS
from fedrecon.sites.plugin import Settings, parse
from fedrecon.strategies.networks import MOST_WEIGHTS, NETWORKS
from fedrecon.strategies.networks.choice import NetworkChoice


def _kinds(kind=Settings):
    for one in kind.__subclasses__():
        if one.__module__.startswith("fedrecon"):
            yield one
        yield from _kinds(one)


KINDS = {f"{one.__module__}.{one.__name__}": one for one in _kinds() if not inspect.isabstract(one)}
REQUIRED = {
    "acceleration": 2.0, "mask": MASKS["random"](acceleration=2), "degradation": DEGRADATIONS["bicubic"](),
    "masks": (MASKS["random"](acceleration=2),), "rates": Mix("uniform", (2.0, 8.0)),
    "sources": {"x": ""}, "sites": "s", "experiment": "e", "search": {}, "metric": "mean/psnr", "mode": "max",
    "methods": {"a": {}},
}  # fmt: skip
"""A value for each key without a default."""
ABSURD = {
    "1e9": 1e9, "-1": -1, "1e300": 1e300, "nan": math.nan, "inf": math.inf, "true": True, "empty": "", "huge": 10**30,
    "5000 digits": 10**5000, "lone surrogate": "\ud800", "text": "x", "list": [[]], "mapping": {"a": {}},
    "control": "\x1b[31m",
}  # fmt: skip


def _numbers(schema, path=""):
    """The place and the schema of every number."""
    if schema.get("type") in ("integer", "number") and "enum" not in schema and "const" not in schema:
        yield path, schema
    for key, one in schema.items():
        if isinstance(one, dict):
            yield from _numbers(one, f"{path}/{key}")
        for inner in one if isinstance(one, list) else ():
            if isinstance(inner, dict):
                yield from _numbers(inner, f"{path}/{key}")


@pytest.mark.slow
def test_the_classes_are_all_there():
    names = {one.rsplit(".", 1)[1] for one in KINDS}
    assert {"Training", "Resources", "Evaluation", "Experiment", "Adaptation", "Sweep", "Study", "Grappa"} <= names
    assert {f"{entry.module}_parameters" for entry in NETWORKS.values()} <= names


@pytest.mark.parametrize("name", KINDS)
def test_every_number_has_a_lower_and_an_upper_bound(name):
    for place, schema in _numbers(KINDS[name].model_json_schema()):
        assert {"minimum", "exclusiveMinimum"} & schema.keys(), place
        assert {"maximum", "exclusiveMaximum"} & schema.keys(), place


@pytest.mark.parametrize("name", KINDS)
def test_what_is_absurd_is_refused_in_a_line_or_lies_within_the_bounds(name):
    kind = KINDS[name]
    for key in kind.model_fields:
        for given in ABSURD.values():
            start = time.monotonic()
            try:
                taken = getattr(parse(kind, {**_required(kind), key: given}, "here"), key)
            except InputError as error:
                mine = [line for line in str(error).splitlines() if key in line or "surrogate" in line]
                assert mine, (key, given)
                assert all(len(line) < 2000 for line in mine)
            else:
                assert given is not True or isinstance(taken, bool)
                if isinstance(taken, int | float) and not isinstance(taken, bool):
                    assert math.isfinite(taken)
                    assert abs(taken) <= 2**63
            assert time.monotonic() - start < 1


def _required(kind):
    return {key: REQUIRED.get(key, "x") for key, field in kind.model_fields.items() if field.is_required()}


@pytest.mark.parametrize(
    "override",
    [
        "network.channels=1e9", "operator.noise=1e300", "resources.threads=1000000", "seed=true", "seed=2020-13-45",
        f"seed={'9' * 5000}", f"seed=0x{'f' * 5000}", "seed=!!int abc", "operator={1: 2}",
        "operator={mask: a, mask: b}",
        "name=\ud800", "training.rounds=-1", "training.loss={l1: .inf}", f"sites={'[' * 3000}", "sites=&a [*a]",
        "training.learning_rate=nan", "{1: 2}", "name=[red]\x1b", "evaluation.mask_seed=1e300", "strategy.name=1e3",
    ],
)  # fmt: skip
def test_an_override_that_nobody_meant_is_refused_in_one_line(override):
    base = {"sites": "s", "operator": {"acceleration": 4}, "network": {"name": "unet"}}
    with pytest.raises(InputError) as refused:
        Experiment.read(base, [override])
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 2000


def test_a_key_given_twice_is_named_with_its_lines():
    with pytest.raises(InputError, match=r"'operator' is given twice \(lines 2 and 4\)"):
        read_yaml("name: a\noperator: {mask: random}\nsites: s\noperator: {mask: equispaced}\n", "f.yaml")
    with pytest.raises(InputError, match="'b' is given twice"):
        read_yaml("a: {b: 1, b: 2}", "f.yaml")
    assert read_yaml("a: &x {b: 1, c: 1}\nd: {<<: *x, b: 2}", "f") == {"a": {"b": 1, "c": 1}, "d": {"b": 2, "c": 1}}


def test_numbers_and_dates_are_read_as_written():
    assert read_yaml("[1e-3, -1E+5, .5e3, 1.5e-3, 1e3x]", "f") == [0.001, -1e5, 500.0, 0.0015, "1e3x"]
    assert read_yaml("[2020-01-01, 2020-13-45]", "f") == ["2020-01-01", "2020-13-45"]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + at)}: &{chr(98 + at)} [{', '.join([f'*{chr(97 + at)}'] * 9)}]\n" for at in range(9)
)


@pytest.mark.parametrize(
    "text", [BOMB, "[" * 3000, "- " * 3000, "&a [*a]", "x" * (MOST_BYTES + 1), "a: !!python/name:os.x"]
)
def test_yaml_that_hurts_is_refused_within_a_second(text):
    start = time.process_time()
    with pytest.raises(InputError) as refused:
        read_yaml(text, "f")
    assert time.process_time() - start < 1
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_no_machine_holds_is_refused(name):
    largest = {
        key: next(one.le for one in field.metadata if hasattr(one, "le"))
        for key, field in NETWORKS[name].parameters.model_fields.items()
        if field.annotation is int and key not in ("reduction", "noise_to", "truncated")
    }
    if NETWORKS[name].weights(NETWORKS[name].parameters(**largest)) <= MOST_WEIGHTS:
        assert name == "srcnn"  # three layers
        return
    with pytest.raises(InputError, match=r"weights; more than 1e\+09 are refused"):
        NetworkChoice.parse({"name": name, **largest})


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "style"])
def test_the_estimate_of_the_weights_is_near_their_number(name):
    import torch

    from fedrecon.sites.imaging.measurement import Images

    scale = 2 if NETWORKS[name].kind == "super-resolution" else 1
    with torch.device("meta"):
        network = NetworkChoice.parse({"name": name}).build(Images(True, (64, 64), 1, ("a", "b"), scale))
    estimate = NETWORKS[name].weights(NETWORKS[name].parameters())
    assert 0.5 < estimate / sum(one.numel() for one in network.parameters()) < 2
    assert estimate < MOST_WEIGHTS / 10


@pytest.mark.slow
def test_the_schema_for_editors_has_the_bounds():
    from fedrecon.platform.config.schema import json_schema

    text = json.dumps(json_schema())
    assert text.count('"maximum"') > 40
    assert sys.getsizeof(text) < 10**6


@pytest.mark.parametrize("text", ["010", "08", "-0123", "0_7", "007.5", "1:30", "0:30.5", "[4, 010]", "{a: 09}"])
def test_a_number_that_yaml_counts_in_another_base_is_refused(text):
    """Else seed 010 is the run of seed 8, and 1:30 is 90."""
    with pytest.raises(InputError, match="no clear number"):
        read_yaml(text, "seed")


def test_clear_numbers_and_text_are_read_as_before():
    text = "[0, 0.5, -0.25, 10, 1_000, 0x1f, '010', \"1:30\", 0abc, a:1, s3://b:1]"
    assert read_yaml(text, "f") == [0, 0.5, -0.25, 10, 1000, 31, "010", "1:30", "0abc", "a:1", "s3://b:1"]


@pytest.mark.parametrize("text", ["08", "1:30", "1e3", "-2E+4", ".5e1", "null", "1.5", "2020-01-01", "=", "a: b", "é"])
def test_what_is_written_is_read_again(text):
    content = {"name": text, "keys": {text: [text, 1.5, None]}}
    assert read_yaml(write_yaml(content), "here") == content


def test_a_block_that_is_merged_twice_is_refused():
    with pytest.raises(InputError, match="'<<' is given twice"):
        read_yaml("a: &a {x: 1}\nb: &b {x: 2}\nc: {<<: *a, <<: *b}", "here")
    assert read_yaml("=: 1", "here") == {"=": 1}


def test_what_json_writes_is_read():
    """A character beyond U+FFFF is two escapes there; half of one is none."""
    given = {"name": "brain \U0001f9e0", "sites": "d"}
    assert read_yaml(json.dumps(given), "f.json") == given
    with pytest.raises(InputError, match="half of a character"):
        read_yaml(r'{"name": "\ud83e x"}', "f.json")
