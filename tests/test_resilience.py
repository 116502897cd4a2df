"""Runs that are killed, damaged, interrupted, or trained twice."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch

import ncbook
from ncbook import _files, catalog, datasets, runs, training
from ncbook._files import DamagedFileError, StorageError
from ncbook.runs import layout
from ncbook.training import Trainer, fit, measuring

pytestmark = pytest.mark.usefixtures("listening")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measuring, "EPISODES", 50)


@pytest.fixture(scope="module")
def small():
    return ncbook.Experiment(
        backbone="conv4_small", n_source=4, n_novel=5, epochs=3, batch_size=16, measurements=3, precision="float32"
    )


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "EPISODES", 50)
        return ncbook.train(small, runs_dir=tmp_path_factory.mktemp("whole"))


def assert_same(run, whole):
    pd.testing.assert_frame_equal(run.history, whole.history, check_exact=True)
    assert run.saved_epochs == whole.saved_epochs and run.finished
    for epoch in run.saved_epochs:
        for part in ("model", "objective"):
            expected = getattr(whole, part)(epoch).state_dict()
            for name, tensor in getattr(run, part)(epoch).state_dict().items():
                assert torch.equal(tensor, expected[name]), (epoch, name)


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("mode", ["writes", "moments", "signals", "data", "objectives"])
def test_killed_processes_lose_nothing_that_matters(root, tmp_path, mode):
    """SIGKILL at every call that changes the disk, and at random moments; SIGTERM after a step. In a process apart."""
    command = [sys.executable, str(root / "tests" / "kill_harness.py"), str(tmp_path), mode]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kills = int(done.stdout.split()[0])
    assert kills >= {"writes": 34, "moments": 10, "signals": 6, "data": 5, "objectives": 26}[mode]


def stop_at(monkeypatch, number, act):
    """Act after the n-th step from now on."""
    step, count = Trainer._update, 0

    def counted(self, *arguments):
        nonlocal count
        loss = step(self, *arguments)
        count += 1
        if count == number:
            act()
        return loss

    monkeypatch.setattr(Trainer, "_update", counted)


def test_the_stop_button_saves_a_checkpoint_and_leaves_everything_usable(small, whole, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        stop_at(patch, 6, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="stopped at epoch 1 of 3; everything is saved: run") as stopped:
            ncbook.train(small, runs_dir=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.value._render_traceback_() == [f"KeyboardInterrupt: {stopped.value}"]  # all that IPython shows
    about = _files.read_about(next(tmp_path.glob("*/resume.safetensors")))
    assert (about["epoch"], about["step"]) == (1, 2)  # four steps an epoch
    steps = []
    step = Trainer._update
    monkeypatch.setattr(Trainer, "_update", lambda s, *a: steps.append(1) or step(s, *a))
    assert_same(ncbook.train(small, runs_dir=tmp_path), whole)
    assert len(steps) == 3 * 4 - 6


def test_a_run_measured_at_its_end_alone_has_the_same_network(small, whole, tmp_path, monkeypatch):
    once = small.replace(measurements=1)
    with monkeypatch.context() as patch:
        stop_at(patch, 6, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="stopped at epoch 1 of 3"):
            ncbook.train(once, runs_dir=tmp_path)
    (stopped,) = (ncbook.Run(path.parent) for path in tmp_path.glob("*/config.json"))
    with pytest.raises(ValueError, match="has no weights yet"):
        stopped.model()
    run = ncbook.train(once, runs_dir=tmp_path)
    assert run.saved_epochs == [3]
    last = whole.history[whole.history["epoch"] == 3].reset_index(drop=True)
    pd.testing.assert_frame_equal(run.history, last, check_exact=True)
    for name, tensor in run.model().state_dict().items():
        assert torch.equal(tensor, whole.model().state_dict()[name]), name


def test_a_second_stop_acts_at_once(small, tmp_path, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    stop_at(monkeypatch, 3, twice)
    with pytest.raises(KeyboardInterrupt):
        ncbook.train(small, runs_dir=tmp_path)
    assert not list(tmp_path.glob("*/resume.safetensors"))


def test_an_ignored_signal_stays_ignored(small, whole, tmp_path, monkeypatch):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    stop_at(monkeypatch, 3, lambda: signal.raise_signal(signal.SIGINT))
    assert_same(ncbook.train(small, runs_dir=tmp_path), whole)


def test_signals_are_left_alone_outside_the_main_thread(small, whole, tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(ncbook.train(small, runs_dir=tmp_path)))
    thread.start()
    thread.join()
    assert_same(found[0], whole)


def spoil(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "emptied":
        content = b""
    else:
        content[-7] ^= 0b100  # one bit, near the end: in the numbers
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["cut", "emptied", "altered"])
@pytest.mark.parametrize("file", ["config.json", "epoch-000002.safetensors", "history.csv", "finished.json"])
def test_damage_of_a_finished_run_is_noticed(small, whole, tmp_path, file, how):
    run = ncbook.train(small, runs_dir=tmp_path)
    spoil(run.directory / file, how)
    if file == "history.csv":
        with pytest.warns(UserWarning, match=r"history\.csv is not what was measured"):
            pd.testing.assert_frame_equal(ncbook.Run(run.directory).history, whole.history, check_exact=True)
    elif file == "finished.json":
        pass
    else:
        with pytest.raises(DamagedFileError, match=file.replace(".", r"\.")):
            ncbook.Run(run.directory).model(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = ncbook.train(small, runs_dir=tmp_path)
    assert_same(again, whole)
    if file in ("config.json", "epoch-000002.safetensors"):
        assert any("trained again" in str(w.message) and file in str(w.message) for w in caught)
        assert again.directory.with_name(again.directory.name + ".damaged").is_dir()


@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(small, whole, tmp_path, monkeypatch, both):
    with monkeypatch.context() as patch:
        patch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
        stop_at(patch, 6, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            ncbook.train(small, runs_dir=tmp_path)
    (directory,) = (path.parent for path in tmp_path.glob("*/config.json"))
    for name in ("resume.safetensors", "resume-previous.safetensors")[: 1 + both]:
        spoil(directory / name, "altered")
    with pytest.warns(UserWarning, match="older state"):
        assert_same(ncbook.train(small, runs_dir=tmp_path), whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("objective", [name for name in catalog.OBJECTIVES if name != "cross_entropy"])
def test_every_objective_is_healed(small, tmp_path, monkeypatch, objective):
    """A checkpoint that was altered, then weights of a finished run; of a student also those of its teacher."""
    own = catalog.OBJECTIVES[objective][1]
    size = {"episodes_per_epoch": 3, "train_way": 3} if "train_way" in own else {"batch_size": 20}
    size |= {"episodes_per_epoch": 6, "tasks_per_step": 2} if "tasks_per_step" in own else {}
    changed = {"backbone": "conv4_small", "epochs": 2, "measurements": 2, "n_novel": 0, "batch_size": None}
    experiment = small.replace(objective=objective, **changed | size)  # three steps an epoch
    expected = ncbook.train(experiment, runs_dir=tmp_path / "whole")
    folder = tmp_path / "damaged"
    if experiment.teacher:
        ncbook.train(experiment.teacher, runs_dir=folder)
    with monkeypatch.context() as patch:
        patch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
        stop_at(patch, 4, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="stopped at epoch 1 of 2"):
            ncbook.train(experiment, runs_dir=folder)
    directory = runs.locate(experiment, folder)
    spoil(directory / "resume.safetensors", "altered")
    assert_same(ncbook.train(experiment, runs_dir=folder), expected)
    for damaged in {directory, runs.locate(experiment.teacher or experiment, folder)}:
        spoil(damaged / "epoch-000002.safetensors", "altered")
    assert_same(ncbook.train(experiment, runs_dir=folder), expected)


def spoil_config_gone(directory):
    (directory / "config.json").unlink()


def spoil_config_a_folder(directory):
    spoil_config_gone(directory)
    (directory / "config.json").mkdir()


def spoil_epoch_gone(directory):
    (directory / "epoch-000002.safetensors").unlink()


def spoil_epoch_a_dead_link(directory):
    spoil_epoch_gone(directory)
    (directory / "epoch-000002.safetensors").symlink_to(directory / "nowhere")


def spoil_epoch_a_folder(directory):
    spoil_epoch_gone(directory)
    (directory / "epoch-000002.safetensors").mkdir()


def spoil_history(directory):
    (directory / "history.csv").write_bytes(b"\xff\xfe\x00epoch")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "spoil_run",
    [
        spoil_config_gone,
        spoil_config_a_folder,
        spoil_epoch_gone,
        spoil_epoch_a_dead_link,
        spoil_epoch_a_folder,
        spoil_history,
    ],
)
def test_a_finished_run_heals_whatever_is_in_the_place_of_a_file(small, whole, tmp_path, spoil_run):
    spoil_run(ncbook.train(small, runs_dir=tmp_path).directory)
    assert_same(ncbook.train(small, runs_dir=tmp_path), whole)


def history_a_folder(directory):
    (directory / "history.csv").unlink()
    (directory / "history.csv").mkdir()


def log_a_folder(directory):
    (directory / "log.csv").unlink()
    (directory / "log.csv").mkdir()


def checkpoint_a_folder(directory):
    (directory / "resume.safetensors").unlink()
    (directory / "resume.safetensors").mkdir()


def epoch_lost_before_the_checkpoint(directory):
    (directory / "epoch-000000.safetensors").unlink()


def the_other_run(directory):
    other = directory.parents[1] / "other"
    ncbook.train(runs.Run(directory).experiment.replace(seed=1), runs_dir=other)
    shutil.rmtree(directory)
    shutil.copytree(next(other.glob("*/config.json")).parent, directory)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "spoil_run",
    [history_a_folder, log_a_folder, checkpoint_a_folder, epoch_lost_before_the_checkpoint, the_other_run],
)
def test_an_interrupted_run_heals_to_the_same_bits(small, whole, tmp_path, monkeypatch, spoil_run):
    with monkeypatch.context() as patch:
        stop_at(patch, 6, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            ncbook.train(small, runs_dir=tmp_path / "runs")
    spoil_run(runs.locate(small, tmp_path / "runs"))
    assert_same(ncbook.train(small, runs_dir=tmp_path / "runs"), whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_finished_run_in_the_place_of_another_is_not_taken_for_it(small, whole, tmp_path):
    ncbook.train(small, runs_dir=tmp_path / "runs")
    the_other_run(runs.locate(small, tmp_path / "runs"))
    assert_same(ncbook.train(small, runs_dir=tmp_path / "runs"), whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_checkpoint_is_not_taken_for_an_epoch(small, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 6, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            ncbook.train(small, runs_dir=tmp_path)
    folder = runs.locate(small, tmp_path)
    shutil.copy(folder / "resume.safetensors", folder / "epoch-000001.safetensors")
    with pytest.raises(DamagedFileError, match=r"epoch-000001\.safetensors belongs to another run or epoch"):
        ncbook.Run(folder).history  # noqa: B018
    assert_same(ncbook.train(small, runs_dir=tmp_path), whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_epoch_too_many_is_damage(small, whole, tmp_path):
    folder = ncbook.train(small, runs_dir=tmp_path).directory
    shutil.copy(folder / "epoch-000002.safetensors", folder / "epoch-000001.safetensors")
    assert_same(ncbook.train(small, runs_dir=tmp_path), whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_is_locked_while_it_is_deleted(small, whole, tmp_path, monkeypatch):
    shutil.copytree(whole.directory.parent, tmp_path / "runs")
    rows, delete = runs.list(tmp_path / "runs"), shutil.rmtree

    def look_then_delete(directory):
        assert runs.Lock(directory).held()
        words = "is being trained by another process: it is not deleted"
        with pytest.raises(ValueError, match=words), runs.Lock(directory).at_once():
            raise AssertionError("held twice")
        delete(directory)

    monkeypatch.setattr(shutil, "rmtree", look_then_delete)
    runs.remove(rows)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [layout.MARK]


def test_threads_that_write_one_file(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(_files.write_json, tmp_path / "one.json", {"n": k}) for k in range(200)]:
            done.result()
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_images_that_no_network_takes_leave_nothing_behind(small, tmp_path):
    images = datasets.load("strokes", n_classes=12)
    wide, tiny = torch.nn.functional.pad(images.images, [0, 8]), images.images[..., :8, :8]
    episodic = small.replace(objective="prototypical", batch_size=None, train_way=4, train_shot=9, train_query=9)
    for experiment, pixels, words in (
        (small, wide, "images are 28 x 36 pixels; allowed: as high as wide"),
        (small, tiny, "image_size=8; allowed"),
        (episodic, images.images, "allowed"),
    ):
        with pytest.raises(ValueError, match=words):
            ncbook.train(experiment, images=dataclasses.replace(images, images=pixels), runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_of_damaged_runs_the_last_one_is_kept(small, whole, tmp_path):
    folder = tmp_path / whole.directory.name
    for reason in ("first", "second"):
        shutil.copytree(whole.directory, folder, dirs_exist_ok=True)
        spoil(folder / "config.json", "cut")
        (folder / "log.csv").write_text(reason)
        with pytest.warns(UserWarning, match=rf"the old folder is now {folder.name}\.damaged$"):
            assert ncbook.train(small, runs_dir=tmp_path).history.equals(whole.history)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert names == [folder.name, f"{folder.name}.damaged"]
    assert (tmp_path / f"{folder.name}.damaged" / "log.csv").read_text() == "second"


def test_nothing_but_a_run_is_deleted_where_a_damaged_one_is_set_aside(small, whole, tmp_path):
    folder = ncbook.train(small, runs_dir=tmp_path / "runs").directory
    precious = tmp_path / "precious"
    shutil.copytree(folder, precious)
    damaged = folder.with_name(folder.name + ".damaged")
    damaged.symlink_to(precious)
    damaged.with_name(damaged.name + "-2").symlink_to(tmp_path / "nowhere")
    spoil(folder / "config.json", "cut")
    with pytest.warns(UserWarning, match=r"the old folder is now .*\.damaged-3$"):
        assert_same(ncbook.train(small, runs_dir=tmp_path / "runs"), whole)
    assert damaged.is_symlink() and sorted(precious.iterdir())
    assert damaged.with_name(damaged.name + "-3").is_dir()


def log_emptied(directory):
    (directory / "log.csv").write_text("")


def log_altered(directory):
    (directory / "log.csv").write_text("epoch,seconds\n0,soon\n")


def log_of_bytes(directory):
    (directory / "log.csv").write_bytes(b"\xff\xfe\x00")


def left_half_written(directory):
    """By `_files.replace`, and by safetensors, which writes to a temporary file of its own."""
    for name in (".epoch-000002.safetensors.1234", ".tmpgRh5sX"):
        (directory / name).write_bytes(b"half")


def a_stray_folder(directory):
    (directory / ".ipynb_checkpoints").mkdir()


def a_stray_file(directory):
    (directory / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    "spoil_run", [log_emptied, log_altered, log_of_bytes, left_half_written, a_stray_folder, a_stray_file]
)
def test_an_interrupted_run_goes_on_beside_what_is_not_its_own(small, whole, tmp_path, monkeypatch, spoil_run):
    with monkeypatch.context() as patch:
        stop_at(patch, 6, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            ncbook.train(small, runs_dir=tmp_path)
    directory = runs.locate(small, tmp_path)
    spoil_run(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(ncbook.train(small, runs_dir=tmp_path), whole)
    assert len(layout.foreign_entries(directory)) == (spoil_run in (a_stray_folder, a_stray_file))
    assert not layout.half_written(directory)


@pytest.mark.parametrize(("epoch", "step"), [(7, 0), (-1, 0), (1, 4), (1, -1), ("1", 2), (None, None)])
def test_a_checkpoint_of_an_impossible_moment_is_refused(small, whole, tmp_path, monkeypatch, epoch, step):
    with monkeypatch.context() as patch:
        stop_at(patch, 6, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            ncbook.train(small, runs_dir=tmp_path)
    path = runs.locate(small, tmp_path) / "resume.safetensors"
    about = _files.read_about(path)
    _files.write_tensors(path, _files.read_tensors(path), **about | {"epoch": epoch, "step": step})
    with pytest.warns(UserWarning, match="is no checkpoint of this run"):
        assert_same(ncbook.train(small, runs_dir=tmp_path), whole)


def test_another_layout_is_refused_by_name(small, whole, tmp_path):
    run = ncbook.train(small, runs_dir=tmp_path)
    content = {key: value for key, value in run.config.items()} | {"schema": 1}
    _files.write_json(run.directory / "config.json", content)
    with pytest.raises(ValueError, match=r"written by ncbook .* in layout 1; this version reads layout"):
        ncbook.Run(run.directory)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 9, 12])
def test_a_full_disk_is_named_and_what_was_there_is_kept(small, whole, tmp_path, monkeypatch, number):
    fsync, count = os.fsync, 0

    def full(handle):
        nonlocal count
        count += 1
        if count >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(StorageError, match=r"could not be written in .*make room.*NCBOOK_RUNS") as raised:
            ncbook.train(small, runs_dir=tmp_path)
    assert raised.value.errno == errno.ENOSPC
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()], "a half-written file was left"
    assert_same(ncbook.train(small, runs_dir=tmp_path), whole)


def test_a_folder_that_cannot_be_made_is_named(small, tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(StorageError, match="choose another folder by runs_dir"):
        ncbook.train(small, runs_dir=tmp_path / "new")


def test_a_second_process_waits_and_names_the_holder(small, whole, tmp_path, capsys):
    directory = runs.locate(small, tmp_path)
    found = []
    with runs.Lock(directory):
        thread = threading.Thread(target=lambda: found.append(ncbook.train(small, runs_dir=tmp_path)))
        thread.start()
        thread.join(timeout=2)
        assert thread.is_alive() and not found
        assert runs.Lock(directory).held()
    thread.join()
    assert_same(found[0], whole)
    assert f"being trained by process {os.getpid()} on " in capsys.readouterr().err
    assert not runs.Lock(directory).held()


def test_the_lock_of_a_dead_process_is_taken_over(small, whole, tmp_path):
    directory = runs.locate(small, tmp_path)
    code = (
        f"import os, pathlib; from ncbook import runs; runs.Lock(pathlib.Path({str(directory)!r})).__enter__();"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert directory.with_name(directory.name + ".holder").is_file()
    assert_same(ncbook.train(small, runs_dir=tmp_path), whole)


def test_a_huge_but_finite_loss_is_a_diverged_run(small, tmp_path, monkeypatch):
    step = Trainer._update
    monkeypatch.setattr(Trainer, "_update", lambda s, *a: step(s, *a) + 1e9)
    for _ in range(2):  # trained again, the same answer
        with pytest.raises(training.DivergedError, match=r"the loss is 1e\+09 after epoch 1 of 3.*learning_rate below"):
            ncbook.train(small, runs_dir=tmp_path)


def test_list_and_remove(small, whole, tmp_path, monkeypatch):
    assert len(runs.list(tmp_path)) == 0 and "0 runs" in runs.disk_space(tmp_path)
    ncbook.train(small, runs_dir=tmp_path)
    with monkeypatch.context() as patch:
        stop_at(patch, 6, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            ncbook.train(small.replace(seed=1), runs_dir=tmp_path)
    damaged = ncbook.train(small.replace(seed=2), runs_dir=tmp_path)
    spoil(damaged.directory / "config.json", "cut")
    table = runs.list(tmp_path)
    assert sorted(table["state"]) == ["finished", "interrupted", "unreadable"]
    row = table.query("state == 'finished'").iloc[0]
    assert row["epochs"] == row["epochs_done"] == 3 and row["seconds"] > 0 and row["n_source"] == 4
    assert table.query("state == 'interrupted'").iloc[0]["epochs_done"] == 1
    assert table["megabytes"].min() > 0.2 and "3 runs" in runs.disk_space(tmp_path)
    for directory, megabytes in zip(table["directory"], table["megabytes"], strict=True):
        files = sum(file.stat().st_size for file in Path(directory).iterdir() if file.is_file())
        assert megabytes == pytest.approx(files / 1e6, abs=0.01)

    interrupted = table.query("state == 'interrupted'")
    with runs.Lock(Path(interrupted.iloc[0]["directory"])):
        assert "training" in set(runs.list(tmp_path)["state"])
        with pytest.raises(ValueError, match="is being trained by process"):
            runs.remove(interrupted)
    assert runs.remove(interrupted) == pytest.approx(float(interrupted.iloc[0]["megabytes"]), abs=0.02)
    assert sorted(runs.list(tmp_path)["state"]) == ["finished", "unreadable"]
    with pytest.raises(ValueError, match="rows of ncbook"):
        runs.remove(pd.DataFrame({"x": [1]}))


def test_json_with_numbers_of_all_kinds_survives(tmp_path):
    content = {"a": [0.1, 1e-300, None, True], "b": {"ü": "x"}}
    _files.write_json(tmp_path / "x.json", content)
    assert _files.read_json(tmp_path / "x.json") == content
    text = json.loads((tmp_path / "x.json").read_text())
    (tmp_path / "x.json").write_text(json.dumps({**text, "a": [0.2]}))
    with pytest.raises(DamagedFileError, match="altered"):
        _files.read_json(tmp_path / "x.json")
