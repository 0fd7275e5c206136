"""``fedrecon sweep`` as typed: what it plans, shows and refuses, without a cluster."""

import subprocess
import sys

import pytest
import yaml
from command_line import Called
from small_sweeps import base, described

SEARCH = {"strategy.name": {"grid": ["fedavg", "local"]}, "evaluation.mask_seed": {"grid": [0, 1]}}
RESULT_KEYS = {"sweep", "status", "trials", "best"}
TRIAL_KEYS = {"params", "status", "run_id", "digest", "metrics", "trained_rounds", "error"}


@pytest.fixture
def call(capsys):
    """The command line, without a cluster before and after."""
    import ray

    assert not ray.is_initialized()
    yield lambda *arguments: Called(capsys, "sweep", *arguments)
    assert not ray.is_initialized()


@pytest.fixture
def written(consortium, tmp_path, monkeypatch):
    """Writes a sweep's file beside its experiment; the working directory is elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "base.yaml").write_text(yaml.safe_dump(base(consortium)))

    def write(search=SEARCH, **changes):
        path = tmp_path / "files" / "sweep.yaml"
        path.write_text(yaml.safe_dump(described(search, **changes), sort_keys=False))
        return path

    return write


@pytest.fixture
def workspace(tmp_path):
    return tmp_path / "workspace"


def saved(workspace, name, content):
    """A sweep's folder as its first call leaves it."""
    (workspace / "sweeps" / name).mkdir(parents=True)
    (workspace / "sweeps" / name / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_gpus_that_no_site_can_have_are_refused_before_ray_starts(call, written, workspace, more):
    done = call(written(), "experiment.resources.gpus_per_site=1", "--in-process", *more, "--workspace", workspace)
    assert done.code == 2
    assert "resources.gpus_per_site is 1" in done.err


@pytest.mark.slow
def test_a_dry_run_lists_the_trials_and_starts_nothing(call, written, workspace):
    done = call(written(), "--dry-run", "--workspace", workspace)
    assert done.code == 0
    head, _, *rows = done.out.splitlines()[:6]
    assert head.split()[:4] == ["trial", "strategy", "mask_seed", "status"]
    assert [row.split()[:4] for row in rows] == [
        ["0", "fedavg", "0", "WAITING"],
        ["1", "fedavg", "1", "WAITING"],
        ["2", "local", "0", "WAITING"],
        ["3", "local", "1", "WAITING"],
    ]
    assert done.out.splitlines()[-1] == "tiny-sweep: planned"
    assert "4 trials, 2 trainings of 4 rounds in all, 2 that only evaluate one of these" in done.err
    assert "roughly" in done.err
    assert not workspace.exists()


@pytest.mark.slow
def test_a_dry_run_as_json_is_one_object_with_the_promised_keys(call, written, workspace):
    done = call(written(), "samples=2", "experiment.seed=3", "--dry-run", "--workspace", workspace, "--json")
    assert done.code == 0
    found = done.json
    assert set(found) >= RESULT_KEYS
    assert (found["sweep"], found["status"], found["best"]) == ("tiny-sweep", "planned", None)
    assert [trial["params"] for trial in found["trials"]] == [
        {"strategy.name": name, "evaluation.mask_seed": seed} for name in ("fedavg", "local") for seed in (0, 1)
    ]
    for trial in found["trials"]:
        assert set(trial) >= TRIAL_KEYS
        assert (trial["status"], trial["run_id"], trial["error"]) == ("WAITING", None, None)
        assert (trial["metrics"], trial["trained_rounds"]) == ({}, 0)
    assert len({trial["digest"] for trial in found["trials"]}) == 4


@pytest.mark.slow
def test_overrides_reach_the_base_experiment(call, written, workspace):
    def digests(*overrides):
        done = call(written(), *overrides, "--dry-run", "--workspace", workspace, "--json")
        return {trial["digest"] for trial in done.json["trials"]}

    assert digests("experiment.seed=3").isdisjoint(digests())
    assert digests("experiment.seed=0") == digests("concurrency=1")


@pytest.mark.slow
def test_a_dry_run_of_optuna_names_the_number_of_its_trials(call, written, workspace):
    pytest.importorskip("optuna")
    done = call(written(algorithm="optuna", samples=7), "--dry-run", "--workspace", workspace, "--json")
    assert (done.code, done.json["trials"]) == (0, [])
    assert "7 trials suggested by Optuna, 0 of them so far" in done.err


def test_the_budget_is_named(call, written, workspace):
    done = call(written(budget={"trials": 3}), "--dry-run", "--workspace", workspace)
    assert "of which the budget allows 3" in done.err


WRONG = {
    "no file": ({}, ["nowhere.yaml"], "nowhere.yaml: no such sweep file"),
    "no experiment": ({"experiment": "nowhere.yaml"}, [], "nowhere.yaml: no such experiment file"),
    "key": ({"serach": 1}, [], "Did you mean 'search'?"),
    "key on the command line": ({}, ["smaples=3"], "Did you mean 'samples'?"),
    "key of the base": ({}, ["experiment.trainig.rounds=3"], "Did you mean 'training'?"),
    "searched key": ({"search": {"trainig.rounds": {"grid": [1]}}}, [], "Did you mean 'training'?"),
    "searched value": ({"search": {"strategy.name": {"grid": ["fedporx"]}}}, [], "Did you mean 'fedprox'?"),
    "kind": ({"search": {"seed": {"gird": [1]}}}, [], "Did you mean 'grid'?"),
    "empty grid": ({"search": {"seed": {"grid": []}}}, [], "at least one value"),
    "empty search": ({"search": {}}, [], "at least one key"),
    "no condition": ({"search": {**SEARCH, "strategy.mu": {"grid": [1]}}}, [], "when: {strategy.name: NAME}"),
    "test metric": ({"metric": "test/mean/psnr"}, [], "never steer"),
    "site": ({"metric": "site/nroth/psnr"}, [], "Did you mean 'north'?"),
    "acceleration": ({"search": {"operator.acceleration": {"grid": [1, 400]}}}, [], "cannot be reached"),
    "no override": ({}, ["samples"], "'samples' is no override"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("dry", [True, False])
def test_wrong_input_is_one_message_and_exit_code_2(call, written, workspace, what, dry):
    changes, arguments, message = WRONG[what]
    path = written(**changes)
    given = arguments if what == "no file" else [path, *arguments]
    wrong = call(*given, *(["--dry-run"] if dry else []), "--workspace", workspace)
    assert wrong.code == 2
    assert message in wrong.err
    assert wrong.err.startswith("error: ")
    assert "Traceback" not in wrong.err
    assert wrong.out == ""
    assert not workspace.exists()


def test_show_of_an_unknown_sweep_names_the_nearest(call, workspace, consortium):
    none = call("show", "tiny", "--workspace", workspace)
    assert (none.code, none.out) == (2, "")
    assert "unknown sweep 'tiny'" in none.err
    saved(workspace, "tiny-sweep", described(SEARCH, experiment=base(consortium)))
    near = call("show", "tiny-swep", "--workspace", workspace)
    assert (near.code, near.out) == (2, "")
    assert "Did you mean 'tiny-sweep'?" in near.err


@pytest.mark.parametrize("arguments", [["show"], ["show", "a", "b"]])
def test_show_needs_one_name(call, workspace, arguments):
    wrong = call(*arguments, "--workspace", workspace)
    assert wrong.code == 2
    assert "needs the name of a sweep or its file" in wrong.err


@pytest.mark.parametrize("content", ["- 1\n- 2\n", "seed: 1\n", "name: ["])
def test_show_of_a_file_that_is_no_sweep_is_refused(call, tmp_path, workspace, content):
    path = tmp_path / "other.yaml"
    path.write_text(content)
    wrong = call("show", path, "--workspace", workspace)
    assert wrong.code == 2
    assert "other.yaml" in wrong.err
    assert "Traceback" not in wrong.err


@pytest.mark.slow
def test_show_by_name_or_by_file(call, written, workspace, consortium):
    path = written()
    saved(workspace, "tiny-sweep", described(SEARCH, experiment=base(consortium)))
    by_name = call("show", "tiny-sweep", "--workspace", workspace, "--json")
    assert by_name.code == 0
    found = by_name.json
    assert set(found) >= RESULT_KEYS
    assert (found["status"], len(found["trials"])) == ("interrupted", 4)
    assert all(set(trial) >= TRIAL_KEYS for trial in found["trials"])
    assert call("show", path, "--workspace", workspace, "--json").json == found
    table = call("show", "tiny-sweep", "--workspace", workspace)
    assert table.out.splitlines()[-1] == "tiny-sweep: interrupted"
    assert sum("WAITING" in line for line in table.out.splitlines()) == 4


@pytest.mark.slow
def test_show_counts_what_was_trained_and_names_the_best(call, workspace, consortium):
    from small_sweeps import planned

    from fedrecon.platform.storage.workspace import RunFolder
    from fedrecon.tune.trials.trial_table import TrialTable

    experiment = base(consortium)
    saved(workspace, "tiny-sweep", described(SEARCH, experiment=experiment))
    trial_table = TrialTable(workspace, "tiny-sweep")
    for trial in planned(experiment, SEARCH):
        trial_table.add(trial)
    scores = {"psnr": 19.0, "ssim": 0.5, "nmse": 0.25}
    for number, (validation, trained) in enumerate([(20.0, 2), (22.0, 0)]):
        row = trial_table.rows[number]
        trial_ended = {
            "run_id": f"run-{number}", "digest": row.trial.digest, "rounds": 2, "resumed_from": 2 - trained,
            "trained_rounds": trained, "validation": {"mean/psnr": validation}, "sites": {}, "mean": scores,
        }  # fmt: skip
        trial_table.began(row.trial.digest)
        RunFolder(workspace, row.trial.digest).path.mkdir(parents=True)
        RunFolder(workspace, row.trial.digest).save_result(trial_ended)
        trial_table.finished(row.trial.digest, trained)
    trial_table.began(trial_table.rows[2].trial.digest)
    trial_table.ended(trial_table.rows[2].trial.digest, "FAILED", "out of memory")

    found = call("show", "tiny-sweep", "--workspace", workspace, "--json").json
    assert [one["status"] for one in found["trials"]] == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    assert found["status"] == "finished"
    assert [one["trained_rounds"] for one in found["trials"]] == [2, 0, 0, 0]
    assert (found["best"]["run_id"], found["best"]["metrics"]["mean/psnr"]) == ("run-1", 22.0)
    assert found["best"]["metrics"]["test/mean/psnr"] == 19.0
    lines = call("show", "tiny-sweep", "--workspace", workspace).out.splitlines()
    notes = {line.split()[0]: line for line in lines if line.split()[:1] and line.split()[0].isdigit()}
    assert notes["1"].rstrip().endswith("best")
    assert "out of memory" in notes["2"]
    assert "trial 2" in notes["3"]


@pytest.mark.slow
def test_the_parser_loads_none_of_the_heavy_libraries():
    program = (
        "import sys; from fedrecon.cli import _parser; _parser(); import fedrecon.tune.sweep.command; "
        "from fedrecon.tune.search.config import Sweep; import fedrecon.tune; "
        "print(sorted({'torch', 'ray', 'mlflow', 'pyarrow', 'optuna', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
