"""The fault matrix: each fault meets a run in each phase, then the same command is given again: ``make faults``.

A cell is a run of two tiny sites: what its user saw, and whether the bits are those of a run that nothing disturbed.
``python tests/faults.py --rows "site killed" "disk full" --phases fit commit --seed 0`` tries a part.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "platform")]

import kills  # noqa: E402 - after the path
import psutil  # noqa: E402
from drivers import experiment  # noqa: E402
from faulting import ACTS, BALLAST, CLOCK, PHASES, Scene, clock, drive, set_clock  # noqa: E402
from tampering import Place  # noqa: E402
from tiny import write_consortium  # noqa: E402

LIMIT = 600.0
"""Seconds after which a command counts as one that hangs."""
SILENCE = 40.0
"""Seconds without a word that are too long: who does not answer is named after 30."""
ENDS_BY = {"driver killed": -signal.SIGKILL, "driver terminated": 143, "service terminated": 143}
STACK = ("Traceback", "*** SIG", "Stack Trace", "Fatal Python error")


@dataclass(frozen=True)
class Row:
    """One fault: on Ray or in process, and what its run needs."""

    act: str
    on_ray: bool = False
    around: str = ""
    channels: int = 2
    resources: dict[str, Any] = field(default_factory=dict)
    phases: tuple[str, ...] = tuple(phase for phase in PHASES if phase not in ("stopped", "sync"))


RAY_PHASES = Row("").phases[:-1]
"""``fedrecon evaluate`` needs no Ray."""
WITH_SYNC = (*Row("").phases, "sync")
SITE_PHASES = tuple(phase for phase in RAY_PHASES if phase != "end")
"""At the end the sites are asked nothing."""
ROWS = [
    Row("driver killed", phases=WITH_SYNC),
    Row("driver terminated", phases=WITH_SYNC),
    Row("service terminated", True, phases=RAY_PHASES),
    Row("site killed", True, phases=SITE_PHASES),
    Row("site stopped", True, resources={"fit_timeout": 20}, phases=SITE_PHASES),
    Row("raylet killed", True, phases=RAY_PHASES),
    Row("raylet stopped", True, phases=RAY_PHASES),
    Row("control store killed", True, phases=RAY_PHASES),
    Row("control store stopped", True, phases=RAY_PHASES),
    Row("node lost", True, "cluster", phases=RAY_PHASES),
    Row("node lost, another comes", True, "cluster", phases=RAY_PHASES),
    Row("disk full", phases=WITH_SYNC),
    Row("/dev/shm full", True, "shm", channels=16, phases=RAY_PHASES),
    Row("object store full", True, "store", channels=16, phases=RAY_PHASES),
    Row("object store and disk full", True, "store and disk", channels=16, phases=RAY_PHASES),
    Row("MLflow server killed", phases=WITH_SYNC),
    Row("clock a day on", phases=PHASES),
    Row("clock a day back", phases=PHASES),
    Row("shard damaged", phases=PHASES[:-1]),
    Row("memory damaged", phases=PHASES[1:-1]),  # before the first fit there is none
    Row("second driver"),
]


@dataclass(frozen=True)
class Ended:
    """A command that ended: its exit code ('hangs' without one), its seconds, the longest silence, what it said."""

    code: Any
    seconds: float
    silence: float
    said: list[str]
    out: Any


class Matrix:
    """All cells, with one workspace for each."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed, self.count = folder, seed, 0
        (folder / "sites").mkdir()
        paths = write_consortium(folder / "sites")
        self.sites = {name: paths.pop(name) for name in ("north", "middle")}
        for path in paths.values():
            path.unlink()
        self.whole = {path: path.read_bytes() for path in self.sites.values()}
        self.template = folder / "template"
        self.template.mkdir()
        from fedrecon.platform.storage.tracking.store import run_store

        run_store(None, self.template)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(kills.LOADED)
        self.calm: dict[int, tuple[Any, ...]] = {}

    def command(self, row: Row, place: Place, *more: str) -> list[str]:
        """The command of a row."""
        given = experiment(self.sites, "fedper", local_epochs=5)
        given["network"]["channels"] = row.channels
        given |= {"publish_private": "all", "resources": row.resources}
        file = place.workspace.parent / "experiment.json"
        file.write_text(json.dumps(given), encoding="utf-8")
        crew = [] if row.on_ray else ["--in-process"]
        return ["run", str(file), "--workspace", str(place.workspace), "--json", *crew, *more]

    @contextlib.contextmanager
    def place(self, disk: bool = False) -> Iterator[Place]:
        """A new workspace with an empty store; for a full disk it is a file system of its own."""
        self.count += 1
        workspace = self.folder / f"{self.count}" / "workspace"
        workspace.mkdir(parents=True)
        if disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", workspace], check=True)
        try:
            shutil.copy(self.template / "mlflow.db", workspace / "mlflow.db")
            yield Place(self.folder / "sites", workspace, workspace)
        finally:
            if disk:
                subprocess.run(["umount", "--lazy", workspace], check=True)
            shutil.rmtree(workspace.parent)
            for path, content in self.whole.items():
                path.write_bytes(content)

    def run(self, scene: Scene, moment: str = "", act: str = "") -> Ended:
        """Runs a command in a process of its own."""
        for path in (scene.said, scene.out):
            path.write_bytes(b"")
        process = self.context.Process(target=drive, args=(scene, moment, act))
        process.start()
        start = last = time.monotonic()
        silence, size = 0.0, 0
        while process.is_alive() and time.monotonic() - start < LIMIT:
            process.join(0.1)
            now, new = time.monotonic(), scene.said.stat().st_size
            if new != size or not process.is_alive():
                silence, last, size = max(silence, now - last), now, new
        code: Any = process.exitcode
        if code is None:
            code = "hangs"
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                one.kill()
            process.join()
        time.sleep(0.3)  # for the last word, which another process says
        said = scene.said.read_text(encoding="utf-8", errors="replace").splitlines()
        text = scene.out.read_text(encoding="utf-8")
        return Ended(code, now - start, silence, said, json.loads(text) if code == 0 and text else text)

    def scene(self, row: Row, place: Place, *argv: str) -> Scene:
        """The scene of a command."""
        above = place.workspace.parent
        return Scene([*argv], above / "said", above / "out", place, row.around, seed=self.seed + self.count)

    def undisturbed(self, channels: int) -> tuple[Any, ...]:
        """What a calm run in process leaves, and what it says."""
        if channels not in self.calm:
            row = Row("", channels=channels)
            with self.place() as place:
                ended = self.run(self.scene(row, place, *self.command(row, place)))
                assert ended.code == 0, ended
                left = self.left(place, ended)
                rows = self.run(
                    self.scene(row, place, "evaluate", "latest", "--json", "--workspace", str(place.workspace))
                )
                assert rows.code == 0, rows
                self.calm[channels] = left, _scores(rows), {_shape(one) for one in ended.said + rows.said}
        return self.calm[channels]

    def left(self, place: Place, ended: Ended) -> Any:
        """What must not depend on the fault: the result, the vectors of its last state, and the private memories."""
        if not isinstance(ended.out, dict):
            return None
        vectors = kills.vectors(place.workspace, ended.out["digest"], ended.out["run_id"], [place.workspace.parent])
        memories = {key: vectors.pop(key) for key in list(vectors) if key.startswith("private/")}
        return {key: ended.out[key] for key in kills.OWN}, _hashed(vectors), _hashed(memories)

    def cell(self, row: Row, phase: str) -> str:
        """One fault in one phase: what became of it."""
        expected, scores, usual = self.undisturbed(row.channels)
        with self.place(disk=row.act == "disk full") as place, contextlib.ExitStack() as stack:
            more: list[str] = []
            server = None
            if row.act == "MLflow server killed":
                server = stack.enter_context(_server(place.workspace.parent))
                more = ["--tracking-uri", server.address]
            command = self.command(row, place, *more)
            if (finished := phase in ("evaluate", "sync")) or phase in ("resume", "stopped"):
                before = command if "--in-process" in command else [*command, "--in-process"]
                earlier = ("", "") if finished else ("fit", "driver interrupted")
                begun = self.run(replace(self.scene(row, place, *before), around=""), *earlier)
                assert begun.code == (0 if finished else 130), begun
            if finished:
                command = _after(place, phase)
            if phase == "sync":
                self.lose(place, server)
            scene = replace(self.scene(row, place, *command), server=server.process.pid if server else 0)
            if phase == "stopped":
                ACTS[row.act](scene)
                met = self.run(scene)
            else:
                met = self.run(scene, phase, row.act)
            self.mend(row, place, server)
            again = self.run(scene)
            rerun = None
            if row.act == "memory damaged" and again.code != 0 and phase != "evaluate":
                rerun = self.run(replace(scene, argv=[*scene.argv, "--rerun"]))
            last = rerun or again
            if row.act == "memory damaged" and phase in ("artifacts", "end"):  # no run reads them any more
                shutil.rmtree(next(place.workspace.glob("runs/*/private")))
                expected = *expected[:2], {}
            if phase == "sync":  # the bits are those of the run, which is to be in the store
                last = replace(last, out=begun.out)
            found, wanted = (_scores(last), scores) if phase == "evaluate" else (self.left(place, last), expected)
            equal: bool | None = found is not None and found == wanted
            if (server or phase == "sync") and phase != "evaluate" and last.code == 0:
                store = server.address if server else f"sqlite:///{place.workspace / 'mlflow.db'}"
                equal = equal and _has_all(store, last.out["digest"])
            if row.act == "memory damaged" and phase == "evaluate" and last.code == 1:
                equal = None  # the memory of a finished run stays damaged: each command that needs it refuses it
        return self.told(row, phase, met, again, rerun, equal, usual)

    def lose(self, place: Place, server: Any) -> None:
        """The store loses all of its runs."""
        server.empty() if server else shutil.copy(self.template / "mlflow.db", place.workspace / "mlflow.db")

    def mend(self, row: Row, place: Place, server: Any) -> None:
        """The cause of the fault goes away; a wrong clock and a damaged memory stay."""
        for folder in (place.workspace, Path("/dev/shm")):
            (folder / BALLAST).unlink(missing_ok=True)
        if row.act == "shard damaged":
            for path, content in self.whole.items():
                path.write_bytes(content)
        if server:
            server.start()

    def told(
        self, row: Row, phase: str, met: Ended, again: Ended, rerun: Any, equal: bool | None, usual: set[str]
    ) -> str:
        """The text of a cell; what is wrong is in capitals."""
        ends = [f"{one.code}" for one in (met, again, rerun) if one]
        seen = [line for line in met.said if _shape(line) not in usual and not line.startswith("tiny: ")]
        wrong = ["NOT EQUAL"] * (equal is False)
        wrong += ["HANGS"] * ("hangs" in ends)
        wrong += ["TRACEBACK"] * any(mark in line for one in (met, again) for line in one.said for mark in STACK)
        wrong += [f"SILENT FOR {met.silence:.0f} s"] * (max(met.silence, again.silence) > SILENCE)
        wrong += ["NO WORD"] * any(
            one.code in (1, 2) and not any(line.startswith(("failed: ", "error: ")) for line in one.said)
            for one in (met, again)
        )
        wrong += ["WRONG EXIT"] * (row.act in ENDS_BY and met.code not in (ENDS_BY[row.act], 0))
        text = f"{' → '.join(ends)} {'refused' if equal is None else 'equal' * equal}".strip()
        told = f"{row.act} | {phase} | {text} {' '.join(wrong)} | {met.seconds:.0f} s, silent {met.silence:.0f} s"
        print(told, *(f"    {line[:400]}" for line in seen), sep="\n", flush=True)
        if again.code != 0 or wrong:
            print(*(f"    again: {line[:400]}" for line in again.said if _shape(line) not in usual), sep="\n")
        return f"{text} {' '.join(wrong)}".strip()


