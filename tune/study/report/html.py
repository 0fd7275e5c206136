"""A study's report as one HTML file that needs no network."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

from fedrecon.tune.study.analysis.inputs import Findings
from fedrecon.tune.study.analysis.results import Statistics
from fedrecon.tune.study.report.document import Code, Part, Picture, Table, runs
from fedrecon.tune.study.report.sections import document


def page(findings: Findings, statistics: Statistics, figures: Sequence[Picture]) -> str:
    """The report as HTML. All text from the study is escaped."""
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)
    whole = document(findings, statistics, figures)
    address = _safe(findings)
    urls = [(run, address(run)) for run in runs(whole)]
    number = {run: at for at, (run, _) in enumerate(urls, 1)}
    return template.render(whole=whole, kind=_kind, embedded=_embedded, number=number, urls=urls)


def _safe(findings: Findings) -> Callable[[str], str]:
    """A function that gives the address of a run. Without an http or https address the link leads nowhere (``#``)."""

    def address(run_id: str) -> str:
        found = findings.run_url(run_id)
        return found if found.startswith(("http://", "https://")) else "#"

    return address


def _kind(part: Part) -> str:
    if isinstance(part, Table):
        return "table"
    return "picture" if isinstance(part, Picture) else "code" if isinstance(part, Code) else "text"


def _embedded(png: bytes) -> str:
    return base64.b64encode(png).decode("ascii")


TEMPLATE = """\
{% macro grid(table) %}
<div class="scroll"><table class="sortable">
<thead><tr>
{% for name in table.header %}
<th{% if loop.revindex <= table.numeric %} class="number"{% endif %}><button>{{ name }}</button></th>
{% endfor %}
{% if table.runs %}
<th>runs</th>
{% endif %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>
{% for value in row %}
<td{% if loop.revindex <= table.numeric %} class="number"{% endif %} data-key="{{ value.key }}"\
{% if value.title %} title="{{ value.title }}"{% endif %}>\
{% if value.bold %}<strong>{{ value.text }}</strong>{% else %}{{ value.text }}{% endif %}\
{% for line in value.small.split('; ') if line %}<small>{{ line }}</small>{% endfor %}</td>
{% endfor %}
{% if table.runs %}
<td class="runs" data-runs="{% for run in table.runs[loop.index0] %}{{ number[run] }} {% endfor %}"></td>
{% endif %}
</tr>
{% endfor %}
</tbody></table></div>
{% if table.note %}
<p class="faint">{{ table.note }}</p>
{% endif %}
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ whole.title }}: study</title>
<style>
:root { color-scheme: light dark; --text: #22262d; --faint: #626b78; --line: #dfe3e8; --back: #fff; --card: #f5f6f8;
  --link: #0072b2; --mark: #e6f2f9; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7ec; --faint: #9aa3b0; --line: #333a44; --back: #14171b; --card: #1d2127; --link: #6cb8ea;
    --mark: #1b3040; }
}
body { margin: 0 auto; max-width: 1320px; padding: 24px 20px 60px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 20px; margin: 40px 0 10px; scroll-margin-top: 12px; }
h3 { font-size: 15px; margin: 22px 0 8px; } p { margin: 4px 0 10px; max-width: 100ch; }
li { max-width: 105ch; margin-bottom: 4px; } ul { padding-left: 22px; }
a { color: var(--link); } .faint, figcaption, small { color: var(--faint); }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 12px 0; font-size: 14px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; font-size: 14px; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.short { background: var(--mark); border-radius: 8px; padding: 12px 16px 10px 30px; margin: 0 0 18px; }
figure { margin: 0 0 26px; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 8px; display: block;
  border: 1px solid var(--line); box-sizing: border-box; }
figcaption { font-size: 14px; margin-top: 4px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; margin-bottom: 8px; }
table { border-collapse: collapse; font-size: 13.5px; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--card); font-weight: 600; vertical-align: bottom; line-height: 1.3; }
td small { display: block; font-size: 11.5px; white-space: nowrap; } .number { text-align: right; }
td.number { white-space: nowrap; } th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
details { margin: 0 0 8px; } summary { cursor: pointer; font-size: 14px; }
details[open] > summary { margin-bottom: 8px; } .runs { margin: 0; white-space: nowrap; }
.runs details { margin: 0; } .runs details[open] { white-space: normal; min-width: 120px; }
.runs summary { font-size: inherit; color: var(--link); } td:first-child { white-space: nowrap; }
pre { background: var(--card); border-radius: 8px; padding: 12px; overflow: auto; max-height: 420px; font-size: 12px; }
</style>
</head>
<body>
<h1>{{ whole.title }}</h1>
<dl>
{% for label, value in whole.facts.items() %}
<dt>{{ label }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
<nav>
{% for section in whole.sections %}
<a href="#part-{{ loop.index }}">{{ section.title }}</a>
{% endfor %}
</nav>
{% for section in whole.sections %}
<h2 id="part-{{ loop.index }}">{{ section.title }}</h2>
{% for part in section.parts %}
{% if kind(part) == "text" %}
{% if part.folded %}
<details><summary>{{ part.text }}</summary>
{% elif part.text %}
<p>{% if part.points %}<strong>{{ part.text }}</strong>{% else %}{{ part.text }}{% endif %}</p>
{% endif %}
{% if part.points %}
<ul{% if part.short %} class="short"{% endif %}>
{% for point in part.points %}
<li>{{ point }}</li>
{% endfor %}
</ul>
{% endif %}
{% if part.folded %}
</details>
{% endif %}
{% elif kind(part) == "picture" %}
<figure><img alt="{{ part.caption }}" src="data:image/png;base64,{{ embedded(part.png) }}">\
<figcaption>{{ part.caption }}\
{% if part.runs %}<span class="runs" data-runs="{% for run in part.runs %}{{ number[run] }} {% endfor %}"></span>\
{% endif %}</figcaption></figure>
{% elif kind(part) == "code" %}
<details><summary>{{ part.title }}</summary><pre>{{ part.text }}</pre></details>
{% elif part.folded %}
<details><summary>{{ part.title }}</summary>
{{ grid(part) }}</details>
{% else %}
<h3>{{ part.title }}</h3>
{{ grid(part) }}
{% endif %}
{% endfor %}
{% endfor %}
{% if urls %}
<details id="runs"><summary>All {{ urls | length }} runs in MLflow (links open while <code>fedrecon ui</code> or your \
MLflow server runs)</summary><ol>
{% for run, address in urls %}
<li id="run-{{ loop.index }}"><a href="{{ address }}">{{ run }}</a></li>
{% endfor %}
</ol></details>
{% endif %}
<script>
const runs = [...document.querySelectorAll("#runs a")];
for (const cell of document.querySelectorAll(".runs")) {  // the addresses are in the page once
  const own = cell.dataset.runs.split(" ").filter(Boolean).map(at => runs[at - 1]);
  if (!own.length) continue;
  const details = document.createElement("details"), summary = document.createElement("summary");
  summary.textContent = own.length === 1 ? "1 run" : `${own.length} runs`;
  details.append(summary);
  details.addEventListener("toggle", () => {
    if (details.childElementCount === 1) own.forEach((run, at) => {
      const link = run.cloneNode();
      link.textContent = at + 1;
      link.title = run.textContent;
      details.append(link, " ");
    });
  });
  cell.append(details);
}
function compare(a, b, at, sign) {
  const x = a.cells[at].dataset.key, y = b.cells[at].dataset.key;
  if (x === "" || y === "") return (x === "") - (y === "");  // what is missing stays below
  const m = Number(x), n = Number(y);
  return sign * (Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n);
}
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => head.firstElementChild?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...[...body.rows].sort((a, b) => compare(a, b, at, down ? -1 : 1)));
  }));
}
</script>
</body>
</html>
"""
