"""Sphinx makes the site in build/docs of the pages in docs/ and of the docstrings: ``make docs`` (decision 026)."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # directives.py
sys.path.insert(0, str(HERE.parent / "src"))  # this checkout, whatever is installed

from fedrecon.version import __version__  # noqa: E402

project, author, release = "fedrecon", "the fedrecon authors", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "directives"]
exclude_patterns = ["conf.py", "directives.py", "notebooks"]
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"fedrecon {release}"
html_show_sourcelink = False
html_copy_source = False
templates_path: list[str] = []

myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False
napoleon_use_ivar = True
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_numpy_docstring = False
