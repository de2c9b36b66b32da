"""Sphinx's configuration; `build.py` runs it on the pages that it gathered. Nothing in the site is loaded
from a network.
"""

from pathlib import Path

project = "tinygpt"
author = "the tinygpt authors"
copyright = "the tinygpt authors, MIT licence"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
highlight_language = "none"
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "tinygpt"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_js_files = ["book.js"]
html_search_scorer = str(Path(__file__).with_name("scorer.js"))  # the book before the reference
html_extra_path = ["extra"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # excerpts would be fetched, which browsers refuse for files
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
