"""``fedrecon init``: what it writes runs as it is and fits data and machine; a person is asked on a terminal only."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from command_line import Called
from plain_pictures import plain_pictures

from fedrecon.commands import init
from fedrecon.platform.catalogue.overview import overviews
from fedrecon.platform.config.experiment import Experiment
from fedrecon.platform.consortium.pace import work
from fedrecon.platform.consortium.shards import open_sites
from fedrecon.platform.runs.context import RunContext
from fedrecon.platform.runs.run import steps
from fedrecon.platform.setup import first_experiment
from fedrecon.platform.setup.first_experiment import accepted, draft, find_sites, sizes
from fedrecon.platform.setup.machine import GIB, Gpu, Machine
from fedrecon.sites.errors import InputError
from fedrecon.strategies import STRATEGIES

SMALL = ["network.channels=2", "network.pools=1"]


@pytest.fixture
def call(capsys):
    return lambda *arguments: Called(capsys, *arguments)


@pytest.fixture(scope="module")
def folder(consortium):
    return str(consortium["north"].parent)


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """No pixel of a picture is looked at here."""
    with plain_pictures():
        yield


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_the_written_file_runs_as_it_is(call, folder):
    done = call("init", "--sites", folder, "--out", "my.yaml", "--json", *SMALL, "training.rounds=1", "name=mine")
    assert done.code == 0
    assert done.json["path"] == "my.yaml"
    assert yaml.safe_load(Path("my.yaml").read_text()) == done.json["experiment"]
    going = steps(Experiment.read("my.yaml"), RunContext(Path("w"), "in-process", records_only=True))
    assert [one.round for one in going] == [1]
    (run,) = overviews(Path("w"))
    assert (run.status, run.rounds, run.name) == ("finished", 1, "mine")


@pytest.mark.slow
def test_a_file_that_exists_is_kept(call, folder):
    Path("my.yaml").write_text("mine")
    given = ("init", "--sites", folder, "--out", "my.yaml", *SMALL)
    assert call(*given).code == 2
    assert call("init", "--sites", folder, "--out", ".", *SMALL).code == 2
    assert Path("my.yaml").read_text() == "mine"
    assert call(*given, "--dry-run").out.startswith("# ")
    assert Path("my.yaml").read_text() == "mine"
    assert call(*given, "--overwrite", "training.rounds=1").code == 0
    assert Experiment.read("my.yaml").rounds == 1


@pytest.mark.parametrize("wrong", [["strategy.name=fedavgg"], ["operator.acceleration=1000"], ["nonsense"]])
def test_what_a_run_would_refuse_is_refused_before_it_is_written(call, folder, wrong):
    assert call("init", "--sites", folder, "--out", "my.yaml", *wrong).code == 2
    assert not Path("my.yaml").exists()


def test_the_folder_below_data_is_the_default_if_it_is_the_only_one(folder):
    with pytest.raises(InputError, match="--sites"):
        find_sites()
    Path("data").mkdir()
    Path("data/one").symlink_to(folder)
    assert find_sites() == "data/one"
    Path("data/two").symlink_to(folder)
    with pytest.raises(InputError, match="data/one, data/two"):
        find_sites()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("task", ["reconstruction", "super-resolution"])
def test_the_defaults_are_accepted_for_each_strategy_and_task(folder, strategy, task):
    """Or refused for a reason of the method: it names a part of the network, or works on k-space alone."""
    given = [f"strategy.name={strategy}", f"task={task}"]
    own = {"fedbn": ["network.norm=batch"], "hyperfed": ["network.name=film"]}.get(strategy, [])
    if own and task == "super-resolution":
        pytest.skip("no network of super-resolution has the layers that this method keeps")
    raw = accepted(folder, [*given, *own])
    assert (raw["task"], raw["strategy"]["name"]) == (task, strategy)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Machine(8, 64 * GIB), (16, 4, False)),
        (Machine(8, 64 * GIB, (Gpu("GPU", 80 * GIB, 80 * GIB),)), (32, 8, False)),
        (Machine(2, 3 * GIB), (16, 4, True)),  # a process for each site would not fit
        (Machine(8, 0), (16, 4, False)),  # nobody knows the memory
        # 1024 x 1024 pixels x 256 bytes x 16 channels are 4 GiB; three sites share half of 30 GiB: one slice each
        (Machine(8, 30 * GIB), (16, 1, False)),
        # half of it is 8 channels' worth
        (Machine(8, 13 * GIB), (8, 1, False)),
    ],
)
def test_the_sizes_fit_the_memory(machine, expected):
    side = 1024 if machine.memory in (30 * GIB, 13 * GIB) else 64

    class Volume:
        shape, n_slices = (side, side), 20

    class Site:
        volumes = (Volume,)
        split = staticmethod(lambda name: (Volume,))

    assert sizes(dict.fromkeys("abc", Site), machine) == expected


def test_a_batch_is_no_larger_than_the_smallest_site(folder):
    shards = open_sites(folder)  # one site has a single training slice
    assert sizes(shards, Machine(8, 64 * GIB))[1] == 1


@pytest.mark.parametrize(("pace", "rounds"), [(1e-4, 50), (10.0, 16), (100.0, 5)])
def test_the_rounds_follow_from_the_pace(folder, monkeypatch, pace, rounds):
    """There are 6 slices in each split, and a slice is scored in 0.4 of the time in which it is trained on.

    Ten rounds with five validations are the work of 60 + 0.4 (30 + 6) = 74.4 training slices. In 20 minutes of 10 s
    each there is room for 1200 / 744 of them: 16 rounds. The smallest number is 5, the largest is 50.
    """
    monkeypatch.setattr(first_experiment, "seconds_per_slice", lambda experiment, shards: pace)
    made = draft(folder, SMALL, Machine(1, 8 * GIB))
    assert (made.experiment.rounds, made.experiment.evaluation.every) == (rounds, rounds // 5)
    given = draft(folder, [*SMALL, "training.rounds=7"], Machine(1, 8 * GIB))
    assert given.experiment.rounds == 7
    assert given.seconds == pytest.approx(pace * (7 * 6 + 0.4 * (7 * 6 + 6)))


def test_a_batch_that_does_not_fit_is_halved(folder, monkeypatch):
    def pace(experiment, shards):
        if experiment.training.batch_size > 1:
            raise MemoryError
        return 0.01

    monkeypatch.setattr(first_experiment, "seconds_per_slice", pace)
    assert draft(folder, [*SMALL, "training.batch_size=4"], Machine(1, 8 * GIB)).experiment.training.batch_size == 1


class Terminal:
    """A person who gives these answers, and then ends the input."""

    def __init__(self, *answers: str) -> None:
        self.answers = [f"{one}\n" for one in answers]

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.answers.pop(0) if self.answers else ""


@pytest.mark.slow
def test_a_terminal_is_asked_for_what_is_not_given_and_again_for_what_is_refused(call, folder, monkeypatch):
    monkeypatch.setattr(first_experiment, "seconds_per_slice", lambda experiment, shards: 0.01)
    # file, method (refused, then right), network, mask, acceleration, rounds
    monkeypatch.setattr(sys, "stdin", Terminal("my.yaml", "fedprx", "fedprox", "", "", "3", "2"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert call("init", "--sites", folder, "name=given").code == 0
    written = Experiment.read("my.yaml")
    assert (written.name, written.strategy["name"], written.rounds) == ("given", "fedprox", 2)
    assert written.operator["acceleration"] == 3


def test_without_a_terminal_nothing_is_asked(call, folder, monkeypatch):
    monkeypatch.setattr(init, "_asked", lambda text, default: pytest.fail(text))
    monkeypatch.setattr(first_experiment, "seconds_per_slice", lambda experiment, shards: 0.01)
    assert call("init", "--sites", folder).code == 0
    assert Experiment.read("experiment.yaml").strategy["name"] == "fedavg"


@pytest.mark.parametrize("wrong", ["strategy=3", "training=3", "task=[1]", "strategy.name=[x]", "training.rounds=many"])
def test_an_override_that_is_no_block_is_refused_in_words(call, folder, wrong):
    found = call("init", "--sites", folder, "--out", "my.yaml", wrong)
    assert (found.code, Path("my.yaml").exists()) == (2, False)


def test_the_sites_are_given_once(call, folder):
    assert call("init", "--sites", folder, "--out", "my.yaml", "sites=elsewhere").code == 2


@pytest.mark.parametrize(
    ("kind", "self_ensemble", "expected"),
    [
        ("reconstruction", False, 100 + 0.5 * (3 * 10 + 5)),  # 10 rounds, scored after 4, 8 and the last
        ("reconstruction", True, 100 + 0.5 * 8 * (3 * 10 + 5)),
        ("prior", False, 100 + 0.5 * (10 + 5)),  # scored after its last round alone
    ],
)
def test_the_work_of_a_run_by_hand(kind, self_ensemble, expected):
    method = SimpleNamespace(is_prior=kind == "prior", scoring_cost=lambda: 0.5)
    evaluation = SimpleNamespace(every=4, self_ensemble=self_ensemble)
    experiment = SimpleNamespace(rounds=10, method=method, evaluation=evaluation)
    assert work(experiment, trained=100, validation=10, test=5) == expected
