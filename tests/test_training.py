"""The trainer and `train`: numbers, resumption, refusals, schedules, augmentations."""

import dataclasses

import pandas as pd
import pytest
import torch

import ncbook
from ncbook import catalog, collapse, datasets, fewshot, training
from ncbook.training import Trainer, augmentations, fit
from ncbook.training.signals import DeferredSignals


def test_history_is_tidy_and_complete(tiny, tiny_run):
    history = tiny_run.history
    assert list(history.columns) == ["epoch", "step", "split", "metric", "value"]
    assert sorted(history["epoch"].unique()) == [0, 2, 4]
    assert not history.duplicated(["epoch", "split", "metric"]).any()
    assert history["value"].notna().all()
    found = history.groupby("split")["metric"].agg(set)
    collapse_metrics = {
        "cdnv",
        "cdnv_debiased",
        "cdnv_debiased_mean",
        "nc1",
        "nc2",
        "min_distance",
        "min_distance_normalized",
    }
    shots = {f"{head}accuracy_{n}shot" for head in ("", "ridge_") for n in (1, 5)}
    assert found["source_train"] == found["source_test"] == collapse_metrics | {"loss", "accuracy", "nc3", "nc4"}
    assert found["novel"] == found["validation"] == collapse_metrics | shots


def test_history_holds_what_the_functions_give(tiny_run):
    last = tiny_run.history.query("epoch == 4").set_index(["split", "metric"])["value"]
    features, labels = tiny_run.features("source_train")
    logits = tiny_run.logits("source_train")
    assert last["source_train", "cdnv"] == pytest.approx(float(collapse.cdnv(features, labels)), rel=1e-12)
    assert last["source_train", "nc3"] == pytest.approx(
        float(collapse.nc3(features, labels, tiny_run.head())), rel=1e-12
    )
    assert last["source_train", "accuracy"] == float((logits.argmax(1) == labels).double().mean())
    features, labels = tiny_run.features("novel")
    for name, head in [("accuracy", "ncc"), ("ridge_accuracy", "ridge")]:
        result = fewshot.evaluate(features, labels, shot=5, episodes=2_000, head=head)
        assert last["novel", f"{name}_5shot"] == result.accuracy


def test_training_learns(tiny_run):
    values = tiny_run.history.query("split == 'source_train' and metric == 'loss'")["value"].tolist()
    assert values[-1] < values[0]


def test_finished_run_is_found_again(tiny, tiny_run, monkeypatch):
    monkeypatch.setattr(fit, "Trainer", None)  # training again would fail
    again = ncbook.train(tiny, runs_dir=tiny_run.directory.parent)
    assert again.directory == tiny_run.directory and again.finished


def test_same_seed_same_numbers_other_seed_others(tiny, tiny_run, tmp_path):
    again = ncbook.train(tiny, runs_dir=tmp_path / "a")
    pd.testing.assert_frame_equal(again.history, tiny_run.history, check_exact=True)
    other = ncbook.train(tiny.replace(seed=1), runs_dir=str(tmp_path / "b"))
    assert not other.history["value"].equals(tiny_run.history["value"])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("killed_in_epoch", [1, 3, 4])
def test_interrupted_run_continues_to_the_same_numbers(tiny, tiny_run, tmp_path, monkeypatch, killed_in_epoch):
    begin = Trainer._begin_epoch

    def until_killed(self):
        if self.epoch + 1 == killed_in_epoch:
            raise Killed
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_begin_epoch", until_killed)
        with pytest.raises(Killed):
            ncbook.train(tiny, runs_dir=tmp_path)
    begun = []
    monkeypatch.setattr(Trainer, "_begin_epoch", lambda self: begun.append(self.epoch + 1) or begin(self))
    run = ncbook.train(tiny, runs_dir=tmp_path)
    assert begun[0] == (1 if killed_in_epoch == 1 else 3)  # measured and kept: 0, 2, 4
    pd.testing.assert_frame_equal(run.history, tiny_run.history, check_exact=True)
    for name, tensor in tiny_run.model().state_dict().items():
        assert torch.equal(run.model().state_dict()[name], tensor), name


def test_random_numbers_and_threads_of_the_caller_stay(tiny, tmp_path):
    torch.manual_seed(7)
    expected, threads = torch.rand(1), torch.get_num_threads()
    torch.manual_seed(7)
    ncbook.train(tiny.replace(epochs=1, measurements=2), runs_dir=tmp_path)
    assert torch.equal(torch.rand(1), expected) and torch.get_num_threads() == threads


