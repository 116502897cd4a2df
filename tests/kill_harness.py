"""Kills real training processes and compares what comes out in the end with an uninterrupted run.

    python tests/kill_harness.py FOLDER writes|moments|signals|data

Run by test_resilience.py in a process of its own: children are forked from it after everything is imported, with one
thread, so that a child costs a fraction of a second. Prints one line and exits with 1 if anything differs.
"""

import builtins
import io
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
from ncbook import _files, datasets  # noqa: E402
from ncbook.training import Trainer, fit, measuring  # noqa: E402

measuring.EPISODES = 20  # quick
FOLDER, MODE = Path(sys.argv[1]), sys.argv[2]
EXPERIMENT = ncbook.Experiment(
    n_source=4, n_novel=5, epochs=3, batch_size=16, measurements=3, precision="float32", learning_rate=0.05
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


def train(folder: Path) -> None:
    ncbook.train(EXPERIMENT, runs_dir=folder)


def result(folder: Path) -> dict[str, object]:
    """Everything that a seed determines, to the bit."""
    (directory,) = [path.parent for path in folder.glob("*/finished.json")]
    leftovers = [path.name for path in directory.iterdir() if path.name.startswith(("resume", "."))]
    assert not leftovers, leftovers
    found = {"history.csv": (directory / "history.csv").read_bytes()}
    for path in sorted(directory.glob("epoch-*.safetensors")):
        tensors = {name: tensor.numpy().tobytes() for name, tensor in _files.read_tensors(path).items()}
        found[path.name] = (_files.read_about(path), tensors)  # the file's header has no fixed order
    return found


def killed_at_write(folder: Path, number: int, before: bool) -> bool:
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
        train(folder)

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

            os.replace, os.unlink, io.open = deadly(os.replace), deadly(os.unlink), deadly(io.open)
            _cache.cached("strokes", "0" * 20, lambda: images)

        kills += (died := child(work) != 0)
        for _ in range(2):  # built again, then found
            again = _cache.cached("strokes", "0" * 20, lambda: images)
            assert again.fingerprint == images.fingerprint and torch.equal(again.labels, images.labels)
        if not died:
            return kills
        number += 1


def compare(folder: Path, what: str) -> None:
    found = result(folder)
    if found != EXPECTED:
        print(what, "differs in", [name for name in EXPECTED if found.get(name) != EXPECTED[name]])
        sys.exit(1)


datasets.load_for(EXPERIMENT)  # decoded once, for all children
train(FOLDER / "whole")
EXPECTED = result(FOLDER / "whole")
print(
    {"writes": writes, "moments": moments, "signals": signals, "data": data}[MODE](),
    "interruptions, always the same bytes",
)
