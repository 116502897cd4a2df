"""What is read back from a run's folder, and which folders may be deleted."""

import errno
import json
import os
import shutil

import pandas as pd
import pytest
import torch

import ncbook
from ncbook import _files, catalog, datasets, runs
from ncbook.runs import kept as kept_module
from ncbook.runs import layout
from ncbook.runs import run as run_module


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
    computed, extract = [], run_module.extract
    monkeypatch.setattr(run_module, "extract", lambda *a, **k: computed.append(a) or extract(*a, **k))
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
    monkeypatch.setattr(kept_module, "FEATURES_ON_DISK", 4 * first.numel() - 1)  # too large
    kept.unlink()
    run.features("novel", 2)
    assert len(computed) == 6 and not kept.exists()


def test_features_of_the_last_epoch_are_kept_by_training(tiny, tmp_path, monkeypatch):
    run = ncbook.train(tiny.replace(epochs=1), runs_dir=tmp_path)
    names = sorted(path.name for path in run.directory.glob("features-*"))
    assert names == sorted(f"features-{split}-{run.config['epochs']:06d}.safetensors" for split in catalog.SPLITS)
    for split in catalog.SPLITS:
        monkeypatch.setattr(run_module, "extract", None)  # nothing is computed
        kept, labels = run.features(split)
        monkeypatch.undo()
        (run.directory / f"features-{split}-{run.config['epochs']:06d}.safetensors").unlink()
        computed, same_labels = run.features(split)
        torch.testing.assert_close(kept, computed, rtol=1e-6, atol=1e-6)
        assert torch.equal(labels, same_labels)


def test_features_without_room_for_them(tiny_run, tmp_path, monkeypatch):
    run = copy_of(tiny_run, tmp_path)
    for left in run.directory.glob("features-*"):
        left.unlink()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run.features("novel")[0].isfinite().all()
    assert not [file.name for file in run.directory.iterdir() if "features" in file.name]


@pytest.mark.parametrize("split", catalog.SPLITS)
def test_features(tiny_run, split):
    features, labels = tiny_run.features(split)
    part = getattr(tiny_run.splits, split)
    assert features.shape == (len(part.labels), 64) and features.dtype == torch.float32
    assert labels.dtype == torch.int64 and torch.equal(labels, part.labels)
    assert torch.equal(labels.unique(), torch.arange(len(part.class_names)))


def test_features_of_layers_and_epochs(tiny_run):
    assert tiny_run.features("novel", layer="block3")[0].shape[1] == 32 * 3 * 3
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


@pytest.fixture
def own_images():
    """Images that no data set of the package has."""
    drawn = datasets.load("strokes", n_classes=24, per_class=20, seed=9)
    return datasets.ImageClasses("mine", drawn.images, drawn.labels, drawn.class_names, drawn.held_out)


def test_images_that_were_handed_over_are_wanted_again(own_images, tmp_path):
    experiment = ncbook.Experiment(dataset="folder", n_source=6, epochs=1, measurements=2)
    run = ncbook.train(experiment, images=own_images, runs_dir=tmp_path)
    assert run.config["classes"] == {"source_train": 6, "source_test": 6, "novel": 18, "validation": 0}
    assert run.directory.name.endswith(own_images.fingerprint[:12])
    features, labels = run.features("novel")  # now on disk, with their labels
    alone = ncbook.Run(run.directory)
    again, same_labels = alone.features("novel")
    assert torch.equal(again, features) and torch.equal(labels, same_labels)
    assert alone.history.equals(run.history) and alone.head().shape == (6, 64)
    with pytest.raises(
        ValueError, match=r"was trained on images that were handed over: .*Run\(directory, images=\.\.\.\)"
    ):
        alone.features("novel", layer="block1")
    with_images = ncbook.Run(run.directory, images=own_images)
    assert with_images.features("novel", layer="block1")[0].shape[0] == len(labels)
    other = datasets.load("strokes", n_classes=24, per_class=20, seed=8)
    with pytest.raises(ValueError, match="other pixels than those of 'strokes'"):
        ncbook.Run(run.directory, images=other).splits  # noqa: B018
    assert ncbook.train(experiment, images=own_images, runs_dir=tmp_path).splits.novel.images.shape[0] == len(labels)


