import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from ncbook import catalog
from ncbook.experiment import Experiment, ParameterError, check_parameters


def test_is_frozen_and_keyed_by_its_parameters():
    experiment = Experiment()
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment.seed = 3
    assert experiment.key == Experiment(n_source=64, learning_rate=0.2).key
    keys = {experiment.key, Experiment(seed=1).key, Experiment(class_seed=1).key, Experiment(epochs=1).key}
    assert len(keys) == 4
    assert Experiment(momentum=0).key == Experiment(momentum=0.0).key
    assert Experiment(weight_decay=-0.0).key == Experiment(weight_decay=0.0).key


def test_defaults_that_depend_on_other_parameters():
    assert Experiment() == Experiment(n_novel=100, batch_size=64, learning_rate=0.2, momentum=0.9, weight_decay=5e-3)
    adam = Experiment(optimizer="adam")
    assert (adam.learning_rate, adam.momentum, adam.weight_decay) == (1e-3, None, 0.0)
    episodic = Experiment(objective="prototypical", n_source=8)
    assert (episodic.train_way, episodic.train_shot, episodic.train_query) == (8, 5, 5)
    assert episodic.batch_size is None and Experiment().train_way is None
    assert episodic.replace(n_source=64).train_way == 20 and episodic.replace(n_source=9, train_way=3).train_way == 3
    assert Experiment(dataset="cifar10", n_source=10).n_novel == 0
    assert Experiment(dataset="omniglot", n_source=1600).n_novel == 23
    assert Experiment(dataset="cifar_fs").n_novel == 20
    assert Experiment(dataset="folder").n_novel is None  # known when it is read
    assert Experiment(n_source=8).replace(objective="prototypical").batch_size is None
    assert Experiment(objective="squared_error").learning_rate == 0.05
    assert Experiment(objective="squared_error", optimizer="adam").learning_rate == 1e-3
    penalties = {name: Experiment(objective=name).penalty for name in ("cdnv_penalty", "center_loss", "cross_entropy")}
    assert penalties == {"cdnv_penalty": 1, "center_loss": 0.01, "cross_entropy": None}
    assert Experiment(objective="cdnv_penalty").replace(directional=True).penalty == 10
    contrastive = Experiment(objective="supervised_contrastive")
    assert contrastive.temperature == 0.1 and contrastive.replace(objective="distillation").temperature == 4
    assert Experiment(objective="fixed_etf").replace(objective="matching").scale == 10


def test_samples_per_class_are_part_of_the_key():
    assert Experiment().samples_per_class is None
    keys = {Experiment(samples_per_class=m).key for m in (None, 2, 15)}
    assert len(keys) == 3


def test_where_the_images_lie_is_no_part_of_the_key():
    here, there = (Experiment(dataset="folder", path=path, image_size=32) for path in ("a.zip", "b/a.zip"))
    assert here.key == there.key and here.path != there.path
    assert here.key != here.replace(image_size=64).key
    assert Experiment(dataset="folder", path=pathlib.Path("a.zip")) == here.replace(image_size=None)


def test_key_is_the_same_in_another_process():
    code = "import ncbook; print(ncbook.Experiment(seed=5).key)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == Experiment(seed=5).key


