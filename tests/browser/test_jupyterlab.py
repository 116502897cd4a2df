"""Explorers in real JupyterLab: of a run and of a reader's own features; moved by keyboard, saved, opened again."""

import front_ends
import nbformat
import pytest
import torch
from by_keyboard import ByKeyboard
from PIL import Image

OWN = [  # images of the reader's own, a feature map, its report, and two explorers of its features
    """import torch, ncbook
from torch import nn
from ncbook import explorers, features
from ncbook.datasets import load
images = load("folder", path={pictures!r})
model = nn.Sequential(nn.Conv2d(images.images.shape[1], 8, 5, 4), nn.ReLU(), nn.Flatten())
found = features.extract(model, images.images)
report = ncbook.report(None, (found, images.labels), episodes=100)""",
    "explorers.EpisodeExplorer(found, images.labels, images=images.images, way=3, shot=2, query=4)",
    "explorers.CollapseExplorer({{0: found.square(), 1: found}}, labels=images.labels)",
]


@pytest.fixture(scope="module")
def own(folder):
    """A notebook on pictures of the reader's own, in the same folder."""
    generator = torch.Generator().manual_seed(0)
    for name in ("circle", "line", "square", "star"):
        (folder / "pictures" / name).mkdir(parents=True)
        base = torch.randint(0, 200, (28, 28), generator=generator)
        for number in range(12):
            noisy = base + torch.randint(0, 50, base.shape, generator=generator)
            Image.fromarray(noisy.to(torch.uint8).numpy()).save(folder / "pictures" / name / f"{number:02}.png")
    cells = [cell.format(pictures=str(folder / "pictures")) for cell in OWN]
    return front_ends.write_notebook(folder / "notebooks" / "own.ipynb", *cells).name


@pytest.fixture(scope="module")
def lab(folder, chromium):
    with front_ends.lab(folder) as address:
        yield address


@pytest.fixture(scope="module")
def page(lab, chromium):
    page = front_ends.open_page(chromium, lab.format("explorers.ipynb"))
    front_ends.run_all(page)
    front_ends.wait_for_pictures(page, 3)
    yield page
    page.context.close()


class TestJupyterLab(ByKeyboard):
    def test_saved_and_opened_where_it_is_not_trusted_it_is_a_picture(self, page, lab, folder, chromium):
        """Somebody else's copy of the file, in which nothing has run: GitHub, a colleague, a fresh clone."""
        file = folder / "notebooks" / "explorers.ipynb"
        page.keyboard.press("Control+s")
        page.locator(".jp-mod-dirty").wait_for(state="hidden")
        front_ends.wait_until(lambda: "image/png" in file.read_text(), "the notebook is not saved")
        copy = nbformat.read(file, as_version=4)
        assert "widgets" not in copy.metadata
        copy.cells[0].source += ", a copy"  # no longer what was signed here
        nbformat.write(copy, file.with_name("copy.ipynb"))
        opened = front_ends.open_page(chromium, lab.format("copy.ipynb"))
        for number in range(3):
            opened.locator(".jp-OutputArea img[src^='data:image/png']").nth(number).wait_for()
        assert opened.get_by_text("model not found").count() == 0
        assert opened.errors == []
        opened.context.close()


def test_features_of_the_readers_own(lab, own, chromium):
    page = front_ends.open_page(chromium, lab.format(own) + "&reset")  # without the notebooks of the tests before it
    front_ends.run_all(page)
    front_ends.wait_for_pictures(page, 2)
    episode, collapse = front_ends.Shown(page, 0), front_ends.Shown(page, 1)
    with episode.new_picture("3-way 3-shot"):
        episode.handle("shot").focus()
        page.keyboard.press("ArrowRight")
    with episode.new_picture("Episode 1 of"):
        episode.button("next").click()
    with collapse.new_picture("Epoch 0 of 1"):
        collapse.handle("epoch").focus()
        page.keyboard.press("ArrowLeft")
    assert page.errors == []
    page.context.close()
