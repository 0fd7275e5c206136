"""The page of a sweep: one HTML file with the best trials, the figures and the table. It needs no internet access."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedrecon.tune.sweep.grouping import (
    Row,
    best,
    is_numeric,
    is_problem,
    label,
    names,
    number,
    read,
    searched,
    text,
    varying,
)

if TYPE_CHECKING:
    import pyarrow

CAPTIONS = {
    "acceleration": "Score against acceleration, with the spread over seeds.",
    "curves": "The validation score after each round; a dashed line was stopped early, a cross marks a failure.",
    "parallel": "Every trial as a line through its searched values to its score.",
    "importance": "How much a random forest loses where the values of one key are shuffled.",
    "pareto": "Both metrics, and the trials that no other one beats in both.",
}
_FIRST_TESTS = ("test/mean/psnr", "test/mean/ssim", "test/mean/nmse", "test/mean/zero_filled/psnr")
_WORK = {"trained_rounds": "rounds", "seconds": "seconds"}


@dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Attributes:
        shown: the visible text. key: the value for sorting. title: the tooltip. kind: the CSS classes of the cell.
    """

    shown: str
    key: str = ""
    title: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        source: the column of the trials that holds the values. name: the title.
        kind: the CSS classes: ``number`` for numbers, ``more`` for a column that is hidden at first.
    """

    source: str
    name: str
    kind: str = ""


def page(
    name: str,
    trials: pyarrow.Table,
    metrics: Sequence[str],
    modes: Sequence[str],
    figures: Mapping[str, bytes],
    facts: Mapping[str, str],
) -> str:
    """The page of a sweep as HTML. All text from trials is escaped.

    Args:
        trials: as for :func:`fedrecon.tune.sweep.figures.draw`.
        metrics: the validation metrics; the first one decides which trial is best.
        modes: ``max`` or ``min``, one for each metric.
        figures: PNGs by their name, in the order of the page.
        facts: the text of each fact, by its label.
    """
    from jinja2 import Environment

    rows = read(trials)
    top = best(rows, metrics[0], modes[0])
    keys = searched(rows)
    columns = _columns(rows, keys, metrics)
    problems = [key for key in varying(rows, keys) if is_problem(key)]
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)
    return template.render(
        name=name,
        facts=facts,
        counts=_counts(rows),
        metric=label(metrics[0]),
        best=top,
        best_line=_in_words(top, keys, metrics[0]) if top else "",
        problems=_best_of_each(rows, problems, keys, metrics[0], modes[0]) if problems else [],
        figures=[
            (CAPTIONS.get(one, one), base64.b64encode(png).decode("ascii")) for one, png in figures.items() if png
        ],
        columns=columns,
        status_at=1 + len(keys),
        more=any("more" in column.kind for column in columns),
        rows=[(row, [_cell(row, column) for column in columns], row is top) for row in rows],
    )


def best_by_problem(rows: Sequence[Row], keys: Sequence[str], metric: str, mode: str) -> list[tuple[Row, int]]:
    """The best trial of each problem, with the problem's number of trials.

    A problem without a scored trial is left out.

    Args:
        keys: the columns that distinguish problems.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(json.dumps([row[key] for key in keys], default=str), []).append(row)
    order = sorted(found.values(), key=lambda own: [(number(own[0][key]) or 0.0, text(own[0][key])) for key in keys])
    return [(top, len(own)) for own in order if (top := best(own, metric, mode)) is not None]


def _best_of_each(
    rows: Sequence[Row], problems: Sequence[str], keys: Sequence[str], metric: str, mode: str
) -> list[tuple[str, Row, str, str, str, int]]:
    """For each problem: name, best trial, its other values, validation score, test score, number of trials."""
    short = names(keys)
    others = [key for key in keys if key not in problems]
    return [
        (
            ", ".join(f"{short[key]} {text(row[key])}" for key in problems),
            row,
            _values(row, others, short),
            _score(row.get(metric)),
            _score(row.get(f"test/{metric}")),
            n,
        )
        for row, n in best_by_problem(rows, problems, metric, mode)
    ]


