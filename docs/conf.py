"""Sphinx configuration. Building the pages needs no network."""

import os
import re
import sys
from pathlib import Path

# The examples load the weights from the installed package. They must not use the hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

_init = DOCS.parent / "skbert" / "__init__.py"

#: Where the pages are published, for search engines and for links in messengers.
SITE = os.environ.get("READTHEDOCS_CANONICAL_URL", "https://skbert.readthedocs.io/en/latest/")
#: The address of the repository, for a link at the top of each page. Not known yet.
REPOSITORY = ""

project = "skbert"
author = "the skbert developers"
copyright = "2026, the skbert developers"
release = re.search(r'^__version__ = "(.+)"$', _init.read_text(encoding="utf-8"), re.M)[1]
version = release

extensions = [
    "link_names",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx_codeautolink",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxext.opengraph",
]
exclude_patterns = ["_build", "inventories"]
templates_path = ["_templates"]
default_role = "code"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # numpydoc adds the types
autosummary_generate = True
numpydoc_show_class_members = False  # the class template lists them
maximum_signature_line_length = 60  # a longer signature has a line for each parameter
add_function_parentheses = False
toc_object_entries_show_parents = "hide"

# Names of other libraries are links. The lists of names are plain text in inventories/, so that
# the build asks no server; tests/test_inventories.py looks the names up in the libraries.
_ELSEWHERE = {
    "joblib": "https://joblib.readthedocs.io/en/stable/",
    "matplotlib": "https://matplotlib.org/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "pandas": "https://pandas.pydata.org/docs/",
    "python": "https://docs.python.org/3/",
    "sklearn": "https://scikit-learn.org/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "transformers": "https://huggingface.co/docs/transformers/main/en/",
}
intersphinx_mapping = {name: (url, f"inventories/{name}.inv") for name, url in _ELSEWHERE.items()}

# A name in a role that is found nowhere is an error.
nitpicky = True

# Names in blocks of code are links. sphinx_gallery makes those of the examples; see `_leave`.
codeautolink_concat_default = True

# `-D plot_gallery=0` builds the example pages without running the examples.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"serve_|score_",  # pages of the guide show them
    "within_subsection_order": "gallery_order.by_order",
    "abort_on_example_error": True,
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("skbert",),
    "download_all_examples": False,
    "min_reported_time": float("inf"),
    "remove_config_comments": True,
    "write_computation_times": False,
}

ogp_site_url = SITE
ogp_site_name = "skbert"
ogp_social_cards = {"enable": False}
ogp_enable_meta_description = True

html_theme = "pydata_sphinx_theme"
html_title = f"skbert {release}"
html_baseurl = SITE
html_static_path = ["_static"]
html_css_files = ["skbert.css"]
html_favicon = "_static/logo.svg"
html_show_sourcelink = False
html_theme_options = {
    "logo": {
        "text": "skbert",
        "image_light": "_static/logo.svg",
        "image_dark": "_static/logo.svg",
        "alt_text": "skbert: front page",
    },
    "header_links_before_dropdown": 5,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "icon_links": [
        {"name": "Repository", "url": url, "icon": "fa-solid fa-code-branch"}
        for url in [REPOSITORY]
        if url
    ],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "show_toc_level": 2,
}
# A page without pages beside it has no empty side bar.
html_sidebars = {"index": [], "quickstart": []}


def _skip_member(app, what, name, member, skip, options):
    """Skip the metadata routing methods that every estimator inherits from scikit-learn."""
    return True if re.fullmatch(r"set_\w+_request|get_metadata_routing", name) else None


def _unlink(app, what, name, member, options, lines):
    """Replace inherited links to scikit-learn's user guide, which is not built here, by text."""
    if (getattr(member, "__module__", None) or "").startswith("sklearn."):
        lines[:] = [re.sub(r":ref:`([^`<]*?)(?: <[^>]*>)?`", r"\1", line) for line in lines]


def _leave(app, name, source):
    """Keep codeautolink from the examples."""
    if name.startswith("auto_examples/plot_"):
        source[0] = f".. autolink-skip:: file\n\n{source[0]}"


def setup(app):
    app.connect("source-read", _leave)
    app.connect("autodoc-skip-member", _skip_member)
    app.connect("autodoc-process-docstring", _unlink)
