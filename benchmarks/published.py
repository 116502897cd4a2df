"""Do the objectives reach what their papers report on Omniglot? Needs Omniglot in NCBOOK_DATA.

    python benchmarks/published.py --seeds 0 1 2

trains each on the 4,112 classes of Vinyals' split (rotations are classes), a few minutes on one thread per network, and
prints a row per network, then a Markdown table: 5-way accuracy of the objective's own classifier on the 1,692 test
classes, mean over seeds with the 95 % interval by Student's t, beside the published number. Networks are kept in
NCBOOK_RUNS: a second call finds them.
"""

import argparse

import pandas as pd
import torch
from measuring import hardware

import ncbook
from ncbook import claims, episodewise

ADAPTIVE = {"train_way": 5, "tasks_per_step": 4}
ONE_SHOT = {"train_shot": 1, "train_query": 9}  # as many images; one network serves both numbers of shots
OBJECTIVES = {  # objective -> steps of the optimizer, and its parameters; five shots and five queries unless said
    "prototypical": (3000, ONE_SHOT),
    "ridge": (3000, ONE_SHOT),
    "matching": (3000, ONE_SHOT),
    "relation": (7000, ONE_SHOT),
    "maml": (16_000, {**ADAPTIVE, **ONE_SHOT, "tasks_per_step": 1, "inner_steps": 1, "inner_rate": 0.5}),
    "anil": (700, {**ADAPTIVE, "inner_steps": 20, "inner_rate": 0.01}),  # a run of 2,500 ended far worse
}
PUBLISHED = {  # percent, 5-way, 1 and 5 shots; oscarknagg/few-shot's list, Sung et al. 2018, Bertinetto et al. 2019
    "prototypical": (98.8, 99.7),
    "matching": (98.1, 98.9),
    "relation": (99.6, 99.8),
    "ridge": (98.91, 99.74),
    "maml": (98.7, 99.9),
}
FIRST = ncbook.Experiment(
    dataset="omniglot", protocol="vinyals", n_source=4112, n_novel=1692, n_validation=0, backbone="conv4_small",
    objective="prototypical", learning_rate=0.003, measurements=1, precision="float32",
)  # fmt: skip


def measured(name: str, seed: int, episodes: int) -> tuple:
    """Objective, seed, minutes of training, and accuracies in percent with 1 and 5 shots, of one network."""
    steps, parameters = OBJECTIVES[name]
    experiment = FIRST.replace(objective=name, seed=seed, **parameters)
    experiment = experiment.replace(epochs=1, episodes_per_epoch=steps * (experiment.tasks_per_step or 1))
    run = ncbook.train(experiment, threads=1)
    log = pd.read_csv(run.directory / "log.csv")
    minutes = (log["seconds"] - log["measuring"]).sum() / 60
    return (
        name,
        seed,
        minutes,
        *(100 * episodewise.own_accuracy(run, shot=shot, episodes=episodes).accuracy for shot in (1, 5)),
    )


def as_markdown(rows: pd.DataFrame) -> str:
    """A row per objective: ours, what is published, and the difference."""
    lines = [
        "| objective | networks | minutes each "
        "| 1-shot, % | published | difference | 5-shot, % | published | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in rows.groupby("objective", sort=False):
        cells = []
        for shot, published in zip((1, 5), PUBLISHED.get(name, (None, None)), strict=True):
            mean, _, high = claims.mean_interval(found[f"{shot}-shot"])
            cells += [f"{mean:.2f} ± {high - mean:.2f}"]
            cells += ["–", "–"] if published is None else [f"{published}", f"{mean - published:+.2f}"]
        lines.append(f"| {name} | {len(found)} | {found['minutes'].mean():.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="*", default=list(OBJECTIVES), choices=OBJECTIVES)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=600)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in chosen.seeds:
        for name in chosen.objectives:
            rows.append(measured(name, seed, chosen.episodes))
            print("{}, seed {}: {:.1f} minutes, 1-shot {:.2f} %, 5-shot {:.2f} %".format(*rows[-1]), flush=True)
    table = pd.DataFrame(rows, columns=["objective", "seed", "minutes", "1-shot", "5-shot"])
    print(f"\n{hardware('cpu')}; {FIRST.backbone}, {chosen.episodes} tasks of 15 queries per class\n")
    print(as_markdown(table))


if __name__ == "__main__":
    main()
