"""Types of the names in an experiment's file: refused where they are read, before one of them names a folder."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

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
