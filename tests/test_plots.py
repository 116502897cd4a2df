import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ncbook import plots


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.fixture
def table(tiny_run):
    return pd.concat([tiny_run.history.assign(n_source=n) for n in (6, 12)])


def test_a_split_has_one_color(tiny_run, ax):
    assert plots.over_training(tiny_run.history, "cdnv", ax=ax, ideal=0) is ax
    lines = {line.get_label(): line.get_color() for line in ax.get_lines()}
    assert {lines[plots.NAMES[split]] for split in plots.NAMES} == set(plots.COLORS.values())
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "epoch" and ax.get_ylabel() == "CDNV"
    dashed = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
    assert len(dashed) == 1


def test_one_curve_for_each_number_of_source_classes(table, ax):
    plots.by_source_classes(table, "novel", "accuracy_5shot", ax=ax)
    assert [line.get_label() for line in ax.get_lines()] == ["6", "12"]
    assert ax.get_yscale() == "linear" and "5-shot" in ax.get_ylabel()


def test_against_source_classes_takes_the_last_epoch(table, ax):
    plots.against_source_classes(table, "cdnv", ax=ax, splits=("novel",))
    last = table.query("split == 'novel' and metric == 'cdnv' and epoch == 4")["value"]
    assert ax.get_lines()[0].get_ydata().tolist() == last.tolist()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["6", "12"]


def test_scatter_has_a_point_for_each_measurement(table, ax):
    plots.accuracy_against_cdnv(table, ax=ax)
    assert [len(line.get_xdata()) for line in ax.get_lines()] == [2, 1, 2, 1]  # at earlier epochs, and in the end
    assert [str(line.get_markerfacecolor()) == "none" for line in ax.get_lines()] == [True, False] * 2
    assert ax.get_ylabel().startswith("5-shot error")


def test_sheet_puts_images_in_rows(ax):
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    plots.sheet(images, columns=3, ax=ax)
    shown = ax.get_images()[0].get_array()
    assert shown.shape == (8, 12) and shown[0, 4] == 1 and shown[4, 0] == 3 and shown[4, 8] == 0


def test_errors_and_bounds(ax):
    pairs = pd.DataFrame({"cdnv": [0.1, 0.5], "error": [0.0, 0.1], "b1": [0.5, 1.2], "best": [0.45, 1], "b3": [0.3, 1]})
    plots.errors_and_bounds(pairs, {"b1": "B1", "best": "best", "b3": "B3"}, ax=ax, sample=1)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert ax.collections[0].get_array().sum() == 2  # every pair is counted in some cell
    names = {text.get_text(): text for text in ax.texts}
    assert names["B1"].xy[1] >= 1.29 * names["best"].xy[1]  # named at the line, not on each other
    assert len({line.get_linestyle() for line in ax.get_lines()[1:]}) == 2
    assert [text for text in ax.get_legend_handles_labels()[1]] == ["B3 (1 of 2 pairs)"]


def test_worst_errors_are_drawn_between_what_was_found_and_what_is_proved(ax):
    frontier = pd.DataFrame({"shot": [1, 1, 5, 5], "cdnv": [0.01, 1.0] * 2, "error": 0.03, "proved": 0.06})
    plots.worst_errors(frontier, ax=ax)
    solid = next(line for line in ax.get_lines() if line.get_label() == "n = 1")
    assert solid.get_ydata()[1] == pytest.approx(0.03 / (4 / 5))
    dashed = [line for line in ax.get_lines() if line.get_linestyle() == "--" and len(line.get_ydata())]
    assert [list(line.get_ydata()) for line in dashed] == [[pytest.approx(0.06 / (0.04 / 1.04)), 0.075]] * 2
    assert not [line for line in ax.get_lines() if line.get_linestyle() == ":"]
    plots.worst_errors(frontier.assign(b5=0.08), ax=ax)
    dotted = [line for line in ax.get_lines() if line.get_linestyle() == ":" and len(line.get_ydata())]
    assert [list(line.get_ydata()) for line in dotted] == [[pytest.approx(2.08), pytest.approx(0.1)]] * 2
    assert len({line.get_marker() for line in dotted}) == 2  # not by color alone


def test_tightness_has_a_line_for_each_bound(ax):
    table = pd.DataFrame({"bound": ["b1", "b1", "b3"], "shot": [1, 5, 1], "ratio": [0.5, 0.8, 1.0]})
    plots.tightness(table, {"b1": "B1", "b3": "B3"}, ax=ax)
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}
    assert drawn["B1"] == [0.5, 0.8] and drawn["B3"] == [1.0]
    assert len({line.get_marker() for line in ax.get_lines() if line.get_label() in ("B1", "B3")}) == 2


def test_figures_are_written_only_where_asked(tmp_path, monkeypatch, tiny_run, ax):
    monkeypatch.delenv("NCBOOK_FIGURES", raising=False)
    plots.save(ax.figure, "x", tiny_run.history)
    monkeypatch.setenv("NCBOOK_FIGURES", str(tmp_path))
    plots.save(ax.figure, "x", tiny_run.history)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.csv", "x.pdf", "x.png"]
    first = (tmp_path / "x.png").read_bytes(), (tmp_path / "x.pdf").read_bytes()
    plots.save(ax.figure, "x", tiny_run.history)
    assert first == ((tmp_path / "x.png").read_bytes(), (tmp_path / "x.pdf").read_bytes())


