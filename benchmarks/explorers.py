"""Explorers in a real browser: from a key on a slider to the new picture, in JupyterLab and in voila.

    python benchmarks/explorers.py

prints Markdown tables: for each explorer the milliseconds from the key press (the page's own clock, in the capture
phase of `keydown`) to the frame that paints the loaded picture, at least 50 changes one at a time, each begun after the
picture before it has rested for a second; and, apart from these, the seconds from opening a page to its pictures.
Needs Chromium and playwright like tests/browser, which starts the servers in the same way. Memory over an hour of
random use: benchmarks/explorers_memory.py.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import hardware

import ncbook

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))
import front_ends

GOALS = {"median": 150, "p95": 300}  # milliseconds
EXPERIMENT = ncbook.Experiment(n_source=64, epochs=12, measurements=12)
CELLS = [
    "# Explorers",
    "import ncbook\nfrom ncbook import explorers\nrun = ncbook.train(ncbook.{experiment!r}, runs_dir={folder!r})",
    "explorers.EpisodeExplorer(run, split='novel', way=5, query=10)",
    "explorers.EpisodeExplorer(run, split='novel', way=20, query=10)",
    "explorers.CollapseExplorer(run, source_classes=64)",
    "explorers.BoundExplorer()",
]
CASES = [  # name, number on the page, slider, keys that take turns
    ("EpisodeExplorer, 5-way, shot", 0, "shot", ("ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowRight")),
    ("EpisodeExplorer, 20-way, shot", 1, "shot", ("ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowRight")),
    ("CollapseExplorer, 64 source classes, epoch", 2, "epoch", ("ArrowLeft",) * 8 + ("ArrowRight",) * 8),
    ("BoundExplorer, cdnv", 3, "CDNV", ("ArrowLeft",) * 25 + ("ArrowRight",) * 25),
    ("BoundExplorer, shot", 3, "shot", ("ArrowRight",) * 25 + ("ArrowLeft",) * 25),
]
LISTEN = """
img => {
    window.measured = [];
    document.addEventListener("keydown", () => { window.pressed = performance.now(); }, {capture: true});
    img.addEventListener("load", () => {
        if (window.pressed === undefined) return;  // what follows at rest
        const pressed = window.pressed;
        window.pressed = undefined;
        requestAnimationFrame(() => window.measured.push(performance.now() - pressed));
    });
}"""


def latencies(page, number: int, slider: str, keys: tuple[str, ...], changes: int) -> list[float]:
    """Milliseconds from key to picture."""
    explorer = front_ends.Shown(page, number)
    explorer.wait_until_at_rest()
    explorer.picture.evaluate(LISTEN)
    handle = explorer.handle(slider)
    handle.focus()
    for change in range(changes):
        page.keyboard.press(keys[change % len(keys)])
        page.wait_for_function(f"window.measured.length > {change}")
        explorer.wait_until_at_rest()
    return page.evaluate("window.measured")


def measure(name: str, page, changes: int) -> list[str]:
    """Rows of the table for one front end."""
    rows = []
    for case, number, slider, keys in CASES:
        found = latencies(page, number, slider, keys, changes)
        median, late = np.quantile(found, [0.5, 0.95])
        rows.append(f"| {name} | {case} | {median:.0f} | {late:.0f} | {max(found):.0f} | {len(found)} |")
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=50, help="per explorer and front end")
    parser.add_argument("--front-ends", nargs="+", choices=["JupyterLab", "voila"], default=["JupyterLab", "voila"])
    arguments = parser.parse_args()
    if missing := front_ends.missing():
        sys.exit(f"benchmarks/explorers.py: {missing}")
    torch.set_num_threads(1)
    rows, opened = [], []
    with tempfile.TemporaryDirectory() as temporary, front_ends.browser() as browser:
        folder = Path(temporary)
        (folder / "notebooks").mkdir()
        runs = str(folder / "runs")
        ncbook.train(EXPERIMENT, runs_dir=runs)
        cells = [cell.format(experiment=EXPERIMENT, folder=runs) for cell in CELLS]
        notebook = front_ends.write_notebook(folder / "notebooks" / "explorers.ipynb", *cells)

        for name in arguments.front_ends:
            serve = front_ends.lab(folder) if name == "JupyterLab" else front_ends.voila(folder, notebook)
            with serve as address:
                start = time.monotonic()
                page = front_ends.open_page(browser, address.format(notebook.name))
                if name == "JupyterLab":
                    front_ends.run_all(page)
                front_ends.wait_for_pictures(page, 4)
                opened.append(f"| {name} | {time.monotonic() - start:.1f} |")
                rows += measure(name, page, arguments.changes)
                page.context.close()
    print(f"{hardware('cpu')}, Chromium headless\n")
    print(f"Goals: median at most {GOALS['median']} ms, 95th percentile at most {GOALS['p95']} ms.\n")
    print(
        "| front end | slider | median, ms | 95th percentile, ms | largest, ms | changes |\n|---|---|---|---|---|---|"
    )
    print("\n".join(rows))
    print("\n| from opening the page to its four pictures, a new kernel | seconds |\n|---|---|")
    print("\n".join(opened), flush=True)


if __name__ == "__main__":
    main()
