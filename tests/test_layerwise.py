"""Layer-wise measurements against the metrics they are made of, and the fitted law."""

import numpy as np
import pandas as pd
import pytest
import torch

import ncbook
from ncbook import collapse, features, layerwise


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    experiment = ncbook.Experiment(
        backbone="plain5", n_source=5, n_novel=0, epochs=2, batch_size=32, measurements=2, precision="float32"
    )
    return ncbook.train(experiment, runs_dir=tmp_path_factory.mktemp("runs"))


def test_each_layer_is_measured_as_its_features_are(run):
    table = layerwise.measure(run, "source_train")
    assert table["layer"].tolist() == [f"layer{i}" for i in range(1, 6)]  # the features are the last layer, flattened
    assert table["depth"].tolist() == [1, 2, 3, 4, 5] and table["dim"].tolist() == [64 * 14**2] + 4 * [64 * 49]
    for row in table.itertuples():
        features, labels = run.features("source_train", layer=row.layer)
        assert row.cdnv == pytest.approx(float(collapse.cdnv(features, labels)), rel=1e-9)
        assert row.fuzziness == pytest.approx(float(collapse.separation_fuzziness(features, labels)), rel=1e-9)
        assert row.mismatch == float(collapse.class_mean_mismatch(features, labels))


def test_the_first_samples_of_each_class(run):
    features, labels = run.features("source_train", layer="layer3")
    rows = torch.cat([(labels == c).nonzero().squeeze(1)[:4] for c in range(5)])
    expected = float(collapse.cdnv(features[rows], labels[rows]))
    table = layerwise.measure(run, "source_train", per_class=4)
    assert table["cdnv"][2] == pytest.approx(expected, rel=1e-6)
    before = layerwise.measure(run, "source_train", epoch=0, per_class=4)
    assert before["cdnv"][2] != pytest.approx(expected, rel=1e-3)


def test_blocks_of_a_residual_network(tmp_path):
    experiment = ncbook.Experiment(
        backbone="resnet18", n_source=3, n_novel=0, epochs=1, batch_size=64, measurements=2, precision="float32"
    )
    table = layerwise.measure(ncbook.train(experiment, runs_dir=tmp_path), per_class=3)
    assert table["layer"].tolist()[:2] == ["relu", "layer1.0"] and table["dim"].iloc[-1] == 512
    assert np.isfinite(table[["cdnv", "fuzziness", "mismatch"]]).all(axis=None)


def test_bad_input(run):
    with pytest.raises(ValueError, match="split='source_tran' is unknown; did you mean 'source_train'"):
        layerwise.measure(run, "source_tran")
    with pytest.raises(ValueError, match="per_class=1; allowed"):
        layerwise.measure(run, per_class=1)
    with pytest.raises(ValueError, match="epoch=7 was not kept; kept: 0, 2"):
        layerwise.measure(run, epoch=7)
    with pytest.raises(ValueError, match="at least three values above 0"):
        layerwise.separation_law(pd.DataFrame({"depth": [1, 2], "fuzziness": [1.0, 0.5]}))


def law(log_fuzziness):
    depth = np.arange(1, len(log_fuzziness) + 1)
    return layerwise.separation_law(pd.DataFrame({"depth": depth, "fuzziness": np.exp(log_fuzziness)}))


@pytest.mark.parametrize("n_layers", [3, 8, 20])
def test_the_factor_is_that_of_the_straight_line_and_the_bend_where_it_falls(n_layers):
    x = np.linspace(-1, 1, n_layers)
    straight = law(2 - 0.3 * np.arange(n_layers))
    assert straight.ratio == pytest.approx(np.exp(-0.3)) and straight.half_life == pytest.approx(np.log(2) / 0.3)
    assert straight.bend == pytest.approx(0, abs=1e-12)
    for bend in (0.2, -0.2):  # of the fall of 3 in all, 70 and 30 % are in the first half
        values = -1.5 * x + 3 * bend * x**2
        assert law(values).bend == pytest.approx(bend)
        assert (values[0] - np.interp(0, x, values)) / 3 == pytest.approx(0.5 + bend) or n_layers % 2 == 0
        expected = np.polyfit(np.arange(n_layers), values, 1)[0]
        assert law(values).ratio == pytest.approx(np.exp(expected))


def test_a_fuzziness_that_stays_has_no_half_life_and_no_bend():
    flat = law(np.zeros(5))
    assert flat.ratio == 1 and flat.half_life == np.inf and np.isnan(flat.bend)


def test_a_decreasing_sequence_is_not_the_law():
    """Correlation tells nothing: of the depth and log D of any falling curve it is near -1."""
    values = -np.log1p(np.arange(20.0))
    assert np.corrcoef(np.arange(20), values)[0, 1] < -0.9 and law(values).bend > 0.2


def test_effective_depth():
    layers = pd.DataFrame({"depth": [1, 2, 3], "mismatch": [0.3, 0.2, 0.1]})
    assert layerwise.effective_depth(layers) is None
    assert layerwise.effective_depth(layers, tolerance=0.2) == 2


def test_layers_come_from_one_forward_pass(run):
    passes = []
    backbone = run.model()
    backbone.get_submodule("layer1").register_forward_hook(lambda *_: passes.append(1))
    images = run.splits.source_train.images[:10]
    first, last = features.extract_layers(backbone, images, ["layer1", ""])
    assert len(passes) == 1 and first.shape == (10, 64 * 14**2)
    assert torch.equal(last, features.extract(backbone, images))
