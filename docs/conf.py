"""Sphinx configuration; `make docs` builds into site/."""

import os

os.environ["KERAS_BACKEND"] = "jax"  # for adagrad_jax.keras3

import adagrad_jax  # noqa: E402

project = "adagrad_jax"
author = "The adagrad_jax authors"
release = adagrad_jax.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = "adagrad_jax"
autodoc_typehints = "none"  # the docstrings say more
autodoc_member_order = "bysource"
default_role = "code"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# The README's links into the repository lead nowhere from a page.
suppress_warnings = ["myst.xref_missing"]
napoleon_attr_annotations = False
