"""Time and memory against samples, dimension, classes, episodes and runs, to ten times the sizes of the sources.

    python benchmarks/scale.py                 # four minutes on 2 idle cores
    python benchmarks/scale.py --device cuda   # all but the runs, there

The sources' largest setting is mini-ImageNet under a wide residual network: 64 classes of 600 images, 640 features, and
10,000 tasks. One size at a time grows to ten times that while the others stay; with the dimension and the classes there
are 9,600 and 38,400 samples in all. EXPECTED counts operations and numbers held beside the input. The measured order is
the slope of a line through the logarithms of the larger half of the sizes, where set-up counts least. Writes
results/scale_cpu.md and results/scale_cpu.csv, and figures/scale.png in the folder above.
"""

import argparse
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from measuring import hardware, measure

import ncbook
from ncbook import collapse, fewshot

HERE = Path(__file__).parent
CLASSES, SAMPLES, DIM = 64, 38_400, 640  # the sources' largest setting
SIZES = {
    "samples": [3_840, 9_600, 19_200, 38_400, 96_000, 192_000, 384_000],
    "dimension": [64, 160, 320, 640, 1_600, 3_200, 6_400],
    "classes": [16, 32, 64, 160, 320, 640],
    "episodes": [1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000],
    "runs": [10, 25, 50, 100, 200, 400],
}
EXPECTED = {  # (what grows, call) -> orders of time and memory, and where they come from
    ("samples", "CollapseMetrics"): (1, 0, "one product zᵀz per block"),
    ("samples", "cdnv"): (1, 1, "two sums over the samples, in blocks; the class of each sample is kept"),
    ("samples", "nc1"): (1, 1, "samples along C - 1 directions, in blocks; the class of each sample is kept"),
    ("samples", "directional_cdnv"): (1, 1, "samples along C directions, in blocks; the class of each sample is kept"),
    ("dimension", "CollapseMetrics"): (2, 2, "a matrix D x D"),
    ("dimension", "cdnv"): (1, 1, "sums of rows; means C x D"),
    ("dimension", "nc1"): (1, 1, "rows along C - 1 directions"),
    ("dimension", "directional_cdnv"): (1, 1, "rows along C directions"),
    ("classes", "CollapseMetrics"): (1, 1, "the product does not grow, but means C x D and distances C x C do"),
    ("classes", "cdnv"): (1, 1, "the sums do not grow, but distances C x C do"),
    ("classes", "nc1"): (1, 1, "rows along C - 1 directions"),
    ("classes", "directional_cdnv"): (1, 1, "rows along C directions"),
    ("episodes", "ncc, 5 shots"): (1, 1, "a product per episode; its accuracy and classes are kept"),
    ("episodes", "ridge, 5 shots"): (1, 1, "a Cholesky factor per episode; its accuracy and classes are kept"),
    ("runs", "runs.list"): (1, 1, "a small file and a row per run"),
}
SLACK = 0.25  # above the expected order, before it counts as worse
LEAST_MEBIBYTES = 8  # below which allocators and rounding rule


