"""Where an experiment runs; loads neither torch nor ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from fedrecon.sites.plugin import Settings


class Resources(Settings):
    """Where an experiment runs; no part of its digest.

    Attributes:
        gpus_per_site: GPUs of one site's actor, fractions allowed; auto shares what there is.
        cpus_per_site: CPUs of one site's actor for the scheduler; auto shares what there is. It sets no thread count.
        threads: torch threads of a site. One is the fastest where sites share a machine, and the number decides the
            last bits, so it is the same everywhere and recorded.
        crew: actors (Ray), in-process (the same contract and the same bits without Ray), or auto: in-process where one
            device holds all sites anyway, actors where there are several GPUs or nodes.
        max_restarts: how often a site may die in a run before it counts as dead.
        min_sites: go on with so many sites when others stay dead; None stops the run then.
        start_timeout: seconds after which a site that cannot be placed is named.
    """

    gpus_per_site: Literal["auto"] | float = Field("auto")
    cpus_per_site: Literal["auto"] | float = Field("auto")
    threads: int = Field(1, ge=1)
    crew: Literal["auto", "actors", "in-process"] = "actors"
    max_restarts: int = Field(10, ge=0)
    min_sites: int | None = Field(None, ge=1)
    start_timeout: float = Field(25.0, gt=0, allow_inf_nan=False)

    @field_validator("gpus_per_site", "cpus_per_site")
    @classmethod
    def _not_negative(cls, value: Any) -> Any:
        if value != "auto" and not 0 <= value < float("inf"):
            raise ValueError("must be 'auto' or a number that is at least 0")
        return value
