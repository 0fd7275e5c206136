"""A local Ray for the tests: started once a worker, and kept for the next file that asks for the same one."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent

PATIENCE_WITH_RAY = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Environment: the seconds after which Ray ends a process whose cluster's control store does not answer."""

_kept: list[dict[str, Any]] = []
"""The options of the Ray that this process is connected to, if :func:`local_cluster` started it."""


@contextmanager
def local_cluster(**options: Any) -> Iterator[None]:
    """A local Ray that this process is connected to; its workers can import what the tests can.

    Ray takes seconds to start, so it runs on after the body: the next body with the same options finds it. Who needs
    another one, or nodes of its own, ends it first (:func:`end_local_cluster`).
    """
    import ray

    if not (_kept == [options] and ray.is_initialized()):
        end_local_cluster()
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "1"
        from fedrecon.platform.execution.ray_cluster import loopback

        with ray_warnings(), loopback(), started_here():
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", **options)
        _kept[:] = [options]
    with ray_warnings():
        yield


_forks: list[Any] = []
"""The fork server of this process, once a Ray was started."""


@contextmanager
def started_here() -> Iterator[None]:
    """A Ray that is started in the body starts as that of a user: lean, with workers that are forks.

    Its workers can import what the tests can.
    """
    from fedrecon.platform.execution.forking.start import SITE, ForkServer
    from fedrecon.platform.execution.ray_cluster import lean
    from fedrecon.tune.engine.tuner import LOADED, SETTINGS

    folders = [str(TESTS / "platform"), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SETTINGS, "PYTHONPATH": os.pathsep.join(folders)}.items():
            patch.setenv(name, value)
        if not _forks:
            _forks.append(ForkServer((*SITE, *LOADED)))
            atexit.register(_forks[0].close)
        with lean(), _forks[0].serving():
            yield


def end_local_cluster() -> None:
    """Ends what :func:`local_cluster` left running, if it did."""
    _kept.clear()
    if "ray" in sys.modules:
        import ray

        with ray_warnings():
            ray.shutdown()


def environment_of_a_driver() -> dict[str, str]:
    """The environment of a driver that is killed: what it leaves behind ends as early as it would for a user."""
    return {key: value for key, value in os.environ.items() if key not in (PATIENCE_WITH_RAY, "MLFLOW_TRACKING_URI")}


HERE = "/proc/self/cwd"
"""A folder that each process takes for its own working directory: of a node that was started in another one, another.

So a shard ``HERE/NAME.h5`` is seen by the processes of one node alone, though all nodes are on one machine.
"""


@contextmanager
def ray_warnings() -> Iterator[None]:
    """Ray leaves sockets, pipes and processes to the garbage collector, and warns of its own future."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ResourceWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\.")
        yield