def features_of(samples: int, classes: int, dim: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian classes, float32 [N, D] and labels [N]; the spread within and between classes is alike."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % classes
    features = torch.randn(samples, dim, generator=generator)
    features += torch.randn(classes, dim, generator=generator)[labels]
    return features.to(device), labels.to(device)


def metrics_of(features: torch.Tensor, labels: torch.Tensor) -> dict[str, Callable]:
    def one_pass():
        metrics = collapse.CollapseMetrics(int(labels.max()) + 1, features.shape[1]).to(features.device)
        for x, y in zip(features.split(4096), labels.split(4096), strict=True):
            metrics.update(x, y)
        return metrics.compute()

    functions = {name: getattr(collapse, name) for name in ("cdnv", "nc1", "directional_cdnv")}
    return {"CollapseMetrics": one_pass} | {
        name: lambda f=function: f(features, labels) for name, function in functions.items()
    }


def evaluations(episodes: int, device: str) -> dict[str, Callable]:
    features, labels = features_of(2_000, 100, DIM, device)  # 20 new classes of 100
    return {
        f"{head}, 5 shots": lambda head=head: fewshot.evaluate(features, labels, episodes=episodes, head=head)
        for head in ("ncc", "ridge")
    }


def settings(device: str, sizes: dict[str, list[int]]) -> Iterator[tuple[str, int, dict[str, Callable]]]:
    """(What grows, its size, calls)."""
    for n in sizes["samples"]:
        yield "samples", n, metrics_of(*features_of(n, CLASSES, DIM, device))
    for dim in sizes["dimension"]:
        yield "dimension", dim, metrics_of(*features_of(9_600, CLASSES, dim, device))
    for classes in sizes["classes"]:
        yield "classes", classes, metrics_of(*features_of(SAMPLES, classes, DIM, device))
    for episodes in sizes["episodes"]:
        yield "episodes", episodes, evaluations(episodes, device)
    if device != "cpu":
        return
    with tempfile.TemporaryDirectory() as folder:
        tiny = ncbook.Experiment(backbone="conv4_small", n_source=6, n_novel=8, epochs=1, batch_size=32, measurements=1)
        run, runs_dir = ncbook.train(tiny, runs_dir=folder), Path(folder)
        copies = 1
        for count in sizes["runs"]:
            while copies < count:  # folders are runs by what is in them
                shutil.copytree(run.directory, run.directory.with_name(f"{run.directory.name[:-4]}{copies:04x}"))
                copies += 1
            assert len(ncbook.runs.list(runs_dir)) == count
            yield "runs", count, {"runs.list": lambda: ncbook.runs.list(runs_dir)}


def orders(rows: pd.DataFrame) -> pd.DataFrame:
    """Measured orders beside the expected ones, a row per call."""
    found = []
    for (grows, call), part in rows.groupby(["grows", "call"], sort=False):
        larger, high = part.iloc[-(len(part) // 2 + 1) :], part.iloc[-1]
        size = np.log(larger["size"])
        time = np.polyfit(size, np.log(larger["seconds"]), 1)[0]
        memory = math.nan
        if larger["MiB"].min() >= LEAST_MEBIBYTES:
            memory = np.polyfit(size, np.log(larger["MiB"]), 1)[0]
        time_expected, memory_expected, why = EXPECTED[grows, call]
        worse = time > time_expected + SLACK or memory > memory_expected + SLACK
        found.append((grows, call, int(high["size"]), high["seconds"], time, time_expected,
                      high["MiB"], memory, memory_expected, "worse" if worse else "as expected", why))  # fmt: skip
    columns = ["what grows", "call", "up to", "seconds there", "order of time", "expected",
               "MiB there", "order of memory", "expected ", "verdict", "because of"]  # fmt: skip
    return pd.DataFrame(found, columns=columns)


def draw(rows: pd.DataFrame, path: Path, machine: str) -> None:
    """Seconds and MiB over every size, with the expected order as a dashed line."""
    kinds = list(rows["grows"].unique())
    figure, axes = plt.subplots(2, len(kinds), figsize=(3.2 * len(kinds), 6), layout="constrained", squeeze=False)
    for column, grows in zip(axes.T, kinds, strict=True):
        for call, part in rows[rows["grows"] == grows].groupby("call", sort=False):
            last = part.iloc[-1]
            for ax, name, order in zip(column, ("seconds", "MiB"), EXPECTED[grows, call], strict=False):
                (line,) = ax.plot(part["size"], part[name].clip(lower=0.1 if name == "MiB" else None), "o-", label=call)
                expected = last[name] * (part["size"] / last["size"]) ** order
                ax.plot(part["size"], expected.clip(lower=0.1 if name == "MiB" else None), "--", color=line.get_color())
        for ax in column:
            ax.set(xscale="log", yscale="log")
            ax.grid(alpha=0.3)
            ax.xaxis.set_minor_formatter("")
        column[0].legend(fontsize=7)
        column[1].set_xlabel(grows)
    axes[0, 0].set_ylabel("time (s)")
    axes[1, 0].set_ylabel("memory beside the input (MiB)")
    figure.suptitle(f"Time and memory; dashed: the expected order, through the largest size\n{machine}", fontsize=10)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the three smallest sizes of each, nothing written")
    arguments = parser.parse_args()
    sizes = {name: values[:3] if arguments.quick else values for name, values in SIZES.items()}
    rows = []
    for grows, size, calls in settings(arguments.device, sizes):
        for call, (seconds, mebibytes, _) in measure(calls, arguments.device, arguments.repeats).items():
            rows.append((grows, call, size, min(seconds), max(mebibytes, 0.0)))
            print(*rows[-1], flush=True)
    rows = pd.DataFrame(rows, columns=["grows", "call", "size", "seconds", "MiB"])
    table, machine = orders(rows), hardware(arguments.device)
    print(table.to_markdown(index=False, floatfmt=".2f"))
    if arguments.quick:
        return
    name = f"scale_{arguments.device.partition(':')[0]}"
    rows.to_csv(HERE / "results" / f"{name}.csv", index=False, float_format="%.6g")
    draw(rows, HERE.parent / "figures" / ("scale.png" if arguments.device == "cpu" else f"{name}.png"), machine)
    (HERE / "results" / f"{name}.md").write_text(
        f"# Time and memory against size\n\n`python benchmarks/scale.py`; {machine}.\n\n"
        f"Seconds are the smallest of {arguments.repeats} calls after one that is not counted; memory is the peak\n"
        "beside the input. Both at the largest size, ten times the sources' own. An order is the slope of a line\n"
        "through the logarithms of the larger half of the sizes; of memory there is none where one of these is\n"
        f"below {LEAST_MEBIBYTES} MiB. Worse is what is more than {SLACK} above the expected order.\n\n"
        + table.to_markdown(index=False, floatfmt=".2f")
        + "\n"
    )


if __name__ == "__main__":
    main()
