"""Random use of every explorer for an hour: does memory grow?

    python benchmarks/explorers_memory.py --minutes 60

changes values at random, presses buttons, and makes and closes explorers with their widgets, in one process without a
browser. Prints a Markdown table, a row a minute: resident memory, changes so far, widgets that exist; then the slope
after the first tenth, and how many widgets are left when all explorers are closed (none may be).
"""

import argparse
import gc
import random
import tempfile
import time
from pathlib import Path

import ipywidgets
import numpy as np
from measuring import hardware

import ncbook
from ncbook import explorers

EXPERIMENT = ncbook.Experiment(n_source=12, n_novel=12, epochs=6, measurements=6)
CYCLE = 50  # changes until an explorer is closed and made again
VALUES = {
    "EpisodeExplorer": {
        "way": range(2, 14), "shot": range(1, 8), "query": range(1, 20), "head": ["ncc", "ridge", "nonsense"],
        "seed": range(3), "episode": range(10_050), "split": ["novel", "source_train"],
    },
    "CollapseExplorer": {
        "epoch": range(7), "layer": [None, "block1", "block2"], "source_classes": range(1, 14),
        "novel_classes": range(14),
    },
    "BoundExplorer": {
        "dim": range(1, 64), "cdnv": np.logspace(-3, 1, 50).tolist(), "shot": range(1, 40), "way": range(2, 9),
        "distribution": ["gaussian", "one_direction", "heavy_tailed", "two_point", "shared_point", "nonsense"],
    },
}  # fmt: skip
BUTTONS = {"EpisodeExplorer": ["next", "previous", "hardest", "most_confused"], "BoundExplorer": ["show_worst"]}


def resident() -> float:
    """MiB that this process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def widgets() -> int:
    """How many widgets ipywidgets knows."""
    return len(ipywidgets.widgets.widget._instances)


def use(run, minutes: float, seed: int) -> tuple[list[tuple[float, float, int, int]], int]:
    """Rows (minutes, MiB, changes, widgets), and the widgets that are left at the end."""
    chosen = random.Random(seed)
    make = {
        "EpisodeExplorer": lambda: explorers.EpisodeExplorer(run),
        "CollapseExplorer": lambda: explorers.CollapseExplorer(run),
        "BoundExplorer": explorers.BoundExplorer,
    }
    before, shown, rows, changes = widgets(), {}, [], 0
    start = time.monotonic()
    while (passed := (time.monotonic() - start) / 60) < minutes:
        if passed >= len(rows) * min(1.0, minutes / 5):
            gc.collect()
            rows.append((passed, resident(), changes, widgets()))
            print("| {:.1f} | {:.0f} | {} | {} |".format(*rows[-1]), flush=True)
        name = chosen.choice(list(make))
        if name not in shown:
            shown[name] = make[name]()
            shown[name].widget  # noqa: B018 - made when first used
        if chosen.random() < 0.1 and name in BUTTONS:
            getattr(shown[name], chosen.choice(BUTTONS[name]))()
        else:
            value = chosen.choice(list(VALUES[name]))
            setattr(shown[name], value, chosen.choice(list(VALUES[name][value])))
        changes += 1
        if chosen.random() < 1 / CYCLE:
            shown.pop(name).close()
    for explorer in shown.values():
        explorer.close()
    gc.collect()
    rows.append((passed, resident(), changes, widgets()))
    print("| {:.1f} | {:.0f} | {} | {} |".format(*rows[-1]), flush=True)
    return rows, widgets() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(hardware("cpu") + "\n")
    with tempfile.TemporaryDirectory() as folder:
        run = ncbook.train(EXPERIMENT, runs_dir=folder)
        print("| minutes | resident, MiB | changes | widgets |\n|---|---|---|---|")
        rows, left = use(run, arguments.minutes, arguments.seed)
    settled = np.array([row[:2] for row in rows if row[0] >= arguments.minutes / 10])
    slope = np.polyfit(*settled.T, 1)[0] * 60 if len(settled) > 2 else float("nan")
    print(f"\nAfter the first tenth: {slope:+.1f} MiB an hour. Widgets left when all are closed: {left}.")


if __name__ == "__main__":
    main()
