"""Objectives: their losses against formulas written out, their batches, the contract."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn
from torch.nn import functional as F

from ncbook import Experiment, backbones, catalog, fewshot, objectives
from ncbook.objectives.anil import descend
from ncbook.objectives.maml import batch_statistics
from ncbook.training import Trainer


class Images:
    """Source images as an objective sees them, here numbers that are their own features."""

    def __init__(self, features, labels):
        self.features, self.labels = features, labels

    def __call__(self, rows):
        return self.features[rows]


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(12)
    return Images(torch.randn(72, 3, generator=generator) + labels[:, None], labels)


@pytest.fixture
def wide(images):
    """The same with six features, as many as there are classes: for a classifier fixed at a frame."""
    return Images(torch.cat([images.features, images.features.square()], 1), images.labels)


def built(feature_dim=3, **parameters):
    """An objective on a few features; a student with a teacher that guesses, to which features are images."""
    experiment = Experiment(n_source=6, **parameters)
    torch.manual_seed(0)
    objective = objectives.build(experiment, feature_dim)
    if experiment.teacher:
        teacher = objectives.build(experiment.teacher, feature_dim)
        for parameter in teacher.parameters():
            torch.nn.init.zeros_(parameter)
        objective.learn_from(torch.nn.Identity(), teacher)
    return objective


@pytest.mark.parametrize("name", catalog.OBJECTIVES)
def test_the_contract(name, wide):
    images, objective = wide, built(6, objective=name)
    batches = objective.batches(images.labels, torch.Generator().manual_seed(1))
    again = objective.batches(images.labels, torch.Generator().manual_seed(1))
    other = objective.batches(images.labels, torch.Generator().manual_seed(2))
    assert len(batches) == len(other) >= 1
    loss = objective.loss(torch.nn.Identity(), images, batches[0])
    assert loss.shape == () and loss.dtype == torch.float32 and loss.isfinite()
    assert loss == objective.loss(torch.nn.Identity(), images, again[0])
    logits = objective.logits(images.features)
    assert (logits is None) == (objective.weight is None)
    if logits is not None:
        assert logits.shape == (72, 6) and objective.weight.shape == (6, 6)
    assert objective.chance_loss > 0


@pytest.mark.parametrize("name", catalog.OBJECTIVES)
def test_guessing_costs_the_loss_of_chance(name, wide):
    own = {"distillation": {"teacher_weight": 0.0}, "cdnv_penalty": {"penalty": 0.0}}  # of equal features there is none
    own["supervised_contrastive"] = {"batch_size": 36}  # the size that an epoch is cut into: all other views repel
    objective = built(6, objective=name, **own.get(name, {}))
    for parameter in objective.parameters():
        torch.nn.init.zeros_(parameter)
    if name == "squared_error":
        torch.nn.init.constant_(objective.linear.bias, 1 / 6)
    blind = torch.nn.Sequential(torch.nn.Linear(6, 6))
    torch.nn.init.zeros_(blind[0].weight), torch.nn.init.zeros_(blind[0].bias)
    batch = objective.batches(wide.labels, torch.Generator())[0]
    assert objective.loss(blind, wide, batch).item() == pytest.approx(objective.chance_loss, rel=1e-6)


def test_cross_entropy_is_its_formula(images):
    objective = objectives.build(Experiment(n_source=6, batch_size=20), feature_dim=3)
    batches = objective.batches(images.labels, torch.Generator())
    assert [len(rows) for rows in batches] == [18, 18, 18, 18] and torch.cat(batches).unique().numel() == 72
    logits = images.features[batches[0]] @ objective.weight.T + objective.linear.bias
    by_hand = (logits.logsumexp(1) - logits[torch.arange(18), images.labels[batches[0]]]).mean()
    torch.testing.assert_close(objective.loss(torch.nn.Identity(), images, batches[0]), by_hand)


def test_prototypical_is_its_formula(images):
    experiment = Experiment(
        objective="prototypical", n_source=6, train_way=4, train_shot=3, train_query=2, episodes_per_epoch=7
    )
    objective = objectives.build(experiment, feature_dim=3)
    assert list(objective.parameters()) == [] and objective.chance_loss == math.log(4)
    episodes = objective.batches(images.labels, torch.Generator().manual_seed(3))
    assert len(episodes) == 7
    episode = episodes[2]
    assert episode.support.shape == (1, 4, 3) and episode.query.shape == (1, 4, 2)
    assert (images.labels[episode.support] == images.labels[episode.query][..., :1]).all()
    means = images.features[episode.support[0]].mean(1)
    distances = torch.cdist(images.features[episode.query[0]].flatten(0, 1), means).square()  # [8, 4]
    by_hand = F.cross_entropy(-distances, torch.arange(4).repeat_interleave(2))
    torch.testing.assert_close(objective.loss(torch.nn.Identity(), images, episode), by_hand)


def test_the_loss_of_an_episode_reaches_the_backbone(images):
    objective = objectives.build(Experiment(objective="prototypical", n_source=6), feature_dim=3)
    backbone = torch.nn.Linear(3, 3)
    objective.loss(backbone, images, objective.batches(images.labels, torch.Generator())[0]).backward()
    assert backbone.weight.grad.norm() > 0


def test_an_objective_that_forgets_its_part_says_so(images):
    with pytest.raises(TypeError, match="Objective must define batches"):
        objectives.Objective(Experiment()).batches(images.labels, torch.Generator())


def test_too_few_samples_for_an_episode_are_refused_before_training():
    images = torch.zeros(20, 1, 28, 28, dtype=torch.uint8)
    experiment = Experiment(objective="prototypical", n_source=4, train_shot=4, train_query=2)
    with pytest.raises(ValueError, match=r"5 samples.*6"):
        Trainer(experiment, images, torch.arange(4).repeat_interleave(5))


def episode_of(images, objective):
    """An episode as the peers take it: shots, their classes, queries, theirs; of objective and batch the same rows."""
    batch = objective.batches(images.labels, torch.Generator().manual_seed(3))[0]
    _, way, shot = batch.support.shape
    classes = torch.arange(way)
    return batch, (
        images.features[batch.support.flatten()], classes.repeat_interleave(shot),
        images.features[batch.query.flatten()], classes.repeat_interleave(batch.query.shape[2]),
    )  # fmt: skip


class NoContext(nn.Module):
    """In the place of easyfsl's recurrent encoders: features stay what they are."""

    def forward(self, features, state=None):
        if state is None:  # of shots [1, S, D], in both directions
            return torch.zeros(1, features.shape[1], 2 * features.shape[2]), None
        return torch.zeros_like(state[0]), state[1]  # added to the query


