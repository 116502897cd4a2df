"""What would fail on a GPU, without one: tensors on two devices, hidden copies, more waits than one per chunk."""

import importlib
import pkgutil

import pytest
import torch
from elsewhere import ELSEWHERE, Elsewhere, device, waits
from torch._subclasses.fake_tensor import FakeTensorMode

import ncbook
from ncbook import Experiment, backbones, catalog, collapse, episodewise, features, fewshot, objectives, theory
from ncbook.collapse import jackknife
from ncbook.fewshot import protocol
from ncbook.objectives import cdnv_penalty
from ncbook.training import measuring
from ncbook.training.augmentations import AUGMENT

for module in pkgutil.walk_packages(ncbook.__path__, "ncbook."):  # none is imported while names of torch are patched
    if "__main__" not in module.name:
        importlib.import_module(module.name)

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.arange(6).repeat(30)
X = torch.randn(6, 8, generator=GENERATOR)[Y] + 0.3 * torch.randn(180, 8, generator=GENERATOR)
W = torch.randn(6, 8, generator=GENERATOR)
TASKS = dict(way=3, shot=2, query=5)


def both_passes(x, y, w):
    """All metrics of batches; labels may come from the CPU."""
    metrics = [collapse.CollapseMetrics(6, 8).to(x.device) for _ in range(2)]
    for rows in torch.arange(len(x)).split(50):
        metrics[rows[0] >= 100].update(x[rows[0] : rows[-1] + 1], y[rows[0] : rows[-1] + 1].cpu())
    metrics[0].merge_state(metrics[1])
    second = metrics[0].second_pass()
    second.update(x, y, x @ w.T)
    return [*metrics[0].compute(w).values(), *second.compute().values()]


def one_metric(name):
    return lambda x, y, w: [getattr(collapse, name)(x, y)]


def accuracies(**options):
    """Of other episodes on another kind of device, hence to two digits."""
    return lambda x, y, w: [round(fewshot.evaluate(x, y, **TASKS, episodes=2_000, **options).accuracy, 2)]


