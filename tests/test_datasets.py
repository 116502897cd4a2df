"""Data sets by name, splits of classes, the cache, and Omniglot in all the shapes it comes in."""

import io
import os
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import ncbook
from ncbook import catalog, datasets
from ncbook.datasets import _cache, omniglot
from ncbook.datasets._lists import KINDS

DATA = os.environ.get("NCBOOK_DATA")
needs_omniglot = pytest.mark.skipif(
    not DATA or not (Path(DATA) / "omniglot/omniglot-py/images_background.zip").is_file(),
    reason="NCBOOK_DATA does not point to a folder with omniglot/omniglot-py/images_background.zip",
)
SMALL = {"images_background": range(1, 3), "images_evaluation": range(3, 6)}
SMALL_CLASSES = {1: "Zeta/character01", 2: "Alpha/character02", 3: "Beta/character10"}
SMALL_CLASSES |= {4: "Beta/character02", 5: "Mu/character01"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NCBOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets"


@pytest.fixture(scope="module")
def folder_of_omniglot(tmp_path_factory):
    return tmp_path_factory.mktemp("omniglot")


@pytest.fixture
def decoded_once(cache, folder_of_omniglot, monkeypatch):
    """Tests of the whole of Omniglot decode its 32,460 drawings once."""
    monkeypatch.setenv("NCBOOK_CACHE", str(folder_of_omniglot))


def fake(n_classes=40, per_class=4, official=None):
    """Images whose pixels tell their class and sample."""
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    samples = torch.arange(per_class).repeat(n_classes)
    images = torch.stack([labels, samples], 1).to(torch.uint8).view(-1, 1, 1, 2)
    names = [f"class {i}" for i in range(n_classes)]
    return datasets.ImageClasses("fake", images, labels, names, samples >= per_class - 1, official)


def same(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.class_names == b.class_names


# --- names and options ---


def test_importing_the_room_imports_no_torch():
    code = "import sys, ncbook.datasets as d; assert d.load and d.split_for; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(
        ValueError, match="name='omniglott' is unknown; did you mean 'omniglot'. allowed: strokes, omni"
    ):
        datasets.load("omniglott")
    with pytest.raises(ValueError, match="name=3 is unknown; allowed: strokes"):
        datasets.load(3)


@pytest.mark.parametrize("name", ["cifar100", "CIFAR-100"])
def test_cifar100_leads_to_its_two_splits(name):
    with pytest.raises(ValueError, match=f"name='{name}' is unknown; allowed: 'cifar_fs' and 'fc100', which"):
        datasets.load(name)
    with pytest.raises(ncbook.ParameterError, match="dataset=.* is unknown; allowed: 'cifar_fs' and 'fc100'"):
        ncbook.Experiment(dataset=name)


def test_the_room_shows_its_public_names_and_no_others():
    datasets.load("strokes", n_classes=2)  # imports modules into the room
    assert dir(datasets) == sorted(datasets.__all__)


def test_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(
        ValueError, match="option 'n_clases' .*'strokes' is unknown; did you mean 'n_classes'. allowed: n_cl"
    ):
        datasets.load("strokes", n_clases=4)


def test_images_that_do_not_fit_together_are_refused():
    good = fake()
    for change, message in [
        ({"images": good.images.float()}, "images is torch.float32 .*; allowed: torch.uint8 .160, C, H, W"),
        ({"images": good.images[1:]}, "one image per label"),
        ({"labels": good.labels.int()}, "labels is torch.int32 .*; allowed: torch.int64"),
        ({"labels": good.labels.flip(0)}, "in ascending order"),
        ({"labels": good.labels + 1}, "at most 39"),
        ({"held_out": good.labels}, "held_out is torch.int64 .*; allowed: torch.bool"),
        ({"class_names": ["a"] * 40}, "class_names has 'a' more than once; allowed: names that are all different"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(good, **change)


def test_fingerprint_sees_all_that_a_run_depends_on():
    good = fake()
    pixels = good.images.clone()
    pixels[3, 0, 0, 1] += 1
    labels = good.labels.clone()
    labels[4] = 0
    others = [{"images": pixels}, {"labels": labels}, {"images": good.images.view(-1, 1, 2, 1)}]
    others += [{"held_out": ~good.held_out}, {"official": {"source": [0], "validation": [], "novel": [1]}}]
    others += [{"class_names": ["my " + name for name in good.class_names]}]  # by which classes are split
    prints = [good.fingerprint, *(replace(good, **other).fingerprint for other in others)]
    assert len(set(prints)) == 7
    assert fake().fingerprint == good.fingerprint and len(good.fingerprint) == 64


# --- split ---


def test_split_is_disjoint_and_keeps_samples_apart():
    images = fake()
    parts = datasets.split(images, n_source=10, n_novel=5)
    assert parts.source_train.class_names == parts.source_test.class_names
    kinds = [set(part.class_names) for part in (parts.source_train, parts.novel, parts.validation)]
    assert [len(kind) for kind in kinds] == [10, 5, 20]
    assert len(set.union(*kinds)) == 35
    assert len(parts.source_train.labels) == 30 and len(parts.source_test.labels) == 10
    assert (parts.source_train.images[..., 1] < 3).all() and (parts.source_test.images[..., 1] == 3).all()
    assert len(parts.novel.labels) == 20 and len(parts.validation.labels) == 80
    for part in (parts.source_train, parts.source_test, parts.novel, parts.validation):
        assert part.labels.unique().tolist() == list(range(len(part.class_names)))
        of_label = [images.class_names.index(name) for name in part.class_names]
        assert part.images[:, 0, 0, 0].tolist() == [of_label[label] for label in part.labels.tolist()]


def test_source_sets_are_nested_and_novel_classes_do_not_depend_on_them():
    images = fake()
    small, large = (datasets.split(images, n_source=n, n_novel=7) for n in (4, 19))
    assert small.source_train.class_names == large.source_train.class_names[:4]
    assert torch.equal(small.source_train.images, large.source_train.images[: len(small.source_train.images)])
    assert same(small.novel, large.novel)
    fewer = datasets.split(images, n_source=19, n_novel=3)
    assert fewer.novel.class_names == large.novel.class_names[:3]
    assert same(fewer.source_train, large.source_train)


def test_validation_is_what_is_left():
    images = fake()
    assert len(datasets.split(images, n_source=30, n_novel=7).validation.class_names) == 3
    empty = datasets.split(images, n_source=33, n_novel=7).validation
    assert empty.images.shape == (0, 1, 1, 2) and empty.labels.dtype == torch.int64 and empty.class_names == []


def test_class_seed_chooses_the_classes_the_same_way_everywhere():
    images = fake()
    assert same(*(datasets.split(images, n_source=5, n_novel=5, class_seed=3).novel for _ in range(2)))
    chosen = {tuple(datasets.split(images, n_source=5, n_novel=5, class_seed=s).novel.class_names) for s in range(9)}
    assert len(chosen) == 9
    parts = datasets.split(images, n_source=3, n_novel=3)
    assert parts.novel.class_names == ["class 38", "class 29", "class 21"]
    assert parts.source_train.class_names == ["class 5", "class 13", "class 26"]


def test_official_lists_are_used():
    official = {"source": list(range(20)), "validation": [20, 21, 22], "novel": list(range(25, 40))}
    images = fake(official=official)
    parts = datasets.split(images, n_source=20, n_novel=15)
    names = {kind: {images.class_names[c] for c in classes} for kind, classes in official.items()}
    assert set(parts.source_train.class_names) == names["source"]
    assert set(parts.validation.class_names) == names["validation"]
    assert set(parts.novel.class_names) == names["novel"]
    message = "n_source=21, n_novel=15 and n_validation=None .* 20 official source, 15 official novel, 3 official val"
    with pytest.raises(ValueError, match=message):
        datasets.split(images, n_source=21, n_novel=15)
    with pytest.raises(ValueError, match=r"n_novel=16.* \(n_novel at most 15\)$"):
        datasets.split(images, n_source=5, n_novel=16)


@pytest.mark.parametrize(
    ("numbers", "error", "message"),
    [
        (
            {"n_source": 30, "n_novel": 11},
            ValueError,
            "n_source=30, n_novel=11 and .*has 40 .*n_novel at most 10",
        ),
        ({"n_source": 1, "n_novel": 5}, ValueError, "n_source=1; allowed: a whole number of at least 2"),
        ({"n_source": 5, "n_novel": -1}, ValueError, "n_novel=-1; allowed: a whole number of at least 0"),
        ({"n_source": 5.0, "n_novel": 5}, TypeError, "n_source=5.0 is of type float; allowed: a whole number"),
        ({"n_source": 5, "n_novel": "5"}, TypeError, "n_novel='5' is of type str"),
        ({"n_source": True, "n_novel": 5}, TypeError, "n_source=True is of type bool"),
        ({"n_source": 5, "n_novel": 1}, ValueError, "n_novel=1; allowed: 0, or at least 2"),
        ({"n_source": 5, "n_novel": 5, "n_validation": -1}, ValueError, "n_validation=-1; allowed: a whole"),
        ({"n_source": 5, "n_novel": 5, "n_validation": 31}, ValueError, "n_novel=5 and n_validation=31 .*has 40 "),
        ({"n_source": 41}, ValueError, "n_source=41, n_novel=None and n_validation=None .*has 40 classes"),
        ({"n_source": 31, "n_validation": 10}, ValueError, "n_source=31, n_novel=None and n_validation=10 "),
        (
            {"n_source": 5, "n_novel": 5, "class_seed": 0.5},
            TypeError,
            "class_seed=0.5 is of type float; allowed: a whole number",
        ),
    ],
)
def test_wrong_numbers_are_refused(numbers, error, message):
    with pytest.raises(error, match=message):
        datasets.split(fake(), **numbers)


def test_numpy_integers_are_integers():
    few = datasets.split(fake(), n_source=np.int64(4), n_novel=np.int32(3), class_seed=np.int64(1))
    assert same(few.novel, datasets.split(fake(), n_source=4, n_novel=3, class_seed=1).novel)
    many = fake(n_classes=300, per_class=1)  # 200 + 100 does not fit into eight bits
    assert len(datasets.split(many, n_source=np.uint8(200), n_novel=np.uint8(100)).novel.labels) == 100


def test_as_many_novel_and_validation_classes_as_there_are():
    def sizes(images, **numbers):
        parts = datasets.split(images, **numbers)
        return len(parts.novel.class_names), len(parts.validation.class_names)

    images, many = fake(), fake(n_classes=200, per_class=2)
    assert sizes(images, n_source=10) == (30, 0)
    assert sizes(images, n_source=39) == (0, 1)  # one novel class would be too few
    assert sizes(images, n_source=40) == (0, 0)
    assert sizes(many, n_source=10) == (100, 20)
    assert sizes(many, n_source=90) == (100, 10)
    assert sizes(images, n_source=10, n_novel=0) == (0, 20)
    assert sizes(images, n_source=10, n_novel=0, n_validation=30) == (0, 30)
    assert sizes(images, n_source=10, n_novel=6, n_validation=0) == (6, 0)
    assert sizes(images, n_source=10, n_validation=7) == (23, 7)
    official = {"source": list(range(20)), "validation": [20, 21, 22], "novel": list(range(25, 40))}
    listed = fake(official=official)
    assert sizes(listed, n_source=20) == (15, 3)
    assert sizes(listed, n_source=20, n_validation=2) == (15, 2)
    with pytest.raises(ValueError, match="n_validation=4 .* 3 official validation"):
        datasets.split(listed, n_source=20, n_validation=4)


def test_validation_classes_follow_the_novel_ones():
    images = fake()
    names = datasets.split(images, n_source=5, n_novel=30).novel.class_names
    parts = datasets.split(images, n_source=5, n_novel=8, n_validation=22)
    assert parts.novel.class_names == names[:8] and parts.validation.class_names == names[8:]
    assert same(parts.validation, datasets.split(images, n_source=10, n_novel=8, n_validation=22).validation)


def with_samples(*kept_and_held_out):
    """Images with these numbers of samples to train on and held-out samples per class."""
    rows = [(k, i >= a) for k, (a, b) in enumerate(kept_and_held_out) for i in range(a + b)]
    labels, held_out = torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])
    images = torch.zeros(len(rows), 1, 1, 1, dtype=torch.uint8)
    return datasets.ImageClasses("few", images, labels, [f"c{k}" for k in range(len(kept_and_held_out))], held_out)


def test_samples_per_class_are_the_first_ones_and_touch_nothing_else():
    images = fake(per_class=9)
    held_out = torch.arange(9).repeat(40) % 3 == 1  # here and there
    images = replace(images, held_out=held_out)
    whole = datasets.split(images, n_source=6, n_novel=8, class_seed=3)
    kept = [sample for sample in range(9) if sample % 3 != 1]
    for m in (2, 4, 6):
        parts = datasets.split(images, n_source=6, n_novel=8, class_seed=3, samples_per_class=m)
        assert parts.source_train.class_names == whole.source_train.class_names
        assert parts.source_train.images[:, 0, 0, 1].view(6, m).tolist() == [kept[:m]] * 6
        assert parts.source_train.labels.tolist() == sorted([*range(6)] * m)
        for kind in ("source_test", "novel", "validation"):
            assert same(getattr(parts, kind), getattr(whole, kind))
    assert same(parts.source_train, whole.source_train)  # six are all
    few = an_experiment(class_seed=3, samples_per_class=2)
    smallest = datasets.split(images, n_source=6, n_novel=8, class_seed=3, samples_per_class=2)
    assert same(datasets.split_for(few, images).source_train, smallest.source_train)


def test_samples_per_class_of_uneven_classes():
    images = with_samples((3, 2), (5, 1), (4, 0))
    parts = datasets.split(images, n_source=3, samples_per_class=3)
    assert parts.source_train.labels.bincount().tolist() == [3, 3, 3]
    with pytest.raises(ValueError) as error:
        datasets.split(images, n_source=3, samples_per_class=4)
    message = "samples_per_class=4; allowed: at most 3, since the source class 'c0' has 3 that are not held out"
    assert str(error.value) == message
    n_of_c0 = datasets.split(images, n_source=3).source_train.class_names.index("c0")
    if n_of_c0 == 2:  # the last one taken: two source classes do without it
        assert datasets.split(images, n_source=2, samples_per_class=4).source_train.labels.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("number", [1, 0, -2])
def test_one_sample_per_class_is_refused(number):
    with pytest.raises(ValueError, match=f"^samples_per_class={number}; allowed: a whole number of at least 2$"):
        datasets.split(fake(), n_source=3, samples_per_class=number)


def test_check_names_the_class_with_too_few_samples():
    datasets.split(with_samples((2, 2), (3, 2)), n_source=2).check()
    datasets.split(with_samples((2, 0), (3, 0)), n_source=2).check()  # nothing is held out: nothing to measure
    for samples, message in [
        (
            [(1, 2), (3, 2)],
            "^source_train: the class 'c0' has 1 sample; allowed: at least 2 samples per class, because",
        ),
        ([(2, 2), (3, 1)], "^source_test: the class 'c1' has 1 sample; .* at least 4 per source class if samples are"),
        ([(2, 2), (3, 0)], "^source_test: the class 'c1' has 0 samples;"),
        ([(0, 2), (0, 2)], r"^source_train: the class 'c.' has 0 samples \(2 classes have fewer than 2\);"),
    ]:
        with pytest.raises(ValueError, match=message):
            datasets.split(with_samples(*samples), n_source=2).check()
    parts = datasets.split(fake(per_class=8), n_source=4, n_novel=5)
    one = datasets.Subset(parts.novel.images[:9], parts.novel.labels[:9], parts.novel.class_names[:2])
    with pytest.raises(ValueError, match="^novel: the class 'class .*' has 1 sample;"):
        replace(parts, novel=one, source_test=parts.source_train).check()


# --- of an experiment ---


def an_experiment(**changes):
    usual = {"dataset": "strokes", "n_source": 6, "n_novel": 8, "class_seed": 0}
    return SimpleNamespace(**dict.fromkeys(("protocol", "n_validation", "samples_per_class")) | usual | changes)


@pytest.fixture
def loaded(monkeypatch):
    """What `load` was called with; it gives 2,048 classes of two samples."""
    calls, images = [], fake(n_classes=2048, per_class=2)
    monkeypatch.setattr(datasets, "load", lambda *args, **options: calls.append((*args, options)) or images)
    datasets._load_once.cache_clear()
    yield calls
    datasets._load_once.cache_clear()


def test_generated_data_sets_hold_all_classes_of_an_experiment(loaded, monkeypatch):
    monkeypatch.delenv("NCBOOK_DATA", raising=False)
    for numbers, n_classes in [
        ({}, 1024),
        ({"n_source": 904, "n_novel": 100}, 1024),
        ({"n_source": 905, "n_novel": 100}, 2048),
        ({"n_source": 905, "n_novel": None}, 2048),
        ({"n_source": 2000, "n_novel": 100}, 3072),
        ({"n_source": 1004, "n_novel": 0}, 1024),
        ({"n_source": 904, "n_novel": 100, "n_validation": 21}, 2048),
        ({"n_source": 904, "n_novel": 100, "n_validation": 0}, 1024),
    ]:
        datasets._load_once.cache_clear()
        datasets.load_for(an_experiment(**numbers))
        assert loaded.pop() == ("strokes", None, {"n_classes": n_classes})


def test_the_images_of_an_experiment_are_kept_in_memory(loaded, monkeypatch):
    monkeypatch.setenv("NCBOOK_DATA", "somewhere")
    plain, turned = an_experiment(dataset="omniglot"), an_experiment(dataset="omniglot", protocol="vinyals")
    for experiment in (plain, turned, plain, turned, an_experiment(dataset="omniglot", protocol=None, seed=3)):
        datasets.load_for(experiment)
    assert loaded == [("omniglot", "somewhere", {}), ("omniglot", "somewhere", {"protocol": "vinyals"})]
    monkeypatch.setenv("NCBOOK_DATA", "elsewhere")
    datasets.load_for(plain)
    assert len(loaded) == 3
    with pytest.raises(ValueError, match="dataset='omniglott' is unknown"):
        datasets.load_for(an_experiment(dataset="omniglott"))


def test_split_of_an_experiment(loaded):
    images = fake(n_classes=2048, per_class=2)
    parts = datasets.split_for(an_experiment(class_seed=2, n_validation=5))
    expected = datasets.split(images, n_source=6, n_novel=8, class_seed=2, n_validation=5)
    for kind in catalog.SPLITS:
        assert same(getattr(parts, kind), getattr(expected, kind))
    assert len(datasets.split_for(an_experiment()).validation.class_names) == 20
    assert len(datasets.split_for(an_experiment(n_novel=None)).novel.class_names) == 100
    loaded.clear()
    own = datasets.split_for(an_experiment(), fake())
    assert same(own.novel, datasets.split(fake(), n_source=6, n_novel=8).novel) and not loaded
    with pytest.raises(ValueError, match="n_source=2500, .* more classes than .*the data set 'strokes' .*has 2048"):
        datasets.split_for(an_experiment(n_source=2500))
    with pytest.raises(ValueError, match="the data set 'fake' has 40 classes"):
        datasets.split_for(an_experiment(n_source=33), fake())


# --- cache ---


def build_counted(calls, official=None):
    def build():
        calls.append(1)
        return fake(official=official)

    return build


def test_cache_gives_the_same_back_and_builds_once(cache):
    calls, official = [], {"source": [1], "validation": [2], "novel": [3]}
    first, second = (_cache.cached("fake", "ab", build_counted(calls, official)) for _ in range(2))
    assert len(calls) == 1 and same(first, second)
    assert torch.equal(first.held_out, second.held_out) and second.official == official
    second.images[0] = 9  # its own memory, writable
    assert [path.name for path in cache.iterdir()] == ["fake-ab.safetensors"]


def damage_by_cutting(content):
    return content[: len(content) // 2]


def damage_by_emptying(content):
    return b""


def damage_by_a_pixel(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("memory", ["", "1e-9"])  # as it is; so little that the file is mapped
@pytest.mark.parametrize("damage", [damage_by_cutting, damage_by_emptying, damage_by_a_pixel])
def test_damaged_cache_is_rebuilt(cache, damage, memory, monkeypatch):
    monkeypatch.setenv("NCBOOK_MEMORY_GB", memory)
    calls = []
    good = _cache.cached("fake", "ab", build_counted(calls))
    path = cache / "fake-ab.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="fake-ab.safetensors is damaged and is rebuilt"):
        again = _cache.cached("fake", "ab", build_counted(calls))
    assert len(calls) == 2 and same(good, again)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _cache.cached("fake", "ab", build_counted(calls))
    assert len(calls) == 2


def test_cache_folder_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NCBOOK_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="'fake' cannot be cached"):
        assert same(_cache.cached("fake", "ab", fake), fake())


def test_writing_that_fails_leaves_nothing_behind(cache, monkeypatch):
    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(UserWarning, match="disk full"):
        _cache.cached("fake", "ab", fake)
    assert list(cache.iterdir()) == []


def test_what_killed_processes_left_in_the_cache_is_removed_an_hour_later(cache):
    cache.mkdir(parents=True)
    for name in ("tmpab12cd34.tmp", ".tmpgRh5sX", ".fake-ab.safetensors.1234"):  # of pixels, safetensors' own, ours
        (cache / name).touch()
        os.utime(cache / name, (0, 0))
    (cache / ".fake-ab.safetensors.5678").touch()  # perhaps still being written
    _cache.cached("fake", "ab", fake)
    assert {path.name for path in cache.iterdir()} == {".fake-ab.safetensors.5678", "fake-ab.safetensors"}


# --- Omniglot, five characters of two drawings ---


def drawing(number, drawer):
    """A character of two bars; the drawer moves one of them."""
    ink = np.zeros((105, 105), bool)
    ink[10 + number :: 40, 5:100] = True
    ink[:, 20 + 9 * drawer : 26 + 9 * drawer] = True
    file = io.BytesIO()
    Image.fromarray(~ink).save(file, "PNG")
    return file.getvalue()


def small_files():
    return {
        f"{part}/{SMALL_CLASSES[number]}/{number:04d}_{drawer:02d}.png": drawing(number, drawer)
        for part, numbers in SMALL.items()
        for number in numbers
        for drawer in (2, 1)
    }


def put(folder, files, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for part in SMALL:
        mine = {name: content for name, content in files.items() if name.startswith(part)}
        if packed:
            with warnings.catch_warnings(), zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
                archive.writestr(f"{part}/", "")
                for name, content in mine.items():
                    archive.writestr(name, content)
                archive.writestr(f"__MACOSX/{part}/._0001_01.png", "no picture")
        else:
            for name, content in mine.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)


@pytest.fixture
def small(monkeypatch):
    for name, value in {"PARTS": SMALL, "DRAWINGS": 2, "HELD_OUT": 1}.items():
        monkeypatch.setattr(omniglot, name, value)


@pytest.mark.parametrize("layout", ["omniglot/omniglot-py", "omniglot-py"])
@pytest.mark.parametrize("packed", [True, False])
def test_omniglot_is_the_same_in_every_layout(tmp_path, small, layout, packed):
    put(tmp_path / layout, small_files(), packed)
    images = datasets.load("omniglot", tmp_path)
    assert images.class_names == sorted(SMALL_CLASSES.values())
    assert images.images.shape == (10, 1, 28, 28)
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert images.held_out.tolist() == [False, True] * 5
    number = {name: n for n, name in SMALL_CLASSES.items()}
    for row, label in enumerate(images.labels.tolist()):
        paper = np.asarray(Image.open(io.BytesIO(drawing(number[images.class_names[label]], row % 2 + 1))))
        ink = np.kron(~paper, np.ones((4, 4))).reshape(28, 15, 28, 15).mean((1, 3))
        assert np.array_equal(images.images[row, 0].numpy(), np.rint(255 * ink))


def test_omniglot_as_torchvision_leaves_it(tmp_path, small):
    folder = tmp_path / "omniglot-py"
    put(folder, small_files(), packed=True)
    put(folder, small_files(), packed=False)
    both = datasets.load("omniglot", tmp_path)
    (folder / "images_evaluation.zip").unlink()
    assert same(both, datasets.load("omniglot", tmp_path))


def test_omniglot_gray_pictures_are_read_like_one_bit_ones(tmp_path, small):
    files = small_files()
    put(tmp_path / "a" / "omniglot-py", files)
    for name, content in files.items():
        file = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("L").save(file, "PNG")
        files[name] = file.getvalue()
    put(tmp_path / "b" / "omniglot-py", files)
    assert same(datasets.load("omniglot", tmp_path / "a"), datasets.load("omniglot", tmp_path / "b"))


def test_omniglot_is_found_by_the_environment_variable(tmp_path, small, monkeypatch):
    put(tmp_path / "omniglot-py", small_files())
    monkeypatch.setenv("NCBOOK_DATA", str(tmp_path))
    assert len(datasets.load("omniglot").class_names) == 5


def test_omniglot_is_decoded_once_and_again_when_the_files_change(tmp_path, small, cache, monkeypatch):
    files = small_files()
    put(tmp_path / "omniglot-py", files)
    first = datasets.load("omniglot", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(omniglot, "_build", lambda *_: pytest.fail("decoded again"))
        assert same(first, datasets.load("omniglot", tmp_path))
    name = "images_background/Zeta/character01/0001_01.png"
    put(tmp_path / "omniglot-py", files | {name: drawing(9, 9)})
    assert not same(first, datasets.load("omniglot", tmp_path))
    assert len(list(cache.iterdir())) == 2


FIRST = "images_background/Zeta/character01/0001_01.png"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {FIRST: None},
            "images_background.*the class Zeta/character01 must have 2 drawings: drawing 01 is missing",
        ),
        (
            {FIRST.replace("_01", "_03"): b""},
            "Zeta/character01 must have 2 drawings: drawing 03 is one too many",
        ),
        ({FIRST: None, FIRST.replace("_01", "_02"): None}, "1 of 2 classes are missing: number 0001"),
        (
            {"images_background/Zeta/character09/0009_01.png": b""},
            "class Zeta/character09 is one too many: .*0009",
        ),
        (
            {"images_background/Zeta/character09/0001_01.png": b""},
            "character01 and Zeta/character09 have one number",
        ),
        ({"images_background/0001_01.png": b""}, "images_background/0001_01.png is not named"),
        ({"images_background/Zeta/character01/one.png": b""}, "one.png is not named"),
        ({FIRST: b"no picture"}, f"{FIRST} cannot be read"),
        ({FIRST: drawing(1, 1)[:90]}, f"{FIRST} cannot be read"),
    ],
)
def test_omniglot_that_is_not_whole_is_refused(tmp_path, small, packed, change, message):
    files = {name: content for name, content in (small_files() | change).items() if content is not None}
    put(tmp_path / "omniglot-py", files, packed)
    with pytest.raises(ValueError, match=message):
        datasets.load("omniglot", tmp_path)


