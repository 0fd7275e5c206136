"""A Ray whose own processes ended or stopped ends the run in one line; nobody waits for it."""

import ctypes
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedrecon.platform.config.resources import Resources
from fedrecon.platform.execution import last_word, lost_ray, ray_cluster, ray_executor
from fedrecon.platform.execution.liveness import Watch
from fedrecon.platform.execution.ray_executor import RayExecutor
from fedrecon.platform.execution.wire_log import WireLog
from fedrecon.platform.terminal import signals
from fedrecon.sites.errors import RunError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ray(monkeypatch):
    """A Ray that lives: its two processes run, its control store answers, its node is alive."""
    running, ended = (SimpleNamespace(poll=lambda code=code: code, kill=lambda: None) for code in (None, -9))
    processes = {name: [SimpleNamespace(process=running)] for name in ("gcs_server", "raylet")}
    row = {"NodeID": "here", "Alive": True}
    worker = lost_ray.ray._private.worker
    monkeypatch.setattr(worker, "_global_node", SimpleNamespace(all_processes=processes))
    monkeypatch.setattr(worker, "global_worker", SimpleNamespace(gcs_client=SimpleNamespace(address="[::1]:7")))
    context = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(lost_ray.ray, "get_runtime_context", lambda: context)
    table, answering = [{"NodeID": "there", "Alive": False}, row], lost_ray.threading.Event()
    answering.set()
    monkeypatch.setattr(lost_ray.ray, "nodes", lambda: table if answering.wait(20) else pytest.fail("nobody answers"))
    monkeypatch.setattr(lost_ray, "PATIENCE", 0.05)
    monkeypatch.setattr(lost_ray, "_silent", set())
    answers = {("::1", 7): None}
    monkeypatch.setattr(lost_ray, "no_answer", lambda host, port, seconds: answers[host, port])

    def lose(name):
        if name in processes:
            processes[name][0].process = ended
        elif name == "node":
            row["Alive"] = False
        elif name == "answers":
            answering.clear()
        else:
            answers["::1", 7] = "refused"

    yield lose
    answering.set()


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("gcs_server", "the control store of this machine has ended"),
        ("raylet", "the raylet of this machine has ended"),
        ("address", r"\[::1\]:7 does not answer \(refused\)"),
        ("node", "the raylet of this machine does not answer"),
        ("answers", r"\[::1\]:7 gives no answer"),  # it is stopped
    ],
)
def test_who_is_lost_is_named(ray, lost, says):
    lost_ray.check_ray()
    ray(lost)
    for _ in range(2):
        with pytest.raises(RunError, match=says):
            lost_ray.check_ray()


@pytest.mark.parametrize(("lost", "seen"), [("gcs_server", True), ("raylet", True), ("address", False)])
def test_before_each_question_the_own_processes_are_looked_at(ray, lost, seen):
    one = object.__new__(RayExecutor)
    one._prepare(Resources(), WireLog(), Watch())
    one.actors, one.transport = {}, SimpleNamespace(send=lambda *_: SimpleNamespace(close=lambda: None))
    assert one.describe() == {}
    ray(lost)
    if seen:
        with pytest.raises(RunError, match="has ended"):
            one.describe()
    else:
        assert one.describe() == {}