class _Server:
    """An MLflow server over a file, which is killed and comes back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "server"
        self.folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        store = [f"--backend-store-uri=sqlite:///{self.folder}/mlflow.db", f"--artifacts-destination={self.folder}/a"]
        at = ["--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "mlflow", "server", *store, *at]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while self.process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            time.sleep(0.2)
        raise RuntimeError((self.folder / "log").read_text())

    def empty(self) -> None:
        """Ends it, and starts it over a new file."""
        self.kill()
        for path in self.folder.glob("mlflow.db*"):
            path.unlink()
        self.start()

    def kill(self) -> None:
        """Ends it, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _has_all(address: str, digest: str) -> bool:
    """Whether the run is there, finished, with every point of every metric once, and its artifacts."""
    from mlflow import MlflowClient
    from test_kill_driver import assert_recorded_once, runs

    client = MlflowClient(address)
    try:
        (run_id,) = [one.info.run_id for one in runs(client) if one.data.tags["fedrecon.digest"] == digest]
        assert_recorded_once(client, run_id, digest)
    except (AssertionError, ValueError) as error:
        print(f"    in MLflow: {str(error)[:300]}")
        return False
    return any(one.path == "weights.safetensors" for one in client.list_artifacts(run_id))


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[_Server]:
    server = _Server(folder)
    try:
        yield server
    finally:
        server.kill()


