"""`EpisodeExplorer`: one few-shot episode, its images, features and decisions, among thousands of others."""

import contextlib
import functools
import math

import numpy as np
import torch
import traitlets
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.transforms import IdentityTransform
from torch import Tensor

from ncbook import fewshot, plots
from ncbook._checks import check_choice, check_whole
from ncbook.catalog import SPLITS
from ncbook.runs import Run

from ._canvas import Explorer, Panel, refuse_labels_with_run

EPISODES, BLOCK = 10_000, 1_024  # of the distribution, and those drawn at a time
WRONG = "#D55E00"
_GRID = 48  # points of a decision region per side
_SHEET = (4.4, 3.2)  # inches of the sheet of images
_PIXELS = 640  # on its longer side: there is no room for more
_SETTING = ("way", "shot", "query", "head", "seed")


class EpisodeExplorer(Explorer):
    """One episode: support and query images, features in the plane of its class means, and how typical it is.

    Args:
        run_or_features: a `Run`, or features [N, D] of the caller's own with ``labels``.
        labels: integers [N]; None with a run.
        images: uint8 [N, C, H, W], one per feature; None: the run's own, or points where there are none.
        split: of the run.
        way, shot, query, head, seed: as in `ncbook.fewshot.evaluate`, whose episodes these are.
        episode: 0 ... 9,999.
        epoch: a saved epoch of the run; None: the last.

    Raises:
        TypeError, ValueError: for bad values; of a value that is set later, ``message`` says it.

    Example:
        >>> features = torch.tensor([[-2.0], [-1.0], [-1.5], [1.0], [2.0], [1.5]])
        >>> explorer = EpisodeExplorer(features, torch.tensor([0, 0, 0, 1, 1, 1]), way=2, shot=1, query=2)
        >>> explorer.text[:71]
        'Episode 0 of 10,000 (seed 0), 2-way 1-shot, head ncc: 4 of 4 queries ri'
        >>> explorer.close()
    """

    names = ("split", "way", "shot", "query", "head", "seed", "episode", "epoch")
    size = (9.9, 4.2)
    places = ((0.025, 0.14, 0.44, 0.78), (0.49, 0.14, 0.27, 0.76), (0.80, 0.21, 0.18, 0.69))
    buttons = {
        "previous": "previous",
        "next": "next",
        "hardest, then the next": "hardest",
        "most confused pair, then the next": "most_confused",
    }
    split, way, shot, query = traitlets.Any(), traitlets.Any(), traitlets.Any(), traitlets.Any()
    head, seed, episode, epoch = traitlets.Any(), traitlets.Any(), traitlets.Any(), traitlets.Any()

    def __init__(self, run_or_features, labels=None, *, images=None, split="novel", way=5, shot=5, query=15,
                 head="ncc", seed=0, episode=0, epoch=None):  # fmt: skip
        refuse_labels_with_run(run_or_features, labels)
        self._run = run_or_features if isinstance(run_or_features, Run) else None
        if self._run is None and labels is None:
            came = f"run_or_features is of type {type(run_or_features).__name__} without labels"
            raise TypeError(f"{came}; allowed: an ncbook.Run, or features [N, D] with labels [N]")
        if images is not None and not (isinstance(images, Tensor) and images.dtype == torch.uint8 and images.ndim == 4):
            raise TypeError(f"images is {type(images).__name__}; allowed: a uint8 tensor [N, C, H, W], or None")
        self._features = None if self._run else (run_or_features, labels)
        self._images, self._clicks = images, (None, 0)
        data = ["run"] if self._run else ["features", "labels"]
        values = dict(split=split, way=way, shot=shot, query=query, head=head, seed=seed, episode=episode, epoch=epoch)
        super().__init__(", ".join(data + ["images=images"] * (images is not None)), values)

    def next(self) -> None:
        """Show the next episode."""
        self.update(episode=(self.episode + 1) % EPISODES)

    def previous(self) -> None:
        """Show the episode before."""
        self.update(episode=(self.episode - 1) % EPISODES)

    def hardest(self) -> None:
        """Show the episode with the lowest accuracy of all 10,000; called again, the one that comes next."""
        order = self._distribution().per_episode.argsort(stable=True)
        self.update(episode=int(order[self._click("hardest") % EPISODES]))

    def most_confused(self) -> None:
        """Show the hardest episode with the two classes taken for each other most often; again: with the next pair."""
        result = self._distribution()
        pairs = _confused(result)
        pair = pairs[self._click("most confused") % len(pairs)]
        both = (result.classes.cpu()[..., None] == pair).any(1).all(-1)  # [E]
        self.update(episode=int(result.per_episode.cpu().masked_fill(~both, 2.0).argmin()))

    def close(self) -> None:
        """Free the figure, the widgets, and what was computed or handed over."""
        super().close()
        self._run = self._features = self._images = None

    def _click(self, button: str) -> int:
        """How many times the button was clicked before, one after the other with the same values."""
        key = (button, *self._key())
        self._clicks = (key, self._clicks[1] + 1 if self._clicks[0] == key else 0)
        return self._clicks[1]

    def _key(self) -> tuple:
        return tuple(repr(getattr(self, name)) for name in ("split", "epoch", *_SETTING))

    def _source(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, labels and images or None."""
        images = self._images
        if self._run is None:
            for name, usual in (("split", "novel"), ("epoch", None)):
                if getattr(self, name) != usual:
                    raise ValueError(f"{name}={getattr(self, name)!r} with features; allowed: with a Run")
            features, labels = self._features
        else:
            check_choice("split", self.split, SPLITS)
            classes = self._run.config["classes"]
            if not classes[self.split]:
                there = ", ".join(split for split in SPLITS if classes[split])
                raise ValueError(f"split={self.split!r} has no classes in this run; allowed: {there}")
            features, labels = self._run.features(self.split, self.epoch)
            if images is None:
                with contextlib.suppress(ValueError, OSError):  # handed over to training, or gone: points instead
                    images = getattr(self._run.splits, self.split).images
        if images is not None and len(images) != len(features):
            raise ValueError(f"images has {len(images)} rows; allowed: {len(features)}, one per row of features")
        return features, labels, images

    def _slow(self):
        if self._key() in self._cache.get("distribution", {}):
            return None
        features, labels, _ = self._remember("source", self._key()[:2], self._source, keep=2)
        setting = {name: getattr(self, name) for name in _SETTING}
        evaluate = functools.partial(fewshot.evaluate, features, labels, episodes=EPISODES, **setting)
        return "distribution", self._key(), evaluate

    def _distribution(self) -> fewshot.FewShotResult:
        """Accuracies of all episodes with the present values."""
        self._refuse_closed()
        return self._remember(*(self._slow() or ("distribution", self._key(), None)))

    def _look(self, quick):
        k = check_whole("episode", self.episode, 0, EPISODES - 1)
        check_choice("head", self.head, fewshot.HEADS)
        features, labels, images = self._remember("source", self._key()[:2], self._source, keep=2)
        way, shot, query = self.way, self.shot, self.query

        def block():
            last = (k // BLOCK + 1) * BLOCK
            drawn = fewshot.sample_episodes(labels, way=way, shot=shot, query=query, episodes=last, seed=self.seed)
            return fewshot.Episodes(*(part[-BLOCK:].clone() for part in vars(drawn).values()))

        key = (*self._key()[:5], repr(self.seed), k // BLOCK)  # the head does not matter
        episode = self._remember("episodes", key, block)[k % BLOCK]
        result = None if quick and self._slow() else self._distribution()
        rows = torch.cat([episode.support, episode.query], 1).cpu()  # [way, shot + query]
        support, queries = (features[part].double().cpu() for part in (episode.support, episode.query))  # of a picture
        axes, means = _plane(support)
        middle = means.mean(0)
        flat = [(part - middle) @ axes for part in (support.flatten(0, 1), queries.flatten(0, 1), means)]
        low, high = (torch.cat(flat).aminmax(dim=0)[end] for end in (0, 1))
        low, high = low - 0.06 * (high - low) - 1e-9, high + 0.06 * (high - low) + 1e-9
        ticks = torch.linspace(0, 1, _GRID, dtype=torch.float64)
        grid = middle + (low + (high - low) * torch.cartesian_prod(ticks, ticks)) @ axes.T  # [48 x 48, D], y fastest
        predicted = fewshot.predict(support[None], torch.cat([queries.flatten(0, 1), grid])[None], head=self.head)[0]
        predicted, regions = predicted.split([way * query, _GRID * _GRID])
        predicted = predicted.view(way, query)
        right = predicted == torch.arange(way)[:, None]
        accuracy = float(right.double().mean())
        tiles = None if images is None else images[rows.to(images.device)].cpu()
        plane = [(part - low) / (high - low) for part in flat], right, regions.view(_GRID, _GRID).T
        least = accuracy if result is None else float(result.per_episode.min())
        low = min(0.8, math.floor(10 * least) / 10)
        return self._words(k, labels, episode, right, accuracy, result), [
            Panel(None, _still_sheet, functools.partial(_draw_sheet, tiles, predicted, shot)),
            Panel(None, _still_plane, functools.partial(_draw_plane, *plane)),
            Panel(low, functools.partial(_still_histogram, low), functools.partial(_draw_histogram, result, accuracy)),
        ]

    def _words(self, k, labels, episode, right, accuracy, result) -> str:
        where = f" on {self.split}, epoch {'last' if self.epoch is None else self.epoch}" if self._run else ""
        numbers = labels.unique()[episode.classes.cpu()].tolist()
        classes = f" Rows 1 to {self.way} are the classes {', '.join(map(str, numbers))}." if self.way <= 10 else ""
        text = (f"Episode {k:,} of {EPISODES:,} (seed {self.seed}){where}, {self.way}-way {self.shot}-shot, head "
                f"{self.head}: {int(right.sum())} of {right.numel()} queries right ({accuracy:.3f})."
                f"{classes}")  # fmt: skip
        if result is None:
            return text
        easier = float((result.per_episode > accuracy + 1e-9).double().mean())
        first, second = (int(result.labels[c]) for c in _confused(result)[0])
        return text + (f" All: {result.accuracy:.3f} ± {result.ci95:.3f} (95 %); {100 * easier:.0f} % are easier. Most "
                       f"often confused: classes {first} and {second}.")  # fmt: skip

    def _largest(self):
        sizes = self._remember("source", self._key()[:2], self._source, keep=2)[1].unique(return_counts=True)[1]
        samples = int(sizes.min())  # of the smallest class
        return {"way": min(20, len(sizes)), "shot": samples - self.query, "query": samples - self.shot}

    def _in_control(self, name):
        value = getattr(self, name)
        return self._run.saved_epochs[-1] if name == "epoch" and value is None and self._run is not None else value

    def _controls(self, w):
        ends = {name: (1 + (name == "way"), end) for name, end in self._largest().items()}
        made = {name: w.IntSlider(getattr(self, name), *end, description=name) for name, end in ends.items()}
        made["head"] = w.Dropdown(options=fewshot.HEADS, value=self.head, description="head")
        made["episode"] = w.BoundedIntText(self.episode, 0, EPISODES - 1, description="episode")
        made["seed"] = w.BoundedIntText(self.seed, 0, 10**6, description="seed")
        if self._run:
            made["split"] = w.Dropdown(options=SPLITS, value=self.split, description="split")
            epochs, epoch = self._run.saved_epochs, self._in_control("epoch")
            made["epoch"] = w.SelectionSlider(options=epochs, value=epoch, description="epoch")
        return made


@functools.cache
def _number(k: int) -> Path:
    """The outline of a class's number, from -0.5 to 0.5."""
    marker = MarkerStyle(f"${k + 1}$" if k >= 0 else "$=$")
    return marker.get_path().transformed(marker.get_transform())


def _draw_numbers(classes, x, y, color, ax):
    """Numbers of classes [n] at places: one artist, where a text each would take longer than all the rest."""
    sizes = np.where(np.asarray(classes) < 9, 25, 49)
    outlines = PathCollection(
        [_number(int(k)) for k in classes],
        sizes,
        offsets=np.stack([x, y], 1),
        offset_transform=ax.transData,
        facecolors=color,
        edgecolors=color,
        linewidths=0.3,
        clip_on=False,
    )
    outlines.set_transform(IdentityTransform())
    return ax.add_collection(outlines)


def _still_sheet(ax):
    ax.set(xticks=[], yticks=[], aspect="equal", anchor="N")
    ax.spines[:].set_visible(False)
    ax.set_title("classes: shots | queries; framed: wrong, with the\nnumber of the class predicted (= : a tie)")


def _draw_sheet(tiles: Tensor | None, predicted: Tensor, shot: int, ax) -> list:
    """Images [way, shot + query, C, H, W] (None: points); a wrong query framed, with the number of its class."""
    way, query = predicted.shape
    lines, places = _layout(way, shot, query)  # places: x, y in tiles, [way, shot + query, 2]
    columns = places[..., 0].max() + 1
    ax.set(xlim=(-columns / 24, columns), ylim=(lines * way, 0))
    ax.apply_aspect()
    drawn = []
    if tiles is None:
        x, y = places.reshape(-1, 2).T + 0.5
        drawn.append(ax.scatter(x, y, c=np.repeat(_colors(way), shot + query, 0), s=12))
    else:
        step = max(1, max(columns, lines * way) * tiles.shape[-1] // _PIXELS)
        tiles = tiles[..., ::step, ::step].permute(0, 1, 3, 4, 2).numpy()  # [way, shot + query, H, W, C]
        tiles = 255 - tiles if tiles.shape[-1] == 1 else tiles  # ink dark on light
        sheet = np.full((lines * way, columns, *tiles.shape[2:4], 3), 255, np.uint8)
        sheet[places[..., 1], places[..., 0]] = tiles
        sheet = sheet.swapaxes(1, 2).reshape(lines * way * tiles.shape[2], -1, 3)
        extent = (0, columns, lines * way, 0)
        drawn.append(ax.imshow(sheet, extent=extent, interpolation="nearest", aspect="equal"))
    rules = [[(0, lines * k), (columns, lines * k)] for k in range(way + 1)]
    edge = [[(places[0, shot, 0], 0), (places[0, shot, 0], lines * way)]]
    colors, widths = ["0.8"] * len(rules) + ["black"], [0.6] * len(rules) + [1.5]
    drawn.append(ax.add_collection(LineCollection(rules + edge, colors=colors, linewidths=widths)))
    own = np.arange(way)
    drawn.append(_draw_numbers(own, np.full(way, -columns / 48), lines * own + 0.5, "black", ax))
    classes = predicted.numpy()
    wrong = classes != own[:, None]
    if wrong.any():
        corners = places[:, shot:][wrong]  # [wrong, 2]
        frames = corners[:, None] + np.array([[0.04, 0.04], [0.96, 0.04], [0.96, 0.96], [0.04, 0.96]])
        drawn.append(ax.add_collection(PolyCollection(frames, facecolors="none", edgecolors=WRONG, linewidths=1.6)))
        x, y = corners.T + np.array([[0.8], [0.24]])
        drawn += ax.plot(x, y, "s", color="white", markersize=7, markeredgewidth=0)
        drawn.append(_draw_numbers(classes[wrong], x, y, WRONG, ax))
    return drawn


def _layout(way: int, shot: int, query: int) -> tuple[int, np.ndarray]:
    """Lines per class for the largest images, and the left upper corner [way, shot + query, 2] of each, in tiles."""

    def size(lines: int) -> float:
        return min(_SHEET[0] / (-(-shot // lines) - (-query // lines)), _SHEET[1] / (lines * way))

    lines = max(range(1, 7), key=size)
    for_shots, for_queries = -(-shot // lines), -(-query // lines)
    i, j = np.arange(shot), np.arange(query)
    x = np.concatenate([i % for_shots, j % for_queries + for_shots])
    y = np.concatenate([i // for_shots, j // for_queries]) + lines * np.arange(way)[:, None]
    return lines, np.stack([np.broadcast_to(x, y.shape), y], -1)


def _colors(way: int) -> np.ndarray:
    return np.array([to_rgb(plots.CLASSES[k % len(plots.CLASSES)]) for k in range(way)])  # [way, 3]


def _still_plane(ax):
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    ax.set_title("plane of the class means (numbers): squares shots,\ndots right, crosses wrong; regions on the plane")


def _draw_plane(flat, right: Tensor, regions: Tensor, ax) -> list:
    support, queries, means = (part.numpy() for part in flat)
    way, colors = len(means), _colors(len(means))
    shades = np.vstack([0.75 + 0.25 * colors, [[1, 1, 1]]])[regions.numpy()]  # a tie is white
    drawn = [ax.imshow(shades, origin="lower", extent=(0, 1, 0, 1), aspect="auto", interpolation="nearest")]
    right, of = right.flatten().numpy(), np.repeat(colors, len(queries) // way, 0)
    for shown, marker, size in ((right, "o", 9), (~right, "x", 24)):
        drawn.append(ax.scatter(*queries[shown].T, c=of[shown], marker=marker, s=size, linewidths=1.2))
    of = np.repeat(colors, len(support) // way, 0)
    drawn.append(ax.scatter(*support.T, c=of, marker="s", s=15, edgecolors="black", linewidths=0.7))
    drawn += ax.plot(*means.T, "o", color="white", markeredgecolor="black", markersize=11, markeredgewidth=0.8)
    drawn.append(_draw_numbers(range(way), *means.T, "black", ax))
    return drawn


def _still_histogram(low: float, ax):
    ax.set(xlim=(low - 0.005, 1.005), ylim=(0, 1.05), xlabel="accuracy (fraction of queries)", yticks=[])
    ax.set_title("this episode (solid) among all;\ntheir mean dashed")


def _draw_histogram(result: fewshot.FewShotResult | None, accuracy: float, ax) -> list:
    here = ax.axvline(accuracy, color=WRONG)
    if result is None:
        words = dict(transform=ax.transAxes, ha="center", color="0.4")
        return [here, ax.text(0.5, 0.5, "all of them when\nthe controls rest", **words)]
    accuracies, steps = result.per_episode.cpu().numpy(), result.way * result.query
    width = max(1, steps // 40) / steps  # a bar per possible accuracy, or per few of them
    counts, edges = np.histogram(accuracies, bins=np.arange(accuracies.min() - width / 2, 1 + width, width))
    bars = ax.stairs(counts / counts.max(), edges, fill=True, color="0.7")
    return [bars, ax.axvline(result.accuracy, color="black", linestyle="--", linewidth=1), here]


def _plane(support: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal axes [D, 2] that hold most of the means' differences, and the means [way, D]."""
    means = support.mean(1)
    centered = means - means.mean(0)
    spread = (support - means[:, None]).flatten(0, 1)  # a second axis where the means are on a line
    axes = torch.linalg.svd(torch.cat([centered, 1e-4 * spread]), full_matrices=False).Vh[:2].T  # [D, at most 2]
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)  # one sign everywhere
    return torch.nn.functional.pad(axes, (0, 2 - axes.shape[1])), means


def _confused(result: fewshot.FewShotResult) -> Tensor:
    """Pairs of classes [P, 2], those that are most often taken for each other first."""
    mistakes = (result.confusion + result.confusion.T).cpu()
    pairs = torch.combinations(torch.arange(len(mistakes)))
    return pairs[mistakes[pairs[:, 0], pairs[:, 1]].argsort(descending=True, stable=True)]
