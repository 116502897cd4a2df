"""Claims about networks of several depths (F1), their layers, and several learning rates (F2).

Over histories of runs with the columns ``layers`` (depth of the network) or ``learning_rate``, and ``repeat`` where
several networks share a setting; or over `layerwise.measure` of several networks with the same columns. Networks of one
``repeat`` share their classes and seed, at every depth: repeats are the independent units of every interval, and trends
with depth are permuted within them. Moments of one run and layers of one network are not independent.
"""

import numpy as np
import pandas as pd

from ncbook.claims._registry import FAILS, HOLDS, OPEN, Verdict, claim
from ncbook.claims._statistics import FEWEST, above_zero, by_draw, mean_interval, side, together, trend, within
from ncbook.layerwise import separation_law

TRAINED = 0.99  # train accuracy above which a network counts as trained
DEEP = 10
STAYS = np.log(1.1)  # change of log CDNV over the last third of training up to which it "stays"
STRAIGHT = 0.1  # bend of log fuzziness up to which the factor per layer is constant: 60 % of the fall in one half
APART = 0.5  # fraction of the largest smallest distance that is left at the end where means "stay apart"


def curves(table: pd.DataFrame, split: str, metric: str, by: str) -> pd.DataFrame:
    """A metric over training: a row per network, indexed by (``by``, repeat), a column per measured epoch."""
    rows = table[(table["split"] == split) & (table["metric"] == metric)]
    if "repeat" not in rows:
        rows = rows.assign(repeat=0)
    return rows.pivot(index=[by, "repeat"], columns="epoch", values="value")


def trained(table: pd.DataFrame, by: str = "layers") -> list[tuple[float, int]]:
    """Networks (``by``, repeat) whose final train accuracy is above 99 %; claims leave out the others."""
    accuracy = curves(table, "source_train", "accuracy", by)
    return [*accuracy.index[accuracy.iloc[:, -1] > TRAINED]] if len(accuracy) else []


def _trained_curves(table: pd.DataFrame, *wanted: tuple[str, str], least: int = 0) -> tuple[list[pd.DataFrame], str]:
    """Metrics of the trained networks of at least so many layers, and how many were left out, in words."""
    if "layers" not in table:
        return [pd.DataFrame()] * len(wanted), "; one network only"
    kept = trained(table)
    every = [curves(table, split, metric, "layers") for split, metric in wanted]
    left = [key for key in every[0].index if key not in kept and key[0] >= least]
    depths = ", ".join(f"{layers:g}" for layers in sorted({key[0] for key in left}))
    words = f"; left out below {TRAINED:.0%} train accuracy: {len(left)} of {depths} layers" if left else ""
    chosen = [run[[key in kept and key[0] >= least for key in run.index]] for run in every]
    if any(run.isna().any(axis=None) for run in chosen):
        return [pd.DataFrame()] * len(wanted), "; not every network was measured at every epoch"
    return chosen, words


def _factor(value: float, low: float, high: float) -> str:
    """A mean of logarithms with its interval, as a factor."""
    return f"× {np.exp(value):.3g} ({np.exp(low):.3g} … {np.exp(high):.3g})"


def _log_change(runs: pd.DataFrame, since: float = 0.0) -> pd.Series:
    """Change of each network's log over the last part of training, from the straight line through its moments."""
    epochs = runs.columns.to_numpy(float)
    late = epochs >= since * epochs[-1]
    slopes = np.polyfit(epochs[late], np.log(runs.to_numpy()[:, late]).T, 1)[0]
    return pd.Series(slopes * (epochs[-1] - epochs[late][0]), runs.index)


@claim("deeper_collapses_more")
def _deeper(table):
    (train,), left = _trained_curves(table, ("source_train", "cdnv"))
    if train.empty:
        return Verdict(OPEN, f"no trained network{left}")
    last = train.iloc[:, -1]
    layers, repeat = (last.index.get_level_values(level) for level in (0, 1))
    verdict = trend(layers, last, -1, "layers, final train CDNV", block=repeat)
    mean = np.exp(np.log(last).groupby(level=0).mean())
    ends = f"{mean.iloc[0]:.3g} at {mean.index[0]:g} layers, {mean.iloc[-1]:.3g} at {mean.index[-1]:g}"
    return verdict._replace(numbers=f"{ends}; {verdict.numbers}{left}")


