"""Tables as LaTeX, with the packages booktabs and graphicx."""

from __future__ import annotations

from fedrecon.platform.reporting.table import Table, Value

_ESCAPED = {
    "\\": r"\textbackslash{}",
    **{one: f"\\{one}" for one in "&%$#_{}"},
    "[": "{[}",  # bare, it begins an option of the end of a row before it
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "†": r"\textsuperscript{\dag}",
    "‡": r"\textsuperscript{\ddag}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "σ": r"$\sigma$",
    "↓": r"$\downarrow$",
    "<": "$<$",
    ">": "$>$",
    "*": r"\textsuperscript{*}",
}
WIDE = 6
"""A table with more columns is scaled to the width of the line."""


def latex(table: Table) -> str:
    """One table as LaTeX. Its title and its note are the caption."""
    columns = "".join("r" if column.numeric else "l" for column in table.columns)
    body = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(escaped(column.name) for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(map(_value, row.values)) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    caption = escaped(". ".join(one.rstrip(".") for one in (table.title, table.note) if one) + ".")
    head = [r"% \usepackage{booktabs,graphicx}", r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
    head.append(rf"\label{{tab:{table.name}}}")
    if len(table.columns) > WIDE:
        body = [r"\resizebox{\linewidth}{!}{%", *body, "}"]
    return "\n".join([*head, *body, r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    """Text with the special characters of LaTeX escaped."""
    return "".join(_ESCAPED.get(one, one) for one in text.replace("\n", " "))


def _value(value: Value) -> str:
    """A cell as LaTeX: the text, with the small lines below it."""
    text = rf"\textbf{{{escaped(value.text)}}}" if value.bold else escaped(value.text)
    below = "".join(rf"\\ \scriptsize {escaped(line)}" for line in value.below)
    return rf"\shortstack[r]{{{text}{below}}}" if below else text
