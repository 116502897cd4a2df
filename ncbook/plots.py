"""One function per figure: takes data and an ``ax``, gives the ``ax`` back. No computing.

The same color for a split everywhere (Okabe & Ito's palette, safe for color-blind readers); log axes where
values span decades; theoretical values dashed. Notebooks call `use_style` once.
"""

import itertools
import math
from collections.abc import Iterator
from importlib.resources import files

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncbook import progress
from ncbook._checks import check_choice
from ncbook._files import in_figures

__all__ = [
    "BOUND_COLORS", "CLASSES", "COLORS", "DATA", "LOGARITHMIC", "LiveFigure", "MARKERS", "METRICS", "NAMES", "SHOTS",
    "accuracy_against_cdnv", "against_source_classes", "by_layer", "by_set", "by_source_classes", "dots",
    "errors_and_bounds", "factors", "models", "over_training", "plain_log_ticks", "save", "save_table", "setup",
    "sheet", "tightness", "use_style", "worst_errors",
]  # fmt: skip
__dir__ = __all__.copy

COLORS = {"source_train": "#0072B2", "source_test": "#009E73", "novel": "#D55E00", "validation": "#CC79A7"}
MARKERS = {"source_train": "o", "source_test": "s", "novel": "^", "validation": "D"}
CLASSES = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000"]
NAMES = {
    "source_train": "source classes, training samples",
    "source_test": "source classes, unseen samples",
    "novel": "new classes",
    "validation": "validation classes",
}
METRICS = {
    "cdnv": "CDNV",
    "cdnv_debiased": "CDNV, de-biased (median over pairs)",
    "cdnv_debiased_mean": "CDNV, de-biased",
    "nc1": "NC1",
    "nc2": "NC2",
    "nc2_uncentered": "NC2 (as printed)",
    "nc2_normalized": "NC2 (centered, normalized)",
    "nc3": "NC3",
    "nc4": "NC4 (fraction of samples)",
    "accuracy": "accuracy (fraction of samples)",
    "loss": "loss (nats)",
    "accuracy_5shot": "5-shot accuracy (fraction, 5-way)",
    "error": "error (fraction of queries)",
    "error_5shot": "5-shot error (fraction, 5-way)",
    "accuracy_1shot": "1-shot accuracy (fraction, 5-way)",
    "min_distance": "smallest distance of class means",
    "min_distance_normalized": "smallest distance of class means\n/ their mean distance from the center",
    "fuzziness": "separation fuzziness",
    "mismatch": "nearest-mean mismatch (fraction)",
}
LOGARITHMIC = {"cdnv", "cdnv_debiased", "cdnv_debiased_mean", "nc1", "loss", "fuzziness", "error_5shot"}


def use_style() -> None:
    """Set matplotlib's defaults for the notebooks: small type, light grid, figures readable at column width."""
    mpl.style.use(files("ncbook") / "notebooks.mplstyle")


def _axes(ax: Axes, metric: str, x: str = "epoch") -> Axes:
    ax.set_xlabel({"epoch": "epoch", "step": "optimization step"}[x])
    ax.set_ylabel(METRICS.get(metric, metric))
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    if metric in LOGARITHMIC:
        ax.set_yscale("log")
        plain_log_ticks(ax.yaxis)
    return ax


