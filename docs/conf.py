"""The docs site: `make docs` builds it with Sphinx from the Markdown files of this folder; warnings are errors."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_site"))

import pages

project = "nemotron-rag"
author = "the nemotron-rag authors"
copyright = "the nemotron-rag authors"
release = version = version_of("nemotron-rag")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_llms_txt",
]
exclude_patterns = ["_build", "_site", "search.md"]  # search.md: see docs/_site/pages.py
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebooks are stored with their outputs, and the tests run them
nb_render_markdown_format = "myst"

suppress_warnings = ["ref.python"]  # a class of each framework may have one name: the nearest is meant
default_role = "py:obj"  # docstrings put names between single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
intersphinx_mapping = {}  # the site is built without a network

html_theme = "furo"
html_title = "nemotron-rag"
html_static_path = ["_site/static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
pygments_style = "friendly"
copybutton_exclude = ".linenos, .gp, .go"
llms_txt_title = "nemotron-rag"
llms_txt_summary = (
    "Finds and ranks pages of documents by their images with NVIDIA's open Nemotron retrieval models, in-process, "
    "for LangChain, LlamaIndex and plain Python, with Qdrant as the store."
)
llms_txt_full_file = True


def setup(app: object) -> None:
    """Write the pages that are made from others before Sphinx reads the folder, and mend links that leave it."""
    pages.write_generated(HERE)
    app.connect("source-read", pages.rewrite_links)
