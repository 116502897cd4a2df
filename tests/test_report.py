"""The report: numbers against the functions they come from, every kind of data and model, bad input, one page."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import ncbook
from ncbook import collapse, fewshot
from ncbook.experiment import ParameterError
from ncbook.report import gather, images, measure, models, page, words
from ncbook.report.__main__ import main

QUICK = dict(episodes=200, device="cpu")


class Tiny(nn.Module):
    """A mean over rows, and its square: 2 x 8 features, without parameters."""

    def forward(self, x):
        rows = x.mean((1, 2))
        return torch.cat([rows, rows.square()], 1)


@pytest.fixture(scope="module")
def pictures():
    """8 classes of 24 images [1, 8, 8], uint8, in no order; labels with gaps."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(40, 200, (8, 1, 8, 8), generator=generator)
    index = torch.arange(8).repeat(24)
    noise = torch.randint(-40, 40, (192, 1, 8, 8), generator=generator)
    return (base[index] + noise).clamp(0, 255).to(torch.uint8), 3 * index + 2


@pytest.fixture(scope="module")
def found(pictures):
    return ncbook.report(Tiny(), pictures, ways=(5, 3), layers=(), **QUICK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    """The same images as files of class folders, one name of a class a danger to HTML."""
    root = tmp_path_factory.mktemp("pictures")
    for number, (image, label) in enumerate(zip(*pictures, strict=True)):
        name = "a <b>&" if label == 2 else f"class{int(label):02}"
        (root / name).mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(root / name / f"{number:03}.png")
    return root


def features_of(pictures, model=None):
    return (model or Tiny())(ncbook.features.as_input(pictures[0]))


def same(one: pd.DataFrame, other: pd.DataFrame, **tolerance):
    pd.testing.assert_frame_equal(one, other, **{"rtol": 1e-9, **tolerance})


# Numbers


def test_numbers_are_those_of_the_functions(found, pictures):
    x, y = features_of(pictures), pictures[1]
    for name in ("cdnv", "directional_cdnv", "nc1", "nc2", "variability_collapse_index", "class_separation", "logme"):
        assert found.value(name) == pytest.approx(float(getattr(collapse, name)(x, y)), rel=1e-5), name
    for name in ("rankme", "effective_rank"):
        assert found.value(name) == pytest.approx(float(getattr(collapse, name)(x)), rel=1e-4), name
    assert list(found.summary.columns[:6]) == ["metric", "value", "low", "high", "n", "over"]
    inside = found.summary.dropna(subset="low")
    assert (inside["low"] <= inside["value"]).all() and (inside["value"] <= inside["high"]).all()
    assert len(inside) >= len(found.summary) - 1  # NC1's noise floor has none
    assert found.summary["meaning"].str.len().gt(20).all()
    wide = fewshot.evaluate(x, y, head="ncc", episodes=5000)
    assert found.value("accuracy_5way_5shot_ncc") == pytest.approx(wide.accuracy, abs=0.03)


def test_pairs_are_those_of_the_matrix_the_hardest_first(found, pictures):
    x, y = features_of(pictures), pictures[1]
    matrix, errors = collapse.cdnv_matrix(x, y), fewshot.pair_errors(x, y, shot=5)
    directional = collapse.directional_cdnv_matrix(x, y)
    assert len(found.pairs) == 28 and found.pairs["cdnv"].is_monotonic_decreasing
    names = [str(k) for k in y.unique().tolist()]
    for pair in found.pairs.itertuples():
        i, j = names.index(pair.class_a), names.index(pair.class_b)
        assert pair.cdnv == pytest.approx(float(matrix[i, j]), rel=1e-5)
        assert pair.directional_cdnv == pytest.approx(float(directional[i, j] + directional[j, i]) / 2, rel=1e-5)
        assert pair.error == pytest.approx(float(errors[i, j]), abs=0.06)  # other draws


def test_bounds_hold_and_say_where_they_are_vacuous(found):
    two = found.bounds[found.bounds["way"] == 2]
    assert (two["measured"] <= two["value"]).all()
    assert (found.bounds["value"].gt(1) == found.bounds["vacuous"].gt(0))[found.bounds["way"] > 2].all()
    five = found.bounds[(found.bounds["way"] == 5)].set_index(["shot", "bound"])["value"]
    for row in two.itertuples():
        assert five[row.shot, row.bound] == pytest.approx(4 * row.value)


def test_growth_ends_with_all_there_is(found):
    last = found.growth.groupby(["along", "metric"]).last()
    assert last.loc[("samples", "cdnv"), "value"] == pytest.approx(found.value("cdnv"), rel=1e-5)
    assert last.loc[("classes", "cdnv"), "value"] == pytest.approx(found.value("cdnv"), rel=1e-5)
    assert last.loc[("classes", "cdnv"), "count"] == 8 and last.loc[("samples", "cdnv"), "count"] == 24
    ways = found.growth[found.growth["along"] == "ways"]
    assert ways["value"].is_monotonic_decreasing and ways["count"].tolist() == [2, 5, 8]


def test_a_class_in_no_task_is_taken_for_none():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60 * 8, 4, generator=generator), torch.arange(60).repeat_interleave(8)
    classes = ncbook.report(None, (x, y), shots=(1,), episodes=3).classes
    drawn = classes["accuracy"].notna()
    assert 5 <= drawn.sum() <= 15 and (classes.loc[~drawn, "taken_for"] == "").all()
    assert (classes.loc[classes["accuracy"] < 1, "taken_for"] != "").all()


