"""Whatever happens to the files of a run: right numbers or one sentence, and nothing deleted that is not ours.

A finished and an interrupted run are copied, one or two of their files are changed in some way, and then they are read,
listed, removed and trained again.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ncbook
from ncbook import datasets, runs
from ncbook.runs import layout
from ncbook.training import fit, measuring

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
REFUSALS = (ValueError, FileNotFoundError, runs.StorageError)  # DamagedFileError is a ValueError


class Killed(BaseException):
    pass


def pictures():
    """Images so small that a training takes a tenth of a second."""
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 1, 16, 16), dtype=torch.uint8, generator=drawn)
    labels = torch.arange(4).repeat_interleave(6)
    return datasets.ImageClasses("mine", images, labels, list("abcd"), torch.arange(24) % 6 >= 4)


class Trained:
    """Runs of two seeds, each finished and interrupted, with all that must come out of them again."""

    def __init__(self, folder: Path):
        self.images = pictures()
        experiment = ncbook.Experiment(
            dataset="folder", n_source=2, n_novel=2, epochs=2, batch_size=4, measurements=2, precision="float32"
        )
        self.experiments = [experiment, experiment.replace(seed=1)]
        self.sources = {"finished": [], "interrupted": []}
        for e in self.experiments:
            run = self.train(e, folder / "finished")
            for split in ("novel", "source_test"):
                run.features(split)
                run.features(split, 0)
            self.sources["finished"].append(run.directory)
            self.sources["interrupted"].append(self._interrupted(e, folder / "interrupted"))
        self.expected = {
            e: self.numbers(runs.Run(d)) for e, d in zip(self.experiments, self.sources["finished"], strict=True)
        }

    def train(self, experiment, folder):
        return ncbook.train(experiment, images=self.images, runs_dir=folder)

    def _interrupted(self, experiment, folder):
        advance = fit.Trainer.advance

        def until_killed(trainer):
            if (trainer.epoch, trainer.step) == (1, 1):
                raise Killed
            advance(trainer)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fit.Trainer, "advance", until_killed)
            patch.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
            with pytest.raises(Killed):
                self.train(experiment, folder)
        return runs.locate(experiment, folder, self.images)

    def numbers(self, run):
        """All numbers of a run, by what they are read with."""
        found = {"history": run.history}
        for epoch in run.saved_epochs:
            found[f"head {epoch}"] = run.head(epoch)
            found[f"model {epoch}"] = torch.cat(
                [value.flatten().double() for value in run.model(epoch).state_dict().values()]
            )
        return found

    def copy(self, state: str, folder: Path) -> Path:
        """A folder of runs with the first run in that state; its folder."""
        folder.mkdir()
        shutil.copy(self.sources[state][0].parent / layout.MARK, folder)
        (folder / "thesis").mkdir()
        (folder / "thesis" / "chapter.txt").write_text("mine")
        return Path(shutil.copytree(self.sources[state][0], folder / self.sources[state][0].name))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(measuring, "EPISODES", 2)
        yield Trained(tmp_path_factory.mktemp("trained"))


NAMES = [
    "config.json", "finished.json", "history.csv", "log.csv", "resume.safetensors", "resume-previous.safetensors",
    *(f"epoch-00000{epoch}.safetensors" for epoch in range(3)),
    *(f"features-{split}-00000{epoch}.safetensors" for split in ("novel", "source_test") for epoch in (0, 2)),
]  # fmt: skip
OTHERS = [
    "epoch-000002 (1).safetensors",
    "epoch-0000002.safetensors",
    "notes.txt",
    ".DS_Store",
    "epoch-٠٠٠٠٠٢.safetensors",
]
name = st.sampled_from(NAMES)
place = st.floats(0, 1, exclude_max=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
change = st.one_of(
    st.tuples(st.just("flip"), name, place, st.integers(0, 7)),
    st.tuples(st.just("truncate"), name, place),
    st.tuples(st.just("extend"), name, st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("overwrite"), name, st.binary(max_size=200)),
    st.tuples(st.just("delete"), name),
    st.tuples(st.just("folder"), name),
    st.tuples(st.just("full folder"), name),
    st.tuples(st.just("dead link"), name),
    st.tuples(st.just("link"), name),
    st.tuples(st.just("of the other run"), name, name),
    st.tuples(st.just("of the other state"), name, name),
    st.tuples(st.just("another file of the run"), st.sampled_from(NAMES + OTHERS), name),
    st.tuples(st.just("swap"), name, name),
    st.tuples(st.just("json"), st.sampled_from(["config.json", "finished.json"]), values),
    st.tuples(st.just("json value"), st.sampled_from(["config.json", "finished.json"]), place, values),
    st.tuples(st.just("deep json"), st.sampled_from(["config.json", "finished.json"]), st.sampled_from("[{")),
    st.tuples(st.just("stray"), st.sampled_from(OTHERS)),
    st.tuples(st.just("stray folder"), st.sampled_from([".ipynb_checkpoints", "plots"])),
    st.tuples(st.just("impostor"), st.just("")),
)
changes = st.lists(change, min_size=1, max_size=2)
states = st.sampled_from(["finished", "interrupted"])


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put(path: Path, content: bytes) -> None:
    """Write a file, in place of a link rather than through it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        path.write_bytes(content)


