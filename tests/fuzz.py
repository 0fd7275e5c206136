"""Bad inputs, made from a seed, over every command of the command line.

``python tests/fuzz.py --cases 20000`` runs them through ``main()`` in one process, ``--processes 200`` as processes. No
case may end in a traceback, in death, or after the time limit; what is wrong is said on stderr, and stdout carries JSON
alone. A case that asks for torch, Ray or MLflow was accepted: it ends there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from absurd import BASE, FILES, HURTING, OPTIONS, VALUES, dotted, keys, volume

from fedrecon.cli import main
from fedrecon.platform.config.schema import json_schema
from fedrecon.platform.terminal.boundary import LET_THROUGH
from fedrecon.sites.data.shard_writer import write_shard

SECONDS = 10.0
"""The longest time of a case on the processor."""
FOR_EVER = 600.0
"""The time after which a case counts as one that waits for ever. A busy machine gives a process little in a minute."""
HEAVY = ("torch", "ray", "mlflow")
SPLITS = ("train", "validation", "test")


class Began(BaseException):
    """The work began: nothing was wrong."""


class NoWork:
    """Python's finder of modules, which finds none of :data:`HEAVY`."""

    def find_spec(self, name: str, *_: Any) -> None:
        """See importlib."""
        if name in HEAVY:
            raise Began


@dataclass
class Case:
    """One call of the command line; ``files`` are written below the working folder before it."""

    argv: list[str]
    files: dict[str, bytes] = field(default_factory=dict)


