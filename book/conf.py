"""Settings of the book: `make book` renders README, the notebooks as they are committed, and the API into HTML.

Sphinx reads the repository itself, so that links between README, notebooks and figures are those of the files. Nothing
is executed, and nothing on a page comes from the network: MathJax is copied beside the pages.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import ncbook  # noqa: E402

project = "ncbook"
author = "the developers of ncbook"
copyright = author
version = release = ncbook.__version__
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "notebooks/**.ipynb", "book/**.md",
                    "benchmarks/**.md", "figures/*.md"]  # fmt: skip
exclude_patterns = ["**/.ipynb_checkpoints"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx.ext.mathjax",
              "sphinx-mathjax-offline"]  # fmt: skip

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_missing",  # links to folders of the repository, which are no pages
    "myst.header",  # a notebook's cells begin wherever they like
    "mystnb.unknown_mime_type",  # widgets, beside which there is a picture
]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # they are in the signatures
napoleon_google_docstring, napoleon_numpy_docstring, napoleon_use_ivar = True, False, True
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style"), "Reference"]  # attributes may share a line, as arguments do
default_role = "py:obj"  # `name` in a docstring

html_theme = "furo"
html_title = f"ncbook {release}"
html_copy_source = html_show_sourcelink = False
html_static_path, html_css_files = ["static"], ["book.css"]

TOCTREE = """

```{{toctree}}
:hidden:
:caption: {caption}

{pages}
```
"""


def pages(pattern: str) -> list[str]:
    """Files as names of pages, in order."""
    return [str(path.relative_to(ROOT).with_suffix("")) for path in sorted(ROOT.glob(pattern))]


GUIDE = ("notebooks", "own_model", "results", "theory", "library", "data", "explorers", "troubleshooting", "words")
CONTENTS = {
    "Guide": [f"book/guide/{name}" for name in GUIDE],
    "Notebooks": pages("notebooks/*.ipynb"),
    "Appendix": pages("notebooks/appendix/*.ipynb"),
    "Reference": ["book/api/ncbook", *(page for page in pages("book/api/*.md") if page != "book/api/ncbook")],
    "Measurements": [*pages("figures/*.md"), *pages("benchmarks/results/*.md")],
    "The project": ["CHANGELOG", "CONTRIBUTING"],
}


def add_contents(_app, name: str, source: list[str]) -> None:
    """The contents of the book stand below README, which shows none on other pages."""
    if name == root_doc:
        source[0] += "".join(TOCTREE.format(caption=c, pages="\n".join(pages)) for c, pages in CONTENTS.items())
    if name.startswith("figures/") and not source[0].startswith("#"):  # a table alone, as notebooks write it
        source[0] = f"# {Path(name).name.replace('_', ' ').capitalize()}\n\n" + source[0]
    # images written as HTML, of which Sphinx copies none
    source[0] = re.sub(r'<img src="([^"]+)"[^>]*?(?:alt="([^"]*)")?[^>]*>', r"![\2](\1)", source[0])


def keep_bars(_app, _what, _name, _object, _options, lines: list[str]) -> None:
    """Lengths are written |x| in docstrings; to docutils that is a substitution, unless escaped."""
    math = False
    for number, line in enumerate(lines):
        math = line.startswith(".. math::") or (math and (not line or line.startswith(" ")))
        if not math and not line.lstrip().startswith(">>>"):
            parts = re.split(r"(``.*?``|:math:`.*?`)", line)
            lines[number] = "".join(part if i % 2 else part.replace("|", r"\|") for i, part in enumerate(parts))


def begin_at_index(app, error) -> None:
    """A page index.html that leads to README's."""
    if error is None:
        page = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=README.html">'
        (Path(app.outdir) / "index.html").write_text(page + '<a href="README.html">ncbook</a>\n', encoding="utf-8")


def setup(app) -> None:
    """What Sphinx calls."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", keep_bars)
    app.connect("build-finished", begin_at_index)
