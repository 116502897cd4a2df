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


def test_the_interval_covers_the_true_ratio():
    rng = np.random.default_rng(1)
    depth = np.arange(1, 11)
    covered = 0
    for _ in range(400):
        law = layerwise.separation_law(
            pd.DataFrame({"depth": depth, "fuzziness": 3 * 0.8**depth * np.exp(0.3 * rng.normal(size=10))})
        )
        covered += law.low <= 0.8 <= law.high
    assert 0.92 <= covered / 400 <= 0.98


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
