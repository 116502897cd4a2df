"""Folders and zips of images, CIFAR's official binary files, and the published class lists."""

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import ncbook
from ncbook import datasets
from ncbook.datasets import _sources, cifar, mini_imagenet
from ncbook.datasets._lists import KINDS, class_list

DATA = os.environ.get("NCBOOK_DATA")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NCBOOK_CACHE", str(tmp_path / "cache"))


def png(color, size=(40, 30), mode="RGB", **options):
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, "PNG", **options)
    return buffer.getvalue()


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


FILES = {
    **{f"birds/robin/{i}.png": png((200, 10 * i, 0)) for i in range(5)},
    **{f"birds/wren/{i}.PNG": png(100 + i, (24, 60), "L") for i in range(3)},
    "cars/only.png": png((0, 0, 255, 0), mode="RGBA"),  # transparent: white
    "cars/notes.txt": b"no image",
    "cars/.hidden.png": b"no image either",
}


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_or_zip_of_class_folders(tmp_path, packed):
    source = write(tmp_path / "pictures", FILES)
    if packed:
        source = tmp_path / "pictures.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for name, content in FILES.items():
                archive.writestr(f"everything/{name}", content)
    found = datasets.load("folder", tmp_path, path=source.name, image_size=16)
    assert found.class_names == ["birds/robin", "birds/wren", "cars"] and found.name == "pictures"
    assert found.images.shape == (9, 3, 16, 16) and found.labels.tolist() == [0] * 5 + [1] * 3 + [2]
    assert found.held_out.tolist() == [False] * 3 + [True] * 2 + [False] * 2 + [True] + [False]  # never all of a class
    assert found.images[2, :, 8, 8].tolist() == [200, 20, 0] and found.images[5, :, 8, 8].tolist() == [100] * 3
    assert found.images[8, :, 0, 0].tolist() == [255, 255, 255]
    again = datasets.load("folder", tmp_path, path=source.name, image_size=16)
    assert again.fingerprint == found.fingerprint
    gray = datasets.load("folder", tmp_path, path=source.name, image_size=16, channels=1)
    assert gray.images.shape == (9, 1, 16, 16)


def test_images_are_scaled_and_cropped_to_the_center(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255  # the center
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    write(tmp_path / "p", {"a/0.png": buffer.getvalue(), "b/0.png": png((1, 2, 3), (10, 10))})
    found = datasets.load("folder", tmp_path, path="p", image_size=20)
    assert (found.images[0] == 255).all()
    assert found.images[1, :, 10, 10].tolist() == [1, 2, 3]


def test_broken_images_are_refused_or_skipped_by_name(tmp_path):
    write(tmp_path / "p", {**FILES, "birds/robin/bad.png": FILES["birds/robin/0.png"][:40], "cars/x.jpg": b"<html>"})
    with pytest.raises(ValueError, match=r"2 of 11 images .* cannot be read: birds/robin/bad\.png .*broken='skip'"):
        datasets.load("folder", tmp_path, path="p")
    with pytest.warns(UserWarning, match="2 of 11 images .* left out"):
        assert len(datasets.load("folder", tmp_path, path="p", broken="skip").labels) == 9


def test_a_zip_cannot_lead_out_of_itself(tmp_path):
    for name in ("../evil/a.png", "/abs/a.png", "a\\b.png"):
        with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), png(0))
        with pytest.raises(ValueError, match="leads out of it"):
            datasets.load("folder", tmp_path, path="z.zip")


def test_links_are_not_followed(tmp_path):
    source = write(tmp_path / "p", FILES)
    secret = write(tmp_path / "elsewhere", {"s/0.png": png(0)})
    (source / "link").symlink_to(secret / "s")
    (source / "cars" / "link.png").symlink_to(secret / "s" / "0.png")
    assert len(datasets.load("folder", tmp_path, path="p").labels) == 9


