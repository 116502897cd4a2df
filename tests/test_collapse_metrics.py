"""The accumulator: equal to the pure functions however samples arrive, to float64 at extreme collapse."""

import copy
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ncbook import collapse

ONE_PASS = (
    "cdnv",
    "nc1",
    "nc2",
    "min_distance",
    "trace_ratio",
    "variability_collapse_index",
    "separation_fuzziness",
)
N_CLASSES, DIM = 5, 8
examples = settings(max_examples=12, deadline=None, derandomize=True)


def sample(n=200, n_classes=N_CLASSES, dim=DIM, spread=0.3, offset=0.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(n_classes, dim, generator=generator, dtype=torch.float64)
    y = torch.cat([torch.arange(n_classes).repeat(2), torch.randint(n_classes, (n,), generator=generator)])
    y = y[torch.randperm(len(y), generator=generator)]
    x = means[y] + spread * torch.randn(len(y), dim, generator=generator, dtype=torch.float64) + offset
    return x.to(dtype), y


def accumulated(x, y, batch=32, n_classes=N_CLASSES):
    metrics = collapse.CollapseMetrics(n_classes, x.shape[1])
    for features, labels in zip(x.split(batch), y.split(batch), strict=True):
        metrics.update(features, labels)
    return metrics


def assert_equal(values, x, y, rtol=1e-5):
    assert set(ONE_PASS) <= set(values)
    for name in ONE_PASS:
        assert values[name].dtype == torch.float64 and values[name].ndim == 0
        expected = getattr(collapse, name)(x, y)
        torch.testing.assert_close(values[name], expected, rtol=rtol, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


# Equal to the pure functions


@pytest.mark.parametrize("n_classes", [2, 5, 12])  # 12 classes in 8 dimensions, too
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_equals_the_pure_functions(dtype, n_classes):
    x, y = sample(n_classes=n_classes, dtype=dtype)
    metrics = accumulated(x, y, n_classes=n_classes)
    weight = torch.randn(n_classes, DIM, generator=torch.Generator().manual_seed(1))
    values = metrics.compute(weight=weight)
    assert_equal(values, x, y, rtol=1e-10 if dtype == torch.float64 else 1e-5)
    torch.testing.assert_close(values["nc3"], collapse.nc3(x, y, weight))
    assert "nc3" not in metrics.compute()


@examples
@given(st.integers(0, 2**31), st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_batches_of_any_size_in_any_order(seed, sizes):
    x, y = sample(seed=seed, offset=20.0)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    metrics = collapse.CollapseMetrics(N_CLASSES, DIM)
    start = 0
    while start < len(x):
        rows = order[start : start + sizes[start % len(sizes)]]
        metrics.update(x[rows], y[rows])
        start += len(rows)
    assert_equal(metrics.compute(), x, y)


@examples
@given(st.integers(0, 2**31), st.permutations(range(4)))
def test_merging_in_any_order(seed, order):
    x, y = sample(seed=seed, offset=-50.0)
    parts = [accumulated(a, b, batch=16) for a, b in zip(x.chunk(4), y.chunk(4), strict=True)]
    whole = parts[order[0]]
    for k in order[1:]:
        whole.merge_state(parts[k])
    assert_equal(whole.compute(), x, y)


def test_classes_sorted_and_seen_late():
    x, y = sample(offset=10.0)
    order = y.argsort(stable=True)
    metrics = collapse.CollapseMetrics(N_CLASSES, DIM)
    for features, labels in zip(x[order].split(16), y[order].split(16), strict=True):
        metrics.update(features, labels)
    assert_equal(metrics.compute(), x, y)


def test_blocks_of_a_large_update_and_an_empty_one():
    x, y = sample(n=20_000)
    metrics = accumulated(x, y, batch=len(x))
    metrics.update(x[:0], y[:0])
    assert_equal(metrics.compute(), x, y)


def test_dtypes_may_change_between_batches():
    x, y = sample(offset=3.0, dtype=torch.float16)  # representable in all three
    metrics = collapse.CollapseMetrics(N_CLASSES, DIM)
    dtypes = (torch.float16, torch.float64, torch.float32)
    for k, (features, labels) in enumerate(zip(x.split(20), y.split(20), strict=True)):
        metrics.update(features.to(dtypes[k % 3]), labels.to((torch.int64, torch.int32, torch.uint8)[k % 3]))
    assert_equal(metrics.compute(), x, y)


def test_views_and_gradients_are_no_matter():
    x, y = sample()
    metrics = collapse.CollapseMetrics(N_CLASSES, DIM)
    metrics.update(x.T.contiguous().T.requires_grad_(), y)
    assert_equal(metrics.compute(), x.detach(), y)
    assert not metrics.compute()["cdnv"].requires_grad


def test_classes_without_samples_are_left_out_with_a_warning():
    x, y = sample()
    keep = (y != 1) & (y != 4)
    x, y = x[keep], y[keep]
    metrics = accumulated(x, y)
    weight = torch.randn(N_CLASSES, DIM, generator=torch.Generator().manual_seed(1))
    logits = torch.randn(len(x), N_CLASSES, generator=torch.Generator().manual_seed(2))
    with pytest.warns(UserWarning, match="2 of 5 classes have no sample"):
        values = metrics.compute(weight=weight)
    assert_equal(values, x, y)
    seen = torch.tensor([0, 2, 3])
    torch.testing.assert_close(values["nc3"], collapse.nc3(x, y, weight[seen]))
    with pytest.warns(UserWarning, match="2 of 5"):
        second = metrics.second_pass()
    second.update(x, y, logits)
    torch.testing.assert_close(second.compute()["nc4"], collapse.nc4(x, y, logits[:, seen]))
    torch.testing.assert_close(second.compute()["directional_cdnv"], collapse.directional_cdnv(x, y))
    with pytest.raises(ValueError, match="labels hold 1; allowed: classes seen in the first pass"):
        second.update(x[:1], torch.tensor([1]))


# Second pass


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_second_pass(dtype):
    x, y = sample(spread=1.0, offset=5.0, dtype=dtype)
    logits = torch.randn(len(x), N_CLASSES, generator=torch.Generator().manual_seed(2))
    second = accumulated(x, y).second_pass()
    for batch in torch.randperm(len(x), generator=torch.Generator().manual_seed(3)).split(33):
        second.update(x[batch], y[batch], logits[batch])
    values = second.compute()
    torch.testing.assert_close(values["nc4"], collapse.nc4(x, y, logits))
    torch.testing.assert_close(values["directional_cdnv"], collapse.directional_cdnv(x, y), rtol=1e-5, atol=0)


def test_second_pass_with_a_class_far_from_the_others():
    """It takes the center of the means with it, and float32 the digits of what lies between the others."""
    x, y = sample(n=400, dim=3)
    x[y == 0] += 3e4
    logits = -torch.cdist(
        x.double(), x.double()[torch.tensor([(y == k).nonzero()[0].item() for k in range(N_CLASSES)])]
    )
    second = accumulated(x, y).second_pass()
    second.update(x, y, logits)
    values = second.compute()
    torch.testing.assert_close(values["directional_cdnv"], collapse.directional_cdnv(x, y), rtol=1e-7, atol=0)
    assert values["nc4"] == collapse.nc4(x, y, logits) > 0


def test_second_pass_measures_what_is_asked_for():
    x, y = sample()
    metrics = accumulated(x, y)
    without_logits = metrics.second_pass()
    without_logits.update(x, y)
    assert set(without_logits.compute()) == {"directional_cdnv"}
    without_direction = metrics.second_pass(directional=False)
    without_direction.update(x, y, torch.zeros(len(x), N_CLASSES))
    assert set(without_direction.compute()) == {"nc4"}
    half = metrics.second_pass()
    half.update(x[y == 0], y[y == 0])
    with pytest.raises(ValueError, match="features of the classes 1, 2, 3, 4 have not come again; allowed"):
        half.compute()


def test_second_pass_at_extreme_collapse():
    x, y = sample(n=2000, spread=1e-5, offset=100.0)  # float32 resolves 8e-6 there: the means' rounding matters
    second = accumulated(x, y).second_pass()
    second.update(x, y)
    expected = collapse.directional_cdnv(x, y)
    torch.testing.assert_close(second.compute()["directional_cdnv"], expected, rtol=1e-4, atol=0)


# Extreme collapse, poor references


@pytest.mark.parametrize("batch", [1, 7, 64, 4096])
@pytest.mark.parametrize("ratio", [1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
def test_extreme_collapse_with_a_large_offset(ratio, batch):
    x, y = sample(n=600, spread=ratio**0.5, offset=100.0)
    values = accumulated(x, y, batch=batch).compute()
    for name in ("cdnv", "nc1", "trace_ratio", "separation_fuzziness"):
        assert float(values[name]) == pytest.approx(float(getattr(collapse, name)(x, y)), rel=1e-4), name
        assert values[name] > 0


def test_a_naive_one_pass_would_fail_there():
    x, y = sample(n=600, spread=1e-4, offset=100.0)
    naive = (x.square().sum() / len(x) - sum(
        (y == k).sum() * (x[y == k].sum(0) / (y == k).sum()).square().sum() for k in range(N_CLASSES)
    ) / len(x))  # fmt: skip
    true = DIM * 1e-8
    assert not true / 2 < naive < 2 * true


@pytest.mark.parametrize("batch", [1, 16, 8192])
@pytest.mark.parametrize("distance", [1e1, 1e3, 1e5])
def test_first_samples_that_are_outliers(distance, batch):
    x, y = sample(n=20_000 if batch > 1 else 2_000, spread=1e-3, offset=10.0)
    first = torch.stack([(y == k).nonzero()[0, 0] for k in range(N_CLASSES)])
    x[first] += distance * 1e-3 * torch.randn(N_CLASSES, DIM, generator=torch.Generator().manual_seed(5))
    values = accumulated(x, y, batch=batch).compute()
    for name in ("cdnv", "nc1", "trace_ratio"):
        assert float(values[name]) == pytest.approx(float(getattr(collapse, name)(x, y)), rel=2e-5), name


@pytest.mark.parametrize("sorted_by_class", [False, True])
def test_references_are_renewed_when_they_are_poor(sorted_by_class):
    x, y = sample(n=4000, spread=1e-3)
    y, order = y.sort(stable=True) if sorted_by_class else (y, torch.arange(len(y)))
    x = x[order]
    first = torch.stack([(y == k).nonzero()[0, 0] for k in range(N_CLASSES)])
    order = torch.cat([first, torch.arange(len(x))])
    x, y = x[order], y[order]
    x[:N_CLASSES] += 0.05  # 50 standard deviations
    metrics = collapse.CollapseMetrics(N_CLASSES, DIM)
    for k in torch.arange(len(x)).tensor_split([N_CLASSES, 2 * N_CLASSES, 600, 4000]):
        metrics.update(x[k], y[k])
    means = torch.stack([x[y == k].mean(0) for k in range(N_CLASSES)])
    assert (metrics.references - means).norm() < 1e-3  # 0.05 apart at first
    values = metrics.compute()
    for name in ("cdnv", "nc1", "separation_fuzziness"):
        assert float(values[name]) == pytest.approx(float(getattr(collapse, name)(x, y)), rel=1e-5), name


def test_clusters_far_apart_within_a_class_and_arriving_one_after_the_other():
    x, y = sample(n=6000, spread=1e-2, offset=10.0)
    second = torch.arange(len(x)) >= len(x) // 2
    x[second] += torch.randn(N_CLASSES, DIM, generator=torch.Generator().manual_seed(5))[y[second]]
    assert_equal(accumulated(x, y, batch=50).compute(), x, y, rtol=1e-4)


# Scales: float32 up to 1e18, where its squares end; anything smaller; float64 from 1e-150 to 1e150


@pytest.mark.parametrize("n", [200, 9000])
@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [(torch.float32, -99), (torch.float32, -40), (torch.float32, 40), (torch.float32, 55),
     (torch.float64, -498), (torch.float64, -260), (torch.float64, 260), (torch.float64, 490)],
)  # fmt: skip
def test_extreme_scales(dtype, exponent, n):
    x, y = sample(n=n, offset=5.0, dtype=dtype)
    logits = torch.randn(len(x), N_CLASSES, generator=torch.Generator().manual_seed(2))
    scale = 2.0**exponent
    metrics = accumulated(scale * x, y, batch=1000)
    values = metrics.compute()
    values["min_distance"] = values["min_distance"] / scale
    assert_equal(values, x, y)
    second = metrics.second_pass()
    second.update(scale * x, y, logits)
    torch.testing.assert_close(second.compute()["directional_cdnv"], collapse.directional_cdnv(x, y), rtol=1e-5, atol=0)
    torch.testing.assert_close(second.compute()["nc4"], collapse.nc4(x, y, logits))


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e30), (torch.float64, 1e200), (torch.float64, 1e-200)])
def test_scales_beyond_squares_are_refused(dtype, scale):
    x, y = sample(offset=5.0, dtype=dtype)
    with pytest.raises(ValueError, match="allowed: numbers small enough|allowed: a scale at which squares"):
        accumulated(scale * x, y).compute()


def test_classes_of_identical_samples_have_no_negative_variance():
    x, y = sample(spread=0.0, offset=1000.1)
    values = accumulated(x, y, batch=3).compute()
    assert 0 <= values["cdnv"] < 1e-12 and 0 <= values["trace_ratio"] < 1e-12


# Sums in float32 in orders no GEMM adds in: the promises above hold whatever a machine does


def sequential(z):
    """Row after row, each product and each sum rounded to float32."""
    rows = z.numpy()
    total = np.zeros((z.shape[1], z.shape[1]), np.float32)
    for part in np.array_split(rows, max(1, len(rows) // 256)):  # accumulate adds strictly in order
        total = np.add.accumulate(np.concatenate([total[None], part[:, :, None] * part[:, None]]), axis=0)[-1]
    return torch.from_numpy(total)


def pairwise(z):
    products = z[:, :, None] * z[:, None]
    while len(products) > 1:
        odd = products[len(products) // 2 * 2 :]
        products = torch.cat([products[0 : len(products) - len(odd) : 2] + products[1 : len(products) : 2], odd])
    return products[0]


def in_threes(z):
    total = torch.zeros(z.shape[1], z.shape[1])
    for part in z.split(3):
        total += part.T @ part
    return total


ORDERS = {
    "sequential": sequential,
    "reversed": lambda z: sequential(z.flip(0)),
    "pairwise": pairwise,
    "in_threes": in_threes,
}


@pytest.fixture(params=ORDERS)
def order_of_sums(request, monkeypatch):
    calls = []

    def product(z):
        assert z.dtype == torch.float32
        calls.append(len(z))
        return ORDERS[request.param](z)

    monkeypatch.setattr(collapse.CollapseMetrics, "_float32_product", staticmethod(product))
    return calls


@pytest.mark.parametrize("dim", [1, 6, 512, 515, 640])
def test_product_of_bands_is_the_whole_product(dim):
    z = torch.randn(700, dim, generator=torch.Generator().manual_seed(dim))
    found = collapse.CollapseMetrics._float32_product(z)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), z.double().T @ z.double(), rtol=1e-5, atol=1e-3)


def test_wide_features_are_those_of_the_functions():
    x, y = sample(n=3000, dim=520)
    assert_equal(accumulated(x, y, batch=1000).compute(), x, y)


def test_ordinary_samples_are_summed_in_float32(order_of_sums):
    x, y = sample(n=20_000, offset=10.0)
    assert_equal(accumulated(x, y, batch=8192).compute(), x, y)
    assert sum(order_of_sums) > 0.9 * len(x)


def with_outliers(place, distance, fraction=0.0):
    """Samples of spread 1e-3, of which one of each class, or a fraction of all, is far from the others."""
    x, y = sample(n=20_000, spread=1e-3, offset=10.0)
    generator = torch.Generator().manual_seed(5)
    start = {"first": 0, "middle": 9000, "last": 19_500}[place]
    far = torch.stack([start + (y[start:] == k).nonzero()[0, 0] for k in range(N_CLASSES)])
    if fraction:
        far = torch.rand(len(x), generator=generator) < fraction
    noise = torch.randn(*x[far].shape, generator=generator)
    x[far] += distance * 1e-3 * noise
    return x, y


@pytest.mark.parametrize("batch", [64, 600, 8192])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_outliers_anywhere_in_any_order_of_sums(order_of_sums, place, batch):
    for distance in (1e2, 1e5):
        x, y = with_outliers(place, distance)
        assert_equal(accumulated(x, y, batch=batch).compute(), x, y, rtol=2e-5)


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.6, 0.95])
def test_many_outliers_in_any_order_of_sums(order_of_sums, fraction):
    for distance in (1e2, 1e5):
        x, y = with_outliers("first", distance, fraction)
        assert_equal(accumulated(x, y, batch=8192).compute(), x, y, rtol=2e-5)


