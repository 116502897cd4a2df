"""The notebooks' anatomy, their parameters, and what papermill users see: good and bad parameters."""

import ast
import importlib.util
import itertools
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell
from papermill.cli import _resolve_type
from papermill.inspection import inspect_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from ncbook import claims, published, runs
from ncbook.experiment import Experiment

ONE_NETWORK = ["01_train_collapse", "02_test_generalization", "03_new_classes", "04_few_shot_bound"]
ANY_NETWORK = [*ONE_NETWORK, "05_class_separation"]
NOTEBOOKS = ["00_start_here", *ANY_NETWORK, "06_depth", "07_prototypical_networks", "08_paper_table"]
NOTEBOOKS += ["09_enforcing_collapse", "10_your_own_model"]
APPENDICES = [
    "constant",
    "controls",
    "images",
    "objectives",
    "other_distributions",
    "predictors",
    "proofs",
    "samples",
    "superclasses",
    "tightness",
]
OWN = {  # parameters that are not the experiment's
    "01_train_collapse": {"repeats", "workers"},
    "02_test_generalization": {"repeats", "workers"},
    "03_new_classes": {"repeats", "workers"},
    "04_few_shot_bound": {"shot"},
    "05_class_separation": {"repeats", "workers"},
    "06_depth": {"depths", "per_class", "repeats", "small", "workers"},
    "07_prototypical_networks": {"backbones", "episodes", "repeats", "workers"},
    "08_paper_table": {"datasets", "recipes", "methods", "methods_way", "methods_rate", "episodes", "seeds"},
    "09_enforcing_collapse": {"setting", "penalties", "directional", "centers", "smoothing", "kinds", "longer"}
    | {"repeats", "workers"},
    "10_your_own_model": {"model", "path", "weights", "image_size", "broken", "layers", "html"}
    | {"ways", "shots", "episodes"},
    "appendix/controls": {"sizes", "budget", "target", "steps", "doublings", "repeats"},
    "appendix/samples": {"samples", "per_class", "steps", "repeats", "augmentations"},
    "appendix/objectives": {"objectives", "images", "train_way", "train_query", "episodes", "repeats", "workers"},
    "appendix/other_distributions": {"distributions", "steps", "repeats"},
    "appendix/superclasses": {"setting", "sizes", "groupings", "augmentations", "n_characters", "unseen", "repeats"}
    | {"workers"},
}
FIXED = {"07_prototypical_networks": {"objective": "prototypical"}}  # what a notebook itself says of its experiments
SETTINGS = {  # file -> notebooks it is for
    **{name: ANY_NETWORK for name in ("omniglot", "cifar_fs", "fc100", "mini_imagenet", "emnist")},
    "omniglot_full": ["03_new_classes"],
    "omniglot_rates": ["05_class_separation"],
    "cifar_fs_full": ["03_new_classes"],
    "cifar_fs_rates": ["05_class_separation"],
    "cifar10_depth": ["06_depth"],
    "cifar10_depth_cpu": ["06_depth"],
    "report": ["07_prototypical_networks"],
    "episodes_omniglot": ["07_prototypical_networks"],
    **{f"{name}_omniglot": [f"appendix/{name}"] for name in ("controls", "samples", "other_distributions")},
    "objectives_omniglot": ["appendix/objectives"],
    **{f"enforcing_{name}": ["09_enforcing_collapse"] for name in ("omniglot", "long", "strengths")},
    "superclasses_omniglot": ["appendix/superclasses"],
    "superclasses_sizes": ["appendix/superclasses"],
    "table_characters": ["08_paper_table"],
    "paper_table": ["08_paper_table"],
    "recipe_simple": ["08_paper_table"],
    "recipe_lr_scheduling": ["08_paper_table"],
    "recipe_model_selection": ["08_paper_table"],
}


def path(root, name):
    return root / "notebooks" / f"{name}.ipynb"


def own_experiment(name, values):
    return Experiment(**{k: v for k, v in values.items() if k not in OWN.get(name, set())}, **FIXED.get(name, {}))