def test_folders_named_relatively_stay_where_they_were_meant(tmp_path):
    code = "import os, ncbook; os.chdir('/'); print(ncbook.runs.layout.resolve_runs_dir(None))"
    environment = os.environ | {"NCBOOK_RUNS": "here"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout.strip() == str(tmp_path / "here")
    beside = str(tmp_path / "link" / ".." / "runs")  # of what the link points to
    environment["NCBOOK_RUNS"] = beside
    ran = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout.strip() == beside


def test_imports_no_torch():
    code = "import sys, ncbook; ncbook.Experiment(); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_sorce": 8}, ["n_sorce", "did you mean 'n_source'"]),
        ({"dataset": "strok"}, ["dataset='strok'", "did you mean 'strokes'", "omniglot"]),
        ({"dataset": 3}, ["dataset=3"]),
        ({"backbone": "conv"}, ["backbone='conv'", "conv4"]),
        ({"objective": "cross-entropy"}, ["did you mean 'cross_entropy'"]),
        ({"n_source": -1}, ["n_source=-1", "at least 2"]),
        ({"n_source": 1}, ["n_source=1", "at least 2"]),
        ({"n_source": True}, ["n_source=True", "bool"]),
        ({"n_source": 8.0}, ["n_source=8.0", "float"]),
        ({"n_source": "8"}, ["n_source='8'", "str"]),
        ({"n_novel": 1}, ["n_novel=1", "allowed: 0, or at least 2"]),
        ({"n_novel": -2}, ["n_novel=-2"]),
        ({"n_validation": -1}, ["n_validation=-1"]),
        ({"dataset": "emnist", "n_source": 37, "n_novel": 5, "n_validation": 6}, ["37", "n_novel=5", "6", "47"]),
        ({"path": "a.zip"}, ["path='a.zip'", "dataset='strokes'", "folder"]),
        ({"dataset": "folder", "path": 3}, ["path=3", "int"]),
        ({"dataset": "folder", "image_size": 4}, ["image_size=4", "at least 8"]),
        ({"dataset": "folder", "protocol": "lake"}, ["protocol='lake'", "omniglot"]),
        ({"dataset": "omniglot", "protocol": "vinials"}, ["did you mean 'vinyals'"]),
        ({"dataset": "omniglot", "protocol": "vinyals", "n_source": 5000}, ["n_source=5000", "4112", "1692"]),
        ({"optimizer": "adm"}, ["did you mean 'adam'"]),
        ({"optimizer": "adam", "momentum": 0.5}, ["momentum=0.5", "optimizer='adam'", "sgd"]),
        ({"train_way": 5}, ["train_way=5", "objective='cross_entropy'"]),
        ({"objective": "prototypical", "batch_size": 32}, ["batch_size=32", "objective='prototypical'"]),
        ({"objective": "prototypical", "n_source": 8, "train_way": 9}, ["train_way=9", "n_source=8"]),
        ({"objective": "prototypical", "train_shot": 0}, ["train_shot=0", "at least 1"]),
        ({"objective": "matching", "scale": 0}, ["scale=0", "above 0"]),
        ({"objective": "matching", "scale": True}, ["scale=True", "bool"]),
        ({"objective": "matching", "learn_scale": "yes"}, ["learn_scale='yes'", "str", "allowed: True or False"]),
        ({"objective": "matching", "distance": "cosin"}, ["distance='cosin'", "did you mean 'cosine'", "dot"]),
        ({"objective": "matching", "distance": ["dot"]}, ["distance=['dot']", "did you mean 'dot'"]),
        ({"objective": "prototypical", "distance": "cosine"}, ["'cosine'", "allowed: squared_euclidean, euclidean"]),
        ({"objective": "ridge", "ridge": 0.0}, ["ridge=0.0", "above 0"]),
        ({"objective": "ridge", "ridge": float("nan")}, ["ridge=nan"]),
        ({"objective": "ridge", "learn_ridge": 0}, ["learn_ridge=0", "int"]),
        ({"objective": "anil", "inner_rate": -1}, ["inner_rate=-1", "above 0"]),
        ({"objective": "anil", "inner_steps": 0}, ["inner_steps=0", "at least 1"]),
        ({"objective": "maml", "second_order": 1}, ["second_order=1", "int", "allowed: True or False"]),
        ({"objective": "maml", "tasks_per_step": 2.0}, ["tasks_per_step=2.0", "float"]),
        ({"objective": "distillation", "temperature": 0}, ["temperature=0", "above 0"]),
        ({"objective": "distillation", "teacher_weight": 1.5}, ["teacher_weight=1.5", "at most 1"]),
        ({"objective": "label_smoothing", "smoothing": 1}, ["smoothing=1", "above 0 and below 1"]),
        ({"objective": "label_smoothing", "smoothing": 0.0}, ["smoothing=0.0", "above 0 and below 1"]),
        ({"objective": "cdnv_penalty", "penalty": -0.1}, ["penalty=-0.1", "at least 0"]),
        ({"objective": "cdnv_penalty", "penalty": float("inf")}, ["penalty=inf", "finite"]),
        ({"objective": "cdnv_penalty", "directional": 1}, ["directional=1", "int", "allowed: True or False"]),
        ({"objective": "cdnv_penalty", "per_class": 1}, ["per_class=1", "at least 2"]),
        ({"objective": "cdnv_penalty", "batch_size": 7}, ["batch_size=7", "per_class=4", "at least 8"]),
        ({"objective": "center_loss", "penalty": "0.1"}, ["penalty='0.1'", "str"]),
        ({"objective": "fixed_etf", "frame": "simplx"}, ["frame='simplx'", "did you mean 'simplex'", "orthogonal"]),
        ({"objective": "fixed_etf", "scale": 0}, ["scale=0", "above 0"]),
        ({"objective": "fixed_etf", "learn_scale": True}, ["learn_scale=True", "objective='fixed_etf'"]),
        ({"objective": "supervised_contrastive", "temperature": -1}, ["temperature=-1", "above 0"]),
        ({"objective": "center_los"}, ["did you mean 'center_loss'"]),
        ({"smothing": 0.1}, ["did you mean 'smoothing'"]),
        ({"dataset": "omniglot", "n_source": 1600, "n_novel": 100}, ["n_source=1600", "n_novel=100", "1623"]),
        ({"n_source": 10**6}, ["n_source=1000000", "n_novel=100", "n_source at most 16384"]),
        ({"dataset": "cifar10"}, ["n_source=64", "together: 10 (n_source at most 10)"]),
        ({"dataset": "cifar10", "n_source": 10, "n_novel": 5}, ["n_novel=5", "10 (n_novel=None: what is to spare)"]),
        ({"dataset": "folder", "n_novel": 1}, ["n_novel=1"]),
        ({"epochs": 0}, ["epochs=0", "at least 1"]),
        ({"batch_size": 1}, ["batch_size=1"]),
        ({"learning_rate": "1e-3"}, ["learning_rate='1e-3'", "write 1.0e-03"]),
        ({"learning_rate": 0}, ["learning_rate=0", "above 0"]),
        ({"learning_rate": float("nan")}, ["learning_rate=nan"]),
        ({"momentum": 1.0}, ["momentum=1.0"]),
        ({"weight_decay": -0.1}, ["weight_decay=-0.1"]),
        ({"schedule": "onecycle"}, ["did you mean 'one_cycle'"]),
        ({"augmentation": None}, ["augmentation=None"]),
        ({"precision": "bf16"}, ["precision='bf16'"]),
        ({"measurements": 0}, ["measurements=0"]),
        ({"samples_per_class": 1}, ["samples_per_class=1", "at least 2"]),
        ({"samples_per_class": 2.5}, ["samples_per_class=2.5"]),
        ({"measurements": None}, ["measurements=None"]),
        ({"seed": None}, ["seed=None"]),
        ({"seed": -1}, ["seed=-1"]),
    ],
)
def test_refuses_with_one_message(parameters, words):
    with pytest.raises(ParameterError) as raised:
        Experiment(**parameters)
    assert isinstance(raised.value, ValueError)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert raised.value._render_traceback_() == [f"ParameterError: {message}"]