def test_a_folder_refuses(tmp_path):
    write(tmp_path / "one", {"a/0.png": png(0)})
    (tmp_path / "bad.zip").write_bytes(b"<html>")
    for options, words in [
        (dict(path="one"), "holds 1 class folders"),
        (dict(path="bad.zip"), "not a readable zip"),
        (dict(path="one", image_size=4), "image_size=4; allowed: a whole number of at least 8"),
        (dict(path="one", channels=2), "channels=2"),
        (dict(path="one", held_out=1.0), "held_out=1.0; allowed: a finite number of at least 0 and below 1"),
        (dict(path="one", broken="maybe"), "broken='maybe' is unknown; allowed: refuse, skip"),
    ]:
        with pytest.raises(ValueError, match=words):
            datasets.load("folder", tmp_path, **options)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        datasets.load("folder", tmp_path, path="nowhere")


def test_a_path_is_looked_for_in_the_working_folder_then_below_the_root(tmp_path, monkeypatch):
    work, root = tmp_path / "work", tmp_path / "root"
    for place, color in ((work, 10), (root, 20)):
        write(place / "p", {"a/0.png": png(color, mode="L"), "b/0.png": png(color, mode="L")})
    monkeypatch.chdir(work)
    load = datasets.load
    assert load("folder", root, path="p").images[0, 0, 0, 0] == 10
    (work / "p").rename(work / "q")
    assert load("folder", root, path="p").images[0, 0, 0, 0] == 20
    assert load("folder", root, path=work / "q").images[0, 0, 0, 0] == 10
    monkeypatch.setenv("NCBOOK_DATA", str(root))
    assert load("folder", path="p").images[0, 0, 0, 0] == 20
    assert load("folder", path="../root/p").images[0, 0, 0, 0] == 20
    with pytest.raises(FileNotFoundError, match=f"path='r' is not there; looked for {work / 'r'} and {root / 'r'}$"):
        load("folder", path="r")
    with pytest.raises(FileNotFoundError, match="looked for /nowhere$"):
        load("folder", path="/nowhere")


def test_own_images_of_an_experiment_are_read_again_when_they_change(tmp_path, monkeypatch):
    monkeypatch.setenv("NCBOOK_DATA", str(tmp_path))
    write(tmp_path / "p", {"a/0.png": png(0), "b/0.png": png(0)})
    experiment = SimpleNamespace(
        dataset="folder", path="p", image_size=16, n_source=2, n_novel=None, n_validation=None, class_seed=0
    )
    found = datasets.load_for(experiment)
    assert found.images.shape == (2, 3, 16, 16) and datasets.load_for(experiment) is found
    write(tmp_path / "p", {"c/0.png": png(0)})
    assert datasets.load_for(experiment).class_names == ["a", "b", "c"]
    monkeypatch.chdir(write(tmp_path / "work", {"p/x/0.png": png(0), "p/y/0.png": png(0)}))
    assert datasets.load_for(experiment).class_names == ["x", "y"]
    experiment.n_source = 3
    with pytest.raises(ValueError, match=r"n_source=3, .*the data set 'folder' \(p\) has 2 classes"):
        datasets.split_for(experiment)
    experiment.path = None
    with pytest.raises(ValueError, match="path=None; allowed: a folder or zip of class folders"):
        datasets.load_for(experiment)


def test_a_path_must_be_given():
    with pytest.raises(ValueError, match="path=None; allowed: a folder or zip of class folders"):
        datasets.load("folder")
    with pytest.raises(ValueError, match="option 'size' .* is unknown; .*allowed: path, image_size, channels"):
        datasets.load("folder", size=84)


@pytest.mark.parametrize(
    ("fraction", "held_out"),
    [(0.2, {1: 0, 2: 1, 3: 1, 4: 2, 5: 2, 9: 2, 20: 4}), (0.9, {1: 0, 2: 1, 4: 3, 20: 18}), (0.0, {1: 0, 4: 0, 9: 0})],
)
def test_enough_samples_are_held_out_for_a_variance(tmp_path, fraction, held_out):
    write(tmp_path / "p", {f"{n:02d}/{i:02d}.png": png((i, 0, 0)) for n in held_out for i in range(n)})
    found = datasets.load("folder", tmp_path, path="p", image_size=np.int64(8), held_out=fraction)
    for label, n in enumerate(held_out):
        expected = [i >= n - held_out[n] for i in range(n)]
        assert found.held_out[found.labels == label].tolist() == expected