def _in_words(row: Row, keys: Sequence[str], metric: str) -> str:
    test = row.get(f"test/{metric}")
    scored = f"{label(metric)} {_score(row[metric])}" + (
        f", {label('test/' + metric)} {_score(test)}" if test is not None else ""
    )
    return f"{_values(row, keys, names(keys)) or 'the base experiment'}: {scored}"


def _values(row: Row, keys: Sequence[str], short: Mapping[str, str]) -> str:
    return ", ".join(f"{short[key]} {text(row[key])}" for key in keys if row[key] is not None)


def _columns(rows: Sequence[Row], keys: Sequence[str], metrics: Sequence[str]) -> list[Column]:
    present = set().union(*rows) if rows else set()
    kinds = {key: "number" if is_numeric(rows, key) else "" for key in keys}
    tests = [one for one in _FIRST_TESTS if one in present]
    tests += [test for one in metrics if (test := f"test/{one}") in present and test not in tests]
    rest = sorted(one for one in present if one.startswith("test/") and one not in tests)
    return [
        Column("number", "trial", "number"),
        *(Column(key, short, kinds[key]) for key, short in names(keys).items()),
        Column("status", "status"),
        *(Column(one, label(one), "number") for one in [*metrics, *tests] if one in present),
        *(Column(one, label(one), "more number") for one in rest),
        *(Column(key, name, "number") for key, name in _WORK.items() if key in present),
        Column("run_id", "run"),
        Column("error", "error"),
    ]


def _cell(row: Row, column: Column) -> Cell:
    value, source = row.get(column.source), column.source
    if source == "error":
        return Cell(str(value or ""), str(value or ""), kind="error")
    if source == "run_id":
        return Cell(str(value or "")[:8], str(value or ""), f"run {value or '–'}, digest {row.get('digest') or '–'}")
    if value is None:
        return Cell("", "", kind=column.kind)
    if source == "seconds":
        return Cell(f"{value:.1f}", str(value), kind=column.kind)
    if source.startswith("params.") or source in ("number", "trained_rounds", "status"):
        return Cell(text(value), str(value), str(value) if text(value) != str(value) else "", column.kind)
    return Cell(_score(value), str(value), kind=column.kind)


def _score(value: float | None) -> str:
    """A score as text: two decimals for a value of at least 2 (dB), else four; a dash for None."""
    return "–" if value is None else f"{value:.2f}" if abs(value) >= 2 else f"{value:.4f}"


def _counts(rows: Sequence[Row]) -> str:
    statuses = list(dict.fromkeys(row["status"] for row in rows))
    return ", ".join(f"{sum(row['status'] == one for row in rows)} {one.lower()}" for one in statuses) or "no trials"


TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: sweep</title>
<style>
:root { color-scheme: light dark; --text: #22262d; --faint: #626b78; --line: #dfe3e8; --back: #fff; --card: #f5f6f8;
  --link: #0072b2; --good: #00704f; --bad: #b3470a; --mark: #e6f2f9; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7ec; --faint: #9aa3b0; --line: #333a44; --back: #14171b; --card: #1d2127; --link: #6cb8ea;
    --good: #4cc79b; --bad: #f08a4b; --mark: #1b3040; }
}
body { margin: 0 auto; max-width: 1320px; padding: 24px 20px 60px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 18px; margin: 34px 0 10px; }
p { margin: 4px 0 10px; } .faint, figcaption { color: var(--faint); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; font-size: 14px; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.best { background: var(--mark); border-radius: 8px; padding: 10px 14px; }
figure { margin: 0 0 26px; }
figure img { width: 100%; height: auto; background: #fff; border-radius: 8px;
  display: block; border: 1px solid var(--line); box-sizing: border-box; }
figcaption { font-size: 14px; margin-top: 4px; }
.bar { display: flex; gap: 18px; align-items: center; flex-wrap: wrap; margin-bottom: 8px; }
input[type=search] { font: inherit; padding: 5px 10px; width: 280px; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); color: inherit; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; font-size: 13.5px; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--card); font-weight: 600; vertical-align: bottom; line-height: 1.3; }
th.number { white-space: normal; } .number { text-align: right; white-space: nowrap; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
tr.top { background: var(--mark); } .FINISHED { color: var(--good); } .FAILED { color: var(--bad); }
.STOPPED, .RUNNING, .WAITING { color: var(--faint); } .folded .more { display: none; }
details { max-width: 420px; } summary { cursor: pointer; color: var(--bad); max-width: 260px; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; margin: 6px 0 0; }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<p class="faint">{{ rows | length }} trials: {{ counts }}</p>
<dl>
{% for label, value in facts.items() %}
<dt>{{ label }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
<h2>Best</h2>
{% if best %}
<p class="best"><strong>Trial {{ best.number }}</strong>\
{% if best.status != "FINISHED" %} (stopped early; none finished){% endif %}: {{ best_line }}</p>
<p class="faint">Chosen by {{ metric }}; test subjects never choose.{% if problems %} Trials of different problems
do not compare: what follows is the best of each.{% endif %}</p>
{% else %}
<p>No trial has a score yet.</p>
{% endif %}
{% if problems %}
<div class="scroll"><table>
<thead><tr><th>problem</th><th>trial</th><th>values</th><th class="number">validation</th><th class="number">test</th>\
<th class="number">of trials</th></tr></thead>
<tbody>
{% for problem, row, values, validation, test, n in problems %}
<tr><td>{{ problem }}</td><td>{{ row.number }}{{ "" if row.status == "FINISHED" else " (stopped)" }}</td>\
<td>{{ values }}</td><td class="number">{{ validation }}</td><td class="number">{{ test }}</td>\
<td class="number">{{ n }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if figures %}
<h2>Figures</h2>
{% for caption, png in figures %}
<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ png }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% endif %}
<h2>Trials</h2>
<div class="bar"><input type="search" id="filter" placeholder="filter, e.g. fedavg failed" aria-label="filter trials">
<span class="faint" id="count"></span>
{% if more %}
<label><input type="checkbox" id="more"> all test scores</label>
{% endif %}
</div>
<div class="scroll"><table id="trials" class="folded">
<thead><tr>
{% for column in columns %}
<th class="{{ column.kind }}" title="{{ column.source }}"><button>{{ column.name }}</button></th>
{% endfor %}
</tr></thead>
<tbody>
{% for row, cells, top in rows %}
<tr{% if top %} class="top"{% endif %}>
{% for cell in cells %}
{% if cell.kind == "error" %}
<td data-key="{{ cell.key }}">{% if cell.shown %}<details><summary>{{ cell.shown | truncate(60) }}</summary>\
<pre>{{ cell.shown }}</pre></details>{% endif %}</td>
{% else %}
<td class="{{ cell.kind }}{% if loop.index0 == status_at %} {{ cell.shown }}{% endif %}" data-key="{{ cell.key }}"\
{% if cell.title %} title="{{ cell.title }}"{% endif %}>{{ cell.shown }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
<script>
const table = document.getElementById("trials"), body = table.tBodies[0], rows = [...body.rows];
const heads = [...table.tHead.rows[0].cells];
function compare(a, b, at, sign) {
  const x = a.cells[at].dataset.key, y = b.cells[at].dataset.key;
  if (x === "" || y === "") return (x === "") - (y === "");  // missing values stay at the bottom
  const m = Number(x), n = Number(y);
  return sign * (Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n);
}
heads.forEach((head, at) => head.firstElementChild.addEventListener("click", () => {
  const down = head.getAttribute("aria-sort") === "ascending";
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows.sort((a, b) => compare(a, b, at, down ? -1 : 1)));
}));
const filter = document.getElementById("filter"), count = document.getElementById("count");
function show() {
  const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
  count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
}
filter.addEventListener("input", show);
document.getElementById("more")?.addEventListener("change", event =>
  table.classList.toggle("folded", !event.target.checked));
show();
</script>
</body>
</html>
"""