@pytest.mark.parametrize("objective", catalog.OBJECTIVES)
def test_a_parameter_of_another_objective_is_refused_by_name(objective):
    """Even at the value that is the default there."""
    own = catalog.OBJECTIVES[objective][1]
    for other, (_, parameters) in catalog.OBJECTIVES.items():
        for name in {*parameters} - {*own}:
            value = getattr(Experiment(objective=other), name)
            with pytest.raises(ParameterError, match=f"^{name}={value!r} does not belong to objective='{objective}'"):
                Experiment(objective=objective, **{name: value})
    assert Experiment(objective=objective).replace(objective="cross_entropy") == Experiment()


def test_the_teacher_is_the_run_that_anybody_would_train():
    student = Experiment(objective="distillation", n_source=8, seed=3, temperature=2.0)
    assert student.teacher == Experiment(n_source=8, seed=3) and student.teacher.teacher is None
    assert all(Experiment(objective=name).teacher is None for name in catalog.OBJECTIVES if name != "distillation")


def test_validation_classes_are_spared_by_the_default_of_the_novel_ones():
    assert Experiment(dataset="omniglot", n_source=1590, n_validation=20).n_novel == 13


def test_values_without_a_name_are_refused_in_one_sentence():
    with pytest.raises(ParameterError, match=r"^'omniglot' came without a name; allowed: parameters by name, as in"):
        Experiment("omniglot")


