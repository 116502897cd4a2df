"""`BoundExplorer`: classes of a known distribution, their measured error, and every bound of the theory beside it."""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
import traitlets
from torch import Tensor

from ncbook import fewshot, plots, theory
from ncbook._checks import check_choice, check_real, check_whole
from ncbook.theory.distributions import Distributions, errors, two_point

from ._canvas import Explorer, Panel

DISTRIBUTIONS = {
    "gaussian": "isotropic Gaussian classes",
    "one_direction": "Gaussian classes with noise in one direction",
    "heavy_tailed": "isotropic classes of Student's t with 5 degrees of freedom",
    "two_point": "one class that jumps just past the midpoint, one that never moves",
    "shared_point": "classes that share a point in their middle",
}
_BOUNDS = {  # name: label, color, line
    "b1": ("B1", plots.BOUND_COLORS["b1"], "--"),
    "best": ("best from V", plots.BOUND_COLORS["best"], "-"),
    "rank": ("rank", "#0072B2", ":"),
    "spread": ("spread", "#D55E00", ":"),
    "b2": ("B2", plots.BOUND_COLORS["b2"], "-."),
    "b3": ("B3", plots.BOUND_COLORS["b3"], "-."),
    "b5_directional": ("B5, directional", plots.BOUND_COLORS["b5_directional"], "-."),
}
_LEVELS = torch.logspace(-3, 1, 25, dtype=torch.float64)  # of V, for the curves
MOST_WAYS = 10
_QUERIES = 15  # per class
_QUICK, _FULL = 120_000, 6_000_000  # numbers drawn for a measured error
_LEAST_ERROR = 1e-4  # that the picture shows


