"""The book: every notebook and every room has a page, nothing on a page comes from the network."""

import re
import runpy
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def contents(root):
    return runpy.run_path(str(root / "book" / "conf.py"))["CONTENTS"]


def test_every_notebook_has_a_page_in_its_order(root, contents):
    for caption, folder in (("Notebooks", "notebooks"), ("Appendix", "notebooks/appendix")):
        names = sorted(path.stem for path in (root / folder).glob("*.ipynb"))
        assert [page.rpartition("/")[2] for page in contents[caption]] == names


def test_every_page_of_the_guide_is_in_the_contents(root, contents):
    pages = {f"book/guide/{path.stem}" for path in (root / "book" / "guide").glob("*.md")}
    assert set(contents["Guide"]) == pages and len(contents["Guide"]) == len(pages)


def test_every_table_that_is_kept_has_a_page(root, contents):
    assert {f"figures/{path.stem}" for path in (root / "figures").glob("*.md")} <= set(contents["Measurements"])


def test_every_public_room_has_a_page(root, contents):
    rooms = {p.stem for p in (root / "ncbook").iterdir() if not p.name.startswith("_") and p.suffix in ("", ".py")}
    documented = {page.rpartition("/")[2] for page in contents["Reference"]} - {"ncbook"}
    # experiment is on the first page; the others are for the rest of the package
    assert rooms - documented == {"experiment", "installation", "progress", "published"}
    assert documented <= rooms and contents["Reference"][0] == "book/api/ncbook"


def test_pages_need_no_network(root, tmp_path):
    """A part is built as the whole is, every warning an error: 04 has formulas, pictures and an explorer."""
    part = [
        "README.md",
        "book/guide/*.md",
        "notebooks/04_few_shot_bound.ipynb",
        "book/api/collapse.md",
        "book/api/theory.md",
    ]
    elsewhere = "toc.not_readable,toc.excluded,myst.xref_missing,myst.header,mystnb.unknown_mime_type"
    options = ["-D", f"include_patterns={','.join(part)}", "-D", f"suppress_warnings={elsewhere}"]
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        *options,
        "-c",
        root / "book",
        root,
        tmp_path,
    ]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    pages = [path for path in tmp_path.rglob("*.html") if "_static" not in path.parts]
    assert len(pages) > len(part) and (tmp_path / "index.html").is_file()
    for page in pages:
        assert not re.search(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?:|//)', page.read_text()), page
    assert "tex-chtml.js" in (tmp_path / "notebooks" / "04_few_shot_bound.html").read_text()
    assert list((tmp_path / "_static").rglob("tex-chtml.js"))
