"""Types of the names in an experiment's file: refused where they are read, before one of them names a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from fedrecon.sites.acquisition.mix import is_mix, mix_text
from fedrecon.sites.data.volume import check_name, check_text
from fedrecon.sites.errors import InputError, RefusedValueError


def _sites(given: str | dict[str, str]) -> str | dict[str, str]:
    try:
        for name in () if isinstance(given, str) else given:
            check_name("site", name)
    except InputError as error:
        raise RefusedValueError(error) from None
    return given


def _title(given: str) -> str:
    try:
        check_text("name", given)
    except InputError as error:
        raise RefusedValueError(error) from None
    return given


SiteFiles = Annotated[str | dict[str, str], AfterValidator(_sites)]
"""A folder of shards, or the file of each site by name."""

Title = Annotated[str, AfterValidator(_title)]
"""A name for people, on one line."""


def flatten(value: Any, prefix: str = "") -> Any:
    """Yields the dotted keys of nested mappings with their values as text; a mix of values is one value."""
    for key, item in value.items():
        if is_mix(item):
            yield f"{prefix}{key}", mix_text(item)
        elif isinstance(item, dict):
            yield from flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(item)


def in_text(parameters: Mapping[str, Any]) -> str:
    """Parameters as text: ``weight=0.008, iterations=200``."""
    return ", ".join(f"{key}={value}" for key, value in parameters.items())