class Classes(NamedTuple):
    """Classes with means at distance 1 from each other, and noise of one CDNV V.

    Attributes:
        means: float64 [way, dim].
        spread: standard deviations [dim] of every class; for "two_point" and "shared_point" zeros.
        heavy: whether noise is Student's t.
        points: the distribution of "two_point" and "shared_point".
    """

    means: Tensor
    spread: Tensor
    heavy: bool = False
    points: Distributions | None = None

    @property
    def rank(self) -> int:
        """Effective rank of the noise."""
        return 1 if self.points else int((self.spread > 0).sum())

    @property
    def moments(self) -> theory.PairMoments:
        """Exact moments."""
        if self.points:
            return theory.PairMoments(*(value[0] for value in self.points.moments))
        moments = theory.PairMoments.of_gaussians(self.means, self.spread.square().expand_as(self.means))
        return moments._replace(fourth=3 * moments.fourth) if self.heavy else moments  # E w^2 = 3 for w = 3 / chi^2_5

    def sample(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Draw float64 [*shape[:-1], way, shape[-1], dim]."""
        way, dim = self.means.shape
        shape = (*shape[:-1], way, shape[-1])
        if self.points:
            points, weights = self.points.points[0], self.points.weights[0]  # [way, K, dim], [way, K]
            u = torch.rand(shape, generator=generator, dtype=torch.float64)
            chosen = (u[..., None] > weights.cumsum(-1)[:, None, :-1]).sum(-1)
            return points[torch.arange(way)[:, None], chosen]
        noise = torch.randn(*shape, dim, generator=generator, dtype=torch.float64)
        if self.heavy:
            squares = torch.randn(*shape, 5, generator=generator, dtype=torch.float64).square().sum(-1)
            noise *= (3 / squares).sqrt()[..., None]
        return self.means[:, None] + self.spread * noise

    def exact_error(self, shot: int) -> float | None:
        """The two-class error without sampling; None where there is no formula."""
        if len(self.means) > 2 or self.heavy:
            return None
        if self.points:
            return float(errors(self.points, shot)[0])
        variances = self.spread.square()
        return theory.gaussian_error(self.means[1] - self.means[0], variances, variances, shot)


def make_classes(distribution: str, *, dim: int, cdnv: float, way: int) -> Classes:
    """Classes of a distribution whose pairs all have one CDNV.

    Args:
        distribution: a key of `DISTRIBUTIONS`.
        dim: D >= way - 1.
        cdnv: V > 0.
        way: number of classes; 2 for "two_point".
    """
    j = torch.arange(1, way, dtype=torch.float64)
    rows = torch.arange(way, dtype=torch.float64)[:, None]
    contrasts = (rows < j).double() - j * (rows == j)  # [way, way - 1], Helmert's
    means = torch.nn.functional.pad(-contrasts / (2 * j * (j + 1)).sqrt(), (0, dim - way + 1))  # a simplex, edges 1
    spread = torch.zeros(dim, dtype=torch.float64)
    if distribution == "two_point":
        line = two_point(8 * cdnv / (1 + 8 * cdnv))  # V = p / (8 (1 - p))
        truth = (line.weights[..., None] * line.points).sum(-2)[0]  # [2, 1]
        places = (line.points - truth.mean(0)) / (truth[1] - truth[0])
        return Classes(means, spread, points=Distributions(torch.nn.functional.pad(places, (0, dim - 1)), line.weights))
    if distribution == "shared_point":
        middle = cdnv / (cdnv + (way - 1) / (2 * way))  # V = p / (1 - p) x |corner|^2
        places = torch.stack([means / (1 - middle), torch.zeros_like(means)], 1)[None]
        weights = torch.tensor([1 - middle, middle], dtype=torch.float64).expand(1, way, 2)
        return Classes(means, spread, points=Distributions(places, weights))
    if distribution == "one_direction":
        spread[0] = math.sqrt(cdnv)
    else:
        spread[:] = math.sqrt(cdnv / dim)
    return Classes(means, spread, heavy=distribution == "heavy_tailed")


def bounds_at(classes: list[Classes], levels: Tensor, shot: int, *, quick: bool = False) -> dict[str, Tensor]:
    """Bounds on the k-way error for classes of several levels [L] of the CDNV: name -> [L]; quick: without B5."""
    way, rank = len(classes[0].means), classes[0].rank
    moments = theory.PairMoments(*map(torch.stack, zip(*(each.moments for each in classes), strict=True)))
    pairs = {
        "b1": theory.cdnv_bound(levels, shot),
        "best": theory.best_bound(levels, shot),
        "rank": theory.rank_bound(levels, shot, rank),
        "spread": theory.spread_bound(levels, shot, rank),
    }
    pairs = {name: values[:, None, None].expand(-1, way, way) for name, values in pairs.items()}
    pairs["b2"] = theory.second_moment_bound(moments, shot=shot)
    pairs["b3"] = theory.directional_bound(moments, shot=shot)
    if not quick:
        pairs["b5_directional"] = theory.directional_quadratic_bound(moments, shot=shot)
    return {name: torch.stack([theory.multiclass_bound(each) for each in value]) for name, value in pairs.items()}


def over_levels(distribution: str, dim: int, way: int, shot: int, *, quick: bool) -> dict[str, Tensor]:
    """`bounds_at` all levels of the CDNV that a picture shows."""
    family = [make_classes(distribution, dim=dim, cdnv=float(level), way=way) for level in _LEVELS]
    return bounds_at(family, _LEVELS, shot, quick=quick)


def measured_error(classes: Classes, shot: int, numbers: int) -> tuple[float, float, float, int]:
    """Error of the nearest class mean and its 95 % interval, over independent episodes, and how many they are."""
    way, dim = classes.means.shape
    episodes = min(20_000, max(20, numbers // (way * (shot + _QUERIES) * dim)))
    generator, wrong = torch.Generator().manual_seed(0), []
    own = torch.arange(way).repeat_interleave(_QUERIES)
    for part in torch.arange(episodes).split(1_000):
        drawn = classes.sample(len(part), shot + _QUERIES, generator=generator)  # [E, way, shot + Q, dim]
        predicted = fewshot.predict(drawn[:, :, :shot], drawn[:, :, shot:].flatten(1, 2), head="ncc")
        wrong.append((predicted != own).double().mean(1))
    wrong = torch.cat(wrong)
    error, half = float(wrong.mean()), 1.96 * float(wrong.std()) / math.sqrt(episodes)
    if error == 0:
        return 0.0, 0.0, 3 / episodes, episodes  # the rule of three: no episode had an error
    return error, max(0.0, error - half), min(1.0, error + half), episodes


class BoundExplorer(Explorer):
    """Few-shot error and its bounds for classes whose distribution is known.

    Args:
        dim: dimension, from way - 1 to 512.
        cdnv: V of every pair, from 0.001 to 10.
        shot: shots per class, at most 200.
        way: classes, at most 10; the bounds of several are those of pairs times way - 1.
        distribution: "gaussian", "one_direction", "heavy_tailed", "two_point" (two classes) or "shared_point".

    Raises:
        TypeError, ValueError: for bad values; of a value that is set later, ``message`` says it.

    Example:
        >>> explorer = BoundExplorer(cdnv=0.05, distribution="shared_point", shot=1)
        >>> explorer.call
        "explorers.BoundExplorer(dim=4, cdnv=0.05, shot=1, way=2, distribution='shared_point')"
        >>> explorer.close()
    """

    names = ("dim", "cdnv", "shot", "way", "distribution")
    places = ((0.05, 0.22, 0.25, 0.68), (0.36, 0.22, 0.33, 0.68), (0.79, 0.22, 0.16, 0.68))
    buttons = {"distribution with the largest known error": "show_worst"}

    dim, cdnv, shot = traitlets.Any(), traitlets.Any(), traitlets.Any()
    way, distribution = traitlets.Any(), traitlets.Any()

    def __init__(
        self, *, dim: int = 4, cdnv: float = 0.25, shot: int = 5, way: int = 2, distribution: str = "gaussian"
    ):
        super().__init__("", dict(dim=dim, cdnv=cdnv, shot=shot, way=way, distribution=distribution))

    def show_worst(self) -> None:
        """Show the distribution with the largest error at this V and number of shots of all that are known."""
        candidates = ["two_point", "shared_point"][self.way > 2 :]
        classes = {name: make_classes(name, dim=self.dim, cdnv=self.cdnv, way=self.way) for name in candidates}
        self.update(distribution=max(candidates, key=lambda name: classes[name].exact_error(self.shot) or 0))

    def _slow(self):
        family = self._key()[:4]
        for kind, key, make in (("curves", (*family, False), functools.partial(over_levels, *family, quick=False)),
                                ("error", self._key(_FULL), functools.partial(measured_error, self._classes(),
                                                                              self.shot, _FULL))):  # fmt: skip
            if key not in self._cache.get(kind, {}):
                return kind, key, make
        return None

    def _key(self, *more) -> tuple:
        return self.distribution, self.dim, self.way, self.shot, self.cdnv, *more

    def _classes(self) -> Classes:
        return make_classes(self.distribution, dim=self.dim, cdnv=self.cdnv, way=self.way)

    def _best_known(self, kind: str, key: tuple, quick, full, make):
        """What is there of full quality, else of the quality that is wanted now."""
        wanted = full if full is not quick and (*key, full) in self._cache.get(kind, {}) else quick
        return self._remember(kind, (*key, wanted), lambda: make(wanted), keep=32)

    def _look(self, quick):
        name = check_choice("distribution", self.distribution, DISTRIBUTIONS)
        way = check_whole("way", self.way, 2, 2 if name == "two_point" else MOST_WAYS)
        shot = check_whole("shot", self.shot, 1, 200)
        check_whole("dim", self.dim, way - 1, 512)
        V = check_real("cdnv", self.cdnv, 1e-3, 10)
        classes, family = self._classes(), self._key()[:4]
        measured = self._best_known("error", self._key(), _QUICK if quick else _FULL, _FULL,
                                    lambda numbers: measured_error(classes, shot, numbers))  # fmt: skip
        curves = self._best_known("curves", family, quick, False, lambda quick: over_levels(*family, quick=quick))
        level = torch.tensor([V], dtype=torch.float64)
        exact = self._best_known("exact", self._key(), quick, False,
                                 lambda quick: math.nan if quick else classes.exact_error(shot))  # fmt: skip
        bounds = self._best_known("bounds", self._key(), quick, False,
                                  lambda quick: bounds_at([classes], level, shot, quick=quick))  # fmt: skip
        bounds = {name: float(value) for name, value in bounds.items()}
        return self._words(measured, exact, bounds), [
            Panel(None, _still_samples, functools.partial(_draw_samples, classes)),
            Panel(None, _still_curves, functools.partial(_draw_curves, curves, V, measured, exact)),
            Panel(None, _still_values, functools.partial(_draw_values, measured, exact, bounds)),
        ]

    def _words(self, measured, exact, bounds) -> str:
        error, low, high, episodes = measured
        vacuous = [_BOUNDS[k][0] for k, v in bounds.items() if v >= 1]
        values = ", ".join(f"{_BOUNDS[k][0]} {v:.3g}" for k, v in bounds.items() if v < 1)
        known = "" if exact is None or math.isnan(exact) else f", exactly {exact:.3g}"
        return (f"{self.way}-way {self.shot}-shot, {DISTRIBUTIONS[self.distribution]}, {self.dim} dimensions, CDNV V = "
                f"{self.cdnv:.3g}: measured error {error:.3g} (95 % interval {low:.2g} to {high:.2g}, {episodes:,} "
                f"episodes){known}. Bounds: {values or 'none below 1'}. Vacuous (at least 1): "
                f"{', '.join(vacuous) or 'none'}.")  # fmt: skip

    def _controls(self, w):
        kind = w.Dropdown(options=[*DISTRIBUTIONS], value=self.distribution, description="distribution")
        level = w.FloatLogSlider(self.cdnv, min=-3, max=1, step=0.05, description="CDNV", readout_format=".2g")
        ends = {"shot": (1, 200), "way": (2, MOST_WAYS), "dim": (1, 512)}
        whole = {name: w.IntSlider(getattr(self, name), *end, description=name) for name, end in ends.items()}
        return {"distribution": kind, "cdnv": level, **whole}


def _still_samples(ax):
    ax.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal", xlabel="coordinate 1", ylabel="coordinate 2")
    ax.set_title("class means (large) at distance 1, 100\nsamples of each; those outside at the edge")


def _draw_samples(classes: Classes, ax) -> list:
    samples = classes.sample(100, generator=torch.Generator().manual_seed(1))  # [way, 100, dim]
    drawn = []
    for k, (points, mean) in enumerate(zip(samples, classes.means, strict=True)):
        marker, color = "os^Dv<>p"[k % 8], plots.CLASSES[k % 8]
        for xy, size, edge in ((points, 3, "none"), (mean[None], 9, "white")):
            xy = torch.nn.functional.pad(xy, (0, 1))[:, :2].clamp(-1.57, 1.57)
            style = dict(markersize=size, markeredgecolor=edge, alpha=0.5 if size == 3 else 1)
            drawn += ax.plot(*xy.T.numpy(), marker, color=color, **style)
    return drawn


def _still_curves(ax):
    ax.set(xscale="log", yscale="log", xlim=(1e-3, 10), ylim=(_LEAST_ERROR, 3))
    ax.set(xlabel="CDNV V", ylabel="error (fraction)", title="bounds over V (lines), error at this V (dot)")
    ax.axhspan(1, 3, color="0.92")
    ax.text(1.2e-3, 1.45, "vacuous: at least 1", color="0.4", fontsize=7)
    for label, color, line in _BOUNDS.values():
        ax.plot([], [], line, color=color, label=label)
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0.92), fontsize=6.5, labelspacing=0.25)
    plots.plain_log_ticks(ax.xaxis)
    plots.plain_log_ticks(ax.yaxis)


def _draw_curves(curves: dict[str, Tensor], V: float, measured, exact: float | None, ax) -> list:
    error, low, high, _ = np.maximum(measured, _LEAST_ERROR)
    drawn = [line for name, values in curves.items()
             for line in ax.plot(_LEVELS, values, _BOUNDS[name][2], color=_BOUNDS[name][1])]  # fmt: skip
    drawn += [ax.axvline(V, color="0.6", linewidth=0.8), *ax.plot([V, V], [low, high], color="black", linewidth=3)]
    if exact is not None and not math.isnan(exact):
        drawn += ax.plot(V, max(exact, _LEAST_ERROR), "ko", fillstyle="none", markersize=10)
    return drawn + ax.plot(V, error, "ko", markersize=5)


_ROWS = ["measured", "exact", *_BOUNDS]


def _still_values(ax):
    ax.set(xscale="log", xlim=(_LEAST_ERROR, 3), ylim=(len(_ROWS) - 0.5, -0.5), xlabel="error (fraction)")
    ax.set_title("at this V; ≥ 1 is vacuous")
    ax.axvspan(1, 3, color="0.92")
    ax.set_yticks(range(len(_ROWS)), [_BOUNDS[name][0] if name in _BOUNDS else name for name in _ROWS])
    ax.set_xticks([1e-4, 1e-2, 1], ["0.0001", "0.01", "1"])
    ax.minorticks_off()
    ax.tick_params(axis="y", length=0)


def _draw_values(measured, exact: float | None, bounds: dict[str, float], ax) -> list:
    values = {"measured": measured[0], "exact": exact, **bounds}
    drawn = ax.plot(np.clip(measured[1:3], _LEAST_ERROR, 3), [0, 0], color="black", linewidth=3)
    for row, name in enumerate(_ROWS):
        value, color = values.get(name, math.nan), _BOUNDS[name][1] if name in _BOUNDS else "black"
        if value is None:
            words = "no formula"
        elif math.isnan(value):
            words = "at rest"  # until then it would slow the slider down
        else:
            drawn += ax.plot(min(max(value, _LEAST_ERROR), 2.6), row, "s" if name in bounds else "o", color=color)
            words = f"{value:.3g}" if value < 1 else "vacuous"
        drawn.append(ax.text(1.02, row, words, transform=ax.get_yaxis_transform(), va="center", fontsize=7))
    return drawn