def test_repeats_make_a_band(table, ax):
    wider = table.assign(value=table["value"] * 1.5)
    both = pd.concat([table.assign(repeat=0), wider.assign(repeat=1)])
    plots.by_source_classes(both, "novel", "cdnv", ax=ax)
    assert len(ax.lines) == len(ax.collections) == table["n_source"].nunique()
    line = ax.lines[0].get_ydata()
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() < line.min() and band.max() > line.max()
    figure, other = plt.subplots()
    plots.against_source_classes(both, "cdnv", ax=other, splits=("novel",))
    points, mean = other.lines
    assert len(points.get_ydata()) == 2 * len(mean.get_ydata()) == 2 * table["n_source"].nunique()
    plt.close(figure)


def test_a_place_where_a_network_has_no_finite_value_is_left_out(table, ax):
    """A mean over the networks that are left would be one of other networks."""
    both = pd.concat([table.assign(repeat=0), table.assign(repeat=1)], ignore_index=True)
    of_one = both[(both["split"] == "novel") & (both["metric"] == "cdnv") & (both["repeat"] == 1)]
    both.loc[of_one[of_one["epoch"] == of_one["epoch"].max()].index, "value"] = np.inf
    plots.over_training(both, "cdnv", ax=ax, splits=["novel"])
    assert max(ax.lines[0].get_xdata()) < both["epoch"].max()
    figure, other = plt.subplots()
    plots.against_source_classes(both, "cdnv", ax=other, splits=("novel",))
    assert not len(other.lines[0].get_xdata())
    plt.close(figure)


def test_a_curve_for_each_network_layer_by_layer(ax):
    layers = pd.DataFrame({"layers": [3, 3, 3, 5, 5, 5], "depth": [1, 2, 3] * 2, "cdnv": [3, 2, 1, 4, 2, 1]})
    plots.by_layer(layers, "cdnv", ax=ax, dashed=[5])
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    assert ax.get_xlabel() == "layer" and ax.get_yscale() == "log"
    assert [line.get_label() for line in ax.lines] == ["3", "5"] and not ax.collections


def test_networks_of_one_depth_make_a_band_layer_by_layer(ax):
    layers = pd.DataFrame({"layers": [3] * 6, "repeat": [0] * 3 + [1] * 3, "depth": [1, 2, 3] * 2})
    plots.by_layer(layers.assign(mismatch=[0.3, 0.2, 0.1, 0.5, 0.4, 0.3]), "mismatch", ax=ax)
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([0.4, 0.3, 0.2])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.1, 0.5)


def test_curves_are_told_apart_by_marker_and_not_by_color_alone(table, ax):
    many = pd.concat([table[table["n_source"] == 6].assign(n_source=n) for n in range(2, 11)])
    plots.by_source_classes(many, "novel", "cdnv", ax=ax)
    assert len({(line.get_marker(), matplotlib.colors.to_hex(line.get_color())) for line in ax.lines}) == 9
    assert len({line.get_marker() for line in ax.lines}) == 8


def test_dots_set_measured_apart_from_published(ax):
    rows = [
        ("A", "fc100", 1, 0.4, 0.01, "confirmed"),
        ("A", "fc100", 5, 0.6, np.nan, "as printed"),
        ("B", "fc100", 5, 0.5, 0.02, "measured here"),
        ("B", "omniglot", 5, 0.9, 0.02, "measured here"),
    ]
    cells = pd.DataFrame(rows, columns=["method", "dataset", "shot", "accuracy", "half_width", "mark"])
    networks = cells[2:3].assign(accuracy=0.48)[["method", "dataset", "shot", "accuracy"]]
    plots.dots(cells, ax=ax, dataset="fc100", networks=networks, note="conv4, n = 1 network")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["B", "A"]
    assert ax.get_title() == "FC-100\nconv4, n = 1 network"
    drawn = {
        (*line.get_xdata(), *line.get_ydata()): (line.get_marker(), line.get_markerfacecolor() == "white")
        for line in ax.lines
        if line.get_marker() in "os" and len(line.get_xdata())
    }
    assert drawn == {(0.4, 1.15): ("o", True), (0.6, 0.85): ("s", True), (0.5, -0.15): ("s", False),
                     (0.48, -0.15): ("s", False)}  # fmt: skip
    assert ax.get_legend_handles_labels()[1] == ["1-shot", "5-shot"]


