"""Plug-ins and blocks of an experiment: frozen sets of parameters, and the part of them that enters a digest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedrecon.sites.errors import InputError, RefusedValueError, unknown

Count = Annotated[int, Field(ge=1)]
"""A number of things: a whole number of at least 1."""

ADDED_LATER = "added later"
"""Marks a key that was added to an experiment later: ``key: Annotated[int, ADDED_LATER] = 3``.

The key enters a digest only if its value differs from its default. So the digests of older runs stay valid.
"""


class Plugin(BaseModel):
    """A plug-in. Its fields are its parameters. Unknown parameters are refused, and an instance never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


class Settings(BaseModel):
    """A block of an experiment. It is frozen, and it refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


P = TypeVar("P", bound=Plugin)


def choose(kind: str, registry: Mapping[str, type[P]], name: str, parameters: Mapping[str, Any]) -> P:
    """The plug-in ``name`` of ``registry`` with these parameters.

    Raises:
        InputError: the name or a parameter is unknown (the message gives the nearest right one), or a value is refused.
    """
    if name not in registry:
        raise unknown(kind, name, registry)
    return parse(registry[name], parameters, where=f"{kind} '{name}'")


def science_of(model: BaseModel) -> dict[str, Any]:
    """The parameters that enter a digest: all, except :data:`ADDED_LATER` parameters that have their default value."""
    values = model.model_dump()
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if ADDED_LATER in field.metadata and value == field.get_default(call_default_factory=True):
            del values[name]
        elif isinstance(value, BaseModel):
            values[name] = science_of(value)
    return values


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], given: Any, where: str) -> M:
    """``given`` as an instance of ``model``.

    Args:
        where: name of the block or plug-in, for the message.

    Raises:
        InputError: the model refuses ``given``; one line for each refused key, with its value and the allowed values.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        found = [_explain(item, model, where) for item in error.errors()]
        raise InputError("\n".join(map(str, found)), [name for one in found for name in one.unknown]) from None


def _explain(item: Any, model: type[BaseModel], where: str) -> InputError:
    path = [str(part) for part in item["loc"]]
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        owner = _model_at(model, path[:-1])
        kind = f"key '{'.'.join(path[:-1])}.'" if path[:-1] else "key"
        wrong = unknown(kind, path[-1], owner.model_fields if owner else ())
        return InputError(f"{where}: {wrong}", wrong.unknown)
    if item["type"] == "missing":
        return InputError(f"{where}: '{key}' is missing.")
    message, raised = item["msg"].removeprefix("Value error, "), item.get("ctx", {}).get("error")
    given = item.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool | list) else ""
    names = raised.error.unknown if isinstance(raised, RefusedValueError) else ()
    return InputError(f"{where}: {f'{key}: ' if key else ''}{message}{shown}", names)


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    for part in path:
        field = model.model_fields.get(part)
        kind = _without_none(field.annotation) if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        model = kind
    return model


def _without_none(kind: Any) -> Any:
    """The type ``X`` if ``kind`` is ``X | None``; else ``kind`` itself."""
    others = [one for one in get_args(kind) if one is not type(None)]
    return others[0] if len(others) == 1 else kind