def test_matching_is_that_of_easyfsl(images):
    methods = pytest.importorskip("easyfsl.methods")
    objective = built(objective="matching", distance="dot", scale=1, learn_scale=False, train_way=4, train_shot=3)
    batch, (shots, classes, queries, answers) = episode_of(images, objective)
    peer = methods.MatchingNetworks(feature_dimension=3, support_encoder=NoContext(), query_encoder=NoContext())
    peer.process_support_set(shots, classes)
    expected = F.nll_loss(peer(queries), answers)
    torch.testing.assert_close(objective.loss(nn.Identity(), images, batch), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("distance", catalog.DISTANCES["prototypical"])
def test_prototypical_is_that_of_easyfsl(images, distance):
    methods = pytest.importorskip("easyfsl.methods")
    objective = built(objective="prototypical", distance=distance, train_way=4, train_shot=3)
    batch, (shots, classes, queries, answers) = episode_of(images, objective)
    peer = methods.PrototypicalNetworks()
    peer.process_support_set(shots, classes)
    distances = -peer(queries)  # not squared
    expected = F.cross_entropy(-distances if distance == "euclidean" else -distances.square(), answers)
    torch.testing.assert_close(objective.loss(nn.Identity(), images, batch), expected)


def test_relation_is_that_of_easyfsl(images):
    methods = pytest.importorskip("easyfsl.methods")
    objective = built(objective="relation", train_way=4, train_shot=3)
    batch, (shots, classes, queries, answers) = episode_of(images, objective)
    first = nn.Linear(6, 64)  # of the pair of mean and query
    first.weight.data = torch.cat([objective.of_mean.weight, objective.of_query.weight], 1)
    first.bias.data = objective.of_mean.bias
    module = nn.Sequential(nn.Flatten(), first, objective.rest, nn.Sigmoid())
    peer = methods.RelationNetworks(feature_dimension=3, relation_module=module)
    peer.process_support_set(shots[:, :, None, None], classes)
    expected = F.mse_loss(peer(queries[:, :, None, None]), F.one_hot(answers, 4).float())
    torch.testing.assert_close(objective.loss(nn.Identity(), images, batch), expected)


@pytest.mark.parametrize("distance", catalog.DISTANCES["matching"])
def test_matching_is_its_formula(images, distance):
    objective = built(objective="matching", distance=distance, scale=3, train_way=4, train_shot=3)
    batch, (shots, classes, queries, answers) = episode_of(images, objective)
    if distance == "squared_euclidean":
        similarity = -(queries[:, None] - shots).square().sum(-1)
    else:
        similarity = queries @ (shots / shots.norm(dim=1, keepdim=True)).T
    if distance == "cosine":
        similarity = similarity / queries.norm(dim=1, keepdim=True)
    attention = (3 * similarity).softmax(1)  # [Q, S]
    expected = -(attention @ F.one_hot(classes).float())[torch.arange(len(answers)), answers].log().mean()
    torch.testing.assert_close(objective.loss(nn.Identity(), images, batch), expected)


@pytest.mark.parametrize("ridge", [0.01, 50.0])
def test_ridge_is_that_of_scikit_learn(images, ridge):
    objective = built(objective="ridge", ridge=ridge, scale=2, train_way=4, train_shot=3)
    batch, (shots, classes, queries, answers) = episode_of(images, objective)
    peer = Ridge(alpha=ridge).fit(shots.numpy(), np.eye(4)[classes])
    expected = F.cross_entropy(2 * torch.from_numpy(peer.predict(queries.numpy())), answers)
    loss = objective.loss(nn.Identity(), images, batch)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-4, atol=1e-5)
    loss.backward()
    assert objective.log_scale.grad != 0 and objective.log_ridge.grad != 0