def test_every_collapse_metric_has_an_interval_over_classes(found):
    rows = found.summary.set_index("metric").loc[["nc1", "nc1_noise_floor", "variability_collapse_index", "logme"]]
    assert (rows["low"] < rows["value"]).all() and (rows["value"] < rows["high"]).all()
    assert (rows["over"] == "classes").all()


def test_the_interval_of_the_debiased_median_covers():
    """Over draws of 20 classes whose spread differs: 0.94 of 300, the median of 1,500 classes as the truth."""
    generator = torch.Generator().manual_seed(1)

    def drawn(n_classes):
        means, noise = (torch.randn(n_classes, n, 32, generator=generator) for n in (1, 20))
        spread = (torch.randn(n_classes, 1, 1, generator=generator) / 2).exp()
        return (means + spread * noise).flatten(0, 1).double(), torch.arange(n_classes).repeat_interleave(20)

    truth = measure._debiased_median(*drawn(1500))["value"]
    rows = pd.DataFrame([measure._debiased_median(*drawn(20)) for _ in range(100)])
    assert 86 <= ((rows["low"] <= truth) & (truth <= rows["high"])).sum() < 100


def test_classes_to_look_at(found, pictures):
    assert found.classes["accuracy"].is_monotonic_increasing and (found.classes["n"] == 24).all()
    matrix = collapse.cdnv_matrix(features_of(pictures), pictures[1])
    of_class = dict(zip(map(str, pictures[1].unique().tolist()), matrix.nanmean(1).tolist(), strict=True))
    for row in found.classes.itertuples():
        assert row.cdnv == pytest.approx(of_class[row._1], rel=1e-5)


def test_a_head_adds_nc3_and_nc4(pictures):
    head = nn.Linear(16, 8)
    x, y = features_of(pictures), pictures[1]
    ours = ncbook.report(Tiny(), pictures, head=head, shots=(1,), **QUICK)
    assert ours.value("nc3") == pytest.approx(float(collapse.nc3(x, y, head.weight.detach())), rel=1e-5)
    assert ours.value("nc4") == pytest.approx(float(collapse.nc4(x, y, head(x).detach())), abs=1e-9)
    with pytest.raises(
        ParameterError, match=r"head is \[16, 8\]; allowed: nn.Linear, or a weight \[C, D\] = \[8, 16\]"
    ):
        ncbook.report(Tiny(), pictures, head=head.weight.T, **QUICK)


def test_layers(pictures):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.train()
    ours = ncbook.report(net, pictures, layers=("0", "1"), **QUICK)
    assert ours.layers["layer"].tolist() == ["0", "1"] and net.training
    inside = net[0](ncbook.features.as_input(pictures[0])).mean((2, 3)).detach()
    assert ours.layers["cdnv"][0] == pytest.approx(float(collapse.cdnv(inside, pictures[1])), rel=1e-5)
    assert ours.layers["cdnv"][1] == pytest.approx(ours.value("cdnv"), rel=1e-6)
    with pytest.raises(ParameterError, match="layers holds 'conv'; allowed: names of submodules, such as 0, 1, 2, 3"):
        ncbook.report(net, pictures, layers=("conv",), **QUICK)


