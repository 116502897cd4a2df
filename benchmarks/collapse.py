"""Collapse metrics against the bare GEMM XᵀX, a peer's way and NumPy: time, peak memory, error.

    python benchmarks/collapse.py --n 200000 --dim 640 --classes 100 1000 --threads 2 --device cpu

prints one Markdown table. Every ratio is between medians of one run, in which the variants take turns. "Peer"
is an equivalent, written from scratch, of the accumulators of the neural-collapse package: one loop over the
data for each of class means, covariance, class variances and NC4 decisions, with one-hot products. Its
hashing of means and its own computing of logits are left out, which favors it. Inputs (features, labels,
logits) are not counted in the memory. Call `run(device)` from elsewhere for another device.
"""

import argparse
import statistics
from dataclasses import dataclass

import numpy as np
import threadpoolctl
import torch
from measuring import hardware, measure
from torch import Tensor

from ncbook import collapse


@dataclass
class Data:
    """One set of inputs, on the device."""

    x: Tensor  # [N, D] float32
    y: Tensor  # [N]
    logits: Tensor  # [N, C]
    n_classes: int
    batch: int

    def batches(self, *others: Tensor):
        """(features, labels, ...) of one batch after the other."""
        return zip(*(t.split(self.batch) for t in (self.x, self.y, *others)), strict=True)


def make_data(n: int, dim: int, n_classes: int, batch: int, device: str) -> Data:
    """Within- and between-class variance 1 in each direction, a common offset of 1."""
    generator = torch.Generator(device).manual_seed(0)
    y = torch.randint(n_classes, (n,), generator=generator, device=device)
    means = torch.randn(n_classes, dim, generator=generator, device=device)
    x = torch.randn(n, dim, generator=generator, device=device)
    for part, labels in zip(x.split(8192), y.split(8192), strict=True):
        part += means[labels] + 1
    logits = torch.randn(n, n_classes, generator=generator, device=device)
    return Data(x, y, logits, n_classes, batch)


# The variants


def gemm(data: Data) -> Tensor:
    return data.x.T @ data.x


def first_pass(data: Data) -> collapse.CollapseMetrics:
    metrics = collapse.CollapseMetrics(data.n_classes, data.x.shape[1]).to(data.x.device)
    for x, y in data.batches():
        metrics.update(x, y)
    return metrics


def ours(data: Data) -> dict[str, Tensor]:
    return first_pass(data).compute()


def ours_with_nc4(data: Data, directional: bool = False) -> dict[str, Tensor]:
    metrics = first_pass(data)
    values = metrics.compute()
    second = metrics.second_pass(directional=directional)
    for x, y, logits in data.batches(data.logits):
        second.update(x, y, logits)
    return values | second.compute()


def ours_with_everything(data: Data) -> dict[str, Tensor]:
    return ours_with_nc4(data, directional=True)


def peer_statistics(data: Data) -> tuple[Tensor, Tensor, Tensor]:
    one_hot = torch.nn.functional.one_hot
    dim = data.x.shape[1]
    sums, counts = data.x.new_zeros(data.n_classes, dim), data.x.new_zeros(data.n_classes)
    for x, y in data.batches():
        assigned = one_hot(y, data.n_classes).float()
        sums += assigned.T @ x
        counts += assigned.sum(0)
    means = sums / counts[:, None]
    covariance = data.x.new_zeros(dim, dim)
    for x, y in data.batches():
        z = x - means[y]
        covariance += z.T @ z
    squares = data.x.new_zeros(data.n_classes)
    for x, y in data.batches():
        squares += one_hot(y, data.n_classes).float().T @ (x - means[y]).square().sum(1)
    return means, covariance / len(data.x), squares / counts


def peer_compute(means: Tensor, covariance: Tensor, variances: Tensor, tile: int | None = None) -> dict[str, Tensor]:
    """NC1 by pinv, CDNV by all differences at once [C, C, D] (or a tile of rows at a time), NC2."""
    n_classes = len(means)
    centered = means - means.mean(0)
    between = centered.T @ centered / n_classes
    total = means.new_zeros(())
    for start in range(0, n_classes, tile or n_classes):
        rows = slice(start, start + (tile or n_classes))
        squared = (means[rows, None] - means[None]).square().sum(2)
        ratio = (variances[rows, None] + variances[None]) / 2 / squared
        total += ratio[squared > 0].sum()
    gram = centered @ centered.T
    etf = torch.eye(n_classes, device=means.device) - 1 / n_classes
    return {
        "nc1": (covariance @ torch.linalg.pinv(between)).trace() / n_classes,
        "cdnv": total / (n_classes * (n_classes - 1)),
        "nc2": (gram / gram.norm() - etf / (n_classes - 1) ** 0.5).norm(),
    }


def peer(data: Data) -> dict[str, Tensor]:
    return peer_compute(*peer_statistics(data), tile=64)


