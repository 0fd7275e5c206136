"""A shard that changes while a run uses it stops the run, and nothing of other data is merged."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from clusters import local_cluster
from ray_executors import ray_executor
from tiny import Federation, write_consortium

from fedrecon.sites.data.seal import seal
from fedrecon.sites.errors import RunError
from fedrecon.sites.member.site import Site
from fedrecon.strategies.fedavg import FedAvg


@pytest.fixture
def federation(tmp_path):
    return Federation(FedAvg(), write_consortium(tmp_path / "sites"), tmp_path / "memory")


def edit(path: Path, site: str = "middle") -> None:
    with h5py.File(path, "r+") as file:
        file[f"{site}-train/kspace"][0] *= 1.01


def edit_and_seal(path: Path, site: str = "middle") -> None:
    edit(path, site)
    seal(path)


def remove(path: Path, site: str) -> None:
    path.unlink()


def cut(path: Path, site: str = "") -> None:
    """What a memory-mapped file does not survive: the process that reads it is killed by SIGBUS."""
    os.truncate(path, path.stat().st_size // 2)


CHANGES = {"edited": edit, "sealed": edit_and_seal, "gone": remove, "cut": cut}


def request(federation):
    return federation.method.request(federation.begin())


@pytest.mark.slow
@pytest.mark.parametrize("case", CHANGES)
def test_between_two_rounds(case, federation):
    executor, path, asked = federation.executor(), federation.paths["middle"], request(federation)
    list(executor.fit(asked))
    CHANGES[case](path, "middle")
    with pytest.raises(RunError, match=r"site 'middle', round 1: .*changed during the run") as error:
        list(executor.fit(asked))
    assert str(path) in str(error.value)
    with pytest.raises(RunError, match="site 'middle'"):
        executor.evaluate(asked, "test")


@pytest.mark.slow
def test_while_a_site_trains(federation, monkeypatch):
    executor, path = federation.executor(), federation.paths["middle"]
    site = executor.sites["middle"]
    fit = site.fit
    monkeypatch.setattr(site, "fit", lambda given: (fit(given), edit(path))[0])
    with pytest.raises(RunError, match="site 'middle', round 1: "):
        list(executor.fit(request(federation)))


@pytest.mark.slow
def test_a_shard_that_is_cut_while_a_site_trains_is_named_and_the_driver_lives(federation, monkeypatch):
    executor, path = federation.executor(), federation.paths["north"]
    list(executor.fit(request(federation)))
    site = executor.sites["north"]
    fit = site.fit
    monkeypatch.setattr(site, "fit", lambda given: (cut(path), fit(given))[1])
    with pytest.raises(RunError, match=r"site 'north', round 1: .*north\.h5: is truncated") as refused:
        list(executor.fit(request(federation)))
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("change", [os.utime, lambda path: _copy(path).replace(path)], ids=["touched", "copied"])
def test_a_file_with_the_same_content_goes_on(change, federation):
    executor = federation.executor()
    first = [one.shared.copy() for one in executor.fit(request(federation))]
    for path in federation.paths.values():
        change(path)
    again = [one.shared.copy() for one in executor.fit(request(federation))]
    np.testing.assert_array_equal(first, again)


def _copy(path: Path) -> Path:
    other = path.with_suffix(".copy")
    other.write_bytes(path.read_bytes())
    return other


@pytest.mark.slow
def test_between_the_plan_and_the_start(federation):
    plan = next(plan for plan in federation.plans() if plan.member == "middle")
    Site(plan)
    edit_and_seal(federation.paths["middle"])
    with pytest.raises(RunError, match=r"middle\.h5: the shard changed"):
        Site(plan)


@pytest.mark.ray
def test_an_actor_compares_between_rounds_and_after_a_restart(federation):
    """One actor is asked about each change, and then the process that Ray starts in its place.

    After each change the content comes back, and a site whose content is as it was goes on. A site that is made again
    compares before it opens: it answers nothing until its shard is as the plan says.
    """
    asked, path = request(federation), federation.paths["middle"]
    content = path.read_bytes()
    alone = replace(federation, paths={"middle": path})
    with local_cluster(num_cpus=2), ray_executor(alone, cpus_per_site=0.25, max_restarts=4) as executor:
        (first,) = (one.shared.copy() for one in executor.fit(asked))
        for when in ("between rounds", "after a restart"):
            for case in ("edited", "sealed", "cut"):
                CHANGES[case](path, "middle")
                with pytest.raises(RunError, match=r"site 'middle', round 1: .*middle\.h5"):
                    list(executor.fit(asked))
                path.write_bytes(content)
                if when == "between rounds":
                    (again,) = (one.shared.copy() for one in executor.fit(asked))
                    np.testing.assert_array_equal(first, again)
            if when == "between rounds":
                os.kill(executor.describe()["middle"].pid, signal.SIGKILL)
        (again,) = (one.shared.copy() for one in executor.fit(asked))
        np.testing.assert_array_equal(first, again)
        assert executor.restarts >= 1
