"""`CollapseExplorer`: features of source and new classes over the epochs of a run, in one fixed projection."""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
import traitlets
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from torch import Tensor

from ncbook import backbones, collapse, plots
from ncbook._checks import check_choice, check_features, check_real, check_whole
from ncbook.features import extract, resolve_device
from ncbook.runs import Run

from ._canvas import Explorer, Panel, refuse_labels_with_run

SPLITS = {"source_classes": "source_train", "novel_classes": "novel"}
_CURVES = [("cdnv", "source_train", plots.COLORS["source_train"]), ("cdnv", "novel", plots.COLORS["novel"]),
           *zip(["nc1", "nc2", "nc3", "nc4"], ["source_train"] * 4, ["#009E73", "#CC79A7", "#E69F00", "0.5"],
                strict=True)]  # fmt: skip


class Projected(NamedTuple):
    """Chosen classes of a layer at every saved epoch.

    Attributes:
        points: epoch -> float64 [N, 3], coordinates in one projection for all epochs, in units of the mean distance
            of the epoch's class means from their middle.
        pairs: epoch -> CDNV float64 [C, C].
        labels: int64 [N], rows of ``pairs``.
        order: classes, near ones together.
        norm: colors of the CDNV, the same for all epochs.
        radius: half the width of a picture that holds 99 % of all points of all epochs, from every side.
    """

    points: dict[int, Tensor]
    pairs: dict[int, Tensor]
    labels: Tensor
    order: list[int]
    norm: mpl.colors.LogNorm
    radius: float


