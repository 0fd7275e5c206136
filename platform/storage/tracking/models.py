"""Datasets and models of a run in MLflow, and versions of models in its registry.

A model is the folder that MLflow's ``pyfunc`` loads. Its loader is :mod:`fedrecon.platform.inference.mlflow_model`; its
data are the files that the run gives: weights as safetensors and settings as JSON. It holds no pickle, and of code the
text of the run's plug-ins alone (``experiment.json``), which runs when the model is loaded.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

import yaml

from fedrecon.platform.storage.journal import DatasetRecord
from fedrecon.sites import debris
from fedrecon.sites.errors import InputError, unknown

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOADER = "fedrecon.platform.inference.mlflow_model"
SETTINGS = "model.json"
"""The file of a model that says what it takes; see :mod:`fedrecon.platform.runs.mlflow_record`."""

REQUIREMENTS = ("fedrecon", "torch", "numpy", "safetensors")
"""The packages that a model notes, each with its version here. MLflow would load the model to find them: seconds."""

_DIGEST = 36  # the most characters of the digest of a dataset


def log_datasets(client: MlflowClient, run_id: str, given: Sequence[DatasetRecord]) -> None:
    """Writes the data that a run reads. MLflow keeps one of each name and digest, and each once at a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    def one(record: DatasetRecord) -> DatasetInput:
        name, source = f"{record.site} {record.split}", json.dumps({"site": record.site, "split": record.split})
        profile = json.dumps(record.profile)
        found = Dataset(name, record.digest[:_DIGEST], "fedrecon shard", source, profile=profile)
        return DatasetInput(found, [InputTag("mlflow.data.context", record.split)])

    client.log_inputs(run_id, [one(record) for record in given])


def log_model(client: MlflowClient, run_id: str, name: str, step: int, files: Sequence[Path]) -> None:
    """Writes a model of the run, unless it has one of this name that is complete."""
    from mlflow.entities import LoggedModelOutput

    if name in _models(client, run_id):
        return
    run = client.get_run(run_id)
    params = dict(run.data.params)
    model = client.create_logged_model(run.info.experiment_id, name, run_id, params=params, model_type="reconstruction")
    with debris.scratch() as scratch:
        folder = _saved(scratch, model.model_id, run_id, files)
        client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])


def register(
    client: MlflowClient, run_id: str, name: str, alias: str | None, model: str | None, dry_run: bool
) -> dict[str, Any]:
    """Makes a new version of the registered model ``name`` from a model of the run.

    Args:
        alias: a name for this version, which a version before it loses; None gives none.
        model: the name of the run's model; None takes the only one. dry_run: check the model and make no version.

    Returns:
        ``name``, ``version``, ``alias``, ``uri``, which ``mlflow.pyfunc.load_model`` takes, and ``written``.

    Raises:
        InputError: the run has no model, or several and none is named; or the registry refuses a name.
    """
    from mlflow.exceptions import MlflowException

    found = _models(client, run_id)
    if not found:
        raise InputError(
            f"run {run_id} has no model in MLflow. A finished run has one if its sites share the network, "
            "or for each site whose private part was published (publish_private); a run of an earlier version has none."
        )
    if model is None and len(found) > 1:
        raise InputError(f"run {run_id} has a model of each site; name one with --model: {', '.join(sorted(found))}")
    if model is not None and model not in found:
        raise unknown("model", model, sorted(found))
    chosen = found[model or next(iter(found))]
    if dry_run:
        return {"name": name, "version": None, "alias": alias, "uri": None, "written": False}
    try:
        if not any(one.name == name for one in client.search_registered_models(f"name = '{name}'")):
            client.create_registered_model(name)
        # Not its address "models:/": the registry would look for it at the default tracking URI of the process.
        source = client.get_logged_model(chosen).artifact_location
        made = client.create_model_version(name, source, run_id, model_id=chosen, await_creation_for=60)
        if alias is not None:
            client.set_registered_model_alias(name, alias, made.version)
    except MlflowException as error:
        raise InputError(f"MLflow refuses the model '{name}' with the alias {alias}: {error.message}") from error
    uri = f"models:/{name}@{alias}" if alias else f"models:/{name}/{made.version}"
    return {"name": name, "version": int(made.version), "alias": alias, "uri": uri, "written": True}


def _models(client: MlflowClient, run_id: str) -> dict[str, str]:
    """The ids of the complete models of a run, by name."""
    run = client.get_run(run_id)
    found = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    return {one.name: one.model_id for one in found if str(one.status) == "READY"}


def _saved(scratch: Path, model_id: str, run_id: str, files: Sequence[Path]) -> Path:
    """The folder of the model, as ``mlflow.pyfunc`` reads it.

    MLflow's own functions that write it load all that MLflow can serve, which takes seconds and warns.
    """
    data, needs, environment = scratch / "data", scratch / "requirements.txt", scratch / "python_env.yaml"
    data.mkdir()
    for path in files:
        shutil.copyfile(path, data / path.name)
    described: Mapping[str, Any] = json.loads((data / SETTINGS).read_text())
    flavor = {
        "loader_module": LOADER,
        "data": data.name,
        "python_version": python_version(),
        "env": {"virtualenv": environment.name},
    }
    model = {
        "flavors": {"python_function": flavor},
        "mlflow_version": version("mlflow"),
        "model_id": model_id,
        "model_uuid": uuid.uuid4().hex,
        "run_id": run_id,
        "signature": _signature(described),
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
    (scratch / "MLmodel").write_text(yaml.safe_dump(model))
    needs.write_text("".join(f"{one}=={version(one)}\n" for one in REQUIREMENTS))
    environment.write_text(yaml.safe_dump({"python": python_version(), "dependencies": [f"-r {needs.name}"]}))
    return scratch


def _signature(described: Mapping[str, Any]) -> dict[str, str]:
    """The shapes and types of what the model takes and gives, in MLflow's JSON; -1 is any size."""

    def tensor(dtype: str, axes: int, **name: str) -> dict[str, Any]:
        return {**name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1] * axes}}

    inputs = [tensor(one["type"], one["axes"], name=name) for name, one in described["inputs"].items()]
    defaults = {"site": described["site"], "subject": ""}
    params = [{"name": name, "type": "string", "default": one, "shape": None} for name, one in defaults.items()]
    params.append({"name": "noise", "type": "double", "default": 0.0, "shape": None})
    whole = {"inputs": inputs, "outputs": [tensor("float32", 3)], "params": params}
    return {name: json.dumps(value) for name, value in whole.items()}