# Data


def test_any_kind_of_data_gives_the_same_report(found, pictures, folder, tmp_path):
    order = pictures[1].argsort(stable=True)
    rows, labels = pictures[0][order], pictures[1][order]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    names = [str(k) for k in labels.unique().tolist()]
    whole = ncbook.datasets.ImageClasses("mine", rows, (labels - 2) // 3, names, held_out)
    backwards = pictures[0].flip(0), pictures[1].flip(0)
    batches = list(zip(pictures[0].split(50), pictures[1].split(50), strict=True))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*pictures), batch_size=64, shuffle=True)
    for data in (whole, backwards, batches, iter(batches), loader, tuple(v.numpy() for v in pictures)):
        ours = ncbook.report(Tiny(), data, ways=(5, 3), batch_size=17, **QUICK)
        for name in ("summary", "pairs", "bounds", "growth", "classes"):
            same(getattr(ours, name), getattr(found, name), rtol=1e-6)
    features = features_of(pictures)
    ours = ncbook.report(None, (features, pictures[1]), **QUICK)
    assert ours.value("cdnv") == pytest.approx(found.value("cdnv")) and ours.gathered.pictures is None
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(folder))
    gray = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten())  # one channel: files are read as gray
    for data in (folder, str(tmp_path / "pictures.zip")):
        ours = ncbook.report(gray, data, image_size=8, **QUICK)
        assert ours.about["images"] == 192 and "a <b>&" in set(ours.classes["class"])
    small = ncbook.report(nn.Flatten(), ncbook.datasets.load("strokes", n_classes=4), shots=(1,), ways=(2,), **QUICK)
    assert small.about["data"] == "strokes" and small.about["classes"] == 4


def test_a_large_folder_is_streamed(folder, monkeypatch):
    gray = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten())
    kept = ncbook.report(gray, folder, image_size=8, **QUICK)
    monkeypatch.setattr(images._pixels, "fits_in_memory", lambda size: False)
    streamed = ncbook.report(gray, folder, image_size=8, batch_size=7, **QUICK)
    same(streamed.pairs, kept.pairs, rtol=1e-6)
    (folder / "class05" / "broken.png").write_bytes(b"no image")
    try:
        with pytest.raises(ParameterError, match=r"class05/broken.png \(no image .* cannot be read. broken='skip'"):
            ncbook.report(gray, folder, image_size=8, **QUICK)
        with pytest.warns(UserWarning, match="1 of 193 images in .* cannot be read: class05/broken.png"):
            skipped = ncbook.report(gray, folder, image_size=8, broken="skip", **QUICK)
        monkeypatch.undo()
        with pytest.raises(ValueError, match="1 of 193 images in .* cannot be read: class05/broken.png"):
            ncbook.report(gray, folder, image_size=8, **QUICK)
    finally:
        (folder / "class05" / "broken.png").unlink()
    same(skipped.pairs, kept.pairs, rtol=1e-6)


def test_reservoirs_are_random_bounded_and_merge():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3000, 4, generator=generator)
    index = torch.randint(0, 5, (3000,), generator=generator)
    keys = gather.keys_of(rows, 0)
    assert len(keys.unique()) == 3000
    assert abs(float((keys < 0).double().mean()) - 0.5) < 0.03  # half of them by each bit
    assert not torch.equal(keys, gather.keys_of(rows, 1))
    whole = gather.Reservoir(20)
    for part in torch.arange(3000).split(100):
        wanted = whole.wanted(index[part], keys[part])
        whole.add(index[part][wanted], keys[part][wanted], rows[part][wanted])
        assert whole.seen <= 4200
    own, _, kept = whole.prune()
    assert own.bincount().tolist() == [20] * 5
    for k in range(5):  # the smallest keys of the class
        smallest = keys[index == k].sort().values[:20]
        assert torch.equal(gather.keys_of(kept[own == k], 0), smallest)
    means = []  # of samples of 20 over seeds: the mean of the population
    for seed in range(200):
        chosen = gather.keys_of(rows, seed).argsort()[:20]
        means.append(rows[chosen, 0].mean())
    spread = rows[:, 0].std() / 20**0.5
    assert abs(torch.stack(means).mean() - rows[:, 0].mean()) < 3 * spread / 200**0.5
    assert float(torch.stack(means).std()) == pytest.approx(float(spread), rel=0.15)