class CollapseExplorer(Explorer):
    """Train classes collapse, and new ones follow: a slider through the recorded epochs, and one through the layers.

    Features are shown in the three directions in which the last epoch's class means spread most, each epoch about the
    middle of its class means and in units of their mean distance from it: points move, axes do not, and what is seen
    to shrink is the spread of a class beside the distance of classes.

    Args:
        run: a `Run`, or features of the caller's own training, {epoch: features [N, D]}, with ``labels``.
        labels: integers [N]; None with a run.
        epoch: a saved epoch; None: the last.
        layer: a name of `ncbook.backbones.layers`; None or "f(x)": the features f(x).
        source_classes, novel_classes: how many classes, or a list of their numbers; None: the first five. Features of
            the caller's own are all of source classes.
        turn: degrees by which the three-dimensional view is turned; at 0 it is the plane of the first two directions.

    Raises:
        TypeError, ValueError: for bad values; of a value that is set later, ``message`` says it.

    Example:
        Two classes with means at distance 4, whose variance falls from 1 to 0.01: V = 2 / (2 x 16), then 1 / 100 of it.

        >>> noise, labels = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]), torch.tensor([0, 0, 1, 1])
        >>> features = {epoch: 4.0 * labels[:, None] + 0.1**epoch * noise for epoch in (0, 1)}
        >>> explorer = CollapseExplorer(features, labels=labels, epoch=0)
        >>> explorer.text
        'Epoch 0 of 1, features: mean CDNV of 2 source classes 0.0625 (4 samples).'
        >>> explorer.epoch = 1
        >>> explorer.text
        'Epoch 1 of 1, features: mean CDNV of 2 source classes 0.000625 (4 samples).'
        >>> explorer.close()
    """

    names = ("epoch", "layer", "source_classes", "novel_classes", "turn")
    size = (9.9, 3.9)
    places = ((0.02, 0.15, 0.30, 0.74), (0.375, 0.15, 0.25, 0.74), (0.63, 0.15, 0.01, 0.74), (0.735, 0.21, 0.25, 0.68))
    epoch, layer, turn = traitlets.Any(), traitlets.Any(), traitlets.Any()
    source_classes, novel_classes = traitlets.Any(), traitlets.Any()

    def __init__(self, run, *, labels=None, epoch=None, layer=None, source_classes=None, novel_classes=None, turn=0):
        refuse_labels_with_run(run, labels)
        self._run, self._link = (run if isinstance(run, Run) else _OwnFeatures(run, labels)), None
        values = dict(epoch=epoch, layer=layer, source_classes=source_classes, novel_classes=novel_classes, turn=turn)
        super().__init__("run" if self._run is run else "features, labels=labels", values)

    def close(self) -> None:
        """Free the figure, the widgets and what was computed."""
        super().close()
        if self._link is not None:
            self._link.close()
        self._run = self._link = None

    def _chosen(self) -> tuple[tuple[int, ...], ...]:
        """Class numbers of both splits, checked."""
        chosen = []
        for name, split in SPLITS.items():
            value = getattr(self, name)
            count = self._remember("classes", split, lambda: _count(self._run.features(split)[1]))  # noqa: B023
            least = min(count, 1 + (split == "source_train"))
            value = min(5, count) if value is None else value
            if not isinstance(value, list | tuple | range):
                value = range(check_whole(name, value, least, count))
            chosen.append(tuple(dict.fromkeys(check_whole(name, number, 0, count - 1) for number in value)))
            if len(chosen[-1]) < least:
                raise ValueError(f"{name}={value!r}; allowed: at least {least} of the classes 0 to {count - 1}")
        return tuple(chosen)

    def _features(self, epoch: int, layer: str | None, split: str, classes: tuple[int, ...]) -> list[Tensor]:
        """Features of each of some classes."""
        if layer is None:
            features, labels = self._run.features(split, epoch)
        else:  # of these classes alone: those of all images take long
            part = getattr(self._run.splits, split)
            kept = torch.isin(part.labels, torch.tensor(classes))
            model = self._run.model(epoch).to(resolve_device(self._run.device))
            features, labels = extract(model, part.images[kept], layer=layer).cpu(), part.labels[kept]
        return [features[labels == number].double() for number in classes]

    def _over_epochs(self, layer: str | None, chosen: tuple[tuple[int, ...], ...]) -> Projected:
        axes, points, pairs = None, {}, {}
        for epoch in reversed(self._run.saved_epochs):
            parts = [part for split, classes in zip(SPLITS.values(), chosen, strict=True)
                     for part in self._features(epoch, layer, split, classes)]  # fmt: skip
            labels = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))
            features = torch.cat(parts)
            pairs[epoch] = collapse.cdnv_matrix(features, labels)
            means = torch.stack([part.mean(0) for part in parts])
            middle = means.mean(0)  # of this epoch: what all classes have in common drifts far, and tells nothing
            if axes is None:
                axes = torch.linalg.svd(means - middle, full_matrices=False).Vh[:3].T  # [D, at most 3]
                axes = torch.nn.functional.pad(axes, (0, 3 - axes.shape[1]))
                apart = pairs[epoch].nan_to_num(0.0).clamp(1e-6, 1e6).rsqrt().fill_diagonal_(0).numpy()
                order = hierarchy.leaves_list(hierarchy.average(squareform(apart, checks=False))).tolist()
            unit = (means - middle).norm(dim=1).mean().clamp_min(1e-12)  # collapse is small beside it, at any scale
            points[epoch] = (features - middle) @ axes / unit
        radius = float(torch.cat([*points.values()]).norm(dim=1).quantile(0.99))
        known = torch.cat([each[~each.isnan()] for each in pairs.values()]).clamp(1e-4, 1e4)
        low, high = known.quantile(0.01), known.quantile(0.99)
        norm = mpl.colors.LogNorm(float(low) / 1.01, float(high) * 1.01)
        return Projected(points, pairs, labels, order, norm, 1.1 * radius)

    def _look(self, quick):
        chosen, epochs = self._chosen(), self._remember("epochs", None, lambda: self._run.saved_epochs)
        epoch = epochs[-1] if self.epoch is None else self.epoch
        if epoch not in epochs or isinstance(epoch, bool):
            raise ValueError(f"epoch={epoch!r} was not kept; kept: {', '.join(map(str, epochs))}")
        layer = None if self.layer in (None, "f(x)") else self.layer
        if layer is not None:
            check_choice("layer", layer, self._layers())
        turn = check_real("turn", self.turn, -360, 360)
        found = self._remember("projected", (layer, chosen), lambda: self._over_epochs(layer, chosen))
        history = self._remember("history", None, lambda: self._run.history)
        names = [f"{kind}{number}" for kind, numbers in zip("sn", chosen, strict=True) for number in numbers]
        pairs, source, sides = found.pairs[epoch], len(chosen[0]), []
        for name, side in (("source", pairs[:source, :source]), ("new", pairs[source:, source:])):
            if len(side) > 1:
                sides.append(f"mean CDNV of {len(side)} {name} classes {float(side.nanmean()):.3g}")
        where = "features" if layer is None else f"layer {layer}"
        if isinstance(self._run, Run):
            e = self._run.experiment
            where += f"{' f(x)' * (layer is None)} of {e.backbone} trained on {e.n_source} classes of {e.dataset}"
        text = f"Epoch {epoch} of {epochs[-1]}, {where}: {', '.join(sides)} ({len(found.labels)} samples)."
        return text, [
            Panel(None, _still_points, functools.partial(_draw_points, found, epoch, source, names, turn)),
            Panel((layer, chosen), functools.partial(_still_matrix, found.order, names),
                  functools.partial(_draw_matrix, pairs[found.order][:, found.order], found.norm)),
            Panel((layer, chosen), functools.partial(_still_scale, found.norm), lambda ax: []),
            Panel(None, functools.partial(_still_history, history), lambda ax: [
                ax.axvline(epoch, color="black", linewidth=1)]),
        ]  # fmt: skip

    def _layers(self) -> list[str]:
        names = backbones.layers(self._run.experiment.backbone) if isinstance(self._run, Run) else []
        return [*names, "f(x)"]

    def _in_control(self, name):
        if name in SPLITS:
            return len(self._chosen()[[*SPLITS].index(name)])
        usual = {"epoch": self._run.saved_epochs[-1], "layer": "f(x)"}
        return usual.get(name) if getattr(self, name) is None else getattr(self, name)

    def _controls(self, w):
        epochs = self._run.saved_epochs
        epoch = w.SelectionSlider(options=epochs, value=self._in_control("epoch"), description="epoch")
        play = w.Play(value=epoch.index, min=0, max=len(epochs) - 1, interval=500, tooltip="play the epochs")
        self._link = w.jslink((play, "value"), (epoch, "index"))  # in the browser: the slider tells the kernel
        made = {
            "epoch": epoch,
            "play": play,
            "layer": w.SelectionSlider(options=self._layers(), value=self._in_control("layer"), description="layer"),
            "turn": w.IntSlider(int(self.turn), -180, 180, step=5, description="turn (°)"),
        }
        for name, split in SPLITS.items():
            most = self._cache["classes"][split]
            ends = min(most, 1 + (split == "source_train")), min(most, 64)
            made[name] = w.IntSlider(self._in_control(name), *ends, description=name.replace("_", " "))
        if not isinstance(self._run, Run):  # of the caller's own features there is one layer, and no new class
            made = {name: control for name, control in made.items() if name not in ("layer", "novel_classes")}
        return made


