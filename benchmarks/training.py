"""Our training loop against a plain DataLoader + PIL + torchvision loop and against the bare model step.

    python benchmarks/training.py --device cpu

prints a Markdown table for each backbone: images a second and ratios within one run, all variants taking turns. The
bare step is forward, backward and optimiser on one batch that is already where the network wants it: the limit of any
loop. "Ours" is what `ncbook.train` does in an epoch: choosing, augmenting and stepping, no measuring. "Plain" is what
one writes first: a data set that returns PIL images, torchvision's RandomAffine and ToTensor for each, a DataLoader of
0 or 2 workers (started before the clock runs), the same network and optimiser.
"""

import argparse
import functools
import itertools
import math
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path

import torch
from measuring import hardware, measure
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import ncbook
from ncbook import datasets, runs, training

CASES = [("conv4", 28, 1), ("wrn_28_4", 32, 3)]  # backbone, image size, channels
BATCH, CLASSES, PER_CLASS = 64, 64, 20


class Plain(Dataset):
    """Images one at a time, as PIL, through torchvision's transforms."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        self.images, self.labels = images.permute(0, 2, 3, 1).squeeze(-1).numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [transforms.RandomAffine(14, translate=(0.075, 0.075), scale=(0.85, 1.15)), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def prepared(backbone: str, size: int, channels: int, precision: str, device: str, batch: int) -> training._Training:
    """A run about to begin its first epoch, on strokes of that shape; nothing is kept."""
    images = datasets.load("strokes", n_classes=CLASSES, per_class=PER_CLASS)
    pixels = torch.nn.functional.interpolate(images.images.float(), size=size).byte().expand(-1, channels, -1, -1)
    experiment = ncbook.Experiment(
        n_source=CLASSES, n_novel=5, backbone=backbone, batch_size=batch, precision=precision, epochs=4
    )
    run = training._Training(experiment, Path(tempfile.gettempdir()) / "unused", torch.device(device))
    run.pixels, run.targets = pixels.contiguous().to(device), images.labels.to(device)
    source = types.SimpleNamespace(images=run.pixels, labels=run.targets)  # the shape that the network is built for
    run.splits = types.SimpleNamespace(source_train=source)
    run.steps_per_epoch = training.steps_per_epoch(len(run.targets), batch)
    run.steps = 4 * run.steps_per_epoch
    run.config, run.saved = {"precision": precision}, math.inf  # no checkpoints
    run._build()
    run.backbone.train()
    return run


def ours(run: training._Training) -> None:
    run._epoch(1, run.pixels, run.targets)


def bare(run: training._Training) -> None:
    batch = run.ready
    for _ in range(run.steps_per_epoch):
        run._step(*batch)


def plain(run: training._Training, batches, device: str) -> None:
    """An epoch of float32 or autocast steps; ``batches`` goes on for ever."""
    for images, labels in itertools.islice(batches, run.steps_per_epoch):
        run._step(images.to(device), labels.to(device))


def forever(loader: DataLoader):
    while True:
        yield from loader


def run(device: str = "cpu", repeats: int = 5, batch: int = BATCH, workers: Sequence[int] = (0, 2)) -> str:
    """The Markdown table of each backbone; without ``workers`` no plain loop."""
    parts = []
    for backbone, size, channels in CASES:
        variants = {}
        for precision in ("bfloat16", "float32"):
            state = prepared(backbone, size, channels, precision, device, batch)
            size_of = len(state.targets) // state.steps_per_epoch  # all batches of an epoch are of one size
            state.ready = (runs.as_input(state.pixels[:size_of]), state.targets[:size_of])
            variants["bare step", precision] = functools.partial(bare, state)
            variants["**ours**", precision] = functools.partial(ours, state)
            for count in workers:
                data = Plain(state.pixels.cpu(), state.targets.cpu())
                loader = DataLoader(
                    data, size_of, shuffle=True, num_workers=count, persistent_workers=count > 0, drop_last=True
                )
                batches = forever(loader)
                next(batches)
                variants[f"plain loop, {count} workers", precision] = functools.partial(plain, state, batches, device)
        images = size_of * state.steps_per_epoch
        measured = measure(variants, device, repeats)
        rates = {name: images / min(seconds) for name, (seconds, _, _) in measured.items()}
        slow = max(
            (r for (name, p), r in rates.items() if name.startswith("plain") and p == "float32"), default=math.nan
        )
        flops = 3 * forward_flops(state)
        lines = [
            f"### {backbone}, {channels} x {size} x {size}, batches of {batch}",
            "",
            "| loop | precision | images/s | ÷ bare step | ÷ best plain, float32 | GFLOP/s of the network |",
            "|---|---|---|---|---|---|",
        ]
        for (name, precision), rate in rates.items():
            limit = rates["bare step", precision]
            lines.append(
                f"| {name} | {precision} | {rate:,.0f} | {rate / limit:.2f} | {rate / slow:.2f} "
                f"| {rate * flops / 1e9:,.0f} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def forward_flops(state: training._Training) -> float:
    """Floating-point operations of one image's forward pass (two for a multiplication with its addition)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        state.backbone(state.ready[0][:2])
    return counter.get_total_flops() / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(hardware(arguments.device) + "\n", flush=True)
    print(run(arguments.device, arguments.repeats), flush=True)


if __name__ == "__main__":
    main()