def test_the_reservoir_leaves_the_sums_alone(found, pictures):
    ours = ncbook.report(Tiny(), pictures, per_class=10, shots=(1,), ways=(5, 3), **QUICK)
    assert not ours.gathered.complete and len(ours.gathered.features) == 80
    assert any("10 images" in note for note in ours.notes)
    for name in ("cdnv", "nc1", "logme", "class_separation"):
        assert ours.value(name) == pytest.approx(found.value(name), rel=1e-9)


# Models


def test_names_of_torchvision_and_timm_with_their_preprocessing(tmp_path):
    net = models.load("resnet18", "random")
    assert net.image_size == 256 and net.prepare.crop == (224, 224) and "random" in net.weights
    assert models.load("timm/resnet10t", "random").name == "resnet10t (timm)"
    again = models.load("resnet18", "random")
    assert all(torch.equal(a, b) for a, b in zip(net.net.parameters(), again.net.parameters(), strict=True))
    image = torch.randint(0, 256, (2, 1, 40, 30), dtype=torch.uint8)
    with torch.no_grad():
        net.net.eval()
        assert net(image).shape == (2, 512)
        from torchvision.models import ResNet18_Weights, resnet18

        expected = ResNet18_Weights.DEFAULT.transforms()(image.expand(-1, 3, -1, -1))
        torch.testing.assert_close(
            net.prepare(image.expand(-1, 3, -1, -1)), expected, atol=0.02, rtol=0
        )  # one gray level
        other = resnet18(weights=None, num_classes=7)  # a local file, with a head of its own
        torch.save({"state_dict": {f"module.{k}": v for k, v in other.state_dict().items()}}, tmp_path / "w.pt")
        read = models.load("resnet18", tmp_path / "w.pt")
        assert read.weights == "from w.pt (not used: fc.weight, fc.bias)"
        other.fc = nn.Identity()
        torch.testing.assert_close(read.net.eval()(expected), other.eval()(expected))
    for name in ("vgg11", "squeezenet1_1", "vit_b_32", "googlenet"):
        assert models._without_classifier(torch_model(name)) in ("classifier.6", "classifier", "heads.head", "fc")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "efficientnet_b1"])
def test_timm_sizes_are_those_of_its_own_transform(name):
    import timm
    from timm.data import create_transform, resolve_model_data_config

    with torch.device("meta"):
        net = timm.create_model(name, pretrained=False, num_classes=0)
    own = create_transform(**resolve_model_data_config(net), is_training=False)
    ours = models._timm_preprocessing(net)
    assert (ours.resize, ours.crop) == (own.transforms[0].size, tuple(own.transforms[1].size))


def torch_model(name):
    with torch.device("meta"):
        from torchvision import models as zoo

        return zoo.get_model(name, **({"init_weights": False} if name == "googlenet" else {}))


def test_unknown_models_and_weights(tmp_path):
    with pytest.raises(
        ParameterError, match=r"model='resnet81' is unknown; did you mean 'resnet18'\? allowed: an nn.M"
    ):
        models.load("resnet81")
    with pytest.raises(ParameterError, match="model is of type int; allowed: a torch.nn.Module, a name of torchvision"):
        ncbook.report(5, (torch.randn(8, 2), torch.arange(8) % 2))
    with pytest.raises(ParameterError, match="weights='nowhere.pt'; allowed: auto, pretrained, random, or a file"):
        models.load("resnet18", "nowhere.pt")
    with pytest.raises(ParameterError, match="weights='random' beside a module, which has its own; allowed: 'auto'"):
        models.load(Tiny(), "random")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ParameterError, match=r"text.pt' is no readable file of weights"):
        models.load("resnet18", tmp_path / "text.pt")
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ParameterError, match=r"lacks \d+ of \d+ entries of the model, such as bn1.weight"):
        models.load("resnet18", tmp_path / "other.pt")


# Bad input: one message each, before the long work


class Never(nn.Module):
    def forward(self, x):
        raise AssertionError("the model must not be asked")