@claim("deep_train_cdnv_falls")
def _deep_falls(table):
    (train,), left = _trained_curves(table, ("source_train", "cdnv"), least=DEEP)
    if train.empty or train.shape[1] < FEWEST:
        needed = f"no trained network of {DEEP} or more layers with {FEWEST} measured epochs"
        return Verdict(OPEN, needed + left, n=len(train))
    verdict = above_zero(by_draw(_log_change(train)), -1, "change of log CDNV along a straight line")
    steps = np.diff(np.log(train.to_numpy()), axis=1)
    ends = np.exp(steps.sum(1))
    mean = np.log(train).groupby(level=0).mean()
    above = np.exp(mean.iloc[:, -1] - mean.min(axis=1)).max()
    lowest = HOLDS if np.log(above) <= STAYS else FAILS
    verdict = verdict._replace(verdict=together([verdict.verdict, lowest]))
    words = f"last / first {ends.min():.2g} to {ends.max():.2g}, up in {(steps > 0).sum()} of {steps.size} intervals"
    words = f"ends at most × {above:.2f} its lowest, {words}"
    return verdict._replace(numbers=f"{verdict.numbers}; {words}{left}")


@claim("depth_test_above_train")
def _test_above_train(table):
    # The two sides have different numbers of samples per class, so the de-biased CDNV is compared.
    wanted = [(split, "cdnv_debiased") for split in ("source_train", "source_test")]
    (train, test), left = _trained_curves(table, *wanted)
    if train.empty or test.empty:
        return Verdict(OPEN, f"no trained network{left}")
    ratios = np.log(test.iloc[:, -1]) - np.log(train.iloc[:, -1])
    if not np.isfinite(ratios).all():
        return Verdict(OPEN, f"most pairs of classes cannot be told apart from so few samples{left}", n=len(ratios))
    depths = ratios.groupby(level=0)
    found = {layers: mean_interval(values) for layers, values in depths}
    text = ", ".join(f"{layers:g}: {_factor(*interval)}" for layers, interval in found.items())
    verdict = together([side(values, 1, len(depths)) for _, values in depths])
    return Verdict(verdict, f"test / train by layers {text}; n = {len(ratios)} networks{left}",
                   *min(found.values()), len(ratios))  # fmt: skip


@claim("test_cdnv_plateaus")
def _plateaus(table):
    wanted = [(split, "cdnv_debiased") for split in ("source_train", "source_test")]
    (train, test), left = _trained_curves(table, *wanted, least=DEEP)
    if min(train.shape[1], test.shape[1]) < 9 or len(train) < 3:
        needed = f"3 trained networks of {DEEP} or more layers and 9 measured epochs are needed"
        return Verdict(OPEN, f"{len(train)} networks, {train.shape[1]} epochs; {needed}{left}", n=len(train))
    early = test.loc[:, test.columns <= 2 / 3 * test.columns[-1]]
    falls = np.log(early.iloc[:, -1] / early.iloc[:, 0]).groupby(level=0)
    count = len(falls) + 2
    fell = {layers: mean_interval(values) for layers, values in falls}
    late = [_log_change(runs, 2 / 3) for runs in (train, test)]
    changes, gaps = by_draw(late[1]), by_draw(late[0] - late[1])
    change, gap = mean_interval(changes), mean_interval(gaps)
    parts = [
        together([side(values, -1, count) for _, values in falls]),
        within(changes, STAYS, count),
        side(gaps, -1, count, margin=-STAYS),  # falls on by more than what counts as staying
    ]
    depths = ", ".join(f"{layers:g}: {_factor(*interval)}" for layers, interval in fell.items())
    text = (
        f"unseen over the first two thirds by layers {depths}: {parts[0]}; over the last third {_factor(*change)}, "
        f"claimed within × 1.1 either way: {parts[1]}; training over unseen there {_factor(*gap)}, claimed "
        f"below 1/1.1: {parts[2]}"
    )
    return Verdict(together(parts), f"{text}; n = {len(train)} networks{left}", *change, len(by_draw(late[0])))