OF_EXPERIMENTS = [*ANY_NETWORK, "06_depth", "07_prototypical_networks", "09_enforcing_collapse", "10_your_own_model"]


@pytest.mark.parametrize("name", OF_EXPERIMENTS)
def test_parameters_are_those_of_an_experiment(root, name):
    found = inspect_notebook(str(path(root, name)))
    parameters = {key: eval(entry["default"], {}) for key, entry in found.items()}
    assert all(entry["help"] and entry["inferred_type_name"] for entry in found.values())
    own_experiment(name, parameters)


@pytest.mark.parametrize("name", [*NOTEBOOKS, *(f"appendix/{name}" for name in APPENDICES)])
def test_anatomy(root, name):
    notebook = nbformat.read(path(root, name), as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    number = "Appendix" if name.startswith("appendix/") else name[:2]
    assert prose[0].source.startswith(f"# {number} · ") and "**Question.**" in prose[0].source
    assert code[0].metadata.tags == ["parameters"] and "check_parameters()" in code[1].source
    used = {node.id for node in ast.walk(ast.parse(code[1].source)) if isinstance(node, ast.Name)}
    assert used >= {node.target.id for node in ast.parse(code[0].source).body}  # or a misspelled one goes unnoticed
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    lines = sorted(len(cell.source.splitlines()) for cell in code[1:])  # but for parameters, which have a line each
    assert lines[len(lines) // 2] <= 10 and lines[-1] <= 15
    assert len(prose) >= 0.4 * len(notebook.cells)
    text = "".join(cell.source for cell in prose)
    for heading in ("## Summary", "## Exercises", "## References", "**Prediction**", "**Reading.**"):
        assert heading in text
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


@pytest.mark.parametrize("file", list(SETTINGS))
def test_settings_are_known_parameters(root, file):
    settings = yaml.safe_load((root / "notebooks" / "params" / f"{file}.yaml").read_text())
    for name in SETTINGS[file]:
        assert set(settings) <= set(inspect_notebook(str(path(root, name))))
        own_experiment(name, settings)


def test_every_file_of_settings_is_tested(root):
    assert {path.stem for path in (root / "notebooks" / "params").glob("*.yaml")} == set(SETTINGS)


def papermill(root, tmp_path, name, *arguments, cwd="/", **environment):
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR"]
    env = {**os.environ, "NCBOOK_RUNS": str(tmp_path / "runs"), **environment}
    done = subprocess.run(
        [*command, str(path(root, name)), str(out), *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
    )
    return done, nbformat.read(out, as_version=4)


def run_until_refused(notebook, arguments, cwd, environment, answer):
    """Send the message of the first cell that fails, or what came instead. Runs in a process of its own."""
    os.chdir(cwd)
    os.environ.update(environment)
    options = {"-p": lambda name, value: {name: _resolve_type(value)}, "-y": yaml.safe_load}
    parameters, words = {}, iter(arguments)
    for option in words:
        parameters |= options[option](*itertools.islice(words, 2 if option == "-p" else 1))
    shell = InteractiveShell.instance()
    for cell in parameterize_notebook(load_notebook_node(str(notebook)), parameters).cells:
        if cell.cell_type != "code":
            continue
        error = (result := shell.run_cell(cell.source, store_history=True)).error_before_exec or result.error_in_exec
        if error or Path(environment["NCBOOK_RUNS"]).exists():
            return answer.send(f"{type(error).__name__}: {error}" if error else "nothing was refused: it trains")
    answer.send("nothing was refused")


def refusal(root, tmp_path, name, arguments, cwd="/"):
    """What a notebook says to these arguments of papermill, without the seconds that a kernel takes to start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ncbook.plots", "ncbook.claims", "ncbook.explorers", "ncbook.report", "papermill"])
    received, answer = context.Pipe(duplex=False)
    environment = {"NCBOOK_RUNS": str(tmp_path / "runs"), "MPLBACKEND": "agg"}
    setting = (path(root, name), arguments, cwd, environment, answer)
    process = context.Process(target=run_until_refused, args=setting, daemon=True)
    process.start()
    answer.close()
    try:
        assert received.poll(300), "no answer"
        return received.recv()
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "n_sorce", "8"], "unknown parameter 'n_sorce'; did you mean 'n_source'"),
        (["-p", "n_source", "many"], "n_source='many' is of type str; allowed: int"),
    ],
)
def test_bad_parameter_stops_the_notebook_at_once(root, tmp_path, arguments, words):
    done, notebook = papermill(root, tmp_path, "03_new_classes", *arguments)
    assert done.returncode != 0 and words in done.stderr
    errors = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]
    assert len(errors) == 1 and "Traceback" not in "".join(errors[0].traceback)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("03_new_classes", ["-p", "n_source", "-3"], "n_source=-3; allowed: a whole number of at least 2"),
        ("03_new_classes", ["-p", "n_source", "100000"], "n_source=100000 and n_novel=100 ask for more classes"),
        ("03_new_classes", ["-p", "dataset", "omnglot"], "dataset='omnglot' is unknown; did you mean 'omniglot'"),
        ("03_new_classes", ["-p", "backbone", "resnet"], "backbone='resnet' is unknown"),
        (
            "03_new_classes",
            ["-p", "dataset", "cifar10"],
            "ask for more classes than 'cifar10' has; allowed together: 10",
        ),
        ("03_new_classes", ["-p", "epochs", "-3"], "epochs=-3; allowed: a whole number of at least 1"),
        (
            "03_new_classes",
            ["-p", "dataset", "folder", "-p", "path", "nowhere.zip"],
            "path='nowhere.zip' is not there; looked for",
        ),
        ("03_new_classes", ["-p", "dataset", "folder"], "path=None; allowed: a folder or zip of class folders"),
        ("01_train_collapse", ["-p", "n_source", "2"], "n_source=2; allowed here: at least 3"),
        ("03_new_classes", ["-p", "n_novel", "3"], "n_novel=3; allowed here: at least 5"),
        ("04_few_shot_bound", ["-p", "shot", "16"], "shot=16, n_novel=100; allowed here: 1 to 15 shots"),
        ("04_few_shot_bound", ["-p", "shot", "15"], "shot=15, n_novel=100; allowed here: at least 20 new classes of"),
        ("appendix/predictors", ["-y", "sizes: [8, 16]"], "sizes=[8, 16]; allowed here: at least 5 networks"),
        ("03_new_classes", ["-p", "repeats", "0"], "repeats=0, workers=None; allowed: at least 1 of each"),
        ("06_depth", ["-y", "depths: [3, 4]"], "backbone='plain4_small' is unknown"),
        ("06_depth", ["-p", "workers", "0"], "workers=0; allowed: at least 2 samples, 1 network, 1 worker"),
        ("appendix/objectives", ["-p", "repeats", "2"], "repeats=2, "),
        ("07_prototypical_networks", ["-y", "backbones: [conv4]"], "backbones=['conv4'], repeats=3, "),
        ("07_prototypical_networks", ["-p", "n_validation", "10"], "n_validation=10; allowed: 2 networks, at least"),
        ("08_paper_table", ["-p", "seeds", "1"], "seeds=1, episodes=2000; allowed: 2 networks per row"),
        ("09_enforcing_collapse", ["-p", "repeats", "2"], "repeats=2, workers=None, n_novel=50, "),
        ("09_enforcing_collapse", ["-y", "kinds: [fixed etf]"], "kinds=['fixed etf']; allowed: "),
        ("10_your_own_model", ["-p", "model", "resnet81"], "model='resnet81' is unknown; did you mean 'resnet18'?"),
        ("10_your_own_model", ["-p", "weights", "random"], "weights='random' with 'conv4_small', which is trained"),
        ("10_your_own_model", ["-p", "path", "nowhere.zip"], "path='nowhere.zip' is not there; looked for"),
        ("10_your_own_model", ["-p", "html", "nowhere/page.html"], "html='nowhere/page.html' is in a folder that"),
        ("10_your_own_model", ["-y", "ways: []"], "ways=[], shots=[1, 5], episodes=2000, batch_size=64; allowed: 1 or"),
        ("10_your_own_model", ["-y", "shots: [30]"], ") and 45 more; allowed: at least 5 classes of at least 31"),
        ("appendix/images", ["-y", "datasets: [ridge]"], "datasets=['ridge']; allowed: strokes, omniglot"),
        ("01_train_collapse", ["-y", "workers: '2'"], "workers='2' is of type str; allowed: int"),
        ("appendix/samples", ["-y", "augmentations: []"], "augmentations=[]; allowed: "),
        ("appendix/superclasses", ["-y", "sizes: [0]"], "n_characters=24, sizes=[0], "),
        ("appendix/controls", ["-p", "budget", "100"], "budget=100, "),
        ("appendix/controls", ["-p", "budget", "240"], "budget=240; allowed: at most 120 for 8 classes"),
        ("appendix/samples", ["-y", "samples: [2, 60, 4]"], "samples_per_class=60; allowed: at most 48"),
        ("appendix/other_distributions", ["-y", "distributions: [strokes]"], "distributions=['strokes'], "),
        ("appendix/superclasses", ["-y", "sizes: [5]"], "n_characters=24, sizes=[5], "),
        ("appendix/superclasses", ["-y", "groupings: [alphabet]"], "groupings ['random', 'alike']"),
        ("08_paper_table", ["-y", "recipes: [simpel]"], "unknown recipes or methods: ['simpel']; allowed: simple"),
    ],
)
def test_what_a_notebook_cannot_draw_is_refused_before_training(root, tmp_path, name, arguments, words):
    assert words in refusal(root, tmp_path, name, arguments) and not (tmp_path / "runs").exists()


def test_missing_data_folder_stops_the_notebook(root, tmp_path):
    folder = tmp_path / "nowhere"
    options = ["-p", "dataset", "omniglot"]
    done, notebook = papermill(root, tmp_path, "01_train_collapse", *options, NCBOOK_DATA=str(folder))
    assert done.returncode != 0
    assert str(folder) in done.stderr and "images_background.zip" in done.stderr
    errors = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]
    assert len(errors) == 1 and "Traceback" not in "".join(errors[0].traceback)


def test_good_parameters_from_any_folder(root, tmp_path):
    done, notebook = papermill(
        root, tmp_path, "03_new_classes", "-p", "n_source", "9", "-p", "epochs", "2", "-p", "n_novel", "20"
    )
    assert done.returncode == 0, done.stderr
    text = "".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
    assert "source classes: [8, 9]" in text
    assert "novel_cdnv_falls_with_l: cannot be judged" in text  # two numbers of source classes are too few


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A zip of 40 class folders, such as a reader has: classes of unequal size, pictures that are not square.

    The first 12 of them are in few.zip beside it.
    """
    import io
    import zipfile

    from PIL import Image

    from ncbook import datasets

    drawn = datasets.load("strokes", n_classes=40, per_class=23, seed=5)
    path = tmp_path_factory.mktemp("own") / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive, zipfile.ZipFile(path.with_name("few.zip"), "w") as few:
        for row, label in enumerate(drawn.labels.tolist()):
            if row % 23 < 23 - label % 3:
                content = io.BytesIO()
                Image.fromarray(drawn.images[row, 0].numpy()).resize((40, 34)).save(content, "PNG")
                for zipped in [archive, few] if label < 12 else [archive]:
                    zipped.writestr(f"mine/{drawn.class_names[label]}/{row:04d}.png", content.getvalue())
    return path


OWN_FOLDER = ["-p", "dataset", "folder", "-p", "path", "pictures.zip", "-p", "image_size", "32", "-p", "n_source", "16"]


@pytest.mark.parametrize("name", ANY_NETWORK)
def test_a_folder_of_the_readers_own(root, tmp_path, pictures, name):
    few = {"epochs": 2, "measurements": 2, "repeats": 2}  # as long as it takes to see that every cell runs
    own = inspect_notebook(str(path(root, name)))
    arguments = [word for key, value in few.items() if key in own for word in ("-p", key, str(value))]
    done, notebook = papermill(root, tmp_path, name, *OWN_FOLDER, *arguments, cwd=pictures.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(runs.list(tmp_path / "runs")["dataset"]) == {"folder"}
    text = "".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
    assert name != "03_new_classes" or "24 new classes, 0 validation classes" in text


def test_a_model_on_a_folder_of_the_readers_own(root, tmp_path, pictures):
    """A name of torchvision, and classes of unequal size; the page is written, nothing is trained."""
    options = ["-p", "model", "shufflenet_v2_x0_5", "-p", "weights", "random", "-p", "image_size", "32"]
    options += ["-p", "episodes", "200", "-p", "html", str(tmp_path / "page.html"), "-y", "layers: [stage2]"]
    done, notebook = papermill(root, tmp_path, "10_your_own_model", "-p", "path", "few.zip", *options,
                               cwd=pictures.parent)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "runs").exists() and (tmp_path / "page.html").stat().st_size > 100_000
    text = "".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
    assert "12 classes, 21 to 23 per class" in text and "b3_pairs: holds" in text


def test_a_class_of_one_image_is_named_before_training(root, tmp_path, pictures):
    import zipfile

    with zipfile.ZipFile(pictures) as archive:
        archive.extractall(tmp_path / "own")
    some = sorted(path for path in (tmp_path / "own" / "mine").iterdir())[4]
    for picture in sorted(some.iterdir())[1:]:
        picture.unlink()
    said = refusal(root, tmp_path, "10_your_own_model", ["-p", "path", str(tmp_path / "own")])
    assert f"40 classes, too small: {some.name} (1); allowed: at least 5 classes of at least 2 images" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "n_source", "50"], "n_source=50"),
        (["-p", "n_novel", "30"], "n_source=16, n_novel=30"),
        (["-p", "path", "picture.zip"], "path='picture.zip' is not there"),
        (["-p", "n_source", "37"], "n_novel=3; allowed here: at least 5"),
    ],
)
def test_too_little_in_a_folder_is_said_before_training(root, tmp_path, pictures, arguments, words):
    said = refusal(root, tmp_path, "03_new_classes", OWN_FOLDER + arguments, cwd=pictures.parent)
    assert words in said and not (tmp_path / "runs").exists()