def test_help_lists_every_value_and_default():
    """The docstring is written by hand; the catalog and the fields are what counts."""
    args = Experiment.__doc__.partition("Args:\n")[2].partition("Raises:")[0]
    entries = re.split(r"^        (?=\w[\w, ]*: )", args, flags=re.MULTILINE)[1:]
    help_of = {name.strip(): entry for entry in entries for name in entry.partition(":")[0].split(",")}
    fields = {field.name: field.default for field in dataclasses.fields(Experiment)}
    assert list(help_of) == list(fields)
    values = {
        "dataset": catalog.DATASETS, "backbone": catalog.BACKBONES, "objective": catalog.OBJECTIVES,
        "optimizer": catalog.OPTIMIZERS, "schedule": catalog.SCHEDULES, "augmentation": catalog.AUGMENTATIONS,
        "precision": catalog.PRECISIONS, "protocol": catalog.PROTOCOLS,
    }  # fmt: skip
    for name, allowed in values.items():
        missing = [value for value in allowed if f'"{value}"' not in help_of[name]]
        assert not missing, f"{name}: {missing}"
    for name, default in fields.items():
        said = re.sub(r"\s+", " ", help_of[name])
        if isinstance(default, str):
            assert f'"{default}" (the default' in said
        elif name == "path":
            assert "no default" in said
        else:
            assert "None" in said if default is None else f"default {default}" in said, name


def test_replace_validates():
    assert Experiment().replace(n_source=8).n_source == 8
    with pytest.raises(ParameterError, match="n_sorce"):
        Experiment().replace(n_sorce=8)


PARAMETERS = "n_source: int = 64  # classes\nepochs: int = None\nlr: float = 0.2\nname: str = 'a'"
LISTS = "\nsizes: list[int] = [8]\nlayers: list[str] = None"


@pytest.mark.parametrize(
    ("injected", "words"),
    [
        ("n_sorce = 8", ["unknown parameter 'n_sorce'", "did you mean 'n_source'"]),
        ("n_source = 'many'", ["n_source='many'", "allowed: int"]),
        ("n_source = 8.5", ["n_source=8.5", "allowed: int"]),
        ("name = 3", ["name=3", "allowed: str"]),
        ("n_source = True", ["n_source=True", "allowed: int"]),
        ("epochs = '3'", ["epochs='3' is of type str; allowed: int, as in the default epochs=None"]),
        ("n_source = None", ["n_source=None is of type NoneType; allowed: int"]),
        ("sizes = [8, '16']", ["sizes=[8, '16'] is of type list of int, str; allowed: list[int]"]),
        ("sizes = 8", ["sizes=8 is of type int; allowed: list[int]"]),
        ("lr = float('nan')", ["lr is a number that is not finite; allowed: float"]),
        ("layers = [float('inf')]", ["layers is a number that is not finite; allowed: list[str]"]),
    ],
)
def test_injected_parameters_are_checked(injected, words):
    with pytest.raises(ParameterError) as raised:
        check_parameters(["", PARAMETERS + LISTS, f"# Parameters\n{injected}\n", "check_parameters()"])
    for word in words:
        assert word in str(raised.value)


def test_good_injected_parameters_pass():
    check_parameters([PARAMETERS, "# Parameters\nn_source = 8\nepochs = 3\nlr = 1\nname = 'b'\n"])
    check_parameters([PARAMETERS + LISTS, "# Parameters\nepochs = None\nsizes = []\nlayers = ['a', 'b']\n"])


def test_a_value_of_another_type_in_the_parameters_cell_itself():
    for line, words in (("workers: int = '2'", "workers='2' is of type str; allowed: int$"), ("p: bool = 1", "p=1 is")):
        with pytest.raises(ParameterError, match=words):
            check_parameters([PARAMETERS, f"{PARAMETERS}\n{line}", "check_parameters()"])
    mine = "rates: np.ndarray = [1]\nlimit: float = float('inf')\nmore: dict = {}"  # a reader's own words
    check_parameters([f"{PARAMETERS}\n{mine}", "x = 'anything else'", "check_parameters()"])


