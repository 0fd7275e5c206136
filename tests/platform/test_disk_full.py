"""A full disk: one line with the path, the free space and the command that goes on; what was committed stays."""

import os
from pathlib import Path

import pytest
import yaml
from drivers import ROUNDS, experiment

from fedrecon.cli import main
from fedrecon.platform.execution.wire_log import WireLog
from fedrecon.platform.storage.checkpoint import Checkpoints
from fedrecon.platform.storage.history import History
from fedrecon.platform.storage.tracking import sender
from fedrecon.platform.storage.workspace import RunFolder

OWNERS = {"checkpoint": (History, "extend"), "journal": (os, "fsync"), "wire": (WireLog, "_append")}


@pytest.mark.slow
@pytest.mark.parametrize("what", OWNERS)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    consortium, mlflow_template, tmp_path, monkeypatch, capfd, what
):
    given = experiment({name: consortium[name] for name in ("north", "middle")}, "fedavg")
    file = tmp_path / "an experiment.yaml"
    file.write_text(yaml.safe_dump(given))
    command = ["run", str(file), "--in-process", "--workspace", str(tmp_path)]
    (tmp_path / "mlflow.db").write_bytes((mlflow_template / "mlflow.db").read_bytes())
    owner, method = OWNERS[what]
    original = getattr(owner, method)

    def full(self, *arguments, **named):
        if list(tmp_path.glob("runs/*/checkpoints/round-000002*")):
            raise OSError(28, "No space left on device")
        return original(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(sender, "LAST_TRIES", 0.1)
        patch.setattr(owner, method, full)
        assert main([*command, "--rerun"]) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "disk is full" in line]
    assert str(tmp_path / "runs") in line
    assert "MiB" in line
    assert line.endswith(f"fedrecon run '{file}' --in-process --workspace {tmp_path}")
    (folder,) = tmp_path.glob("runs/*/checkpoints")
    assert Checkpoints(folder).latest()[0].round == 2
    assert main([*command, "--keep-checkpoints"]) == 0
    assert "going on after round 2" in capfd.readouterr().err
    run = RunFolder(tmp_path, folder.parent.name)
    assert [path.name for path in run.checkpoints.paths()] == [
        f"round-{number:06d}.safetensors" for number in (ROUNDS - 1, ROUNDS)
    ]
    assert Path(run.path / "result.json").is_file()
    assert len(run.checkpoints.latest()[1]["rounds"]) == ROUNDS