def apply(trained, directory, state, how, name, *how_much):
    """Change one file of a run; what is not there is left alone where there is nothing to change."""
    path, other = directory / name, "interrupted" if state == "finished" else "finished"
    content = path.read_bytes() if path.is_file() else b""
    match how, *how_much:
        case "flip", at, bit if content:
            position = int(at * len(content))
            flipped = bytes([content[position] ^ 1 << bit])
            put(path, content[:position] + flipped + content[position + 1 :])
        case "truncate", at if content:
            put(path, content[: int(at * len(content))])
        case "extend", more if path.is_file():
            put(path, content + more)
        case "overwrite", text if not path.is_dir():
            put(path, text)
        case "delete", *_:
            clear(path)
        case (("folder" | "full folder"), *_):
            clear(path)
            path.mkdir()
            if how == "full folder":
                (path / "mine.txt").write_text("mine")
        case "dead link", *_:
            clear(path)
            path.symlink_to(directory / "nowhere")
        case "link", *_ if path.is_file() and not path.is_symlink():
            target = directory.parent / "thesis" / name
            shutil.copy(path, target)
            clear(path)
            path.symlink_to(target)
        case (("of the other run" | "of the other state" | "another file of the run"), source):
            folders = {
                "of the other run": trained.sources[state][1],
                "of the other state": trained.sources[other][0],
                "another file of the run": directory,
            }
            source = folders[how] / source
            if source.is_file() and source != path and not path.is_dir():
                put(path, source.read_bytes())
        case "swap", second:
            second = directory / second
            if path.is_file() and second.is_file():
                put(path, second.read_bytes())
                put(second, content)
        case "json", value if not path.is_dir():
            put(path, (json.dumps(value)).encode())
        case "json value", at, value if not path.is_dir():
            try:
                whole = json.loads(content)
                whole[[*whole][int(at * len(whole))]] = value
                put(path, (json.dumps(whole, indent=1) + "\n").encode())
            except (ValueError, TypeError, IndexError, RecursionError):
                pass
        case "deep json", bracket if not path.is_dir():
            put(path, (bracket * 100_000).encode())
        case "stray", *_ if not path.exists():
            put(path, (b"mine"))
        case "stray folder", *_:
            path.mkdir(exist_ok=True)
        case "impostor", *_:
            shutil.rmtree(directory)
            shutil.copytree(trained.sources[state][1], directory)


def same(found, expected) -> bool:
    if isinstance(found, pd.DataFrame):
        return found.equals(expected)
    return torch.equal(found, expected)


def refused_in_one_sentence(error: Exception) -> None:
    assert str(error) and "\n" not in str(error), repr(error)


def everything(folder: Path) -> dict:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() and not p.is_symlink() else None
        for p in folder.rglob("*")
        if not p.name.endswith((".lock", ".holder"))
    }


@given(state=states, changes=changes)
def test_what_is_read_is_right_or_refused(trained, state, changes):
    with tempfile.TemporaryDirectory() as folder:
        directory = trained.copy(state, Path(folder) / "runs")
        for one in changes:
            apply(trained, directory, state, *one)
        try:
            run = runs.Run(directory, images=trained.images)
        except REFUSALS as error:
            return refused_in_one_sentence(error)
        expected = trained.expected[run.experiment]  # another run's, where all of it was copied
        for epoch in (0, 2):
            for part in ("head", "model"):
                try:
                    found = getattr(run, part)(epoch)
                    if part == "model":
                        found = torch.cat([value.flatten().double() for value in found.state_dict().values()])
                    assert same(found, expected[f"{part} {epoch}"])
                except REFUSALS as error:
                    refused_in_one_sentence(error)
        fresh = ncbook.Run(
            trained.sources["finished"][trained.experiments.index(run.experiment)], images=trained.images
        )
        for split in ("novel", "source_test"):
            try:
                found = run.features(split, 0)
                assert all(map(same, found, fresh.features(split, 0)))
            except REFUSALS as error:
                refused_in_one_sentence(error)
        try:
            history = run.history
        except REFUSALS as error:
            return refused_in_one_sentence(error)
        whole = expected["history"]
        last = 2 if run.finished else history["epoch"].max()
        assert same(history, whole[whole["epoch"] <= last]) or (history.empty and not run.finished)


@given(state=states, changes=changes)
def test_lists_and_removes_nothing_that_is_not_a_run(trained, state, changes):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "runs"
        directory = trained.copy(state, folder)
        for one in changes:
            apply(trained, directory, state, *one)
        before, table = everything(folder), runs.list(folder)
        assert table["directory"].tolist() == [str(directory)]
        assert table["state"].isin(["finished", "interrupted", "unreadable"]).all()
        assert repr(table) and "1 runs" in runs.disk_space(folder)
        mine = [p for p in directory.rglob("*") if not p.is_file() or p.is_symlink() or p.name in OTHERS]
        try:
            runs.remove(table)
            assert not mine and not directory.exists()
            kept = {name: content for name, content in before.items() if not name.startswith(directory.name)}
            assert everything(folder) == kept
        except REFUSALS as error:
            refused_in_one_sentence(error)
            assert mine and everything(folder) == before


@given(state=states, changes=changes)
def test_training_heals_to_the_same_bits_or_refuses(trained, state, changes):
    experiment = trained.experiments[0]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "runs"
        directory = trained.copy(state, folder)
        for one in changes:
            apply(trained, directory, state, *one)
        mine = {n: c for n, c in everything(folder).items() if Path(n).name in ("mine.txt", "chapter.txt", "notes.txt")}
        try:
            run = trained.train(experiment, folder)
        except REFUSALS as error:
            refused_in_one_sentence(error)
        else:
            assert run.directory == directory and run.finished
            found, expected = trained.numbers(run), trained.expected[experiment]
            assert found.keys() == expected.keys()
            assert all(same(found[key], expected[key]) for key in expected)
        kept = everything(folder).values()
        assert all(content in kept for content in mine.values()), "a file of the user's is gone"
