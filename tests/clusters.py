"""A local Ray for the tests."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def local_cluster(**options: Any) -> Iterator[None]:
    """A local Ray that this process is connected to."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "1"
    with ray_warnings():
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", **options)
        try:
            yield
        finally:
            ray.shutdown()


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
