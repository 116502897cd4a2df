"""A report's numbers against peers on the same features: CDNV and directional CDNV against RepX, and memory over N.

    python benchmarks/report.py --repx FOLDER

FOLDER is a clone of DLFundamentals/RepX, the library of the paper's authors (the package of that name in the registry
is another one); without it that table is left out. Prints Markdown. Ways take turns; a ratio is between medians of one
run, an error is relative to float64 with means taken off first. The neural-collapse package is in
`benchmarks/collapse.py`, easyfsl's episodes in `benchmarks/fewshot.py`.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from measuring import Peak, hardware, measure
from torch import Tensor

import ncbook
from ncbook import collapse

SETTINGS = (  # classes, samples per class, noise, offset
    (100, 200, 1.0, 0.0),
    (100, 200, 1e-3, 0.0),
    (100, 200, 1e-3, 100.0),
    (500, 40, 1.0, 0.0),
    (500, 40, 1e-3, 100.0),
)
DIM = 256


def sample(n_classes: int, per_class: int, noise: float, offset: float) -> tuple[Tensor, Tensor]:
    """Features float32 [N, D]: class means of variance 1 in each direction, noise about them, one offset for all."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    means = torch.randn(n_classes, DIM, generator=generator)
    return means[labels] + noise * torch.randn(len(labels), DIM, generator=generator) + offset, labels


def exact(x: Tensor, n_classes: int) -> dict[str, float]:
    """CDNV and directional CDNV of classes of one size in float64, from residuals, class by class."""
    groups = x.double().unflatten(0, (n_classes, -1))
    means = groups.mean(1)
    variances = (groups - means[:, None]).square().sum(2).mean(1)
    total, along = 0.0, 0.0
    for k in range(n_classes):
        others = torch.arange(n_classes) != k
        lines = means[others] - means[k]  # [C - 1, D]
        squared = lines.square().sum(1)
        total += float(((variances[k] + variances[others]) / 2 / squared).sum())
        along += float((((groups[k] - means[k]) @ lines.T).square().mean(0) / squared.square()).sum())
    pairs = n_classes * (n_classes - 1)
    return {"CDNV": total / pairs, "directional CDNV": along / pairs}


def against_repx(repeats: int) -> list[str]:
    """A row per setting and number: seconds of ours and of RepX, their ratio, both errors."""
    from repx.collapse import compute_cdnv, compute_directional_cdnv

    lines = [
        "| number | classes × samples | noise, offset | ours, s | RepX, s | ratio | error of ours | of RepX |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for n_classes, per_class, noise, offset in SETTINGS:
        x, y = sample(n_classes, per_class, noise, offset)
        true = exact(x, n_classes)
        for name, ours, theirs in (
            ("CDNV", collapse.cdnv, compute_cdnv),
            ("directional CDNV", collapse.directional_cdnv, compute_directional_cdnv),
        ):
            variants = {
                "ours": lambda ours=ours, x=x, y=y: float(ours(x, y)),
                "RepX": lambda theirs=theirs, x=x, y=y, c=n_classes: theirs(x, y, num_classes=c),
            }
            found = measure(variants, "cpu", repeats)
            seconds = {way: statistics.median(times) for way, (times, _, _) in found.items()}
            errors = [f"{abs(value / true[name] - 1):.0e}" for _, _, value in found.values()]
            lines.append(
                f"| {name} | {n_classes} × {per_class} | {noise:g}, {offset:g} | {seconds['ours']:.4f} "
                f"| {seconds['RepX']:.3f} | {seconds['RepX'] / seconds['ours']:.0f} × | {errors[0]} | {errors[1]} |"
            )
    return lines


def stream(n: int, n_classes: int, dim: int, batch: int = 8192):
    """Batches of features in which every class comes all the time, each made when it is asked for."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(n_classes, dim, generator=generator)
    for start in range(0, n, batch):
        size = min(batch, n - start)
        labels = torch.randint(n_classes, (size,), generator=generator)
        yield means[labels] + torch.randn(size, dim, generator=generator), labels


def memory(sizes: list[int], n_classes: int, dim: int) -> list[str]:
    """A row per number of samples: seconds and peak memory of a whole report in one pass."""
    lines = ["| samples | seconds | peak MiB | CDNV |", "|---|---|---|---|"]
    settings = {"per_class": 20, "episodes": 500}
    ncbook.report(None, stream(20_000, n_classes, dim), **settings)  # imports, and what is allocated once
    for n in sizes:
        start = time.perf_counter()
        with Peak("cpu") as peak:
            found = ncbook.report(None, stream(n, n_classes, dim), **settings)
        cdnv = found.value("cdnv")
        del found
        lines.append(f"| {n:,} | {time.perf_counter() - start:.0f} | {peak.mebibytes:.0f} | {cdnv:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repx", type=Path, help="folder of a clone of DLFundamentals/RepX")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=512)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{hardware('cpu')}\n")
    if chosen.repx:
        sys.path.insert(0, str(chosen.repx / "src"))
        print(f"## Against RepX: float32, {DIM} features, one thread\n")
        print("\n".join(against_repx(chosen.repeats)), flush=True)
    print(f"\n## A whole report in one pass: {chosen.classes:,} classes, {chosen.dim} features, one thread\n")
    print("\n".join(memory(chosen.sizes, chosen.classes, chosen.dim)))


if __name__ == "__main__":
    main()