SIZES = {
    "cifar_fs": (64, 16, 20),
    "fc100": (60, 20, 20),
    "mini_imagenet": (64, 16, 20),
    "omniglot_vinyals": (1028, 172, 423),
}


@pytest.mark.parametrize(("name", "sizes"), SIZES.items())
def test_class_lists(name, sizes):
    lists = [class_list(name, kind) for kind in KINDS]
    assert tuple(map(len, lists)) == sizes
    assert len({c for classes in lists for c in classes}) == sum(sizes), "they overlap"


def test_both_lists_of_cifar_100_are_all_of_its_classes():
    assert {c for k in KINDS for c in class_list("cifar_fs", k)} == {c for k in KINDS for c in class_list("fc100", k)}


def archive_of(tmp_path, name, per_class=(3, 2)):
    """An archive in the official format, with few images: each of one color."""
    _, inner, training, test, meta = cifar.ARCHIVES[name]
    ten = "10-" in name
    fs = [c for kind in KINDS for c in class_list("cifar_fs", kind)]
    names = ["truck", *"abcdefghi"] if ten else fs  # not in order of names
    rng = np.random.default_rng(0)

    def rows(count):
        labels = rng.permutation(np.repeat(np.arange(len(names)), count)).astype(np.uint8)
        pixels = np.repeat(np.stack([labels, labels + 100, 255 - labels], 1), 1024, axis=1)
        head = labels[:, None] if ten else np.stack([labels // 5, labels], 1)
        return np.concatenate([head, pixels.astype(np.uint8)], 1).tobytes()

    files = {file: rows(per_class[0] if i == 0 else 0) for i, file in enumerate(training)}
    files |= {file: rows(per_class[1]) for file in test} | {meta: "\n".join(names).encode() + b"\n"}
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        for file, content in files.items():
            info = tarfile.TarInfo(f"{inner}/{file}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return names


@pytest.mark.parametrize("name", ["cifar10", "cifar_fs", "fc100"])
def test_official_binary_files(tmp_path, name):
    names = archive_of(tmp_path, "cifar-10-binary.tar.gz" if name == "cifar10" else "cifar-100-binary.tar.gz")
    found = datasets.load(name, tmp_path)
    assert found.class_names == sorted(names) and found.images.shape == (5 * len(names), 3, 32, 32)
    assert found.labels.bincount().tolist() == [5] * len(names)
    assert found.held_out.view(-1, 5).tolist() == [[False] * 3 + [True] * 2] * len(names)
    for label, class_name in enumerate(found.class_names):
        official = names.index(class_name)
        pixels = found.images[found.labels == label]
        assert (pixels == torch.tensor([official, official + 100, 255 - official]).view(1, 3, 1, 1)).all()
    if name == "cifar10":
        assert found.official is None
    else:
        sizes = [len(found.official[kind]) for kind in KINDS]
        assert sizes == ([64, 16, 20] if name == "cifar_fs" else [60, 20, 20])
        parts = datasets.split(found, n_source=10, n_novel=20)
        assert set(parts.novel.class_names) == set(class_list(name, "novel"))
        assert set(parts.source_train.class_names) <= set(class_list(name, "source"))
        with pytest.raises(ValueError, match="n_source=65, .* 20 official novel"):
            datasets.split(found, n_source=65, n_novel=20)


def test_damaged_archives_are_told_apart(tmp_path):
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(b"<html>no</html>")
    with pytest.raises(ValueError, match="not a readable archive"):
        datasets.load("cifar_fs", tmp_path)
    with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz"):
        pass
    with pytest.raises(ValueError, match=r"lacks train\.bin, test\.bin"):
        datasets.load("cifar_fs", tmp_path)
    archive_of(tmp_path, "cifar-100-binary.tar.gz")
    whole = (tmp_path / "cifar-100-binary.tar.gz").read_bytes()
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable archive|lacks"):
        datasets.load("cifar_fs", tmp_path)


def test_without_network_the_text_names_folder_file_and_checksum(tmp_path, monkeypatch):
    began = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"cifar-100-binary\.tar\.gz \(md5 03b5dce0.*NCBOOK_DATA"):
        datasets.load("fc100", tmp_path)
    monkeypatch.delenv("NCBOOK_DATA", raising=False)
    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:9/nothing")
    with pytest.raises(FileNotFoundError, match="the download from http://127.0.0.1:9/nothing failed"):
        datasets.load("fc100")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(("content", "what"), [(b"<!DOCTYPE html><p>moved", "a web page"), (b"abc", "other content")])
def test_a_download_that_is_something_else_leaves_nothing(tmp_path, monkeypatch, content, what):
    import torchvision.datasets.utils as utils

    class Answer:
        def close(self):
            pass

    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: Answer())
    monkeypatch.setattr(utils, "download_url", lambda url, root, filename: (Path(root) / filename).write_bytes(content))
    with pytest.raises(FileNotFoundError, match=what):
        datasets.load("cifar10", tmp_path / "d", download=True)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["download.lock"]


def test_a_download_is_kept_when_its_checksum_is_right_and_files_that_are_there_are_not_fetched(tmp_path, monkeypatch):
    import torchvision.datasets.utils as utils

    contents = {"a.zip": b"first", "b.zip": b"second"}
    checksums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    fetched = []

    def download_url(url, root, filename):
        fetched.append(url)
        (Path(root) / filename).write_bytes(contents[url.rpartition("/")[2]])

    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: io.BytesIO())
    monkeypatch.setattr(utils, "download_url", download_url)
    write(tmp_path / "d", {"a.zip": b"first", "b.zip": b"cut short"})
    assert _sources.download("http://x/y", checksums, tmp_path / "d") == "downloaded"
    assert fetched == ["http://x/y/b.zip"] and (tmp_path / "d/b.zip").read_bytes() == b"second"
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["a.zip", "b.zip", "download.lock"]


