"""Measure the networks that a report compares with, and write ``ncbook/report/reference.csv``.

On all images of the new classes of strokes and Omniglot, before and after training with 64 source classes, seed 0.
"""

from pathlib import Path

import pandas as pd

import ncbook

TARGET = Path(__file__).resolve().parents[1] / "ncbook" / "report" / "reference.csv"
DATA = {"strokes": "strokes", "omniglot": "Omniglot"}


def rows(dataset: str) -> list[dict]:
    """Numbers of one data set's network at the first and the last epoch."""
    run = ncbook.train(ncbook.Experiment(dataset=dataset, n_source=64))
    found = []
    for epoch, network in ((0, "untrained"), (run.saved_epochs[-1], "trained with 64 source classes")):
        report = ncbook.report(run.model(epoch), run.splits.novel)
        part = report.summary[["metric", "value"]].assign(data=DATA[dataset], network=network)
        found.append(part.assign(classes=report.about["classes"], images=report.about["images"]))
    return found


if __name__ == "__main__":
    table = pd.concat([part for dataset in DATA for part in rows(dataset)])
    table["value"] = table["value"].map(lambda value: float(f"{value:.4g}"))
    table[["metric", "data", "network", "value", "classes", "images"]].to_csv(TARGET, index=False)
