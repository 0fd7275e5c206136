"""The crew on Ray: one actor per member, restarted when its process dies, never silently left out."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError

from fedrecon.platform import placement
from fedrecon.platform.crew import at
from fedrecon.sites.errors import RunError
from fedrecon.sites.site import Site

if TYPE_CHECKING:
    from fedrecon.platform.experiment import Resources
    from fedrecon.sites.settings import Operator, Plan
    from fedrecon.sites.wire import Order, Reply, Scores

READY_TIMEOUT = 600.0
"""Seconds for a placed actor to import torch and open its shard, on a machine that is busy."""

RESTART_TIMEOUT = 600.0
"""Seconds for a dead actor to come back, on its own node or on another that carries its label."""


class SiteActor(Site):
    """A site as a Ray actor: the same class, on its own threads and its own GPU."""

    def __init__(self, plan: Plan) -> None:
        import torch

        torch.set_num_threads(plan.threads)
        super().__init__(plan)

    def describe(self) -> dict[str, Any]:
        """Adds the node and the GPUs that Ray gave this actor."""
        context = ray.get_runtime_context()
        gpus = [str(gpu) for gpu in ray.get_gpu_ids()]
        return {**super().describe(), "node": context.get_node_id(), "gpus": gpus}


class RayCrew:
    """Members as actors on the running cluster, or on a local one that this crew starts and stops.

    Args:
        plans: one per member, in the roster's order.
        resources: of the experiment.
        address: of a running cluster; None starts one on this machine. A cluster that this process is connected to
            already (a notebook, a Tune trial) is used as it is and left running.
    """

    def __init__(self, plans: Sequence[Plan], resources: Resources, address: str | None = None) -> None:
        self.resources, self.plans = resources, {plan.member: plan for plan in plans}
        self.restarts = 0
        self.dead: dict[str, str] = {}
        self._owns = not ray.is_initialized()
        if self._owns:
            _connect(address)
        try:
            self.actors = self._start()
        except BaseException:
            self.close()
            raise

    def fit(self, order: Order) -> Iterator[Reply]:
        """See :class:`Crew`. Replies are taken from Ray's store one by one, and only read there."""
        reference = ray.put(order)
        yield from self._each("fit", (reference,), order.round)

    def evaluate(self, order: Order, split: str) -> list[Scores]:
        """See :class:`Crew`."""
        return list(self._each("evaluate", (ray.put(order), split)))

    def panels(self, order: Order, split: str, note: str) -> dict[str, bytes]:
        """See :class:`Crew`."""
        pictures: dict[str, bytes] = {}
        for one in self._each("panel", (ray.put(order), split, note)):
            pictures |= one
        return pictures

    def private(self, order: Order) -> dict[str, Mapping[str, Any]]:
        """See :class:`Crew`."""
        return {name: one for name, one in self._named("private_parameters", (ray.put(order),)) if one}

    def tune(self) -> dict[str, dict[str, Any]]:
        """See :class:`Crew`."""
        return dict(self._named("tune", ()))

    def measure_with(self, operators: Mapping[str, Operator]) -> None:
        """See :class:`Crew`."""
        ray.get([
            self.actors[name].measure_with.remote({site: operators[site] for site in plan.shards})
            for name, plan in self.plans.items()
        ])  # fmt: skip

    def describe(self) -> dict[str, dict[str, Any]]:
        """See :class:`Crew`."""
        return dict(self._named("describe", ()))

    def close(self) -> None:
        """Ends the actors, and the cluster if this crew started it."""
        for actor in getattr(self, "actors", {}).values():
            ray.kill(actor)
        self.actors: dict[str, Any] = {}
        if self._owns and ray.is_initialized():
            ray.shutdown()

    def _start(self) -> dict[str, Any]:
        asked = self.resources
        demanded = placement.demands(list(self.plans), ray.nodes(), asked.cpus_per_site, asked.gpus_per_site)
        placement.check(demanded, ray.nodes())
        remote = ray.remote(SiteActor)
        actors = {
            one.member: remote.options(
                max_restarts=asked.max_restarts, max_task_retries=0, **one.options()
            ).remote(self.plans[one.member])
            for one in demanded
        }
        self._await({one.member: (one, actors[one.member]) for one in demanded})
        return actors

    def _await(self, starting: dict[str, tuple[placement.Demand, Any]]) -> None:
        """Waits until every actor has opened its shard; names the one that finds no room."""
        pending = {actor.describe.remote(): member for member, (_, actor) in starting.items()}
        start = time.monotonic()
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1, timeout=2.0)
            for reference in done:
                member = pending.pop(reference)
                try:
                    ray.get(reference)
                except (RayActorError, RayTaskError) as error:
                    raise RunError(at(member, None, f"could not start: {_cause(error)}")) from error
            waited = time.monotonic() - start
            if pending and waited > self.resources.start_timeout:
                self._check_room([starting[member][0] for member in pending.values()], waited)

    def _check_room(self, demanded: Sequence[placement.Demand], waited: float) -> None:
        free = ray.available_resources()
        for one in demanded:
            short = {
                name: amount
                for name, amount in (("CPU", one.cpus), ("GPU", one.gpus))
                if free.get(name, 0) < amount
            }
            if short or waited > READY_TIMEOUT:
                lacks = ", ".join(
                    f"{name} {amount:g} (free: {free.get(name, 0):g})" for name, amount in short.items()
                )
                raise RunError(
                    at(
                        one.member,
                        None,
                        f"not started after {waited:.0f} s ({one}); lacking: {lacks or 'nothing'}",
                    )
                )

    def _each(
        self, method: str, arguments: tuple[Any, ...], round_number: int | None = None
    ) -> Iterator[Any]:
        for _, result in self._named(method, arguments, round_number):
            yield result

    def _named(
        self, method: str, arguments: tuple[Any, ...], round_number: int | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Starts the call everywhere, then takes the results in the roster's order."""
        alive = [name for name in self.actors if name not in self.dead]
        calls: dict[str, Callable[[], Any]] = {
            name: lambda name=name: getattr(self.actors[name], method).remote(*arguments)  # type: ignore[misc]
            for name in alive
        }
        running = {name: call() for name, call in calls.items()}
        for name in alive:
            try:
                result = self._result(name, running.pop(name), calls[name], round_number)
            except _StaysDeadError as error:
                self._bury(name, round_number, str(error))
                continue
            yield name, result
            del result

    def _result(self, name: str, reference: Any, again: Callable[[], Any], round_number: int | None) -> Any:
        """The call's result; a member whose process died is asked again once it is back."""
        while True:
            try:
                return ray.get(reference)
            except RayTaskError as error:
                raise RunError(at(name, round_number, _cause(error))) from error
            except ActorDiedError as error:
                raise _StaysDeadError(_cause(error)) from error
            except ActorUnavailableError:
                self.restarts += 1
                self._await_return(name)
                reference = again()

    def _await_return(self, name: str) -> None:
        """Waits until the restarted actor answers, here or on another node that may hold it."""
        deadline = time.monotonic() + RESTART_TIMEOUT
        while time.monotonic() < deadline:
            try:
                ray.get(self.actors[name].__ray_ready__.remote(), timeout=5.0)
            except (ActorUnavailableError, GetTimeoutError):
                time.sleep(0.2)
            except ActorDiedError as error:
                raise _StaysDeadError(_cause(error)) from error
            else:
                return
        raise _StaysDeadError(f"did not come back within {RESTART_TIMEOUT:.0f} s")

    def _bury(self, name: str, round_number: int | None, reason: str) -> None:
        self.dead[name] = reason
        alive, wanted = len(self.actors) - len(self.dead), self.resources.min_sites
        if wanted is None or alive < wanted:
            rule = "resources.min_sites is not set" if wanted is None else f"resources.min_sites is {wanted}"
            raise RunError(
                at(name, round_number, f"stays dead after {self.resources.max_restarts} restarts: {reason}")
                + f" The run stops here: {alive} of {len(self.actors)} sites are left, and {rule}."
            )


class _StaysDeadError(Exception):
    """A member used up its restarts."""


def _connect(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without it an actor that asked for no GPU sees all of its node's (ray#54868).
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address in (None, "local"):
        options |= {"include_dashboard": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ray.init(address=address or "local", **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RunError(f"Ray at '{address or 'local'}' cannot be reached: {error}") from error
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_uid == os.getuid():
        token.chmod(0o600)  # Ray writes it readable for all


def _cause(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    text = str(cause).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1]}" if len(lines) > 6 else text
