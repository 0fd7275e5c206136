"""``fedrecon doctor``: looks at all that a run needs, before the run does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fedrecon.platform.setup import machine_checks as machine
from fedrecon.platform.setup import service_checks as services
from fedrecon.platform.setup.finding import Check, Finding, findings
from fedrecon.sites.phases import phase


def examine(
    workspace: Path,
    *,
    sites: Path | None = None,
    in_process: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Iterator[Finding]:
    """Looks at this machine, one check after the other. It changes nothing, and leaves nothing behind.

    Args:
        workspace: the folder of the runs; it need not exist yet.
        sites: a folder of shards, which are read through; None opens those below ``data/``.
        in_process: leaves Ray out, as ``fedrecon run --in-process`` does.
        address: address of a Ray cluster; None starts Ray on this machine, and ends it.
        tracking_uri: address of an MLflow server; None takes MLFLOW_TRACKING_URI, or the workspace's own file.
    """
    checks: dict[str, Check] = {
        "python": machine.check_python,
        "packages": machine.check_packages,
        "gpu": machine.check_gpus,
        "memory": machine.check_memory,
        "disk": partial(machine.check_disks, workspace),
        "shared memory": machine.check_shared_memory,
        "ports": machine.check_ports,
        **({} if in_process else {"ray": partial(services.check_ray, address)}),
        "store": partial(services.check_store, workspace, tracking_uri),
        "runs": partial(services.check_runs, workspace),
        "plug-ins": services.check_plugins,
        "shards": partial(services.check_shards, sites),
    }
    for name, check in checks.items():
        with phase(f"looking at {name}"):
            found = [*findings(name, check)]
        yield from found
