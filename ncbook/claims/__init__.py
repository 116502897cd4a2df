"""Each claim of the two works as a check on a tidy table, with a verdict. Judging only: nothing is measured here.

The notebooks end with `judge`, over histories of runs (`Run.history`, with the columns that tell runs apart added),
over a table of class pairs with measured errors and bounds, or over few-shot accuracies; `record` keeps the verdicts
that `ledger` gathers. One module per kind of claim; each registers its claims when it is imported.
"""

import pandas as pd

from ncbook._checks import check_choice
from ncbook.claims import (  # noqa: F401  (they register their claims)
    bounds,
    controls,
    curves,
    enforcing,
    episodes,
    networks,
    objectives,
    own,
    superclasses,
    tables,
)
from ncbook.claims._ledger import VERDICT, described, ledger, record, shown
from ncbook.claims._registry import CLAIMS, FAILS, FINDING, HOLDS, OPEN, TABLE, THEOREM, Claim, Verdict
from ncbook.claims._statistics import mean_interval, spearman
from ncbook.claims.curves import final, first
from ncbook.claims.networks import trained

__all__ = [
    "CLAIMS",
    "FAILS",
    "FINDING",
    "HOLDS",
    "OPEN",
    "TABLE",
    "THEOREM",
    "Claim",
    "Verdict",
    "final",
    "first",
    "judge",
    "ledger",
    "mean_interval",
    "record",
    "shown",
    "spearman",
    "trained",
]
__dir__ = __all__.copy


def judge(names: list[str], table: pd.DataFrame) -> pd.DataFrame:
    """Judge claims on a table.

    Args:
        names: names out of `CLAIMS`.
        table: tidy histories (epoch, step, split, metric, value and, for several runs, n_source, repeat,
            learning_rate or layers), rows of `episodewise.measure` with backbone, repeat and setting, one row per pair
            of classes (error, half_width, and a column for each bound), or few-shot accuracies (method, dataset, shot,
            accuracy).

    Returns:
        One row per claim: claim, kind, statement, source, verdict, statistic, low, high (its 95 % interval), n
        (networks, pairs or cells it rests on), numbers, and fails_if, what would have made it fail.

    Raises:
        ValueError: an unknown claim.
    """
    rows = []
    for name in names:
        claim = CLAIMS[check_choice("claim", name, CLAIMS)]
        rows.append({"claim": name, **described(name), **claim.check(table)._asdict()})
    return pd.DataFrame(rows, columns=["claim", "kind", "statement", *VERDICT, "fails_if", "source"])
