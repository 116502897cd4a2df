"""A report's numbers against peers on the same features: CDNV and directional CDNV against RepX, and memory over N.

    python benchmarks/report.py --repx FOLDER --neural-collapse FOLDER

The folders are clones of DLFundamentals/RepX, the library of the paper's authors (the package of that name in the
registry is another one), and of rhubarbwu/neural-collapse; without one its columns are left out. Prints Markdown. Ways
take turns; a ratio is between medians of one run, an error is relative to float64 with means taken off first.
Accumulators alone are compared in `benchmarks/collapse.py`, episodes alone in `benchmarks/fewshot.py`.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from fewshot import easyfsl_rate
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
OF_A_REPORT = ((100, 200, 6.0, 0.0), (100, 200, 1e-3, 100.0), (1000, 20, 6.0, 0.0))
DIM, EPISODES, ACCURACY = 256, 2_000, "accuracy_5way_5shot_ncc"
NUMBERS = ("cdnv", "directional_cdnv", "nc1", "nc2", ACCURACY)


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


def of_repx(x: Tensor, y: Tensor, n_classes: int) -> dict[str, float]:
    from repx.collapse import compute_cdnv, compute_directional_cdnv

    return {
        "cdnv": float(compute_cdnv(x, y, num_classes=n_classes)),
        "directional_cdnv": float(compute_directional_cdnv(x, y, num_classes=n_classes)),
    }


def of_neural_collapse(x: Tensor, y: Tensor, n_classes: int) -> dict[str, float]:
    """As its README says: class means in one pass, covariance and variances in a second one."""
    from neural_collapse import accumulate, measure

    def passed(kind, *means: Tensor):
        accumulator = kind(n_classes, x.shape[1], **({"M": means[0]} if means else {}))
        for part, labels in zip(x.split(4096), y.split(4096), strict=True):
            accumulator.accumulate(part, labels, *means)
        return accumulator.compute()

    means, center = passed(accumulate.MeanAccumulator)
    variances, _ = passed(accumulate.VarNormAccumulator, means)
    return {
        "cdnv": measure.variability_cdnv(variances, means),
        "nc1": measure.covariance_ratio(passed(accumulate.CovarAccumulator, means), means, center),
        "nc2": measure.simplex_etf_error(means, center),
    }


def of_easyfsl(x: Tensor, y: Tensor, _n_classes: int) -> dict[str, float]:
    return {ACCURACY: easyfsl_rate(x, y, 5, EPISODES)}


def of_report(x: Tensor, y: Tensor, _n_classes: int) -> dict[str, float]:
    """Of everything in a report, what the peers have, too."""
    found = ncbook.report(None, (x, y), episodes=EPISODES, device="cpu")
    return {name: found.value(name) for name in NUMBERS}


def against_all(peers: dict) -> list[str]:
    """A row per setting and library: seconds, peak memory, and its numbers."""
    lines = [
        f"| classes × samples | noise, offset | library | s | peak MiB | {' | '.join(NUMBERS)} |",
        "|---|---|---|---|---|" + "---|" * len(NUMBERS),
    ]
    for n_classes, per_class, noise, offset in OF_A_REPORT:
        x, y = sample(n_classes, per_class, noise, offset)
        for library, values_of in {"ncbook.report, all of it": of_report, **peers}.items():
            values_of(x[y < 5], y[y < 5], 5)  # imports, and what is allocated once
            start = time.perf_counter()
            with Peak("cpu") as peak:
                values = values_of(x, y, n_classes)
            numbers = " | ".join(f"{values[name]:.6g}" if name in values else "–" for name in NUMBERS)
            seconds = time.perf_counter() - start
            setting = f"{n_classes} × {per_class} | {noise:g}, {offset:g}"
            lines.append(f"| {setting} | {library} | {seconds:.1f} | {peak.mebibytes:.0f} | {numbers} |")
    return lines


def stream(n: int, n_classes: int, dim: int, device: str, batch: int = 8192):
    """Batches of features in which every class comes all the time, each made when it is asked for."""
    generator = torch.Generator(device).manual_seed(0)
    means = torch.randn(n_classes, dim, generator=generator, device=device)
    for start in range(0, n, batch):
        size = min(batch, n - start)
        labels = torch.randint(n_classes, (size,), generator=generator, device=device)
        yield means[labels] + torch.randn(size, dim, generator=generator, device=device), labels


def memory(sizes: list[int], n_classes: int, dim: int, device: str = "cpu") -> list[str]:
    """A row per number of samples: seconds and peak memory of a whole report in one pass."""
    lines = ["| samples | seconds | peak MiB | CDNV |", "|---|---|---|---|"]
    settings = {"per_class": 20, "episodes": 500, "device": device}
    ncbook.report(None, stream(20_000, n_classes, dim, device), **settings)  # imports, and what is allocated once
    for n in sizes:
        start = time.perf_counter()
        with Peak(device) as peak:
            found = ncbook.report(None, stream(n, n_classes, dim, device), **settings)
        cdnv = found.value("cdnv")
        del found
        lines.append(f"| {n:,} | {time.perf_counter() - start:.0f} | {peak.mebibytes:.0f} | {cdnv:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repx", type=Path, help="folder of a clone of DLFundamentals/RepX")
    parser.add_argument("--neural-collapse", type=Path, help="folder of a clone of rhubarbwu/neural-collapse")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=512)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{hardware('cpu')}\n")
    peers = {}
    if chosen.repx:
        sys.path.insert(0, str(chosen.repx / "src"))
        print(f"## Against RepX: float32, {DIM} features, one thread\n")
        print("\n".join(against_repx(chosen.repeats)), flush=True)
        peers["RepX"] = of_repx
    if chosen.neural_collapse:
        sys.path.insert(0, str(chosen.neural_collapse))
        peers["neural-collapse"] = of_neural_collapse
    print(f"\n## The same features in every library: float32, {DIM} features, {EPISODES:,} episodes, one thread\n")
    print("\n".join(against_all(peers | {"easyfsl": of_easyfsl})), flush=True)
    print(f"\n## A whole report in one pass: {chosen.classes:,} classes, {chosen.dim} features, one thread\n")
    print("\n".join(memory(chosen.sizes, chosen.classes, chosen.dim)))


if __name__ == "__main__":
    main()
