"""Values that nobody means, and the files that :mod:`fuzz` damages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fedrecon.sites.data.volume import VolumeData

NUMBERS = "1e9,-1,0,1e300,-1e300,.nan,.inf,-.inf,nan,1e-300,0.5,3,1_0,010,0b1,1:30,1e5000,+.5e-3"
WORDS = "true,null,~,'',yes,2020-13-45,2020-01-01,!!x,[red],[/red],../../etc,/,.,~root,%s%d{0},t1+gd,-,--,=,a=b,{{{{"
MARKS = (
    "*a,<<,|,>,\ud800,a\udcffb,\x1b[31mred,é\u202e,\N{PILE OF POO},,!!int abc,!!binary aGk=,!!set {a},!x y,\x00,a b,? a"
)
LONG = ["0x" + "f" * 5000, "9" * 25, "9" * 5000, "-" + "9" * 4000, "x" * 300, "&a [*a]"]
LISTS = ["[]", "{}", "[1, 2]", "{1: 2}", "{a: 1, a: 2}", "[[[[]]]]", "[" * 3000, "{a: " * 200, "[true]", "{name: unet}"]
LISTS += ["{[1]: 2}", "{name: 3}", "{name: nobody, a: 1}", "{null: 1}", "[a, a]", "{a: {b: {c: {}}}}", "[.nan, 1e300]"]
VALUES = [*NUMBERS.split(","), *WORDS.split(","), *MARKS.split(","), *LONG, *LISTS]

BASE = {
    "name": "fuzzed",
    "sites": "nowhere",
    "operator": {"mask": "random", "acceleration": 4},
    "network": {"name": "unet", "channels": 2},
    "strategy": {"name": "fedprox", "mu": 0.1},
    "training": {"rounds": 1, "loss": {"l1": 0.5, "mse": 0.5}},
}
SWEEP = {
    "name": "many",
    "experiment": {**BASE, "sites": "shards"},
    "search": {
        "training.learning_rate": {"grid": [0.1, 0.2]},
        "seed": {"grid": [1, 2], "when": {"training.learning_rate": 0.1}},
    },
    "metric": "mean/psnr",
    "mode": "max",
    "budget": {"trials": 3},
}
STUDY = {
    "name": "cross",
    "experiment": {**BASE, "sites": "shards"},
    "methods": {"fedavg": {"strategy.name": "fedavg"}, "zero": {"reconstructor": "zero_filled"}},
    "train": {"sites": "each", "operators": {"acceleration": [2, 4]}},
    "test": {"noise": [1, 2]},
    "seeds": [0, 1],
}  # fmt: skip
FILES = {"run": BASE, "sweep": SWEEP, "study": STUDY}

OPTIONS = {
    "evaluate": ["--sites", "--mask", "--acceleration", "--scale", "--unseen", "--published", "--workspace"],
    "reconstruct": ["-o", "--site", "--workspace"],
    "data import": ["--site", "--out", "--size", "--phase", "--subject-pattern", "--seed", "--test-subjects"],
    "data inspect": ["--workspace", "--json"],
    "data seal": ["--seed"],
    "list": ["--json", "--workspace"],
    "ui": ["--port", "--workspace"],
    "schema": ["--json"],
    "run run.yaml": ["--tracking-uri", "--workspace", "--in-process", "--address"],
    "sweep": ["--address", "--workspace", "--dry-run"],
    "runs list": ["--workspace", "--json"],
    "runs show": ["--workspace", "--json"],
    "runs compare": ["--workspace", "--json"],
    "runs rm": ["--workspace", "--yes", "--keep-mlflow"],
    "runs export": ["--out", "--workspace", "--private"],
    "runs register": ["--name", "--alias", "--workspace"],
    "plot": ["--out", "--workspace"],
    "init": ["--sites", "--out", "--json"],
    "doctor": ["--sites", "--address", "--tracking-uri"],
}

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + at)}: &{chr(98 + at)} [{', '.join([f'*{chr(97 + at)}'] * 9)}]\n" for at in range(9)
)
HURTING = [
    BOMB,
    "[" * 3000,
    "{a: " * 3000,
    "- " * 3000,
    "a:\n" * 9,
    "&a [*a]",
    "&a {<<: *a}",
    "[" * 3000 + "]" * 3000,
]
HURTING += [
    "",
    "3",
    "[]",
    "null",
    "'",
    "\t",
    "%YAML 9.9\n---\na: 1",
    "---\na: 1\n---\nb: 2",
    "{" + "a" * 4000 + ": 1}",
    'name: "\\ud800"',
]


def volume(site: str, split: str) -> VolumeData:
    """A volume of two slices, 32 x 32."""
    image = np.zeros((2, 1, 32, 32), np.complex64)
    image[..., 8:24, 10:20] = 1
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, (-2, -1)), norm="ortho"), (-2, -1))
    name = f"{site}-{split}"
    return VolumeData(name, name, split, kspace.astype(np.complex64), abs(image[:, 0]), noise=1e-3)


def dotted(content: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a mapping."""
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")


def keys(schema: dict[str, Any]) -> Iterator[str]:
    """The dotted keys of an experiment, with those of every plug-in."""
    for key, one in schema["properties"].items():
        yield key
        texts = [one, *one.get("anyOf", []), *one.get("oneOf", [])]
        for block in [schema["$defs"].get(str(text.get("$ref", "")).rsplit("/", 1)[-1], text) for text in texts]:
            yield from (f"{key}.{inner}" for inner in block.get("properties", {}))
