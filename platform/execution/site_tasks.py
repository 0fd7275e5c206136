"""Ray tasks on the sites' own nodes, for work outside the rounds, when the sites have no actors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from fedrecon.platform.execution import placement
from fedrecon.platform.execution.liveness import Watch
from fedrecon.platform.execution.lost_ray import check_ray, put
from fedrecon.platform.execution.ray_cluster import RESTART_TIMEOUT, bundle_option, free, member_demands, nodes
from fedrecon.sites.errors import RunError, at_site, cause_of
from fedrecon.sites.member.error_text import walled

if TYPE_CHECKING:
    from fedrecon.platform.config.resources import Resources

ANSWER_TIMEOUT = 60.0
"""Time in seconds for a node to answer a small question."""

PATIENCE = 5.0
"""Time in seconds between two checks whether a site's node still exists."""

OUTSIDE_GROUP = {"scheduling_strategy": "DEFAULT"}
"""Ray's option that keeps a task out of its caller's placement group, whose bundles may be on other nodes."""

Question = tuple[Any, ...]
"""The arguments of one task."""


def ask_sites(function: Callable[..., Any], questions: Mapping[str, Question], subject: str) -> dict[str, Any]:
    """Calls ``function`` once on each site's node; it takes no CPU or GPU from the scheduler.

    Args:
        function: function to call, in its own process.
        questions: arguments of the function, by site.
        subject: name of the requested information, for the error message.

    Raises:
        RunError: the function fails on a node, or a node does not answer in time.
    """
    homes = home_nodes(list(questions)) if questions else {}
    task = ray.remote(max_calls=1)(walled(function))
    pending = {
        site: task.options(**home.options(), **OUTSIDE_GROUP).remote(*questions[site]) for site, home in homes.items()
    }
    answers = {}
    for site, reference in pending.items():
        try:
            answers[site] = ray.get(reference, timeout=ANSWER_TIMEOUT)
        except (GetTimeoutError, RayTaskError) as error:
            raise RunError(at_site(site, None, f"its node did not send {subject}: {cause_of(error)}")) from error
    return answers


@contextmanager
def site_tasks(
    function: Callable[..., Any],
    shared: Any,
    questions: Mapping[str, Question],
    resources: Resources,
    bundle_members: Sequence[str],
    watch: Watch | None = None,
) -> Iterator[SiteTasks]:
    """Starts one task for each site, with the same resources as an actor. The tasks are ended after the body.

    Args:
        function: function that is called as ``function(shared, *question)``.
        shared: first argument for all sites; it is stored once.
        questions: other arguments of the function, by site.
        resources: resources of the experiment.
        bundle_members: members that have a bundle in this process's placement group; empty without a group.
        watch: clock of the tasks; None makes one that says nothing.

    Raises:
        RunError: a site cannot be placed.
    """
    sites = list(questions)
    demanded = member_demands(sites, resources, bundle_members)
    if not bundle_members:
        _await_room(demanded, resources.start_timeout)
    options = {
        one.member: {**one.options(), **OUTSIDE_GROUP, **bundle_option(one.member, bundle_members)} for one in demanded
    }
    # Each task has its own process, because torch looks for GPUs only once in a process.
    task = ray.remote(max_calls=1, max_retries=0)(walled(function))
    watch = watch or Watch()
    watch.patience.fit_timeout = None if resources.fit_timeout == "auto" else resources.fit_timeout
    tasks = SiteTasks(task, put(shared), questions, options, home_nodes(sites), watch)
    watch.ask("test", None, sites)
    try:
        for site in sites:
            tasks.start(site)
        yield tasks
    finally:
        tasks.cancel()


@dataclass
class SiteTasks:
    """Running tasks, one for each site.

    Attributes:
        task: remote function.
        shared: reference of its first argument.
        questions: its other arguments, by site.
        options: Ray's options of the task, by site.
        homes: demand that only the site's own node can meet, by site.
        watch: clock of the tasks.
        running: reference of the result, by site.
    """

    task: Any
    shared: Any
    questions: Mapping[str, Question]
    options: Mapping[str, Mapping[str, Any]]
    homes: Mapping[str, placement.Demand]
    watch: Watch = field(default_factory=Watch)
    running: dict[str, Any] = field(default_factory=dict)

    def start(self, site: str) -> None:
        """Starts the task of a site, for the first time or again."""
        self.running[site] = self.task.options(**self.options[site]).remote(self.shared, *self.questions[site])

    def result(self, site: str, restarts: int) -> Any:
        """The result of a site's task. A task that died or took too long is started again, ``restarts`` times at most.

        Raises:
            RunError: the function failed, its process died too often, or its node is lost and none came back.
        """
        died = 0
        while True:
            self._wait(site)
            try:
                result = ray.get(self.running[site])
                self.watch.answered(site)
                return result
            except RayTaskError as error:
                raise RunError(at_site(site, None, cause_of(error))) from error
            except RayError as error:
                if died == restarts:
                    why = f"died while it was tested, and again after {restarts} restarts: {cause_of(error)}"
                    raise RunError(at_site(site, None, why)) from error
                died += 1
                text = f"died, or did not answer in time, while it was tested; restart {died} of at most {restarts}"
                self.watch.say(at_site(site, None, text))
                self.watch.note("restarted", site, why=cause_of(error))
                self.start(site)
                self.watch.ask_again(site)

    def cancel(self) -> None:
        """Ends the tasks that still run."""
        for reference in self.running.values():
            ray.cancel(reference, force=True)

    def _wait(self, site: str) -> None:
        """Waits for the result. If the site's node is lost, waits for another node that carries the site's name."""
        seen = time.monotonic()
        while not ray.wait([self.running[site]], timeout=min(PATIENCE, self.watch.rest()))[0]:
            self._end_overdue()
            if _fits(self.homes[site]):
                seen = time.monotonic()
            elif time.monotonic() - seen > RESTART_TIMEOUT:
                lost = f"its node is lost, and no node with its name came back within {RESTART_TIMEOUT:.0f} s"
                raise RunError(at_site(site, None, lost))

    def _end_overdue(self) -> None:
        """Names the sites that have not answered, and ends the tasks that have used up their time."""
        check_ray()
        tasks = list(self.running.values())
        _, left = ray.wait(tasks, num_returns=len(tasks), timeout=0)
        for site in self.watch.due([name for name, one in self.running.items() if one in left]):
            ray.cancel(self.running[site], force=True)  # it ends a stopped process too, after some seconds


def home_nodes(sites: Sequence[str]) -> dict[str, placement.Demand]:
    """Demands by site that only the site's own node can meet. They take no CPU and no GPU."""
    return {one.member: one for one in placement.demands(sites, nodes(), cpus=0.0, gpus=0.0)}


def _fits(home: placement.Demand) -> bool:
    try:
        placement.check([home], nodes())
    except RunError:
        return False
    return True


def _await_room(demanded: Sequence[placement.Demand], patience: float) -> None:
    """Waits until the nodes have room, as long as actors wait for it. Then refuses the demands."""
    start = time.monotonic()
    while True:
        waited = time.monotonic() - start
        try:
            return placement.check(demanded, free(), waited)
        except RunError:
            if waited > patience:
                raise
        time.sleep(0.5)
