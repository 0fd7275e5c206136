"""``fedrecon doctor``: each thing that can be wrong is found, and a machine that is fine is called so."""

import errno
import os
import socket
import sqlite3
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
from command_line import Called

from fedrecon.platform.setup import doctor, machine_checks, service_checks
from fedrecon.platform.setup.finding import Finding, findings
from fedrecon.platform.setup.machine import GIB, file_system, free_memory
from fedrecon.sites.sizes import size


@pytest.fixture
def call(capsys):
    return lambda *arguments: Called(capsys, *arguments)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Without shards below ``data/``, without a server and a proxy."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "FEDRECON_WORKSPACE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def statuses(check) -> list[str]:
    return [one.status for one in check]


@pytest.mark.slow
def test_this_machine_is_fine_and_a_bad_folder_of_shards_is_not(call, consortium):
    found = call("doctor", "--in-process", "--json", "--sites", consortium["north"].parent)
    wrong = [one for one in found.json["findings"] if one["status"] == "wrong"]
    assert (found.code, found.json["ok"], wrong) == (0, True, [])
    names = {one["name"] for one in found.json["findings"]}
    looked_at = "python packages gpu memory disk ports store runs plug-ins shards"
    assert names == {*looked_at.split(), "shared memory"}
    assert not list(Path.cwd().iterdir())  # it leaves nothing behind

    found = call("doctor", "--in-process", "--sites", "nowhere")
    assert found.code == 1
    assert "nowhere" in found.out


@pytest.mark.slow
def test_ray_is_asked_unless_it_is_not_used(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(service_checks, "check_ray", lambda address: asked.append(address) or [])
    for in_process in (True, False):
        list(doctor.examine(tmp_path, in_process=in_process, address="head:6379"))
    assert asked == ["head:6379"]


def test_a_cluster_that_does_not_answer_is_wrong():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert statuses(service_checks.check_ray(f"127.0.0.1:{port}")) == ["wrong"]


def test_a_check_that_breaks_is_a_finding():
    def broken():
        yield Finding("x", "ok", "one")
        raise ImportError("libcuda.so.1")

    found = list(findings("gpu", broken))
    assert [(one.name, one.status) for one in found] == [("x", "ok"), ("gpu", "wrong")]
    assert "libcuda.so.1" in found[1].found


def test_an_old_python_is_wrong():
    assert statuses(machine_checks.check_python((3, 10, 9))) == ["wrong"]
    assert statuses(machine_checks.check_python((3, 12, 0))) == ["ok"]


def test_packages_that_are_missing_or_of_another_version_are_named():
    (found,) = machine_checks.check_packages(["no-such-package>=2", "pytest<1", "rich>=1", "mkl; extra == 'fast'"])
    assert found.status == "wrong"
    assert found.advice == "pip install 'no-such-package>=2' 'pytest<1'"


def nvidia(root: Path, count: int) -> Path:
    for at in range(count):
        (root / "proc/driver/nvidia/gpus" / str(at)).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("gpus", "environment", "status"),
    [(0, {}, "ok"), (2, {}, "wrong"), (2, {"CUDA_VISIBLE_DEVICES": ""}, "warning")],
)
def test_gpus_that_torch_does_not_see(monkeypatch, tmp_path, gpus, environment, status):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert statuses(machine_checks.check_gpus(nvidia(tmp_path, gpus), environment)) == [status]


def test_each_gpu_has_to_compute(monkeypatch):
    import torch

    def ones(n, device):
        if device == "cuda:1":
            raise RuntimeError("no kernel image is available")
        return SimpleNamespace(sum=lambda: 2.0)

    fakes = {"device_count": lambda: 2, "mem_get_info": lambda at: (GIB, 2 * GIB), "get_device_name": lambda at: "GPU"}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch, "ones", ones)
    assert statuses(machine_checks.check_gpus()) == ["ok", "wrong"]


