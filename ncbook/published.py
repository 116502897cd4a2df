"""The table of the slides as published: few-shot accuracies of the literature on three data sets.

Reads the file beside it, nothing else. Called by notebook 08 and its claims; numbers measured here never enter it.
"""

from importlib.resources import files

import pandas as pd

__all__ = ["MARKS", "table"]
__dir__ = __all__.copy

MARKS = {
    "confirmed": "the slides' number is the one of a public source",
    "as printed": "read from the slides, no public source at hand",
    "filled": "blank in the slides, taken from the public source",
}


def table() -> pd.DataFrame:
    """Every published cell, 5-way.

    Returns:
        One row per cell: method, backbone, dataset, shot, accuracy and half_width (fractions; of the
        95 % interval as far as the sources say, NaN where none is printed), mark (a key of `MARKS`) and remark.

    Reference:
        The slides of 7 December 2022; confirmed or filled from Lee et al. (MetaOptNet, 2019), Dhillon et al.
        (2020) and the public lists of Tian et al. (RFS, 2020).

    Example:
        >>> cells = table()
        >>> cells.query("method == 'MAML' and dataset == 'mini_imagenet'")[["shot", "accuracy"]].values.tolist()
        [[1.0, 0.487], [5.0, 0.6311]]
    """
    with files("ncbook").joinpath("published.csv").open(encoding="utf-8") as file:
        cells = pd.read_csv(file, dtype={"remark": str}).fillna({"remark": ""})
    cells["accuracy"] = (cells.pop("percent") / 100).round(6)
    cells["half_width"] = (cells["half_width"] / 100).round(6)
    return cells[["method", "backbone", "dataset", "shot", "accuracy", "half_width", "mark", "remark"]]
