"""The JSON schema that editors use stands in the docs, and is the one that the code makes."""

import json
from pathlib import Path

from fedrecon.platform.config.schema import json_schema

ROOT = Path(__file__).parents[2]


def test_committed_schema_is_current():
    committed = json.loads((ROOT / "docs" / "experiment.schema.json").read_text())
    assert committed == json.loads(json.dumps(json_schema()))
