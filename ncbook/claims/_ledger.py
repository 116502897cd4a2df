"""Verdicts kept beside the figures, and gathered into one ledger. Reads and writes CSV files in one folder."""

import os
from pathlib import Path

import pandas as pd

from ncbook.claims._registry import CLAIMS

FOLDER = "verdicts"
COLUMNS = ["notebook", "data", "claim", "statement", "source", "verdict", "numbers"]


def record(verdicts: pd.DataFrame, notebook: str, data: str) -> None:
    """Keep a notebook's verdicts in the folder NCBOOK_FIGURES; where that is not set nothing is written.

    Args:
        verdicts: what `judge` returned.
        notebook: its number, such as "03".
        data: what it was run on, such as "omniglot".
    """
    folder = os.environ.get("NCBOOK_FIGURES")
    if not folder:
        return
    path = Path(folder) / FOLDER / f"{notebook}_{data}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    verdicts.assign(notebook=notebook, data=data)[COLUMNS].to_csv(path, index=False)


def ledger(folder: str | os.PathLike) -> pd.DataFrame:
    """All verdicts kept in a folder of figures, by notebook, claim and data; claims that no notebook judged come last.

    Args:
        folder: the folder in NCBOOK_FIGURES.

    Returns:
        notebook, data, claim, statement, source, verdict, numbers; no rows where nothing was recorded. A claim that was
        not judged has the notebook "–", the data "none yet" and the verdict "cannot be judged".
    """
    found = [pd.read_csv(path, dtype=str) for path in sorted((Path(folder) / FOLDER).glob("*.csv"))]
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    judged = pd.concat(found).sort_values(["notebook", "claim", "data"], ignore_index=True)[COLUMNS]
    nothing = pd.DataFrame(columns=["epoch", "split", "metric", "value"])
    rest = [
        ("–", "none yet", name, claim.statement, claim.source, *claim.check(nothing))
        for name, claim in CLAIMS.items()
        if name not in set(judged["claim"])
    ]
    return pd.concat([judged, pd.DataFrame(rest, columns=COLUMNS)], ignore_index=True)
