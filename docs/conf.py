"""Sphinx configuration. Building the pages needs no network."""

import os
import re
from pathlib import Path

# The examples load the weights from the installed package. They must not use the hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

_init = Path(__file__).parents[1] / "skbert" / "__init__.py"

project = "skbert"
author = "the skbert developers"
copyright = "2026, the skbert developers"
release = re.search(r'^__version__ = "(.+)"$', _init.read_text(encoding="utf-8"), re.M)[1]
version = release

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "code"
myst_enable_extensions = ["deflist"]  # the list of pages in index.md

autodoc_typehints = "none"  # numpydoc adds the types
autosummary_generate = True
numpydoc_show_class_members = False  # the class template lists them

# `-D plot_gallery=0` builds the example pages without running the examples.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "min_reported_time": float("inf"),
    "remove_config_comments": True,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = f"skbert {release}"
html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
}


def _skip_member(app, what, name, member, skip, options):
    """Skip the metadata routing methods that every estimator inherits from scikit-learn."""
    return True if re.fullmatch(r"set_\w+_request|get_metadata_routing", name) else None


def _unlink(app, what, name, member, options, lines):
    """Replace inherited links to scikit-learn's user guide, which is not built here, by text."""
    if (getattr(member, "__module__", None) or "").startswith("sklearn."):
        lines[:] = [re.sub(r":ref:`([^`<]*?)(?: <[^>]*>)?`", r"\1", line) for line in lines]


def setup(app):
    app.connect("autodoc-skip-member", _skip_member)
    app.connect("autodoc-process-docstring", _unlink)
