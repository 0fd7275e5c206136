"""The ``resources`` block of an experiment: where the experiment runs. Loads neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedrecon.sites.plugin import Settings

Share = Annotated[float, Field(ge=0, le=4096)]
"""A number of processors of a node, or a fraction of one."""

GpuShare = Annotated[float, Field(ge=0, le=1)]
"""A fraction of one GPU: a site computes on one device (docs/decisions/030-trials-and-gpus.md)."""

LATE, DEAD, UNSCORED = "late", "dead", "dead when it was scored"
"""The reasons why a member missed a reply. Only the last one changes no training."""

Missed = Mapping[str, Mapping[str, str]]
"""Missed replies: the reason by member, by round (``"3"``) or ``"test"``. Rounds in which all replied are left out."""


class Resources(Settings):
    """Where an experiment runs; no part of its digest.

    Attributes:
        gpus_per_site: share of one GPU for one site's actor, at most 1: a site computes on one device. auto shares the
            GPUs of the nodes.
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
        fit_timeout: time in seconds for a site to answer one call: start, fit, scores, pictures, tuning. Then its
            process is ended, started again and asked again, with the same bits; that is one restart. auto is ten times
            the longest call of this run, at least 600, and twice as long each time that the same call is made again.
            It needs actors: nothing can end a site in the driver's own process.
        straggler: wait (a site that did not answer in fit_timeout is asked again) or skip (it misses this round, if
            min_sites others reply). A round without a reply has other bits. So an experiment that does not allow this
            neither returns to such a run nor takes over its training.
    """

    gpus_per_site: Literal["auto"] | GpuShare = "auto"
    cpus_per_site: Literal["auto"] | Share = "auto"
    threads: int = Field(1, ge=1, le=512)
    crew: Literal["auto", "actors", "in-process"] = "actors"
    max_restarts: int = Field(10, ge=0, le=10**6)
    min_sites: int | None = Field(None, ge=1, le=10**6)
    start_timeout: float = Field(25.0, gt=0, le=10**6)
    fit_timeout: Literal["auto"] | Annotated[float, Field(gt=0, le=10**7)] = "auto"
    straggler: Literal["wait", "skip"] = "wait"

    @field_validator("gpus_per_site", mode="before")
    @classmethod
    def _one_device(cls, value: object) -> object:
        if isinstance(value, int | float) and value > 1:
            raise ValueError(
                f"is {value}, but a site computes on one GPU: a second one would stand idle. Allowed: auto, 0 to 1"
            )
        return value

    @field_validator("straggler")
    @classmethod
    def _needs_min_sites(cls, value: str, info: ValidationInfo) -> str:
        if value == "skip" and info.data.get("min_sites", 0) is None:
            raise ValueError("'skip' needs resources.min_sites: the smallest number of sites that must reply")
        return value

    def allows(self, missed: Missed, n_members: int) -> bool:
        """Whether a run of these members that missed these replies is one that these resources could have had.

        A dead site may be missing down to ``min_sites``; one that was merely late only under ``straggler: skip``.
        """
        fewest = self.min_sites or n_members
        late = any(LATE in each.values() for each in missed.values())
        return (self.straggler == "skip" or not late) and all(n_members - len(one) >= fewest for one in missed.values())