X, Y = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8), torch.arange(12) % 3


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        (Never(), (X, Y), {"shots": ()}, r"shots=\(\); allowed: a sequence such as \(1, 5\)"),
        (Never(), (X, Y), {"shots": (0,)}, "shots=0; allowed: a whole number of at least 1"),
        (Never(), (X, Y), {"ways": (1,)}, "ways=1; allowed: a whole number of at least 2"),
        (Never(), (X, Y), {"heads": ("rigde",)}, "heads='rigde' is unknown; did you mean 'ridge'"),
        (Never(), (X, Y), {"episodes": 0}, "episodes=0; allowed"),
        (Never(), (X, Y), {"batch_size": 0}, "batch_size=0; allowed"),
        (Never(), (X, Y), {"device": "cudo"}, "device='cudo' is unknown"),
        (Never(), (X, Y), {"broken": "keep"}, "broken='keep' is unknown; allowed: refuse, skip"),
        (Never(), (X, Y), {"image_size": 3}, "image_size=3; allowed"),
        (Never(), (X, Y * 0), {}, "data holds 1 class; allowed: at least two classes"),
        (Never(), (X, torch.arange(12).clamp(max=9)), {}, "data holds a single image of 0, 1, 2, 3, 4 and 4 more"),
        (Never(), (X, Y.float()), {}, r"labels torch.float32 \[12\]; allowed: integers \[B\]"),
        (Never(), [(X, ["a"] * 12)], {}, r"labels of type list; allowed: integers \[B\]"),
        (Never(), [(X, Y / 2)], {}, r"labels torch.float32 \[12\]; allowed: integers \[B\]"),
        (Never(), (X, Y[:5]), {}, "data holds 12 rows and 5 labels"),
        (Never(), [X, X, X], {}, "data gave a batch of type Tensor; allowed: .images, labels."),
        (Never(), [], {}, "data gave no batch; allowed: at least two classes"),
        (Never(), 7, {}, "data is of type int; allowed: a folder or zip of class folders"),
        (Never(), (X[:, 0], Y), {}, r"data gave torch.uint8 \[12, 8, 8\]; allowed: images \[B, C, H, W\]"),
        (None, (X, Y), {}, r"data gave torch.uint8 \[12, 1, 8, 8\]; allowed: features \[B, D\], float; images need"),
        (None, (torch.full((12, 2), torch.nan), Y), {}, "data holds what cannot be used: features holds NaN"),
        (None, (torch.ones(12, 2), Y + 5), {}, "identical class means for classes '5' and '6'"),
        (nn.Identity(), (X, Y), {}, r"model gives torch.float32 \[12, 1, 8, 8\] of 12 images; allowed: float features"),
        (nn.Linear(3, 2), (X, Y), {}, r"model fails on images torch.uint8 \[12, 1, 8, 8\]: .*shapes"),
    ],
)
def test_bad_input_is_one_message(model, data, options, message):
    with pytest.raises(ParameterError, match=message):
        ncbook.report(model, data, **{**QUICK, **options})


def test_models_without_usable_features():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 4)

    class Several(nn.Module):
        def forward(self, x):
            return {"features": x.flatten(1)}

    with pytest.raises(
        ParameterError, match="model gives the same features for 12 images; allowed: features that vary"
    ):
        ncbook.report(Constant(), (X, Y), **QUICK)
    with pytest.raises(ParameterError, match=r"model gives a dict; allowed: a tensor of features \[B, D\]"):
        ncbook.report(Several(), (X, Y), **QUICK)
    with pytest.raises(TypeError, match="unexpected keyword argument 'shot'; did you mean 'shots='"):
        ncbook.report(Tiny(), (X, Y), shot=1)
    with pytest.raises(FileNotFoundError, match="omniglott.* as a data set: did you mean 'omniglot'"):
        ncbook.report(Tiny(), "omniglott")


def test_small_classes_are_said(pictures):
    few = torch.cat([(pictures[1] == k).nonzero()[:3, 0] for k in pictures[1].unique()])
    ours = ncbook.report(Tiny(), (pictures[0][few], pictures[1][few]), ways=(5, 20), **QUICK)
    assert [r.shot for r in ours.accuracies] == [1, 1] and ours.about["pair_shot"] == 1
    text = " ".join(ours.notes)
    assert "5-shot accuracy was left out: the smallest class has 3 images" in text
    assert "20-way accuracy was left out: there are 8 classes" in text
    two = pictures[1] < 6
    pair = ncbook.report(Tiny(), (pictures[0][two], pictures[1][two]), ways=(2,), **QUICK)
    assert pair.summary.set_index("metric").loc["cdnv", ["low", "high"]].isna().all()
    assert "no intervals over classes" in " ".join(pair.notes)
    assert "no interval" in page.render(pair)