def test_omniglot_picture_of_another_size_is_refused(tmp_path, small):
    file = io.BytesIO()
    Image.new("1", (28, 105)).save(file, "PNG")
    put(tmp_path / "omniglot-py", small_files() | {FIRST: file.getvalue()})
    with pytest.raises(ValueError, match=r"0001_01.png cannot be read: its size is \(28, 105\)"):
        datasets.load("omniglot", tmp_path)


def test_omniglot_drawing_twice_in_a_zip_is_refused(tmp_path, small):
    put(tmp_path / "omniglot-py", small_files())
    path = tmp_path / "omniglot-py/images_background.zip"
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(FIRST, drawing(1, 1))
    with pytest.raises(ValueError, match="images_background.zip holds '.*/0001_01.png' more than once; allowed"):
        datasets.load("omniglot", tmp_path)


def test_omniglot_on_transparent_paper_is_read_like_on_white(tmp_path, small):
    files = small_files()
    put(tmp_path / "a" / "omniglot-py", files)
    for name, content in files.items():
        file, paper = io.BytesIO(), Image.open(io.BytesIO(content)).convert("L")
        Image.merge("LA", [Image.new("L", paper.size), paper.point(lambda v: 255 - v)]).save(file, "PNG")
        files[name] = file.getvalue()
    put(tmp_path / "b" / "omniglot-py", files)
    assert same(datasets.load("omniglot", tmp_path / "a"), datasets.load("omniglot", tmp_path / "b"))