def test_a_fingerprint_of_a_folder_sees_names_sizes_and_times_and_of_a_file_its_bytes(tmp_path):
    folder = write(tmp_path / "p", {"a/0.png": b"12", "b/.hidden": b"1"})
    prints = [_sources.fingerprint(folder)]
    write(folder, {"b/.hidden": b"123"})
    assert _sources.fingerprint(folder) == prints[0]
    os.utime(folder / "a/0.png", ns=(5, 5))
    prints.append(_sources.fingerprint(folder))
    write(folder, {"a/0.png": b"123"})
    os.utime(folder / "a/0.png", ns=(5, 5))
    prints.append(_sources.fingerprint(folder))
    (folder / "a/0.png").rename(folder / "a/1.png")
    prints.append(_sources.fingerprint(folder))
    assert len(set(prints)) == 4
    before = _sources.fingerprint(folder / "a/1.png")
    os.utime(folder / "a/1.png", ns=(9, 9))
    assert _sources.fingerprint(folder / "a/1.png") == before == hashlib.sha256(b"123").hexdigest()


def test_experiments_know_the_published_lists():
    assert ncbook.Experiment(dataset="cifar_fs", n_source=64, n_novel=20).n_source == 64
    with pytest.raises(ncbook.ParameterError, match="60 source and 20 novel"):
        ncbook.Experiment(dataset="fc100", n_source=64, n_novel=20)


def test_training_on_color_images_of_the_official_format(tmp_path, monkeypatch):
    archive_of(tmp_path, "cifar-100-binary.tar.gz", per_class=(6, 4))
    monkeypatch.setenv("NCBOOK_DATA", str(tmp_path))
    experiment = ncbook.Experiment(
        dataset="cifar_fs", n_source=5, n_novel=5, epochs=1, measurements=2, precision="float32", batch_size=10
    )
    run = ncbook.train(experiment, runs_dir=tmp_path / "runs")
    assert run.config["image_shape"] == [3, 32, 32] and run.features("novel")[0].shape == (50, 256)


