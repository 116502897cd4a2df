"""The generated glyphs: the same classes everywhere, each of its own, hard enough and handwritten-like."""

import hashlib

import numpy as np
import pytest
import torch

from ncbook import datasets
from ncbook.datasets import strokes

MIDDLE_ROWS = [
    [
        [0, 0, 0, 0, 0, 57, 227, 255, 255, 255, 198, 255, 0, 170, 170, 0],
        [0, 142, 255, 255, 227, 85, 0, 0, 170, 198, 0, 170, 255, 113, 0, 0],
    ],
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 57],
        [113, 198, 227, 142, 0, 0, 57, 0, 0, 0, 0, 0, 57, 198, 170, 170],
    ],
    [
        [0, 0, 0, 113, 227, 255, 227, 227, 255, 227, 28, 0, 0, 255, 113, 0],
        [0, 0, 170, 255, 113, 0, 0, 0, 0, 85, 227, 227, 28, 0, 0, 0],
    ],
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 85, 85, 85, 85, 85, 85, 85, 113, 170, 170, 170, 170, 170, 227],
    ],
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NCBOOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets"


def glyphs(n_classes=12, per_class=6, seed=0):
    images = strokes._build(np.arange(n_classes), per_class, seed)
    return images.images.view(n_classes, per_class, 28, 28)


def test_shapes_and_names():
    images = datasets.load("strokes", n_classes=7, per_class=8)
    assert images.images.shape == (56, 1, 28, 28) and images.images.dtype == torch.uint8
    assert images.labels.tolist() == sorted(list(range(7)) * 8)
    assert images.held_out.view(7, 8).tolist() == [[False] * 6 + [True] * 2] * 7
    assert images.class_names[3] == "glyph00003" and images.official is None


def test_class_does_not_depend_on_the_number_of_classes():
    assert torch.equal(glyphs(n_classes=12), glyphs(n_classes=300)[:12])


def test_classes_of_so_many_strokes_are_those_of_the_whole():
    whole, names = glyphs(n_classes=100), set()
    for number in (1, 2, 3, 4):
        some = datasets.load("strokes", n_classes=5, per_class=6, strokes=number)
        for place, name in enumerate(some.class_names):
            assert torch.equal(some.images.view(5, 6, 28, 28)[place], whole[int(name.removeprefix("glyph"))])
            assert strokes._programs(0, np.array([int(name[5:])]))["n_strokes"] == number
        more = datasets.load("strokes", n_classes=9, per_class=6, strokes=number)
        assert more.class_names[:5] == some.class_names and len(more.class_names) == 9
        names |= set(some.class_names)
    assert len(names) == 20
    with pytest.raises(ValueError, match="strokes=5; allowed: a whole number of at least 1 and at most 4"):
        datasets.load("strokes", n_classes=5, strokes=5)


def test_sample_does_not_depend_on_the_number_of_samples():
    assert torch.equal(glyphs(per_class=6), glyphs(per_class=50)[:, :6])


def test_seed_changes_every_class_and_every_image_is_another():
    first, second = glyphs(seed=0), glyphs(seed=1)
    assert (first != second).flatten(1).any(1).all()
    everything = torch.cat([first, second]).reshape(-1, 784)
    assert len(everything.unique(dim=0)) == len(everything)


def test_programs_are_the_same_on_every_machine():
    program = strokes._programs(0, np.arange(64))
    digest = hashlib.sha256()
    for key in sorted(program):
        digest.update(np.rint(program[key] * 1e6).astype("<i8").tobytes())
    assert digest.hexdigest() == "181292b12722d793b8bd40c6d2d8bbc3e3170137065f4cca77bf8312ee52ff75"


def test_hash_is_splitmix64():
    # The reference generator's first outputs from the state 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + i * golden) % 2**64 for i in range(3)], np.uint64)
    assert strokes._hash(states).tolist() == expected


def test_draws_have_the_moments_they_claim():
    counters = np.arange(100_000)
    uniform, normal = strokes._uniform(0, counters), strokes._normal(0, counters)
    assert abs(uniform.mean() - 0.5) < 0.005 and abs(uniform.var() - 1 / 12) < 0.002
    assert abs(normal.mean()) < 0.015 and abs(normal.var() - 1) < 0.02 and abs(normal).max() < 3.5
    assert abs(np.corrcoef(uniform[1:], uniform[:-1])[0, 1]) < 0.015


def test_images_are_the_same_on_every_machine_within_one_gray_level():
    images = glyphs(n_classes=4, per_class=2)
    assert torch.equal(images, glyphs(n_classes=4, per_class=2))
    row = images[:, :, 14, 6:22].int()  # [4, 2, 16], from the middle row of each
    assert (row - torch.tensor(MIDDLE_ROWS)).abs().max() <= 1


def test_glyphs_keep_off_the_edge_and_have_ink():
    images = glyphs(n_classes=200, per_class=5).float() / 255
    ink = images.mean((2, 3))
    assert 0.06 < ink.mean() < 0.1 and ink.min() > 0.005
    edge = torch.cat([images[..., 0, :], images[..., 27, :], images[..., :, 0], images[..., :, 27]], -1)
    assert edge.mean() < 0.01


def test_within_class_variation_is_that_of_handwriting():
    images = (glyphs(n_classes=300, per_class=20).float() / 255).flatten(2)
    means = images.mean(1)
    within = (images - means[:, None]).square().sum(2).mean() * 20 / 19
    between = torch.cdist(means, means).square().sum() / (300 * 299)
    assert 1.9 < within / between < 2.9  # Omniglot: 2.2


def test_second_load_is_from_the_cache(cache, monkeypatch):
    first = datasets.load("strokes", n_classes=5)
    datasets.load("strokes", n_classes=6)
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(strokes, "_build", lambda *_: pytest.fail("drawn again"))
    second = datasets.load("strokes", n_classes=5, seed=np.int64(0))
    assert torch.equal(first.images, second.images) and first.fingerprint == second.fingerprint


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_classes": 0}, ValueError, "n_classes=0; allowed: a whole number of at least 1 "),
        ({"per_class": 1}, ValueError, "per_class=1; allowed: a whole number of at least 2 "),
        ({"seed": -1}, ValueError, "seed=-1; allowed: a whole number of at least 0 "),
        ({"seed": 2**63}, ValueError, "seed=9223372036854775808; allowed: .* at most 9223372036854775807"),
        ({"n_classes": 8.0}, TypeError, "n_classes=8.0 is of type float; allowed: a whole number"),
        ({"per_class": True}, TypeError, "per_class=True is of type bool; allowed: a whole number"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        datasets.load("strokes", **options)


def test_more_images_than_any_machine_holds_are_refused_by_name():
    with pytest.raises(ValueError, match="n_classes=100, per_class=1000001; allowed: 100,000,000 images in all"):
        datasets.load("strokes", n_classes=100, per_class=1_000_001)
