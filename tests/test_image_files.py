"""Folders and zips of images, CIFAR's official binary files, and the published class lists."""

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
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
    said = {"../evil/a.png": "may lead out of it", "/abs/a.png": "may lead out of it", "a\\b.png": "allowed: / between"}
    for name, words in said.items():
        with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), png(0))
        with pytest.raises(ValueError, match=words):
            datasets.load("folder", tmp_path, path="z.zip")


def zipped(path, files):
    """A zip of (name or ZipInfo, content)."""
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in files:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("other", ["a//0.png", "a/./0.png", "./a/0.png", "a/0.png"])
def test_a_zip_that_holds_a_file_twice_is_refused(tmp_path, other):
    zipped(tmp_path / "z.zip", [("a/0.png", png(0)), (other, png(9)), ("b/0.png", png(0))])
    with pytest.raises(ValueError, match=r"z\.zip holds 'a/0\.png' more than once; allowed: each file once"):
        datasets.load("folder", tmp_path, path="z.zip")


def test_names_that_are_no_text_are_refused(tmp_path):
    write(tmp_path / "p", {"a/0.png": png(0), "b/0.png": png(0), os.fsdecode(b"\xe9/0.png"): png(0)})
    write(tmp_path / "q", {"a/0.png": png(0), "b/0.png": png(0), "c\nd/0.png": png(0)})
    zipped(tmp_path / "nul.zip", [("a/0.png", png(0)), ("b/0.png", png(0)), ("c/0.png@.txt", png(0))])
    named = (tmp_path / "nul.zip").read_bytes().replace(b"0.png@", b"0.png\0")
    (tmp_path / "nul.zip").write_bytes(named)
    zipped(tmp_path / "bad.zip", [("a/0.png", png(0)), ("\u00e9/0.png", png(0))])
    (tmp_path / "bad.zip").write_bytes((tmp_path / "bad.zip").read_bytes().replace("\u00e9".encode(), b"\xe9\xe9"))
    for name, words in [
        ("p", r"p holds '\\udce9/0\.png'; allowed: names in UTF-8 without control characters"),
        ("q", r"q holds 'c\\nd/0\.png'; allowed"),
        ("nul.zip", r"nul\.zip holds 'c/0\.png\\x00\.txt'; allowed"),
        ("bad.zip", r"bad\.zip is not a readable zip \('utf-8' codec"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            datasets.load("folder", tmp_path, path=name)
        assert len(str(error.value).splitlines()) == 1
    write(tmp_path / "p", {os.fsdecode(b"a/notes\xe9.txt"): b""})
    (tmp_path / os.fsdecode(b"p/\xe9/0.png")).unlink()
    assert datasets.load("folder", tmp_path, path="p").class_names == ["a", "b"]  # other files may have any name


def test_a_zip_whose_names_are_utf8_without_saying_so(tmp_path):
    zipped(tmp_path / "z.zip", [("\u00e9/0.png", png(0)), ("b/0.png", png(0))])
    content = bytearray((tmp_path / "z.zip").read_bytes())
    for mark, place in ((b"PK\3\4", 7), (b"PK\1\2", 9)):
        content[content.index(mark) + place] &= ~0x08
    (tmp_path / "z.zip").write_bytes(content)
    assert datasets.load("folder", tmp_path, path="z.zip").class_names == ["b", "\u00e9"]


def test_a_damaged_name_does_not_hide_an_image(tmp_path):
    zipped(tmp_path / "z.zip", [(f"{c}/{i}.png", png(0)) for c in "ab" for i in range(3)])
    content = (tmp_path / "z.zip").read_bytes()
    place = content.rindex(b"b/1.png") + 4
    for byte in (b"q", b"."):  # b/1.qng in the directory at the end
        (tmp_path / "z.zip").write_bytes(content[:place] + byte + content[place + 1 :])
        with pytest.raises(ValueError, match=r"z\.zip is not a readable zip \(File name in directory"):
            datasets.load("folder", tmp_path, path="z.zip")


@pytest.mark.parametrize("field", [30, 32])  # lengths of the extra field and of the comment
def test_an_entry_of_a_zip_that_swallows_another_is_damage(tmp_path, field):
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in "abc":
            archive.writestr(f"{name}/0.png", png((9, 9, 9)))
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + field] = 46 + len("a/0.png")  # of the next entry, as it stands in the directory
    path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=r"p\.zip"):
        datasets.load("folder", path=path, image_size=8)