def write_emnist(folder, packed):
    """Two images of each label in the official idx format: one for training, one for testing."""
    folder.mkdir(parents=True)
    for part, order in (("train", list(range(47))), ("test", list(range(46, -1, -1)))):
        images = np.zeros((47, 28, 28), np.uint8)
        for row, label in enumerate(order):
            images[row, 3, 20] = 200 + label  # row 3, column 20: upright it is row 20, column 3
        files = {
            f"emnist-balanced-{part}-images-idx3-ubyte": bytes((0, 0, 8, 3))
            + np.array(images.shape, ">u4").tobytes()
            + images.tobytes(),
            f"emnist-balanced-{part}-labels-idx1-ubyte": bytes((0, 0, 8, 1))
            + np.array([47], ">u4").tobytes()
            + bytes(order),
        }
        for name, content in files.items():
            path = folder / (name + (".gz" if packed else ""))
            path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [False, True])
def test_emnist(tmp_path, packed):
    write_emnist(tmp_path / "EMNIST" / "raw", packed)
    found = datasets.load("emnist", tmp_path)
    assert found.images.shape == (94, 1, 28, 28) and len(found.class_names) == 47
    assert found.held_out.tolist() == [False, True] * 47
    assert found.images[:, 0, 20, 3].tolist() == [200 + label for label in range(47) for _ in range(2)]
    assert found.images.count_nonzero() == 94


def test_damaged_emnist_files_are_named(tmp_path):
    folder = tmp_path / "EMNIST" / "raw"
    write_emnist(folder, packed=False)
    path = folder / "emnist-balanced-train-images-idx3-ubyte"
    whole = path.read_bytes()
    for content, words in [(whole[:500], "cut short"), (b"<html>", "no idx file")]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            datasets.load("emnist", tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"emnist-balanced-train-images.*gzip\.zip"):
        datasets.load("emnist", tmp_path)


@pytest.mark.parametrize("parts", [True, False])
def test_mini_imagenet(tmp_path, monkeypatch, parts):
    monkeypatch.setattr(mini_imagenet, "PER_CLASS", 3)
    monkeypatch.setattr(mini_imagenet, "HELD_OUT", 1)
    folders = {"source": "train/", "validation": "val/", "novel": "test/"}
    files = {}
    for kind in KINDS:
        for number, wordnet_id in enumerate(class_list("mini_imagenet", kind)):
            for i in range(3):
                name = f"{folders[kind] if parts else ''}{wordnet_id}/{wordnet_id}_{i}.png"
                files[name] = png((number, i, 0), (90, 84))
    write(tmp_path / "mini_imagenet", files)
    found = datasets.load("mini_imagenet", tmp_path)
    assert found.images.shape == (300, 3, 84, 84) and found.class_names == sorted(found.class_names)
    assert [len(found.official[kind]) for kind in KINDS] == [64, 16, 20]
    assert found.held_out.view(100, 3).tolist() == [[False, False, True]] * 100
    for kind in KINDS:
        for number, wordnet_id in enumerate(class_list("mini_imagenet", kind)):
            label = found.class_names.index(wordnet_id)
            assert label in found.official[kind]
            assert found.images[found.labels == label][:, :2, 40, 40].tolist() == [[number, i] for i in range(3)]

    first = next(iter(files))
    (tmp_path / "mini_imagenet" / first).unlink()
    with pytest.raises(ValueError, match="must have 3 images; .* has 2"):
        datasets.load("mini_imagenet", tmp_path)
    write(tmp_path / "mini_imagenet", {first: files[first], "n99999999/0.png": png(0)})
    with pytest.raises(ValueError, match="n99999999 is no class"):
        datasets.load("mini_imagenet", tmp_path)