@claim("law_of_separation", {"layers", "depth", "fuzziness"}, "no layers")
def _law(layers):
    keys = ["layers", "repeat"] if "repeat" in layers else ["layers"]
    fits = {key: separation_law(rows) for key, rows in layers.groupby(keys) if len(rows) >= FEWEST}
    fits = pd.DataFrame(fits, index=["ratio", "half_life", "bend"]).T
    draws = fits.groupby(level=1) if fits.index.nlevels > 1 else fits.groupby(level=0)
    if len(fits) < 3 or len(draws) < 3 or not np.isfinite(fits[["ratio", "bend"]]).all(axis=None):
        needed = f"{len(fits)} trained networks of at least {FEWEST} layers"
        return Verdict(OPEN, f"{needed} with finite fuzziness; 3 draws of classes are needed", n=len(draws))
    slopes, bends = draws["ratio"].apply(lambda ratios: np.log(ratios).mean()), draws["bend"].mean()
    slope, bend, (_, lowest, highest) = mean_interval(slopes), mean_interval(bends), mean_interval(bends, 2)
    falls = side(slopes, -1, 2)
    if max(-bend[1], bend[2]) <= STRAIGHT:
        straight = HOLDS
    else:
        straight = OPEN if lowest <= 0 <= highest else FAILS
    text = ", ".join(f"{key:g}: {value:+.2f}" for key, value in fits["bend"].groupby(level=0).mean().items())
    return Verdict(
        together([falls, straight]),
        f"factor per layer {_factor(*slope)}; bend {bend[0]:+.2f} ({bend[1]:+.2f} … {bend[2]:+.2f}), n = {len(fits)} "
        f"networks of {len(draws)} draws; by layers {text}",
        *bend,
        len(draws),
    )


@claim("means_stay_apart", {"learning_rate"}, "one learning rate only")
def _stay_apart(table):
    names = ("min_distance_normalized", "min_distance", "cdnv")
    normalized, raw, cdnv = (curves(table, "source_train", name, "learning_rate") for name in names)
    if normalized.empty or cdnv.empty:
        return Verdict(OPEN, "distances or CDNV were not measured")
    left = normalized.iloc[:, -1] / normalized.max(axis=1)
    dip = normalized.min(axis=1) / normalized.iloc[:, 0]
    fall = np.log(cdnv.iloc[:, -1] / cdnv.iloc[:, 0])
    found, verdicts, parts, count = [], set(), [], 3 * left.index.get_level_values(0).nunique()
    for rate, values in left.groupby(level=0):
        found += (last := mean_interval(values)), (lowest := mean_interval(dip[rate]))
        verdicts |= {side(values, 1, count, APART), side(dip[rate], 1, count, APART)}
        verdicts.add(side(fall[rate], -1, count))
        here, unscaled = normalized.loc[rate], raw.loc[rate]
        path = [run.mean() for run in (here.iloc[:, 0], here.min(axis=1), here.iloc[:, -1])]
        grown = (unscaled.iloc[:, -1] / unscaled.iloc[:, 0]).mean()
        parts.append(
            f"{rate:g}: {'{:.2f} → lowest {:.2f} → {:.2f}'.format(*path)}, lowest "
            f"{'{:.2f} ({:.2f} … {:.2f})'.format(*lowest)} of its first, last "
            f"{'{:.2f} ({:.2f} … {:.2f})'.format(*last)} of its largest value, raw × {grown:.2g}"
        )
    text = f"normalized distance {'; '.join(parts)}; n = {len(left)} networks"
    return Verdict(together(verdicts), text, *min(found), len(left))
