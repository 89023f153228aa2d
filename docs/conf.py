"""Sphinx reads this: `make docs` builds the site into docs/_build/html, without a network.

Nothing that a built page loads comes from elsewhere: formulas are MathML, written while building; fonts are the
reader's own; scripts and styles are copied beside the pages.
"""

import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

project = "Termwise"
author = copyright = "The Termwise developers"
version = release = version_of("termwise")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "_extensions.mathml",
    "_extensions.plain_docstrings",
]
exclude_patterns = ["_build", "gallery/*.py", "gallery/README.rst"]

# Pages in Markdown, as GitHub shows them.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_html_meta = {"description": "A depth-and-degree profiler for neural networks: the documentation of Termwise."}

# The API, from annotations and Google's docstrings; a word in single backticks is code, and a link where it can be.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "Termwise"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["termwise.css"]
smartquotes_action = "D"  # dashes alone: quoted words are what to type
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-dark"
copybutton_exclude = ".linenos, .gp, .go"

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),  # what is printed, and no more
    "download_all_examples": False,
    "show_signature": False,
    "image_srcset": ["2x"],
    "min_reported_time": 1000,
    "write_computation_times": False,  # their page loads scripts from elsewhere
}


def name_language(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Say of the Chinese pages that they are: fonts and screen readers go by it."""
    if page.endswith(".zh"):
        context["language"] = "zh"


def setup(app: Sphinx) -> None:
    """Let Sphinx ask at each page."""
    app.connect("html-page-context", name_language)
