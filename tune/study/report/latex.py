"""A report's tables as LaTeX, with booktabs."""

from __future__ import annotations

from fedrecon.tune.study.analysis.inputs import MARKS, Findings
from fedrecon.tune.study.analysis.results import Statistics
from fedrecon.tune.study.report.document import Table, Value
from fedrecon.tune.study.report.tables import all_tables

_ESCAPED = {
    "\\": r"\textbackslash{}",
    **{one: f"\\{one}" for one in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "†": r"\textsuperscript{\dag}",
    "‡": r"\textsuperscript{\ddag}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "σ": r"$\sigma$",
    "<": "$<$",
    ">": "$>$",
    "*": r"\textsuperscript{*}",
}


def tables(findings: Findings, statistics: Statistics) -> dict[str, str]:
    """The LaTeX tables by file name. They need only the packages booktabs and graphicx."""
    return {
        f"{table.name}.tex": latex(table) for table in all_tables(findings, statistics) if table.name and table.rows
    }


def latex(table: Table) -> str:
    """One table as LaTeX. A table with more than six columns is scaled to the width of the line."""
    columns = "l" * (len(table.header) - table.numeric) + "r" * table.numeric
    wide = len(table.header) > 6
    lines = [" & ".join(map(_value, row)) + r" \\" for row in table.rows]
    body = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(escaped, table.header)) + r" \\",
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    texts = "".join(value.text for row in table.rows for value in row)
    marks = [meaning for mark, meaning in MARKS.items() if mark in texts]
    caption = escaped(". ".join(one.rstrip(".") for one in (table.title, table.note, *marks) if one) + ".")
    before, after = ([r"\resizebox{\linewidth}{!}{%"], ["}"]) if wide else ([], [])
    label = rf"\label{{tab:{table.name}}}"
    head = [r"% \usepackage{booktabs,graphicx}", r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", label]
    return "\n".join([*head, *before, *body, *after, r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    """Text with the special characters of LaTeX escaped."""
    return "".join(_ESCAPED.get(one, one) for one in text.replace("\n", " "))


def _value(value: Value) -> str:
    """A cell as LaTeX: the text, with the small text on the lines below."""
    text = rf"\textbf{{{escaped(value.text)}}}" if value.bold else escaped(value.text)
    below = [rf"\\ \scriptsize {escaped(line)}" for line in value.small.split("; ") if line]
    return rf"\shortstack[r]{{{text}{''.join(below)}}}" if below else text