def test_mini_imagenet_in_the_wrong_part_or_absent(tmp_path):
    novel, source = class_list("mini_imagenet", "novel")[0], class_list("mini_imagenet", "source")[0]
    validation = class_list("mini_imagenet", "validation")[0]
    names = [f"train/{novel}", f"train/{source}", f"val/{validation}"]
    write(tmp_path / "mini_imagenet", {f"{name}/0.png": png(0) for name in names})
    with pytest.raises(ValueError, match="is not a source class"):
        datasets.load("mini_imagenet", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no official download.*n01532829/.*Pickled copies are not read"):
        datasets.load("mini_imagenet", tmp_path / "nowhere")


@pytest.mark.skipif(
    not DATA or not (Path(DATA) / "cifar10_jpeg.zip").is_file(), reason="NCBOOK_DATA has no cifar10_jpeg.zip"
)
def test_the_jpeg_copy_of_cifar10(monkeypatch):
    monkeypatch.setenv("NCBOOK_DATA", DATA)
    found = datasets.load("cifar10")
    assert found.name == "CIFAR-10 (JPEG)" and found.images.shape == (60_000, 3, 32, 32)
    assert found.class_names[0] == "airplane" and found.class_names[-1] == "truck"
    assert found.labels.bincount().tolist() == [6000] * 10
    assert found.held_out.view(10, 6000).sum(1).tolist() == [1000] * 10
    means = found.images[~found.held_out].float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(means, torch.tensor([0.4913, 0.4821, 0.4465]), atol=2e-4, rtol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert datasets.load("cifar10").fingerprint == found.fingerprint  # from the cache


@pytest.mark.skipif(not DATA or not (Path(DATA) / "omniglot").is_dir(), reason="NCBOOK_DATA has no omniglot")
def test_omniglot_with_rotations_as_classes(monkeypatch):
    monkeypatch.setenv("NCBOOK_DATA", DATA)
    found, plain = datasets.load("omniglot", protocol="vinyals"), datasets.load("omniglot")
    assert [len(found.official[kind]) for kind in KINDS] == [4112, 688, 1692]
    assert found.images.shape == (4 * 32460, 1, 28, 28) and len(found.class_names) == 6492
    label = found.class_names.index(f"{plain.class_names[7]}/rot090")
    turned = found.images[found.labels == label]
    assert torch.equal(turned, torch.rot90(plain.images[plain.labels == 7], 1, dims=(2, 3)))
    with pytest.raises(ValueError, match="protocol='snell'"):
        datasets.load("omniglot", protocol="snell")


def anonymous_memory(code, **environment):
    """Megabytes of its own memory a process ends with, and what it prints."""
    code += "\nprint([int(l.split()[1]) // 1000 for l in open('/proc/self/status') if l.startswith('RssAnon')][0])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    *printed, memory = done.stdout.split()
    return printed, int(memory)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_a_data_set_larger_than_memory_is_mapped(tmp_path):
    write(tmp_path, {f"pictures/{c}/{i}.png": png((c, i, 0), (256, 256)) for c in range(8) for i in range(50)})
    code = f"""
from ncbook import datasets, runs
for again in range(2):
    images = datasets.load("folder", root={str(tmp_path)!r}, path="pictures", image_size=256)
    parts = datasets.split(images, n_source=4, n_novel=4)
    print(images.fingerprint, parts.source_train.images[-1].sum().item(), parts.novel.images[3, :, 5, 5].tolist()[1])
"""
    found, little = anonymous_memory(code, NCBOOK_MEMORY_GB="0.05")
    mapped, again = anonymous_memory(code, NCBOOK_MEMORY_GB="0.05")
    in_memory, much = anonymous_memory(code, NCBOOK_MEMORY_GB="100")
    assert found == mapped == in_memory
    pixels = 400 * 3 * 256 * 256 / 1e6  # 79 MB, and each half once more in its split
    assert max(little, again) < much - 1.8 * pixels
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def forget_images():
    datasets._load_once.cache_clear()


def test_a_run_on_mapped_images_has_the_same_bits(tmp_path, monkeypatch):
    experiment = ncbook.Experiment(n_source=6, n_novel=8, epochs=2, batch_size=32, measurements=2)
    here = ncbook.train(experiment, runs_dir=tmp_path / "a")
    forget_images()
    monkeypatch.setenv("NCBOOK_MEMORY_GB", "0.00001")
    mapped = ncbook.train(experiment, runs_dir=tmp_path / "b")
    assert here.history.equals(mapped.history)
    monkeypatch.setenv("NCBOOK_MEMORY_GB", "much")
    with pytest.raises(ValueError, match="NCBOOK_MEMORY_GB='much'; allowed"):
        datasets.load("strokes", n_classes=5)
    forget_images()