def _after(place: Place, phase: str) -> list[str]:
    """The command to a finished run."""
    words = ["evaluate", "latest"] if phase == "evaluate" else ["sync"]
    return [*words, "--json", "--workspace", str(place.workspace)]


def _scores(ended: Ended) -> Any:
    return ended.out["rows"] if isinstance(ended.out, dict) else None


def _hashed(vectors: dict[str, Any]) -> Any:
    return json.loads(json.dumps(vectors, default=lambda one: hashlib.sha256(one).hexdigest()))


def _shape(line: str) -> str:
    """A line without its numbers."""
    return re.sub(r"[0-9a-f]{12,}|[0-9.:]+", "#", line)


def main(argv: list[str] | None = None) -> int:
    """Prints each cell as it is known, and the matrix as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", default=[row.act for row in ROWS], metavar="ROW")
    parser.add_argument("--phases", nargs="+", default=list(PHASES), choices=PHASES)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    rows = [row for row in ROWS if any(one in row.act for one in asked.rows)]
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # ten processes that nobody asks
    }
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    table = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, contextlib.ExitStack() as stack:
        os.environ["FEDRECON_CACHE"] = str(Path(folder) / "cache")
        if any(row.act.startswith("clock") for row in rows):
            stack.enter_context(clock(Path(folder)))
        matrix = Matrix(Path(folder), asked.seed)
        for row in rows:
            cells = []
            for phase in asked.phases:
                if CLOCK in os.environ:
                    set_clock(0)
                cells.append(matrix.cell(row, phase) if phase in row.phases else "-")
            table.append([row.act, *cells])
    for line in [["fault", *asked.phases], ["---"] * (len(asked.phases) + 1), *table]:
        print(f"| {' | '.join(line)} |")
    return int(any(re.search("[A-Z]{4}", cell) for line in table for cell in line[1:]))


if __name__ == "__main__":
    sys.exit(main())
