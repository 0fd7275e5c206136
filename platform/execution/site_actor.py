"""The process of a member: a Ray actor that holds one site, and a pool of such actors that outlive an executor."""

from __future__ import annotations

import gc
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from fedrecon.platform.execution.lost_ray import kill
from fedrecon.platform.execution.shared_memory import PackedMessage, SharedMemoryError, SiteEndpoint, Unreachable
from fedrecon.sites.member.error_text import LOG, within_walls
from fedrecon.sites.wire import Description, TrainRequest

if TYPE_CHECKING:
    from fedrecon.sites.member.site import Site
    from fedrecon.sites.member.site_plan import SitePlan

Change = tuple[str, tuple[Any, ...]]
"""A method that changes the site permanently, and the arguments of the method."""

RELEASED = 10.0
"""Time in seconds for an idle actor to say that it has released its site."""


@dataclass(frozen=True)
class Tenancy:
    """For whom an actor works: the executor's ``token`` for a member, and the ``plan`` of its site.

    The plan travels with the first call, and again to a process that has lost it; else it is None. ``standing`` and
    ``kept`` are of the call's request: they are the member's alone.
    """

    token: str
    plan: SitePlan | None = None
    standing: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)

    def completed(self, argument: Any) -> Any:
        """An argument of the call; a request gets what is the member's alone."""
        if not isinstance(argument, TrainRequest):
            return argument
        return replace(argument, standing=self.standing, kept=self.kept)


def rounds_of(arguments: Sequence[Any], member: str) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """``standing`` and ``kept`` of the request among the arguments, of the member alone; empty without a request."""
    request = next((one.of(member) for one in arguments if isinstance(one, TrainRequest)), None)
    return ({}, {}) if request is None else (request.standing, request.kept)


@dataclass(frozen=True)
class Vacant:
    """The answer of a process that has no site of this tenancy, and got no plan. It has not done anything yet."""


class SiteActor:
    """A process that holds the site of its tenant, with its own threads and its own GPU.

    It starts empty. A restarted process makes the same site again, and an actor of the pool another one.
    """

    def __init__(self) -> None:
        self._token, self._changed, self._endpoint = "", 0, SiteEndpoint()
        self._plan: SitePlan | None = None
        self._site: Site | None = None

    def call(self, tenancy: Tenancy, changes: Sequence[Change], method: str, *arguments: Any) -> tuple[int, str, Any]:
        """Calls a method of the site. The first call makes the site, so a problem with its shard is an error of it.

        Args:
            tenancy: whose site is called. Another tenant's site is released first.
            changes: all changes that the executor has made to the site. A restarted process makes them again.
            method: name of the method.
            arguments: arguments of the method. A request may be a :class:`PackedMessage`; then the reply is packed too
                if it has a buffer.

        Returns:
            the process id (a new one shows the executor that the actor was restarted), the id of the Ray node, and the
            answer of the site.
        """
        plan = tenancy.plan or self._plan
        with within_walls(Path(plan.memory) / LOG if plan is not None and plan.memory is not None else None):
            return self._answer(tenancy, changes, method, arguments)

    def _answer(
        self, tenancy: Tenancy, changes: Sequence[Change], method: str, arguments: tuple[Any, ...]
    ) -> tuple[int, str, Any]:
        from fedrecon.sites.member.gate import call

        node = ray.get_runtime_context().get_node_id()
        if tenancy.token != self._token:
            if tenancy.plan is None:
                return os.getpid(), node, Vacant()
            self.release()
            self._token, self._plan = tenancy.token, tenancy.plan
        site = self._opened()
        for name, given in changes[self._changed :]:
            call(site, name, given)
        self._changed = len(changes)
        try:
            ready = [self._endpoint.receive(one) if isinstance(one, PackedMessage) else one for one in arguments]
        except SharedMemoryError as error:
            return os.getpid(), node, Unreachable(str(error))
        back = next((one.back for one in arguments if isinstance(one, PackedMessage)), None)
        if back is not None:
            site.train_in(lambda length: self._endpoint.room(back, length))
        result = call(site, method, tuple(map(tenancy.completed, ready)))
        if isinstance(result, Description):
            result = replace(result, node=node, gpus=tuple(str(gpu) for gpu in ray.get_gpu_ids()))
        return os.getpid(), node, self._endpoint.send(result, back)

    def release(self) -> None:
        """Lets go of the site with its shards, its network and its private memory, and of the shared buffers."""
        held = self._site is not None
        self._token, self._plan, self._site, self._changed, self._endpoint = "", None, None, 0, SiteEndpoint()
        if not held:
            return
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _opened(self) -> Site:
        if self._site is None:
            import torch

            from fedrecon.sites.member.site import Site

            assert self._plan is not None
            torch.set_num_threads(self._plan.threads)
            self._site = Site(self._plan)
        return self._site


def kind_of(options: Mapping[str, Any], plan: SitePlan) -> Hashable:
    """What an actor that is used again must be alike in: resources, restarts, plug-ins, and its bundle or its member.

    Args:
        options: Ray's options of the actor.
        plan: the plan of its site. Plug-ins were loaded into the process: with others it would not be as new.
    """
    given = dict(options)
    bound = given.pop("scheduling_strategy", None)
    place = plan.member if bound is None else (bound.placement_group.id, bound.placement_group_bundle_index)
    plugins = tuple((one.file, *sorted(one.sources.items())) for one in plan.plugins)
    alike = {name: tuple(sorted(one.items())) if isinstance(one, Mapping) else one for name, one in given.items()}
    return place, tuple(sorted(alike.items())), plugins


class ActorPool:
    """Actors between two executors of one process: a process that has imported torch is not started anew.

    An actor is used again where Ray would put the same actor: with the same resources, in the same bundle, with the
    same number of restarts. It has released its site before. What the next executor cannot use is ended, because it
    would hold resources that the executor waits for. See docs/decisions/031.
    """

    def __init__(self) -> None:
        self._idle: dict[Hashable, tuple[Any, Any]] = {}

    def take(self, wanted: Mapping[str, Hashable]) -> dict[str, Any]:
        """The idle actors, by member. All others are ended, and so is one that does not answer.

        Args:
            wanted: by member, what an actor must be alike in.
        """
        taken = {}
        for member, key in wanted.items():
            actor, released = self._idle.pop(key, (None, None))
            if actor is None:
                continue
            try:
                ray.get(released, timeout=RELEASED)
            except RayError:  # its process died, or it does not answer
                kill(actor)
            else:
                taken[member] = actor
        self.close()
        return taken

    def give(self, key: Hashable, actor: Any) -> None:
        """Takes an actor that no call waits for. It releases its site now."""
        self._idle[key] = actor, actor.release.remote()

    def close(self) -> None:
        """Ends the idle actors."""
        for actor, _ in self._idle.values():
            kill(actor)
        self._idle.clear()
