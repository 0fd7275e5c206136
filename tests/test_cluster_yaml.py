"""cluster.yaml and the on-prem file of docs/cluster.md pass Ray's own checks, and wrong versions do not."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "cluster.md"


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """The prepared configuration; raises what ``ray up`` would raise before it asks a cloud for anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def load() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)


def test_cluster_yaml_passes_rays_schema() -> None:
    prepared = checked(load())
    assert prepared["head_node_type"] == "head"
    assert prepared["cluster_synced_files"] == []  # a default: the prepared file was checked


def test_each_site_has_a_node_with_a_gpu_its_label_and_its_resource() -> None:
    config = load()
    nodes = {name: node for name, node in config["available_node_types"].items() if name != "head"}
    assert sorted(node["labels"]["site"] for node in nodes.values()) == ["flair", "t1w", "t2w"]
    for name, node in nodes.items():
        site = node["labels"]["site"]
        assert name == f"site-{site}"
        assert node["resources"]["GPU"] == 1
        assert node["resources"][f"site:{site}"] == 1
        assert node["min_workers"] == node["max_workers"] == 1
    assert config["max_workers"] == len(nodes)
    assert config["available_node_types"]["head"]["resources"].get("GPU", 0) == 0


def test_the_images_hold_the_pinned_ray() -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    docker = load()["docker"]
    for key in ("head_image", "worker_image"):
        assert docker[key].startswith(f"rayproject/ray:{pinned.group(1)}-py311-")


def test_setup_installs_with_the_constraints_file_that_exists() -> None:
    assert (ROOT / "constraints.txt").is_file()
    for command in load()["setup_commands"]:
        assert "--constraint ~/fedrecon/constraints.txt" in command


def test_every_recipe_starts_ray_with_the_token() -> None:
    yamls = [load(), *(block for block in map(yaml.safe_load, blocks("yaml")) if block.get("cluster_name"))]
    commands = [one for config in yamls for key, ones in config.items() if "start_ray" in key for one in ones]
    started = [one for one in [*commands, *"\n".join(blocks("bash")).splitlines()] if "ray start" in one]
    assert len(started) == 2 * len(yamls) + 2
    assert all(re.search(r"RAY_AUTH_MODE=token .*ray start", one) for one in started)
    assert all("~/.ray/auth_token" in config["file_mounts"] for config in yamls)
    cluster = next(block for block in map(yaml.safe_load, blocks("yaml")) if block.get("kind") == "RayCluster")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


def set_in(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    inner = config
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("max_workrs", 3),
        ("max_workers", 2),
        ("head_node_type", "nobody"),
        ("provider", {"type": "no-such-cloud"}),
        ("available_node_types/site-t1w/resources/GPU", 0.5),
        ("available_node_types/site-t1w/resources/site:t1w", -1),
        ("available_node_types/site-t1w/labels/site", 1),
        ("available_node_types/site-t1w/node_confg", {}),
        ("setup_commands", "pip install ray"),
        ("docker", {"imge": "rayproject/ray"}),
    ],
)
def test_wrong_versions_are_refused(path: str, value: Any) -> None:
    with pytest.raises(Exception, match=r"."):
        checked(set_in(load(), path, value))


def test_a_node_type_without_resources_is_refused() -> None:
    config = load()
    del config["available_node_types"]["site-t1w"]["resources"]
    with pytest.raises(Exception, match="resources"):
        checked(config)


def test_the_guides_on_prem_file_passes_and_is_refused_without_hosts() -> None:
    local = next(block for block in map(yaml.safe_load, blocks("yaml")) if block.get("cluster_name"))
    assert local["provider"]["type"] == "local"
    checked(local)
    del local["provider"]["worker_ips"], local["provider"]["head_ip"]
    with pytest.raises(Exception, match="worker_ips"):
        checked(local)


def test_the_guides_kuberay_file_has_one_labelled_gpu_group_a_site() -> None:
    cluster = next(block for block in map(yaml.safe_load, blocks("yaml")) if block.get("kind") == "RayCluster")
    groups = cluster["spec"]["workerGroupSpecs"]
    assert groups
    for group in groups:
        assert group["labels"]["site"] in group["groupName"]
        container = group["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
