"""Plug-ins and blocks of an experiment: frozen sets of parameters, and the part of them that enters a digest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from fedrecon.sites.errors import InputError, RefusedValueError, brief, unknown

Count = Annotated[int, Field(ge=1, le=10**9)]
"""A number of things: a whole number of at least 1."""

Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
"""The seed of random numbers: any whole number of 64 bits."""

Weight = Annotated[float, Field(ge=0, le=1e9)]
"""The weight of a term of a sum; 0 leaves the term out."""

ADDED_LATER = "added later"
"""Marks a key that was added to an experiment later: ``key: Annotated[int, ADDED_LATER] = 3``.

The key enters a digest only if its value differs from its default. So the digests of older runs stay valid.
"""


class Settings(BaseModel):
    """A block of an experiment. It is frozen, and it refuses unknown keys, NaN, and a truth value for a number.

    Every number has a lower and an upper bound, in the declaration of its field: what is out of bounds is refused
    before torch loads. ``tests/platform/test_bounds.py`` goes through the fields of all classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, given: Any, info: ValidationInfo) -> Any:
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if kinds & {int, float} and not kinds & {bool, Any} and _holds_bool(given):
            raise ValueError("a number is needed, not true or false")
        return given


class Plugin(Settings):
    """A plug-in. Its fields are its parameters. Unknown parameters are refused, and an instance never changes."""


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


def refuse_idle(model: BaseModel, keys: Sequence[str], block: str, because: str) -> None:
    """Refuses keys that act on nothing, unless they have their default values.

    Args:
        keys: the keys of ``model`` that act on nothing.
        block: the block that holds them. because: why they act on nothing, for the message.

    Raises:
        ValueError: the message names the key, its value and its default.
    """
    for key in keys:
        given, default = getattr(model, key), type(model).model_fields[key].default
        if given != default:
            raise ValueError(
                f"{block}.{key}: {brief(given)} would change nothing: {because}; leave it at {brief(default)}"
            )


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
    except UnicodeError as error:  # pydantic's own messages are UTF-8
        raise InputError(f"{where}: half of a character (a surrogate) is no text: {brief(str(error))}") from None
    except ValidationError as error:
        found = [_explain(item, model, where) for item in _furthest(error.errors())]
        raise InputError("\n".join(map(str, found)), [name for one in found for name in one.unknown]) from None


_BRANCH = re.compile(r"str|int|float|bool|(literal|dict|list|tuple|constrained|function|nullable)\b.*")
"""How pydantic names a branch of a union in the place of an error."""


def _furthest(items: Sequence[Any]) -> list[Any]:
    """The errors without branches of unions: of all the branches, those count that got furthest into the value."""
    found: dict[tuple[str, ...], list[Any]] = {}
    for item in items:
        path = tuple(map(str, item["loc"]))
        at = next((at for at, part in enumerate(path) if _BRANCH.fullmatch(part)), len(path))
        rest = tuple(part for part in path[at:] if not _BRANCH.fullmatch(part))
        found.setdefault(path[:at], []).append({**item, "loc": path[:at] + rest})
    chosen = []
    for group in found.values():
        furthest = [item for item in group if len(item["loc"]) == max(len(one["loc"]) for one in group)]
        for loc in dict.fromkeys(item["loc"] for item in furthest):
            alike = [item for item in furthest if item["loc"] == loc]
            messages = dict.fromkeys(map(_in_words, alike))
            chosen.append({**alike[0], "msg": "; or: ".join(messages)})
    return chosen


_WORDS = {
    "bool_parsing": "true or false is needed",
    "bool_type": "true or false is needed",
    "dict_type": "a mapping of keys is needed",
    "finite_number": "a finite number is needed",
    "float_parsing": "a number is needed",
    "float_type": "a number is needed",
    "greater_than": "more than {gt} is needed",
    "greater_than_equal": "at least {ge} is needed",
    "int_from_float": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "int_parsing_size": "a whole number is needed",
    "int_type": "a whole number is needed",
    "less_than": "less than {lt} is needed",
    "less_than_equal": "at most {le} is needed",
    "list_type": "a list is needed",
    "literal_error": "{expected} is needed",
    "model_attributes_type": "a mapping of keys is needed",
    "model_type": "a mapping of keys is needed",
    "string_too_short": "a text of {min_length} or more characters is needed",
    "string_type": "a text is needed",
    "too_long": "at most {max_length} values are allowed",
    "too_short": "{min_length} or more values are needed",
    "tuple_type": "a list is needed",
}
"""Our words for pydantic's kinds of errors; of another kind, pydantic's own are shown."""


def _in_words(item: Any) -> str:
    """What is needed in place of a refused value."""
    words, bounds = _WORDS.get(item["type"]), item.get("ctx", {})
    shown = {name: f"{one:g}" if isinstance(one, float) else one for name, one in bounds.items()}
    return words.format(**shown) if words else str(item["msg"]).removeprefix("Value error, ")


def _explain(item: Any, model: type[BaseModel], where: str) -> InputError:
    path = [str(part) for part in item["loc"]]
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        owner = _model_at(model, path[:-1])
        wrong = unknown("key", path[-1], owner.model_fields if owner else (), path=key.removesuffix(path[-1]))
        return InputError(f"{where}: {wrong}", wrong.unknown)
    if item["type"] == "missing":
        return InputError(f"{where}: '{key}' is missing.")
    message, raised = item["msg"], item.get("ctx", {}).get("error")
    given = item.get("input")
    shown = f" (given: {brief(given)})" if isinstance(given, str | int | float | bool | list) else ""
    names = raised.error.unknown if isinstance(raised, RefusedValueError) else ()
    return InputError(f"{where}: {f'{key}: ' if key else ''}{message}{shown}", names)


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    if get_origin(annotation) is Literal:
        return set(map(type, get_args(annotation)))
    inner = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return set().union(*map(_kinds, inner)) if inner else {annotation}


def _holds_bool(given: Any) -> bool:
    """Whether the value is a truth value, or a list or mapping with one in it."""
    inner = given.values() if isinstance(given, dict) else given if isinstance(given, list | tuple) else ()
    return isinstance(given, bool) or any(map(_holds_bool, inner))


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
