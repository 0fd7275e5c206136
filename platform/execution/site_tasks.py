"""Ray tasks on the sites' own nodes: for what is asked of a site outside the rounds, while it has no actor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from fedrecon.platform.execution import placement
from fedrecon.platform.execution.ray_cluster import RESTART_TIMEOUT, free, nodes, seated, seats
from fedrecon.sites.errors import RunError, at_site, cause_of

if TYPE_CHECKING:
    from fedrecon.platform.config.resources import Resources

ANSWER_TIMEOUT = 60.0
"""Seconds for a node to answer a small question."""

PATIENCE = 5.0
"""Seconds between two looks at whether a site's node is still there."""

OUTSIDE_GROUP = {"scheduling_strategy": "DEFAULT"}
"""Ray's option that keeps a task out of its caller's placement group, whose bundles may be on other nodes."""

Question = tuple[Any, ...]
"""The arguments of one task."""


def ask_sites(function: Callable[..., Any], questions: Mapping[str, Question], subject: str) -> dict[str, Any]:
    """Calls ``function`` once on each site's node; it takes no CPU or GPU from the scheduler.

    Args:
        function: runs in a process of its own. questions: its arguments by site.
        subject: what is asked for, in words, for the error.

    Raises:
        RunError: a node fails, or does not answer in time.
    """
    homes = home_nodes(list(questions)) if questions else {}
    task = ray.remote(max_calls=1)(function)
    pending = {
        site: task.options(**home.options(), **OUTSIDE_GROUP).remote(*questions[site]) for site, home in homes.items()
    }
    answers = {}
    for site, reference in pending.items():
        try:
            answers[site] = ray.get(reference, timeout=ANSWER_TIMEOUT)
        except (GetTimeoutError, RayTaskError) as error:
            raise RunError(at_site(site, None, f"its node did not tell {subject}: {cause_of(error)}")) from error
    return answers


@contextmanager
def site_tasks(
    function: Callable[..., Any],
    shared: Any,
    questions: Mapping[str, Question],
    resources: Resources,
    bundle_members: Sequence[str],
) -> Iterator[SiteTasks]:
    """One started task for each site, each with an actor's share of its node; ended after the body.

    Args:
        function: is called as ``function(shared, *question)``. shared: goes to every site, once.
        bundle_members: members for which this process's placement group holds a bundle; without a group none.

    Raises:
        RunError: a site cannot be placed.
    """
    sites = list(questions)
    demanded = seats(sites, resources, bundle_members)
    if not bundle_members:
        _await_room(demanded, resources.start_timeout)
    options = {one.member: {**one.options(), **OUTSIDE_GROUP, **seated(one.member, bundle_members)} for one in demanded}
    # A process of its own for each task: torch looks for GPUs only once in a process.
    task = ray.remote(max_calls=1, max_retries=0)(function)
    tasks = SiteTasks(task, ray.put(shared), questions, options, home_nodes(sites))
    try:
        for site in sites:
            tasks.start(site)
        yield tasks
    finally:
        tasks.cancel()


@dataclass
class SiteTasks:
    """Tasks that run now, one for each site.

    Attributes:
        task: the remote function. shared: the reference of its first argument. questions: its other arguments by site.
        options: Ray's, by site. homes: what a node must have to be the site's own.
    """

    task: Any
    shared: Any
    questions: Mapping[str, Question]
    options: Mapping[str, Mapping[str, Any]]
    homes: Mapping[str, placement.Demand]
    running: dict[str, Any] = field(default_factory=dict)

    def start(self, site: str) -> None:
        """Starts the task of a site, for the first time or again."""
        self.running[site] = self.task.options(**self.options[site]).remote(self.shared, *self.questions[site])

    def result(self, site: str, restarts: int) -> Any:
        """The result; a task whose process or node died is started again, at most ``restarts`` times.

        Raises:
            RunError: the function failed, died too often, or its node is lost for good.
        """
        died = 0
        while True:
            self._wait(site)
            try:
                return ray.get(self.running[site])
            except RayTaskError as error:
                raise RunError(at_site(site, None, cause_of(error))) from error
            except RayError as error:
                if died == restarts:
                    why = f"died while it was tested, and again after {restarts} restarts: {cause_of(error)}"
                    raise RunError(at_site(site, None, why)) from error
                died += 1
                self.start(site)

    def cancel(self) -> None:
        """Ends what still runs."""
        for reference in self.running.values():
            ray.cancel(reference, force=True)

    def _wait(self, site: str) -> None:
        """Waits for the answer. A task whose node is lost waits for another node that carries the site's name."""
        seen = time.monotonic()
        while not ray.wait([self.running[site]], timeout=PATIENCE)[0]:
            if _fits(self.homes[site]):
                seen = time.monotonic()
            elif time.monotonic() - seen > RESTART_TIMEOUT:
                lost = f"its node is lost, and none came back within {RESTART_TIMEOUT:.0f} s"
                raise RunError(at_site(site, None, lost))


def home_nodes(sites: Sequence[str]) -> dict[str, placement.Demand]:
    """By site, the demand that its own node alone can fill; it takes no CPU and no GPU."""
    return {one.member: one for one in placement.demands(sites, nodes(), cpus=0.0, gpus=0.0)}


def _fits(home: placement.Demand) -> bool:
    try:
        placement.check([home], nodes())
    except RunError:
        return False
    return True


def _await_room(demanded: Sequence[placement.Demand], patience: float) -> None:
    """Waits for room that others hold, as long as actors do; then refuses."""
    start = time.monotonic()
    while True:
        waited = time.monotonic() - start
        try:
            return placement.check(demanded, free(), waited)
        except RunError:
            if waited > patience:
                raise
        time.sleep(0.5)
