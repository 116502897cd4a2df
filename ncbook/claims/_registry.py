"""What a claim and a verdict are, and the rules that several claims are judged by."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be judged"
FEWEST = 4  # points under which a rank correlation is not worth a verdict


class Verdict(NamedTuple):
    """What came of one claim: "holds", "does not hold" or "cannot be judged", and the numbers behind it."""

    verdict: str
    numbers: str


class Claim(NamedTuple):
    """A claim in words, where it is made, and its check: table -> Verdict."""

    statement: str
    source: str
    check: Callable[[pd.DataFrame], Verdict]


CLAIMS: dict[str, Claim] = {}


def claim(name: str, statement: str, source: str):
    """Register the check below under that name."""

    def register(check):
        CLAIMS[name] = Claim(statement, source, check)
        return check

    return register


def judged(holds: bool, numbers: str) -> Verdict:
    return Verdict(HOLDS if holds else FAILS, numbers)


def spearman(x: pd.Series, y: pd.Series) -> float:
    """Rank correlation, ties with their mean rank (pandas' own method waits for scipy, which is slow to import)."""
    return float(x.reset_index(drop=True).rank().corr(y.reset_index(drop=True).rank()))


def trend(x: pd.Series, y: pd.Series, threshold: float, what: str) -> Verdict:
    """Rank correlation against a threshold whose sign is the claimed direction."""
    if len(x) < FEWEST:
        return Verdict(OPEN, f"{len(x)} points; {FEWEST} are needed")
    if x.nunique() == 1 or y.nunique() == 1:
        return Verdict(OPEN, f"Spearman({what}) is not defined: one of them is constant (n = {len(x)})")
    rho = spearman(x, y)
    holds = rho >= threshold - 1e-9 if threshold > 0 else rho <= threshold + 1e-9
    sign = "≥" if threshold > 0 else "≤"
    return judged(holds, f"Spearman({what}) = {rho:+.2f}, n = {len(x)} (claimed {sign} {threshold:+.1f})")
