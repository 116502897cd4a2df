"""Verdicts kept beside the figures, and gathered into one ledger. Reads and writes CSV files in one folder."""

import os
from pathlib import Path

import pandas as pd

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
    """All verdicts kept in a folder of figures, by notebook, claim and data.

    Args:
        folder: the folder that NCBOOK_FIGURES named.

    Returns:
        notebook, data, claim, statement, source, verdict, numbers; no rows where nothing was recorded.
    """
    found = [pd.read_csv(path, dtype=str) for path in sorted((Path(folder) / FOLDER).glob("*.csv"))]
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(found).sort_values(["notebook", "claim", "data"], ignore_index=True)[COLUMNS]
