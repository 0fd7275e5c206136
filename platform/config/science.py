"""The version of the science, and the digest of what identifies it. The docs say what each version changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

TRAINED = 2
"""Increased when a fix changes the results of trained networks. Older runs then have other digests: none is resumed.

2: augmentation is drawn for each slice; server optimisers average buffers; priors train under the phase of small
calibration boxes, and hold out whole columns (docs/decisions/017-figures-that-are-right.md); volumes whose shard has a
crop are scored within it, as fastMRI is (docs/data.md). A fix that concerns few settings marks their digests alone: see
:attr:`fedrecon.sites.acquisition.setting.Acquisition.own_science`, :attr:`fedrecon.strategies.Strategy.own_science`,
``own_science`` of the block ``test`` and ``science`` of the block ``training``.
"""
CLASSICAL = 1
"""The same for the methods that train nothing."""


def science_version(trains: bool) -> int:
    """The version that enters a digest."""
    return TRAINED if trains else CLASSICAL


def hashed(science: Mapping[str, Any]) -> str:
    """The digest of plain values: 16 hexadecimal digits of a SHA-256."""
    text = json.dumps(science, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
