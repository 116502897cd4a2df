"""What a claim and a verdict are. Reads the claims' texts from ``claims.toml``.

A verdict must be able to fail: "holds" asks for an interval (or an exact p-value) that excludes the opposite, "does not
hold" for one that excludes the claim; what lies between "cannot be judged".
"""

import tomllib
from collections.abc import Callable, Collection
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import pandas as pd

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be judged"
THEOREM, TABLE, FINDING = "theorem checked", "fact about a printed table", "finding"


class Verdict(NamedTuple):
    """What came of one claim.

    Attributes:
        verdict: "holds", "does not hold" or "cannot be judged".
        numbers: the statistic in words, with what belongs to it.
        statistic: the number that decides; NaN where there is none.
        low, high: its 95 % interval; NaN where it has none.
        n: how many it rests on: networks, pairs of classes, cells of a table; 0 where nothing was measured.
    """

    verdict: str
    numbers: str
    statistic: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: int = 0


class Claim(NamedTuple):
    """One claim.

    Attributes:
        statement: the claim in words.
        source: where it is made.
        kind: "theorem checked" (only an error in a proof or in this code could make it fail), "fact about a printed
            table", or "finding".
        fails_if: what would have made it fail.
        check: table -> Verdict.
    """

    statement: str
    source: str
    kind: str
    fails_if: str
    check: Callable[[pd.DataFrame], Verdict]


CLAIMS: dict[str, Claim] = {}
_TEXTS = tomllib.loads((files("ncbook.claims") / "claims.toml").read_text(encoding="utf-8"))


def claim(name: str, needs: Collection[str] = (), missing: str = "", /, *, of_four: str = "", **options):
    """Register the check below for a claim of ``claims.toml``.

    Args:
        name: of the claim.
        needs: columns of a table that can be judged.
        missing: what is said of a table without one of them, or with too few units.
        of_four: a column of units that were chosen, such as kinds of training: at least four are needed.
        **options: what the check takes besides the table.
    """

    def register(check):
        def judge(table: pd.DataFrame) -> Verdict:
            enough = set(needs) <= set(table) and (not of_four or table[of_four].nunique() >= 4)
            return check(table, **options) if enough else Verdict(OPEN, missing)

        CLAIMS[name] = Claim(**{"kind": FINDING, **_TEXTS[name]}, check=judge)
        return check

    return register