def test_diverged_run_says_so_and_keeps_the_last_weights(tiny, tmp_path):
    with pytest.raises(training.DivergedError, match=r"after epoch \d of 4.*learning_rate below 100"):
        ncbook.train(tiny.replace(learning_rate=100, weight_decay=1.0), runs_dir=tmp_path)
    (directory,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert not ncbook.Run(directory).finished
    assert ncbook.Run(directory).saved_epochs
    with pytest.raises(training.DivergedError, match="no weights are kept"):
        ncbook.train(tiny.replace(learning_rate=100, weight_decay=1.0, measurements=1), runs_dir=tmp_path)


def test_what_is_no_experiment_and_no_images(tiny, tmp_path):
    with pytest.raises(TypeError, match="dict.*allowed: ncbook.Experiment"):
        ncbook.train({})
    with pytest.raises(TypeError, match="images is of type Tensor; allowed: ncbook.datasets.ImageClasses"):
        ncbook.train(tiny, images=torch.zeros(3), runs_dir=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        *(
            ({"threads": value}, r"threads=.*; allowed: a whole number of at least 1")
            for value in (0, -1, 10**9, 1.5, "2", True)
        ),
        *(({"device": value}, r"device=.* is unknown; .*allowed: auto, cpu") for value in ("gpu", "cuda:99", 3, None)),
        (
            {"thread": 1},
            r"unexpected keyword argument 'thread'; did you mean 'threads='\? allowed: experiment, images=",
        ),
    ],
)
def test_arguments_are_refused_before_any_work(tiny, tmp_path, wrong, words):
    with pytest.raises((TypeError, ValueError), match=words) as raised:
        ncbook.train(tiny, runs_dir=tmp_path / "new", **wrong)
    assert "\n" not in str(raised.value) and not any(tmp_path.iterdir())
    with pytest.raises(TypeError, match="too many positional arguments; allowed: experiment, images=, runs_dir="):
        ncbook.train(tiny, tmp_path / "new")


def interrupted(experiment, folder, monkeypatch, **options):
    """Interrupt a run within its second epoch."""
    advance = Trainer.advance

    def until_killed(self):
        if (self.epoch, self.step) == (1, 1):
            raise Killed
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", until_killed)
        patch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(Killed):
            ncbook.train(experiment, runs_dir=folder, **options)


def test_a_run_keeps_its_threads(tiny, tmp_path, monkeypatch):
    before = torch.get_num_threads()
    interrupted(tiny, tmp_path, monkeypatch, threads=3)
    used = []
    monkeypatch.setattr(Trainer, "advance", lambda t, a=Trainer.advance: used.append(torch.get_num_threads()) or a(t))
    with pytest.warns(UserWarning, match="threads=2, but this run was begun with 3 and keeps them"):
        run = ncbook.train(tiny, runs_dir=tmp_path, threads=2)
    assert {*used} == {3} and run.config["threads"] == 3 and torch.get_num_threads() == before


def test_a_run_goes_on_on_another_kind_of_device(tiny, tiny_run, tmp_path, monkeypatch):
    with (
        monkeypatch.context() as patch
    ):  # as if the first half had been on a GPU: the state is the same but for its layers' random numbers
        patch.setattr(fit, "_config", lambda *a, c=fit._config: c(*a) | {"device": "cuda:0"})
        interrupted(tiny, tmp_path, patch)
    with pytest.warns(UserWarning, match="begun on cuda:0 and goes on on cpu"):
        run = ncbook.train(tiny, runs_dir=tmp_path)
    pd.testing.assert_frame_equal(run.history, tiny_run.history, check_exact=True)


def test_every_kind_of_device_steps_on_the_same_batches():
    """On the device "meta", which computes nothing: what is random is drawn on the CPU, and moved."""
    experiment = ncbook.Experiment(n_source=4, n_novel=0, precision="float32")
    source = source_of(experiment)
    drawn = []
    for device in ("cpu", "meta"):
        trainer = Trainer(experiment, source.images, source.labels, device=device)
        trainer._begin_epoch()
        assert trainer._remaining[0].device.type == device and trainer.images.noise.device.type == "cpu"
        for augment in augmentations.AUGMENT.values():
            moved = augment(torch.zeros(5, 1, 28, 28, device=device), trainer.images.noise)
            assert moved.device.type == device
        drawn.append(trainer.images.noise.get_state())
    assert torch.equal(*drawn)


