"""Shards that lie on other nodes of a cluster: their labels are read, and they are scored, by a task on the own node.

Labels and scores come here; what goes there is a trained network. No data leave the node.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from fedrecon.platform import placement
from fedrecon.platform.crew import at, cause_of
from fedrecon.platform.crew_ray import RESTART_TIMEOUT, connect, free, nodes, seated, seats
from fedrecon.platform.unseen import needed
from fedrecon.sites.errors import InputError, RunError
from fedrecon.sites.shard import Shard

if TYPE_CHECKING:
    from fedrecon.platform.resources import Resources
    from fedrecon.platform.trained import Trained
    from fedrecon.platform.unseen import Unseen
    from fedrecon.sites.acquisition import Acquisition

TIMEOUT = 60.0
"""Seconds for a node to read a shard's labels, or a member's private part of the network."""

PATIENCE = 5.0
"""Seconds between two looks at whether a site's node is still there."""

OUTSIDE = {"scheduling_strategy": "DEFAULT"}
"""Ray's option that keeps a task out of its caller's placement group, whose bundles may be on other nodes."""

Columns = dict[str, Any]
"""Of ``scores.parquet``."""

Private = Mapping[str, Any]


def remote_shards(paths: Mapping[str, str], address: str) -> dict[str, Shard]:
    """The shards by site name as their own nodes see them; only labels come here, no data.

    Raises:
        InputError: the node says what is wrong with the path. RunError: no answer.
    """
    with connected(address):
        answers = _answers(ray.remote(labels), {site: (path,) for site, path in paths.items()}, "what is in its shard")
    for site, fields in answers.items():
        if "error" in fields:
            raise InputError(f"site '{site}', on its own node: {fields['error']}")
    return {site: Shard(**fields) for site, fields in answers.items()}


def labels(path: str) -> dict[str, Any]:
    """All fields of the shard at ``path``, or under ``error`` what is wrong with it."""
    try:
        return dict(vars(Shard.open(path)))
    except InputError as error:
        return {"error": str(error)}


@dataclass(frozen=True)
class Errand:
    """A test as it travels to the nodes of the sites.

    Attributes:
        trained: what is tested. operators: by site. unseen: what is said of sites that did not train.
        parts: where a method that adapts to each slice keeps what it has scored already.
    """

    trained: Trained
    operators: Mapping[str, Acquisition]
    unseen: Unseen
    parts: Path

    def score(self, name: str, shard: Shard, private: Mapping[str, Private]) -> list[Columns]:
        """Scores a site, on its own node; ``private`` are the parts of the network that came along, by member."""
        from fedrecon.platform.evaluate import scored

        # A node that does not share the workspace keeps no parts: nobody would ever take them away from there.
        parts = self.parts if self.parts.parent.is_dir() else None
        trained = replace(self.trained, private=private)
        return list(scored(trained, {name: shard}, self.operators, self.unseen, lambda _: None, parts))


def scored_there(
    errand: Errand,
    shards: Mapping[str, Shard],
    resources: Resources,
    address: str | None,
    bundles: Sequence[str] = (),
) -> list[Columns]:
    """As :func:`fedrecon.platform.evaluate.scored`, each site on its own node, all at once, with an actor's share.

    Args:
        resources: of the experiment; a site whose process dies is scored again ``max_restarts`` times.
        address, bundles: see :class:`fedrecon.platform.crew_ray.RayCrew`.

    Raises:
        RunError: names the site that cannot be placed, that fails, or whose node is lost for good.
    """
    with connected(address):
        sites = list(shards)
        private, demanded = _private(errand, sites), seats(sites, resources, bundles)
        if not bundles:
            _await_room(demanded, resources.start_timeout)
        options = {one.member: {**one.options(), **OUTSIDE, **seated(one.member, bundles)} for one in demanded}
        # A process of its own for each task: what torch knows of GPUs it learns once.
        ask = ray.remote(max_calls=1, max_retries=0)(Errand.score)
        tests = _Tests(ask, ray.put(errand), shards, private, options, _homes(sites))
        try:
            for name in sites:
                tests.start(name)
            return [columns for name in sites for columns in tests.result(name, resources.max_restarts)]
        finally:
            tests.cancel()


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """In here this process is connected to the cluster; it stays so if it was before."""
    owns = not ray.is_initialized()
    if owns:
        connect(address)
    try:
        yield
    finally:
        if owns:
            ray.shutdown()