def test_a_run_on_a_folder_finds_it_where_it_lies_now(own_images, tmp_path):
    from PIL import Image

    for row in range(0, len(own_images.labels), 2):
        name = own_images.class_names[own_images.labels[row]]
        (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(own_images.images[row, 0].numpy()).save(tmp_path / "pictures" / name / f"{row:04d}.png")
    parameters = dict(dataset="folder", image_size=16, n_source=4, epochs=1, measurements=2)
    run = ncbook.train(ncbook.Experiment(path=str(tmp_path / "pictures"), **parameters), runs_dir=tmp_path / "runs")
    (tmp_path / "pictures").rename(tmp_path / "moved")
    moved = ncbook.train(ncbook.Experiment(path=str(tmp_path / "moved"), **parameters), runs_dir=tmp_path / "runs")
    assert moved.directory == run.directory  # the same pixels, hence the same run
    assert moved.features("novel", layer="block1")[0].isfinite().all()


# Damage that is noticed


def test_an_epoch_that_is_missing_is_not_replaced_by_another(run_alone):
    history_file = run_alone.directory / "history.csv"
    before = history_file.read_bytes()
    (run_alone.directory / "epoch-000004.safetensors").unlink()
    for read in (lambda r: r.history, lambda r: r.features("novel"), lambda r: r.model(), lambda r: r.verify()):
        with pytest.raises(runs.DamagedFileError, match=r"epoch-000004\.safetensors is missing; ncbook\.train trains"):
            read(ncbook.Run(run_alone.directory))
    assert history_file.read_bytes() == before


def test_an_epoch_of_another_run_is_not_taken(run_alone, tiny, tmp_path):
    other = ncbook.train(tiny.replace(seed=1), runs_dir=tmp_path / "other")
    shutil.copy(other.directory / "epoch-000002.safetensors", run_alone.directory)
    with pytest.raises(runs.DamagedFileError, match="belongs to another run or epoch"):
        ncbook.Run(run_alone.directory).model(2)
    shutil.copy(run_alone.directory / "epoch-000004.safetensors", run_alone.directory / "epoch-000002.safetensors")
    with pytest.raises(runs.DamagedFileError, match="belongs to another run or epoch"):
        ncbook.Run(run_alone.directory).history  # noqa: B018


def test_other_files_beside_the_epochs_are_passed_over(run_alone, tiny_run):
    shutil.copy(run_alone.directory / "epoch-000002.safetensors", run_alone.directory / "epoch-000002 (1).safetensors")
    assert ncbook.Run(run_alone.directory).history.equals(tiny_run.history)


@pytest.mark.parametrize("content", ["{" * 100_000, "[" * 100_000 + "]" * 100_000, "[1]", "3", "null", ""])
def test_unreadable_runs_are_listed(run_alone, tmp_path, content):
    (run_alone.directory / "config.json").write_text(content)
    table = runs.list(tmp_path / "runs")
    assert table["state"].tolist() == ["unreadable"] and "1 runs" in runs.disk_space(tmp_path / "runs")
    (run_alone.directory / "config.json").unlink()
    (run_alone.directory / "config.json").mkdir()
    assert runs.list(tmp_path / "runs")["state"].tolist() == ["unreadable"]


def test_features_of_another_split_are_not_taken(run_alone, tiny_run):
    for epoch in (2, 4):
        run_alone.features("source_test", epoch)
        run_alone.features("novel", epoch)
    folder = run_alone.directory
    shutil.copy(folder / "features-source_test-000004.safetensors", folder / "features-novel-000004.safetensors")
    shutil.copy(folder / "epoch-000002.safetensors", folder / "features-novel-000002.safetensors")
    for epoch in (2, 4):
        assert torch.equal(runs.Run(folder).features("novel", epoch)[0], tiny_run.features("novel", epoch)[0])


@pytest.mark.parametrize("change", [{"threads": "two"}, {"precision": 3}, {"experiment": [1]}, {"fingerprint": None}])
def test_a_config_that_describes_no_run_is_refused(run_alone, change):
    _files.write_json(run_alone.directory / "config.json", run_alone.config | change)
    with pytest.raises(runs.DamagedFileError, match=r"config\.json describes no run"):
        runs.Run(run_alone.directory)


def test_a_run_that_is_not_finished_has_no_holes(run_alone):
    (run_alone.directory / "finished.json").unlink()
    (run_alone.directory / "epoch-000004.safetensors").unlink()
    assert runs.Run(run_alone.directory).history["epoch"].unique().tolist() == [0, 2]
    (run_alone.directory / "epoch-000000.safetensors").unlink()
    with pytest.raises(runs.DamagedFileError, match=r"epoch-000000\.safetensors is missing"):
        runs.Run(run_alone.directory).history  # noqa: B018


@pytest.mark.parametrize("epoch", ["2", 2.0, True, [2], -1])
def test_what_is_no_epoch_is_refused(tiny_run, epoch):
    with pytest.raises(ValueError, match=r"was not kept; kept: 0, 2, 4"):
        tiny_run.features("novel", epoch)


def test_the_device_of_the_training_computes_the_features(tiny, tiny_run, monkeypatch):
    found = ncbook.train(tiny, runs_dir=tiny_run.directory.parent, device="cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # what "auto" would choose
    assert found.device == "cpu" and found.features("novel", layer="block3")[0].isfinite().all()


def wrong_folders(tmp_path):
    (tmp_path / "file").write_text("x")
    folders = [3, True, 1.5, b"x", ["x"], "", "a\0b", tmp_path / "file", tmp_path / "file" / "x", "~nobody-here/x"]
    return [*folders, "x" * 5000]


@pytest.mark.parametrize("number", range(11))
def test_what_is_no_folder_of_runs_is_refused(tiny, tmp_path, monkeypatch, number):
    folder = wrong_folders(tmp_path)[number]
    calls = [
        lambda f: ncbook.train(tiny, runs_dir=f),
        runs.list,
        runs.disk_space,
        lambda f: ncbook.sweep([tiny], runs_dir=f),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=r"^runs_dir=.*; allowed: the path of a folder") as raised:
            call(folder)
        assert "\n" not in str(raised.value)
    with pytest.raises((TypeError, ValueError), match=r"^directory=.*; allowed: the path of a folder"):
        runs.Run(folder)
    monkeypatch.setenv("NCBOOK_RUNS", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="^NCBOOK_RUNS="):
        runs.list()


def test_a_list_of_runs_prints_what_tells_them_apart(tiny, tmp_path):
    for seed in (0, 1):
        ncbook.train(tiny.replace(seed=seed, epochs=1, measurements=2), runs_dir=tmp_path)
    table = runs.list(tmp_path)
    lines = repr(table).splitlines()
    assert "seed" in lines[0] and "state" in lines[0] and "n_source" not in lines[0] and max(map(len, lines)) < 80
    assert {"n_source", "directory", "schedule"} <= {*table.columns} and "more columns" in lines[-1]
    assert "seed" in table._repr_html_() and "n_source" not in table._repr_html_()
    assert runs.remove(table.query("seed == 1")) > 0 and len(runs.list(tmp_path)) == 1
    assert repr(runs.list(tmp_path / "none"))
    for name in ("seed", "directory", "n_source"):  # what is asked for is shown
        assert repr(table[[name]]) == repr(pd.DataFrame(table)[[name]]) and "more" not in table[[name]]._repr_html_()
    assert repr(pd.concat([table, table], axis=1))


# What may be deleted


@pytest.mark.parametrize("rows", ["x", None, 3, [], {"directory": []}])
def test_what_is_no_list_of_runs_is_not_removed(rows):
    with pytest.raises(TypeError, match=r"rows is of type .*; allowed: rows of ncbook\.runs\.list\(\)"):
        runs.remove(rows)
    with pytest.raises(ValueError, match=r"rows of ncbook\.runs\.list\(\)"):
        runs.remove(pd.DataFrame({"directory": [3.0]}))


@pytest.mark.parametrize(
    "name", ["epoch-0000002.safetensors", "epoch-٠٠٠٠٠٢.safetensors", "features-novel-0000002.safetensors"]
)
def test_numbers_that_the_package_does_not_write_are_not_its_own(run_alone, name):
    shutil.copy(run_alone.directory / "epoch-000002.safetensors", run_alone.directory / name)
    assert run_alone.saved_epochs == [0, 2, 4] and layout.foreign_entries(run_alone.directory) == [name]


@pytest.fixture
def run_alone(tiny_run, tmp_path):
    (tmp_path / "runs").mkdir()
    shutil.copy(tiny_run.directory.parent / layout.MARK, tmp_path / "runs")
    return copy_of(tiny_run, tmp_path / "runs")


def everything(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def rows_of(*directories):
    return pd.DataFrame({"directory": [str(directory) for directory in directories]})


def test_folders_of_another_layout_are_no_runs(run_alone, tmp_path):
    foreign = tmp_path / "runs" / "thesis"
    (foreign / "chapters").mkdir(parents=True)
    shutil.copy(run_alone.directory / "config.json", foreign)
    assert runs.list(tmp_path / "runs")["directory"].tolist() == [str(run_alone.directory)]
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=r"thesis is no run of ncbook: nothing is deleted"):
        runs.remove(rows_of(run_alone.directory, foreign))
    assert everything(tmp_path) == before


def test_a_run_outside_a_folder_of_runs_stays(run_alone, tmp_path):
    elsewhere = shutil.copytree(run_alone.directory, tmp_path / "backup" / run_alone.directory.name)
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=r"not inside a folder of runs \(ncbook-runs\.txt is missing"):
        runs.remove(rows_of(run_alone.directory, elsewhere))
    assert everything(tmp_path) == before


@pytest.mark.parametrize("foreign", ["notes.txt", "epoch-1.safetensors.bak", "plots/", "config.json.orig"])
def test_what_the_package_did_not_write_stays(run_alone, tmp_path, foreign):
    path = run_alone.directory / foreign
    path.mkdir() if foreign.endswith("/") else path.write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=f"holds what ncbook did not write: {foreign.rstrip('/')}"):
        runs.remove(rows_of(run_alone.directory))
    assert everything(tmp_path) == before


