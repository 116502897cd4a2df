"""Our training loop against a plain DataLoader + PIL + torchvision loop and against the bare model step.

    python benchmarks/training.py --device cpu

prints a Markdown table for each backbone: images per second and ratios within one run, all variants taking turns. The
bare step is forward, backward and optimizer on one batch that is already where the network wants it: the limit of any
loop. "Ours" is what `ncbook.train` does in an epoch: choosing, augmenting and stepping, no measuring. "Plain" is what
one writes first: a data set that returns PIL images, torchvision's RandomAffine and ToTensor for each, a DataLoader of
0 or 2 workers (started before the clock runs), the same network and optimizer.
"""

import argparse
import functools
import itertools
import math
from collections.abc import Sequence

import torch
from measuring import hardware, measure
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import ncbook
from ncbook import datasets
from ncbook.features import as_input
from ncbook.training import Trainer

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


class Prepared:
    """A trainer on strokes of some shape, that goes on for ever, and one batch that is already where the network is."""

    def __init__(self, backbone: str, size: int, channels: int, precision: str, device: str, batch: int):
        strokes = datasets.load("strokes", n_classes=CLASSES, per_class=PER_CLASS)
        pixels = torch.nn.functional.interpolate(strokes.images.float(), size=size).byte().expand(-1, channels, -1, -1)
        experiment = ncbook.Experiment(
            n_source=CLASSES, backbone=backbone, batch_size=batch, epochs=100_000, schedule="constant"
        )
        self.pixels, self.labels = pixels.contiguous(), strokes.labels
        self.trainer = Trainer(experiment, self.pixels, self.labels, device=device, precision=precision)
        self.steps = self.trainer.steps_per_epoch
        self.batch = len(self.labels) // self.steps  # all batches of an epoch are of one size
        self.step_on(as_input(self.pixels[: self.batch].to(device)), self.labels[: self.batch].to(device))

    def step_on(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Forward, backward and optimizer on network input, by the parts of the trainer."""
        self.ready, trainer = (images, labels), self.trainer
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=trainer.precision == "bfloat16"):
            loss = F.cross_entropy(trainer.objective.logits(trainer.backbone(images)).float(), labels)
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trainer.optimizer.step()


def ours(state: Prepared) -> None:
    for _ in range(state.steps):
        state.trainer.advance()
    state.trainer.mean_loss()


def bare(state: Prepared) -> None:
    for _ in range(state.steps):
        state.step_on(*state.ready)


def plain(state: Prepared, batches, device: str) -> None:
    """An epoch of steps on what a DataLoader gives; ``batches`` goes on for ever."""
    for images, labels in itertools.islice(batches, state.steps):
        state.step_on(images.to(device), labels.to(device))


def forever(loader: DataLoader):
    while True:
        yield from loader


def run(device: str = "cpu", repeats: int = 5, batch: int = BATCH, workers: Sequence[int] = (0, 2)) -> str:
    """The Markdown table of each backbone; without ``workers`` no plain loop."""
    parts = []
    for backbone, size, channels in CASES:
        variants = {}
        for precision in ("bfloat16", "float32"):
            state = Prepared(backbone, size, channels, precision, device, batch)
            variants["bare step", precision] = functools.partial(bare, state)
            variants["**ours**", precision] = functools.partial(ours, state)
            for count in workers:
                data = Plain(state.pixels, state.labels)
                loader = DataLoader(
                    data, state.batch, shuffle=True, num_workers=count, persistent_workers=count > 0, drop_last=True
                )
                batches = forever(loader)
                next(batches)
                variants[f"plain loop, {count} workers", precision] = functools.partial(plain, state, batches, device)
        images = state.batch * state.steps
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


def forward_flops(state: Prepared) -> float:
    """Floating-point operations of one image's forward pass (two for a multiplication with its addition)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        state.trainer.backbone(state.ready[0][:2])
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
