"""README.md runs as written: shell lines name what is there, Python blocks are executed with tiny settings."""

import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from papermill.inspection import inspect_notebook
from test_notebooks import OWN

import ncbook
from ncbook.experiment import Experiment
from ncbook.report import __main__ as report


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text()


def blocks(text):
    """(language, content) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def targets(root):
    return set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), flags=re.MULTILINE))


def test_every_block_says_its_language(readme):
    assert {language for language, _ in blocks(readme)} == {"bash", "python"}


def test_shell_lines_name_what_is_there(root, readme, targets):
    shell = "".join(content for language, content in blocks(readme) if language == "bash")
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


def test_targets_and_files_named_in_the_text_are_there(root, readme, targets):
    assert set(re.findall(r"`make ([a-z]+)", readme)) <= targets
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", readme):
        assert (root / link).exists(), link
    for file in re.findall(r"(?:-r|--file) ([\w./]+?)`", readme):
        assert (root / file).is_file(), file


def test_python_blocks_run(readme, tmp_path, monkeypatch, capsys):
    def tiny(**parameters):
        Experiment(**parameters)  # as the text has it
        least = min(parameters.get("n_source", 64), 6)
        return Experiment(**{**parameters, "n_source": least, "n_novel": 5, "epochs": 1, "measurements": 2}
                          | ({"train_way": 5} if "train_way" in parameters else {}))  # fmt: skip

    monkeypatch.setenv("NCBOOK_RUNS", str(tmp_path))
    monkeypatch.setattr(ncbook, "Experiment", tiny, raising=False)
    threads = lambda workers, mp_context: ThreadPoolExecutor(1)  # noqa: E731  (test_sweeps has processes)
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", threads)
    python = [content for language, content in blocks(readme) if language == "python"]
    for number, content in enumerate(python):
        exec(compile(content, f"block {number} of README.md", "exec"), {"__name__": "readme"})
    assert len(python) >= 3 and "FewShotResult" in capsys.readouterr().out


def test_sources_and_cdnv_are_explained_before_they_are_used(readme):
    """In order: what the CDNV is, whose works these are, then the short names of their figures."""
    places = [readme.index(words) for words in ("variance within two classes", "Galanti", "Medepalli", "Notebooks\n")]
    assert places == sorted(places)
    assert readme.index("class-distance normalized variance") < readme.index("F1")
    assert "`folder`" in readme and all(f"`{name}`" in readme for name in ncbook.catalog.DATASETS)