class Fuzz:
    """Makes cases in a folder that it owns."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        folder.mkdir(parents=True, exist_ok=True)
        for site in ("t1w", "t2w"):
            shown = map(volume, [site] * 3, SPLITS)
            write_shard(folder / "shards" / f"{site}.h5", site, shown, simulated=True, phase="none")
        for kind, content in FILES.items():
            (folder / f"{kind}.yaml").write_text(yaml.safe_dump(content))
        self.shard = (folder / "shards" / "t1w.h5").read_bytes()
        self.keys = [*keys(json_schema()), *(f"{key}.x" for key in BASE), "operator.per_site.t1w.noise", "test.sites"]
        self.campaign_keys = {kind: list(dotted(FILES[kind])) for kind in ("sweep", "study")}
        self.makers: list[Callable[[], Case]] = [
            self.override, self.override, self.override, self.campaign, self.campaign, self.text, self.text,
            self.option, self.option, self.hostile_shard, self.hostile_file, self.cut_json, self.words,
        ]  # fmt: skip

    def cases(self, number: int) -> Iterator[Case]:
        """The cases, one after the other: the files of a case hold until the next one."""
        for _ in range(number):
            case = self.random.choice(self.makers)()
            for name, content in case.files.items():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(content)
            yield case
            for name in case.files:
                (self.folder / name).unlink(missing_ok=True)

    def override(self) -> Case:
        """A key of an experiment with a value that nobody meant."""
        pairs = [f"{self.pick(self.keys)}={self.value()}" for _ in range(self.random.choice((1, 1, 1, 2, 3)))]
        return Case(["run", "run.yaml", "--in-process", *self.mixed(pairs)])

    def campaign(self) -> Case:
        """A key of a sweep or a study with such a value; ``--dry-run`` plans it, over real shards."""
        kind = self.pick(["sweep", "study"])
        keys = [*self.campaign_keys[kind], *(f"experiment.{key}" for key in self.keys)]
        pairs = [f"{self.pick(keys)}={self.value()}" for _ in range(self.random.choice((1, 1, 2)))]
        return Case([kind, f"{kind}.yaml", "--dry-run", *self.mixed(pairs)])

    def text(self) -> Case:
        """A file of YAML that was damaged, or made to hurt."""
        kind = self.pick(list(FILES))
        text = yaml.safe_dump(FILES[kind], default_flow_style=self.random.random() < 0.3, allow_unicode=True)
        damaged = self.pick([self.cut, self.flipped, self.line_twice, self.replaced, self.hurting])(text.encode())
        dry = [] if kind == "run" else ["--dry-run"]
        return Case([kind, "bad.yaml", *dry, *self.json()], {"bad.yaml": damaged})

    def option(self) -> Case:
        """A command with options that it does not know, or with values that they do not take."""
        value = self.plain_value()
        command = self.pick(list(OPTIONS))
        given = [
            part for _ in range(2) for part in (self.pick(OPTIONS[command]), self.pick([value, self.plain_value()]))
        ]
        if command == "ui":
            given = ["--port", self.pick(["0", "-1", "99999999", "1e3", value]), "--workspace", "nowhere"]
        if "--out" in given:
            given[given.index("--out") + 1] = "out"
        return Case([*command.split(), value, *given])

    def words(self) -> Case:
        """Any words in any order."""
        pool = [
            "data",
            "run",
            "sweep",
            "study",
            "list",
            "show",
            "schema",
            "inspect",
            "import",
            "simulate",
            "--json",
            "--x",
        ]
        words = [self.pick([*pool, self.plain_value()]) for _ in range(self.random.randint(0, 5))]
        return Case(["data", "simulate", "out", "--size", "1e9"] if words[:1] == ["schema"] else _without_work(words))

    def hostile_shard(self) -> Case:
        """A shard that was cut, or in which bytes were changed; or one in a folder with a sound one."""
        damaged = self.pick([self.cut, self.flipped])(self.shard)
        command = self.pick(["inspect", "inspect", "seal"])
        more = self.json() if command == "inspect" else []
        return Case(["data", command, self.pick(["bad", "bad/t1w.h5"]), *more], {"bad/t1w.h5": damaged})

    def hostile_file(self) -> Case:
        """A file to import that is none, or none of that kind."""
        kind, end = self.pick(
            [("nifti", "nii.gz"), ("nifti", "nii"), ("npy", "npy"), ("fastmri", "h5"), ("dicom", "dcm")]
        )
        npy = (
            b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (99999999999,), }".ljust(128)
            + b"\x80\x04."
        )
        content = self.pick(
            [b"", b"\x1f\x8b\x08", npy, self.flipped(npy), self.cut(self.shard), self.flipped(self.shard), bytes(400)]
        )
        name = f"in_{self.random.randint(0, 9)}.{end}"
        return Case(["data", "import", kind, name, "--site", "s", "--out", "out"], {name: content})

    def cut_json(self) -> Case:
        """A workspace whose files of JSON were cut or changed."""
        run = {"run_id": "a" * 32, "experiment": BASE, "images": {}, "splits": {}, "sites": {}}
        files = {
            "run.json": run,
            "result.json": {"run_id": "a" * 32, "name": "x", "sites": {}, "mean": {}, "digest": "d" * 16},
        }
        broken = {
            f"w/runs/{'d' * 16}/{name}": self.pick([self.cut, self.flipped, self.hurting, bytes])(
                json.dumps(content).encode()
            )
            for name, content in files.items()
        }
        broken |= {
            "w/sweeps/many/trials.json": self.flipped(b'{"trials": []}'),
            "w/mlflow.db": self.flipped(b"SQLite format 3\0"),
        }
        commands = [
            ["evaluate", "latest"], ["evaluate", "d" * 16], ["reconstruct", "latest", "shards/t1w.h5", "-o", "o.h5"],
            ["sweep", "show", "many"], ["study", "show", "cross"], ["ui"], ["runs", "list"], ["runs", "show", "d" * 16],
            ["runs", "show", "latest"], ["runs", "compare", "d" * 16, "latest"], ["runs", "rm", "d" * 16, "--yes"],
            ["runs", "export", "d" * 16, "--out", "exported"], ["plot", "d" * 16],
        ]  # fmt: skip
        command = self.pick(commands)
        return Case([*command, *([] if command == ["ui"] else self.json()), "--workspace", "w"], broken)

    def pick(self, items: Any) -> Any:
        """One of the items."""
        return self.random.choice(items)

    def value(self) -> str:
        """A value of YAML, sometimes in a list or mapping, or damaged."""
        value = str(self.pick(VALUES))
        wrap = self.random.random()
        if wrap < 0.1:
            return f"[{value}, {value}]"
        if wrap < 0.2:
            return f"{{grid: [{value}]}}"
        if wrap < 0.25:
            return self.flipped(value.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogateescape")
        return value

    def plain_value(self) -> str:
        """A word of a command line: it holds no null character."""
        return str(self.pick(VALUES)).replace("\x00", "") or "x"

    def mixed(self, pairs: list[str]) -> list[str]:
        """Overrides among options, in any order."""
        words = [[one.replace("\x00", "\\0")] for one in pairs] + [self.json()]
        self.random.shuffle(words)
        return [one for part in words for one in part]

    def json(self) -> list[str]:
        """``--json``, or not."""
        return ["--json"] if self.random.random() < 0.4 else []

    def cut(self, content: bytes) -> bytes:
        """The beginning."""
        return content[: self.random.randrange(len(content) + 1)]

    def flipped(self, content: bytes) -> bytes:
        """Some bytes are others."""
        changed = bytearray(content)
        for _ in range(self.random.choice((1, 3, 30))):
            if changed:
                changed[self.random.randrange(len(changed))] = self.random.randrange(256)
        return bytes(changed)

    def line_twice(self, content: bytes) -> bytes:
        """A line stands twice."""
        lines = content.splitlines(keepends=True)
        return b"".join([*lines, self.pick(lines)])

    def replaced(self, content: bytes) -> bytes:
        """A word is another."""
        words = content.split(b" ")
        words[self.random.randrange(len(words))] = self.value().encode("utf-8", "surrogatepass")
        return b" ".join(words)

    def hurting(self, _: bytes) -> bytes:
        """A file that is small to write and large to read."""
        made = self.pick(HURTING).encode()
        return bytes(made) if self.random.random() > 0.02 else b"a: " + b"x" * 10_000_000


def _without_work(words: list[str]) -> list[str]:
    """The words, unless they are a command that works for long."""
    return ["list"] if words[:2] == ["data", "simulate"] and "--size" not in words else words


def wrong(code: Any, out: str, err: str, argv: list[str], seconds: float) -> str | None:
    """What is wrong with the end of a case; None if nothing is."""
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if "Traceback" in err or "defect of fedrecon" in err:
        return "a traceback"
    if seconds > SECONDS:
        return f"{seconds:.1f} s"
    if code and not err.strip():
        return "no word"
    if len(err.splitlines()) > 60 or max(map(len, err.splitlines()), default=0) > 5000:
        return "a long message"
    if any(not one.isprintable() and one not in "\n\t" for one in err):
        return "a control character"
    if "--json" in argv and out:
        try:
            json.loads(out)
        except ValueError:
            return "no JSON on stdout"
    return None


def in_process(case: Case) -> str | None:
    """Runs a case through ``main()``; what is wrong with it, or None."""
    out, err, start = io.StringIO(), io.StringIO(), time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("default")  # as outside of the tests, where a warning is a line
            code: Any = main(case.argv)
    except Began:
        return None
    except SystemExit as error:
        code = error.code or 0
    except Exception:  # noqa: BLE001 - what the fuzz is for
        return traceback.format_exc()
    return wrong(code, out.getvalue(), err.getvalue(), case.argv, time.process_time() - start)


def watched(case: Case) -> str | None:
    """Runs a case as :func:`in_process` does, and ends it if it hangs. For a process of its own: it takes the alarm."""
    signal.setitimer(signal.ITIMER_REAL, FOR_EVER)
    try:
        return in_process(case)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def as_process(case: Case) -> str | None:
    """Runs a case as a process; what is wrong with it, or None."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fedrecon.cli", *map(os.fsencode, case.argv)],
            capture_output=True, timeout=FOR_EVER, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "it hangs"
    except ValueError:  # a word that no process can be given
        return None
    out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    return wrong(done.returncode, out, err, case.argv, min(time.monotonic() - start, SECONDS))


