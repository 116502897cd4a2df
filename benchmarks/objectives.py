"""What training on episodes costs: each objective against the bare model step, and MAML against its peers.

    python benchmarks/objectives.py --device cpu

prints two kinds of Markdown tables, ratios within one run, all variants taking turns.

A step on an episode (20 classes, 5 shots and 5 queries of each, 1 x 28 x 28, conv4, Adam, float32) is what
`ncbook.train` does: choosing, augmenting, forward, the objective, backward, optimizer. The bare step is forward,
backward and optimizer on the same images, already where the network wants them, with a sum in the place of the
objective: the limit of anything that trains on such episodes. MAML takes several passes and is in the other table.

A step of MAML: 4 tasks of 5 classes, 5 shots and 5 queries of each, the gradient of all parameters by the queries'
loss through 1 or 5 steps on the shots. "Ours" is the objective's; its pass for the running statistics, which the others
do not follow, and its augmentation are left out. "Autograd" is a plain loop with torch.autograd.grad; higher and
torchopt are packages for just that, left out where they are not installed. Gradients of all of them are compared first,
in double precision: in single, an image at the kink of a ReLU may fall on either side.
"""

import argparse
import functools
import importlib.util
from collections.abc import Callable

import torch
from measuring import hardware, measure
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import ncbook
from ncbook import catalog, datasets
from ncbook.features import as_input
from ncbook.objectives.maml import batch_statistics
from ncbook.training import Trainer

EPISODIC = [name for name, (_, own) in catalog.OBJECTIVES.items() if "train_way" in own and name != "maml"]
CLASSES, PER_CLASS = 64, 20
WAY, SHOT, QUERY = 20, 5, 5  # of the first table
TASKS, MAML_WAY, RATE = 4, 5, 0.05  # of the second; its shots and queries are the same
BACKBONES, STEPS = ("conv4", "conv4_small"), (1, 5)


def trainer_of(objective: str, device: str, **parameters) -> Trainer:
    """A trainer on strokes that goes on for ever."""
    strokes = datasets.load("strokes", n_classes=CLASSES, per_class=PER_CLASS)
    experiment = ncbook.Experiment(
        objective=objective, n_source=CLASSES, n_novel=0, epochs=100_000, episodes_per_epoch=10_000,
        schedule="constant", precision="float32", train_shot=SHOT, train_query=QUERY, **parameters,
    )  # fmt: skip
    return Trainer(experiment, strokes.images, strokes.labels, device=device)


def bare(trainer: Trainer, images: torch.Tensor) -> None:
    """Forward, backward and optimizer by the parts of a trainer."""
    loss = trainer.backbone(images).sum()
    trainer.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trainer.optimizer.step()


def steps_table(device: str = "cpu", repeats: int = 30) -> str:
    """One step of every objective on episodes against the bare step."""
    trainers = {
        name: trainer_of(name, device, train_way=WAY, **({"tasks_per_step": 1} if name == "anil" else {}))
        for name in EPISODIC
    }
    plain = trainer_of("prototypical", device, train_way=WAY)
    images = as_input(plain.images.images[: WAY * (SHOT + QUERY)])
    variants = {"bare step": functools.partial(bare, plain, images)}
    measured = measure(variants | {name: trainer.advance for name, trainer in trainers.items()}, device, repeats)
    seconds = {name: sorted(found) for name, (found, _, _) in measured.items()}
    lines = [
        f"### A step on an episode: {WAY} classes, {SHOT} shots, {QUERY} queries, conv4, 1 x 28 x 28, float32",
        "",
        "| step | ms, median | ms, least | ÷ bare step, median of the turns | ÷ bare step, least |",
        "|---|---|---|---|---|",
    ]
    for name, found in seconds.items():
        turns = sorted(a / b for a, b in zip(measured[name][0], measured["bare step"][0], strict=True))
        label = name if name == "bare step" else f"**{name}**"
        lines.append(
            f"| {label} | {1e3 * found[len(found) // 2]:.1f} | {1e3 * found[0]:.1f} "
            f"| {turns[len(turns) // 2]:.2f} | {found[0] / seconds['bare step'][0]:.2f} |"
        )
    return "\n".join(lines)