def test_a_class_with_one_sample_is_refused_before_any_work(tmp_path):
    drawn = datasets.load("strokes", n_classes=9, per_class=8)
    keep = torch.cat([torch.arange(8 * 8), torch.tensor([64])])  # of the last class one sample
    images = datasets.ImageClasses(
        "mine", drawn.images[keep], drawn.labels[keep], drawn.class_names, drawn.held_out[keep]
    )
    experiment = ncbook.Experiment(dataset="folder", n_source=3, n_novel=6, epochs=1)
    with pytest.raises(ValueError, match=r"glyph00008.* 1 .*2"):
        ncbook.train(experiment, images=images, runs_dir=tmp_path)
    with pytest.raises(ValueError, match=r"n_source=3.*n_novel=7.*'mine'.*9"):
        ncbook.train(experiment.replace(n_novel=7), images=images, runs_dir=tmp_path)
    assert not any(tmp_path.iterdir())


def source_of(experiment):
    return datasets.split_for(experiment).source_train


def test_equal_steps_whatever_the_number_of_classes():
    steps = {}
    for n in (8, 16, 32, 64, 128, 512):
        source = source_of(ncbook.Experiment(n_source=n))
        trainer = Trainer(ncbook.Experiment(n_source=n), source.images, source.labels)
        steps[n] = trainer.epochs * trainer.steps_per_epoch
    assert max(steps.values()) / min(steps.values()) < 1.3, steps
    assert steps[8] == steps[64] == 300


def episodic(name):
    """Parameters of small episodes, six steps of them in an epoch."""
    tasks = dict(tasks_per_step=2, inner_rate=0.1) if name in ("maml", "anil") else {}
    episodes = 6 * tasks.get("tasks_per_step", 1)
    small = dict(train_way=4, train_shot=2, train_query=2, backbone="conv4_small", precision="float32")
    return dict(objective=name, episodes_per_epoch=episodes, **small, **tasks)


def one_of(name):
    """Parameters of an objective that give six steps in an epoch: of episodes, or of 90 samples in batches of 15."""
    if "train_way" in catalog.OBJECTIVES[name][1]:
        return episodic(name)
    rows = dict(batch_size=15, per_class=3) if name == "cdnv_penalty" else dict(batch_size=15)
    return dict(objective=name, precision="float32", backbone="conv4_small", learning_rate=0.05, **rows)


