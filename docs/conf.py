"""Sphinx configuration; `make docs` builds into site/."""

import os
import pathlib
import re

os.environ["KERAS_BACKEND"] = "jax"  # for adagrad_jax.keras3

from sphinx.util import logging  # noqa: E402

import adagrad_jax  # noqa: E402
from adagrad_jax import keras3  # noqa: E402

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
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]
autodoc_typehints = "none"  # the docstrings say more
autodoc_member_order = "bysource"
default_role = "code"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
napoleon_attr_annotations = False

DOCS = pathlib.Path(__file__).parent
# Files elsewhere in the repository that are pages here.
PAGES = {
    DOCS.parent / "README.md": DOCS / "index.md",
    DOCS.parent / "benchmarks/README.md": DOCS / "benchmarks.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^()\s#:]+)(#[^()\s]*)?\)")


def _relinked(text, source, page):
    """Markdown of one folder, with its links as they must be in another's page."""

    def link(match):
        image, words, target, anchor = match.groups("")
        path = (source / target).resolve()
        if not path.exists():
            return match.group()  # of which the build then warns
        if path.is_dir():  # which no page can show
            return words
        path = PAGES.get(path, path)
        # Of a file elsewhere MyST would think that it is a page.
        kind = "" if image or path.is_relative_to(DOCS) else "path:"
        return f"{image}[{words}]({kind}{os.path.relpath(path, page)}{anchor})"

    return _LINK.sub(link, text)


def _read_source(app, docname, content):
    folder = (DOCS / docname).parent
    content[0] = _relinked(content[0], folder, folder)


def _read_included(app, path, docname, content):
    content[0] = _relinked(content[0], (DOCS / path).parent, DOCS)


def _check_names(app, env):
    """A public name without documentation is a warning, which `-W` makes an error."""
    documented = {name for name, *_ in env.domains["py"].get_objects()}
    submodules = ("diagnostics", "dialects", "interop", "sharding", "keras")
    modules = [getattr(adagrad_jax, name) for name in submodules]
    for module in (adagrad_jax, *modules, keras3):
        for name in module.__all__:
            if f"{module.__name__}.{name}" not in documented:
                logging.getLogger(__name__).warning(
                    "no page documents %s.%s", module.__name__, name
                )


def setup(app):
    app.connect("source-read", _read_source)
    app.connect("include-read", _read_included)
    app.connect("env-check-consistency", _check_names)