def test_omniglot_class_in_both_parts_is_refused(tmp_path, small):
    files = {name.replace("Beta/character10", "Zeta/character01"): c for name, c in small_files().items()}
    put(tmp_path / "omniglot-py", files)
    with pytest.raises(ValueError, match="Zeta/character01 is in another part"):
        datasets.load("omniglot", tmp_path)


def test_omniglot_damaged_zip_is_named(tmp_path, small):
    put(tmp_path / "omniglot-py", small_files())
    path = tmp_path / "omniglot-py/images_evaluation.zip"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="images_evaluation.zip is not a readable zip"):
        datasets.load("omniglot", tmp_path)
    path.write_bytes(content[:100] + bytes(40) + content[140:])
    with pytest.raises(ValueError, match="images_evaluation.zip: .*_0.*png cannot be read"):
        datasets.load("omniglot", tmp_path)


def test_omniglot_that_is_not_there_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "_download", lambda folder: pytest.fail("tried to download"))
    message = (
        "no download was tried.*images_background.zip and images_evaluation.zip.*omniglot/omniglot-py"
        ".*put them into one of these folders.*NCBOOK_DATA"
    )
    with pytest.raises(FileNotFoundError, match=message):
        datasets.load("omniglot", tmp_path)
    monkeypatch.setenv("NCBOOK_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        datasets.load("omniglot")
    monkeypatch.delenv("NCBOOK_DATA")
    with pytest.raises(FileNotFoundError, match="no download was tried"):
        datasets.load("omniglot", download=False)


def test_omniglot_is_downloaded_only_when_no_folder_was_named(tmp_path, small, monkeypatch):
    looked_in = []

    def download(folder):
        looked_in.append(folder)
        put(folder, small_files())
        return "downloaded"

    monkeypatch.setattr(omniglot, "_download", download)
    monkeypatch.delenv("NCBOOK_DATA", raising=False)
    assert len(datasets.load("omniglot").class_names) == 5
    datasets.load("omniglot")
    assert looked_in == [tmp_path / "cache" / "data" / "omniglot-py"]
    assert len(datasets.load("omniglot", tmp_path / "mine", download=True).class_names) == 5


def test_omniglot_download_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "URL", "http://127.0.0.1:9/nothing")
    with pytest.raises(FileNotFoundError, match="the download from .* failed: .*put them into"):
        datasets.load("omniglot", tmp_path, download=True)


