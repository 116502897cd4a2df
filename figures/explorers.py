"""The explorers as a reader sees them, for README and guide: python figures/explorers.py, a part of `make figures`.

Writes collapse.webp, the film of one training (the pictures of `CollapseExplorer`, epoch by epoch), and with a Chromium
at hand a screenshot of each explorer on voila's page: explorer_episode.png, explorer_collapse.png, explorer_bound.png.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import ncbook
from ncbook import explorers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "browser"))
import front_ends  # noqa: E402

FIGURES = ROOT / "figures"
ON_PAGE = ("collapse", "episode", "bound")  # in the order of app/explorers.ipynb
MILLISECONDS = {"frame": 500, "last": 2500}


def film(path: Path) -> None:
    """Every epoch that the run kept, one after the other.

    With 32 classes: 64 means in 64 dimensions, as on the page of explorers, leave directions in which they hardly
    differ, and NC1, which divides by the variance between means in each, rises while everything else collapses.
    """
    run = ncbook.train(ncbook.Experiment(n_source=32, measurements=16))
    explorer = explorers.CollapseExplorer(run)
    frames = []
    for epoch in run.saved_epochs:
        explorer.update(epoch=epoch)
        canvas = explorer.draw().canvas
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    explorer.close()
    times = [MILLISECONDS["frame"]] * (len(frames) - 1) + [MILLISECONDS["last"]]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, quality=75, method=6)


def screenshots(folder: Path) -> None:
    """Each explorer with its controls."""
    with (
        tempfile.TemporaryDirectory() as temporary,
        front_ends.browser() as browser,
        front_ends.voila(Path(temporary), ROOT / "app" / "explorers.ipynb") as address,
    ):
        page = front_ends.open_page(browser, address)
        front_ends.wait_for_pictures(page, len(ON_PAGE))
        for number, name in enumerate(ON_PAGE):
            explorer = front_ends.Shown(page, number)
            explorer.wait_until_at_rest()
            explorer.box.screenshot(path=folder / f"explorer_{name}.png")


if __name__ == "__main__":
    film(FIGURES / "collapse.webp")
    if missing := front_ends.missing():
        print(f"no screenshots: {missing}")
    else:
        screenshots(FIGURES)
