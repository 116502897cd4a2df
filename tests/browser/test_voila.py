"""Explorers on voila's page, moved by keyboard."""

import front_ends
import pytest
from by_keyboard import ByKeyboard


@pytest.fixture(scope="module")
def page(folder, chromium):
    with front_ends.voila(folder, folder / "notebooks" / "explorers.ipynb") as address:
        page = front_ends.open_page(chromium, address)
        front_ends.wait_for_pictures(page, 3)
        yield page
        page.context.close()


class TestVoila(ByKeyboard):
    pass
