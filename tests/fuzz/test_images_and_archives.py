"""Damaged, odd and hostile image files and archives: what was put in comes out, or one sentence that names the file.

Where every byte is under a checksum (PNG, zip, gzip) a load is compared with that of the undamaged files. The other
formats carry none: there only the damaged image may differ.
"""

import contextlib
import functools
import gzip
import io
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from inputs import right_or_refused
from PIL import Image

from ncbook import datasets
from ncbook.datasets import cifar, omniglot

MEGABYTES = 600  # that any of these tests may add to the largest memory: 200 MB is the limit for one file, unpacked
CHARACTERS = {"images_background": range(1, 3), "images_evaluation": range(3, 5)}
EMNIST = [
    f"emnist-balanced-{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")
]
noise = np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def surroundings(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PARTS": CHARACTERS, "DRAWINGS": 2, "HELD_OUT": 1}.items():
            patch.setattr(omniglot, name, value)
        patch.setenv("NCBOOK_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)  # a damaged size must not make the tests slow
        yield


@pytest.fixture(autouse=True)
def bounded_memory():
    status = Path("/proc/self/status")
    if not status.exists():  # Linux only
        yield
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # what earlier tests took does not count
    before = _largest_memory(status)
    yield
    assert _largest_memory(status) - before < MEGABYTES


def _largest_memory(status):
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10


# --- damage ---


@st.composite
def places(draw, length):
    """A position, often near the beginning or the end, where headers and directories are."""
    distance = draw(st.one_of(st.integers(0, max(length - 1, 0)), st.integers(0, 60), st.integers(0, 400)))
    distance = min(distance, max(length - 1, 0))
    return length - 1 - distance if length and draw(st.booleans()) else distance


@st.composite
def damaged(draw, content):
    """The bytes with one to three bits or bytes flipped, set, cut off, inserted, left out, doubled or swapped."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["flip", "flip", "flip", "set", "cut", "insert", "drop", "double", "swap"]))
        at, length = draw(places(len(content))), draw(st.sampled_from([1, 2, 4, 16, 512]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=20))
        elif kind == "drop":
            del content[at : at + length]
        elif kind == "double":
            content[at:at] = content[at : at + length]
        elif kind == "swap":
            other = draw(places(len(content)))
            first, second = sorted((at, other))
            a, b = content[first : first + length], content[second : second + length]
            if first + length <= second:
                content[first : first + length], content[second : second + length] = b, a
    return bytes(content)


# --- small files in the official formats ---


def image_bytes(values, file_format, mode=None, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(buffer, file_format, **options)
    return buffer.getvalue()


def color(seed, size=(12, 14)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def folder_files(file_format="PNG", suffix="png"):
    return {
        f"{name}/{i}.{suffix}": image_bytes(color(10 * k + i), file_format)
        for k, name in enumerate(["birds/robin", "birds/wren", "\u00e9t\u00e9"])
        for i in range(2)
    } | {"cars/notes.txt": b"no image", "birds/.hidden.png": b"no image either"}


def zip_bytes(files, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def tar_bytes():
    """CIFAR-10's six files of records, with ten images to train on and ten to test, and their names."""
    archive = cifar.ARCHIVES["cifar-10-binary.tar.gz"]
    order = noise.permutation(10).astype(np.uint8)
    rows = np.concatenate([order[:, None], noise.integers(0, 256, (10, 3072), np.uint8)], 1).tobytes()
    files = dict.fromkeys(archive.training, b"") | {archive.training[0]: rows, archive.test[0]: rows}
    files[archive.names] = "\n".join("zyxwvutsrq").encode() + b"\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{archive.folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def emnist_files():
    files = {}
    for name in EMNIST:
        if "images" in name:
            pixels = noise.integers(0, 256, (47, 28, 28), np.uint8)
            files[name] = bytes((0, 0, 8, 3)) + np.array(pixels.shape, ">u4").tobytes() + pixels.tobytes()
        else:
            files[name] = bytes((0, 0, 8, 1)) + np.array([47], ">u4").tobytes() + bytes(range(47))
    return files


def omniglot_files():
    files = {}
    for part, numbers in CHARACTERS.items():
        drawings = {
            f"{part}/Alphabet{number}/character01/{number:04d}_{drawer:02d}.png": image_bytes(
                noise.integers(0, 2, (105, 105)).astype(bool), "PNG"
            )
            for number in numbers
            for drawer in (1, 2)
        }
        files[f"{part}.zip"] = zip_bytes(drawings)
    return files


def write(root, files):
    for name, content in files.items():
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


FOLDER = folder_files()
FORMATS = {"JPEG": "jpg", "BMP": "bmp", "GIF": "gif", "TIFF": "tif", "WEBP": "webp", "PPM": "ppm"}
OTHERS = {suffix: folder_files(file_format, suffix) for file_format, suffix in FORMATS.items()}
OTHERS["lzw.tif"] = {
    name.replace(".png", ".lzw.tif"): image_bytes(color(k), "TIFF", compression="tiff_lzw")
    for k, name in enumerate(name for name in FOLDER if name.endswith(".png") and "hidden" not in name)
}
JPEGS = {
    f"c/{p}/{c}/{i}.jpg": image_bytes(color(i, (32, 32)), "JPEG")
    for p in ("train", "test")
    for c in "ab"
    for i in (0, 1)
}
TAR = tar_bytes()
IDX = emnist_files()
DRAWINGS = omniglot_files()
LAYOUTS = {  # name -> (data set, files below the root, options, ending of the files that are damaged)
    "folder of PNG": ("folder", {f"p/{n}": c for n, c in FOLDER.items()}, {"path": "p", "image_size": 12}, ".png"),
    "zip": ("folder", {"p.zip": zip_bytes(FOLDER)}, {"path": "p.zip", "image_size": 12}, ".zip"),
    "stored zip": (
        "folder",
        {"p.zip": zip_bytes(FOLDER, zipfile.ZIP_STORED)},
        {"path": "p.zip", "image_size": 8},
        ".zip",
    ),
    "zip of JPEG": ("cifar10", {"cifar10_jpeg.zip": zip_bytes(JPEGS)}, {}, ".zip"),
    "CIFAR-10": ("cifar10", {"cifar-10-binary.tar.gz": gzip.compress(TAR, mtime=0)}, {}, ".gz"),
    "stored CIFAR-10": ("cifar10", {"cifar-10-binary.tar.gz": gzip.compress(TAR, 0, mtime=0)}, {}, ".gz"),
    "EMNIST": ("emnist", {f"EMNIST/raw/{n}.gz": gzip.compress(c, mtime=0) for n, c in IDX.items()}, {}, ".gz"),
    "Omniglot": ("omniglot", {f"omniglot-py/{n}": c for n, c in DRAWINGS.items()}, {}, ".zip"),
}


def load_files(name, files, **options):
    with tempfile.TemporaryDirectory() as root:
        write(root, files)
        return datasets.load(name, root, **options)


def same(a, b):
    return a.class_names == b.class_names and all(
        torch.equal(getattr(a, field), getattr(b, field)) for field in ("images", "labels", "held_out")
    )


@contextmanager
def right_or_refused_by_name(*names):
    """As `right_or_refused`, where the one error is a ValueError and its message names one of the files."""
    with right_or_refused(ValueError) as refusal:
        yield refusal
    if refusal:
        assert any(name in str(refusal[0]) for name in names), refusal[0]


# --- every byte under a checksum ---


@functools.cache
def undamaged(layout):
    if layout in OTHERS:
        return load_files("folder", {f"p/{n}": c for n, c in OTHERS[layout].items()}, path="p", image_size=12)
    name, files, options, _ = LAYOUTS[layout]
    return load_files(name, files, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
def test_damage_under_a_checksum_changes_nothing_or_is_named(layout, data):
    name, files, options, suffix = LAYOUTS[layout]
    path = data.draw(st.sampled_from([path for path in files if path.endswith(suffix) and "hidden" not in path]))
    content = data.draw(damaged(files[path]))
    assume(content != files[path])
    with right_or_refused_by_name(path.removeprefix("p/")) as refusal:
        loaded = load_files(name, files | {path: content}, **options)
    assert refusal or same(loaded, undamaged(layout))


# --- no checksum: the damaged image may differ, and nothing else ---


@given(st.data(), st.sampled_from(sorted(OTHERS)))
def test_other_formats_change_one_image_or_are_named(data, suffix):
    files = {f"p/{name}": content for name, content in OTHERS[suffix].items()}
    images = sorted(name for name in files if name.endswith(suffix))
    path = data.draw(st.sampled_from(images))
    content = data.draw(damaged(files[path]))
    with right_or_refused_by_name(path.removeprefix("p/")) as refusal:
        loaded = load_files("folder", files | {path: content}, path="p", image_size=12)
    if not refusal:
        whole = undamaged(suffix)
        others = torch.tensor([name != path for name in images])
        assert loaded.class_names == whole.class_names and torch.equal(loaded.images[others], whole.images[others])


@given(st.data())
def test_archives_damaged_before_they_were_packed(data):
    """A checksum that is right says nothing here: the tables inside must fit together, or are refused."""
    content = data.draw(damaged(TAR))
    with right_or_refused_by_name("cifar-10-binary.tar.gz") as refusal:
        loaded = load_files("cifar10", {"cifar-10-binary.tar.gz": gzip.compress(content, 1)})
    assert refusal or (len(loaded.class_names) >= 1 and loaded.images.shape == (len(loaded.labels), 3, 32, 32))


@given(st.data(), st.sampled_from(EMNIST), st.booleans())
def test_idx_files_damaged_before_they_were_packed(data, name, packed):
    content = data.draw(damaged(IDX[name]))
    files = {
        f"EMNIST/raw/{n}{'.gz' * packed}": gzip.compress(c, 1) if packed else c
        for n, c in (IDX | {name: content}).items()
    }
    with right_or_refused_by_name(name) as refusal:
        loaded = load_files("emnist", files)
    assert refusal or (loaded.images.shape == (len(loaded.labels), 1, 28, 28) and len(loaded.labels) <= 94)


@given(st.binary(max_size=80), st.sampled_from(["p.zip", "p/a/0.png", "cifar-10-binary.tar.gz", "cifar10_jpeg.zip"]))
def test_any_bytes_are_refused(content, path):
    name = "cifar10" if "cifar" in path else "folder"
    options = {} if name == "cifar10" else {"path": path.split("/")[0]}
    with right_or_refused_by_name(PurePosixPath(path).name) as refusal:
        load_files(
            name,
            {path: content, "p/b/0.png": FOLDER["birds/wren/0.png"]} if "/" in path else {path: content},
            **options,
        )
    assert refusal


# --- names ---

parts = st.text(st.sampled_from("ab. -\u00e9\u4e2d\u3000\n\x7f\u2028\\\udce9"), min_size=1, max_size=3)
paths = st.lists(st.one_of(parts, st.sampled_from(["a", "b", ".", "..", ""])), max_size=3)
BROKEN = set("\n\x7f\u2028\udce9")


@given(st.lists(st.tuples(paths, st.sampled_from(["0", "1", "\u00e9", "\n", "."])), min_size=2, max_size=6))
def test_names_in_a_zip_are_kept_or_refused(entries):
    names = ["/".join([*folders, f"{stem}.png"]) for folders, stem in entries]
    names = [name for name in names if "\udce9" not in name]  # what zipfile cannot write
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for number, name in enumerate(names):
                archive.writestr(zipfile.ZipInfo(name), image_bytes(color(number, (8, 8)), "PNG"))
    with right_or_refused_by_name("p.zip") as refusal:
        loaded = load_files("folder", {"p.zip": buffer.getvalue()}, path="p.zip", image_size=8)
    pure = [PurePosixPath(name) for name in names]
    leads_out = any(path.is_absolute() or ".." in path.parts or "\\" in str(path) for path in pure)
    seen = [path for path in pure if not any(part.startswith(".") for part in path.parts)]
    twice = len(set(seen)) < len(seen)
    unusable = any(BROKEN & set(str(path)) for path in seen)
    few = len({path.parent for path in seen}) < 2
    assert bool(refusal) == (leads_out or twice or unusable or few)
    if not refusal:
        expected = sorted(
            color(names.index(n), (8, 8)).tobytes() for n, p in zip(names, pure, strict=True) if p in seen
        )
        assert sorted(image.permute(1, 2, 0).contiguous().numpy().tobytes() for image in loaded.images) == expected
        assert len(loaded.class_names) == len({path.parent for path in seen})


@given(st.lists(st.tuples(st.lists(parts, min_size=1, max_size=2), parts), min_size=2, max_size=5))
def test_names_in_a_folder_are_kept_or_refused(entries):
    names = {"/".join([*folders, f"{stem}.png"]) for folders, stem in entries}
    names = sorted(name for name in names if not {".", ".."} & set(name.split("/")))
    assume(not any(b.startswith(a + "/") for a in names for b in names))
    with right_or_refused_by_name("/p") as refusal:
        files = {f"p/{name}": image_bytes(color(number, (8, 8)), "PNG") for number, name in enumerate(names)}
        loaded = load_files("folder", files | {"p/x.txt": b""}, path="p", image_size=8)
    seen = [PurePosixPath(name) for name in names if not any(part.startswith(".") for part in name.split("/"))]
    unusable = any(BROKEN & set(str(path)) for path in seen)
    assert bool(refusal) == (unusable or len({path.parent for path in seen}) < 2)
    assert refusal or len(loaded.labels) == len(seen)


# --- modes and sizes ---

MODES = {  # mode -> (dtype, channels, formats that keep it)
    "L": (np.uint8, 1, ["PNG", "TIFF", "BMP", "GIF", "PPM"]),
    "LA": (np.uint8, 2, ["PNG", "TIFF"]),
    "RGB": (np.uint8, 3, ["PNG", "TIFF", "BMP", "PPM"]),
    "RGBA": (np.uint8, 4, ["PNG", "TIFF"]),
    "I;16": (np.uint16, 1, ["PNG", "TIFF", "PPM"]),
    "F": (np.float32, 1, ["TIFF"]),
}


def on_white(values, mode, key):
    """Reference in float64: RGB [height, width, 3] from 0 to 255."""
    values = values.astype(np.float64) / {"I;16": 65535, "F": 1}.get(mode, 255)
    if mode in ("LA", "RGBA"):
        shown, alpha = values[..., :-1], values[..., -1:]
    else:
        shown, alpha = values, 1.0 if key is None else 1.0 - (values == values[:1, :1]).all(2, keepdims=True)
    return np.broadcast_to(255 * (shown * alpha + 1 - alpha), (*values.shape[:2], 3))


@given(st.data(), st.sampled_from(sorted(MODES)), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_every_mode_and_size_keeps_its_shades(data, mode, height, width, seed):
    dtype, channels, formats = MODES[mode]
    file_format = data.draw(st.sampled_from(formats))
    rng = np.random.default_rng(seed)
    unit = rng.random((height, width, channels)) ** data.draw(st.sampled_from([0, 0.3, 1, 3]))
    values = (unit * {"I;16": 65535, "F": 1}.get(mode, 255)).astype(dtype)
    key = None
    if file_format == "PNG" and mode in ("L", "RGB", "I;16") and data.draw(st.booleans()):
        key = values[0, 0].tolist() if channels > 1 else values[0, 0, 0].item()
    options = {} if key is None else {"transparency": tuple(key) if channels > 1 else key}
    content = image_bytes(values if channels > 1 else values[..., 0], file_format, **options)
    image_size = data.draw(st.sampled_from([8, 16, max(8, height)]))
    with right_or_refused(ValueError) as refusal:
        loaded = load_files("folder", {"p/a/0.png": content, "p/b/0.png": content}, path="p", image_size=image_size)
    assert not refusal
    shown, expected = loaded.images[0].permute(1, 2, 0).double().numpy(), on_white(values, mode, key)
    if height == width == image_size:
        assert np.abs(shown - expected).max() <= 1
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    near = expected[max(0, top - 1) : top + side + 2, max(0, left - 1) : left + side + 2]
    assert (shown >= near.min((0, 1)) - 1.5).all() and (shown <= near.max((0, 1)) + 1.5).all()


def chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


@given(
    st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1), st.sampled_from([0, 2, 3, 4, 6]), st.sampled_from([1, 8, 16])
)
def test_sizes_that_a_few_bytes_claim(width, height, color_type, depth):
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((depth, color_type, 0, 0, 0))
    chunks = [(b"IHDR", header), (b"PLTE", bytes(6)), (b"IDAT", zlib.compress(bytes(2**16))), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)
    with right_or_refused_by_name("a/0.png") as refusal:
        load_files("folder", {"p/a/0.png": content, "p/b/0.png": FOLDER["birds/wren/0.png"]}, path="p", image_size=8)
    assert refusal or width * height <= Image.MAX_IMAGE_PIXELS