@dataclass
class _Tests:
    """The tasks of one errand.

    Attributes:
        ask: the task. errand: a reference to it. private: by site what comes along. options: Ray's, by site.
        homes: what a node must have to be a site's.
    """

    ask: Any
    errand: Any
    shards: Mapping[str, Shard]
    private: Mapping[str, Mapping[str, Private]]
    options: Mapping[str, Mapping[str, Any]]
    homes: Mapping[str, placement.Demand]
    running: dict[str, Any] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Asks for the scores of a site, for the first time or again."""
        task = self.ask.options(**self.options[name])
        self.running[name] = task.remote(self.errand, name, self.shards[name], self.private[name])

    def result(self, name: str, restarts: int) -> list[Columns]:
        """The answer; a site whose process or node died is asked again."""
        died = 0
        while True:
            self._wait(name)
            try:
                found: list[Columns] = ray.get(self.running[name])
            except RayTaskError as error:
                raise RunError(at(name, None, cause_of(error))) from error
            except RayError as error:
                if died == restarts:
                    why = f"died while it was tested, and again after {restarts} restarts: {cause_of(error)}"
                    raise RunError(at(name, None, why)) from error
                died += 1
                self.start(name)
            else:
                return found

    def cancel(self) -> None:
        """Ends what still runs."""
        for reference in self.running.values():
            ray.cancel(reference, force=True)

    def _wait(self, name: str) -> None:
        """Until the answer is there; a task whose node is lost waits for another that may be the site's."""
        seen = time.monotonic()
        while not ray.wait([self.running[name]], timeout=PATIENCE)[0]:
            if _fits(self.homes[name]):
                seen = time.monotonic()
            elif time.monotonic() - seen > RESTART_TIMEOUT:
                raise RunError(at(name, None, f"its node is lost, and none came back within {RESTART_TIMEOUT:.0f} s"))


def _private(errand: Errand, sites: Sequence[str]) -> dict[str, dict[str, Private]]:
    """The private parts that go to each site: what reconstructs there, and is not read there from its own disk."""
    trained = errand.trained
    wanted = {name: needed(trained, name, errand.unseen) for name in sites}
    members = dict.fromkeys(member for each in wanted.values() for member in each)
    found = {member: trained.private_part(member) for member in members if trained.holds(member)}
    # What lies only on its site's node leaves it for another site alone.
    lent = {member: None for name, each in wanted.items() for member in each if member not in found and member != name}
    asked = {member: (trained, member) for member in lent}
    found |= _answers(ray.remote(max_calls=1)(_private_part), asked, "its private part of the network")
    return {name: {member: found[member] for member in each if member in found} for name, each in wanted.items()}


def _private_part(trained: Trained, member: str) -> Private:
    return trained.private_part(member)


def _answers(task: Any, questions: Mapping[str, tuple[Any, ...]], what: str) -> dict[str, Any]:
    """What the sites' nodes answer, by site; a question takes no share of a node.

    Raises:
        RunError: one does not tell ``what``.
    """
    homes = _homes(list(questions)) if questions else {}
    pending = {site: task.options(**one.options(), **OUTSIDE).remote(*questions[site]) for site, one in homes.items()}
    answers = {}
    for site, reference in pending.items():
        try:
            answers[site] = ray.get(reference, timeout=TIMEOUT)
        except (GetTimeoutError, RayTaskError) as error:
            raise RunError(at(site, None, f"its node did not tell {what}: {cause_of(error)}")) from error
    return answers


def _homes(sites: Sequence[str]) -> dict[str, placement.Demand]:
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
