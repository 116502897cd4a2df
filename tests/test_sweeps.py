"""Sweeps: serial, over processes, and over a Dask cluster that loses a worker."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch

import ncbook
from ncbook import catalog, sweeps
from ncbook.training import fit, measuring

EXPERIMENTS = [
    ncbook.Experiment(n_source=4, n_novel=5, epochs=2, batch_size=16, measurements=2, precision="float32", seed=seed)
    for seed in range(3)
]


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return ncbook.sweep(EXPERIMENTS, runs_dir=tmp_path_factory.mktemp("serial"), threads=1)


def numbers(table):
    return table.drop(columns="directory")


def test_serial(serial):
    assert serial["error"].isna().all() and serial["seed"].unique().tolist() == [0, 1, 2]
    one = serial[serial["seed"] == 1]
    run = ncbook.Run(one["directory"].iloc[0])
    pd.testing.assert_series_equal(
        one["value"].astype(float).reset_index(drop=True), run.history["value"], check_exact=True
    )
    assert {"n_source", "epoch", "split", "metric", "value", "error", "directory"} <= set(serial)


def test_a_failure_is_a_row_and_the_rest_goes_on(tmp_path, monkeypatch, serial):
    worst = EXPERIMENTS[1].replace(learning_rate=100.0, weight_decay=1.0)
    table = ncbook.sweep([EXPERIMENTS[0], worst, EXPERIMENTS[0]], runs_dir=tmp_path, threads=1)
    failed = table[table["error"].notna()]
    assert len(failed) == 1 and failed["error"].iloc[0].startswith("DivergedError: ")
    assert failed["learning_rate"].iloc[0] == 100 and failed["directory"].isna().all()
    fine = numbers(table[table["error"].isna()]).reset_index(drop=True)
    pd.testing.assert_frame_equal(fine, numbers(serial[serial["seed"] == 0]), check_exact=True, check_dtype=False)


def test_again_trains_only_what_is_missing(tmp_path, monkeypatch, serial):
    ncbook.sweep(EXPERIMENTS[:1], runs_dir=tmp_path, threads=1)
    trained, whole = [], fit._fit
    monkeypatch.setattr(fit, "_fit", lambda store, e, *rest: trained.append(e) or whole(store, e, *rest))
    table = ncbook.sweep(EXPERIMENTS, runs_dir=tmp_path, threads=1)
    assert trained == EXPERIMENTS[1:]
    pd.testing.assert_frame_equal(numbers(table), numbers(serial), check_exact=True)


def test_process_pool(tmp_path, serial):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        table = ncbook.sweep(EXPERIMENTS, pool, runs_dir=tmp_path, threads=1)
    pd.testing.assert_frame_equal(numbers(table), numbers(serial), check_exact=True)


def test_threads_of_one_process_take_turns(tmp_path):
    """Its random numbers are those of all threads: weights and order would be those of no seed."""
    several = [EXPERIMENTS[0].replace(backbone="resnet12_small", epochs=1, seed=seed) for seed in range(6)]
    one = ncbook.sweep(several, runs_dir=tmp_path / "one", threads=1)
    with ThreadPoolExecutor(3) as pool:
        table = ncbook.sweep(several, pool, runs_dir=tmp_path / "threads", threads=1)
    pd.testing.assert_frame_equal(numbers(table), numbers(one), check_exact=True)


def test_dask_cluster_that_loses_a_worker(tmp_path, serial):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path) as cluster,
        Client(cluster) as client,
    ):
        victim = client.submit(os.getpid, pure=False).result()
        killed = []

        def killer():
            while not list((tmp_path / "runs").glob("*/epoch-*.safetensors")):
                time.sleep(0.02)
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

        thread = threading.Thread(target=killer)
        thread.start()
        table = ncbook.sweep(EXPERIMENTS, client.get_executor(), runs_dir=tmp_path / "runs", threads=1)
        thread.join()
    assert killed
    pd.testing.assert_frame_equal(numbers(table), numbers(serial), check_exact=True)


def test_refuses_before_any_work(tmp_path):
    with pytest.raises(TypeError, match="holds a dict"):
        ncbook.sweep([EXPERIMENTS[0], {}], runs_dir=tmp_path)
    with pytest.raises(ValueError, match="empty"):
        ncbook.sweep([], runs_dir=tmp_path)
    with pytest.raises(ValueError, match="threads=0"):
        ncbook.sweep(EXPERIMENTS, threads=0, runs_dir=tmp_path)
    for wrong in (EXPERIMENTS[0], 3, None):
        with pytest.raises(TypeError, match=r"experiments is of type .*; allowed: a list of ncbook\.Experiment"):
            ncbook.sweep(wrong, runs_dir=tmp_path)
    for wrong in (3, "x", ProcessPoolExecutor):
        with pytest.raises(TypeError, match=r"executor is of type .*; allowed: a concurrent\.futures\.Executor, such"):
            ncbook.sweep(EXPERIMENTS, wrong, runs_dir=tmp_path)
    with pytest.raises(TypeError, match=r"executor is of type Client; allowed: .*client\.get_executor\(\) of Dask"):
        ncbook.sweep(EXPERIMENTS, type("Client", (), {"get_executor": None})(), runs_dir=tmp_path)
    with pytest.raises(ValueError, match="device='gpu' is unknown"):
        ncbook.sweep(EXPERIMENTS, device="gpu", runs_dir=tmp_path)
    with pytest.raises(TypeError, match="too many positional arguments; allowed: experiments, executor, runs_dir="):
        ncbook.sweep(EXPERIMENTS, None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_pool_that_forks_is_refused_where_there_is_cuda(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with (
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool,
        pytest.raises(ValueError, match=r"executor forks .*; allowed: .*multiprocessing\.get_context\('spawn'\)"),
    ):
        ncbook.sweep(EXPERIMENTS, pool, runs_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_each_process_of_a_pool_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert sweeps._own_gpu() == "auto"
    found = []
    for number in (1, 2, 3):
        worker = type("Process", (), {"_identity": (number,)})()
        monkeypatch.setattr(multiprocessing, "current_process", lambda worker=worker: worker)
        found.append(sweeps._own_gpu())
    assert found == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert sweeps._own_gpu() == "auto"


def test_networks_side_by_side_on_images_at_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("NCBOOK_RUNS", str(tmp_path / "runs"))
    images = ncbook.datasets.load("strokes", n_classes=9, per_class=8, seed=3)
    experiments = [e.replace(n_source=4, samples_per_class=3) for e in EXPERIMENTS[:2]]
    found = list(sweeps.trained(experiments, images=images, workers=2))
    assert [run.experiment for run in found] == experiments
    assert all(run.config["images_handed_over"] and run.config["source_samples"] == 12 for run in found)
    monkeypatch.setattr(fit, "_fit", lambda *_: pytest.fail("trained again"))
    again = list(sweeps.trained(experiments, images=images, workers=2))
    assert [run.directory for run in again] == [run.directory for run in found]


@pytest.mark.parametrize("workers", [1, 2])
def test_one_experiment_on_images_of_each_its_own(tmp_path, monkeypatch, workers):
    monkeypatch.setenv("NCBOOK_RUNS", str(tmp_path / "runs"))
    one = EXPERIMENTS[0].replace(n_source=4, samples_per_class=3)
    images = [ncbook.datasets.load("strokes", n_classes=9, per_class=8, seed=seed) for seed in (3, 4)]
    found = list(sweeps.trained([one, one], images=images, workers=workers))
    assert [run.config["fingerprint"] for run in found] == [own.fingerprint for own in images]
    with pytest.raises(ValueError, match="images has 1 entries; allowed: 2, one per experiment"):
        next(sweeps.trained([one, one], images=images[:1], workers=workers))


def one_of_each(**classes):
    """A small experiment with every objective; the teacher of the student is among them."""
    episodes = dict(train_way=3, train_shot=2, train_query=2, episodes_per_epoch=4)
    return [
        ncbook.Experiment(
            objective=name, n_source=4, epochs=2, measurements=2, precision="float32", backbone="conv4_small",
            **classes, **(episodes if "train_way" in own else {"batch_size": 16}),
        )
        for name, (_, own) in catalog.OBJECTIVES.items()
    ]  # fmt: skip


def test_every_objective_side_by_side(tmp_path, monkeypatch):
    """The student before its teacher and beside it: whoever comes second waits, and finds it."""
    monkeypatch.setenv("NCBOOK_RUNS", str(tmp_path / "side by side"))
    experiments = sorted(one_of_each(n_novel=0, n_validation=0), key=lambda e: e.objective != "distillation")
    found = dict(zip(experiments, sweeps.trained(experiments, workers=2), strict=True))
    assert [run.experiment for run in found.values()] == experiments and all(run.finished for run in found.values())
    student = experiments[0]
    assert found[student].config["teacher"] == found[student.teacher].directory.name
    assert len([*(tmp_path / "side by side").glob("*/finished.json")]) == len(experiments)
    monkeypatch.setenv("NCBOOK_RUNS", str(tmp_path / "in turn"))
    for run in sweeps.trained(experiments, workers=1):
        pd.testing.assert_frame_equal(run.history, found[run.experiment].history, check_exact=True)


def test_a_sweep_over_every_objective(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "EPISODES", 20)
    table = ncbook.sweep(one_of_each(n_novel=5), runs_dir=tmp_path, threads=1)
    assert table["error"].isna().all() and table["objective"].unique().tolist() == list(catalog.OBJECTIVES)
    last = table.query("epoch == 2 and split == 'novel' and metric == 'accuracy_5shot'")
    assert len(last) == len(catalog.OBJECTIVES) and last["value"].between(0.2, 1).all()
    heads = table.query("split == 'source_test' and metric == 'accuracy'")["objective"].unique()
    assert sorted(heads) == sorted(name for name, (_, own) in catalog.OBJECTIVES.items() if "train_way" not in own)


ENDLESS = """
if __name__ == "__main__":  # workers import this file
    import ncbook
    from ncbook import sweeps
    endless = [ncbook.Experiment(backbone="conv4_small", n_source=6, n_novel=8, epochs=100_000, seed=s) for s in (0, 1)]
    list(sweeps.trained(endless, workers=2))
"""


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_notebook_that_is_killed(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    environment = {**os.environ, "NCBOOK_RUNS": str(tmp_path / "runs")}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    try:
        until(lambda: len(list((tmp_path / "runs").glob("*/config.json"))) == 2)
        started = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(started) >= 2
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not any(running(pid) for pid in started), seconds=30)
