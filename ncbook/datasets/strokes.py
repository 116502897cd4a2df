"""Handwritten-like glyphs from a seeded generator: any number of i.i.d. classes of one distribution.

A class is a program of one to four strokes, a sample is a jittered execution of it. Every random number is a
hash of (seed, class, sample, place), so class i does not depend on how many classes there are, nor sample j
on how many samples, and every machine draws the same. Touches the cache only. Called by `datasets.load`.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ncbook._checks import check_whole
from ncbook.datasets import ImageClasses
from ncbook.datasets._cache import cache_key, cached

VERSION = 1  # raise when the same options give other pixels
MOST = 100_000_000  # images: 78 GB
SIDE, FINE = 28, 3  # strokes are drawn on a grid of 84 x 84 cells and averaged over 3 x 3
GRID = SIDE * FINE
GRAY = (np.arange(FINE**2 + 1) * 255 / FINE**2).round().astype(np.uint8)  # by the number of inked cells
MARGIN = 2.5  # cells; not whole, so that no rounding decides where a glyph that fills the canvas begins
STROKES, PIECES, POINTS = 4, 4, 112  # at most: strokes per glyph, pieces per stroke; points along a stroke
CANDIDATES = 6
CHUNK = 256  # images at a time: the arrays of one chunk stay in the processor's cache
DEGREE = np.pi / 180
LARGEST = 2**63 - 1  # of options, which are counters of a 64-bit hash


def load(
    root: str | os.PathLike | None = None,
    *,
    n_classes: int = 1024,
    per_class: int = 20,
    seed: int = 0,
    strokes: int | None = None,
) -> ImageClasses:
    """Draw glyphs, or find them in the cache.

    Args:
        root: not used: nothing is read.
        n_classes: number of classes; class i is the same for any number.
        per_class: number of samples per class, at least 2; sample j is the same for any number.
        seed: chooses the distribution's draws; from 0 to 2**63 - 1.
        strokes: only classes of so many strokes, 1 to 4: the first of them, under their own names. None: all.

    Returns:
        images uint8 [n_classes * per_class, 1, 28, 28], ink bright on 0; the last quarter of each class's
        samples, rounded up, is held out.

    Raises:
        TypeError: an option is not an integer.
        ValueError: an option is out of its range, or there are too many images.
    """
    n_classes = check_whole("n_classes", n_classes, 1, LARGEST)
    per_class = check_whole("per_class", per_class, 2, LARGEST)
    seed = check_whole("seed", seed, 0, LARGEST)
    if n_classes * per_class > MOST:
        raise ValueError(f"n_classes={n_classes}, per_class={per_class}; allowed: {MOST:,} images in all")
    options = {"version": VERSION, "n_classes": n_classes, "per_class": per_class, "seed": seed}
    classes = np.arange(n_classes)
    if strokes is not None:
        options["strokes"] = check_whole("strokes", strokes, 1, STROKES)
        many = np.arange(32 * n_classes + 32)  # each number of strokes has a fifth of all classes, or more
        classes = many[_n_strokes(seed, many) == strokes][:n_classes]
    key = cache_key(json.dumps(options, sort_keys=True))
    return cached("strokes", key, lambda: _build(classes, per_class, seed))


def _build(classes: np.ndarray, per_class: int, seed: int) -> ImageClasses:
    n_classes = len(classes)
    images = np.empty((n_classes * per_class, SIDE, SIDE), np.uint8)

    def fill(start: int) -> None:
        rows = np.arange(start, min(start + CHUNK, len(images)))
        images[rows[0] : rows[-1] + 1] = _draw(seed, classes[rows // per_class], rows % per_class)

    with ThreadPoolExecutor(min(8, torch.get_num_threads())) as threads:  # NumPy computes outside the GIL
        list(threads.map(fill, range(0, len(images), CHUNK)))
    held_out = per_class - -(-per_class // 4)
    return ImageClasses(
        name="strokes",
        images=torch.from_numpy(images).unsqueeze(1),
        labels=torch.arange(n_classes).repeat_interleave(per_class),
        class_names=[f"glyph{i:05d}" for i in classes],
        held_out=(torch.arange(per_class) >= held_out).repeat(n_classes),
    )


def _hash(*counters: np.ndarray | int) -> np.ndarray:
    """Hash the (broadcast) counters by splitmix64: uint64, every bit fair and unrelated to the others."""
    state = np.zeros(1, np.uint64)
    for counter in counters:
        state = state ^ np.asarray(counter).astype(np.uint64)
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def _uniform(*counters: np.ndarray | int) -> np.ndarray:
    """Draws from [0, 1), float64."""
    return (_hash(*counters) >> np.uint64(11)) * 2.0**-53


def _normal(*counters: np.ndarray | int) -> np.ndarray:
    """Draws of mean 0, variance 1 and size at most 3.5: sums of four uniform ones."""
    bits = _hash(*counters)
    total = sum((bits >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.float64) for shift in (0, 16, 32, 48))
    return (total / 65536 - (2 - 2 / 65536)) * np.sqrt(3)


def _n_strokes(seed: int, classes: np.ndarray) -> np.ndarray:
    """Strokes of the glyphs of classes [n]: int64, 1 to STROKES."""
    return 1 + np.searchsorted([0.2, 0.52, 0.8], _uniform(seed, 1, classes, 0), side="right")


def _programs(seed: int, classes: np.ndarray) -> dict[str, np.ndarray]:
    """The stroke programs of classes [n]: arrays [n], [n, STROKES] or [n, STROKES, PIECES].

    A class is the most legible of a few candidates with the same number of strokes: much of the canvas is inked by
    short strokes, so that strokes rarely lie on one another.
    """
    n = len(classes)
    program = _candidates(seed, np.repeat(classes, CANDIDATES), np.tile(np.arange(CANDIDATES), n))
    x, y, present = _execute(program, points=POINTS // 4)
    width, height = np.ptp(x, axis=(1, 2)), np.ptp(y, axis=(1, 2))
    # The glyph is stretched toward a square, then scaled to its size.
    stretch = np.clip((np.maximum(height, 0.1) / np.maximum(width, 0.1)) ** 0.25, 0.7, 1.4)
    extent = np.maximum(np.maximum(width * stretch, height / stretch), 0.3)
    program |= {"stretch": stretch, "scale": program["size"] / extent}

    column, row = (np.floor((v - v.min((1, 2), keepdims=True)) / extent[:, None, None] * 14) for v in (x, y))
    cells = np.sort((row * 64 + column).reshape(len(x), -1), axis=1)
    inked = 1 + (np.diff(cells, axis=1) > 0).sum(1)
    drawn = (program["length"].sum(2) * present).sum(1) / extent
    score = inked / (drawn + 0.5) ** 0.8
    best = np.arange(n) * CANDIDATES + score.reshape(n, CANDIDATES).argmax(1)
    return {key: value[best] for key, value in program.items()}


def _candidates(seed: int, classes: np.ndarray, candidates: np.ndarray) -> dict[str, np.ndarray]:
    """Stroke programs of the candidates [m] of the classes [m]; lengths are relative, angles in radians."""
    stroke, piece = np.arange(STROKES)[:, None], np.arange(PIECES)
    of_class, of_candidate = classes[:, None, None], candidates[:, None, None]

    def glyph_draw(place: int) -> np.ndarray:  # [m], the same for all candidates
        return _uniform(seed, 1, classes, place)

    def stroke_draw(place: int) -> np.ndarray:  # [m, STROKES]
        return _uniform(seed, 2, of_class, of_candidate, stroke, place)[:, :, 0]

    def piece_draw(place: int) -> np.ndarray:  # [m, STROKES, PIECES]
        return _uniform(seed, 3, of_class, of_candidate, stroke, piece, place)

    n_strokes = _n_strokes(seed, classes)
    # The fewer strokes a glyph has, the more pieces they are made of.
    more = np.array([0.0, 0.45, 0.1, -0.15, -0.15])[n_strokes][:, None]
    n_pieces = 1 + np.searchsorted([0.45, 0.75, 0.95], np.minimum(stroke_draw(0) + more, 0.999), side="right")
    dot = (stroke_draw(1) < 0.06) & (np.arange(STROKES) > 0)
    n_pieces = np.where(dot, 1, n_pieces)

    # A piece is a line, an arc or a hook: its turn from beginning to end, in degrees; most turn to one side.
    kind, amount = piece_draw(0), piece_draw(2)
    side = np.where(stroke_draw(10) < 0.5, -1.0, 1.0)[:, :, None] * np.where(piece_draw(1) < 0.25, -1.0, 1.0)
    turn = np.select([kind < 0.55, kind < 0.88], [12 * amount, 50 + 120 * amount], 180 + 150 * amount) * side
    length = (0.4 + 0.6 * piece_draw(3)) * np.where(kind < 0.88, 1.0, 1.3)
    length = np.where(dot[:, :, None], 0.04, length) * (piece < n_pieces[:, :, None])
    # Pieces join in a right angle, turn back, or join smoothly.
    join, angle = piece_draw(4), piece_draw(5)
    corner = np.select([join < 0.45, join < 0.75], [80 + 20 * angle, 115 + 45 * angle], 0.0) * side
    # Most strokes set out to the right or downward (y points down).
    direction = np.array([0.0, 90.0, 45.0, 135.0, 180.0, 270.0, 315.0])
    heading = direction[np.searchsorted([0.4, 0.8, 0.85, 0.9, 0.94, 0.97], stroke_draw(2), side="right")]
    heading = heading + 14 * (stroke_draw(3) - 0.5)

    # A later stroke begins on an earlier one, crosses it, or stands free of it.
    relation = np.where(dot, 1.0, stroke_draw(6))
    distance = np.where(relation < 0.75, 0.0, 0.3 + 0.4 * stroke_draw(8))
    around = 2 * np.pi * stroke_draw(9)
    return {
        "n_strokes": n_strokes,
        "heading": heading * DEGREE,
        "turn": turn * DEGREE,
        "corner": corner * DEGREE,
        "length": length,
        "earlier": np.floor(stroke_draw(4) * np.arange(STROKES)).astype(np.int64),
        "at": np.clip(1.6 * stroke_draw(5) - 0.3, 0.0, 1.0),  # point of the earlier stroke; often one of its ends
        "own": np.where(relation < 0.55, 0.0, 0.25 + 0.5 * stroke_draw(7)),  # point of its own that lies there
        "shift_x": distance * np.cos(around),
        "shift_y": distance * np.sin(around),
        # The longer side, as a fraction of the canvas.
        "size": 0.35 + 0.28 * glyph_draw(1) + 0.035 * n_strokes,
    }


def _jitter(
    seed: int, classes: np.ndarray, samples: np.ndarray, program: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The programs [n, …] as the samples [n] carry them out, and how each sample distorts its whole glyph."""
    stroke, piece = np.arange(STROKES)[:, None], np.arange(PIECES)
    of_class, of_sample = classes[:, None, None], samples[:, None, None]

    def glyph_draw(place: int) -> np.ndarray:  # [n]
        return _normal(seed, 4, classes, samples, place)

    def stroke_draw(place: int) -> np.ndarray:  # [n, STROKES]
        return _normal(seed, 5, of_class, of_sample, stroke, place)[:, :, 0]

    def piece_draw(place: int) -> np.ndarray:  # [n, STROKES, PIECES]
        return _normal(seed, 6, of_class, of_sample, stroke, piece, place)

    carried_out = program | {
        "heading": program["heading"] + 6 * DEGREE * stroke_draw(0),
        "turn": program["turn"] * (1 + 0.1 * piece_draw(0)) + 7 * DEGREE * piece_draw(1),
        "corner": program["corner"] + 7 * DEGREE * piece_draw(2),
        "length": program["length"] * (1 + 0.15 * piece_draw(3)),
        "at": np.clip(program["at"] + 0.05 * stroke_draw(1), 0.0, 1.0),
        "own": np.clip(program["own"] + 0.03 * stroke_draw(2), 0.0, 1.0),
        "shift_x": program["shift_x"] + 0.05 * stroke_draw(3),
        "shift_y": program["shift_y"] + 0.05 * stroke_draw(4),
    }
    distortion = {
        "turn": 3 * DEGREE * glyph_draw(0),
        "slant": 0.1 * glyph_draw(1),
        "widen": program["stretch"] * (1 + 0.08 * glyph_draw(2)),
        "heighten": (1 + 0.08 * glyph_draw(6)) / program["stretch"],
        "scale": program["scale"] * (1 + 0.1 * glyph_draw(3)),
        "right": 0.04 * glyph_draw(4),
        "down": 0.04 * glyph_draw(5),
    }
    return carried_out, distortion