TRAINED = {
    "sgd": dict(precision="float32", learning_rate=0.05),
    "adam, cosine": dict(precision="float32", optimizer="adam", schedule="cosine", learning_rate=0.01),
    "bfloat16": dict(precision="bfloat16", augmentation="crop_flip", learning_rate=0.05),
    "no momentum": dict(precision="float32", momentum=0.0, schedule="step"),
    **{name: one_of(name) for name in catalog.OBJECTIVES if name != "cross_entropy"},
    "maml, bfloat16": episodic("maml") | dict(precision="bfloat16", second_order=False),
}


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("stop", [3, 6, 8])
def test_a_trainer_goes_on_from_its_state(name, stop):
    own = TRAINED[name]
    rows = {} if "train_way" in own else {"batch_size": 15}  # 90 samples: 6 steps per epoch
    experiment = ncbook.Experiment(n_source=6, n_novel=0, epochs=2, **rows | own)
    source = source_of(experiment)
    whole, first, second = (Trainer(experiment, source.images, source.labels) for _ in range(3))
    if experiment.teacher:
        teacher = Trainer(experiment.teacher, source.images, source.labels)
        for trainer in (whole, first, second):
            trainer.objective.learn_from(teacher.backbone, teacher.objective)
    assert whole.steps_per_epoch == 6
    losses = []
    while not whole.finished:
        whole.advance()
        losses.append(whole.mean_loss())
    for _ in range(stop):
        first.advance()
    state = {name: value.clone() if torch.is_tensor(value) else value for name, value in first.state().items()}
    torch.manual_seed(99)
    second.load_state(state)
    assert (second.epoch, second.step) == (stop // 6, stop % 6)
    while not second.finished:
        second.advance()
        assert second.mean_loss() == losses[second.epoch * 6 + second.step - 1]
    for name, value in whole.state().items():
        assert torch.equal(torch.as_tensor(second.state()[name]), torch.as_tensor(value)), name


def test_an_episodic_run_is_measured_like_every_other(tmp_path):
    experiment = ncbook.Experiment(
        objective="prototypical", n_source=8, n_novel=8, train_way=5, episodes_per_epoch=20, epochs=2,
        optimizer="adam", measurements=2,
    )  # fmt: skip
    run = ncbook.train(experiment, runs_dir=tmp_path)
    assert run.config["steps_per_epoch"] == 20 and run.head() is None and run.logits("novel") is None
    metrics = run.history.groupby("split")["metric"].agg(set)
    assert "cdnv" in metrics["source_train"] and not {"loss", "accuracy", "nc3"} & metrics["source_train"]
    assert metrics["source_train"] < metrics["novel"] and "accuracy_5shot" in metrics["novel"]
    accuracy = run.history.query("split == 'novel' and metric == 'accuracy_5shot'")["value"].tolist()
    assert accuracy[-1] > accuracy[0]


@pytest.mark.parametrize("precision", catalog.PRECISIONS)
def test_a_run_takes_the_steps_of_its_trainer(precision, tmp_path):
    """What surrounds the steps changes none: within another autocast, torch kept the first step's bfloat16 weights."""
    experiment = ncbook.Experiment(
        objective="prototypical", n_source=6, n_novel=0, train_way=5, episodes_per_epoch=8, epochs=2, measurements=2,
        backbone="conv4_small", precision=precision,
    )  # fmt: skip
    run = ncbook.train(experiment, runs_dir=tmp_path)
    source = source_of(experiment)
    trainer = Trainer(experiment, source.images, source.labels)
    while not trainer.finished:
        trainer.advance()
    for name, value in run.model().state_dict().items():
        assert torch.equal(value, trainer.backbone.state_dict()[name]), name


@pytest.mark.parametrize("name", catalog.OBJECTIVES)
def test_a_step_in_bfloat16_goes_where_one_in_float32_goes(name):
    """What autocast keeps of a pass without gradients must not take those of the next one away."""
    slopes = []
    for precision in ("float32", "bfloat16"):
        own = one_of(name) if name not in ("cross_entropy", "distillation") else {"objective": name}
        experiment = ncbook.Experiment(n_source=6, n_novel=0, **own | {"precision": precision, "augmentation": "none"})
        source = source_of(experiment)
        trainer = Trainer(experiment, source.images, source.labels)
        if experiment.teacher:
            teacher = Trainer(experiment.teacher, source.images, source.labels)
            trainer.objective.learn_from(teacher.backbone, teacher.objective)
        trainer.advance()
        slopes.append({name: parameter.grad.flatten() for name, parameter in trainer._trained.named_parameters()})
    names = [name for name in slopes[0] if not name.endswith("0.bias")]  # of a convolution before batch norm: 0
    assert torch.cosine_similarity(*(torch.cat([slope[name] for name in names]) for slope in slopes), dim=0) > 0.9
    for name in names:
        assert slopes[1][name].norm() > slopes[0][name].norm() / 2 > 0, name


@pytest.mark.parametrize("first", ["teacher", "student"])
def test_a_student_is_taught_by_the_run_of_its_teacher(tmp_path, monkeypatch, first):
    student = ncbook.Experiment(
        objective="distillation", n_source=6, n_novel=0, epochs=1, batch_size=32, measurements=2,
        backbone="conv4_small", precision="float32",
    )  # fmt: skip
    trained, whole = [], fit._fit
    monkeypatch.setattr(fit, "_fit", lambda store, e, *rest: trained.append(e) or whole(store, e, *rest))
    teacher = ncbook.train(student.teacher, runs_dir=tmp_path) if first == "teacher" else None
    run = ncbook.train(student, runs_dir=tmp_path)
    teacher = teacher or ncbook.train(student.teacher, runs_dir=tmp_path)
    assert trained == [student.teacher, student]  # each once
    assert run.config["teacher"] == teacher.directory.name and "teacher" not in teacher.config
    assert {path.parent for path in tmp_path.glob("*/config.json")} == {run.directory, teacher.directory}
    begun, other = run.model(0).state_dict(), teacher.model(0).state_dict()
    assert begun.keys() == other.keys() and not torch.equal(begun["block1.0.weight"], other["block1.0.weight"])
    ncbook.train(student, runs_dir=tmp_path)
    assert len(trained) == 2
    metrics = run.history.query("split == 'source_train'")["metric"].tolist()
    assert {"loss", "accuracy", "nc3", "nc4"} < {*metrics}


@pytest.mark.usefixtures("listening")
def test_a_signal_outside_a_training_is_delivered_at_the_end():
    with pytest.raises(KeyboardInterrupt), DeferredSignals() as signals:
        signals.pending = 2


@pytest.mark.parametrize("name", catalog.SCHEDULES)
def test_schedules_stay_in_range(name):
    factors = [training.learning_rate_factor(name, i / 100) for i in range(101)]
    assert min(factors) >= 0 and max(factors) <= 1
    assert (factors[-1] < 1e-9) == (name in ("one_cycle", "cosine"))


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="did you mean 'one_cycle'"):
        training.learning_rate_factor("onecycle", 0.5)


