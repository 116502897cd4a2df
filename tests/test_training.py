import errno
import json
import os
import shutil

import pandas as pd
import pytest
import torch

import ncbook
from ncbook import augmentations, backbones, collapse, fewshot, objectives, runs, training


def test_history_is_tidy_and_complete(tiny, tiny_run):
    history = tiny_run.history
    assert list(history.columns) == ["epoch", "step", "split", "metric", "value"]
    assert sorted(history["epoch"].unique()) == [0, 2, 4]
    assert not history.duplicated(["epoch", "split", "metric"]).any()
    assert history["value"].notna().all()
    found = history.groupby("split")["metric"].agg(set)
    collapse_metrics = {"cdnv", "cdnv_debiased", "nc1", "nc2", "min_distance", "min_distance_normalised"}
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
    monkeypatch.setattr(training, "_Training", None)  # training again would fail
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
    epoch = training._Training._epoch

    def until_killed(self, number, *args):
        if number == killed_in_epoch:
            raise Killed
        return epoch(self, number, *args)

    monkeypatch.setattr(training._Training, "_epoch", until_killed)
    with pytest.raises(Killed):
        ncbook.train(tiny, runs_dir=tmp_path)
    begun = []
    monkeypatch.setattr(training._Training, "_epoch", lambda s, n, *a: begun.append(n) or epoch(s, n, *a))
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
    assert ncbook.Run(directory).epochs_kept


def test_run_folder_says_what_was_run(tiny, tiny_run):
    config = json.loads((tiny_run.directory / "config.json").read_text())
    assert ncbook.Experiment(**config["experiment"]) == tiny
    assert config["threads"] >= 1 and config["precision"] == "float32" and config["device"]
    assert config["environment"]["versions"]["torch"] == torch.__version__
    assert tiny_run.directory.name.startswith(tiny.key)
    assert config["fingerprint"].startswith(tiny_run.directory.name.split("-")[1])
    assert not (tiny_run.directory / "resume.safetensors").exists()


def copy_of(run, folder):
    return runs.Run(shutil.copytree(run.directory, folder / run.directory.name))


def test_features_are_computed_once(tiny_run, tmp_path, monkeypatch):
    run = copy_of(tiny_run, tmp_path)
    for left in run.directory.glob("features-*"):
        left.unlink()
    computed, extract = [], runs.extract
    monkeypatch.setattr(runs, "extract", lambda *a, **k: computed.append(a) or extract(*a, **k))
    first, labels = run.features("novel", 2)
    again, same_labels = runs.Run(run.directory).features("novel", 2)
    assert torch.equal(first, again) and torch.equal(labels, same_labels) and len(computed) == 1
    assert not torch.equal(run.features("novel")[0], first) and len(computed) == 2
    run.features("novel", 2, layer="block3")
    assert len(computed) == 3  # of a layer: not kept
    kept = run.directory / "features-novel-000002.safetensors"
    kept.write_bytes(kept.read_bytes()[:-7])  # damaged
    assert torch.equal(run.features("novel", 2)[0], first) and len(computed) == 4
    shutil.copy(run.directory / "features-novel-000004.safetensors", kept)  # of other weights
    assert torch.equal(run.features("novel", 2)[0], first) and len(computed) == 5
    monkeypatch.setattr(runs, "FEATURES_KEPT", 4 * first.numel() - 1)  # too large
    run.features("novel", 2)
    assert len(computed) == 6


def test_features_without_room_for_them(tiny_run, tmp_path, monkeypatch):
    run = copy_of(tiny_run, tmp_path)
    for left in run.directory.glob("features-*"):
        left.unlink()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run.features("novel")[0].isfinite().all()
    assert not [file.name for file in run.directory.iterdir() if "features" in file.name]


@pytest.mark.parametrize("split", runs.SPLITS)
def test_features(tiny_run, split):
    features, labels = tiny_run.features(split)
    part = getattr(tiny_run.splits, split)
    assert features.shape == (len(part.labels), 64) and features.dtype == torch.float32
    assert labels.dtype == torch.int64 and torch.equal(labels, part.labels)
    assert torch.equal(labels.unique(), torch.arange(len(part.class_names)))