# Several models


def test_compare_models_is_paired(pictures, found):
    class Noisy(Tiny):
        def forward(self, x):
            return super().forward(x) + 0.05 * torch.sin(1e4 * super().forward(x))

    table = ncbook.compare_models({"tiny": Tiny(), "noisy": Noisy(), "again": Tiny()}, pictures, **QUICK)
    assert table["model"].tolist() == ["tiny", "noisy", "again"]
    assert table["cdnv"][0] == pytest.approx(found.value("cdnv")) and table["cdnv"][1] > table["cdnv"][0]
    name = "accuracy_5way_5shot_ncc"
    assert table[f"{name}_difference"][1] == pytest.approx(table[name][1] - table[name][0])
    assert table[f"{name}_difference_low"][1] <= table[f"{name}_difference"][1] <= table[f"{name}_difference_high"][1]
    again = table.iloc[2]  # the same features: the same episodes, to the last one
    assert again[f"{name}_difference"] == again[f"{name}_difference_low"] == again[f"{name}_difference_high"] == 0
    paired = table["cdnv_difference_high"][1] - table["cdnv_difference_low"][1]
    assert paired < table["cdnv_high"][1] - table["cdnv_low"][1] + table["cdnv_high"][0] - table["cdnv_low"][0]
    ax = ncbook.plots.models(table, ax=Figure().add_subplot())
    assert ax.get_ylabel() == "5-shot error (fraction, 5-way, ncc)" and len(ax.get_legend().texts) == 3
    batches = zip(pictures[0].split(50), pictures[1].split(50), strict=True)
    with pytest.raises(ParameterError, match="data can be read once only; allowed for several models: a DataLoader"):
        ncbook.compare_models({"a": Tiny(), "b": Tiny()}, batches, **QUICK)
    with pytest.raises(ParameterError, match="models is of type list; allowed: a dict of name -> model"):
        ncbook.compare_models([Tiny()], pictures)


def test_models_that_read_files_at_other_sizes_see_the_same_episodes(folder):
    pooled = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    found = [ncbook.report(pooled, folder, image_size=size, per_class=6, shots=(1,), **QUICK) for size in (8, 32)]
    one, other = (report.gathered.features for report in found)
    assert torch.corrcoef(torch.stack([one[:, 0], other[:, 0]]))[0, 1] > 0.99  # row by row the same files


# The page


def test_the_page_stands_alone(folder, tmp_path):
    gray = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten())
    report = ncbook.report(gray, folder, image_size=8, layers=("0",), **QUICK)
    path = report.to_html(tmp_path / "report.html")
    text = path.read_text()
    assert path.stat().st_size < 2e6
    assert not re.search(r"(src|href)=\"(?!data:|#)", text) and "<script" not in text and "@import" not in text
    assert "a <b>&" not in text and "a &lt;b&gt;&amp;" in text
    assert all(re.search('alt="[^"]+', image) for image in re.findall("<img[^>]*>", text))
    for row in report.summary["meaning"]:
        assert row.split(":")[0].replace("'", "&#39;") in text
    written = report.to_csv(tmp_path / "tables")
    assert sorted(p.name for p in written) == sorted(
        f"report_{name}.csv" for name in ("summary", "pairs", "bounds", "growth", "classes", "layers")
    )
    same(pd.read_csv(tmp_path / "tables" / "report_pairs.csv"), report.pairs)
    with pytest.raises(ParameterError, match="is in a folder that is not there; allowed"):
        report.to_html(tmp_path / "nowhere" / "report.html")
    with pytest.raises(ParameterError, match="is a folder; allowed: a file in it, such as .*report.html"):
        report.to_html(tmp_path)
    with pytest.raises(TypeError, match="path=None is of type NoneType; allowed: the path of a file"):
        report.to_html(None)


