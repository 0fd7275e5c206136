"""Values that nobody means, and the files that :mod:`fuzz` damages."""

from __future__ import annotations

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