def peer_with_nc4(data: Data) -> dict[str, Tensor]:
    means, *rest = peer_statistics(data)
    differing = torch.zeros((), dtype=torch.int64, device=means.device)
    for x, _, logits in data.batches(data.logits):
        differing += (torch.cdist(x, means).argmin(1) != logits.argmax(1)).sum()
    return peer_compute(means, *rest, tile=64) | {"nc4": differing / len(data.x)}


def with_numpy(data: Data) -> dict[str, float]:
    x, y = data.x.numpy(), data.y.numpy()
    n_classes, dim = data.n_classes, x.shape[1]
    means, variances = np.empty((n_classes, dim), np.float32), np.empty(n_classes)
    within = np.zeros((dim, dim))
    for k in range(n_classes):
        z = x[y == k]
        means[k] = z.mean(0)
        z = z - means[k]
        variances[k] = (z * z).sum() / len(z)
        within += z.T @ z
    centered = means - means.mean(0)
    values, vectors = np.linalg.eigh((centered.T @ centered / n_classes).astype(float))
    rank = min(n_classes - 1, dim)
    root = vectors[:, -rank:] / np.sqrt(values[-rank:])
    squared = (centered * centered).sum(1)
    squared = squared[:, None] + squared - 2 * centered @ centered.T
    off = ~np.eye(n_classes, dtype=bool)
    return {
        "nc1": np.trace(root.T @ within @ root) / len(x) / n_classes,
        "cdnv": ((variances[:, None] + variances)[off] / 2 / squared[off]).mean(),
    }


def exact(data: Data) -> dict[str, Tensor]:
    """float64 throughout, two passes, a block of rows at a time."""
    k, dim = data.n_classes, data.x.shape[1]
    counts = torch.bincount(data.y, minlength=k).double()
    means = torch.zeros(k, dim, dtype=torch.float64, device=data.x.device)
    for x, y in data.batches():
        means.index_add_(0, y, x.double())
    means /= counts[:, None]
    within, variances = means.new_zeros(dim, dim), means.new_zeros(k)
    for x, y in data.batches():
        z = x.double() - means[y]
        within += z.T @ z
        variances.index_add_(0, y, z.square().sum(1))
    return peer_compute(means, within / len(data.x), variances / counts, tile=64)


def error(result: object, true: dict[str, Tensor], name: str) -> str:
    if not isinstance(result, dict) or name not in result:
        return ""
    return f"{abs(float(result[name]) / float(true[name]) - 1):.0e}"


def run(
    device: str = "cpu",
    n: int = 200_000,
    dim: int = 640,
    classes: tuple[int, ...] = (100, 1000),
    batch: int = 8192,
    repeats: int = 5,
    numpy: bool = True,
) -> str:
    """The Markdown tables, one row a variant and number of classes: the passes, and the computing step."""
    head = (
        "| {} | C | seconds: median [min, max] | ratio to {} | peak MiB | error of NC1 | of CDNV |\n" + 7 * "|---" + "|"
    )
    passes, computing = [head.format("way", "XᵀX")], [head.format("computing step", "ours")]
    for n_classes in classes:
        data = make_data(n, dim, n_classes, batch, device)
        true = exact(data)
        variants = {
            "bare GEMM XᵀX": lambda data=data: gemm(data),
            "**ours**": lambda data=data: ours(data),
            "**ours + NC4**": lambda data=data: ours_with_nc4(data),
            "ours + NC4 + directional CDNV": lambda data=data: ours_with_everything(data),
            "peer's way, tiled CDNV": lambda data=data: peer(data),
            "peer's way, tiled CDNV, + NC4": lambda data=data: peer_with_nc4(data),
        }
        if numpy and device == "cpu":
            variants["NumPy, class by class"] = lambda data=data: with_numpy(data)
        passes += rows(measure(variants, device, repeats), n_classes, true)

        metrics, statistics_of_peer = first_pass(data), peer_statistics(data)
        variants = {
            "**ours**, float64": metrics.compute,
            "peer's way, tiled": lambda s=statistics_of_peer: peer_compute(*s, tile=64),
            "peer's way, its default": lambda s=statistics_of_peer: peer_compute(*s),
        }
        computing += rows(measure(variants, device, min(repeats, 3)), n_classes, true)
    return "\n".join([*passes, "", *computing])


def rows(measured: dict, n_classes: int, true: dict[str, Tensor]) -> list[str]:
    unit = statistics.median(next(iter(measured.values()))[0])
    lines = []
    for name, (seconds, peak, result) in measured.items():
        median = statistics.median(seconds)
        lines.append(
            f"| {name} | {n_classes} | {median:.3f} [{min(seconds):.3f}, {max(seconds):.3f}] "
            f"| {median / unit:.2f} | {peak:.0f} "
            f"| {error(result, true, 'nc1')} | {error(result, true, 'cdnv')} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=640)
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    threadpoolctl.threadpool_limits(arguments.threads)  # of NumPy
    print(f"N = {arguments.n:,}, D = {arguments.dim}, batches of {arguments.batch}, float32 features.")
    print(hardware(arguments.device) + "\n")
    print(
        run(
            arguments.device,
            arguments.n,
            arguments.dim,
            arguments.classes,
            arguments.batch,
            arguments.repeats,
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