def test_step_schedule_is_that_of_the_recipe():
    assert [training.learning_rate_factor("step", p) for p in (0.0, 0.59, 0.6, 0.79, 0.8, 1.0)] == [
        *(1.0, 1.0, 0.1, 0.1, 0.01, 0.01)
    ]


def test_affine_moves_images_little_and_at_random():
    images = torch.zeros(32, 1, 28, 28)
    images[:, :, 12:16, 12:16] = 1
    moved = augmentations.affine(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert not torch.equal(moved[0], moved[1])
    mass = moved.sum((1, 2, 3)) / images.sum((1, 2, 3))
    assert mass.min() > 0.85**2 * 0.9 and mass.max() < 1.15**2 * 1.1  # scaled by 0.85 to 1.15 in each direction
    assert torch.equal(moved, augmentations.affine(images, torch.Generator().manual_seed(0)))


def test_crop_flip_shifts_and_mirrors():
    images = torch.arange(16 * 16).view(1, 1, 16, 16).float().expand(400, 3, 16, 16) + 1
    moved = augmentations.crop_flip(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.is_contiguous(memory_format=torch.channels_last)
    padded = torch.nn.functional.pad(images[0], [2] * 4)
    windows = [padded[:, r : r + 16, c : c + 16] for r in range(5) for c in range(5)]
    windows += [w.flip(2) for w in windows]
    seen = [next(k for k, w in enumerate(windows) if torch.equal(w, image)) for image in moved]
    assert len(set(seen)) == 50, "every shift and both mirror images are drawn"
    assert torch.equal(moved, augmentations.crop_flip(images, torch.Generator().manual_seed(0)))


def test_without_new_classes(tmp_path):
    experiment = ncbook.Experiment(n_source=6, n_novel=0, epochs=1, batch_size=32, measurements=2)
    run = ncbook.train(experiment, runs_dir=tmp_path)
    assert set(run.history["split"]) == {"source_train", "source_test", "validation"}
    assert len(run.splits.novel.labels) == 0 and len(run.splits.source_train.class_names) == 6
    assert ncbook.Experiment(dataset="cifar10", n_source=10).n_novel == 0


def test_a_single_validation_class_is_not_measured(tmp_path):
    images = datasets.load("strokes", n_classes=8)
    experiment = ncbook.Experiment(n_source=4, n_novel=3, epochs=1, batch_size=32, measurements=2)
    run = ncbook.train(experiment, images=images, runs_dir=tmp_path)
    assert len(run.splits.validation.class_names) == 1
    assert set(run.history["split"]) == {"source_train", "source_test", "novel"}


def test_images_that_are_alike_are_no_divergence(tmp_path):
    images = datasets.load("strokes", n_classes=8)
    images = dataclasses.replace(images, images=torch.full_like(images.images, 7))
    experiment = ncbook.Experiment(n_source=4, n_novel=3, epochs=1, batch_size=32)
    with pytest.raises(ValueError, match="source_train before any training: features have identical class means"):
        ncbook.train(experiment, images=images, runs_dir=tmp_path)
    assert len(ncbook.runs.list(tmp_path)) == 0


def test_an_interrupted_run_is_listed_with_the_epochs_behind_it(tiny, tmp_path, monkeypatch):
    interrupted(tiny.replace(measurements=2), tmp_path, monkeypatch)
    (row,) = ncbook.runs.list(tmp_path).to_dict("records")
    assert (row["state"], row["epochs_done"], row["epochs"]) == ("interrupted", 1, 4)


def test_networks_are_float32_whatever_the_caller_computes_in(tiny, tiny_run, tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        run = ncbook.train(tiny, runs_dir=tmp_path)
        features, _ = run.features("novel", epoch=run.saved_epochs[0])
        assert torch.get_default_dtype() == torch.float64 and features.dtype == torch.float32
        assert fewshot.pair_errors(*run.features("novel"), shot=2).nanmean() < 0.5
    finally:
        torch.set_default_dtype(torch.float32)
    pd.testing.assert_frame_equal(run.history, tiny_run.history)
