"""The JSON schema of an experiment file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fedrecon.platform.config.experiment import Experiment
from fedrecon.sites.classical import RECONSTRUCTORS
from fedrecon.strategies import STRATEGIES
from fedrecon.strategies.networks import NETWORKS
from fedrecon.strategies.personalise import Personalise


def json_schema() -> dict[str, Any]:
    """The JSON schema of an experiment file, for editors."""
    schema = Experiment.model_json_schema()
    registry = {"strategy": {name: kind.model_json_schema() for name, kind in STRATEGIES.items()}}
    registry["network"] = {name: one.parameters.model_json_schema() for name, one in NETWORKS.items()}
    for one in registry["strategy"].values():
        one["properties"] = {**one.get("properties", {}), "personalise": Personalise.model_json_schema()}
    for key, kinds in registry.items():
        for one in kinds.values():
            schema["$defs"] |= one.pop("$defs", {})
        blocks = [_named(name, one) for name, one in kinds.items()]
        schema["properties"][key] = {"oneOf": [{"type": "string"}, *blocks, _outside(kinds)]}
    schema["properties"]["reconstructor"] = {"anyOf": [{"enum": ["network", *RECONSTRUCTORS]}, {"type": "object"}]}
    return schema


def _outside(names: Collection[str]) -> dict[str, Any]:
    """A plug-in from outside: any other name, with parameters that the editor does not know."""
    name = {"type": "string", "not": {"enum": list(names)}}
    return {"title": "a plug-in from outside", "type": "object", "properties": {"name": name}, "required": ["name"]}


def _named(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    properties = {"name": {"const": name}, **schema.get("properties", {})}
    return {**schema, "properties": properties, "required": ["name", *schema.get("required", [])]}
