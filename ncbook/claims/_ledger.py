"""Verdicts kept beside the figures, and gathered into one ledger. Reads and writes CSV files in one folder."""

import os
from pathlib import Path

import pandas as pd

from ncbook._files import in_figures
from ncbook.claims._registry import CLAIMS

FOLDER = "verdicts"
VERDICT = ["verdict", "statistic", "low", "high", "n", "numbers"]
COLUMNS = ["kind", "claim", "statement", "data", "notebook", *VERDICT, "fails_if", "source"]


def record(verdicts: pd.DataFrame, notebook: str, data: str) -> None:
    """Keep a notebook's verdicts in the folder NCBOOK_FIGURES; where that is not set nothing is written.

    Args:
        verdicts: what `judge` returned.
        notebook: its number, such as "03".
        data: what it was run on, such as "omniglot".
    """
    if path := in_figures(f"{FOLDER}/{notebook}_{data}.csv"):
        verdicts.assign(notebook=notebook, data=data)[COLUMNS].to_csv(path, index=False, float_format="%.4g")


def ledger(folder: str | os.PathLike) -> pd.DataFrame:
    """All verdicts kept in a folder of figures: theorems checked, facts about printed tables, findings.

    A claim is counted once per data set: where several notebooks judged it there, the one with the most
    independent units stays. Claims that no notebook judged come last.

    Args:
        folder: the folder in NCBOOK_FIGURES.

    Returns:
        kind, claim, statement, data, notebook, verdict, statistic, low, high (its 95 % interval), n, numbers, fails_if
        and source; no rows where nothing was recorded. A claim that was not judged has the notebook "–", the data "none
        yet" and the verdict "cannot be judged".
    """
    texts = dict.fromkeys((c for c in COLUMNS if c not in ("statistic", "low", "high", "n")), str)
    found = [pd.read_csv(path, dtype=texts) for path in sorted((Path(folder) / FOLDER).glob("*.csv"))]
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    judged = pd.concat(found).reindex(columns=COLUMNS).sort_values("n", ascending=False, kind="stable")
    judged = judged.drop_duplicates(["claim", "data"]).sort_values(
        ["kind", "claim", "data"], ascending=[False, True, True]
    )
    nothing = pd.DataFrame(columns=["epoch", "split", "metric", "value"])
    rest = [
        {"claim": name, "notebook": "–", "data": "none yet", **described(name), **claim.check(nothing)._asdict()}
        for name, claim in CLAIMS.items()
        if name not in set(judged["claim"])
    ]
    return pd.concat([judged, *([pd.DataFrame(rest, columns=COLUMNS)] if rest else [])], ignore_index=True)


def described(name: str) -> dict[str, str]:
    """What is known of a claim before it is judged."""
    return {key: value for key, value in CLAIMS[name]._asdict().items() if key != "check"}


def shown(verdicts: pd.DataFrame):
    """The verdicts of a notebook as a table to read: statement, verdict, numbers, what would have made it fail."""
    columns = {"statement": "claim", "verdict": "verdict", "numbers": "numbers", "fails_if": "it would fail if"}
    table = verdicts[list(columns)].rename(columns=columns)
    return table.style.hide(axis="index").set_properties(**{"text-align": "left", "white-space": "normal"})
