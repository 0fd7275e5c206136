"""A finished run of every strategy, scored again from what it left: the same scores, by each site's own network."""

import pytest
from safetensors.numpy import load_file
from tiny import NETWORKS, PARAMETERS, UNET

import fedrecon
from fedrecon.platform.config.science import TRAINED
from fedrecon.platform.inference.evaluate import evaluate
from fedrecon.platform.inference.trained_run import TrainedRun
from fedrecon.platform.storage.tracking.store import run_store
from fedrecon.strategies import STRATEGIES

CASES = {**{name: {} for name in STRATEGIES}, "fedavg, moments kept": {"optimizer_state": "keep"}}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_scored_again_it_has_the_run_s_own_scores(case, consortium, workspace):
    name = case.split(",")[0]
    given = {
        "sites": {site: str(path) for site, path in consortium.items()},
        "strategy": {"name": name, **PARAMETERS.get(name, {})},
        "network": NETWORKS.get(name, UNET),
        "training": {"rounds": 2, "batch_size": 2, "learning_rate": 0.01, **CASES[case]},
        "evaluation": {"every": 2, "panels": False},
        "publish_private": "all",
    }
    result = fedrecon.run(given, workspace=workspace, in_process=True)
    found = evaluate(result.digest, workspace=workspace)
    rows = found["rows"]
    assert found["science_version"] == found["run_science_version"] == TRAINED
    assert {row["site"]: row["psnr"] for row in rows} == pytest.approx(
        {site: one["psnr"] for site, one in result.sites.items()}, abs=1e-9
    )
    trained = TrainedRun.load(workspace, result.digest)
    assert [row["model"] for row in rows] == [row["site"] if trained.members else "global" for row in rows]
    store = run_store(None, workspace)
    for member in trained.members:
        kept = load_file(store.local_artifact(result.run_id, f"private/{member}.safetensors"))
        used = trained.private_part(member, [member]).parameters
        assert {key: values.tobytes() for key, values in kept.items()} == {
            key: values.tobytes() for key, values in used.items()
        }
