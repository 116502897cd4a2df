"""Kills real training processes and compares what comes out in the end with an uninterrupted run.

    python tests/kill_harness.py FOLDER writes|moments|signals|data|objectives

Run by test_resilience.py in a process of its own: children are forked from it after everything is imported, with one
thread, so that a child costs a fraction of a second. Prints one line and exits with 1 if anything differs.
"""

import builtins
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ["NCBOOK_PROGRESS"] = "off"

import torch

torch.set_num_threads(1)

import ncbook  # noqa: E402
from ncbook import _files, catalog, datasets  # noqa: E402
from ncbook.training import Trainer, fit, measuring  # noqa: E402

measuring.EPISODES = 20  # quick
FOLDER, MODE = Path(sys.argv[1]), sys.argv[2]
EXPERIMENT = ncbook.Experiment(
    backbone="conv4_small",
    n_source=4,
    n_novel=5,
    epochs=3,
    batch_size=16,
    measurements=3,
    precision="float32",
    learning_rate=0.05,
)


def child(work) -> int:
    """Run ``work`` in a forked process; its wait status."""
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitpid(process, 0)[1]


def train(folder: Path, experiment: ncbook.Experiment = EXPERIMENT) -> None:
    ncbook.train(experiment, runs_dir=folder)


def result(folder: Path) -> dict[str, object]:
    """Everything that a seed determines, to the bit; of a student and its teacher."""
    found = {}
    for directory in [path.parent for path in folder.glob("*/finished.json")]:
        leftovers = [path.name for path in directory.iterdir() if path.name.startswith(("resume", "."))]
        assert not leftovers, leftovers
        found[f"{directory.name}/history.csv"] = (directory / "history.csv").read_bytes()
        for path in directory.glob("epoch-*.safetensors"):
            tensors = {name: tensor.numpy().tobytes() for name, tensor in _files.read_tensors(path).items()}
            # the file's header has no fixed order
            found[f"{directory.name}/{path.name}"] = (_files.read_about(path), tensors)
    return found


def killed_at_write(folder: Path, number: int, before: bool, experiment: ncbook.Experiment = EXPERIMENT) -> bool:
    """Train with SIGKILL at the n-th call that changes the disk, before or after it; whether it came so far."""
    count = 0

    def deadly(call):
        def counted(*arguments, **options):
            nonlocal count
            count += 1
            if count == number and before:
                os.kill(os.getpid(), signal.SIGKILL)
            mine = count == number
            try:
                return call(*arguments, **options)
            finally:
                if mine:
                    os.kill(os.getpid(), signal.SIGKILL)

        return counted

    def work():
        os.replace, os.fsync, os.unlink, os.rename = map(deadly, (os.replace, os.fsync, os.unlink, os.rename))
        opened = builtins.open
        builtins.open = lambda file, mode="r", *a, **o: (deadly(opened) if set(mode) & set("wax+") else opened)(
            file, mode, *a, **o
        )
        _files.save_file = deadly(_files.save_file)
        fit.CHECKPOINT_SECONDS = 0.0  # after every step
        train(folder, experiment)

    return child(work) != 0


def writes() -> int:
    """SIGKILL at every call that changes the disk."""
    number, tried = 1, 0
    while True:
        folder = FOLDER / f"write-{number}"
        died = killed_at_write(folder, number, before=number % 2 == 0)
        train(folder)
        compare(folder, f"killed at call {number}")
        tried += died
        if not died:
            return tried
        number += 1 if number < 30 else 11  # the pattern repeats: every step writes the same files


def moments() -> int:
    """SIGKILL at random times, again and again, until it ends."""
    chance, kills = random.Random(0), 0
    for trial in range(4):
        folder = FOLDER / f"moment-{trial}"
        for attempt in range(200):
            process = os.fork()
            if process == 0:
                fit.CHECKPOINT_SECONDS = 0.0
                train(folder)
                os._exit(0)
            time.sleep(chance.uniform(0.0, 0.05 + 0.02 * attempt))
            os.kill(process, signal.SIGKILL)
            if os.waitpid(process, 0)[1] == 0:
                break
            kills += 1
        train(folder)
        compare(folder, f"trial {trial}")
    return kills


