"""Few-shot evaluation against scikit-learn's loops and easyfsl: episodes per second, ratio, memory, accuracy.

    python benchmarks/fewshot.py --threads 1 2 --device cpu

prints Markdown tables for features of 20 classes x 600 samples x 640 dimensions (Gaussian with a power-law
spectrum, rows of norm 1), 5-way, 15 queries per class, 1 and 5 shots. All variants, each at every number of threads,
take turns within one run; the fastest of its turns counts. All include the sampling of their episodes but
scikit-learn's, which get theirs beforehand.
"Asymptotic" is the rate of further episodes once everything is set up, from two numbers of episodes; "10,000 in all"
includes every set-up (for the peers, whose set-up is negligible, 10,000 over their rate). Every peer counts with the
number of threads that is best for it. easyfsl 1.5.0's sampler calls a torch API that newer versions lack; here it
gets a shim of three lines. Call `run(device)` from elsewhere for another device.
"""

import argparse
import contextlib
import functools
import warnings
from collections.abc import Sequence

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
    x = means + 2.0 * torch.randn(classes, per_class, dim, generator=generator) * spectrum
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
    ("ridge", "gram", 10_000, 160_000),
    ("ncc", "gather", 2_000, 10_000),
    ("ncc", "gram", 10_000, 160_000),
    ("logistic", "gather", 200, 2_000),
]
PEERS = ["scikit-learn Ridge loop", "scikit-learn LogisticRegression loop", "easyfsl ProtoNet"]


@contextlib.contextmanager
def threads_limited(threads: int):
    """torch's own threads, and those of the BLAS libraries that scikit-learn calls."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpoolctl.threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def run(
    device: str = "cpu", threads: Sequence[int] = (1, 2), repeats: int = 3, peer_episodes: int = 200, scale: int = 1
) -> str:
    """The Markdown table of each number of shots; ``scale`` multiplies our numbers of episodes (a GPU: 20)."""
    x, y = make_data(device)
    on_cpu = x.cpu(), y.cpu()
    parts = []
    for shot in (1, 5):
        sampled = fewshot.sample_episodes(on_cpu[1], shot=shot, query=QUERY, episodes=peer_episodes)
        array = on_cpu[0].numpy()
        peers = {
            PEERS[0]: lambda array=array, e=sampled: sklearn_loop(Ridge(alpha=1.0), array, e, True),
            PEERS[1]: lambda array=array, e=sampled: sklearn_loop(LogisticRegression(max_iter=1000), array, e, False),
            PEERS[2]: lambda shot=shot: easyfsl_rate(*on_cpu, shot, peer_episodes),
        }
        variants = {}
        for t in threads:
            for head, route, *counts in OURS:
                for n in counts:
                    call = functools.partial(ours, x, y, shot, head, route, n * scale)
                    variants[head, route, n, t] = limited(call, t)
            for name, call in peers.items():
                variants[name, t] = limited(call, t)
        measured = measure(variants, device, repeats)
        parts.append(table(measured, shot, threads, scale, x, y, peer_episodes))
    return "\n\n".join(parts)


def limited(call, threads: int):
    """The call with so many threads."""

    def run_limited():
        with threads_limited(threads):
            return call()

    return run_limited


def table(measured: dict, shot: int, threads: Sequence[int], scale: int, x: Tensor, y: Tensor, peer_episodes) -> str:
    seconds = {name: min(found[0]) for name, found in measured.items()}
    peers = {name: {t: peer_episodes / seconds[name, t] for t in threads} for name in PEERS}
    best = {name: max(rates.values()) for name, rates in peers.items()}
    lines = [
        f"### {shot}-shot",
        "",
        "| way | threads | episodes/s, asymptotic | 10,000 in all, s | ÷ scikit-learn logistic | ÷ easyfsl "
        "| ÷ best peer, in all | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for head, route, few, many in OURS:
        for t in threads:
            short, long = seconds[head, route, few, t], seconds[head, route, many, t]
            rate = (many - few) * scale / (long - short)
            in_all = short + (10_000 - few * scale) / rate  # a straight line through both runs
            peak = measured[head, route, many, t][1]
            lines.append(
                f"| **ours**, {head}, {route} | {t} | {rate:,.0f} | {in_all:.2f} | {rate / best[PEERS[1]]:.0f} "
                f"| {rate / best[PEERS[2]]:.0f} | {10_000 / max(best.values()) / in_all:.1f} | {peak:.0f} |"
            )
    for name, rates in peers.items():
        for t, rate in rates.items():
            lines.append(
                f"| {name} | {t} | {rate:,.0f} | {10_000 / rate:.1f} | {rate / best[PEERS[1]]:.1f} "
                f"| {rate / best[PEERS[2]]:.1f} | | |"
            )
    theirs = measured[PEERS[0], threads[0]][2]
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
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(hardware(arguments.device) + "\n", flush=True)
    scale = 1 if arguments.device == "cpu" else 20
    print(run(arguments.device, arguments.threads, arguments.repeats, scale=scale), flush=True)


if __name__ == "__main__":
    main()