@pytest.mark.parametrize("batch", [50, 1000, 8192])
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-4])
def test_clusters_far_apart_in_any_order_of_sums(order_of_sums, spread, permuted, batch):
    x, y = sample(n=20_000, spread=spread, offset=10.0)
    second = torch.arange(len(x)) >= len(x) // 2
    x[second] += torch.randn(N_CLASSES, DIM, generator=torch.Generator().manual_seed(5))[y[second]]
    if permuted:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(6))
        x, y = x[order], y[order]
    assert_equal(accumulated(x, y, batch=batch).compute(), x, y, rtol=2e-5)


@pytest.mark.parametrize("ratio", [1.0, 1e-4, 1e-10])
def test_extreme_collapse_in_any_order_of_sums_and_rows(order_of_sums, ratio):
    x, y = sample(n=9000, spread=ratio**0.5, offset=100.0)
    for order in (torch.arange(len(x)), y.argsort(stable=True), x[:, 0].argsort()):
        values = accumulated(x[order], y[order], batch=8192).compute()
        for name in ("cdnv", "nc1", "trace_ratio", "separation_fuzziness", "variability_collapse_index"):
            expected = float(getattr(collapse, name)(x, y))
            assert float(values[name]) == pytest.approx(expected, rel=2e-5), name


def test_units_that_are_linear_functions_of_others_are_summed_in_float64(order_of_sums):
    x, y = sample(n=20_000, dtype=torch.float64)
    x = torch.cat([x, x[:, :1] + 1e-3 * torch.randn(len(x), 1, generator=torch.Generator().manual_seed(1))], 1).float()
    assert_equal(accumulated(x, y, batch=8192).compute(), x, y, rtol=1e-6)
    assert not order_of_sums