def test_a_kill_and_a_shutdown_that_ray_never_ends_do_not_hold_the_run(ray, monkeypatch, capsys):
    """A stopped raylet: ``ray.kill`` waits for ever, and ``ray.shutdown`` until the raylet is killed."""
    killed = lost_ray.threading.Event()
    monkeypatch.setattr(lost_ray, "LOOK", 0.01)
    monkeypatch.setattr(lost_ray, "SHUTDOWN", 0.01)
    monkeypatch.setattr(lost_ray.ray, "kill", lambda actor, no_restart: killed.wait(20))
    monkeypatch.setattr(lost_ray.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(lost_ray.ray, "shutdown", lambda: killed.wait(20) or pytest.fail("nothing ended Ray"))
    (raylet,) = (one for name, one in lost_ray._started() if name == "raylet")
    raylet.kill = killed.set
    lost_ray.kill("an actor")
    assert not killed.is_set()
    lost_ray.shutdown()
    assert killed.is_set()
    assert "Ray has not ended" in capsys.readouterr().err


def test_a_message_that_the_store_never_takes_ends_the_run(ray, monkeypatch):
    """A stopped raylet: it takes no object, and is held for dead by the control store after a while."""
    asked, over = [], lost_ray.threading.Event()

    def put(value):
        asked.append(value)
        ray("node")
        return over.wait(20)

    monkeypatch.setattr(lost_ray, "LOOK", 0.01)
    monkeypatch.setattr(lost_ray.ray, "put", put)
    with pytest.raises(RunError, match="Ray is lost: the raylet"):
        lost_ray.put("a request")
    over.set()
    assert asked == ["a request"]


@pytest.mark.parametrize("question", ["nodes", "free"])
def test_a_control_store_that_is_stopped_answers_no_question(ray, monkeypatch, question):
    monkeypatch.setattr(lost_ray, "LOOK", 0.01)
    monkeypatch.setattr(ray_cluster.ray_state, "available_resources_per_node", dict)
    assert len(getattr(ray_cluster, question)()) == 2
    ray("answers")
    with pytest.raises(RunError, match="gives no answer"):
        getattr(ray_cluster, question)()


def test_nothing_else_asks_ray_what_can_wait_for_ever():
    asking = re.compile(r"\bray\.(put|kill|shutdown|nodes)\(")
    files = [path for floor in ("platform", "tune") for path in (ROOT / floor).rglob("*.py")]
    loud = {path.name for path in files if asking.search(path.read_text(encoding="utf-8"))}
    assert loud == {"lost_ray.py"}


def test_a_message_that_the_store_takes_or_refuses(ray, monkeypatch):
    monkeypatch.setattr(lost_ray.ray, "put", lambda value: f"reference of {value}")
    assert lost_ray.put("a request") == "reference of a request"
    monkeypatch.setattr(lost_ray.ray, "put", lambda value: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        lost_ray.put("a request")


def test_a_lost_ray_is_killed_after_the_last_word(ray, monkeypatch):
    """Without a raylet Ray ends the driver at once, and the line that says why would not be said."""
    at_exit = []
    monkeypatch.setattr(lost_ray.atexit, "register", at_exit.append)
    monkeypatch.setattr(lost_ray.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(lost_ray.ray, "shutdown", lambda: pytest.fail("Ray ends this process"))
    ray("node")
    lost_ray.shutdown()
    killed = []
    for _, one in lost_ray._started():
        one.kill = lambda: killed.append(1)
    at_exit[0]()
    assert len(killed) == 2


def test_without_ray_nothing_is_lost():
    lost_ray.check_ray()


def asked(executor):
    try:
        executor._result("a", "fit", (), None, 2, skip=False)
    except ray_executor._StaysDeadError as dead:
        executor._mark_dead("a", 2, str(dead))


@pytest.mark.slow
@pytest.mark.parametrize("error", ["unavailable", "died", "silence"])
def test_a_run_whose_ray_is_lost_ends_and_counts_no_restart(ray, error, monkeypatch):
    """Whatever Ray says of the member: that it died, that it is not available, or nothing."""
    one = object.__new__(RayExecutor)
    one._prepare(Resources(max_restarts=10), WireLog(), Watch())
    one.actors, one._open = {"a": None}, {"a": "reference"}
    raised = {
        "unavailable": ray_executor.ActorUnavailableError("", None),
        "died": ray_executor.ActorDiedError(),
        "silence": ray_executor.GetTimeoutError(),
    }[error]

    def get(reference, timeout):
        raise raised

    monkeypatch.setattr(ray_executor, "LOOK", 0.05)
    monkeypatch.setattr(ray_executor.ray, "get", get)
    monkeypatch.setattr(ray_executor.ray, "wait", lambda *_, **__: ([], ["reference"]))
    ray("raylet")
    with pytest.raises(RunError, match=r"Ray is lost: the raylet.*same command"):
        asked(one)
    assert (one.restarts, one.dead) == (0, {})


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os._exit(1)", 1),  # what Ray's C++ part does
        ("os.kill(os.getpid(), 9)", 1),
        ("last_word.keep(); os._exit(1)", 1),
        ("sys.exit(1)", 0),
        ("raise SystemError", 0),
        ("last_word.goodbye(); last_word.goodbye(); os._exit(1)", 0),
        ("last_word.goodbye(); last_word.keep(); os._exit(1)", 1),
        ("[os.kill(last_word._keeper.pid, one) for one in (1, 2, 15)]; os._exit(1)", 1),  # a service manager does
    ],
)
def test_who_ends_without_a_word_has_a_last_one(end, words):
    code = f"import os, sys; from fedrecon.platform.execution import last_word; last_word.keep(); {end}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert done.stderr.splitlines().count(last_word.TEXT) == words


@pytest.mark.slow
def test_a_process_that_was_terminated_has_another_last_word():
    """SIGTERM comes, and Ray's C++ part ends the process before its own code does."""
    code = (
        "import os, ray; from fedrecon.platform.execution import last_word\n"
        "from fedrecon.platform.terminal.signals import terminable\n"
        "last_word.keep()\n"
        "with terminable():\n"
        "    try: os.kill(os.getpid(), 15)\n"
        "    except KeyboardInterrupt: os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.splitlines()) == (1, [signals.SAYS])


def test_ray_says_nothing_of_its_own_while_it_connects():
    worker = lost_ray.ray._private.worker
    before = worker.listen_error_messages
    with lost_ray.quiet():
        assert worker.listen_error_messages is not before
        assert worker.listen_error_messages(worker.global_worker, None) is None
    assert worker.listen_error_messages is before


def test_the_handler_of_sigterm_outlives_ray(ray, monkeypatch):
    """Ray's C++ part sets the system's default when it ends, and Python does not know of it."""
    system, heard = ctypes.CDLL(None), []
    monkeypatch.setattr(lost_ray.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(lost_ray.ray, "shutdown", lambda: system.signal(signal.SIGTERM, 0))
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))
    try:
        lost_ray.shutdown()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["SIGTERM"]