def test_networks_trained_side_by_side_are_found(root, tmp_path):
    done, notebook = papermill(
        root,
        tmp_path,
        "06_depth",
        "-y",
        "{depths: [3, 5], repeats: 1, n_source: 5, epochs: 1, per_class: 5, workers: 2}",
    )
    assert done.returncode == 0, done.stderr
    assert sorted(runs.list(tmp_path / "runs")["backbone"]) == ["plain3_small", "plain5_small"]
    training = next(cell for cell in notebook.cells if "sweeps.trained" in cell.source)
    assert "2 networks: strokes, 5 classes, plain networks of 16 channels, 1 per depth" in str(training.outputs)


def test_a_small_table_is_drawn_and_recorded(root, tmp_path):
    done, _ = papermill(
        root, tmp_path, "08_paper_table", "-y", "{datasets: [strokes, fc100], seeds: 2, epochs: 2, n_source: 8}",
        "-p", "episodes", "100", NCBOOK_FIGURES=str(tmp_path / "figures"), NCBOOK_DATA=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = {file.name for file in (tmp_path / "figures").rglob("*") if file.is_file()}
    tables = {f"{name}.{kind}" for name in ("08_published", "08_measured", "08_ranks") for kind in ("md", "tex", "csv")}
    figures = {f"{name}.{kind}" for name in ("08_paper_table", "08_transfer", "08_recipes") for kind in ("png", "csv")}
    assert written >= figures | tables
    measured = (tmp_path / "figures" / "08_measured.md").read_text()
    assert "strokes, 5-shot" in measured and "FC-100" not in measured  # FC100 is not at hand
    ledger = claims.ledger(tmp_path / "figures")
    ledger = ledger[ledger["data"] != "none yet"]
    assert set(ledger["data"]) == {"published", "measured"} and len(ledger) == 10
    assert set(ledger.loc[ledger["data"] == "published", "kind"]) == {claims.TABLE}
    assert set(ledger.loc[ledger["data"] == "measured", "kind"]) == {claims.FINDING}


def test_one_row_of_the_table_alone(root, tmp_path):
    done, notebook = papermill(
        root, tmp_path, "08_paper_table", "-y", "{datasets: [strokes], recipes: [simple], seeds: 2, epochs: 1}",
        "-y", "methods: []", "-p", "n_source", "8", "-p", "episodes", "20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("recorded", [True, False])
def test_the_ledger_of_fresh_verdicts_is_shown_and_written(root, tmp_path, monkeypatch, recorded):
    figures = tmp_path / "figures"
    figures.mkdir()
    if recorded:
        monkeypatch.setenv("NCBOOK_FIGURES", str(figures))
        table = published.table()
        names = ["transfer_is_competitive_among_residual", "more_shots_are_better"]
        verdicts = claims.judge(names, table)
        claims.record(verdicts, "08", "published")
    done, notebook = papermill(root, tmp_path, "00_start_here", "-p", "steps", "20", NCBOOK_FIGURES=str(figures))
    assert done.returncode == 0, done.stderr
    text = "".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
    assert ("does not hold on published (08): The slides' last row" in text) == recorded
    lines = (figures / "ledger.md").read_text().splitlines()
    header = [name.strip() for name in lines[0].strip("|").split("|")]
    assert header == ["claim", "kind", "statement", "data", "verdict", "statistic (95 %)", "n", "fails if"]
    assert len(lines) == 2 + (len(claims.CLAIMS) if recorded else 0)
    if recorded:
        least = verdicts.set_index("claim").loc["more_shots_are_better"]
        interval = f"{least['statistic']:.3g} ({least['low']:.3g} … {least['high']:.3g})"
        assert any(interval in line and line.startswith("| more_shots_are_better ") for line in lines)


@pytest.fixture
def make(root):
    spec = importlib.util.spec_from_file_location("make_figures", root / "figures" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_notebook_that_fails_is_named(make, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make, "ROOT", tmp_path)
    for name in ("NCBOOK_FIGURES", "OMP_NUM_THREADS", "NCBOOK_PROGRESS"):
        monkeypatch.setenv(name, "1")  # put back afterwards
    for folder in ("notebooks", "out"):
        (tmp_path / folder).mkdir()
    cell = nbformat.v4.new_code_cell("import os\nassert 'fig' not in os.environ['NCBOOK_FIGURES'], 'no such luck'")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "notebooks" / "09_bad.ipynb")
    seconds, failed = make.execute(make.Job("09_bad"), 1)
    assert seconds > 0 and failed.startswith("09_bad: ") and "no such luck" in failed
    assert "09_bad: " in capsys.readouterr().out and (tmp_path / "out" / "09_bad.ipynb").is_file()


def test_figures_are_made_of_notebooks_and_settings_that_are_there(root, make):
    for job in {*make.JOBS, *make.FULL, make.LAST}:
        assert (root / "notebooks" / f"{job.notebook}.ipynb").is_file()
        if job.settings:
            settings = yaml.safe_load((root / "notebooks" / "params" / f"{job.settings}.yaml").read_text())
            at_hand = settings.get("distributions", [settings.get("dataset", "strokes")])
            assert job.dataset in at_hand  # 08 leaves out what is not at hand by itself
    made = {job.notebook for job in make.JOBS} | {make.LAST.notebook}
    side_studies = {*APPENDICES} - {"constant", "images", "proofs"}
    assert made == {*NOTEBOOKS, *(f"appendix/{name}" for name in side_studies)}
