"""Explorers without a browser: traits, pictures, words, what is displayed where."""

import asyncio
import base64
import concurrent.futures
import io
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import ncbook
from ncbook import collapse, explorers, fewshot
from ncbook.explorers import _canvas
from ncbook.explorers import bound as bounds
from ncbook.explorers import episode as episodes
from ncbook.theory import best_bound, cdnv_bound

VIEW = "application/vnd.jupyter.widget-view+json"


def pixels(explorer):
    explorer.draw().canvas.draw()
    return np.asarray(explorer.draw().canvas.buffer_rgba()).copy()


def same_again(explorer, **data):
    """The picture of what `call` makes."""
    other = eval(explorer.call, {"explorers": explorers, **data})
    picture, text = pixels(other), other.text
    other.close()
    return np.array_equal(picture, pixels(explorer)) and text == explorer.text


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setattr(_canvas, "is_live", lambda: True)


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch):
    monkeypatch.setattr(episodes, "EPISODES", 200)


@pytest.fixture(scope="module")
def data():
    """Features [240, 6] of 8 classes that overlap, their labels, and an image for each."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(30)
    features = torch.randn(240, 6, generator=generator) + torch.randn(8, 6, generator=generator)[labels]
    return {
        "features": features,
        "labels": labels,
        "images": torch.randint(0, 256, (240, 1, 8, 8), generator=generator).to(torch.uint8),
    }


@pytest.fixture(params=["bound", "episode"])
def explorer(request, data):
    made = explorers.EpisodeExplorer(**renamed(data)) if request.param == "episode" else explorers.BoundExplorer()
    yield made
    made.close()


def renamed(data):
    return {"run_or_features": data["features"], "labels": data["labels"], "images": data["images"]}


def test_importing_explorers_imports_no_widgets():
    code = "import sys, ncbook; ncbook.explorers.BoundExplorer; sys.exit('ipywidgets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_trait_changes_picture_and_text_on_the_same_figure(explorer):
    figure, before, text = explorer.draw(), pixels(explorer), explorer.text
    explorer.shot = 2
    assert explorer.draw() is figure and "2-shot" in explorer.text != text
    assert not np.array_equal(before, pixels(explorer))
    assert "shot=2" in explorer.call


@pytest.mark.parametrize("bad", [{"shot": 0}, {"shot": "5"}, {"way": 1_000}, {"way": 2.5}, {"shots": 3}])
def test_a_bad_value_is_one_sentence_and_the_picture_stays(explorer, bad):
    before, text, call = pixels(explorer), explorer.text, explorer.call
    explorer.update(**bad)
    (name,) = bad
    assert explorer.message.startswith(name) and "allowed: " in explorer.message and "\n" not in explorer.message
    assert (explorer.text, explorer.call) == (text, call) and np.array_equal(before, pixels(explorer))
    explorer.shot = 3
    assert explorer.message == "" and "3-shot" in explorer.text


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match="did you mean 'gaussian'"):
        explorers.BoundExplorer(distribution="gauss")
    with pytest.raises(ValueError, match="at most the number of classes, 1"):
        explorers.EpisodeExplorer(torch.randn(40, 3), torch.zeros(40, dtype=torch.int64))
    with pytest.raises(TypeError, match="Tensor without labels; allowed: an ncbook.Run, or features"):
        explorers.EpisodeExplorer(torch.randn(40, 3))
    with pytest.raises(ValueError, match="images has 3 rows; allowed: 4"):
        image = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
        explorers.EpisodeExplorer(torch.randn(4, 3), torch.tensor([0, 0, 1, 1]), images=image, way=2, shot=1, query=1)
    with pytest.raises(TypeError, match="run is of type str; allowed: a Run, or {epoch: features"):
        explorers.CollapseExplorer("runs/1")
    with pytest.raises(TypeError, match="run is an empty mapping"):
        explorers.CollapseExplorer({}, labels=torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="labels is of type NoneType"):
        explorers.CollapseExplorer({0: torch.randn(4, 2)})
    with pytest.raises(ValueError, match=r"labels has shape \[3\]"):
        explorers.CollapseExplorer({0: torch.randn(4, 2)}, labels=torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="at least two classes"):
        explorers.CollapseExplorer({0: torch.randn(4, 2)}, labels=torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("make", [explorers.EpisodeExplorer, explorers.CollapseExplorer])
def test_a_run_has_labels_of_its_own(tiny_run, make):
    with pytest.raises(ValueError, match="labels with a Run"):
        make(tiny_run, labels=torch.tensor([0, 1]))


def test_several_values_make_one_picture(explorer, monkeypatch):
    painted = []
    paint = type(explorer)._paint
    monkeypatch.setattr(type(explorer), "_paint", lambda self, p: (painted.append(1), paint(self, p)))
    explorer.update(way=3, shot=1)
    assert painted == [1] and "3-way 1-shot" in explorer.text


class Clock:
    """An event loop whose time passes by hand."""

    def __init__(self, monkeypatch):
        self.due = {}
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)

    def call_later(self, seconds, act):
        handle = type("Handle", (), {"cancel": lambda handle: self.due.pop(handle, None)})()
        self.due[handle] = (seconds, act)
        return handle

    def run_in_executor(self, _, make):
        """Done at once."""
        future = concurrent.futures.Future()
        future.set_result(make())
        return future

    def tick(self):
        """Do what is due next, and return how many actions still wait."""
        handle = min(self.due, key=lambda handle: self.due[handle][0])
        self.due.pop(handle)[1]()
        return len(self.due)


def test_the_latest_values_of_all_controls_win_and_one_picture_is_under_way(explorer, monkeypatch):
    formats = []
    encoded = explorer._encoded
    monkeypatch.setattr(explorer, "_encoded", lambda form, **o: (formats.append(form), encoded(form, **o))[1])
    assert explorer.widget is explorer.widget and formats == ["png"]
    clock = Clock(monkeypatch)
    shots, ways = explorer.controls["shot"], explorer.controls["way"]
    for shot, way in ((2, 3), (4, 4), (1, 2), (6, 3)):  # a burst of messages of two sliders
        shots.value, ways.value = shot, way
    assert formats == ["png"] and len(clock.due) == 1
    assert clock.tick() == 1 and formats == ["png", "jpeg"] and "3-way 6-shot" in explorer.text
    shots.value = 3  # before it came to rest
    assert clock.tick() == 1 and formats == ["png", "jpeg", "jpeg"]
    while clock.tick():  # at rest: a sharp picture at once, and again for each thing that took long
        pass
    assert formats[3:] == ["png"] * len(formats[3:]) and explorer._image.format == "png" and explorer._slow() is None
    count = len(formats)
    shots.min, shots.value = 0, 0  # refused: the sentence stays
    assert clock.tick() == 0 and "shot=0" in explorer.message and len(formats) == count and shots.value == 3
    ways.value = 4
    assert clock.tick() == 1  # a picture; the rest of it waits
    shots.value = 0
    while clock.tick():
        pass
    assert "4-way" in explorer.text and "shot=0" in explorer.message  # it stays although the picture came to rest
    assert "shot=0" in explorer.widget.children[3].value
    ways.value = 3
    explorer.close()
    assert not clock.due


def test_without_an_event_loop_a_control_acts_at_once(explorer):
    before = explorer.widget.children[1].value
    explorer.controls["shot"].value = 1
    image = explorer.widget.children[1]
    assert explorer.shot == 1 and image.format == "png" and image.value != before
    assert explorer.text.split(":")[0] in explorer.widget.children[2].value


def test_controls_follow_traits_and_refused_values_snap_back(explorer):
    slider = (explorer.widget, explorer.controls["shot"])[1]
    explorer.shot = 4
    assert slider.value == 4
    explorer.shot = -1
    assert slider.value == 4 and "shot=-1" in explorer.widget.children[3].value


def test_a_picture_where_nobody_can_click(explorer):
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    explorer.shot = 1
    again = explorer._repr_mimebundle_()
    assert again["text/plain"] == bundle["text/plain"] and again["image/png"] != bundle["image/png"]
    assert explorer._widget is None  # nothing that a notebook could keep the state of


def test_a_widget_where_somebody_can(explorer, live):
    assert explorer._repr_mimebundle_()[VIEW]["model_id"] == explorer.widget.model_id


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"JPY_SESSION_NAME": "a.ipynb"}, True),
        ({"VOILA_BASE_URL": "/"}, True),
    ],
)
def test_where_somebody_can_click(environment, expected, monkeypatch):
    for name in ("JPY_SESSION_NAME", "VOILA_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _canvas.is_live() is expected


def test_close_frees_everything_and_says_so_later(explorer):
    import ipywidgets

    registry = ipywidgets.widgets.widget._instances
    before = set(registry)
    assert explorer.widget is not None and set(registry) > before
    figure = explorer.draw()
    explorer.close()
    explorer.close()
    assert set(registry) == before and not figure.axes and not explorer._cache
    shot = explorer.shot
    explorer.shot = 2
    assert explorer.shot == shot and "closed" in explorer.message and explorer.call in explorer.message
    for later in (explorer.draw, lambda: explorer.widget):
        with pytest.raises(ValueError, match="closed"):
            later()
    assert set(explorer._repr_mimebundle_()) == {"text/plain"}


def test_memory_is_bounded():
    explorer = explorers.BoundExplorer()
    made = []
    for key in range(10):
        explorer._remember("squares", key, lambda key=key: made.append(key) or key**2, keep=3)
    assert explorer._remember("squares", 9, None, keep=3) == 81 and len(explorer._cache["squares"]) == 3
    explorer.close()


# bounds


@pytest.mark.parametrize("distribution", bounds.DISTRIBUTIONS)
def test_classes_have_the_cdnv_that_is_asked_for_and_errors_below_all_bounds(distribution):
    classes = bounds.make_classes(distribution, dim=3, cdnv=0.3, way=2)
    assert float(classes.moments.cdnv[0, 1]) == pytest.approx(0.3)
    assert torch.cdist(classes.means, classes.means)[0, 1] == pytest.approx(1)
    found = classes.sample(20_000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(found.mean(1), classes.means, atol=0.03)
    assert float(found.var(1).sum()) / 2 == pytest.approx(0.3, rel=0.1)
    explorer = explorers.BoundExplorer(dim=3, cdnv=0.3, shot=2, distribution=distribution)
    error, low, high, episodes = bounds.measured_error(classes, 2, 200_000)
    exact = classes.exact_error(2)
    values = {
        name: float(value)
        for name, value in bounds.bounds_at([classes], torch.tensor([0.3], dtype=torch.float64), 2).items()
    }
    assert error < min(values.values()) and low < error < high and 1_000 < episodes < 2_000
    assert exact is None or low - 0.02 < exact < high + 0.02
    assert values["b1"] == cdnv_bound(0.3, 2) and values["best"] == pytest.approx(best_bound(0.3, 2))
    assert same_again(explorer)
    explorer.close()


def test_edges_of_the_simplex_are_one():
    distances = torch.pdist(bounds.make_classes("gaussian", dim=7, cdnv=0.1, way=6).means)
    assert torch.allclose(distances, torch.ones_like(distances))


def test_the_largest_known_error_is_one_click_away():
    explorer = explorers.BoundExplorer(shot=1, cdnv=0.25)
    explorer.show_worst()
    assert explorer.distribution == "shared_point" and "exactly 0.5" in explorer.text  # 4V / (1 + 4V)
    explorer.close()


def test_the_end_of_a_logarithmic_slider_is_an_exponent():
    explorer = explorers.BoundExplorer(cdnv=5.0)
    slider = (explorer.widget, explorer.controls["cdnv"])[1]
    explorer.cdnv = 8.0
    assert (slider.value, slider.max) == (8.0, 1.0) and not explorer.message  # 10^1
    explorer.close()


def test_a_call_with_numbers_of_numpy_is_plain_python():
    explorer = explorers.BoundExplorer(cdnv=np.float64(0.3), shot=np.int64(2))
    assert "cdnv=0.3, shot=2" in explorer.call
    explorer.close()


def test_vacuous_bounds_are_named():
    explorer = explorers.BoundExplorer(dim=1, cdnv=1.0, shot=1, distribution="one_direction")
    assert "Vacuous (at least 1): B1" in explorer.text and "rank" in explorer.text.split("Vacuous")[1]
    explorer.close()


# episodes


@pytest.mark.parametrize("head", fewshot.HEADS)
def test_an_episode_is_that_of_the_evaluation(data, head):
    explorer = explorers.EpisodeExplorer(data["features"], data["labels"], head=head, way=3, shot=2, query=4, seed=1)
    result = fewshot.evaluate(data["features"], data["labels"], head=head, way=3, shot=2, query=4, seed=1, episodes=200)
    drawn = fewshot.sample_episodes(data["labels"], way=3, shot=2, query=4, seed=1, episodes=200)
    for k in (0, 3, 199):
        explorer.episode = k
        assert f": {round(12 * float(result.per_episode[k]))} of 12 queries right" in explorer.text
        numbers = ", ".join(str(int(c)) for c in drawn.classes[k])
        assert f"Rows 1 to 3 are the classes {numbers}." in explorer.text
    assert f"All: {result.accuracy:.3f} ± {result.ci95:.3f}" in explorer.text
    for rank in range(3):  # one after the other
        explorer.hardest()
        assert result.per_episode[explorer.episode] == result.per_episode.sort().values[rank]
    explorer.close()


def test_the_most_confused_pair_is_in_the_episode(data):
    explorer = explorers.EpisodeExplorer(data["features"], data["labels"], way=2)
    explorer.most_confused()
    result = explorer._distribution()
    pair = set(result.classes[explorer.episode].tolist())
    errors = {
        frozenset((i, j)): int(result.confusion[i, j] + result.confusion[j, i]) for i in range(8) for j in range(i)
    }
    assert errors[frozenset(pair)] == max(errors.values())
    assert all(str(number) in explorer.text.split("classes ")[-1] for number in pair)
    explorer.most_confused()  # the next pair
    second = set(result.classes[explorer.episode].tolist())
    assert errors[frozenset(second)] == sorted(errors.values())[-2] and second != pair
    explorer.close()


def test_next_and_previous_go_around(data):
    explorer = explorers.EpisodeExplorer(data["features"], data["labels"])
    explorer.previous()
    assert explorer.episode == 199
    explorer.next()
    assert explorer.episode == 0
    explorer.episode = 200
    assert explorer.episode == 0 and explorer.message.startswith("episode=200; allowed")
    explorer.close()


def test_images_of_the_readers_own_are_shown_and_calls_give_the_same_picture(data):
    plain, with_images = (explorers.EpisodeExplorer(**{**renamed(data), "images": i}) for i in (None, data["images"]))
    assert plain.text == with_images.text and not np.array_equal(pixels(plain), pixels(with_images))
    for explorer in (plain, with_images):
        explorer.update(way=2, head="ridge", episode=7)
        assert same_again(explorer, **data)
        explorer.close()


def test_one_feature_per_sample_and_twenty_ways():
    labels = torch.arange(20).repeat_interleave(4)
    explorer = explorers.EpisodeExplorer(labels[:, None] + torch.rand(80, 1), labels, way=20, shot=2, query=2)
    assert "20-way" in explorer.text
    explorer.close()


def test_sliders_end_where_the_samples_end(data):
    explorer = explorers.EpisodeExplorer(data["features"], data["labels"])  # 8 classes of 30 samples
    controls = (explorer.widget, explorer.controls)[1]
    assert [controls[name].max for name in ("way", "shot", "query")] == [8, 15, 25]
    controls["shot"].value = 12
    assert controls["query"].max == 18 and explorer.message == ""
    explorer.close()


def test_features_have_no_split_and_no_epoch(data):
    explorer = explorers.EpisodeExplorer(data["features"], data["labels"])
    for name, value in (("split", "source_test"), ("epoch", 3)):
        setattr(explorer, name, value)
        assert explorer.message == f"{name}={value!r} with features; allowed: with a Run"
    explorer.close()


def test_while_a_slider_moves_nothing_takes_long(data, monkeypatch):
    explorer = explorers.EpisodeExplorer(data["features"], data["labels"])
    monkeypatch.setattr(fewshot, "evaluate", lambda *_, **__: pytest.fail("10,000 episodes"))
    explorer.update(quick=True, shot=2)
    assert "2-shot" in explorer.text and "All" not in explorer.text
    explorer.update(quick=True, shot=5)
    assert "All" in explorer.text  # computed before
    explorer.close()


def test_episodes_of_a_run(tiny_run, monkeypatch):
    explorer = explorers.EpisodeExplorer(tiny_run, way=3, query=5)
    assert "on novel, epoch last" in explorer.text and same_again(explorer, run=tiny_run)
    shown = pixels(explorer)
    explorer.epoch = 0
    assert "epoch 0" in explorer.text and not np.array_equal(shown, pixels(explorer))
    explorer.epoch = 3
    assert "epoch=3 was not kept; kept: 0, 2, 4" in explorer.message and explorer.epoch == 0
    assert {"split", "epoch"} <= set((explorer.widget, explorer.controls)[1])
    explorer.epoch = None
    assert explorer.controls["epoch"].value == 4
    explorer.close()

    def gone(_):
        raise ValueError("the images were handed over")

    monkeypatch.setattr(type(tiny_run), "splits", property(gone))
    without = explorers.EpisodeExplorer(tiny_run, way=3, query=5)
    assert "on novel" in without.text and len(without.draw().axes[0].images) == 0  # points instead
    without.close()


# collapse


@pytest.fixture
def over_epochs(tiny_run):
    explorer = explorers.CollapseExplorer(tiny_run, novel_classes=[1, 4, 6])
    yield explorer
    explorer.close()


def test_points_move_and_axes_stay(over_epochs, tiny_run):
    last, points = pixels(over_epochs), over_epochs.draw().axes[0]
    limits, dots = (points.get_xlim(), points.get_ylim()), points.collections[0].get_offsets().copy()
    over_epochs.epoch = 0
    assert not np.array_equal(last, pixels(over_epochs)) and "Epoch 0 of 4" in over_epochs.text
    assert (points.get_xlim(), points.get_ylim()) == limits
    moved = points.collections[0].get_offsets()
    assert moved.shape == dots.shape and not np.allclose(moved, dots) and (np.abs(moved) < 1).mean() > 0.97
    assert same_again(over_epochs, run=tiny_run)


def test_a_turn_of_the_view_moves_points_and_no_number(over_epochs):
    before, text = over_epochs.draw().axes[0].collections[0].get_offsets().copy(), over_epochs.text
    over_epochs.turn = 180
    after = over_epochs.draw().axes[0].collections[0].get_offsets()
    assert np.allclose(after[:, 0], -before[:, 0]) and np.allclose(after[:, 1], before[:, 1])
    assert over_epochs.text == text and "turn=180" in over_epochs.call


def test_layers_have_a_projection_of_their_own(over_epochs):
    over_epochs.widget.children[0].children[2].value = "block1"
    assert over_epochs.layer == "block1" and "layer block1" in over_epochs.text
    over_epochs.controls["layer"].value = "f(x)"
    assert "features f(x)" in over_epochs.text


def test_the_cdnv_of_chosen_classes(over_epochs, tiny_run):
    features, labels = tiny_run.features("novel", 2)
    over_epochs.epoch = 2
    keep = torch.isin(labels, torch.tensor([1, 4, 6]))
    value = float(collapse.cdnv(features[keep], labels[keep]))
    assert f"mean CDNV of 3 new classes {value:.3g}" in over_epochs.text
    over_epochs.layer = "block2"
    assert "layer block2" in over_epochs.text and f"{value:.3g}" not in over_epochs.text


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epoch", 3, "epoch=3 was not kept; kept: 0, 2, 4"),
        ("epoch", [0], "was not kept"),
        ("layer", "block9", "did you mean"),
        ("source_classes", 1, "at least 2 and at most 6"),
        ("source_classes", [2, 2], "at least 2 of the classes 0 to 5"),
        ("novel_classes", [0, 8], "at most 7"),
        ("novel_classes", "all", "of type str"),
    ],
)
def test_what_a_run_does_not_have(over_epochs, name, value, words):
    before, old = pixels(over_epochs), getattr(over_epochs, name)
    setattr(over_epochs, name, value)
    assert words in over_epochs.message and getattr(over_epochs, name) == old
    assert np.array_equal(before, pixels(over_epochs))


def test_a_play_button_walks_through_the_epochs(over_epochs):
    (play,) = (part for part in over_epochs.widget.children[0].children if type(part).__name__ == "Play")
    slider = over_epochs.controls["epoch"]
    assert (play.max, over_epochs._link.source, over_epochs._link.target) == (2, (play, "value"), (slider, "index"))
    slider.index = 1  # as the browser does when the button counts on
    assert over_epochs.epoch == 2


def test_features_of_ones_own_training(data):
    """Labels with gaps, three epochs: points and numbers as of a run, and no control for what is not there."""
    features = {epoch: data["features"] * (1.0 + epoch) for epoch in (0, 2, 7)}
    labels = 3 * data["labels"] + 5
    explorer = explorers.CollapseExplorer(features, labels=labels, epoch=2)
    value = float(collapse.cdnv(data["features"][:150], data["labels"][:150]))
    assert f"Epoch 2 of 7, features: mean CDNV of 5 source classes {value:.3g} (150 samples)" in explorer.text
    assert same_again(explorer, features=features, labels=labels)
    shown = explorer.draw().axes[0].collections[0].get_offsets().copy()
    explorer.epoch = 0  # the same features at another scale
    assert np.allclose(explorer.draw().axes[0].collections[0].get_offsets(), shown)
    assert set((explorer.widget, explorer.controls)[1]) == {"epoch", "turn", "source_classes"}
    for name, bad in (("layer", "block1"), ("epoch", 1), ("novel_classes", 1), ("source_classes", 9)):
        setattr(explorer, name, bad)
        assert explorer.message.startswith(f"{name}="), explorer.message
    explorer.close()


# the picture


@pytest.mark.parametrize("change", [{"shot": 3}, {"way": 3, "shot": 2}, {}])
def test_what_is_drawn_on_top_of_kept_pixels_is_the_figure(explorer, change):
    image = (explorer.widget, explorer._image)[1]
    explorer.update(**change)
    shown = np.asarray(Image.open(io.BytesIO(image.value)).convert("RGB"), dtype=float)
    figure = explorer.draw()
    explorer._caption.set_visible(False)
    figure.canvas.draw()
    whole = np.asarray(figure.canvas.buffer_rgba())[: len(shown), :, :3].astype(float)
    assert len(shown) > 0.85 * figure.canvas.buffer_rgba().shape[0]  # without the caption's place
    assert np.abs(shown - whole).mean() < 2  # of 255: spines are drawn over the rest there, and under it here
    assert np.abs(shown - 255).mean() > 4


def test_nothing_piles_up_in_the_figure(explorer):
    def parts():
        return sum(len(ax.get_children()) for ax in explorer.draw().axes)

    explorer.update(shot=1)
    before = parts()
    for shot in (2, 3, 1):
        explorer.update(shot=shot, quick=True)
    explorer.update(shot=1)
    assert parts() == before


def test_what_takes_long_is_computed_beside_the_controls(data, monkeypatch):
    """At rest the picture comes at once, and once more with all episodes; meanwhile controls act."""
    explorer = explorers.EpisodeExplorer(**renamed(data))
    release, texts = threading.Event(), []
    evaluate = fewshot.evaluate
    monkeypatch.setattr(fewshot, "evaluate", lambda *a, **k: (release.wait(20), evaluate(*a, **k))[1])
    monkeypatch.setattr(_canvas, "REST", 0.01)

    async def use():
        slider = (explorer.widget, explorer.controls["shot"])[1]
        slider.value = 2
        while explorer._working is None:
            await asyncio.sleep(0.005)
        slider.value = 3
        while "3-shot" not in explorer.text:
            await asyncio.sleep(0.005)
        texts.append(explorer.text)
        release.set()
        while "All" not in explorer.text:
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(use(), 30))
    assert "All" not in texts[0] and "3-shot" in explorer.text
    result = evaluate(data["features"], data["labels"], way=5, shot=3, query=15, head="ncc", seed=0, episodes=200)
    assert f"All: {result.accuracy:.3f}" in explorer.text
    explorer.close()


def test_closing_while_something_is_computed(data, monkeypatch):
    explorer = explorers.EpisodeExplorer(**renamed(data))
    monkeypatch.setattr(_canvas, "REST", 0.001)

    async def use():
        (explorer.widget, explorer.controls["shot"])[1].value = 2
        while explorer._working is None:
            await asyncio.sleep(0.001)
        work = explorer._working
        explorer.close()
        await work
        await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(use(), 30))
    assert explorer._repr_mimebundle_() == {"text/plain": "EpisodeExplorer: closed"}


def test_a_split_without_samples_names_those_that_have_some(tmp_path):
    run = ncbook.train(ncbook.Experiment(n_source=4, n_novel=0, epochs=1, backbone="conv4_small"), runs_dir=tmp_path)
    with pytest.raises(ValueError, match="split='novel' has no classes in this run; allowed: source_train, source_te"):
        explorers.EpisodeExplorer(run)
