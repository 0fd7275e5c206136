"""Names that others chose, in the texts of reports: they command neither LaTeX nor Markdown."""

import pytest

from fedrecon.platform.reporting.latex import latex
from fedrecon.platform.reporting.markdown import flat
from fedrecon.platform.reporting.table import Column, Row, Table, Value


def test_no_cell_of_latex_is_an_option_of_the_row_before_it():
    row = Row([Value("[1cm]"), Value("[21.0, 22.0]")])
    text = latex(Table("title", [Column("[5pt]"), Column("b", True)], [row, row], name="t"))
    for end in (r"\\", r"\toprule", r"\midrule"):
        assert not any(after.strip().startswith("[") for after in text.split(end)[1:])
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
    "name", ["![a](http://x)", "[a](javascript:x)", r"\](http://x)", "[a][b]", "[a]: http://x", "a|b", r"a\|b"]
)
def test_every_sign_of_markdown_is_escaped_once(name):
    shown = flat(name)
    bare = shown.replace(r"\\", "")
    assert all(bare[at - 1] == "\\" for at, sign in enumerate(bare) if sign in "[]|*")
    assert "".join(one for one in shown if one != "\\") == name.replace("\\", "")
