"""Objectives that enforce collapse or prevent it: their losses against formulas written out, their batches."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ncbook
from ncbook import Experiment, ParameterError, collapse, datasets, objectives
from ncbook.features import extract
from ncbook.objectives.cdnv_penalty import class_batches
from ncbook.objectives.fixed_etf import orthogonal, simplex
from ncbook.objectives.supervised_contrastive import supervised_contrast
from ncbook.training import DivergedError, Trainer


def built(name, *, n_source=4, dim=5, **parameters):
    torch.manual_seed(0)
    return objectives.build(Experiment(objective=name, n_source=n_source, **parameters), dim)


def sample(n_classes=4, per_class=3, dim=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    means = torch.randn(n_classes, dim, generator=generator, dtype=dtype)
    return means[labels] + 0.3 * torch.randn(len(labels), dim, generator=generator, dtype=dtype), labels


class Views:
    """Images whose features are themselves, each time with other noise."""

    def __init__(self, features, labels):
        self.features, self.labels, self.drawn = features, labels, []

    def __call__(self, rows):
        self.drawn.append(self.features[rows] + torch.randn(len(rows), self.features.shape[1]))
        return self.drawn[-1]


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_is_that_of_torch(smoothing):
    x, y = sample()
    objective = built("label_smoothing", smoothing=smoothing)
    expected = nn.CrossEntropyLoss(label_smoothing=smoothing)(objective.logits(x), y)
    torch.testing.assert_close(objective.criterion(x, y), expected)
    soft = (1 - smoothing) * F.one_hot(y, 4) + smoothing / 4
    torch.testing.assert_close(expected, -(soft * objective.logits(x).log_softmax(1)).sum(1).mean())


def test_a_smoothed_label_is_best_met_at_a_finite_gap():
    gap = torch.tensor(math.log(1 + 4 * 0.9 / 0.1), dtype=torch.float64, requires_grad=True)
    scores = torch.stack([gap, *(torch.zeros_like(gap),) * 3])[None]
    (slope,) = torch.autograd.grad(F.cross_entropy(scores, torch.tensor([0]), label_smoothing=0.1), gap)
    assert slope.item() == pytest.approx(0, abs=1e-12)


def test_squared_error_by_hand():
    x, y = sample()
    objective = built("squared_error")
    scores = objective.logits(x)
    expected = sum((scores[i, c] - float(c == y[i])) ** 2 for i in range(12) for c in range(4)) / 12
    torch.testing.assert_close(objective.criterion(x, y), expected)
    assert objective.criterion(x, y).item() == pytest.approx(objective.chance_loss, rel=0.02)  # it begins by guessing
    objective.linear.weight.data.zero_()
    assert objective.criterion(x, y).item() == pytest.approx(objective.chance_loss) == 0.75


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (5, 4), (5, 5), (4, 30)])
def test_a_simplex_is_a_simplex(classes, dim):
    torch.manual_seed(0)
    frame = simplex(classes, dim)
    gram = (classes * torch.eye(classes) - torch.ones(classes, classes)) / (classes - 1)
    torch.testing.assert_close(frame @ frame.T, gram, rtol=0, atol=1e-6)
    assert frame.shape == (classes, dim) and (dim == 1 or not torch.equal(frame, simplex(classes, dim)))
    if classes <= dim:
        frame = orthogonal(classes, dim)
        torch.testing.assert_close(frame @ frame.T, torch.eye(classes), rtol=0, atol=1e-6)


@pytest.mark.parametrize("frame", ["simplex", "orthogonal"])
def test_a_fixed_classifier_scores_cosines_and_is_not_trained(frame):
    x, y = sample()
    objective = built("fixed_etf", frame=frame, scale=3.0)
    assert list(objective.parameters()) == [] and list(objective.state_dict()) == ["linear.weight"]
    scores = 3 * F.cosine_similarity(x[:, None], objective.weight, dim=2)
    torch.testing.assert_close(objective.logits(x), scores)
    torch.testing.assert_close(objective.criterion(x, y), F.cross_entropy(scores, y))
    assert torch.equal(objective.weight, built("fixed_etf", frame=frame).weight)  # of the seed
    collapsed = objective.weight[y]
    assert float(collapse.nc3(collapsed, y, objective.weight)) == pytest.approx(0, abs=1e-6) or frame == "orthogonal"
    assert (objective.logits(collapsed).argmax(1) == y).all()


@pytest.mark.parametrize(("frame", "least"), [("simplex", 65), ("orthogonal", 66)])
def test_too_few_features_for_the_frame_are_refused_before_training(tmp_path, frame, least):
    experiment = Experiment(objective="fixed_etf", n_source=66, n_novel=0, frame=frame, backbone="conv4_small")
    with pytest.raises(ParameterError) as raised:
        ncbook.train(experiment, runs_dir=tmp_path)
    message = f"n_source=66 with frame='{frame}' needs {least} features or more, and backbone='conv4_small' gives 64; "
    assert str(raised.value) == message + f"allowed: n_source at most {130 - least}, or a wider backbone"
    assert not list(tmp_path.glob("*/*"))
    built("fixed_etf", n_source=130 - least, dim=64, frame=frame)


@pytest.mark.parametrize("frame", ["simplex", "orthogonal"])
def test_spare_rows_are_in_the_loss_and_not_in_the_scores(frame):
    x, y = sample(dim=12)
    objective = built("fixed_etf", dim=12, frame=frame, scale=3.0, spare_rows=3)
    rows = objective.linear.weight
    assert rows.shape == (7, 12) and objective.weight.shape == (4, 12) and objective.logits(x).shape == (12, 4)
    cosines = torch.full((), -1 / 6 if frame == "simplex" else 0.0)
    torch.testing.assert_close((rows @ rows.T)[~torch.eye(7, dtype=torch.bool)], cosines.expand(42), rtol=0, atol=1e-6)
    scores = 3 * F.cosine_similarity(x[:, None], rows, dim=2)
    torch.testing.assert_close(objective.logits(x), scores[:, :4])
    torch.testing.assert_close(objective.criterion(x, y), F.cross_entropy(scores, y))
    assert objective.chance_loss == pytest.approx(math.log(7))
    with pytest.raises(ParameterError, match=r"n_source=4 .*spare_rows=3 needs .* features or more.*together at most"):
        built("fixed_etf", dim=5, frame=frame, spare_rows=3)


@pytest.mark.parametrize("directional", [False, True])
def test_the_penalty_is_the_cdnv_of_classes_with_two_samples(directional):
    x, y = sample(per_class=4)
    keep = [0, 1, 2, 4, 5, 8, 12, 13, 14, 15]  # 3, 2, 1 and 4 samples
    x, y = x[keep], y[keep]
    objective = built("cdnv_penalty", penalty=2.0, directional=directional)
    means = {k: x[y == k].mean(0) for k in (0, 1, 3)}
    pairs = []
    for i, j in [(i, j) for i in means for j in means if i != j]:
        gap = means[j] - means[i]
        along = (x[y == i] - means[i]) @ gap / gap.norm()
        variances = [(x[y == k] - means[k]).square().sum(1).mean() for k in (i, j)]
        pairs.append((along.square().mean() if directional else sum(variances) / 2) / gap.square().sum())
    expected = F.cross_entropy(objective.logits(x), y) + 2 * torch.stack(pairs).mean()
    torch.testing.assert_close(objective.criterion(x, y), expected)

    x, y = sample(per_class=3, dtype=torch.float64)
    x, y = x[:10], y[:10]  # of the last class a single one
    cdnv = torch.autograd.functional.jacobian(lambda x: objective.batch_cdnv(x, y).double(), x)
    assert cdnv[9].norm() == 0 < cdnv[:9].norm(dim=1).min()
    assert torch.autograd.gradcheck(lambda x: objective.measure(x[:9], y[:9]), x.requires_grad_())


def test_a_batch_without_two_such_classes_has_no_penalty():
    x, y = sample(per_class=2)
    objective = built("cdnv_penalty", penalty=5.0)
    for keep in ([0, 2, 4, 6], [0, 1, 2, 4], [0, 1]):
        torch.testing.assert_close(
            objective.criterion(x[keep], y[keep]), F.cross_entropy(objective.logits(x[keep]), y[keep])
        )
    objective = built("cdnv_penalty", penalty=0)
    same = torch.zeros_like(x)  # where a CDNV is not defined
    assert objective.criterion(same, y).isfinite() and objective.chance_loss == math.log(4)


@pytest.mark.parametrize("per_class", [2, 5])
def test_guessing_costs_the_penalty_of_noise(per_class):
    objective = built("cdnv_penalty", n_source=30, dim=2000, penalty=3.0, per_class=per_class)
    labels = torch.arange(30).repeat_interleave(per_class)
    noise = torch.randn(len(labels), 2000, generator=torch.Generator().manual_seed(0))
    assert 3 * objective.batch_cdnv(noise, labels) == pytest.approx(objective.chance_loss - math.log(30), rel=0.02)


@pytest.mark.parametrize("sizes", [(15,) * 16, (2, 3, 7, 40), (1, 1, 1), (5, 4)])
@pytest.mark.parametrize(("batch_size", "per_class"), [(64, 4), (8, 4), (6, 2), (7, 3)])
def test_batches_of_a_few_samples_of_each_class(sizes, batch_size, per_class):
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    drawn = [class_batches(labels, batch_size, per_class, torch.Generator().manual_seed(s)) for s in (2, 2, 3)]
    assert all(torch.equal(a, b) for a, b in zip(*drawn[:2], strict=True)) and len(drawn[0]) == len(drawn[2])
    batches = drawn[0]
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(len(labels)))  # every row once
    assert min(map(len, batches)) >= 1 and max(map(len, batches)) <= batch_size
    assert len(labels) < 5 or not torch.equal(torch.cat(batches), torch.cat(drawn[2]))
    if sizes == (15,) * 16 and batch_size == 64:
        assert [labels[rows].unique().numel() for rows in batches] == [16] * 4
        assert all(labels[rows].bincount().min() >= 3 for rows in batches)


def test_center_loss_by_hand():
    x, y = sample()
    objective = built("center_loss", penalty=0.5)
    objective.centers.data.normal_()
    x.requires_grad_()
    loss = objective.criterion(x, y)
    cross_entropy = F.cross_entropy(objective.logits(x), y)
    distance = sum(((x[i] - objective.centers[y[i]]) ** 2).sum() for i in range(12)) / 12
    torch.testing.assert_close(loss, cross_entropy + 0.25 * distance)
    found = torch.autograd.grad(loss, [x, objective.centers])
    torch.testing.assert_close(found[0], torch.autograd.grad(cross_entropy + 0.25 * distance, x)[0])
    means = torch.stack([x[y == k].mean(0) for k in range(4)])
    torch.testing.assert_close(found[1], objective.centers - means)  # whatever the penalty is


def contrast_written_out(z, labels, temperature):
    """Khosla et al. 2020, equation 2, with loops."""
    total, anchors = 0.0, 0
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        below = sum(math.exp(float(z[i] @ z[a]) / temperature) for a in range(len(z)) if a != i)
        logs = [math.log(math.exp(float(z[i] @ z[p]) / temperature) / below) for p in positives]
        total, anchors = total - sum(logs) / len(positives), anchors + 1
    return total / anchors


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_supervised_contrast_is_its_formula(temperature):
    x, y = sample(dtype=torch.float64)
    z = F.normalize(x, dim=1)[:10]  # of the last class a single one, which has nobody to attract
    found = supervised_contrast(z, y[:10], temperature)
    assert found.item() == pytest.approx(contrast_written_out(z, y[:10], temperature), rel=1e-12)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: supervised_contrast(F.normalize(x, dim=1), y, temperature), x)


def test_two_views_are_contrasted_after_the_projector_and_classified_before():
    x, y = sample()
    objective = built("supervised_contrastive", dim=5, temperature=0.5)
    images, backbone, batch = Views(x, y), nn.Linear(5, 5), torch.arange(9)
    loss = objective.loss(backbone, images, batch)
    first, second = images.drawn
    assert not torch.equal(first, second)
    features, labels = backbone(torch.cat([first, second])), torch.cat([y[:9], y[:9]])
    z = objective.project(features)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(18))
    contrast, classified = supervised_contrast(z, labels, 0.5), F.cross_entropy(objective.logits(features), labels)
    torch.testing.assert_close(loss, contrast + classified)
    of_backbone = torch.autograd.grad(loss, backbone.weight, retain_graph=True)[0]
    torch.testing.assert_close(of_backbone, torch.autograd.grad(contrast, backbone.weight, retain_graph=True)[0])
    of_head = torch.autograd.grad(loss, objective.weight)[0]
    torch.testing.assert_close(of_head, torch.autograd.grad(classified, objective.weight)[0])


def test_features_after_the_projector_of_a_finished_run(tmp_path):
    experiment = Experiment(
        objective="supervised_contrastive", n_source=4, n_novel=5, n_validation=0, epochs=1, measurements=2,
        backbone="conv4_small",
    )  # fmt: skip
    run = ncbook.train(experiment, runs_dir=tmp_path)
    features, labels = run.features("novel")
    projected = run.objective().project(features)
    assert projected.shape == (len(labels), 64) and collapse.cdnv(projected, labels) > 0


def test_a_dead_network_ends_a_penalized_run_in_one_sentence(tmp_path, monkeypatch):
    update = Trainer._update

    def killed(self, batch):
        loss = update(self, batch)
        for parameter in self.backbone.parameters():
            nn.init.zeros_(parameter)
        return loss

    monkeypatch.setattr(Trainer, "_update", killed)
    experiment = Experiment(
        objective="cdnv_penalty", n_source=4, n_novel=0, n_validation=0, epochs=2, measurements=2, batch_size=16,
        backbone="conv4_small", precision="float32",
    )  # fmt: skip
    with pytest.raises(
        DivergedError,
        match=r"identical class means .* after epoch 0 of 2; .* learning_rate below 0.2, or a penalty below 1",
    ):
        ncbook.train(experiment, runs_dir=tmp_path)


def test_an_error_of_an_objective_is_not_taken_for_a_diverged_run(tmp_path, monkeypatch):
    def broken(self, batch):
        raise ValueError("a mistake in a loss")

    monkeypatch.setattr(Trainer, "_update", broken)
    experiment = Experiment(n_source=4, n_novel=0, n_validation=0, epochs=1, measurements=1, backbone="conv4_small")
    with pytest.raises(ValueError, match="^a mistake in a loss$"):
        ncbook.train(experiment, runs_dir=tmp_path)


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": "label_smoothing"},
        {"objective": "squared_error"},
        {"objective": "fixed_etf"},
        {"objective": "fixed_etf", "frame": "orthogonal", "spare_rows": 3},
        {"objective": "cdnv_penalty"},
        {"objective": "cdnv_penalty", "directional": True},
        {"objective": "center_loss"},
        {"objective": "supervised_contrastive"},
    ],
    ids=lambda parameters: "-".join(map(str, parameters.values())),
)
def test_defaults_train(parameters):
    experiment = Experiment(
        n_source=8, n_novel=0, n_validation=0, epochs=40, backbone="conv4_small", precision="float32", **parameters
    )
    source = datasets.split_for(experiment, datasets.load_for(experiment)).source_train
    trainer = Trainer(experiment, source.images, source.labels)
    while not trainer.finished:  # 80 steps
        trainer.advance()
    features = extract(trainer.backbone, source.images)
    accuracy = (trainer.objective.eval().logits(features).argmax(1) == source.labels).float().mean()
    assert accuracy > 0.5 and trainer.mean_loss() < 0.8 * trainer.objective.chance_loss