def test_features_of_layers_and_epochs(tiny_run):
    assert tiny_run.features("novel", layer="block3")[0].shape[1] == 64 * 3 * 3
    last = tiny_run.features("novel")[0]
    assert torch.equal(tiny_run.features("novel", layer="features")[0], last)
    assert not torch.equal(tiny_run.features("novel", epoch=0)[0], last)
    last.requires_grad_()  # ordinary tensors: usable in a loss
    assert (last * 1).sum().backward() is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: run.features("nowel"), "did you mean 'novel'"),
        (lambda run: run.features("novel", epoch=1), "epoch=1 was not kept; kept: 0, 2, 4"),
        (lambda run: run.features("novel", layer="block9"), "block9.*allowed: block1"),
        (lambda run: run.model(epoch=99), "kept: 0, 2, 4"),
    ],
)
def test_run_refuses(tiny_run, call, words):
    with pytest.raises(ValueError, match=words):
        call(tiny_run)


def test_no_run_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        ncbook.Run(tmp_path)
    with pytest.raises(TypeError, match="dict"):
        ncbook.train({})


def test_equal_steps_whatever_the_number_of_classes(tmp_path):
    steps = {
        n: training._Training(ncbook.Experiment(n_source=n), tmp_path, torch.device("cpu")).steps
        for n in (8, 16, 32, 64, 128, 512)
    }
    assert max(steps.values()) / min(steps.values()) < 1.3, steps
    assert steps[8] == steps[64] == 300


def test_batches_of_an_epoch_cover_every_sample_once():
    order = torch.randperm(950)
    batches = order.tensor_split(training.steps_per_epoch(950, 64))
    assert torch.cat(batches).unique().numel() == 950
    assert {len(batch) for batch in batches} == {63, 64}


def test_affine_moves_images_little_and_at_random():
    images = torch.zeros(32, 1, 28, 28)
    images[:, :, 12:16, 12:16] = 1
    moved = augmentations.affine(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert not torch.equal(moved[0], moved[1])
    mass = moved.sum((1, 2, 3)) / images.sum((1, 2, 3))
    assert mass.min() > 0.85**2 * 0.9 and mass.max() < 1.15**2 * 1.1  # scaled by 0.85 to 1.15 in each direction
    assert torch.equal(moved, augmentations.affine(images, torch.Generator().manual_seed(0)))


def test_step_schedule_is_that_of_the_recipe():
    assert [training.learning_rate_factor("step", p) for p in (0.0, 0.59, 0.6, 0.79, 0.8, 1.0)] == [
        *(1.0, 1.0, 0.1, 0.1, 0.01, 0.01)
    ]


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


@pytest.mark.parametrize("name", ["one_cycle", "cosine", "step", "constant"])
def test_schedules_stay_in_range(name):
    factors = [training.learning_rate_factor(name, i / 100) for i in range(101)]
    assert min(factors) >= 0 and max(factors) <= 1
    assert (factors[-1] < 1e-9) == (name in ("one_cycle", "cosine"))


def test_backbone_and_objective_refuse():
    with pytest.raises(ValueError, match="did you mean 'conv4'"):
        backbones.build("conv5", 1, 28)
    with pytest.raises(ValueError, match="at least 16"):
        backbones.build("conv4", 1, 8)
    with pytest.raises(ValueError, match="in_channels=0"):
        backbones.build("conv4", 0, 28)
    with pytest.raises(ValueError, match="did you mean 'cross_entropy'"):
        objectives.build("cross_entrpy", 64, 5)


def test_conv4_on_the_meta_device():
    with torch.device("meta"):
        assert backbones.build("conv4", 3, 32)(torch.zeros(2, 3, 32, 32)).shape == (2, 256)


def test_loss_is_that_of_torch():
    objective = objectives.build("cross_entropy", 3, 4)
    features, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    logits = features @ objective.weight.T + objective.linear.bias
    by_hand = (logits.logsumexp(1) - logits[torch.arange(5), labels]).mean()
    torch.testing.assert_close(objective(features, labels), by_hand)


def test_without_new_classes(tmp_path):
    experiment = ncbook.Experiment(n_source=6, n_novel=None, epochs=1, batch_size=32, measurements=2)
    run = ncbook.train(experiment, runs_dir=tmp_path)
    assert set(run.history["split"]) == {"source_train", "source_test", "validation"}
    assert len(run.splits.novel.labels) == 0 and len(run.splits.source_train.class_names) == 6
    assert ncbook.Experiment(dataset="cifar10", n_source=10, n_novel=None).n_novel is None
