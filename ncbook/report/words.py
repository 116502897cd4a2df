"""What each number of a report means, in one sentence, and whether it is good beside this workbook's own networks.

``meanings.toml`` holds the sentences, ``reference.csv`` the numbers of the networks of notebook 03 on new classes, as
this report measures them (made by ``figures/report_reference.py``). Called by `reports` and `page`; pure.
"""

import functools
import math
import re
import tomllib
from importlib.resources import files
from typing import NamedTuple

import pandas as pd


class Meaning(NamedTuple):
    """Title, one sentence, and which way is better: -1 lower, 1 higher, 0 neither without more."""

    title: str
    sentence: str
    better: int


MEANINGS = {
    metric: Meaning(**words)
    for metric, words in tomllib.loads((files("ncbook.report") / "meanings.toml").read_text(encoding="utf-8")).items()
}
_ACCURACY = re.compile(r"accuracy_(\d+)way_(\d+)shot_(\w+)")
_HEADS = {
    "ncc": "nearest class mean", "ridge": "ridge regression", "logistic": "logistic regression",
    "cosine": "largest cosine",
}  # fmt: skip


def meaning(metric: str) -> Meaning:
    """The words of a metric.

    Example:
        >>> meaning("accuracy_5way_1shot_ncc").title
        '5-way 1-shot accuracy, nearest class mean'
    """
    if metric in MEANINGS:
        return MEANINGS[metric]
    way, shot, head = _ACCURACY.fullmatch(metric).groups()
    images = "one labeled image" if shot == "1" else f"{shot} labeled images"
    title = f"{way}-way {shot}-shot accuracy, {_HEADS[head]}"
    sentence = (
        f"Fraction of images put into the right one of {way} classes after {images} of each; "
        f"{1 / int(way):.3g} by guessing."
    )
    return Meaning(title, sentence, 1)


@functools.cache
def references() -> pd.DataFrame:
    """Numbers of this workbook's networks on new classes: metric, data, network, value."""
    return pd.read_csv(files("ncbook.report") / "reference.csv")


def verdict(metric: str, value: float, low: float = math.nan, high: float = math.nan) -> tuple[str, str]:
    """("good", "middle", "bad" or "", and a sentence that compares with the reference networks).

    "Worse" than nothing learned is said only where the whole interval is.
    """
    known = references()[references()["metric"] == metric]
    better = meaning(metric).better
    if known.empty or not better or not math.isfinite(value):
        return "", ""
    best = known[known["network"] != "untrained"]
    best = best.loc[(better * best["value"]).idxmin()]  # the less good of the trained ones
    worst = known[known["network"] == "untrained"]
    worst = worst.loc[(better * worst["value"]).idxmax()]
    trained = f"{best['network']}, on new classes of {best['data']}: {shown(best['value'])}"
    untrained = f"untrained, on {worst['data']}: {shown(worst['value'])}"
    if better * value >= better * best["value"]:
        return "good", f"As good as a reference network or better ({trained})."
    if better * value > better * worst["value"]:
        return "middle", f"Between reference networks ({trained}; {untrained})."
    end = high if better > 0 else low
    surely = better * (value if math.isnan(end) else end) < better * worst["value"]
    return (
        "bad",
        f"{'Worse' if surely else 'No better'} than a reference network that has learned nothing ({untrained}).",
    )


def shown(value: float) -> str:
    """A number with three digits.

    Example:
        >>> shown(0.012345), shown(1234.5), shown(float("nan"))
        ('0.0123', '1,234', '–')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) > 1e-9 else "0"