def test_a_link_in_a_zip_is_no_image(tmp_path):
    link = zipfile.ZipInfo("b/1.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    zipped(tmp_path / "z.zip", [("a/0.png", png(0)), ("b/0.png", png(0)), (link, "/etc/passwd")])
    with pytest.raises(ValueError, match=r"1 of 3 images in .*z\.zip cannot be read: b/1\.png \(no image of the"):
        datasets.load("folder", tmp_path, path="z.zip")


def saved(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def gray_of(values, dtype, file_format, **options):
    return saved(Image.fromarray(np.full((12, 16), values, dtype)), file_format, **options)


def center(tmp_path, content, suffix="png", channels=3):
    """The pixel in the middle of the image when it is read from a folder."""
    write(tmp_path / "p", {f"a/0.{suffix}": content, "b/0.png": png(0)})
    return datasets.load("folder", tmp_path, path="p", image_size=8, channels=channels).images[0, :, 4, 4].tolist()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "values", "file_format", "expected"),
    [
        (np.uint16, 0, "PNG", 0),
        (np.uint16, 256, "PNG", 1),
        (np.uint16, 32768, "PNG", 128),
        (np.uint16, 32768, "TIFF", 128),
        (np.uint16, 65535, "TIFF", 255),
        (np.int32, 40000, "TIFF", 156),
        (np.int32, 40000, "PPM", 156),
        (np.float32, 0.5, "TIFF", 128),
        (np.float32, 1.0, "TIFF", 255),
        (np.uint8, 77, "TIFF", 77),
    ],
)
def test_gray_of_16_bits_and_floats_keep_their_shades(tmp_path, channels, dtype, values, file_format, expected):
    content = gray_of(values, dtype, file_format)
    assert (
        center(tmp_path, content, {"PPM": "pgm"}.get(file_format, file_format.lower()), channels)
        == [expected] * channels
    )