def signals() -> int:
    """SIGTERM after each step: the process ends by it, with a checkpoint of just that step."""
    step, seen = Trainer._update, 0
    for number in range(1, 13, 2):
        folder = FOLDER / f"signal-{number}"
        count = 0

        def counted(self, *arguments, number=number):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, *arguments)

        def work(counted=counted, folder=folder):
            Trainer._update = counted
            train(folder)

        status = child(work)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status
        (resume,) = folder.glob("*/resume.safetensors")
        about = _files.read_about(resume)
        assert about["epoch"] * 4 + about["step"] == number, about  # 60 samples in batches of 16: 4 steps an epoch
        train(folder)
        compare(folder, f"terminated at step {number}")
        seen += 1
    return seen


def data() -> int:
    """SIGKILL at every call that changes the disk while a data set is decoded and stored."""
    from ncbook.datasets import _cache

    images = datasets.load_for(EXPERIMENT)
    number, kills = 1, 0
    while True:
        os.environ["NCBOOK_CACHE"] = str(FOLDER / f"data-{number}")

        def work(number=number):
            count = 0

            def deadly(call):
                def counted(*arguments, **options):
                    nonlocal count
                    count += 1
                    if count == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return call(*arguments, **options)

                return counted

            os.replace, os.fsync, os.unlink, os.chmod = map(deadly, (os.replace, os.fsync, os.unlink, os.chmod))
            _files.save_file = deadly(_files.save_file)
            _cache.cached("strokes", "0" * 20, lambda: images)

        kills += (died := child(work) != 0)
        for _ in range(2):  # built again, then found
            again = _cache.cached("strokes", "0" * 20, lambda: images)
            assert again.fingerprint == images.fingerprint and torch.equal(again.labels, images.labels)
        if not died:
            return kills
        number += 1


def small(objective: str) -> ncbook.Experiment:
    """Three steps in each of two epochs, on batches of rows or on episodes."""
    own = catalog.OBJECTIVES[objective][1]
    if "batch_size" in own:
        size = {"batch_size": 20}
    else:
        size = {"train_way": 3, "train_shot": 2, "train_query": 2, "episodes_per_epoch": 3}
    if "tasks_per_step" in own:
        size |= {"tasks_per_step": 2, "episodes_per_epoch": 6}
    changed = {"backbone": "conv4_small", "epochs": 2, "measurements": 2, "learning_rate": 0.01, "batch_size": None}
    return EXPERIMENT.replace(objective=objective, **changed | size)


def every_objective() -> int:
    """SIGKILL at some of the calls that change the disk, again while it goes on; of a student, first in its teacher."""
    kills = 0
    for objective in catalog.OBJECTIVES:
        experiment = small(objective)
        train(FOLDER / objective, experiment)
        expected = result(FOLDER / objective)
        assert len({name.partition("/")[0] for name in expected}) == (2 if experiment.teacher else 1)
        folder = FOLDER / f"{objective}-killed"
        for number in (45, 23, 12, *((60, 40) if experiment.teacher else ())):
            died = killed_at_write(folder, number, number % 2 == 0, experiment)
            assert died, f"{objective} finished before call {number}"
            kills += died
        train(folder, experiment)
        compare(folder, f"{objective}, killed again and again", expected)
    return kills


def compare(folder: Path, what: str, expected: dict | None = None) -> None:
    found, expected = result(folder), EXPECTED if expected is None else expected
    if found != expected:
        print(what, "differs in", [name for name in expected | found if found.get(name) != expected.get(name)])
        sys.exit(1)


datasets.load_for(EXPERIMENT)  # decoded once, for all children
train(FOLDER / "whole")
EXPECTED = result(FOLDER / "whole")
print(
    {"writes": writes, "moments": moments, "signals": signals, "data": data, "objectives": every_objective}[MODE](),
    "interruptions, always the same bytes",
)
