"""README.md and the guide run as written: shell lines name what is there, Python blocks run with tiny settings."""

import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from papermill.inspection import inspect_notebook
from PIL import Image
from test_notebooks import OWN

import ncbook
from ncbook.experiment import Experiment
from ncbook.report import __main__ as report

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "book" / "guide").glob("*.md"))]
LINES, CHARACTERS = 150, 15_000  # of README: three screens


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text()


@pytest.fixture(scope="module", params=PAGES)
def page(root, request):
    return root / request.param


def blocks(text):
    """(language, content) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def targets(root):
    return set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), flags=re.MULTILINE))


def anchors(page):
    """Of a page's headings, as the repository's web page and the book make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_stays_short(readme):
    assert len(readme.splitlines()) <= LINES and len(readme) <= CHARACTERS


def test_a_picture_that_moves_stands_on_the_first_screen(root, readme):
    first = re.search(r"!\[(.+?)\]\((.+?)\)", readme)
    assert first[2] == "figures/collapse.webp" and len(first[1]) > 20 and readme[: first.start()].count("\n") < 15
    with Image.open(root / first[2]) as picture:
        assert picture.is_animated and picture.n_frames > 5 and picture.info["loop"] == 0


def test_every_notebook_is_in_the_table_with_its_thumbnail(root, readme):
    notebooks = sorted(path.relative_to(root) for path in (root / "notebooks").rglob("*.ipynb"))
    for notebook in notebooks:
        picture = f"figures/thumbnails/{notebook.stem}.webp"
        alternative = re.search(rf"!\[([^\]]*)\]\({picture}\) \[[^\]]+\]\({notebook}\)", readme)
        assert alternative and len(alternative[1]) > 10, notebook
        with Image.open(root / picture) as thumbnail:
            assert thumbnail.size == (240, 150)
            low, high = thumbnail.convert("L").getextrema()
            assert low < 100 and high == 255, "nothing to be seen"
    files = sorted((root / "figures" / "thumbnails").iterdir())
    assert [file.stem for file in files] == sorted(notebook.stem for notebook in notebooks)
    assert sum(file.stat().st_size for file in files) < 400_000


def test_readme_and_guide_give_each_notebook_the_same_minutes(root, readme):
    guide = (root / "book" / "guide" / "notebooks.md").read_text()
    short = dict(re.findall(r"\]\(notebooks/([^)]+)\.ipynb\)[^|]+?([\d.]+) min \|", readme))
    full = dict(re.findall(r"\]\(\.\./\.\./notebooks/([^)]+)\.ipynb\)[^|]+\|[^|]+\| ([\d.]+) \|", guide))
    assert short == full and len(full) == len([*(root / "notebooks").rglob("*.ipynb")])


def test_every_link_and_picture_is_there(root, page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_file() and target.is_relative_to(root), link  # a folder has no page in the book
        assert not anchor or anchor in anchors(target), link


def test_readme_leads_to_every_page_of_the_guide(readme):
    assert all(f"({page}" in readme for page in PAGES[1:])


def test_every_block_says_its_language(page):
    assert {language for language, _ in blocks(page.read_text())} <= {"bash", "python"}


def test_shell_lines_name_what_is_there(root, page, targets):
    shell = "".join(content for language, content in blocks(page.read_text()) if language == "bash")
    subprocess.run(["bash", "-n", "-c", shell], check=True)
    activated = False
    for line in shell.splitlines():
        program, *words = shlex.split(line, comments=True)
        if program == "make":
            assert words[0] in targets
        elif program == "source":
            assert words == [".venv/bin/activate"]  # before the first program that lies there
            activated = True
        elif program == "python" and words[0] == "-m":
            assert activated and words[1] == "ncbook.report"
            report.parser().parse_args(words[2:])  # exits where there is no such argument
        elif program == "python":
            assert activated and all((root / word).is_file() for word in words)
        else:
            assert program == "papermill" and activated
            check_papermill(root, words)


def check_papermill(root, words):
    notebook, _, *options = words
    known = inspect_notebook(str(root / notebook))
    values = {name: yaml.safe_load(entry["default"].replace("None", "null")) for name, entry in known.items()}
    while options:
        if options[0] == "-f":
            values |= yaml.safe_load((root / options[1]).read_text())
            options = options[2:]
        else:
            assert options[0] == "-p"
            values[options[1]] = yaml.safe_load(options[2])
            options = options[3:]
    assert set(values) == set(known)
    own = OWN.get(notebook.removeprefix("notebooks/").removesuffix(".ipynb"), set())
    Experiment(**{name: value for name, value in values.items() if name not in own})


def test_targets_and_files_named_in_the_text_are_there(root, page, targets):
    text = page.read_text()
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets
    for file in re.findall(r"(?:-r|--file) ([\w./]+?)`", text):
        assert (root / file).is_file(), file
    for file in re.findall(r"`((?:notebooks|benchmarks|figures|book|tests)/[\w./]*)", text):
        assert (root / file).exists(), file


def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    def tiny(**parameters):
        Experiment(**parameters)  # as the text has it
        least = min(parameters.get("n_source", 64), 6)
        return Experiment(**{**parameters, "n_source": least, "n_novel": 5, "epochs": 1, "measurements": 2}
                          | ({"train_way": 5} if "train_way" in parameters else {}))  # fmt: skip

    monkeypatch.setenv("NCBOOK_RUNS", str(tmp_path))
    monkeypatch.setattr(ncbook, "Experiment", tiny, raising=False)
    threads = lambda workers, mp_context: ThreadPoolExecutor(1)  # noqa: E731  (test_sweeps has processes)
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", threads)
    python = [content for language, content in blocks(page.read_text()) if language == "python"]
    for number, content in enumerate(python):
        exec(compile(content, f"block {number} of {page.name}", "exec"), {"__name__": "readme"})
    if page.name == "library.md":
        assert len(python) >= 3 and "FewShotResult" in capsys.readouterr().out


def test_sources_and_cdnv_are_explained_before_they_are_used(readme):
    """In order: what the CDNV is, whose works these are, then the short names of their figures."""
    places = [readme.index(words) for words in ("variance within two classes", "Galanti", "Medepalli", "Notebooks\n")]
    assert places == sorted(places)
    assert readme.index("class-distance normalized variance") < readme.index("F1")


def test_every_data_set_is_described(root):
    text = (root / "book" / "guide" / "data.md").read_text()
    assert all(f"`{name}`" in text for name in ncbook.catalog.DATASETS)
