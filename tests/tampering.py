"""What can be done to the files, replies and settings of a run: each entry changes one thing, drawn by a seed.

A damage of files gets the generator and the :class:`Place`, and returns what it did in words.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from fedrecon.sites.wire import TrainReply


@dataclass(frozen=True)
class Place:
    """Files that a case may change: ``sites`` and ``workspace``; and ``other``, the workspace of another run."""

    sites: Path
    workspace: Path
    other: Path

    def files(self, pattern: str, other: bool = False) -> list[Path]:
        return sorted((self.other if other else self.workspace).glob(pattern))


Damage = Callable[[random.Random, Place], str]


def flip(rng: random.Random, path: Path) -> str:
    content = bytearray(path.read_bytes())
    at, bit = rng.randrange(len(content)), rng.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at} of {path.name} flipped"


def cut(rng: random.Random, path: Path) -> str:
    size = rng.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"{path.name} cut to {size} bytes"


def swap(rng: random.Random, path: Path, others: list[Path]) -> str:
    """Puts another file in the place of ``path``, and that one there if it is of the same run."""
    other = rng.choice([one for one in others if one.read_bytes() != path.read_bytes()] or [path])
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)
    return f"{path.name} swapped with {'/'.join(other.parts[-3:])}"


def junk(rng: random.Random, path: Path) -> str:
    content = rng.choice([b"", b"{}", b"[]", b"null", b"\x00" * 64, b'{"a": 1e999}'])
    path.write_bytes(content)
    return f"{path.name} is {content[:12]!r}"


def number(rng: random.Random, path: Path) -> str:
    """Changes one digit of a JSON file."""
    text = path.read_text(encoding="utf-8")
    digits = [at for at, one in enumerate(text) if one.isdigit()]
    if not digits:
        return junk(rng, path)
    at = rng.choice(digits)
    new = rng.choice([one for one in "0123456789" if one != text[at]])
    path.write_text(f"{text[:at]}{new}{text[at + 1 :]}", encoding="utf-8")
    return f"{path.name}: a digit {text[at]} is {new} at {at}"


def _vectors(change: Callable[[random.Random, dict[str, Any], dict[str, str]], str]) -> Callable[..., str]:
    """Writes a safetensors file anew with other vectors or another header; its checksums stay as they were."""

    def damage(rng: random.Random, path: Path) -> str:
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        what = change(rng, values, header)
        save_file(values, path, metadata=header)
        return f"{path.name}: {what}"

    return damage


def _spoil(rng: random.Random, values: dict[str, Any], header: dict[str, str]) -> str:
    name, bad = rng.choice(sorted(values)), rng.choice([math.nan, math.inf, 3e38])
    values[name] = values[name].copy()
    values[name].reshape(-1)[-1:] = bad
    return f"{name} holds {bad}"


def _shape(rng: random.Random, values: dict[str, Any], header: dict[str, str]) -> str:
    name = rng.choice(sorted(values))
    kind = rng.choice(["float64", "short", "missing", "extra"])
    if kind == "missing":
        del values[name]
    elif kind == "extra":
        values["more"] = np.ones(3, np.float32)
    else:
        values[name] = values[name].astype(np.float64) if kind == "float64" else values[name][:-1].copy()
    return f"{name} {kind}"


def _header(rng: random.Random, values: dict[str, Any], header: dict[str, str]) -> str:
    key = rng.choice(sorted(header) or ["round"])
    header[key] = rng.choice(["", "99", "-5", header.get(key, "")[::-1]])
    return f"header {key} is {header[key][:20]!r}"


def _files(pattern: str, others: str, *damages: Callable[..., str]) -> list[Damage]:
    """Damages of one of the files of ``pattern``; it is also swapped with one of ``others``, here or in another run."""

    def one(damage: Callable[..., str]) -> Damage:
        def act(rng: random.Random, place: Place) -> str:
            found = place.files(pattern)
            return damage(rng, rng.choice(found)) if found else "no such file"

        return act

    def swapped(other: bool) -> Damage:
        def act(rng: random.Random, place: Place) -> str:
            found = place.files(pattern)
            return swap(rng, rng.choice(found), place.files(others, other)) if found else "no such file"

        return act

    def gone(rng: random.Random, place: Place) -> str:
        for path in (found := place.files(pattern)):
            path.unlink()
        return f"{len(found)} files gone"

    return [*map(one, damages), swapped(False), swapped(True), gone]


def _hdf5(change: Callable[[random.Random, h5py.File, Path], str]) -> Damage:
    def damage(rng: random.Random, place: Place) -> str:
        path = rng.choice(sorted(place.sites.glob("*.h5")))
        with h5py.File(path, "r+") as file:
            return f"{path.name}: {change(rng, file, path)}"

    return damage


def _volume(rng: random.Random, file: h5py.File) -> h5py.Group:
    return file[rng.choice(sorted(file))]


def _edited(rng: random.Random, file: h5py.File, path: Path) -> str:
    group = _volume(rng, file)
    key, bad = rng.choice(sorted(group)), rng.choice([2.0, math.nan, math.inf, 3e38, 0.0])
    group[key][0] = group[key][0] * bad if bad != 3e38 else 3e38
    return f"{group.name}/{key} times {bad}"


def _label(rng: random.Random, file: h5py.File, path: Path) -> str:
    group = rng.choice([file, _volume(rng, file)])
    key = rng.choice([*sorted(group.attrs), "more"])
    value = rng.choice(["", "../../x", "x", -1.0, math.nan, 1e300, "0" * 64, [1.0, 2.0, 3.0]])
    group.attrs[key] = value
    return f"{group.name}@{key} is {value!r}"


def _less(rng: random.Random, file: h5py.File, path: Path) -> str:
    group = rng.choice([file, _volume(rng, file)])
    key = rng.choice(sorted(group.attrs) + sorted(group))
    if key in group.attrs:
        del group.attrs[key]
    else:
        del group[key]
    return f"{group.name}/{key} deleted"


def _elsewhere(rng: random.Random, file: h5py.File, path: Path) -> str:
    group, kind = _volume(rng, file), rng.choice(["external", "soft", "virtual", "raw", "reference"])
    data = group["kspace"]
    shape, dtype = data.shape, data.dtype
    if kind == "reference":
        group["more"] = np.array([group.ref], dtype=h5py.ref_dtype)
        return f"{group.name} holds a reference"
    del group["kspace"]
    if kind == "virtual":
        layout = h5py.VirtualLayout(shape, dtype)
        layout[:] = h5py.VirtualSource(str(path.with_name("other.h5")), "x", shape, dtype)
        group.create_virtual_dataset("kspace", layout)
    elif kind == "raw":
        external = [(str(path.with_name("raw.bin")), 0, h5py.h5f.UNLIMITED)]
        group.create_dataset("kspace", shape, dtype, external=external)
    else:
        group["kspace"] = h5py.SoftLink("/x") if kind == "soft" else h5py.ExternalLink("other.h5", "/x")
    return f"{group.name}/kspace is {kind}"


def _huge(rng: random.Random, file: h5py.File, path: Path) -> str:
    group, (*_, y, x) = _volume(rng, file), _volume(rng, file)["kspace"].shape
    del group["kspace"]
    filters = rng.choice([{}, {"chunks": (1, y, x), "compression": "gzip"}])
    group.create_dataset("kspace", (10**9, y, x), np.complex64, **filters)
    return f"{group.name}/kspace declares 10^9 slices, {filters or 'plain'}"


def _of_site(damage: Callable[..., str]) -> Damage:
    return lambda rng, place: damage(rng, rng.choice(sorted(place.sites.glob("*.h5"))))


def _sites_swapped(rng: random.Random, place: Place) -> str:
    paths = sorted(place.sites.glob("*.h5"))
    return swap(rng, rng.choice(paths), paths)


SHARD: list[Damage] = [
    *map(_of_site, (flip, flip, cut, junk)),
    *map(_hdf5, (_edited, _edited, _label, _label, _less, _elsewhere, _huge)),
    _sites_swapped,
]
MEMORY = _files(
    "runs/*/private/*/*", "runs/*/private/*/*", flip, flip, cut, junk, *map(_vectors, (_spoil, _shape, _header))
)
CHECKPOINT = _files(
    "runs/*/checkpoints/*.safetensors",
    "runs/*/checkpoints/*.safetensors",
    flip,
    flip,
    cut,
    junk,
    *map(_vectors, (_spoil, _shape, _header)),
)
RESULT = _files("runs/*/result.json", "runs/*/*.json", flip, number, number, cut, junk)
NOTE = _files("runs/*/run.json", "runs/*/*.json", flip, flip, number, number, cut, junk)
JSON = _files("runs/*/*.json", "runs/*/*.json", flip, number, cut, junk)
TRAINED = _files("trained/*.json", "trained/*.json", flip, number, cut, junk)


def _first(reply: TrainReply, change: Callable[[Any], Any], rng: random.Random) -> TrainReply:
    names = ["", *sorted(reply.extra)]
    name = rng.choice(names) if len(reply.shared) else names[-1]
    if not name:
        return replace(reply, shared=change(reply.shared.copy()))
    return replace(reply, extra={**reply.extra, name: change(reply.extra[name].copy())})


def _set(value: float) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[-1:] = value
        return values

    return change


REPLY: dict[str, Callable[[random.Random, TrainReply], Any]] = {
    "NaN": lambda rng, r: _first(r, _set(math.nan), rng),
    "infinity": lambda rng, r: _first(r, _set(-math.inf), rng),
    "3e38": lambda rng, r: _first(r, lambda v: np.full_like(v, 3e38), rng),
    "float64": lambda rng, r: _first(r, lambda v: v.astype(np.float64), rng),
    "int32": lambda rng, r: _first(r, lambda v: v.astype(np.int32), rng),
    "big-endian": lambda rng, r: _first(r, lambda v: v.astype(">f4"), rng),
    "two axes": lambda rng, r: _first(r, lambda v: v[None], rng),
    "one more": lambda rng, r: _first(r, lambda v: np.append(v, np.float32(1)), rng),
    "a list": lambda rng, r: _first(r, lambda v: v.tolist(), rng),
    "round before": lambda rng, r: replace(r, round=r.round - 1),
    "round after": lambda rng, r: replace(r, round=r.round + 1),
    "round as text": lambda rng, r: replace(r, round=str(r.round)),
    "another member": lambda rng, r: replace(r, site=rng.choice(["middle", "south", "x"]) + "x"),
    "an undeclared extra": lambda rng, r: replace(r, extra={**r.extra, "more": np.ones(4, np.float32)}),
    "n_slices": lambda rng, r: replace(r, n_slices=r.n_slices + rng.choice([1, -1, 10**9])),
    "a loss of NaN": lambda rng, r: replace(r, losses={**r.losses, "loss": math.nan}),
    "steps": lambda rng, r: replace(r, steps=-1),
    "seconds": lambda rng, r: replace(r, seconds=rng.choice([math.inf, -1.0])),
    "no reply": lambda rng, r: None,
}

SETTING: list[tuple[str, Any]] = [
    ("seed", 1.5),
    ("sites", {"../../x": "north"}),
    ("sites", {}),
    ("sites", "/nowhere"),
    ("training.learning_rate", math.nan),
    ("training.learning_rate", math.inf),
    ("training.learning_rate", -1.0),
    ("training.rounds", -5),
    ("training.batch_size", 0),
    ("operator.acceleration", math.nan),
    ("operator.acceleration", 0.0),
    ("operator.acceleration", 1e9),
    ("operator.noise", math.inf),
    ("operator.mask", "randum"),
    ("network.channels", 0),
    ("network.name", "unett"),
    ("strategy.name", "fedavgg"),
    ("strategy.mmu", 1.0),
    ("evaluation.mask_seed", "x"),
    ("name", "../../x"),
]
"""Each must be refused: no value of it can be meant."""


def set_key(given: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = json.loads(json.dumps(given))
    *blocks, last = key.split(".")
    inner = changed
    for block in blocks:
        inner = inner.setdefault(block, {})
    inner[last] = value
    return changed


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target