def _execute(program: dict[str, np.ndarray], points: int = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk along every stroke: x and y [n, STROKES, points], and which strokes are present, bool [n, STROKES].

    All points of an absent stroke are the first point of the first stroke.
    """
    present = np.arange(STROKES) < program["n_strokes"][:, None]  # [n, STROKES]
    turn, corner, length = (program[key][present] for key in ("turn", "corner", "length"))  # [m, PIECES] each
    total = length.sum(1, keepdims=True)  # [m, 1]
    end = np.cumsum(length, axis=1) / total
    begin = end - length / total
    time = (np.arange(points) + 0.5) / points
    heading = program["heading"][present][:, None] + np.zeros(points)  # [m, points]
    for p in range(PIECES):
        b, e = begin[:, p, None], end[:, p, None]
        heading += turn[:, p, None] * np.clip((time - b) / np.maximum(e - b, 1e-9), 0.0, 1.0)
        if p:
            heading += corner[:, p, None] * (time > b)

    x, y = np.zeros((2, len(present), STROKES, points))
    x[present] = np.cumsum(np.cos(heading) * (total / points), axis=1)
    y[present] = np.cumsum(np.sin(heading) * (total / points), axis=1)
    at, own = (np.rint(program[key] * (points - 1)).astype(np.int64) for key in ("at", "own"))
    row = np.arange(len(present))
    for s in range(1, STROKES):
        for path, shift in ((x, program["shift_x"]), (y, program["shift_y"])):
            anchor = path[row, program["earlier"][:, s], at[:, s]] + shift[:, s]
            path[:, s] += (anchor - path[row, s, own[:, s]])[:, None]
            path[~present[:, s], s] = path[~present[:, s], 0, :1]
    return x, y, present


def _draw(seed: int, classes: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Images uint8 [n, 28, 28] of samples [n] of classes [n]."""
    distinct, of_sample = np.unique(classes, return_inverse=True)
    program = {key: value[of_sample] for key, value in _programs(seed, distinct).items()}
    carried_out, distortion = _jitter(seed, classes, samples, program)
    x, y, present = _execute(carried_out)

    def each(key: str) -> np.ndarray:
        return distortion[key][:, None, None]

    cos, sin = np.cos(each("turn")), np.sin(each("turn"))
    y = y * each("heighten")
    u = x * each("widen") - each("slant") * y
    x, y = (cos * u - sin * y) * each("scale"), (sin * u + cos * y) * each("scale")
    x = _place(x * GRID, distortion["right"] * GRID)
    y = _place(y * GRID, distortion["down"] * GRID)
    cell = np.floor(y).astype(np.int64) * GRID + np.floor(x).astype(np.int64)  # [n, STROKES, POINTS]
    cell += np.arange(len(cell))[:, None, None] * GRID**2
    return _ink(cell[present].ravel(), len(cell))


def _place(path: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Put each glyph's middle `shift` cells off the canvas's middle; smaller and nearer where it must be."""
    low, high = path.min((1, 2)), path.max((1, 2))
    room = GRID / 2 - MARGIN
    half = (high - low) / 2
    shrink = np.minimum(1.0, room / np.maximum(half, 1e-9))
    shift = np.clip(shift, half * shrink - room, room - half * shrink)
    middle, shrink, shift = (v[:, None, None] for v in ((low + high) / 2, shrink, shift))
    return (path - middle) * shrink + (GRID / 2 + shift)


def _ink(cells: np.ndarray, n: int) -> np.ndarray:
    """Ink a round pen's 12 cells at each of the cells, then average over 3 x 3: uint8 [n, 28, 28]."""
    point = np.zeros(n * GRID**2, np.uint8)
    point[cells] = 1
    # The pen is 4 x 4 cells without corners; the margin keeps it from running over a row's or an image's end.
    point[1:] |= point[:-1]
    point[GRID:] |= point[:-GRID]
    ink = point.copy()
    for step in (1, GRID):
        ink[step:] |= point[:-step]
        ink[:-step] |= point[step:]
    ink = ink.reshape(n, SIDE, FINE, GRID)
    rows = ink[:, :, 0] + ink[:, :, 1] + ink[:, :, 2]  # [n, 28, 84]
    inked = rows[..., 0::FINE] + rows[..., 1::FINE] + rows[..., 2::FINE]  # [n, 28, 28], of 9
    return GRAY[inked]
