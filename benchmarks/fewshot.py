"""Few-shot evaluation against scikit-learn's loops and easyfsl: episodes a second, ratio, memory, accuracy.

    python benchmarks/fewshot.py --threads 2 --device cpu

prints Markdown tables for features of 20 classes x 600 samples x 640 dimensions (Gaussian with a power-law
spectrum, rows of norm 1), 5-way, 15 queries a class, 1 and 5 shots. All variants include the sampling of their
episodes but scikit-learn's, which are given theirs. "Asymptotic" is the rate of further episodes once
everything is set up, from two numbers of episodes; "10,000 in all" includes every set-up (for the peers, whose
set-up is negligible, 10,000 over their rate). scikit-learn runs with one thread and with all, and the better one
counts. easyfsl 1.5.0's sampler calls a torch API that newer versions lack; here it gets a shim of three lines.
Call `run(device)` from elsewhere for another device.
"""

import argparse
import contextlib
import statistics
import warnings

import numpy as np
import threadpoolctl
import torch
from easyfsl.datasets import FeaturesDataset
from easyfsl.methods import PrototypicalNetworks
from easyfsl.samplers import TaskSampler
from easyfsl.utils import evaluate as easyfsl_evaluate
from measuring import hardware, measure
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ncbook import fewshot

WAY, QUERY = 5, 15


def make_data(device: str, classes: int = 20, per_class: int = 600, dim: int = 640) -> tuple[Tensor, Tensor]:
    """Features [N, D] of norm 1 and labels [N]."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, dim + 1) ** -0.5
    means = torch.randn(classes, 1, dim, generator=generator) * spectrum
    x = means + 1.3 * torch.randn(classes, per_class, dim, generator=generator) * spectrum
    y = torch.arange(classes).repeat_interleave(per_class)
    return torch.nn.functional.normalize(x.flatten(0, 1)).to(device), y.to(device)


def sklearn_loop(model, x: np.ndarray, episodes: fewshot.Episodes, one_hot: bool) -> np.ndarray:
    """Accuracy of each episode."""
    accuracy = np.empty(len(episodes.support))
    query_labels = np.repeat(np.arange(WAY), QUERY)
    for e, (support, query) in enumerate(zip(episodes.support.numpy(), episodes.query.numpy(), strict=True)):
        labels = np.repeat(np.arange(WAY), support.shape[1])
        model.fit(x[support.ravel()], np.eye(WAY)[labels] if one_hot else labels)
        guess = model.predict(x[query.ravel()])
        accuracy[e] = np.mean((guess.argmax(1) if one_hot else guess) == query_labels)
    return accuracy


@contextlib.contextmanager
def sampler_takes_data_source():
    """What easyfsl's TaskSampler calls: torch's Sampler took a data_source once."""
    before = Sampler.__init__
    Sampler.__init__ = lambda self, data_source=None: None
    try:
        yield
    finally:
        Sampler.__init__ = before


def easyfsl_rate(x: Tensor, y: Tensor, shot: int, episodes: int) -> float:
    """easyfsl's own evaluation of prototypical networks on features; its accuracy."""
    dataset = FeaturesDataset(y.tolist(), x, [str(c) for c in range(int(y.max()) + 1)])
    with sampler_takes_data_source():
        sampler = TaskSampler(dataset, n_way=WAY, n_shot=shot, n_query=QUERY, n_tasks=episodes)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    return easyfsl_evaluate(PrototypicalNetworks(torch.nn.Identity()), loader, device="cpu", use_tqdm=False)


def ours(x: Tensor, y: Tensor, shot: int, head: str, route: str, episodes: int) -> fewshot.FewShotResult:
    return fewshot.evaluate(
        x, y, way=WAY, shot=shot, query=QUERY, episodes=episodes, head=head, route=route, confusion=False
    )


# head, route, episodes of the shorter and the longer run, on a CPU
OURS = [
    ("ridge", "gather", 2_000, 10_000),
    ("ridge", "gram", 10_000, 50_000),
    ("ncc", "gather", 2_000, 10_000),
    ("ncc", "gram", 10_000, 50_000),
    ("logistic", "gather", 100, 1_000),
]