def test_links_to_runs_stay(run_alone, tmp_path):
    link = tmp_path / "runs" / ("0" * 16 + "-" + "0" * 12)
    link.symlink_to(run_alone.directory)
    assert len(runs.list(tmp_path / "runs")) == 1
    with pytest.raises(ValueError, match="is no run of ncbook"):
        runs.remove(rows_of(link))
    assert run_alone.finished and link.is_symlink()


def test_a_row_given_twice_is_removed_once(run_alone, tmp_path):
    (run_alone.directory / ".epoch-000004.safetensors.123").write_bytes(b"half-written")
    freed = runs.remove(pd.concat([runs.list(tmp_path / "runs")] * 2))
    assert freed > 0.4 and [path.name for path in (tmp_path / "runs").iterdir()] == [layout.MARK]


def test_a_damaged_run_that_was_set_aside_can_be_removed(run_alone, tmp_path):
    run_alone.directory.rename(run_alone.directory.with_name(run_alone.directory.name + ".damaged"))
    table = runs.list(tmp_path / "runs")
    assert len(table) == 1 and runs.remove(table) > 0 and len(runs.list(tmp_path / "runs")) == 0


def test_no_run_is_being_trained_on_a_disk_that_cannot_be_written_to(run_alone, monkeypatch):
    lock = runs.Lock(run_alone.directory)
    with lock:
        pass

    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert not lock.held()