def test_narrow_samples_first_and_wide_ones_after_in_any_order_of_sums(order_of_sums):
    x, y = sample(n=30_000, spread=1.0, offset=3.0)
    means = torch.stack([x[y == k].mean(0) for k in range(N_CLASSES)])
    x[:10_000] = means[y[:10_000]] + 1e-3 * (x[:10_000] - means[y[:10_000]])
    direction = torch.nn.functional.normalize(torch.arange(1.0, DIM + 1), dim=0)
    x[10_000:] = means[y[10_000:]] + ((x[10_000:] - means[y[10_000:]]) @ direction)[:, None] * direction
    for rows in (torch.arange(len(x)), torch.arange(len(x)).flip(0)):
        assert_equal(accumulated(x[rows], y[rows], batch=8192).compute(), x, y, rtol=2e-5)


def test_autocast_and_coarser_products_do_not_reach_the_sums():
    x, y = sample(n=9000, spread=1e-2, offset=10.0)
    logits = torch.randn(len(x), N_CLASSES, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        metrics = accumulated(x, y, batch=8192)
        second = metrics.second_pass()
        second.update(x, y, logits)
    torch.set_float32_matmul_precision("medium")
    try:
        coarse = accumulated(x, y, batch=8192).compute()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_equal(metrics.compute(), x, y)
    assert_equal(coarse, x, y)
    torch.testing.assert_close(second.compute()["directional_cdnv"], collapse.directional_cdnv(x, y), rtol=1e-5, atol=0)
    torch.testing.assert_close(second.compute()["nc4"], collapse.nc4(x, y, logits))


# A torchmetrics metric


def test_forward_gives_the_batch_and_adds_it():
    x, y = sample(n=390)
    metrics = collapse.CollapseMetrics(N_CLASSES, DIM)
    for features, labels in zip(x.split(100), y.split(100), strict=True):
        assert_equal(metrics(features, labels), features, labels)
    assert_equal(metrics.compute(), x, y)
    small = metrics(x[:3], torch.tensor([0, 1, 1]))
    assert set(small) == set(ONE_PASS) and all(v.isnan() for v in small.values())
    with pytest.raises(ValueError, match="NaN or infinity"):
        metrics(x[:3] * torch.nan, y[:3])


def test_reset():
    x, y = sample()
    metrics = accumulated(*sample(seed=9))
    metrics.reset()
    metrics.update(x, y)
    assert_equal(metrics.compute(), x, y)


def test_state_dict_pickle_and_copies_go_on_where_they_were():
    x, y = sample(offset=30.0)
    metrics = accumulated(x[:100], y[:100], batch=7)
    loaded = collapse.CollapseMetrics(N_CLASSES, DIM)
    loaded.load_state_dict(metrics.state_dict())
    buffer = io.BytesIO()
    torch.save(metrics, buffer)
    buffer.seek(0)
    unpickled = torch.load(buffer, weights_only=False)
    for other in (loaded, unpickled, metrics.clone(), copy.deepcopy(metrics)):
        other.update(x[100:], y[100:])
        assert_equal(other.compute(), x, y)
    assert metrics.counts.sum() == 100


def test_in_a_collection():
    x, y = sample()
    predictions = (y + (torch.arange(len(y)) % 10 == 0)) % N_CLASSES
    collection = MetricCollection(
        {
            "collapse": collapse.CollapseMetrics(N_CLASSES, DIM),
            "accuracy": MulticlassAccuracy(N_CLASSES, average="micro"),
        }
    )
    for rows in torch.arange(len(x)).split(50):
        collection.update(features=x[rows], labels=y[rows], preds=predictions[rows], target=y[rows])
    values = collection.compute()
    assert_equal(values, x, y)
    assert 0.85 < values["accuracy"] < 0.95
    collection.reset()
    both = collection(features=x, labels=y, preds=predictions, target=y)
    torch.testing.assert_close(both["cdnv"], values["cdnv"])


def test_changing_the_default_dtype_changes_nothing():
    x, y = sample()
    metrics = accumulated(x, y).set_dtype(torch.float16).half().double()
    assert_equal(metrics.compute(), x, y)


def test_casting_a_model_moves_the_metric_within_it_and_casts_nothing():
    x, y = sample()
    model = torch.nn.ModuleList([accumulated(x[:100], y[:100])]).to(torch.bfloat16)
    metrics = model[0].to(torch.float32)
    metrics.update(x[100:], y[100:])
    assert_equal(metrics.compute(), x, y)
    second = metrics.second_pass().to(torch.float16)
    second.update(x, y)
    torch.testing.assert_close(second.compute()["directional_cdnv"], collapse.directional_cdnv(x, y), rtol=1e-5, atol=0)
    assert metrics.to("meta").moment.device.type == "meta"


def test_memory_does_not_grow_with_samples():
    metrics = collapse.CollapseMetrics(N_CLASSES, DIM)
    x, y = sample(n=1000, dtype=torch.bfloat16)

    def held():
        tensors = [v for v in vars(metrics).values() if isinstance(v, torch.Tensor)]
        return sum(t.untyped_storage().nbytes() for t in tensors)

    metrics.update(x, y)
    before = held()
    for _ in range(30):
        metrics.update(x, y)
    assert held() == before
    assert before < 8 * (5 * N_CLASSES * DIM + 3 * DIM**2) + 4 * len(x) * DIM + 1000


TWO_PROCESSES = """
import os, sys, torch, torch.distributed as dist
from ncbook import collapse
rank, store, data, out = int(sys.argv[1]), *sys.argv[2:]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
x, y, logits = torch.load(data)
rows = torch.arange(len(x)) % 3 == 0  # a third to process 0, the rest to process 1
rows = rows if rank == 0 else ~rows
metrics = collapse.CollapseMetrics(5, 8)
for k in torch.arange(len(x))[rows].split(16):
    metrics.update(x[k], y[k])
values = metrics.compute()
again = metrics.compute()  # synchronized, and put back: the same once more
second = metrics.second_pass()
second.update(x[rows], y[rows], logits[rows])
values |= second.compute()
assert again["cdnv"] == values["cdnv"] and metrics.counts.sum() == rows.sum()
torch.save(values, f"{out}{rank}")
dist.barrier()
os._exit(0)  # gloo's threads now and then abort the interpreter's own way out
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_equal_one(tmp_path):
    x, y = sample(spread=1e-2, offset=100.0)
    x[y == 4] += 3  # a class of which process 0 sees nothing
    third = torch.arange(len(x)) % 3 == 0
    x, y = x[~(third & (y == 4))], y[~(third & (y == 4))]
    order = torch.argsort((y == 4).int(), stable=True)
    x, y = x[order], y[order]
    logits = torch.randn(len(x), N_CLASSES, generator=torch.Generator().manual_seed(2))
    torch.save((x, y, logits), tmp_path / "data")
    arguments = [str(tmp_path / "store"), str(tmp_path / "data"), str(tmp_path / "out")]
    processes = [subprocess.Popen([sys.executable, "-c", TWO_PROCESSES, str(rank), *arguments]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    one, other = (torch.load(tmp_path / f"out{rank}") for rank in range(2))
    assert one == other
    assert_equal(one, x, y)
    torch.testing.assert_close(one["nc4"], collapse.nc4(x, y, logits))
    torch.testing.assert_close(one["directional_cdnv"], collapse.directional_cdnv(x, y), rtol=1e-5, atol=0)


# Bad input


def test_a_bad_row_in_a_later_block_leaves_both_passes_as_they_were():
    x, y = sample(n=20_000)
    metrics = accumulated(x[:40], y[:40])
    before = copy.deepcopy(metrics.metric_state)
    broken = x.clone()
    broken[17_500, 1] = torch.nan
    with pytest.raises(ValueError, match="in 1 of .* rows, first in row 17500"):
        metrics.update(broken, y)
    torch.testing.assert_close(metrics.metric_state, before, rtol=0, atol=0)
    metrics.update(x[40:], y[40:])
    assert_equal(metrics.compute(), x, y)
    second = metrics.second_pass()
    with pytest.raises(ValueError, match="first in row 17500"):
        second.update(broken, y)
    second.update(x, y)
    torch.testing.assert_close(second.compute()["directional_cdnv"], collapse.directional_cdnv(x, y), rtol=1e-5, atol=0)


def test_bad_batches_leave_the_metric_as_it_was():
    x, y = sample()
    metrics = accumulated(x, y)
    before = {name: value.clone() for name, value in metrics.metric_state.items()}

    def refused(error, match, features, labels):
        with pytest.raises(error, match=match):
            metrics.update(features, labels)
        assert all(torch.equal(before[name], value) for name, value in metrics.metric_state.items())

    for bad in (torch.nan, torch.inf):
        broken = x[:9].clone()
        broken[4, 1] = bad
        refused(ValueError, "features holds NaN or infinity.*first in row 4", broken, y[:9])
    refused(ValueError, "small enough", x[:9] * 1e30, y[:9])
    refused(ValueError, r"labels hold \d ... 5; allowed: 0 ... 4", x[:2], torch.tensor([1, 5]))
    refused(ValueError, "labels hold -1 ... 1; allowed: 0 ... 4", x[:2], torch.tensor([-1, 1]))
    refused(ValueError, r"features has shape \[3, 7\]; allowed: \[N, dim\] = \[N, 8\]", x[:3, :7], y[:3])
    refused(ValueError, r"labels has shape \[2\]; allowed: \[3\]", x[:3], y[:2])
    refused(ValueError, r"features has shape \[8\]; allowed: \[N, D\]", x[0], y[:8])
    refused(TypeError, "allowed: a float dtype", x[:3].int(), y[:3])
    refused(TypeError, "allowed: an integer dtype", x[:3], y[:3].float())
    refused(ValueError, "device meta; allowed: the metric's device cpu", x[:3].to("meta"), y[:3])


def test_not_finite_samples_of_a_class_not_seen_before_leave_no_trace():
    x, y = sample()
    metrics = accumulated(x[y != 2], y[y != 2])
    with pytest.raises(ValueError, match="NaN or infinity"):
        metrics.update(x[y == 2] * torch.nan, y[y == 2])
    metrics.update(x[y == 2], y[y == 2])
    assert_equal(metrics.compute(), x, y)


def test_bad_second_pass():
    x, y = sample()
    second = accumulated(x, y).second_pass()
    logits = torch.zeros(len(x), N_CLASSES)
    for match, arguments in (
        ("features holds NaN or infinity", (x * torch.nan, y)),
        ("features holds NaN or infinity", (x * torch.inf, y, logits)),
        ("logits hold NaN", (x, y, logits * torch.nan)),
        (r"logits has shape .*; allowed: \[N, C\]", (x, y, logits[:, 1:])),
        ("labels hold 1 ... 5; allowed: 0 ... 4", (x, y + 1)),
    ):
        with pytest.raises(ValueError, match=match):
            second.update(*arguments)
    assert second.decided == 0 and second.scatter.sum() == 0


@pytest.mark.parametrize("row", [0, 599])
def test_second_pass_sees_a_broken_row_wherever_it_is(row):
    """With 2,048 classes decisions are made 512 rows at a time."""
    x, y = sample(n=0, n_classes=2048, dim=3)
    second = accumulated(x, y, batch=4096, n_classes=2048).second_pass(directional=False)
    broken = x[:600].clone()
    broken[row, 1] = torch.nan
    with pytest.raises(ValueError, match="features holds NaN"):
        second.update(broken, y[:600], torch.zeros(600, 2048))
    assert second.decided == 0
    logits = torch.zeros(600, 2048)
    logits[row, 5] = torch.nan
    with pytest.raises(ValueError, match="logits hold NaN"):
        second.update(x[:600], y[:600], logits)
    assert second.decided == 0


def test_bad_states_at_compute():
    metrics = collapse.CollapseMetrics(3, 2)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="at least two classes"):
        metrics.compute()
    metrics.update(torch.tensor([[0.0, 0], [1, 0], [5, 5], [6, 6], [9, 0]]), torch.tensor([0, 0, 1, 1, 2]))
    with pytest.raises(ValueError, match="single sample of classes 2; allowed: two samples or more of each class"):
        metrics.compute()
    metrics.update(torch.tensor([[0.4, 0.0], [0.6, 0.0]]), torch.tensor([2, 2]))
    with pytest.raises(ValueError, match=r"weight has shape \[2, 3\]; allowed: \[C, D\] = \[3, 2\]"):
        metrics.compute(weight=torch.ones(2, 3))
    same = collapse.CollapseMetrics(2, 1)
    same.update(torch.tensor([[0.1], [0.3], [0.3], [0.1]]), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="identical class means for classes 0 and 1"):
        same.compute()


def test_bad_construction_and_merge():
    with pytest.raises(ValueError, match="n_classes=1; allowed: a whole number of at least 2"):
        collapse.CollapseMetrics(1, 5)
    with pytest.raises(ValueError, match="dim=0; allowed: a whole number of at least 1"):
        collapse.CollapseMetrics(2, 0)
    with pytest.raises(ValueError, match="n_classes=4611686018427387904; allowed: .* at most 100000"):
        collapse.CollapseMetrics(2**62, 5)
    with pytest.raises(ValueError, match="dist_sync_on_step"):
        collapse.CollapseMetrics(2, 5, dist_sync_on_step=True)
    with pytest.raises(ValueError, match=r"incoming_state is of \[n_classes, dim\] = \[3, 5\]; allowed: \[2, 5\]"):
        collapse.CollapseMetrics(2, 5).merge_state(collapse.CollapseMetrics(3, 5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    x, y = sample()
    logits = torch.randn(len(x), N_CLASSES, generator=torch.Generator().manual_seed(2))
    metrics = collapse.CollapseMetrics(N_CLASSES, DIM).to("cuda")
    for features, labels in zip(x.cuda().split(32), y.split(32), strict=True):
        metrics.update(features, labels)
    assert_equal({k: v.cpu() for k, v in metrics.compute().items()}, x, y)
    second = metrics.second_pass()
    second.update(x.cuda(), y, logits)
    torch.testing.assert_close(second.compute()["nc4"].cpu(), collapse.nc4(x, y, logits))
