"""``fedrecon data import``, a thin layer over :func:`fedrecon.sites.formats.importing.import_data`."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from fedrecon.commands.base import DONE
from fedrecon.platform.terminal.output import print_json, say
from fedrecon.sites.errors import FilesError, InputError
from fedrecon.sites.formats import FORMATS, Format


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The fields of each format are options: a new field needs no line here."""
    add = parser.add_argument
    add("format", metavar="|".join(FORMATS))
    add("source", nargs="+", metavar="SOURCE", help="files, or folders: files in and below them are read")
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--site", metavar="NAME")
    one.add_argument("--site-by", choices=("scanner",), help="a site for each scanner, named by its model and field")
    add("--out", required=True, metavar="DIR")
    add("--contrast", metavar="C", help="default: the name in the files")
    add("--overwrite", action="store_true", help="replace the shard of this site if there is one")
    add("--plugins", nargs="+", default=(), metavar="FILE", help="plug-in files that add formats")
    add("--skip-bad", action="store_true", help="import the good files although others are refused")

    add = parser.add_argument_group("subjects and splits").add_argument
    add(
        "--subjects-from", metavar="FILE.tsv", help="table with the columns file, subject and, if it says splits, split"
    )
    add(
        "--subject-pattern",
        metavar="REGEX",
        help="searched in the file's name, then in its path (default: the patient's id in the file, or the file's "
        "name up to its first '_')",
    )
    add("--validation-subjects", metavar="A,B")
    add("--test-subjects", metavar="C")
    add(
        "--key",
        metavar="FILE",
        help="the consortium's key for pseudonyms (default: DIR/consortium.key; made if missing)",
    )

    groups: dict[str, Any] = {}
    for option, owners in options().items():
        field, title = next(iter(owners.values())), f"options of {', '.join(owners)}"
        how: dict[str, Any] = {"metavar": _metavar(field.annotation)}
        if field.annotation is bool:
            how = {"action": argparse.BooleanOptionalAction}
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        group.add_argument(
            f"--{option.replace('_', '-')}", dest=f"option {option}", default=None, help=_help(owners), **how
        )


def run(arguments: argparse.Namespace) -> int:
    """Imports, prints the summary on stdout and its warnings on stderr."""
    from fedrecon.sites.formats.by_scanner import import_by_scanner
    from fedrecon.sites.formats.importing import import_data

    do: Callable[..., Any] = import_by_scanner if arguments.site is None else partial(import_data, site=arguments.site)
    given = {option: vars(arguments)[f"option {option}"] for option in options()}
    try:
        found = do(
            arguments.format,
            arguments.source,
            out=arguments.out,
            contrast=arguments.contrast,
            subject_pattern=arguments.subject_pattern,
            subjects_from=arguments.subjects_from,
            validation_subjects=_names(arguments.validation_subjects),
            test_subjects=_names(arguments.test_subjects),
            key=arguments.key,
            overwrite=arguments.overwrite,
            skip_bad=arguments.skip_bad,
            dry_run=arguments.dry_run,
            plugins=arguments.plugins,
            **{option: _value(arguments.format, option, text) for option, text in given.items()},
        )
    except FilesError as error:  # a message of many lines would be cut
        for one in error.refused:
            say(f"refused: {one}", sys.stderr)
        raise InputError(error.advice) from None
    summaries = found if isinstance(found, list) else [found]
    for note in (note for one in summaries for note in one.notes):
        say(f"warning: {note.kind}: {note.text}", sys.stderr)
    if arguments.json:
        print_json({"sites": [one.as_dict() for one in summaries]} if isinstance(found, list) else found.as_dict())
        return DONE
    for summary in summaries:
        for line in summary.lines():
            say(line)
        replaced = " (replaced)" if summary.overwrote else ""
        say(f"{summary.path}{replaced}" if summary.written else f"dry run: {summary.path} is not written")
    return DONE


def options() -> dict[str, dict[str, FieldInfo]]:
    """The options of all formats: by name, the field of each format that has it, with a description."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for name, kind in FORMATS.items():
        for key, field in kind.model_fields.items():
            described = FieldInfo.merge_field_infos(field, description=field.description or _documented(kind, key))
            found.setdefault(field.alias or key, {})[name] = described
    return found


def _help(owners: dict[str, FieldInfo]) -> str | None:
    """The description of an option; if formats describe it differently, each with its format."""
    texts = {name: field.description for name, field in owners.items() if field.description}
    same = set(texts.values())
    return next(iter(same), None) if len(same) < 2 else " ".join(f"{name}: {text}" for name, text in texts.items())


def _documented(kind: type[Format], key: str) -> str | None:
    """What the class that has a field says of it under ``Attributes:``."""
    owner = next(one for one in kind.__mro__ if key in vars(one).get("__annotations__", ()))
    found = re.search(rf"^    {key}: (.*(?:\n {{8}}.*)*)", inspect.cleandoc(owner.__doc__ or ""), re.MULTILINE)
    text = re.sub(r" ?\(:\w+:`[^`]*`\)|``", "", " ".join(found[1].split()) if found else "")
    return text.replace("%", "%%") or None


def _value(name: str, option: str, text: Any) -> Any:
    """The value as the field takes it: a list where the field is one, else the text, which pydantic reads."""
    field = options()[option].get(name)
    several = field is not None and any(get_origin(kind) in (tuple, list, set, frozenset) for kind in _kinds(field))
    return _names(text) if several and text is not None else text


def _kinds(field: FieldInfo) -> Iterator[Any]:
    yield from get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else [field.annotation]


def _metavar(annotation: Any) -> str:
    """``N`` for a number, ``a|b`` for a choice."""
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (tuple, list, set, frozenset):
        return _metavar(get_args(annotation)[0]).replace("|", ",")
    inner = [one for one in get_args(annotation) if one is not type(None) and (isinstance(one, type) or get_args(one))]
    if not inner:
        return {int: "N", float: "X"}.get(annotation, "VALUE")
    return "|".join(dict.fromkeys(_metavar(one) for one in inner))


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