class _OwnFeatures:
    """Features of the caller's own training, with what the explorer asks of a `Run`."""

    def __init__(self, features: Mapping[int, Tensor], labels: Tensor | None):
        if not (isinstance(features, Mapping) and features):
            came = "an empty mapping" if isinstance(features, Mapping) else f"of type {type(features).__name__}"
            raise TypeError(f"run is {came}; allowed: a Run, or {{epoch: features [N, D]}} with labels=")
        for epoch, values in features.items():
            check_whole("epoch", epoch, 0)
            check_features(values, labels)
        self._features = {int(epoch): values.detach().cpu() for epoch, values in sorted(features.items())}
        self._labels = labels.unique(return_inverse=True)[1].cpu()  # as of a run: 0 ... C - 1
        self.saved_epochs = [*self._features]

    def features(self, split: str, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        kept = slice(None) if split == "source_train" else slice(0)
        return self._features[self.saved_epochs[-1] if epoch is None else epoch][kept], self._labels[kept]

    @property
    def history(self) -> pd.DataFrame:
        rows = [
            (epoch, "source_train", metric, float(getattr(collapse, metric)(values, self._labels)))
            for epoch, values in self._features.items()
            for metric in ("cdnv", "nc1", "nc2")
        ]
        return pd.DataFrame(rows, columns=["epoch", "split", "metric", "value"])


def _count(labels: Tensor) -> int:
    return int(labels.max()) + 1 if len(labels) else 0


def _seen(points: Tensor, turn: float) -> np.ndarray:
    """Points [N, 3] from a side: [N, 2]; turned about the second direction."""
    angle = math.radians(turn)
    x, y, z = points.T.numpy()
    return np.stack([math.cos(angle) * x + math.sin(angle) * z, y])


def _still_points(ax):
    ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], aspect="equal", anchor="W")
    ax.spines[:].set(visible=True, color="0.8")
    ax.set_title("one fixed projection, scaled to the class means:\ndots source classes s, triangles new classes n")


