"""Explorers in real JupyterLab: run, moved by keyboard, saved, opened again."""

import front_ends
import nbformat
import pytest
from by_keyboard import ByKeyboard


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