def fuzz(folder: Path, number: int, seed: int, run: Callable[[Case], str | None], first: int = 0) -> list[str]:
    """Runs the cases of a seed from ``first`` up to ``number`` in the folder; the report of each that went wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    before, found = Path.cwd(), []
    os.chdir(folder)
    try:
        for at, case in enumerate(Fuzz(folder, seed).cases(number)):
            if at >= first and (reason := run(case)) is not None:
                found.append(f"case {at} of seed {seed}: {[ascii(one)[:200] for one in case.argv]}\n{reason}")
            if (at + 1) % 1000 == 0:
                print(f"{run.__name__}: {at + 1} of seed {seed}, {len(found)} wrong", file=sys.__stderr__, flush=True)
    finally:
        os.chdir(before)
    return found


def _hang(*_: Any) -> None:
    raise AssertionError("the case hangs")


def _script() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=0)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first", type=int, default=0, help="begin at this case: what a run that was ended left")
    arguments = parser.parse_args()
    os.environ[LET_THROUGH] = "1"
    folder = Path(tempfile.mkdtemp(prefix="fedrecon-fuzz-"))
    os.environ["FEDRECON_CACHE"] = str(folder / "cache")
    signal.signal(signal.SIGALRM, _hang)
    sys.meta_path.insert(0, NoWork())  # type: ignore[arg-type]
    found, start = [], time.monotonic()
    for number, run in ((arguments.cases, watched), (arguments.processes, as_process)):
        found += fuzz(folder / run.__name__, number, arguments.seed, run, arguments.first) if number else []
    print("\n".join(found))
    begun = f" (begun at case {arguments.first})" if arguments.first else ""
    print(
        f"seed {arguments.seed}: {arguments.cases} in one process, {arguments.processes} as processes{begun}, "
        f"{len(found)} wrong, {time.monotonic() - start:.0f} s"
    )
    shutil.rmtree(folder)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(_script())
