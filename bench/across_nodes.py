"""Rounds across nodes whose links are slow: seconds a round. Nothing is trained; Linux, with ``unshare`` and ``tc``.

python bench/across_nodes.py --sites 4 --parameters 10000000 --megabits 400 [--rounds 6] [--sources SRC OTHER_SRC]

Each site has a Ray node in a network namespace of its own. A token bucket limits what it sends, and another what it
receives; the driver's node is not limited. A site hands the weights back, and the driver does what it does in a run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

NETWORK = "10.77.0"
HEAD = f"{NETWORK}.1"
RAY = str(Path(sys.executable).with_name("ray"))
START = [RAY, "start", "--disable-usage-stats"]
PATIENCE = 600.0
"""Seconds for the nodes to start."""


def run(*command: str) -> None:
    """Runs a command of the system.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def wait_for(condition: Callable[[], bool]) -> None:
    """Asks once a second.

    Raises:
        RuntimeError: in vain.
    """
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > PATIENCE:
            raise RuntimeError("Ray's nodes do not start")
        time.sleep(1)


def node(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a node, and waits until it has joined: two that start at once take one name."""
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--block"], stdout=file, stderr=file)
    wait_for(lambda: b"Ray runtime started" in log.read_bytes())
    return process


def link(number: int, megabits: int) -> subprocess.Popen[bytes]:
    """A namespace for one node, and its link to the bridge. The namespace lives as long as the process."""
    holder = subprocess.Popen(["unshare", "-n", "sleep", "3600"])
    time.sleep(0.5)
    inside, outer = ["nsenter", "-t", str(holder.pid), "-n"], f"v{number}"
    limit = ["root", "tbf", "rate", f"{megabits}mbit", "burst", "256kb", "latency", "100ms"]
    run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
    run("ip", "link", "set", outer, "master", "br0", "up")
    run("tc", "qdisc", "add", "dev", outer, *limit)
    run(*inside, "ip", "link", "set", "lo", "up")
    run(*inside, "ip", "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
    run(*inside, "ip", "link", "set", "eth0", "up")
    run(*inside, "tc", "qdisc", "add", "dev", "eth0", *limit)
    return holder


def actor() -> type:
    """A site's process that trains nothing: the class has the one method that the executor calls."""
    import ray

    from fedrecon.sites.wire import Description, TrainReply

    class Mirror:
        def __init__(self) -> None:
            self.name = ""

        def call(self, tenancy: Any, _changes: Any, method: str, *arguments: Any) -> tuple[int, str, Any]:
            self.name = tenancy.plan.member if tenancy.plan else self.name
            node = ray.get_runtime_context().get_node_id()
            if method == "describe":
                return os.getpid(), node, Description(self.name, os.getpid(), "cpu", 1, "none", "none", {})
            (request,) = arguments
            half, losses = request.shared * np.float32(0.5), {"loss": 0.0}
            return os.getpid(), node, TrainReply(self.name, request.round, 1, half, {}, losses)

    return Mirror


def rounds(asked: argparse.Namespace) -> list[float]:
    """Seconds of each round."""
    import ray

    from fedrecon.platform.config.resources import Resources
    from fedrecon.platform.execution import ray_executor
    from fedrecon.platform.federation.reply_gate import SHARED, ReplyGate, check_merged
    from fedrecon.strategies.fedavg import FedAvg

    ray.init(address=asked.drive, log_to_driver=False, logging_level="ERROR", _node_ip_address=HEAD)
    wait_for(lambda: len([one for one in ray.nodes() if one["Alive"]]) == asked.sites + 1)
    names = [f"s{number}" for number in range(2, asked.sites + 2)]
    strategy, n_slices = FedAvg(), dict.fromkeys(names, 1)
    ray_executor.SiteActor = actor()  # type: ignore[misc]
    plans: Any = [SimpleNamespace(member=name, shards={}, plugins=()) for name in names]
    executor = ray_executor.RayExecutor(plans, Resources(cpus_per_site=1, gpus_per_site=0, start_timeout=300))
    state, seconds = strategy.begin(np.ones(asked.parameters, np.float32)), []
    for _ in range(asked.rounds):
        begun, request = time.perf_counter(), strategy.request(state)
        gate = ReplyGate(request, {SHARED: asked.parameters}, names, {}, n_slices)
        merged = strategy.merge(state, gate.checked(executor.fit(request, reader=gate.reader)), n_slices)
        state = check_merged(merged, state, strategy).owned()
        seconds.append(time.perf_counter() - begun)
        assert (state.shared == 0.5**state.round).all()
    executor.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--parameters", type=int, default=10**7)
    parser.add_argument("--megabits", type=int, default=400, help="a second, each way")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--sources", nargs="*", help="folders of fedrecon's code to compare, one after the other")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.drive:
        seconds = ", ".join(f"{one:.2f}" for one in rounds(asked))
        print(f"load {os.getloadavg()[0]:.1f}; s a round: {seconds}", flush=True)
        return
    if not asked.inside:
        sys.exit(subprocess.call(["unshare", "-Urn", sys.executable, __file__, *sys.argv[1:], "--inside"]))
    with tempfile.TemporaryDirectory(prefix="nodes-") as scratch:
        import ray

        from fedrecon.platform.execution.ray_cluster import lean

        environment = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
        environment["RAY_raylet_start_wait_time_s"] = f"{PATIENCE:.0f}"
        environment["RAY_agent_register_timeout_ms"] = f"{1000 * PATIENCE:.0f}"
        os.environ.update(environment)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "addr", "add", f"{HEAD}/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        started = []
        try:
            with lean():
                begun = ray.init(
                    address="local", _node_ip_address=HEAD, num_cpus=0, include_dashboard=False, logging_level="ERROR",
                    _temp_dir=scratch,
                )  # fmt: skip
            address = begun.address_info["gcs_address"]
            for number in range(2, asked.sites + 2):
                holder = link(number, asked.megabits)
                place = [f"--address={address}", f"--node-ip-address={NETWORK}.{number}", "--num-cpus=1"]
                inside = ["nsenter", "-t", str(holder.pid), "-n", *START, *place, f"--labels=site=s{number}"]
                started += [node(inside, Path(scratch, f"s{number}")), holder]
            drive = [sys.executable, __file__, *sys.argv[1:], "--drive", address]
            for _ in range(asked.passes):
                for source in asked.sources or os.environ.get("PYTHONPATH", "").split(os.pathsep)[:1]:
                    print(f"{source}:", end=" ", flush=True)
                    subprocess.run(drive, check=True, env={**os.environ, "PYTHONPATH": source})
        finally:
            for process in reversed(started):
                process.terminate()
            ray.shutdown()
            for process in started:
                process.wait()


if __name__ == "__main__":
    main()