def _draw_points(found: Projected, epoch: int, source: int, names: list[str], turn: float, ax) -> list:
    x, y = _seen(found.points[epoch], turn) / found.radius
    foot, drawn = -0.8, []
    for direction, (right, up) in enumerate(0.16 * _seen(torch.eye(3, dtype=torch.float64), turn).T):
        drawn += ax.plot([foot, foot + right], [foot, foot + up], color="0.5", linewidth=1)
        if math.hypot(right, up) > 0.05:
            drawn.append(ax.text(foot + 1.3 * right, foot + 1.3 * up, str(direction + 1), color="0.5", fontsize=6,
                                 ha="center", va="center"))  # fmt: skip
    labels, count = found.labels.numpy(), len(names)
    palette = np.array([mpl.colors.to_rgb(c) for c in plots.CLASSES])
    colors = palette[np.where(labels < source, labels, labels - source) % len(palette)]
    for new, marker in ((labels < source, "o"), (labels >= source, "^")):
        drawn.append(ax.scatter(x[new], y[new], c=colors[new], marker=marker, s=13, alpha=0.7, linewidths=0))
    if count <= 24:
        sizes = np.bincount(labels, minlength=count)
        middles = np.bincount(labels, x, count) / sizes, np.bincount(labels, y, count) / sizes
        for name, *place in zip(names, *middles, strict=True):
            drawn.append(ax.text(*place, name, fontweight="bold", fontsize=7, ha="center", va="center"))
    return drawn


def _still_matrix(order: list[int], names: list[str], ax):
    n = len(order)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), title="CDNV of pairs of classes,\nnear ones together")
    if n <= 24:
        ax.set_xticks(range(n), [names[k] for k in order], rotation=90)
        ax.set_yticks(range(n), [names[k] for k in order])
    else:
        ax.set(xticks=[], yticks=[], xlabel=f"{n} classes")
    ax.tick_params(length=0)


def _draw_matrix(pairs: Tensor, norm: mpl.colors.LogNorm, ax) -> list:
    return [ax.imshow(pairs.numpy(), norm=norm, cmap="viridis", aspect="auto", interpolation="nearest")]


def _still_scale(norm: mpl.colors.LogNorm, ax):
    ax.figure.colorbar(mpl.cm.ScalarMappable(norm, "viridis"), cax=ax)
    plots.plain_log_ticks(ax.yaxis)


def _still_history(history: pd.DataFrame, ax):
    for (metric, split, color), marker in zip(_CURVES, "o^sDvP", strict=True):
        rows = history[(history["metric"] == metric) & (history["split"] == split)]
        label = plots.METRICS[metric].split(" ")[0] + (", new classes" if split == "novel" else "")
        if len(rows):
            ax.plot(rows["epoch"], rows["value"], color=color, marker=marker, markersize=3, label=label)
    ax.set(yscale="log", xlabel="epoch", title="all classes; line: this epoch")
    low, high = ax.get_ylim()
    ax.set_ylim(low * (low / high) ** 0.3, high)  # room for the legend
    plots.plain_log_ticks(ax.yaxis)
    ax.legend(ncols=2, fontsize=6, loc="lower left", bbox_to_anchor=(-0.02, 0.0), columnspacing=0.8, handlelength=1.4)