@pytest.mark.parametrize(
    ("dtype", "values", "words"),
    [
        (np.int32, -1, "values from -1 to -1; allowed: .*integers from 0 to 65535"),
        (np.int32, 70000, "values from 70000 to 70000; allowed: .*integers from 0 to 65535"),
        (np.int32, 200, "values from 200 to 200; .*of 32 bits: some above 255"),
        (np.float32, 200, "values from 200 to 200; allowed: floats from 0 to 1"),
        (np.float32, np.nan, "values from nan to nan; allowed: floats"),
        (np.float32, np.inf, "values from inf to inf; allowed: floats"),
    ],
)
def test_gray_of_no_known_white_is_refused(tmp_path, dtype, values, words):
    with pytest.raises(ValueError, match=rf"cannot be read: a/0\.tif \({words}"):
        center(tmp_path, gray_of(values, dtype, "TIFF"), "tif")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_images_are_turned_as_exif_says(tmp_path, file_format):
    upper = np.zeros((20, 20), np.uint8)
    upper[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise: what is above comes to the right
    write(tmp_path / "p", {"a/0.png": saved(Image.fromarray(upper), file_format, exif=exif), "b/0.png": png(0)})
    found = datasets.load("folder", tmp_path, path="p", image_size=20).images[0, 0]
    assert (found[:, 12:] > 240).all() and (found[:, :8] < 15).all()


def test_files_of_an_archive_are_bounded(tmp_path, monkeypatch):
    zipped(tmp_path / "z.zip", [("a/0.png", png(0)), ("b/0.png", png(0))])
    write(tmp_path / "p", {"a/0.png": png(0), "b/0.png": png(0)})
    with zipfile.ZipFile(tmp_path / "bz.zip", "w", zipfile.ZIP_BZIP2) as archive:  # unpacked without a limit
        archive.writestr("a/0.png", png(0))
        archive.writestr("b/0.png", png(0))
    with pytest.raises(ValueError, match=r"a/0\.png \(packed by method 12; allowed: stored or deflated"):
        datasets.load("folder", tmp_path, path="bz.zip")
    size = len(png(0))
    monkeypatch.setattr(_sources, "LARGEST_FILE", size - 1)
    with pytest.raises(ValueError, match=rf"a/0\.png \({size} bytes unpacked; allowed: {size - 1}"):
        datasets.load("folder", tmp_path, path="z.zip")


def transparent_images():
    """Images that are transparent everywhere, and of a dark color under it."""
    for mode, color in [("RGBA", (9, 9, 9, 0)), ("LA", (9, 0))]:
        for file_format in ("PNG", "TIFF"):
            yield f"{mode}-{file_format}", saved(Image.new(mode, (12, 16), color), file_format)
    yield "RGBA-WEBP", saved(Image.new("RGBA", (12, 16), (9, 9, 9, 0)), "WEBP", lossless=True)
    for mode, color in [("RGB", (9, 9, 9)), ("L", 9), ("I;16", 900), ("1", 0)]:
        yield f"{mode}-key", saved(Image.new(mode, (12, 16), color), "PNG", transparency=color)
    palette = Image.new("P", (12, 16), 1)
    palette.putpalette([200, 0, 0, 9, 9, 9])
    yield "P-key", saved(palette, "PNG", transparency=1)
    yield "P-alphas", saved(palette, "PNG", transparency=bytes([255, 0]))
    yield "P-GIF", saved(palette, "GIF", transparency=1)


@pytest.mark.parametrize("content", [pytest.param(c, id=name) for name, c in transparent_images()])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_white(tmp_path, content, channels):
    assert center(tmp_path, content, channels=channels) == [255] * channels


def chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def raw_png(depth, color_type, row, transparency):
    """A PNG of 8 equal rows of 8 pixels, of depths that Pillow does not write."""
    header = (8).to_bytes(4, "big") * 2 + bytes((depth, color_type, 0, 0, 0))
    chunks = [(b"IHDR", header), (b"tRNS", transparency), (b"IDAT", zlib.compress((b"\0" + row) * 8)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def test_transparent_colors_of_other_depths(tmp_path):
    two_bits = bytes([0b01011010] * 2)  # 1, 1, 2, 2, of 0 to 3
    assert center(tmp_path, raw_png(2, 0, two_bits, b"\0\1")) == [255] * 3
    assert center(tmp_path, raw_png(2, 0, two_bits, b"\0\2")) == [85] * 3
    with pytest.raises(ValueError, match="a transparent color of 16 bits per channel; allowed: 8 bits"):
        center(tmp_path, raw_png(16, 2, bytes([1, 0] * 24), bytes([1, 0] * 3)))


def test_a_png_with_a_flipped_bit_is_refused(tmp_path):
    """Its checksums, which Pillow reads over."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    content = bytearray(saved(Image.fromarray(noise), "PNG", compress_level=0))
    content[-40] ^= 1  # a pixel
    with pytest.raises(ValueError, match=r"a/0\.png \(broken PNG file"):
        center(tmp_path, bytes(content))


def test_no_image_starts_another_program(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("another program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    words = r"1 of 2 images in .*/p cannot be read: a/0\.png \(no image of the formats PNG, JPEG, BMP"
    with pytest.raises(ValueError, match=words) as error:
        center(tmp_path, eps)
    assert "BytesIO" not in str(error.value)


def test_an_image_of_too_many_pixels_is_an_error_and_warning_filters_stay(tmp_path, monkeypatch):
    content = png(0, (40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above it, and refuses above twice as many
    filters = list(warnings.filters)
    with pytest.raises(ValueError, match=r"a/0\.png \(40 x 40 pixels; allowed: 1000 in all\)"):
        center(tmp_path, content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert center(tmp_path, content) == [0, 0, 0]
    assert list(warnings.filters) == filters


BOMBS = """
import gzip, io, sys, zipfile
from pathlib import Path
from ncbook import datasets
root = Path(sys.argv[1])
def peak():
    # not ru_maxrss, in which the largest memory of the process that started this one is counted
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
datasets.load("folder", root, path="small")
before = peak()
for name, path in [("folder", "narrow"), ("folder", "lying.zip"), ("emnist", None), ("cifar10", None)]:
    try:
        datasets.load(name, root, **({"path": path} if path else {}))
        print("loaded", name)
    except ValueError as error:
        print(error)
print(int(peak() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux's unit of the largest memory")
def test_small_files_take_little_memory(tmp_path):
    write(tmp_path / "small", {"a/0.png": png(0), "b/0.png": png(0)})
    write(tmp_path / "narrow", {"a/0.png": png(0, (1, 60_000)), "b/0.png": png(0)})
    zeros = gzip.compress(bytes(2**26)) * 12  # 800 MB in 12 members
    write_emnist(tmp_path / "EMNIST" / "raw", packed=True)
    (tmp_path / "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte.gz").write_bytes(zeros)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(zeros)
    with zipfile.ZipFile(tmp_path / "lying.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", bytes(2**29))
        archive.writestr("b/0.png", png(0))
    content = bytearray((tmp_path / "lying.zip").read_bytes())
    for mark, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):  # where the size is, unpacked
        start = content.index(mark) + place
        content[start : start + 4] = (100).to_bytes(4, "little")
    (tmp_path / "lying.zip").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(tmp_path)], capture_output=True, text=True, check=True, env=os.environ
    )
    narrow, lying, emnist, cifar, growth = done.stdout.splitlines()
    assert narrow == "loaded folder"
    assert "a/0.png (Bad CRC-32" in lying and "images-idx3-ubyte.gz holds more than 88435216 bytes; allowed" in emnist
    assert "cifar-10-binary.tar.gz holds more than 209715200 bytes; allowed" in cifar
    assert int(growth) < 450


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
        dataset="folder", path="p", image_size=16, n_source=2, n_novel=None, n_validation=None, samples_per_class=None,
        class_seed=0,
    )  # fmt: skip
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
    with pytest.raises(ValueError, match="path=''; allowed: a folder or zip of class folders"):
        datasets.load("folder", path="")  # which would be the working folder
    with pytest.raises(ValueError, match="path=3; allowed: a folder or zip"):
        datasets.load("folder", path=3)
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


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_of_an_archive_is_noticed(tmp_path):
    archive_of(tmp_path, "cifar-10-binary.tar.gz")
    path = tmp_path / "cifar-10-binary.tar.gz"
    content = gzip.decompress(path.read_bytes())
    packed = gzip.compress(content, 0)  # stored: a flipped bit is a flipped pixel
    path.write_bytes(packed)
    datasets.load("cifar10", tmp_path)
    place = packed.index(bytes(1024)) + 100
    flip(path, place)
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz is not a readable archive \(CRC check failed"):
        datasets.load("cifar10", tmp_path)


def test_a_file_twice_in_an_archive_is_refused(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    archive_of(tmp_path, path.name)
    content = gzip.decompress(path.read_bytes())
    with tarfile.open(path) as archive:
        first, second = archive.getmembers()[:2]
    path.write_bytes(gzip.compress(content[first.offset : second.offset] + content))
    with pytest.raises(ValueError, match=r"tar\.gz holds data_batch_1\.bin more than once; allowed: each file once"):
        datasets.load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("name", "file"), [("cifar10", "cifar-10-binary.tar.gz"), ("fc100", "cifar-100-binary.tar.gz")]
)
def test_official_binary_files_that_were_unpacked(tmp_path, name, file):
    archive_of(tmp_path, file)
    packed = datasets.load(name, tmp_path)
    with tarfile.open(tmp_path / file) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / file).unlink()
    unpacked = datasets.load(name, tmp_path)
    assert unpacked.fingerprint == packed.fingerprint


def test_an_unpacked_folder_counts_whole_and_by_what_is_in_it(tmp_path):
    file = "cifar-10-binary.tar.gz"
    for name, per_class in (("a", (3, 2)), ("b", (4, 2))):
        (tmp_path / name).mkdir()
        archive_of(tmp_path / name, file, per_class)
        with tarfile.open(tmp_path / name / file) as archive:
            archive.extractall(tmp_path / name, filter="data")
        linked = tmp_path / f"linked_{name}" / "cifar-10-batches-bin"
        linked.mkdir(parents=True)
        for path in (tmp_path / name / "cifar-10-batches-bin").iterdir():
            (linked / path.name).symlink_to(path)
        assert len(datasets.load("cifar10", linked.parent).labels) == 10 * sum(per_class)
    (linked / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError, match="cifar10 is not in .* or the folder cifar-10-batches-bin in it"):
        datasets.load("cifar10", linked.parent)


def test_without_network_the_text_names_folder_file_and_checksum(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"cifar-100-binary\.tar\.gz \(md5 03b5dce0.*NCBOOK_DATA"):
        datasets.load("fc100", tmp_path)
    monkeypatch.delenv("NCBOOK_DATA", raising=False)
    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:9/nothing")
    with pytest.raises(FileNotFoundError, match="the download from http://127.0.0.1:9/nothing failed"):
        datasets.load("fc100")


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


def test_emnist_parts_whose_images_and_labels_do_not_match_are_refused(tmp_path):
    folder = tmp_path / "EMNIST" / "raw"
    write_emnist(folder, packed=False)
    for part, count in (("train", 46), ("test", 48)):  # together as many as there are labels
        images = bytes((0, 0, 8, 3)) + np.array([count, 28, 28], ">u4").tobytes() + bytes(count * 784)
        (folder / f"emnist-balanced-{part}-images-idx3-ubyte").write_bytes(images)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte holds images \[46, 28, 28\] and .* 47 labels"):
        datasets.load("emnist", tmp_path)


def test_an_emnist_file_with_a_flipped_bit_is_named(tmp_path):
    folder = tmp_path / "EMNIST" / "raw"
    write_emnist(folder, packed=True)
    path = folder / "emnist-balanced-test-images-idx3-ubyte.gz"
    flip(path, -1)  # of the size at the end
    with pytest.raises(ValueError, match="test-images-idx3-ubyte.gz is not a readable archive"):
        datasets.load("emnist", tmp_path)


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