@needs_omniglot
def test_omniglot_is_whole(decoded_once):
    images = datasets.load("omniglot", DATA)
    assert images.images.shape == (32460, 1, 28, 28)
    assert len(images.class_names) == 1623 and images.class_names == sorted(images.class_names)
    assert images.labels.bincount().tolist() == [20] * 1623
    assert images.held_out.view(-1, 20).sum(1).tolist() == [5] * 1623 and images.held_out[15:20].all()
    lists = Path(DATA) / "splits/omniglot_vinyals_trainval.txt"
    if lists.is_file():
        assert set(lists.read_text().split()) < set(images.class_names)
    # Which zip the pictures came in does not matter, their pixels do: the same on every machine.
    assert images.fingerprint == "e094f27c89b1f657ca87fb0bf7ece89ac4b54d2e2c0d212234b441f3993c8037"
    assert images.class_names[0] == "Alphabet_of_the_Magi/character01"


@needs_omniglot
def test_omniglot_with_rotations_as_classes(decoded_once, monkeypatch):
    monkeypatch.setenv("NCBOOK_DATA", DATA)
    found, plain = datasets.load("omniglot", protocol="vinyals"), datasets.load("omniglot")
    assert [len(found.official[kind]) for kind in KINDS] == [4112, 688, 1692]
    assert found.images.shape == (4 * 32460, 1, 28, 28) and len(found.class_names) == 6492
    label = found.class_names.index(f"{plain.class_names[7]}/rot090")
    turned = found.images[found.labels == label]
    assert torch.equal(turned, torch.rot90(plain.images[plain.labels == 7], 1, dims=(2, 3)))
    with pytest.raises(ValueError, match="protocol='snell'"):
        datasets.load("omniglot", protocol="snell")


@pytest.mark.parametrize("name", catalog.DATASETS)
def test_every_data_set_is_found_and_takes_its_options(name):
    with pytest.raises(ValueError, match="option 'nothing' .* is unknown") as error:
        datasets.load(name, nothing=1)
    assert all(option in str(error.value) for option in catalog.DATASETS[name].options)
