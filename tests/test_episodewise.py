"""Metrics per episode against those of the pure functions; the noise floor; each objective's own classifier."""

import pytest
import torch

import ncbook
from ncbook import catalog, collapse, episodewise, fewshot
from ncbook.training import measuring

SETTING = {"way": 4, "shot": 3, "query": 4, "episodes": 5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function from an objective to a small run of it."""
    folder = tmp_path_factory.mktemp("runs")

    def run(objective):
        episodic = "train_way" in catalog.OBJECTIVES[objective][1]
        own = {"train_way": 5, "train_shot": 3, "train_query": 3, "episodes_per_epoch": 12} if episodic else {}
        own |= {"inner_rate": 0.1} if objective == "anil" else {}  # so that the head moves far from where it starts
        experiment = ncbook.Experiment(
            objective=objective, backbone="conv4_small", n_source=6, n_novel=8, n_validation=0, epochs=2,
            measurements=2, **own,
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measuring, "EPISODES", 20)
            return ncbook.train(experiment, runs_dir=folder, threads=1)

    return run


def cell(table, metric, part="query", epoch=2):
    return table.query("metric == @metric and set == @part and epoch == @epoch").iloc[0]


def test_each_number_is_the_mean_over_episodes(trained):
    run = trained("prototypical")
    table = episodewise.measure(run, "novel", **SETTING, seed=3)
    assert set(table["epoch"]) == {0, 2} and set(table["n"]) == {5, 1}
    x, y = run.features("novel")
    drawn = fewshot.sample_episodes(y, **SETTING, seed=3)
    for part, rows in (("support", drawn.support), ("query", drawn.query)):
        values = [collapse.nc1(x[r.flatten()], torch.arange(4).repeat_interleave(r.shape[1])) for r in rows]
        found = cell(table, "nc1", part)
        assert found["value"] == pytest.approx(float(torch.stack(values).mean()), rel=1e-9)
        assert found["ci95"] == pytest.approx(1.96 * float(torch.stack(values).std()) / 5**0.5, rel=1e-9)
    accuracy = fewshot.evaluate(x, y, head="ncc", **SETTING, seed=3).accuracy
    assert cell(table, "error")["value"] == pytest.approx(1 - accuracy, abs=1e-9)
    assert cell(table, "loss")["value"] > 0


def test_noise_alone_is_at_the_floor(trained, monkeypatch):
    """Features without any classes: NC1 is its floor, by simulation and by the formula."""
    run = trained("prototypical")
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(0.2, 2, 40)
    monkeypatch.setattr(
        episodewise,
        "_features",
        lambda *_: torch.randn(200, 4, 7, 40, generator=generator, dtype=torch.float64) * scales,
    )
    table = episodewise.measure(run, "novel", way=4, shot=3, query=4, episodes=200, epochs=[2], metrics=("nc1",))
    for part in ("support", "query"):
        nc1 = cell(table, "nc1", part)["value"]
        assert cell(table, "nc1_floor", part)["value"] == pytest.approx(nc1, rel=0.05)
        assert cell(table, "nc1_floor_formula", part)["value"] == pytest.approx(nc1, rel=0.1)
    assert cell(table, "error")["value"] == pytest.approx(0.75, abs=0.03)


def test_batch_statistics_and_projection(trained):
    run = trained("prototypical")
    of_batch = episodewise.measure(run, "novel", **SETTING, epochs=[0], batch_norm="batch", metrics=("nc1",))
    running = episodewise.measure(run, "novel", **SETTING, epochs=[0], metrics=("nc1",))
    assert cell(of_batch, "nc1", epoch=0)["value"] != pytest.approx(cell(running, "nc1", epoch=0)["value"], rel=1e-3)
    fewer = episodewise.measure(run, "novel", **SETTING, epochs=[2], dim=20, metrics=("nc1",))
    assert cell(fewer, "nc1")["value"] > 0


def test_wrong_arguments_are_refused(trained):
    run = trained("prototypical")
    for wrong, words in [
        ({"split": "nvel"}, "did you mean 'novel'"),
        ({"batch_norm": "eval"}, "batch_norm='eval'"),
        ({"metrics": ("nc3",)}, "metrics='nc3'"),
        ({"shot": 1}, "shot=1; allowed: a whole number of at least 2"),
        ({"dim": 65}, "dim=65; allowed: at most the 64 dimensions"),
        ({"way": 9}, "way=9; allowed: at most the number of classes, 8"),
        ({"epochs": [1]}, "epoch=1 was not kept"),
    ]:
        with pytest.raises(ValueError, match=words):
            episodewise.measure(run, **{"split": "novel", **SETTING, **wrong})
    with pytest.raises(ValueError, match="way=4; allowed: 5, the train_way of this run"):
        episodewise.own_accuracy(trained("anil"), way=4, shot=3, query=4, episodes=2)


@pytest.mark.parametrize("name", catalog.OBJECTIVES)
def test_own_classifiers(trained, name):
    run = trained(name)
    setting = {"way": 5, "shot": 3, "query": 4, "episodes": 20, "seed": 1}
    found = episodewise.own_accuracy(run, **setting)
    assert 0.15 < found.accuracy <= 1 and found.n == 20 and found.ci95 > 0
    assert found == episodewise.own_accuracy(run, **setting)
    head = {"prototypical": "ncc"}.get(name, None if "train_way" in catalog.OBJECTIVES[name][1] else "ridge")
    if head:
        assert found.accuracy == pytest.approx(fewshot.evaluate(*run.features("novel"), head=head, **setting).accuracy)
