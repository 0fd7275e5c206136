"""Runs notebooks in this process; ``python tests/notebooks.py FILE ...`` also keeps in them what their cells print."""

from __future__ import annotations

import ast
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any


def printed(notebook: Path, folder: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each code cell with what it prints and, as in Jupyter, shows of its last line, when run in ``folder``."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        with redirect_stdout(io.StringIO()) as out, chdir(folder):
            _run("".join(cell["source"]), f"{notebook.name}:{cell['id']}", namespace)
        yield cell, out.getvalue()


def _run(source: str, name: str, namespace: dict[str, Any]) -> None:
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if isinstance(last, ast.Expr):
        shown = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
        if shown is not None:
            print(shown)


def _keep(notebook: Path, folder: Path) -> None:
    made = json.loads(notebook.read_text())
    outputs = {cell["id"]: text.splitlines(keepends=True) for cell, text in printed(notebook, folder)}
    for cell in made["cells"]:
        if text := outputs.get(cell["id"]):
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": text}]
    notebook.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    os.environ["COLUMNS"] = "110"
    with tempfile.TemporaryDirectory() as one:
        for name in sys.argv[1:]:
            _keep(Path(name).resolve(), Path(one))