def test_the_setup_frames_shots_and_queries_of_each_task(ax):
    source, target = torch.zeros(6, 5, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, 4, 1, 8, 8, dtype=torch.uint8)

    def frames(**options):
        plots.setup(source, target, shot=2, ax=ax, **options)
        parts = ax.child_axes[-2:]
        assert [len(part.texts) for part in parts] == [6, 3]  # a name per class
        return [[patch.get_linestyle() for patch in part.patches] for part in parts]

    assert frames() == [[], ["-", ":"] * 3]
    assert frames(episodes=[[0, 1, 3], [2, 4]]) == [["-", ":"] * 5, ["-", ":"] * 3]
    assert "$m$ = 5" in ax.child_axes[-2].get_title() and "$n$ = 2" in ax.child_axes[-1].get_title()


def test_tables_are_written_in_three_forms(tmp_path, monkeypatch):
    frame = pd.DataFrame({"5-shot": ["98.0 ± 0.1"]}, index=pd.Index(["simple"], name="method"))
    monkeypatch.delenv("NCBOOK_FIGURES", raising=False)
    plots.save_table(frame, "table")
    monkeypatch.setenv("NCBOOK_FIGURES", str(tmp_path))
    plots.save_table(frame, "table")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.md", "table.tex"]
    assert "| simple   | 98.0 ± 0.1 |" in (tmp_path / "table.md").read_text()


def test_texts_in_tables_cannot_break_them(tmp_path, monkeypatch):
    monkeypatch.setenv("NCBOOK_FIGURES", str(tmp_path))
    plots.save_table(pd.DataFrame({"fails if": ["|a - b| > 5 % of b_1"]}, index=["x"]), "table")
    row = (tmp_path / "table.md").read_text().splitlines()[-1]
    assert r"\|a - b\| > 5 % of b_1" in row and row.replace(r"\|", "").count("|") == 3
    assert r"5 \% of b\_1" in (tmp_path / "table.tex").read_text()


def test_a_live_figure_is_drawn_in_place_and_only_in_a_live_front_end(table, monkeypatch):
    shown = []

    class Display:
        def update(self, figure):
            shown.append(("updated", figure))

    def display(figure, display_id):
        shown.append(("new", figure))
        return Display()

    monkeypatch.setattr("IPython.display.display", display)
    for mode in ("off", "lines"):  # nbval compares every output, papermill has nobody who looks
        monkeypatch.setenv("NCBOOK_PROGRESS", mode)
        plots.LiveFigure().draw(plots.by_source_classes, table, "novel", "cdnv")
    assert not shown
    monkeypatch.setenv("NCBOOK_PROGRESS", "bar")
    live = plots.LiveFigure()
    for rows in (table[table["n_source"] == 6], table):
        live.draw(plots.by_source_classes, rows, "novel", "cdnv")
    assert [kind for kind, _ in shown] == ["new", "updated"]
    assert [len(figure.axes[0].get_lines()) for _, figure in shown] == [1, 2]
    assert not plt.get_fignums()  # or the inline backend would show each once more


def episode_rows():
    rows = [
        (epoch, split, part, metric, value * (repeat + 1), repeat)
        for split in ("source_train", "validation")
        for part in ("support", "query")
        for metric, value in (("nc1", 1.0), ("nc1_floor", 2.0))
        for repeat in range(2)
        for epoch in (0, 5, 10)
    ]
    return pd.DataFrame(rows, columns=["epoch", "split", "set", "metric", "value", "repeat"])


def test_sets_of_episodes_differ_by_line_and_splits_by_color(ax):
    plots.by_set(episode_rows(), "nc1", ax=ax, floor="nc1_floor")
    lines = ax.get_lines()
    named = [line for line in lines if not line.get_label().startswith("_")]
    assert [line.get_linestyle() for line in named] == ["-", ":"] * 2
    assert [line.get_color() for line in named[::2]] == [plots.COLORS["source_train"], plots.COLORS["validation"]]
    floors = [line for line in lines if line.get_linestyle() == "--"]
    assert len(floors) == 4 and list(floors[0].get_ydata()) == [3.0] * 3
    assert list(named[0].get_ydata()) == [1.5] * 3 and len(ax.collections) == 4


def test_factors_with_their_intervals(ax):
    rows = pd.DataFrame({"label": ["a", "b"], "statistic": [0.5, 2.0], "low": [0.4, -np.inf], "high": [0.7, np.inf]})
    plots.factors(rows, ax=ax)
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"] and list(ax.get_yticks()) == [1, 0]
    assert [list(line.get_xdata()) for line in ax.get_lines()] == [[0.4, 0.7], [0.5], [2.0], [1, 1]]


def test_a_misspelled_metric_is_no_empty_picture(tiny_run):
    with pytest.raises(ValueError, match="metric='cdvn' is unknown; did you mean 'cdnv'"):
        plots.over_training(tiny_run.history, "cdvn", ax=plt.figure().add_subplot())
    with pytest.raises(ValueError, match="metric='cdvn' is unknown; did you mean 'cdnv'"):
        plots.by_source_classes(tiny_run.history.assign(n_source=6), "novel", "cdvn", ax=plt.figure().add_subplot())
    with pytest.raises(ValueError, match="metric='cdvn' is unknown; did you mean 'cdnv'"):
        plots.by_set(tiny_run.history.assign(set="query"), "cdvn", ax=plt.figure().add_subplot())
