"""What holds of the explorers on every front end: a class of tests that takes the fixture ``page``."""

import re

import front_ends
import pytest

EPISODE, COLLAPSE, BOUND = range(3)


class ByKeyboard:
    @pytest.mark.parametrize(
        ("number", "control", "key", "before", "after"),
        [
            (EPISODE, "shot", "ArrowLeft", "5-way 5-shot", "5-way 4-shot"),
            (COLLAPSE, "epoch", "ArrowLeft", "Epoch 4 of 4", "Epoch 2 of 4"),
            (BOUND, "shot", "ArrowRight", "2-way 5-shot", "2-way 6-shot"),
        ],
    )
    def test_a_slider_by_keyboard_changes_picture_and_number(self, page, number, control, key, before, after):
        explorer = front_ends.Shown(page, number)
        assert before in explorer.text
        with explorer.new_picture(after):
            explorer.handle(control).focus()
            page.keyboard.press(key)
        with explorer.new_picture(before):  # the handle keeps the focus
            page.keyboard.press("ArrowLeft" if key == "ArrowRight" else "ArrowRight")

    def test_next_and_previous(self, page):
        explorer = front_ends.Shown(page, EPISODE)
        assert "Episode 0 of" in explorer.text
        with explorer.new_picture("Episode 1 of"):
            explorer.button("next").focus()
            page.keyboard.press("Enter")
        with explorer.new_picture("Episode 0 of"):
            explorer.button("previous").click()

    def test_a_play_button_walks_through_the_epochs_from_the_first(self, page):
        explorer = front_ends.Shown(page, COLLAPSE)
        assert "Epoch 4 of 4" in explorer.text
        with explorer.new_picture("Epoch 0 of 4"):
            explorer.box.locator(".widget-play button").first.click()
        with explorer.new_picture("Epoch 4 of 4"):
            pass

    def test_a_refused_value_is_a_sentence_beside_the_same_picture(self, page):
        explorer = front_ends.Shown(page, BOUND)
        explorer.wait_until_at_rest()
        picture, text = explorer.source, explorer.text
        explorer.handle("way").focus()
        page.keyboard.press("End")  # 10 classes at equal distances need 9 dimensions
        explorer.box.get_by_text(re.compile(r"dim=4; allowed: .* at least 9")).wait_for()
        explorer.wait_until_at_rest()
        assert explorer.source == picture and explorer.text.splitlines()[0] == text.splitlines()[0]

    def test_every_control_has_a_label_and_every_handle_takes_the_focus(self, page):
        for number in (EPISODE, COLLAPSE, BOUND):
            box = front_ends.Shown(page, number).box
            for control in box.locator(".widget-slider, .widget-dropdown, .widget-text").all():
                assert control.locator("label").inner_text().strip()
            assert all(handle.get_attribute("tabindex") == "0" for handle in box.get_by_role("slider").all())

    @pytest.fixture(autouse=True)
    def clean_console(self, page):
        """No error in the console from its first line to the end of each test."""
        yield
        assert page.errors == []