@pytest.mark.parametrize(("free", "status"), [(100 * GIB, "ok"), (3 * GIB, "warning"), (GIB // 4, "wrong")])
def test_the_space_on_the_disks(monkeypatch, tmp_path, free, status):
    monkeypatch.setattr(machine_checks, "free_space", lambda folder: free)
    usage = SimpleNamespace(f_bavail=50, f_blocks=100)
    monkeypatch.setattr(machine_checks.os, "statvfs", lambda folder: usage)
    assert statuses(machine_checks.check_disks(tmp_path / "new" / "workspace")) == [status, status]
    usage.f_bavail = 4  # Ray's own limit is 95 %
    assert statuses(machine_checks.check_disks(tmp_path))[1] == ("warning" if status == "ok" else status)


def test_a_workspace_that_cannot_be_written_is_wrong(monkeypatch, tmp_path):
    def refuse(path, mode=0o777):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert statuses(machine_checks.check_disks(tmp_path)) == ["wrong", "wrong"]


def test_a_network_disk_is_told_from_a_local_one(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"d / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\nd {tmp_path}/local xfs rw 0 0\n")
    (tmp_path / "local").mkdir()
    assert file_system(tmp_path / "not yet" / "there", mounts) == "nfs4"
    assert file_system(tmp_path / "local", mounts) == "xfs"
    assert statuses(machine_checks.check_disks(tmp_path, mounts))[2:] == ["warning"]
    assert statuses(machine_checks.check_disks(tmp_path / "local", mounts))[2:] == []


def test_a_container_s_memory_is_its_own(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   4096 kB\n")
    assert free_memory(tmp_path) == 4096 * 1024
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("3000000\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("1000000\n")
    assert free_memory(tmp_path) == 2_000_000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert free_memory(tmp_path) == 4096 * 1024
    assert free_memory(tmp_path / "no linux") == 0
    assert statuses(machine_checks.check_memory(GIB)) == ["warning"]
    assert statuses(machine_checks.check_memory(0)) == ["ok"]  # nobody knows it


@pytest.mark.parametrize(("free", "status"), [(64 * 2**20, "warning"), (8 * GIB, "ok")])
def test_the_shared_memory_of_a_container_is_small(monkeypatch, tmp_path, free, status):
    monkeypatch.setattr(machine_checks, "free_space", lambda folder: free)
    assert statuses(machine_checks.check_shared_memory(tmp_path)) == [status]
    assert statuses(machine_checks.check_shared_memory(tmp_path / "none")) == ["warning"]


def test_ports_and_proxies(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        (found,) = machine_checks.check_ports(server.getsockname()[1])
    assert found.status == "ok"  # fedrecon ui takes another port
    assert "is taken" in found.found
    monkeypatch.setenv("http_proxy", "http://name:secret@proxy:3128")
    monkeypatch.setenv("no_proxy", "example.org")
    (_, found) = machine_checks.check_ports()
    assert found.status == "warning"
    assert "secret" not in found.found
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    assert statuses(machine_checks.check_ports()) == ["ok"]


def test_the_store(tmp_path):
    check = service_checks.check_store
    assert statuses(check(tmp_path)) == ["ok"]  # the first run makes it
    assert statuses(check(tmp_path, "http://127.0.0.1:9")) == ["wrong"]
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    assert statuses(check(tmp_path)) == ["wrong"]
    (tmp_path / "mlflow.db").unlink()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (x)")
    database.close()
    assert statuses(check(tmp_path)) == ["ok"]
    (tmp_path / "runs/abc/record").mkdir(parents=True)
    (tmp_path / "runs/abc/record/journal.jsonl").write_text("[]\n")
    assert statuses(check(tmp_path)) == ["ok", "warning"]


def test_a_damaged_run_is_named(tmp_path):
    assert statuses(service_checks.check_runs(tmp_path / "none")) == ["ok"]
    (tmp_path / "runs/abc").mkdir(parents=True)
    (tmp_path / "runs/abc/result.json").write_text("{")
    first, last = service_checks.check_runs(tmp_path)
    assert (first.status, last.status) == ("warning", "ok")
    assert "abc" in first.found


@pytest.mark.slow
def test_shards_below_data_are_opened_and_other_files_of_hdf5_are_passed_over(consortium):
    assert statuses(service_checks.check_shards()) == ["ok"]
    raw = Path("data/raw")
    raw.mkdir(parents=True)
    with h5py.File(raw / "fastmri.h5", "w") as file:
        file["kspace"] = [1.0]
    assert statuses(service_checks.check_shards()) == ["ok"]
    Path("data/sites").mkdir()
    for path in consortium.values():
        os.link(path, Path("data/sites") / path.name)
    assert statuses(service_checks.check_shards()) == ["ok"]
    (Path("data/sites") / "broken.h5").write_bytes(b"cut off")
    assert statuses(service_checks.check_shards()) == ["wrong", "ok"]


def test_sizes_in_words():
    assert [size(one) for one in (0, 1023, 1024, 3.4 * GIB, 5000 * GIB)] == [
        "0 B", "1023 B", "1.0 KiB", "3.4 GiB", "4.9 TiB",
    ]  # fmt: skip


@pytest.mark.parametrize(("gpus", "seen", "status"), [(0, 0, "ok"), (1, 1, "ok"), (0, 1, "wrong")])
def test_ray_that_does_not_see_the_gpus_is_wrong(monkeypatch, gpus, seen, status):
    import torch

    from fedrecon.platform.execution import ray_cluster

    node = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": gpus}, "Labels": {"site": "t1w"}}
    monkeypatch.setattr(ray_cluster, "connected", lambda address: nullcontext())
    monkeypatch.setattr(ray_cluster, "nodes", lambda: [node, {**node, "Alive": False}])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    (found,) = service_checks.check_ray()
    assert found.status == status
    assert "4 CPUs" in found.found
    assert "t1w" in found.found
