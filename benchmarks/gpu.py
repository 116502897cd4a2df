"""Every GPU measurement of the project in one call: tables on standard output, also into a folder.

    python benchmarks/gpu.py --out benchmarks/results

Needs one CUDA device. Each measurement is a function of another benchmark, called with the device; a failing one
prints its error and the rest go on. The notebooks at the sources' size are run by `figures/make.py --full`.
"""

import argparse
import tempfile
import time
import traceback
from pathlib import Path

import collapse
import fewshot
import objectives
import omniglot
import pandas as pd
import report
import torch
import training
import yaml
from measuring import hardware

import ncbook
from ncbook import catalog, datasets


def collapse_table(device: str) -> str:
    """The comparison of the CPU, and N = 10^6, D = 2048, C = 1000 (8 GB of features) in bounded memory."""
    small = collapse.run(device, numpy=False)
    torch.cuda.empty_cache()
    data = collapse.make_data(10**6, 2048, 1000, 8192, device)
    measured = collapse.measure(
        {
            "bare GEMM XᵀX": lambda: collapse.gemm(data),
            "**ours**": lambda: collapse.ours(data),
            "**ours + NC4**": lambda: collapse.ours_with_nc4(data),
        },
        device,
        repeats=3,
    )
    unit = min(measured["bare GEMM XᵀX"][0])
    lines = ["| N = 10⁶, D = 2048, C = 1000 | seconds, best of 3 | ratio to XᵀX | peak MiB |", "|---|---|---|---|"]
    lines += [f"| {k} | {min(s):.3f} | {min(s) / unit:.2f} | {peak:.0f} |" for k, (s, peak, _) in measured.items()]
    return small + "\n\n" + "\n".join(lines)


def fewshot_table(device: str) -> str:
    """Episodes per second."""
    return fewshot.run(device, threads=(2,), scale=20)


def training_table(device: str) -> str:
    """The comparison of the CPU; batches of 512 against the card's matrix rate; a default run, measured."""
    rate = matrix_rate(device)
    parts = [
        training.run(device),
        f"bfloat16 matrix product, 8192 x 8192: {rate / 1e12:,.0f} TFLOP/s",
        "Batches of 512:",
    ]
    parts.append(training.run(device, batch=512, workers=()))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = ncbook.train(ncbook.Experiment(n_source=64), runs_dir=folder, device=device)
        seconds = time.perf_counter() - began
    images = run.config["epochs"] * run.config["source_samples"]
    parts.append(
        f"conv4, strokes, {images:,} images in {seconds:.1f} s, measuring included ({run.config['precision']})"
    )
    return "\n\n".join(parts)


def objectives_table(device: str) -> str:
    """A step on an episode against the bare step; MAML and its peers."""
    return objectives.run(device)


def report_table(device: str) -> str:
    """A whole report in one pass over up to a million features: seconds, and memory that does not grow."""
    return "\n".join(report.memory([50_000, 200_000, 1_000_000], 1000, 512, device))


def omniglot_table(device: str) -> str:
    """Seconds of training to 99 % on new characters; needs the images of Omniglot."""
    return omniglot.run(device)


def matrix_rate(device: str, size: int = 8192) -> float:
    """Floating-point operations per second of a large bfloat16 product, of which model-FLOP utilization is a part."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


SHAPES = {  # settings -> classes, samples of a class, channels, pixels; numbers of the published lists
    "cifar_fs": (100, 600, 3, 32),
    "fc100": (100, 600, 3, 32),
    "mini_imagenet": (100, 600, 3, 84),
    "emnist": (47, 2800, 1, 28),
}


def random_images(name: str, per_class: int | None = None) -> datasets.ImageClasses:
    """Random pixels in the shape of a data set, with lists of the published lengths."""
    classes, samples, channels, size = SHAPES[name]
    samples = per_class or samples
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (classes * samples, channels, size, size), dtype=torch.uint8, generator=generator)
    sizes, lists = catalog.DATASETS[name].official, None
    if sizes:
        source, novel = sizes
        lists = {
            "source": list(range(source)),
            "novel": list(range(source, source + novel)),
            "validation": list(range(source + novel, classes)),
        }
    labels = torch.arange(classes).repeat_interleave(samples)
    held_out = torch.arange(len(labels)) % 6 == 0
    return datasets.ImageClasses(name, pixels, labels, [str(c) for c in range(classes)], held_out, lists)


def settings_table(device: str, per_class: int | None = None, epochs: int = 3) -> str:
    """Each file of settings for a few epochs on random images of its shape, and Omniglot itself where it is at hand."""
    folder = Path(__file__).resolve().parents[1] / "notebooks" / "params"
    rows = []
    for name in SHAPES:
        settings = yaml.safe_load((folder / f"{name}.yaml").read_text()) | {"epochs": epochs, "measurements": 2}
        images = random_images(name, per_class)
        rows.append((f"{name}.yaml, random pixels", *_trained(ncbook.Experiment(**settings), device, images)))
    try:
        for backbone in ("conv4", "resnet18"):
            experiment = ncbook.Experiment(dataset="omniglot", backbone=backbone, n_novel=200, measurements=2)
            rows.append((f"Omniglot, 64 classes, {backbone}", *_trained(experiment, device)))
    except FileNotFoundError as error:
        print(f"Omniglot is left out: {error}", flush=True)
    lines = ["| settings | images/s in training | s to measure once | final loss |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {n} | {rate:,.0f} | {m:.1f} | {loss:.3f} |" for n, rate, m, loss in rows)])


def _trained(
    experiment: ncbook.Experiment, device: str, images: datasets.ImageClasses | None = None
) -> tuple[float, float, float]:
    """Images per second, seconds of one measurement, final training loss."""
    with tempfile.TemporaryDirectory() as folder:
        run = ncbook.train(experiment, images=images, runs_dir=folder, device=device)
        log = pd.read_csv(run.directory / "log.csv")
        history = run.history
    trained_on = run.config["epochs"] * run.config["source_samples"]
    loss = history.query("split == 'source_train' and metric == 'loss'")["value"].iloc[-1]
    return trained_on / (log["seconds"].sum() - log["measuring"].sum()), log["measuring"].iloc[-1], loss


MEASUREMENTS = {
    "collapse": collapse_table,
    "fewshot": fewshot_table,
    "training": training_table,
    "objectives": objectives_table,
    "report": report_table,
    "omniglot": omniglot_table,
    "settings": settings_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: benchmarks/collapse.py and benchmarks/fewshot.py run on a CPU")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        print(f"## {name}\n", flush=True)
        try:
            text = MEASUREMENTS[name](arguments.device)
        except Exception:  # one failing measurement must not cost the others the device's time
            traceback.print_exc()
            continue
        print(text + "\n", flush=True)
        (arguments.out / f"{name}_gpu.md").write_text(f"{hardware(arguments.device)}\n\n{text}\n")


if __name__ == "__main__":
    main()