def test_cells_may_be_run_again_in_any_order():
    later = ["%matplotlib inline", "x = f(3)", PARAMETERS, "shot = 5"]
    check_parameters([PARAMETERS, *later, PARAMETERS, *later])
    check_parameters([])
    check_parameters()  # outside a notebook there is nothing to check


USING = "check_parameters()\nExperiment(n_source=n_source, epochs=epochs, lr=lr)\nprint(name)"


@pytest.mark.parametrize(
    ("edited", "words"),
    [
        (
            PARAMETERS.replace("n_source", "n_sourse"),
            "unknown parameter 'n_sourse'; did you mean 'n_source'? allowed: ",
        ),
        (PARAMETERS.replace("epochs: int = None\n", ""), "epochs is not in the parameters cell; allowed: a line"),
    ],
)
def test_a_parameter_that_keeps_its_old_value_in_a_warm_kernel(edited, words):
    warm = [PARAMETERS, USING, "x = 3"]
    for cells in ([*warm, edited, USING], [*warm, edited, USING, edited, USING]):
        with pytest.raises(ParameterError) as raised:
            check_parameters(cells)
        assert str(raised.value).startswith(words)
    check_parameters([*warm, edited, USING, PARAMETERS, USING])  # put right


def test_a_parameter_misspelled_in_its_own_cell_in_a_fresh_kernel():
    misspelled = PARAMETERS.replace("n_source", "n_sourse")
    with pytest.raises(ParameterError, match="unknown parameter 'n_sourse'; did you mean 'n_source'"):
        check_parameters([misspelled, USING])
    check_parameters([misspelled, "n_source = 3", USING])


def test_a_reader_may_rename_and_add_parameters():
    renamed = PARAMETERS.replace("n_source", "classes") + "\nmine: int = 3"
    check_parameters([PARAMETERS, USING, renamed, USING.replace("=n_source", "=classes")])
    check_parameters([PARAMETERS, "more: int = 4", USING, PARAMETERS, USING])  # two cells of parameters


def test_a_parameter_that_a_reader_sets_elsewhere():
    name = re.findall(r"^(\w+):", PARAMETERS, re.MULTILINE)[0]
    without = "\n".join(line for line in PARAMETERS.splitlines() if not line.startswith(name))
    with pytest.raises(ParameterError):
        check_parameters([PARAMETERS, USING, without, USING])
    check_parameters([PARAMETERS, USING, without, f"{name} = 3", USING])
    check_parameters([PARAMETERS, USING, without, f"for {name} in (3, 4):\n    {USING}"])
    check_parameters([PARAMETERS, USING, without, "%%time\n" + USING])  # a magic: not looked into


@pytest.mark.parametrize(
    ("parameters", "hint"),
    [
        ({"n_validation": 100_000}, "allowed together: 16384"),
        ({"dataset": "fc100", "n_novel": 21}, "(n_source at most 60)"),
        ({"dataset": "cifar10", "n_source": 8, "n_novel": 5}, "(n_novel=None: what is to spare)"),
        ({"backbone": "cifar100"}, "allowed: conv4"),
    ],
)
def test_hints_are_of_help(parameters, hint):
    with pytest.raises(ParameterError) as raised:
        Experiment(**parameters)
    assert hint in str(raised.value) and "-" not in hint and "at most -" not in str(raised.value)


def test_an_injected_cell_that_was_put_right_is_forgotten():
    bad, good = "# Parameters\nn_sorce = 8", "# Parameters\nn_source = 8"
    check_parameters([PARAMETERS, bad, "check_parameters()", good, "check_parameters()"])
    check_parameters([PARAMETERS, bad, "check_parameters()", PARAMETERS, "check_parameters()"])


def test_config_round_trip():
    experiment = Experiment(seed=3, epochs=None)
    again = Experiment(**json.loads(json.dumps(dataclasses.asdict(experiment))))
    assert again == experiment and again.key == experiment.key