def drawn(*shape, seed=0):
    """Normal random numbers of double precision, with gradients."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_ridge_predictions_of_many_episodes_and_their_gradients():
    support, queries = drawn(3, 4, 2, 5), drawn(3, 6, 5, seed=1)  # fewer shots than dimensions, and more of them
    for ridge in (0.1, 10.0):
        for shots in (support, support[..., :2]):
            found = fewshot.ridge_predictions(shots, queries[..., : shots.shape[-1]], ridge)
            for t in range(3):
                peer = Ridge(alpha=ridge).fit(shots[t].detach().flatten(0, 1), np.eye(4).repeat(2, 0))
                expected = peer.predict(queries[t, :, : shots.shape[-1]].detach()) - 1 / 4
                np.testing.assert_allclose(found[t].detach(), expected, rtol=1e-9, atol=1e-12)
    ridge = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fewshot.ridge_predictions, (support[:2], queries[:2], ridge))


def descended(error, parameters, steps, rate, second_order):
    """Gradient steps on a list of parameters, written out."""
    for _ in range(steps):
        slopes = torch.autograd.grad(error(parameters), parameters, create_graph=second_order)
        parameters = [value - rate * slope for value, slope in zip(parameters, slopes, strict=True)]
    return parameters


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_anil_is_its_formula(images, steps, second_order):
    objective = built(
        objective="anil", train_way=4, train_shot=3, train_query=2, tasks_per_step=2, inner_steps=steps,
        inner_rate=0.3, second_order=second_order,
    )  # fmt: skip
    batch = objective.batches(images.labels, torch.Generator().manual_seed(3))[0]
    backbone = nn.Linear(3, 3)
    loss = objective.loss(backbone, images, batch)
    learned = [*backbone.parameters(), *objective.parameters()]
    found = torch.autograd.grad(loss, learned)

    labels, losses = torch.arange(4), []
    for support, query in zip(batch.support, batch.query, strict=True):
        shots, queries = backbone(images.features[support]), backbone(images.features[query])

        def error(head, shots=shots):
            return F.cross_entropy(shots.flatten(0, 1) @ head[0].T + head[1], labels.repeat_interleave(3))

        weight, bias = descended(error, [*objective.parameters()], steps, 0.3, second_order)
        losses.append(F.cross_entropy(queries.flatten(0, 1) @ weight.T + bias, labels.repeat_interleave(2)))
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(loss, expected)
    for one, other in zip(found, torch.autograd.grad(expected, learned), strict=True):
        torch.testing.assert_close(one, other)


SIZE = 16  # pixels


@pytest.fixture
def pictures():
    """Images of random pixels, in double precision: rounding must not hide a wrong gradient."""
    labels = torch.arange(6).repeat_interleave(12)
    pixels = torch.rand(72, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Images(pixels + 0.3 * labels[:, None, None, None] * pixels.square(), labels)


def adapting(**parameters):
    """A small network and MAML on it, in double precision."""
    experiment = Experiment(
        objective="maml", backbone="conv4_small", n_source=6, train_way=3, train_shot=2, train_query=4,
        tasks_per_step=2, inner_rate=0.1, **parameters,
    )  # fmt: skip
    torch.manual_seed(0)
    backbone = backbones.build("conv4_small", 1, SIZE).double()
    return backbone, objectives.build(experiment, backbone.feature_dim).double()


def gradients(loss, *modules):
    """By name, of all parameters."""
    named = [(name, value) for module in modules for name, value in module.named_parameters()]
    return dict(zip([n for n, _ in named], torch.autograd.grad(loss, [p for _, p in named]), strict=True))


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():  # logits are of single precision; a convolution's bias before a norm has none
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-6 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


def network_written_out(parameters, x):
    """conv4_small with a linear head, of batch statistics, on a list of its parameters in their order."""
    for block in range(4):
        weight, bias, scale, shift = parameters[4 * block : 4 * block + 4]
        x = F.conv2d(x, weight, bias, padding=1)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]
        x = F.max_pool2d(x.relu(), 2)
    return x.flatten(1) @ parameters[16].T + parameters[17]


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 2])
def test_maml_is_its_formula(pictures, steps, second_order):
    backbone, objective = adapting(inner_steps=steps, second_order=second_order)
    batch = objective.batches(pictures.labels, torch.Generator().manual_seed(3))[0]
    assert batch.support.shape == (2, 3, 2)
    loss = objective.loss(backbone, pictures, batch)

    labels, losses = torch.arange(3), []
    for support, query in zip(batch.support, batch.query, strict=True):
        shots = pictures(support.flatten())

        def error(parameters, shots=shots):
            return F.cross_entropy(network_written_out(parameters, shots), labels.repeat_interleave(2))

        learned = [*backbone.parameters(), *objective.parameters()]
        adapted = descended(error, learned, steps, 0.1, second_order)
        losses.append(
            F.cross_entropy(network_written_out(adapted, pictures(query.flatten())), labels.repeat_interleave(4))
        )
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    assert_same_gradients(gradients(loss, backbone, objective), gradients(expected, backbone, objective))


@pytest.mark.parametrize("second_order", [True, False])
def test_maml_is_that_of_higher(pictures, second_order):
    higher = pytest.importorskip("higher")
    backbone, objective = adapting(inner_steps=2, second_order=second_order)
    batch = objective.batches(pictures.labels, torch.Generator().manual_seed(3))[0]
    loss = objective.loss(backbone, pictures, batch)
    network, labels, losses = nn.Sequential(backbone, objective.head), torch.arange(3), []
    inner = torch.optim.SGD(network.parameters(), lr=0.1)
    for support, query in zip(batch.support, batch.query, strict=True):
        options = {"copy_initial_weights": False, "track_higher_grads": second_order}
        with higher.innerloop_ctx(network, inner, **options) as (adapted, optimizer):
            for _ in range(2):
                scores = adapted(pictures(support.flatten()))
                optimizer.step(F.cross_entropy(scores, labels.repeat_interleave(2)))
            losses.append(F.cross_entropy(adapted(pictures(query.flatten())), labels.repeat_interleave(4)))
            if not second_order:  # of the adapted parameters, which count as the learned ones
                losses[-1] = (losses[-1], torch.autograd.grad(losses[-1], adapted.parameters()))
    if second_order:
        expected = torch.stack(losses).mean()
        slopes = gradients(expected, backbone, objective)
    else:
        expected = torch.stack([value for value, _ in losses]).mean()
        names = [name for module in (backbone, objective) for name, _ in module.named_parameters()]
        slopes = {name: (a + b) / 2 for name, a, b in zip(names, *(slope for _, slope in losses), strict=True)}
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    assert_same_gradients(gradients(loss, backbone, objective), slopes)


def test_maml_follows_the_running_statistics(pictures):
    backbone, objective = adapting()
    before = copy.deepcopy(backbone.state_dict())
    objective.loss(backbone, pictures, objective.batches(pictures.labels, torch.Generator())[0]).backward()
    for name, value in backbone.state_dict().items():
        if "running" in name or "num_batches" in name:
            assert value.isfinite().all() and not torch.equal(value, before[name]), name
            assert "num_batches" not in name or value == 1
        else:
            assert torch.equal(value, before[name]), name


def test_batch_statistics_leave_no_trace():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    network.eval()[0].train()

    def flags():
        modules = [(part.training, getattr(part, "track_running_stats", None)) for part in network.modules()]
        return modules, copy.deepcopy(network.state_dict())

    modes, before = flags()
    with batch_statistics(network):
        x = torch.randn(50, 3) + 5
        assert network(x).mean().abs() < 1e-5
    with pytest.raises(ZeroDivisionError), batch_statistics(network):
        network(x)
        1 / 0  # noqa: B018
    assert flags()[0] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_maml_classifies_in_evaluation_mode_and_leaves_it(pictures):
    backbone, objective = adapting()
    backbone.eval(), objective.eval()
    before = copy.deepcopy(backbone.state_dict())
    scores = objective.episode_scores(backbone, pictures(torch.arange(72)).unflatten(0, (2, 3, 12)), shot=4)
    assert scores.shape == (2, 24, 3) and not any(part.training for part in backbone.modules())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["maml", "anil"])
def test_episodes_of_another_number_of_classes_are_refused(pictures, name):
    backbone = backbones.build("conv4_small", 1, SIZE)
    objective = objectives.build(Experiment(objective=name, n_source=6, train_way=3), backbone.feature_dim)
    with pytest.raises(ValueError, match=r"way=6; allowed: 3, the train_way of this run"):
        objective.episode_scores(backbone, pictures(torch.arange(72)).float().unflatten(0, (1, 6, 12)), shot=5)


def test_steps_of_first_and_of_second_order():
    weight = torch.tensor([2.0], requires_grad=True)
    for second_order, slope in ((True, 1 - 0.1 * 6 * 2), (False, 1.0)):  # of w - 0.1 · 3 w²
        stepped = descend(lambda p: p["w"].pow(3).sum(), {"w": weight}, 1, 0.1, second_order)["w"]
        assert stepped.item() == pytest.approx(2 - 0.1 * 12)
        assert torch.autograd.grad(stepped, weight)[0].item() == pytest.approx(slope)


@pytest.mark.parametrize("name", ["maml", "anil"])
@pytest.mark.parametrize("second_order", [True, False])
def test_classifying_adapts_also_where_nothing_is_trained(pictures, name, second_order):
    torch.manual_seed(0)
    backbone = backbones.build("conv4_small", 1, SIZE)
    experiment = Experiment(objective=name, n_source=6, train_way=6, inner_steps=2, second_order=second_order)
    objective = objectives.build(experiment, backbone.feature_dim)
    pixels = pictures(torch.arange(72)).float().unflatten(0, (1, 6, 12))
    expected = objective.episode_scores(backbone, pixels, shot=5)
    assert expected.requires_grad
    backbone.requires_grad_(False), objective.requires_grad_(False)
    with torch.no_grad():
        found = objective.episode_scores(backbone, pixels, shot=5)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("temperature", "teacher_weight"), [(1.0, 1.0), (4.0, 0.5), (2.0, 0.25)])
def test_distillation_is_its_formula(images, temperature, teacher_weight):
    experiment = Experiment(
        objective="distillation", n_source=6, temperature=temperature, teacher_weight=teacher_weight
    )
    torch.manual_seed(0)
    objective, teacher = (objectives.build(e, feature_dim=3) for e in (experiment, experiment.teacher))
    batch = objective.batches(images.labels, torch.Generator())[0]
    with pytest.raises(ValueError, match=r"no teacher; allowed: ncbook\.train, .*learn_from"):
        objective.loss(nn.Identity(), images, batch)
    names, backbone = [*objective.state_dict()], nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    objective.learn_from(backbone, teacher)
    statistics = copy.deepcopy(backbone.state_dict())

    loss = objective.loss(nn.Identity(), images, batch)
    p = (objective.logits(images.features[batch]) / temperature).softmax(1)
    taught = (teacher.logits(backbone.eval()(images.features[batch])) / temperature).softmax(1)
    divergence = (taught * (taught / p).log()).sum(1).mean()
    labels = F.cross_entropy(objective.logits(images.features[batch]), images.labels[batch])
    torch.testing.assert_close(loss, (1 - teacher_weight) * labels + teacher_weight * temperature**2 * divergence)

    loss.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert all(parameter.grad is None for part in (teacher, backbone) for parameter in part.parameters())
    assert [*objective.state_dict()] == names == ["linear.weight", "linear.bias"]
    objective.train()  # the teacher stays in evaluation mode
    objective.loss(nn.Identity(), images, batch)
    assert all(torch.equal(value, statistics[name]) for name, value in backbone.state_dict().items())
