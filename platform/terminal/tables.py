"""Tables on stdout, and the lists of plug-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrecon.platform.federation.coverage import in_words
from fedrecon.platform.reporting.table import Row, Table, Value, number, numbers, plain, words
from fedrecon.platform.reporting.terminal import print_table
from fedrecon.platform.runs.report import COVERAGE, below_zero_filled, coverage_cells, tuned
from fedrecon.platform.terminal.output import say
from fedrecon.sites.score_columns import METRIC_LABELS, METRICS
from fedrecon.sites.scoring.settings import AGAINST

TEST_COLUMNS = (
    *("test volumes", "test slices"),
    *(f"test {METRIC_LABELS[metric]}" for metric in METRICS),
    *("with DC (dB)", "zero-filled (dB)"),
)
"""The columns of scores. The last two are the PSNR of the test subjects too."""


def result_table(result: Mapping[str, Any], experiment: Mapping[str, Any]) -> None:
    """Prints the test scores per site: of the output, after data consistency, and of the zero-filled image.

    A line says the parameters of a classical method. One in red names the sites where the output is below the
    zero-filled image.

    Args:
        result: the JSON of ``fedrecon run --json``. experiment: the experiment as a mapping.
    """
    named = [*result["sites"].items(), ("mean", result["mean"])]
    told = bool(result.get("uncertainty"))
    rows = [
        Row([plain(name), plain(str(one["n_volumes"])), plain(str(one["n_slices"])), *_scores(one, told)])
        for name, one in named
    ]
    columns = [*words("site"), *numbers(*TEST_COLUMNS, *(COVERAGE if told else ()))]
    reference = experiment.get("evaluation", {}).get("reference", "measured")
    print_table(Table(f"{result['name']}: test subjects, {AGAINST[reference]}", columns, rows))
    if told:
        say(in_words(result["uncertainty"]))
    for line in tuned(result):
        say(line)
    for line in (below_zero_filled(result, experiment), result.get("environment", {}).get("diverged")):
        if line:
            _alarm(line)


def rows_table(found: Mapping[str, Any]) -> None:
    """Prints an evaluation (the JSON of ``fedrecon evaluate --json``): a row a site, and the mean over the sites."""
    columns = [*words("site", "measured by"), *numbers("R", "measured R"), *words("model")]
    told = bool(found["uncertainty"])
    marked = [(row, False) for row in found["rows"]] + [(row, True) for row in found["means"]]
    shown = [
        Row(
            [
                plain(row["site"]),
                plain(row["mask"] or "(mixed)"),
                number(row["acceleration"], "g"),
                number(row["measured_acceleration"], ".2f"),
                plain(row["model"] or "(mixed)"),
                plain(str(row["n_volumes"])),
                plain(str(row["n_slices"])),
                *_scores(row, told),
            ],
            marked=mean,
        )
        for row, mean in marked
    ]
    title = f"evaluation: test subjects, {AGAINST[found['reference']]}"
    print_table(Table(title, [*columns, *numbers(*TEST_COLUMNS, *(COVERAGE if told else ()))], shown))
    if told:
        say(in_words(found["uncertainty"]))


def shards_table(shards: Sequence[Mapping[str, Any]]) -> None:
    """Prints the contents of shards, one row per shard."""
    columns = [*words("site", "contrast"), *numbers("field (T)", "matrix (y×x)", "coils"), *words("k-space", "phase")]
    rows = [
        Row([
            plain(str(one["site"])),
            plain(str(one["contrast"] or "-")),
            plain(str(one["field_strength_t"] or "-")),
            plain(", ".join(f"{y}x{x}" for y, x in one["matrix"])),
            plain(str(one["n_coils"])),
            plain("simulated" if one["simulated"] else "measured"),
            plain(str(one["phase"])),
            *[plain(_split(one["splits"][name])) for name in ("train", "validation", "test")],
            plain(", ".join(one["usable_for"])),
        ])
        for one in shards
    ]  # fmt: skip
    splits = (f"{split} (subjects/slices)" for split in ("train", "validation", "test"))
    print_table(Table("shards", [*columns, *numbers(*splits), *words("usable for")], rows))


def registry(kind: str, files: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """The plug-ins of one kind by name, each with one line of description, and where it comes from.

    Args:
        kind: ``strategies``, ``networks``, ``masks``, ``degradations``, ``formats`` or ``reconstructors``.
        files: plug-in files that are listed too.

    Raises:
        InputError: a plug-in file or an installed plug-in is refused.
    """
    from fedrecon.platform.config.plugins import read_plugins
    from fedrecon.platform.config.plugins import registry as plugins
    from fedrecon.sites.extension.origin import where_from

    found = plugins(kind, read_plugins(list(files))).items()
    return {name: (_described(kind, one), where_from(one)) for name, one in found}


def laws_table(checked: Mapping[str, Any]) -> None:
    """Prints the verdicts of ``fedrecon check-plugin``: each law, and under a broken one what was found instead."""
    for one in checked["plugins"]:
        say(f"{one['kind']} '{one['name']}'")
        for law in one["laws"]:
            say(f"  {'holds ' if law['holds'] else 'BROKEN'}  {law['wants']}")
            if not law["holds"]:
                say(f"          but {law['found']}.")
    total = sum(len(one["laws"]) for one in checked["plugins"])
    say(f"{checked['file']}: {total - checked['broken']} of {total} laws hold")


def _described(kind: str, one: Any) -> str:
    if kind == "formats":
        return str(one.summary)
    if kind == "networks":
        kind = "" if one.kind == "reconstruction" else f"{one.kind}: "
        return kind + _parameters(one.parameters)
    return f"{_first_line(one)}  ({_parameters(one) or 'no parameters'})"


def _first_line(kind: Any) -> str:
    return str(kind.__doc__ or "").strip().split("\n")[0]


def _parameters(model: Any) -> str:
    fields = model.model_fields
    return ", ".join(name if one.is_required() else f"{name}={one.default}" for name, one in fields.items())


def _scores(one: Mapping[str, Any], told: bool) -> list[Value]:
    own = [number(one[metric], METRICS[metric]) for metric in METRICS]
    others = [one[key]["psnr"] for key in ("with_data_consistency", "zero_filled")]
    shown = [*own, *(number(value, METRICS["psnr"]) for value in others)]
    return shown + (coverage_cells(one) if told else [])


def _split(one: Mapping[str, Any]) -> str:
    return f"{len(one['subjects'])} / {one['n_slices']}"


def _alarm(line: str) -> None:
    """Prints a line that must not be overlooked; red on a terminal."""
    from rich.console import Console

    Console(soft_wrap=True).print(line, style="bold red", highlight=False, markup=False)
