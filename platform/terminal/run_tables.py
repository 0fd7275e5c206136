"""The tables of ``fedrecon runs``, on stdout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedrecon.platform.catalogue.overview import Overview
from fedrecon.platform.reporting.table import Row, Table, Tone, Value, number, numbers, plain, words
from fedrecon.platform.reporting.terminal import print_table
from fedrecon.sites.score_columns import METRIC_LABELS, METRICS
from fedrecon.sites.sizes import size

TONES: dict[str, Tone] = {"running": "good", "damaged": "bad", "set aside": "faint", "unfinished": "faint"}
HEADS = {metric: f"test {METRIC_LABELS[metric]}" for metric in METRICS}


def runs_table(runs: Sequence[Overview]) -> None:
    """Prints the runs, a row each. The rest of what is known of them is in ``--json`` and ``fedrecon runs show``."""
    shorts = Counter(one.short for one in runs)
    campaigns = any(one.campaign for one in runs)
    columns = [*words("digest", "name", "status"), *numbers("rounds"), *words("method", "operator")]
    columns += [*numbers(HEADS["psnr"], "size"), *words("changed", *(["part of"] if campaigns else []))]
    rows = [
        Row([
            plain(one.short if shorts[one.short] == 1 else one.digest),
            plain(one.name),
            Value(one.status, tone=TONES.get(one.status, "")),
            plain(f"{one.rounds}/{one.planned}" if one.planned else "–"),
            plain(one.method),
            plain(one.operator),
            number(one.psnr, METRICS["psnr"]),
            plain(size(one.bytes)),
            plain(one.changed.replace("T", " ")[:16]),
            *([plain(one.campaign)] if campaigns else []),
        ])
        for one in runs
    ]  # fmt: skip
    print_table(Table("runs, the newest first; scores: mean over the sites", columns, rows))


def pairs_table(title: str, pairs: Mapping[str, Any]) -> None:
    """Prints keys and values."""
    rows = [Row([plain(key), plain(str(value))]) for key, value in pairs.items()]
    print_table(Table(title, words("key", "value"), rows))


def comparison_tables(found: Mapping[str, Any]) -> None:
    """Prints what differs between two runs, and their scores side by side."""
    a, b = (one["digest"] for one in found["runs"])
    for what in ("settings", "data", "code", "environment"):
        rows = [
            Row([plain(key), plain(_shown(one)), plain(_shown(other))]) for key, (one, other) in found[what].items()
        ]
        if rows or what == "settings":
            note = "" if rows else "the settings are the same"
            print_table(Table(f"{what} that differ", words("key", f"A {a}", f"B {b}"), rows, note))
    heads = [f"{head}{part}" for head in HEADS.values() for part in (" A", " B", " B−A")]
    rows = []
    for site, scores in found["scores"].items():
        values = [plain(site)]
        for metric, shown in METRICS.items():
            one = scores[metric]
            values += [number(one["a"], shown), number(one["b"], shown), number(one["difference"], f"+{shown}")]
        rows.append(Row(values, marked=site == "mean"))
    print_table(
        Table("scores of the test subjects", [*words("site"), *numbers(*heads)], rows, "\n".join(found["notes"]))
    )


def _shown(value: Any) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