def plain_log_ticks(axis) -> None:
    """Label a log axis with plain numbers at 1, 2 and 5 of each decade, or at 1 where there are many decades."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low) if 0 < low < high else 1.0
    axis.set_major_locator(mpl.ticker.LogLocator(base=10, subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def _check_metric(table: pd.DataFrame, metric: str) -> None:
    """Refuse a name that is misspelled; a known metric may have no rows yet, while networks train."""
    check_choice("metric", metric, [*dict.fromkeys([*METRICS, *table["metric"]])])


def over_training(history: pd.DataFrame, metric: str, *, ax: Axes, splits=None, ideal: float | None = None) -> Axes:
    """One metric over training, one line per split; of several networks the mean, in a band from least to largest.

    Args:
        history: tidy: epoch, step, split, metric, value; of one run, or of several with the same epochs.
        metric: which metric.
        ax: where to draw.
        splits: which splits; None: all on which it was measured.
        ideal: theoretical value, drawn as a dashed line.
    """
    _check_metric(history, metric)
    rows = history[history["metric"] == metric]
    for split in COLORS if splits is None else splits:
        if (rows["split"] == split).any():
            _with_band(ax, rows[rows["split"] == split], "epoch", COLORS[split], NAMES[split], MARKERS[split])
    if ideal is not None:
        ax.axhline(ideal, color="0.3", linestyle="--", linewidth=1, label=f"theory: {ideal:g}")
    return _axes(ax, metric)


def _shades(n_source: pd.Series) -> dict[int, tuple]:
    """A color for each number of source classes: the more, the darker."""
    sizes = sorted(n_source.unique())
    return dict(zip(sizes, mpl.colormaps["viridis_r"](np.linspace(0.15, 1.0, len(sizes))), strict=True))


def _marked(keys: pd.Series) -> Iterator[tuple]:
    """Each key with its shade and a marker, so that no curve is told apart by color alone."""
    for (key, shade), marker in zip(_shades(keys).items(), itertools.cycle("os^DvPX*"), strict=False):
        yield key, shade, marker


def _finite(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """Without the places where a network has no finite value: a mean over those that are left would be of others."""
    return rows[np.isfinite(rows["value"]).groupby(rows[x]).transform("all")]


def _with_band(ax: Axes, rows: pd.DataFrame, x: str, color, label: str, marker: str = "o", line: str = "-") -> None:
    """The mean over networks, in a band from the smallest to the largest of them."""
    values = _finite(rows, x).groupby(x)["value"]
    mean = values.mean()
    ax.plot(mean.index, mean, color=color, label=label, marker=marker, linestyle=line, markeredgewidth=0)
    if (values.size() > 1).any():
        ax.fill_between(mean.index, values.min(), values.max(), color=color, alpha=0.2, linewidth=0)


def by_source_classes(
    table: pd.DataFrame, split: str, metric: str, *, ax: Axes, x: str = "step", by: str = "n_source"
) -> Axes:
    """One metric of one split over training, one curve and marker per number of source classes (dark = many).

    Args:
        table: tidy histories with a column ``n_source``; several runs of one number make a band from the smallest to
            the largest value around their mean.
        split: which split.
        metric: which metric.
        ax: where to draw.
        x: "epoch" or "step".
        by: another column that tells the runs apart, such as "layers".
    """
    _check_metric(table, metric)
    rows = table[(table["split"] == split) & (table["metric"] == metric)]
    for key, shade, marker in _marked(rows[by]):
        _with_band(ax, rows[rows[by] == key], x, shade, f"{key:g}", marker)
    ax.set_title(NAMES.get(split, split), fontsize=9)
    return _axes(ax, metric, x)


def by_layer(layers: pd.DataFrame, metric: str, *, ax: Axes, dashed=()) -> Axes:
    """A layer-wise metric against the layer's depth, one curve and marker per depth of the network (dark = deep).

    Args:
        layers: rows of `layerwise.measure` of several networks, with a column ``layers``; several networks of one depth
            make a band, as in `by_source_classes`.
        metric: "cdnv", "fuzziness" or "mismatch".
        ax: where to draw.
        dashed: depths drawn dashed, such as those that are not trained.
    """
    for depth, shade, marker in _marked(layers["layers"]):
        rows = layers[layers["layers"] == depth].assign(value=layers[metric])
        _with_band(ax, rows, "depth", shade, f"{depth:g}", marker, "--" if depth in dashed else "-")
    _axes(ax, metric).set_xlabel("layer")
    return ax


_SETS = {"support": "-", "query": ":"}


def by_set(table: pd.DataFrame, metric: str, *, ax: Axes, floor: str | None = None) -> Axes:
    """One metric of the support sets (solid) and query sets (dotted) of episodes over training, a color per split.

    Args:
        table: rows of `episodewise.measure`; several networks make a band, as in `over_training`.
        metric: which metric.
        ax: where to draw.
        floor: a metric whose mean over networks is drawn dashed, such as "nc1_floor".
    """
    _check_metric(table, metric)
    for split, color in COLORS.items():
        for part, line in _SETS.items():
            rows = table[(table["split"] == split) & (table["set"] == part)]
            if (rows["metric"] == metric).any():
                label = f"{NAMES[split]}, {part} sets" if split != "source_train" else f"training classes, {part} sets"
                _with_band(ax, rows[rows["metric"] == metric], "epoch", color, label, MARKERS[split], line)
            if floor is not None and (rows["metric"] == floor).any():
                mean = rows[rows["metric"] == floor].groupby("epoch")["value"].mean()
                ax.plot(mean.index, mean, color=color, linestyle="--", linewidth=0.9)
    return _axes(ax, metric)


def factors(rows: pd.DataFrame, *, ax: Axes) -> Axes:
    """Factors with their intervals on a log axis, a row each, with 1 dashed.

    Args:
        rows: label, statistic, low and high; an interval that is not finite is left out.
        ax: where to draw.
    """
    places = range(len(rows))[::-1]
    for place, row in zip(places, rows.itertuples(), strict=True):
        if np.isfinite([row.low, row.high]).all():
            ax.plot([row.low, row.high], [place, place], color="0.3", linewidth=1.2)
        ax.plot(row.statistic, place, "o", color="0.1")
    ax.axvline(1, color="0.3", linestyle="--", linewidth=1)
    ax.set_yticks(places, rows["label"], fontsize=8)
    ax.set(xscale="log", ylim=(-0.6, len(rows) - 0.4))
    plain_log_ticks(ax.xaxis)
    return ax


DATA = {
    "mini_imagenet": "Mini-ImageNet",
    "cifar_fs": "CIFAR-FS",
    "fc100": "FC-100",
    "omniglot": "Omniglot",
    "strokes": "strokes",
}
SHOTS = {1: ("#E69F00", "o"), 5: ("#0072B2", "s")}  # color and marker


def dots(cells: pd.DataFrame, *, ax: Axes, dataset: str, networks: pd.DataFrame | None = None, note: str = "") -> Axes:
    """Accuracies of one data set with their intervals, a row per method, a color and a marker per shot.

    Args:
        cells: method, dataset, shot, accuracy, half_width (of the 95 % interval, NaN for none), and ``mark``: "measured
            here" is drawn filled, what is published hollow.
        ax: where to draw.
        dataset: which data set.
        networks: method, dataset, shot and accuracy of single networks, drawn small.
        note: what belongs to the numbers, such as network and n: second line of the title.
    """
    methods = list(dict.fromkeys(cells["method"]))[::-1]
    for offset, (shot, (color, marker)) in zip((0.15, -0.15), SHOTS.items(), strict=True):
        for frame, size in ((networks, 2), (cells, 4)):
            rows = cells[:0] if frame is None else frame[(frame["dataset"] == dataset) & (frame["shot"] == shot)]
            for row in rows.itertuples():
                face = "white" if getattr(row, "mark", "measured here") != "measured here" else color
                ax.errorbar(row.accuracy, methods.index(row.method) + offset, xerr=getattr(row, "half_width", np.nan),
                            fmt=marker, color=color, markerfacecolor=face, markersize=size, linewidth=1,
                            alpha=1 if size == 4 else 0.4)  # fmt: skip
        ax.plot([], [], marker, color=color, label=f"{shot}-shot")
    ax.set_yticks(range(len(methods)), methods, fontsize=7)
    ax.set(ylim=(-0.7, len(methods) - 0.3), xlabel="5-way accuracy (fraction)")
    ax.set_title(f"{DATA.get(dataset, dataset)}\n{note}".strip(), fontsize=9)
    return ax


def against_source_classes(table: pd.DataFrame, metric: str, *, ax: Axes, splits=("source_test", "novel")) -> Axes:
    """Final value of a metric against the number of source classes: a point per network, a line through their means."""
    rows = table if "repeat" in table else table.assign(repeat=0)
    rows = rows[rows["metric"] == metric].sort_values("epoch")
    last = rows.groupby(["split", "n_source", "repeat"]).tail(1)
    for split in splits:
        points = _finite(last[last["split"] == split], "n_source")
        mean, style = points.groupby("n_source")["value"].mean(), {"color": COLORS[split]}
        ax.plot(points["n_source"], points["value"], MARKERS[split], alpha=0.6, markeredgewidth=0, **style)
        ax.plot(mean.index, mean, marker=MARKERS[split], markersize=0, label=NAMES[split], **style)
    _axes(ax, metric).set_xlabel("source classes l")
    ax.set_xscale("log", base=2)
    sizes = sorted(last["n_source"].unique())
    ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
    ax.minorticks_off()
    return ax


def accuracy_against_cdnv(table: pd.DataFrame, *, ax: Axes) -> Axes:
    """5-shot error against CDNV on new classes: trained networks filled, the same at earlier epochs hollow."""
    rows = table if "repeat" in table else table.assign(repeat=0)
    keys = ["n_source", "repeat", "epoch"]
    wide = rows[rows["split"] == "novel"].pivot_table(index=keys, columns="metric", values="value").reset_index()
    wide["last"] = wide["epoch"] == wide.groupby(["n_source", "repeat"])["epoch"].transform("max")
    for (n_source, shade), marker in zip(_shades(table["n_source"]).items(), "os^Dv<>ph*" * 9, strict=False):
        for final, points in wide[wide["n_source"] == n_source].groupby("last"):
            style = {"markersize": 6, "label": f"{n_source}"} if final else {"markersize": 4, "markerfacecolor": "none"}
            ax.plot(points["cdnv"], 1 - points["accuracy_5shot"], marker, color=shade, **style)
    ax.set(xscale="log", yscale="log", xlabel=f"CDNV of {NAMES['novel']}", ylabel=METRICS["error_5shot"])
    plain_log_ticks(ax.xaxis)
    plain_log_ticks(ax.yaxis)
    return ax


def models(table: pd.DataFrame, *, ax: Axes) -> Axes:
    """Few-shot error, of the last accuracy in a table of `ncbook.compare_models`, against CDNV, with intervals."""
    accuracy = next(c for c in table.columns[::-1] if c.startswith("accuracy") and c.count("_") == 3)
    for row, color, marker in zip(table.to_dict("records"), itertools.cycle(CLASSES), itertools.cycle("os^DvPX*")):
        x, y = row["cdnv"], 1 - row[accuracy]
        sideways = [[x - row["cdnv_low"]], [row["cdnv_high"] - x]]
        upright = [[row[f"{accuracy}_high"] - row[accuracy]], [row[accuracy] - row[f"{accuracy}_low"]]]
        ax.errorbar(x, y, xerr=sideways, yerr=upright, color=color, marker=marker, capsize=2, label=row["model"])
    _, way, shot, head = accuracy.split("_")
    ax.set(xlabel="CDNV", ylabel=f"{shot[:-4]}-shot error (fraction, {way[:-3]}-way, {head})")
    ax.legend()
    return ax


def sheet(images: torch.Tensor, *, columns: int, ax: Axes, title: str = "") -> Axes:
    """Images [N, C, H, W] side by side, ``columns`` in a row, ink dark on light."""
    rows = math.ceil(len(images) / columns)
    n, c, h, w = images.shape
    tiles = torch.zeros(rows * columns, c, h, w, dtype=torch.uint8)
    tiles[:n] = images
    grid = tiles.view(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    ax.imshow((grid.squeeze(-1) if c == 1 else grid).numpy(), cmap="gray_r", interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(title, fontsize=9)
    return ax


def setup(source: torch.Tensor, target: torch.Tensor, *, shot: int, ax: Axes, episodes=()) -> Axes:
    """What the slides assume, as a picture: source classes, the feature map f, a target task with few samples.

    Args:
        source, target: images [classes, samples, C, H, W].
        shot: the first samples of each class of a task are its shots, framed solid; its queries are framed dotted.
        ax: where to draw.
        episodes: lists of source classes, by row, each one task of training; none: plain training on all of them.
    """
    plain, meta = (
        "$g \\circ f$ on all\n$l$ classes at once",
        "for each episode:\n$g_S$ on the shots,\nerror on the queries",
    )
    training = meta if episodes else plain
    names = f"$l$ = {len(source)} classes, $m$ = {source.shape[1]}", f"$k$ = {len(target)} classes, $n$ = {shot}"
    sides = ((0.04, source, r"\tilde{P}", episodes), (0.77, target, "P", [range(len(target))]))
    for (x, classes, letter, tasks), name in zip(sides, names, strict=True):
        part, (height, width) = ax.inset_axes([x, 0.0, 0.23, 0.9]), classes.shape[-2:]
        sheet(classes.flatten(0, 1), columns=classes.shape[1], ax=part, title=name)
        for c in range(len(classes)):
            part.text(-4, (c + 0.5) * height, f"${letter}_{{{c + 1}}}$", ha="right", va="center")
        for task, color in zip(tasks, CLASSES[1:] if letter != "P" else ["black"], strict=False):
            for c in task:
                for style, left, n in (("-", 0, shot), (":", shot, classes.shape[1] - shot)):
                    look = {"fill": False, "color": color, "linewidth": 1.5, "linestyle": style}
                    place = (left * width + 1, c * height + 1)
                    part.add_patch(mpl.patches.Rectangle(place, n * width - 3, height - 3, **look))
    for x, text in ((0.375, training), (0.63, "$g_S$ on the $k n$\nshots, error\non the queries")):
        ax.text(x, 0.53, text, ha="center", fontsize=7)
        ax.annotate("", (x + 0.08, 0.45), (x - 0.08, 0.45), arrowprops={"arrowstyle": "->"})
    ax.text(0.5, 0.45, "$f$", ha="center", va="center", fontsize=13, bbox={"boxstyle": "round", "facecolor": "white"})
    ax.set_axis_off()
    return ax


BOUND_COLORS = {
    "b1": "0.55",
    "b5": "0.1",
    "best": "#6A3D9A",
    "printed": "#0072B2",
    "b2": "#E69F00",
    "b5_directional": "#009E73",
    "b3": "#56B4E9",
    "2026": "#CC79A7",
}
_OF_CDNV = {"b1": "--", "b5": "-.", "best": "-", "printed": ":"}  # bounds that are functions of the CDNV: lines


def errors_and_bounds(pairs: pd.DataFrame, bounds: dict[str, str], *, ax: Axes, sample: int = 300) -> Axes:
    """Measured two-class errors and their bounds against CDNV, on log axes; bounds of 1 or more are vacuous.

    Errors are drawn as counts per hexagon. Functions of the CDNV alone are lines with their name at the left end, in
    the order of their values; bounds that know more are drawn for some of the pairs, chosen at random.

    Args:
        pairs: one row per pair of classes: cdnv, error and a column for each bound.
        bounds: column -> label.
        ax: where to draw.
        sample: how many pairs' other bounds are drawn.
    """
    ordered = pairs.sort_values("cdnv")
    floor = pairs.loc[pairs["error"] > 0, "error"].min() / 2  # where errors of exactly 0 are drawn
    floor = floor if floor > 0 else 1e-4
    left, right = ordered["cdnv"].iloc[[0, -1]]
    ax.axhspan(1, 3, color="0.93")
    ax.text(0.01, 1.3, "vacuous (≥ 1)", transform=ax.get_yaxis_transform(), fontsize=7, color="0.4")
    counts = ax.hexbin(pairs["cdnv"], pairs["error"].clip(lower=floor), xscale="log", yscale="log", gridsize=(40, 26),
                       mincnt=1, cmap="Oranges", norm=mpl.colors.LogNorm(vmin=0.3), linewidths=0)  # fmt: skip
    name = f"measured error: pairs per cell, of {len(pairs):,} (0 at the bottom)"
    ticks = [10**k * few for k in range(5) for few in (1, 3)]
    bar = ax.figure.colorbar(counts, ax=ax, format="%d", ticks=ticks)
    bar.set_label(name, fontsize=8)
    bar.minorticks_off()
    lowest = 0.0
    for column in sorted(bounds, key=lambda c: ordered[c].iloc[0]):
        shade = BOUND_COLORS.get(column, "0.3")
        if column in _OF_CDNV:
            ax.plot(ordered["cdnv"], ordered[column], _OF_CDNV[column], color=shade, linewidth=1.4)
            lowest = max(ordered[column].iloc[0], 1.4 * lowest)  # names that would lie on each other move up
            ax.annotate(bounds[column], (left, lowest), (-3, 0), textcoords="offset points", color=shade, ha="right",
                        va="center", fontsize=7)  # fmt: skip
        else:
            some = pairs.sample(min(sample, len(pairs)), random_state=0)
            label = f"{bounds[column]} ({len(some)} of {len(pairs):,} pairs)"
            ax.plot(some["cdnv"], some[column], "+", color=shade, markersize=4, markeredgewidth=0.8, label=label)
    ax.set(xlim=(left * (left / right) ** 0.45 * 0.9, right * 1.1), ylim=(floor * 0.8, 3))
    ax.set(xlabel="CDNV of the pair", ylabel="two-class error (fraction)")
    plain_log_ticks(ax.xaxis)
    return ax


def worst_errors(frontier: pd.DataFrame, *, ax: Axes) -> Axes:
    """What is known of the largest error at each CDNV V, in units of 4V / (1 + 4V), a marker per number of shots.

    Args:
        frontier: shot, cdnv, error (of the worst distribution found: a lower limit, solid), proved (the best bound,
            dashed) and, if there, b5 (`theory.quadratic_bound`, dotted).
        ax: where to draw.
    """
    unit = 4 * frontier["cdnv"] / (1 + 4 * frontier["cdnv"])
    styles = {"error": "-", "proved": "--", "b5": ":"}
    names = {"error": "worst found", "proved": "best bound", "b5": "B5 (n = 1: min(B5, 6V/(1+3V)))"}
    columns = [name for name in styles if name in frontier]
    relative = frontier.assign(**{name: frontier[name] / unit for name in columns})
    for (shot, shade), marker in zip(_shades(frontier["shot"]).items(), "osD^vPX*", strict=False):
        line = relative[relative["shot"] == shot].sort_values("cdnv")
        for name in columns:
            label = f"n = {shot}" if name == "error" else None
            ax.plot(line["cdnv"], line[name], styles[name], marker=marker, markevery=7, color=shade, label=label,
                    linewidth=1.6 if name == "error" else 1.1)  # fmt: skip
    for name in columns:
        ax.plot([], [], styles[name], color="0.3", label=names[name])
    ax.axhline(1, color="0.3", linewidth=0.5)
    ax.set(xscale="log", ylim=(0, None), xlabel="CDNV V", ylabel="two-class error / (4V / (1 + 4V))")
    plain_log_ticks(ax.xaxis)
    return ax


def tightness(table: pd.DataFrame, names: dict[str, str], *, ax: Axes) -> Axes:
    """Largest measured error over its bound that a search found, against the number of shots; 1 is attained.

    Args:
        table: bound, shot, ratio.
        names: bound -> label.
        ax: where to draw.
    """
    for (bound, label), marker in zip(names.items(), "osD^vPX*", strict=False):
        line = table[table["bound"] == bound].sort_values("shot")
        ax.plot(line["shot"], line["ratio"], marker=marker, color=BOUND_COLORS.get(bound, "0.3"), label=label)
    ax.axhline(1, color="0.3", linestyle="--", linewidth=1)
    ax.set(xscale="log", ylim=(0, 1.05), xlabel="shots n", ylabel="largest error / bound found")
    shots = sorted(table["shot"].unique())
    ax.set_xticks(shots, [str(n) for n in shots])
    ax.minorticks_off()
    return ax


class LiveFigure:
    """One axis that is drawn again whenever another network is trained, in a live JupyterLab.

    Elsewhere (papermill, nbval, nbconvert) nothing is drawn: an output that is updated cannot be compared there, and
    the whole figure follows in a cell of its own.

    Example:
        >>> live = LiveFigure()
        >>> live.draw(by_source_classes, table, "novel", "cdnv")  # doctest: +SKIP
    """

    def __init__(self):
        self._display = None

    def draw(self, function, *values, **options) -> None:
        """Call ``function(*values, ax=..., **options)``, one of this module, and show the axis in place of the last."""
        if progress.mode() != "bar":
            return
        import matplotlib.pyplot as plt
        from IPython.display import display

        fig, ax = plt.subplots(figsize=(4.5, 3))
        if function(*values, ax=ax, **options).get_lines():
            ax.legend()
        plt.close(fig)  # or it would be shown once more at the end of the cell
        if self._display is None:
            self._display = display(fig, display_id=True)
        else:
            self._display.update(fig)


def save(fig: Figure, name: str, numbers: pd.DataFrame | None = None) -> None:
    """Write a figure as PNG and PDF, and the numbers behind it as CSV, into the folder NCBOOK_FIGURES.

    Where that variable is not set nothing is written: `make figures` sets it.
    """
    if (path := in_figures(name)) is None:
        return
    fig.savefig(path.with_suffix(".png"), metadata={"Software": None})
    fig.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None, "Creator": None, "Producer": None})
    if numbers is not None:
        numbers.to_csv(path.with_suffix(".csv"), index=False, float_format="%.6g")


def save_table(frame: pd.DataFrame, name: str) -> None:
    """Write a table as Markdown, LaTeX and CSV into the folder NCBOOK_FIGURES; nothing where that is not set."""
    if (path := in_figures(name)) is None:
        return
    frame.replace(r"\|", r"\\|", regex=True).to_markdown(path.with_suffix(".md"))  # or a bar in a text ends its cell
    frame.to_latex(path.with_suffix(".tex"), escape=True)
    frame.to_csv(path.with_suffix(".csv"))