def test_verdicts_compare_with_the_reference_networks():
    known = words.references()
    assert set(known["metric"]) >= {"cdnv", "accuracy_5way_5shot_ncc", "class_separation"}
    trained = known[(known["metric"] == "cdnv") & (known["network"] != "untrained")]["value"]
    untrained = known[(known["metric"] == "cdnv") & (known["network"] == "untrained")]["value"]
    assert trained.max() < untrained.min()
    assert words.verdict("cdnv", trained.min() / 2)[0] == "good"
    assert words.verdict("cdnv", (trained.max() + untrained.min()) / 2)[0] == "middle"
    worst = 2 * untrained.max()
    assert words.verdict("cdnv", worst)[0] == "bad" and "Worse than" in words.verdict("cdnv", worst, 0.9 * worst, 3)[1]
    assert "No better than" in words.verdict("cdnv", worst, trained.min(), 2 * worst)[1]
    assert words.verdict("logme", 1.0) == words.verdict("cdnv", np.nan) == ("", "")


# The command, and several processes


def test_the_command(folder, tmp_path, capsys):
    options = ["--model", "timm/test_resnet", "--weights", "random", "--episodes", "100", "--device", "cpu"]
    status = main([str(folder), *options, "--html", str(tmp_path / "r.html"), "--csv", str(tmp_path)])
    said = capsys.readouterr().out
    assert status == 0 and "weights: random" in said and "cdnv" in said and "written:" in said
    assert (tmp_path / "r.html").is_file() and (tmp_path / "report_summary.csv").is_file()
    assert main([str(folder), "--model", "resnet81"]) == 2
    assert "did you mean 'resnet18'?" in capsys.readouterr().err
    assert main([str(folder), *options, "--html", str(tmp_path / "no" / "r.html")]) == 2


def test_the_room_can_be_called_whoever_imported_it_first():
    assert callable(ncbook.report) and "episodes" in inspect.signature(ncbook.report).parameters
    code = "import ncbook.report.images, ncbook; assert callable(ncbook.report) and ncbook.report.Report"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


PROCESS = """
import sys, torch, ncbook
from torch import distributed
sys.path.insert(0, {tests!r})
from test_report import Tiny, QUICK
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + {out!r} + "meeting", rank=rank, world_size=2)
images, labels = torch.load({data!r})
mine = slice(0, 70) if rank == 0 else slice(70, None)  # uneven, and with classes that one of them has not seen
for name, data in (("rows", (images, labels)), ("parts", [(images[mine], labels[mine])])):
    found = ncbook.report(Tiny(), data, ways=(5, 3), batch_size=16, **QUICK)
    torch.save({{k: getattr(found, k) for k in ("summary", "pairs", "classes")}}, {out!r} + f"{{name}}{{rank}}")
distributed.destroy_process_group()
"""


def test_two_processes_on_halves_are_one(found, pictures, tmp_path):
    order = pictures[1].argsort(stable=True)  # by class: each process lacks some
    torch.save((pictures[0][order], pictures[1][order]), tmp_path / "data.pt")
    script = tmp_path / "process.py"
    script.write_text(
        PROCESS.format(tests=os.path.dirname(__file__), data=str(tmp_path / "data.pt"), out=str(tmp_path) + "/")
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, str(script), rank] for rank in "01"]
    started = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True, env=environment) for c in commands]
    for process in started:
        assert process.wait(300) == 0, process.stderr.read()[-2000:]
    for name in ("rows", "parts"):
        for rank in "01":
            ours = torch.load(tmp_path / f"{name}{rank}", weights_only=False)
            for table in ("summary", "pairs", "classes"):
                same(ours[table], getattr(found, table), rtol=1e-6)


def test_memory_does_not_grow_with_the_number_of_images():
    generator = torch.Generator().manual_seed(0)

    def stream(batches):
        for _ in range(batches):
            labels = torch.randint(0, 20, (500,), generator=generator)
            yield torch.randn(500, 32, generator=generator) + 3 * torch.eye(32)[labels], labels

    sizes = []
    for batches in (20, 100):
        opened = images.open_stream(stream(batches), batch_size=1, image_size=8, channels=1, broken="skip")
        kept = gather.gather(opened, None, device=torch.device("cpu"), per_class=50, seed=0)
        sizes.append(sum(v.numel() for v in dataclasses.asdict(kept).values() if isinstance(v, torch.Tensor)))
        assert len(kept.features) == 1000 and not kept.complete
    assert sizes[0] == sizes[1]
