"""Figures and small pictures of a report's page, as PNG inside it. Each figure is narrow: a phone shows it as it is.

Called by `page`; computes nothing.
"""

import base64
import functools
import io

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ncbook.plots import CLASSES, plain_log_ticks

_WIDTH, _HEIGHT = 4.0, 3.0  # inches
_STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "legend.frameon": False, "legend.fontsize": 8, "axes.titlesize": 9,
}  # fmt: skip
_NAMES = {"cdnv": "from CDNV (B1)", "quadratic": "from CDNV, the best known (B5)", "directional": "directional (B3)"}
ALONG = {
    "samples": "images per class", "classes": "classes", "shots": "labeled images per class",
    "ways": "classes to tell apart",
}  # fmt: skip


def _address(buffer: io.BytesIO) -> str:
    """A PNG as the address of an <img>."""
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def row_of_pictures(pictures: Tensor) -> str:
    """Pictures uint8 [n, C, H, W] side by side."""
    strip = np.concatenate(list(pictures.permute(0, 2, 3, 1).numpy()), axis=1)  # [H, n W, C]
    strip, buffer = strip[..., 0] if strip.shape[2] == 1 else strip[..., :3], io.BytesIO()
    Image.fromarray(np.ascontiguousarray(strip)).save(buffer, "png", optimize=True)
    return _address(buffer)


def _drawn(draw):
    """Decorate a function that draws data on an ``ax``: called with the data, it gives the address of an <img>.

    No state of matplotlib is changed.
    """

    @functools.wraps(draw)
    def address(*data) -> str:
        with mpl.rc_context(_STYLE):
            figure = Figure((_WIDTH, _HEIGHT), layout="constrained")
            draw(figure.add_subplot(), *data)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
        return _address(buffer)

    return address


@_drawn
def accuracies(ax, summary: pd.DataFrame) -> None:
    """Few-shot accuracies with their intervals, a row per way, shot and head."""
    rows = summary[summary["metric"].str.startswith("accuracy_")][::-1]
    parts = rows["metric"].str.extract(r"accuracy_(\d+)way_(\d+)shot_(\w+)")
    ax.figure.set_figheight(0.9 + 0.28 * len(rows))
    places = np.arange(len(rows))
    errors = np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy())
    ax.errorbar(rows["value"], places, xerr=errors, fmt="o", color=CLASSES[0], capsize=2)
    for place, way in zip(places, parts[0], strict=True):
        ax.plot([1 / int(way)] * 2, [place - 0.35, place + 0.35], color="0.5", linestyle="--", linewidth=1)
    ax.set_yticks(places, [f"{way}-way {shot}-shot, {head}" for way, shot, head in parts.to_numpy()])
    ax.set(xlabel="accuracy (fraction; dashed: guessing)", xlim=(0, 1.02), ylim=(-0.7, len(rows) - 0.3))


@_drawn
def matrix(ax, values: Tensor, names: list[str]) -> None:
    """CDNV of pairs of classes on a logarithmic scale of colors."""
    ax.figure.set_figheight(3.6)
    finite = values[values.isfinite() & (values > 0)]
    norm = mpl.colors.LogNorm(float(finite.min()), float(finite.max())) if len(finite) else None
    image = ax.imshow(values.numpy(), cmap="viridis_r", norm=norm, interpolation="nearest")
    ax.grid(False)
    shown = names if len(names) <= 25 else []
    ax.set_xticks(range(len(shown)), [n[:14] for n in shown], rotation=90, fontsize=6)
    ax.set_yticks(range(len(shown)), [n[:14] for n in shown], fontsize=6)
    bar = ax.figure.colorbar(image, ax=ax, label="CDNV", shrink=0.8)
    plain_log_ticks(bar.ax.yaxis)


@_drawn
def bounds(ax, table: pd.DataFrame) -> None:
    """Mean bounds on the two-class error beside what is measured, against the number of shots."""
    rows = table[table["way"] == 2]
    shots = sorted(rows["shot"].unique())
    for (name, part), color, marker in zip(rows.groupby("bound", sort=False), CLASSES[1:], "sD^", strict=False):
        ax.plot(range(len(shots)), part["value"], marker=marker, color=color, label=_NAMES[name])
    measured = rows[rows["bound"] == rows["bound"].iloc[0]]["measured"]
    ax.plot(range(len(shots)), measured, marker="o", color="black", label="measured")
    ax.axhline(1, color="0.5", linestyle="--", linewidth=1)
    ax.set_xticks(range(len(shots)), [f"{shot:g}" for shot in shots])
    ax.set(xlabel="labeled images per class", ylabel="two-class error (from 1 on vacuous)", yscale="log")
    plain_log_ticks(ax.yaxis)
    ax.figure.legend(loc="outside upper center", ncols=2)


@_drawn
def growth(ax, table: pd.DataFrame, along: str) -> None:
    """How one number moves along samples, classes, shots or ways, in a band of its interval."""
    rows = table[table["along"] == along]
    by = "metric" if along in ("samples", "classes") else "along"  # accuracies have a name per count
    for (name, part), color, marker in zip(rows.groupby(by), CLASSES, "os", strict=False):
        label = {"cdnv": "CDNV", "cdnv_debiased": "de-biased (median)"}.get(name)
        ax.plot(part["count"], part["value"], marker=marker, color=color, label=label)
        known = part.dropna(subset=["low", "high"])
        ax.fill_between(known["count"], known["low"].clip(lower=0), known["high"], color=color, alpha=0.2)
    ax.set_xscale("log")
    ticks = sorted(rows["count"].unique())
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    if along in ("samples", "classes"):
        ax.set(ylabel="CDNV")
        ax.set_ylim(bottom=0)
        if along == "samples":
            ax.legend()
    else:
        ax.set(ylabel="accuracy (fraction)", ylim=(0, 1.02))
    ax.set_xlabel(ALONG[along])


@_drawn
def layers(ax, table: pd.DataFrame) -> None:
    """CDNV of each layer with its interval."""
    places = np.arange(len(table))
    ax.plot(places, table["cdnv"], marker="o", color=CLASSES[0])
    ax.fill_between(places, table["low"], table["high"], color=CLASSES[0], alpha=0.2)
    ax.set_xticks(places, table["layer"], rotation=45, ha="right", fontsize=7)
    ax.set(ylabel="CDNV")
    ax.set_ylim(bottom=0)