class Adapting:
    """A network with a head, and the episodes that every variant of MAML takes its gradient of."""

    def __init__(self, backbone: str, steps: int, second_order: bool, device: str, dtype=torch.float32):
        trainer = trainer_of(
            "maml", device, backbone=backbone, train_way=MAML_WAY, tasks_per_step=TASKS, inner_steps=steps,
            inner_rate=RATE, second_order=second_order,
        )  # fmt: skip
        self.objective, self.backbone = trainer.objective, trainer.backbone
        self.network = nn.Sequential(self.backbone, self.objective.head).to(dtype)
        self.parameters = list(self.network.parameters())
        self.steps, self.second_order = steps, second_order
        trainer._begin_epoch()
        batch = trainer._remaining[0]
        rows = torch.cat([batch.support, batch.query], 2)  # [T, way, shot + query]
        self.pixels = trainer.images(rows.flatten()).unflatten(0, rows.shape).to(dtype)
        self.shots = [episode[:, :SHOT].flatten(0, 1) for episode in self.pixels]
        self.queries = [episode[:, SHOT:].flatten(0, 1) for episode in self.pixels]
        classes = torch.arange(MAML_WAY, device=device)
        self.shot_labels, self.query_labels = classes.repeat_interleave(SHOT), classes.repeat_interleave(QUERY)

    def variants(self, missing: list[str]) -> dict[str, Callable]:
        peers = {name: getattr(self, name) for name in ("higher", "torchopt") if name not in missing}
        return {"autograd": self.autograd, "**ours**": self.ours, **peers}

    def ours(self) -> list[torch.Tensor]:
        scores = self.objective.episode_scores(self.backbone, self.pixels, SHOT)
        return torch.autograd.grad(self.objective.criterion(scores, QUERY), self.parameters)

    def autograd(self) -> list[torch.Tensor]:
        losses = []
        with batch_statistics(self.network):
            for shots, queries in zip(self.shots, self.queries, strict=True):
                weights = dict(self.network.named_parameters())
                for _ in range(self.steps):
                    error = F.cross_entropy(functional_call(self.network, weights, shots), self.shot_labels)
                    slopes = torch.autograd.grad(error, list(weights.values()), create_graph=self.second_order)
                    weights = {
                        name: value - RATE * slope for (name, value), slope in zip(weights.items(), slopes, strict=True)
                    }
                losses.append(F.cross_entropy(functional_call(self.network, weights, queries), self.query_labels))
            return torch.autograd.grad(torch.stack(losses).mean(), self.parameters)

    def higher(self) -> list[torch.Tensor]:
        import higher

        losses = []
        inner = torch.optim.SGD(self.parameters, lr=RATE)
        with batch_statistics(self.network):
            for shots, queries in zip(self.shots, self.queries, strict=True):
                with higher.innerloop_ctx(self.network, inner, copy_initial_weights=False) as (adapted, optimizer):
                    for _ in range(self.steps):
                        optimizer.step(F.cross_entropy(adapted(shots), self.shot_labels))
                    losses.append(F.cross_entropy(adapted(queries), self.query_labels))
            return torch.autograd.grad(torch.stack(losses).mean(), self.parameters)

    def torchopt(self) -> list[torch.Tensor]:
        import torchopt

        losses = []
        with batch_statistics(self.network):
            inner = torchopt.MetaSGD(self.network, lr=RATE)
            network, optimizer = (torchopt.extract_state_dict(part, by="reference") for part in (self.network, inner))
            for shots, queries in zip(self.shots, self.queries, strict=True):
                for _ in range(self.steps):
                    inner.step(F.cross_entropy(self.network(shots), self.shot_labels))
                losses.append(F.cross_entropy(self.network(queries), self.query_labels))
                torchopt.recover_state_dict(self.network, network)
                torchopt.recover_state_dict(inner, optimizer)
            return torch.autograd.grad(torch.stack(losses).mean(), self.parameters)


def disagreement(variants: dict[str, Callable]) -> dict[str, float]:
    """Each variant's gradient less the first one's, over the length of that; refused where it is another one."""
    slopes = {name: torch.cat([slope.flatten() for slope in call()]) for name, call in variants.items()}
    first = next(iter(slopes.values()))
    apart = {name: float((slope - first).norm() / first.norm()) for name, slope in slopes.items()}
    if max(apart.values()) > 1e-4:
        raise AssertionError(f"other gradients: {apart}")
    return apart


def maml_table(device: str = "cpu", repeats: int = 7, backbones=BACKBONES, second_order: bool = True) -> str:
    """One gradient of MAML, ours and the peers'."""
    missing = [name for name in ("higher", "torchopt") if importlib.util.find_spec(name) is None]
    if not second_order:
        missing += ["higher", "torchopt"]  # which give the slopes at other parameters
    lines = [
        f"### A step of MAML, {'second' if second_order else 'first'} order: {TASKS} tasks of {MAML_WAY} classes, "
        f"{SHOT} shots, {QUERY} queries, 1 x 28 x 28, float32",
        "",
        *([f"Left out, not installed: {', '.join(missing)}.", ""] if missing and second_order else []),
        "| network | steps on the shots | variant | ms, median | ms, least | ÷ autograd, median of the turns "
        "| peak MiB | gradient's relative error, float64 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for backbone in backbones:
        for steps in STEPS:
            apart = disagreement(Adapting(backbone, steps, second_order, device, torch.float64).variants(missing))
            variants = Adapting(backbone, steps, second_order, device).variants(missing)
            measured = measure(variants, device, repeats)
            for name, (seconds, peak, _) in measured.items():
                turns = sorted(a / b for a, b in zip(seconds, measured["autograd"][0], strict=True))
                lines.append(
                    f"| {backbone} | {steps} | {name} | {1e3 * sorted(seconds)[len(seconds) // 2]:.0f} "
                    f"| {1e3 * min(seconds):.0f} | {turns[len(turns) // 2]:.2f} | {peak:.0f} | {apart[name]:.0e} |"
                )
    return "\n".join(lines)


def run(device: str = "cpu", repeats: int = 30) -> str:
    """All tables."""
    return "\n\n".join(
        [
            steps_table(device, repeats),
            maml_table(device, max(3, repeats // 4)),
            maml_table(device, max(3, repeats // 4), second_order=False),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, help="of the CPU; all by default")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(hardware(arguments.device) + "\n", flush=True)
    print(run(arguments.device, arguments.repeats), flush=True)


if __name__ == "__main__":
    main()