def run(device: str = "cpu", repeats: int = 3, peer_episodes: int = 200, scale: int = 1) -> str:
    """The Markdown table of each number of shots; ``scale`` multiplies our numbers of episodes (a GPU: 20)."""
    x, y = make_data(device)
    parts = []
    for shot in (1, 5):
        sampled = fewshot.sample_episodes(y.cpu(), shot=shot, query=QUERY, episodes=peer_episodes)
        array = x.cpu().numpy()
        variants = {}
        for head, route, few, many in OURS:
            for count in (few * scale, many * scale):
                variants[head, route, count] = lambda h=head, r=route, n=count, s=shot: ours(x, y, s, h, r, n)
        models = {"Ridge": (Ridge(alpha=1.0), True), "LogisticRegression": (LogisticRegression(max_iter=1000), False)}
        for name, (model, one_hot) in models.items():
            for threads in sorted({1, torch.get_num_threads()}):

                def loop(m=model, o=one_hot, t=threads, episodes=sampled, array=array):
                    with threadpoolctl.threadpool_limits(t):
                        return sklearn_loop(m, array, episodes, o)

                variants[f"scikit-learn {name} loop", f"{threads} thread(s)", peer_episodes] = loop
        variants["easyfsl ProtoNet", "its evaluate", peer_episodes] = lambda s=shot: easyfsl_rate(
            x.cpu(), y.cpu(), s, peer_episodes
        )
        measured = measure(variants, device, repeats)
        parts.append(table(measured, shot, scale, x, y, sampled, peer_episodes))
    return "\n\n".join(parts)


def table(measured: dict, shot: int, scale: int, x: Tensor, y: Tensor, sampled, peer_episodes: int) -> str:
    seconds = {name: statistics.median(found[0]) for name, found in measured.items()}
    peers: dict[str, float] = {}
    for name, setting, count in measured:
        if count == peer_episodes and setting not in ("gather", "gram"):
            peers[name] = max(peers.get(name, 0), count / seconds[name, setting, count])
    best = max(peers.values())
    logistic, easy = peers["scikit-learn LogisticRegression loop"], peers["easyfsl ProtoNet"]
    lines = [
        f"### {shot}-shot",
        "",
        "| way | episodes/s, asymptotic | 10,000 in all, s | ÷ scikit-learn logistic | ÷ easyfsl "
        "| ÷ best peer, in all | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for head, route, few, many in OURS:
        short, long = seconds[head, route, few * scale], seconds[head, route, many * scale]
        rate = (many - few) * scale / (long - short)
        in_all = short + (10_000 - few * scale) / rate  # a straight line through both runs
        peak = measured[head, route, many * scale][1]
        lines.append(
            f"| **ours**, {head}, {route} | {rate:,.0f} | {in_all:.2f} | {rate / logistic:.0f} | {rate / easy:.0f} "
            f"| {10_000 / best / in_all:.1f} | {peak:.0f} |"
        )
    for name, rate in peers.items():
        lines.append(f"| {name} | {rate:,.0f} | {10_000 / rate:.1f} | {rate / logistic:.1f} | {rate / easy:.1f} | | |")
    theirs = next(v[2] for k, v in measured.items() if k[0] == "scikit-learn Ridge loop")
    same = fewshot.evaluate(x, y, way=WAY, shot=shot, query=QUERY, episodes=peer_episodes, head="ridge")
    differing = int((np.abs(same.per_episode.cpu().numpy() - theirs) > 1e-9).sum())
    lines += [
        "",
        f"Ridge on the same {peer_episodes} episodes: scikit-learn {100 * theirs.mean():.3f} %, ours "
        f"{100 * same.accuracy:.3f} %; {differing} episode(s) differ.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    print(hardware(arguments.device) + "\n", flush=True)
    print(run(arguments.device, arguments.repeats, scale=1 if arguments.device == "cpu" else 20), flush=True)


if __name__ == "__main__":
    main()
