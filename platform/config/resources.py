"""The ``resources`` block of an experiment: where the experiment runs. Loads neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedrecon.sites.plugin import Settings

Share = Annotated[float, Field(ge=0, le=4096)]
"""A number of processors of a node, or a fraction of one."""


class Resources(Settings):
    """Where an experiment runs; no part of its digest.

    Attributes:
        gpus_per_site: number of GPUs of one site's actor; fractions are allowed. auto shares the GPUs of the nodes.
        cpus_per_site: number of CPUs that the scheduler counts for one site's actor; auto shares the CPUs of the nodes.
            It sets no thread count.
        threads: number of torch threads of a site. One thread is the fastest if sites share a machine. The number
            changes the last bits of a result, so it is the same at all sites, and the run records it.
        crew: actors (Ray), in-process (no Ray; the same contract and the same bits), or auto. auto chooses in-process
            if one device holds all sites anyway, and actors if there are several GPUs or nodes.
        max_restarts: number of times that a site is restarted in a run; a site that dies once more counts as dead.
        min_sites: smallest number of living sites with which a run goes on when other sites stay dead. None stops the
            run when a site stays dead.
        start_timeout: time in seconds after which a site that cannot be placed is an error.
    """

    gpus_per_site: Literal["auto"] | Share = "auto"
    cpus_per_site: Literal["auto"] | Share = "auto"
    threads: int = Field(1, ge=1, le=512)
    crew: Literal["auto", "actors", "in-process"] = "actors"
    max_restarts: int = Field(10, ge=0, le=10**6)
    min_sites: int | None = Field(None, ge=1, le=10**6)
    start_timeout: float = Field(25.0, gt=0, le=10**6)