CALLS = {
    name: one_metric(name)
    for name in (
        "cdnv", "cdnv_matrix", "nc1", "nc2", "min_distance", "trace_ratio", "directional_cdnv",
        "variability_collapse_index", "separation_fuzziness", "class_mean_mismatch", "logme", "class_separation",
    )
}  # fmt: skip
HEADS_BY_ROUTE = [(head, route) for head in fewshot.HEADS for route in ("gather", "gram")]
OF_OTHER_EPISODES = {f"{head}, {route}" for head, route in HEADS_BY_ROUTE} | {"transforms", "queries", "of a history"}
CALLS |= {f"{head}, {route}": accuracies(head=head, route=route) for head, route in HEADS_BY_ROUTE}
CALLS |= {
    "both passes": both_passes,
    "nc3, nc4": lambda x, y, w: [collapse.nc3(x, y, w), collapse.nc4(x, y, x @ w.T)],
    "rankme": lambda x, y, w: [collapse.rankme(x), collapse.effective_rank(x)],
    "jackknife": lambda x, y, w: [jackknife.means_without_each(collapse.cdnv_matrix(x, y))],
    "transforms": lambda x, y, w: accuracies(transform=["centered", "l2"], source_mean=x.mean(0))(x, y, w),
    "queries": lambda x, y, w: accuracies(query_features=x + 1, query_labels=y)(x, y, w),
    "pair errors": lambda x, y, w: [fewshot.pair_errors(x, y, shot=2)],
    "directional bound": lambda x, y, w: [theory.directional_bound(x, y, shot=2)],
    "published bound": lambda x, y, w: [theory.published_bound_2026(x, y, shot=2)],
    "quadratic bound": lambda x, y, w: [theory.directional_quadratic_bound(x, y, shot=2)],
    "multiclass bound": lambda x, y, w: [theory.multiclass_bound(fewshot.pair_errors(x, y, shot=2))],
    "Gaussian error": lambda x, y, w: [theory.gaussian_error(x[0], x[1].square(), x[2].square(), shot=2)],
    "of a history": lambda x, y, w: list(measuring.measure(x, y).values()),
    "of episodes": lambda x, y, w: episodewise._each(episodewise.METRICS, x.view(5, 6, 6, 8)).values(),
    "penalty": lambda x, y, w: [
        objectives.build(Experiment(objective="cdnv_penalty", n_source=6), 8).batch_cdnv(x, y)
    ],
    "batches of classes": lambda x, y, w: cdnv_penalty.class_batches(y, 48, 4, torch.Generator().manual_seed(0)),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_all_is_computed_where_the_features_are(name, monkeypatch):
    call = CALLS[name]
    expected = list(call(X, Y, W))
    with device(monkeypatch):
        found = list(call(Elsewhere(X), Elsewhere(Y), Elsewhere(W)))
    at_hand = [value.at_hand if isinstance(value, Elsewhere) else value for value in found]
    torch.testing.assert_close(
        at_hand, expected, equal_nan=True, rtol=1e-6, atol=0.011 if name in OF_OTHER_EPISODES else 1e-12
    )


@pytest.mark.parametrize("head", fewshot.HEADS)
def test_a_chunk_of_episodes_is_waited_for_once(head, monkeypatch):
    """On a GPU a chunk is some thousand episodes; the logistic head looks after each of its Newton steps."""
    counts = []
    for chunk in (200, 50):  # 10 chunks, 40 chunks
        monkeypatch.setattr(protocol, "chunk_size", lambda *_, chunk=chunk: chunk)
        with device(monkeypatch):
            fewshot.evaluate(Elsewhere(X), Elsewhere(Y), **TASKS, episodes=2_000, head=head)
        counts.append(len(waits))
    per_chunk = (counts[1] - counts[0]) / 30
    assert per_chunk <= (15 if head == "logistic" else 1), counts


def test_the_device_that_is_not_there_refuses_what_a_gpu_refuses(monkeypatch):
    with device(monkeypatch):
        there = Elsewhere(X)
        for wrong in (lambda: there + X, lambda: there.numpy(), lambda: torch.stack([there[0], X[0]])):
            with pytest.raises((RuntimeError, TypeError), match="device"):
                wrong()
        assert not waits
        assert (there + 1.0).device == ELSEWHERE and there[Y[:3]].device == ELSEWHERE
        there.cpu(), there.sum().item(), there[0].tolist()
        assert len(waits) == 3


def empty_on_cuda(like):
    return torch.empty(like.shape, dtype=like.dtype, device="cuda")


class Images:
    """Source images on the GPU that is not there, as `AugmentedImages` hands them out."""

    labels = None

    def __init__(self, labels):
        self.labels, self.device = labels, torch.device("cuda")
        self.images = torch.empty(len(labels), 1, 28, 28, dtype=torch.uint8, device="cuda")

    def __call__(self, rows):
        return AUGMENT["affine"](features.as_input(self.images[rows]), torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name", [name for name in catalog.OBJECTIVES if name not in ("cdnv_penalty", "maml", "anil")]
)  # these need numbers, or gradients
def test_losses_are_computed_on_one_device(name):
    """Shapes and devices alone: torch's own fake tensors."""
    experiment = Experiment(objective=name, n_source=20, n_novel=5, backbone="conv4_small")
    labels = torch.arange(20).repeat_interleave(20)
    batch = next(iter(objectives.build(experiment, 64).batches(labels, torch.Generator().manual_seed(0))))
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            backbone = backbones.build("conv4_small", 1, 28)
            objective = objectives.build(experiment, backbone.feature_dim)
            if name == "distillation":
                teacher = objectives.build(experiment.teacher, backbone.feature_dim)
                objective.learn_from(backbones.build("conv4_small", 1, 28), teacher)
        if isinstance(batch, torch.Tensor):
            there = empty_on_cuda(batch)
        else:
            there = fewshot.Episodes(*(empty_on_cuda(rows) for rows in (batch.support, batch.query, batch.classes)))
        loss = objective.loss(backbone, Images(torch.empty(400, dtype=torch.int64, device="cuda")), there)
        scores = objective.logits(torch.empty(7, backbone.feature_dim, device="cuda"))
    assert loss.device.type == "cuda" and (scores is None or scores.device.type == "cuda")


@pytest.mark.parametrize("name", catalog.BACKBONES)
def test_networks_are_computed_on_one_device(name):
    with FakeTensorMode(), torch.device("cuda"):
        network = backbones.build(name, 3, 32)
        assert network(torch.empty(2, 3, 32, 32)).device.type == "cuda"
