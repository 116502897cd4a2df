"""Data sets by name, splits of classes, the cache, and Omniglot in all the shapes it comes in."""

import io
import os
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ncbook import datasets
from ncbook.datasets import _cache, omniglot

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
    code = "import sys, ncbook.datasets as d; assert 'strokes' in d.MODULES; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown data set: 'omniglott'.*omniglot, strokes.*mean 'omniglot'"):
        datasets.load("omniglott")
    with pytest.raises(ValueError, match="unknown data set: 3"):
        datasets.load(3)


def test_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'n_clases'; allowed: n_classes, per_class, seed; did you mean 'n_cl"):
        datasets.load("strokes", n_clases=4)


def test_images_that_do_not_fit_together_are_refused():
    good = fake()
    for change, message in [
        ({"images": good.images.float()}, "images must be uint8"),
        ({"images": good.images[1:]}, "one for each label"),
        ({"labels": good.labels.int()}, "labels must be int64"),
        ({"labels": good.labels.flip(0)}, "must ascend"),
        ({"labels": good.labels + 1}, "at most 39"),
        ({"held_out": good.labels}, "held_out must be bool"),
        ({"class_names": ["a"] * 40}, "must all be different"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(good, **change)


def test_fingerprint_sees_pixels_labels_and_shape():
    good = fake()
    pixels = good.images.clone()
    pixels[3, 0, 0, 1] += 1
    labels = good.labels.clone()
    labels[4] = 0
    others = [{"images": pixels}, {"labels": labels}, {"images": good.images.view(-1, 1, 2, 1)}]
    prints = [good.fingerprint, *(replace(good, **other).fingerprint for other in others)]
    assert len(set(prints)) == 4
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
    message = "n_source=21 and n_novel=15 .* 20 official source and 15 official novel"
    with pytest.raises(ValueError, match=message):
        datasets.split(images, n_source=21, n_novel=15)
    with pytest.raises(ValueError, match="n_novel=16"):
        datasets.split(images, n_source=5, n_novel=16)


@pytest.mark.parametrize(
    ("numbers", "error", "message"),
    [
        ({"n_source": 30, "n_novel": 11}, ValueError, "n_source=30 and n_novel=11 .*has 40 classes"),
        ({"n_source": 1, "n_novel": 5}, ValueError, "n_source must be an integer of at least 2, got 1"),
        ({"n_source": 5, "n_novel": -1}, ValueError, "n_novel must be an integer of at least 2, got -1"),
        ({"n_source": 5.0, "n_novel": 5}, TypeError, "n_source must be an integer of at least 2, got 5.0"),
        ({"n_source": 5, "n_novel": "5"}, TypeError, "n_novel must be an integer of at least 2, got '5'"),
        ({"n_source": True, "n_novel": 5}, TypeError, "n_source must be"),
        (
            {"n_source": 5, "n_novel": 5, "class_seed": 0.5},
            TypeError,
            "class_seed must be an integer, got 0.5",
        ),
    ],
)
def test_wrong_numbers_are_refused(numbers, error, message):
    with pytest.raises(error, match=message):
        datasets.split(fake(), **numbers)


def test_numpy_integers_are_integers():
    few = datasets.split(fake(), n_source=np.int64(4), n_novel=np.int32(3), class_seed=np.int64(1))
    assert same(few.novel, datasets.split(fake(), n_source=4, n_novel=3, class_seed=1).novel)


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


@pytest.mark.parametrize("damage", [damage_by_cutting, damage_by_emptying, damage_by_a_pixel])
def test_damaged_cache_is_built_anew(cache, damage):
    calls = []
    good = _cache.cached("fake", "ab", build_counted(calls))
    path = cache / "fake-ab.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="fake-ab.safetensors is damaged and is built anew"):
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
    build = omniglot._build
    monkeypatch.setattr(omniglot, "_build", lambda sources: build(sources, SMALL, drawings=2, held_out=1))


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


def test_omniglot_grey_pictures_are_read_like_one_bit_ones(tmp_path, small):
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
    with pytest.raises(ValueError, match="drawing 01 is one too many"):
        datasets.load("omniglot", tmp_path)


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
    asked = []

    def download(folder):
        asked.append(folder)
        put(folder, small_files())
        return "downloaded"

    monkeypatch.setattr(omniglot, "_download", download)
    monkeypatch.delenv("NCBOOK_DATA", raising=False)
    assert len(datasets.load("omniglot").class_names) == 5
    datasets.load("omniglot")
    assert asked == [tmp_path / "cache" / "data" / "omniglot-py"]
    assert len(datasets.load("omniglot", tmp_path / "mine", download=True).class_names) == 5


def test_omniglot_download_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "URL", "http://127.0.0.1:9/nothing")
    with pytest.raises(FileNotFoundError, match="the download from .* failed: .*put them into"):
        datasets.load("omniglot", tmp_path, download=True)


@needs_omniglot
def test_omniglot_is_whole():
    images = datasets.load("omniglot", DATA)
    assert images.images.shape == (32460, 1, 28, 28)
    assert len(images.class_names) == 1623 and images.class_names == sorted(images.class_names)
    assert images.labels.bincount().tolist() == [20] * 1623
    assert images.held_out.view(-1, 20).sum(1).tolist() == [5] * 1623 and images.held_out[15:20].all()
    lists = Path(DATA) / "splits/omniglot_vinyals_trainval.txt"
    if lists.is_file():
        assert set(lists.read_text().split()) < set(images.class_names)
    # Which zip the pictures came in does not matter, their pixels do: the same on every machine.
    assert images.fingerprint == "5d8da2603bc3eef2f9012a8e90c945f10a7a89b83007bdca44dad4873294b20a"
    assert images.class_names[0] == "Alphabet_of_the_Magi/character01"


def test_every_data_set_has_its_facts():
    from ncbook.datasets.facts import NAMES

    assert set(NAMES) == set(datasets.MODULES) - {"folder"}  # its path is no parameter of an experiment
