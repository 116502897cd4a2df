"""Rebuild every figure, table and verdict of this folder: each notebook on each data set that is at hand.

`python figures/make.py`, or `make figures`. Runs notebooks by papermill into out/, several at once with a part of the
cores each; trained networks are kept in NCBOOK_RUNS and found again. Writes this folder, and made.md in it.
"""

import argparse
import itertools
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import papermill
import yaml

ROOT = Path(__file__).resolve().parents[1]


class Job(NamedTuple):
    """One notebook with one file of settings, on one data set."""

    notebook: str
    settings: str | None = None
    dataset: str = "strokes"

    @property
    def name(self) -> str:
        """Of its executed copy in out/."""
        return Path(self.notebook).name + (f"_{self.settings}" if self.settings else "")


EACH = ["01_train_collapse", "02_test_generalization", "03_new_classes", "04_few_shot_bound", "05_class_separation"]
SIDE = ["controls", "samples", "other_distributions"]
JOBS = [  # the longest first
    Job("06_depth", "cifar10_depth_cpu", "cifar10"),
    Job("03_new_classes", "omniglot_full", "omniglot"),
    *(Job(f"appendix/{name}", f"{name}_omniglot", "omniglot") for name in SIDE),
    *(Job(name, "omniglot", "omniglot") for name in EACH if name[:2] in ("01", "02", "04")),
    Job("05_class_separation", "omniglot_rates", "omniglot"),
    Job("appendix/predictors", "omniglot", "omniglot"),
    Job("08_paper_table", "table_characters"),
    Job("07_prototypical_networks", "episodes_omniglot", "omniglot"),
    Job("appendix/objectives", "objectives_omniglot", "omniglot"),
    Job("appendix/superclasses", "superclasses_omniglot", "omniglot"),
    Job("appendix/superclasses", "superclasses_sizes"),
    *(Job(f"appendix/{name}") for name in [*SIDE, "predictors", "objectives", "superclasses", "tightness"]),
    Job("06_depth"),
    Job("07_prototypical_networks"),
    Job("09_enforcing_collapse"),
    *(Job("09_enforcing_collapse", f"enforcing_{name}") for name in ("long", "strengths")),
    Job("09_enforcing_collapse", "enforcing_omniglot", "omniglot"),
    Job("10_your_own_model"),
    *(Job(name) for name in EACH),
]
FULL = [  # for a GPU, in place of the first
    Job("06_depth", "cifar10_depth", "cifar10"),
    Job("03_new_classes", "cifar_fs_full", "cifar_fs"),
    Job("05_class_separation", "cifar_fs_rates", "cifar_fs"),
    Job("07_prototypical_networks", "report", "omniglot"),
    Job("08_paper_table", "paper_table"),
    *JOBS[1:],
]
LAST = Job("00_start_here")  # shows the verdicts of all others


def available(dataset: str) -> bool:
    """Whether a data set can be read from NCBOOK_DATA; nothing is downloaded."""
    from ncbook import datasets

    if dataset == "strokes":
        return True
    try:
        if not os.environ.get("NCBOOK_DATA"):
            raise FileNotFoundError("NCBOOK_DATA is not set")
        datasets.load(dataset)
    except FileNotFoundError as reason:
        print(f"{dataset} is left out: {reason}", flush=True)
        return False
    return True


def take_cores(parts) -> None:
    """Keep a process of the pool, its kernel and the networks trained there to a part of the cores."""
    os.sched_setaffinity(0, parts.get())


def execute(job: Job, threads: int) -> tuple[float, str]:
    """Run one notebook: (its seconds, what went wrong or nothing)."""
    # inherited by the notebook's kernel
    own = {"NCBOOK_FIGURES": str(ROOT / "figures"), "OMP_NUM_THREADS": str(threads), "NCBOOK_PROGRESS": "off"}
    os.environ.update(own)
    source, target = ROOT / "notebooks" / f"{job.notebook}.ipynb", ROOT / "out" / f"{job.name}.ipynb"
    settings = ROOT / "notebooks" / "params" / f"{job.settings}.yaml"
    parameters = yaml.safe_load(settings.read_text(encoding="utf-8")) if job.settings else {}
    began, failed = time.monotonic(), ""
    try:
        papermill.execute_notebook(source, target, parameters, progress_bar=False)
    except papermill.PapermillExecutionError as error:
        failed = f"{job.name}: {error}"
    seconds = time.monotonic() - began
    print(f"{job.name}: {seconds:.0f} s" + (", failed" if failed else ""), flush=True)
    return seconds, failed


def main() -> None:
    """Run all jobs and write made.md."""
    from ncbook import features, runs, training

    device = features.resolve_device()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1 if device.type == "cuda" else 2, help="notebooks at once")
    parser.add_argument("--full", action="store_true", help="at the sources' size: for a GPU")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}; allowed: at least 1")
    (ROOT / "out").mkdir(exist_ok=True)
    jobs = FULL if options.full else JOBS
    there = {name: available(name) for name in dict.fromkeys(job.dataset for job in jobs)}
    jobs = [job for job in jobs if there[job.dataset]]
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    began = time.monotonic()
    context, options_of_pool = get_context("spawn"), {}
    if hasattr(os, "sched_setaffinity") and device.type == "cpu":
        cores, parts = sorted(os.sched_getaffinity(0)), context.Queue()
        for k in range(options.jobs):
            parts.put(cores[k :: options.jobs] or cores)
        options_of_pool = {"initializer": take_cores, "initargs": (parts,)}
    with ProcessPoolExecutor(options.jobs, mp_context=context, **options_of_pool) as pool:
        done = [*pool.map(execute, jobs, itertools.repeat(threads)), execute(LAST, threads)]
    if failed := [text for _, text in done if text]:
        raise SystemExit("\n".join(failed))
    about = runs.environment()
    lines = [
        "# How these files were made",
        "",
        f"By `python figures/make.py --jobs {options.jobs}`{' --full' if options.full else ''} on {device.type}, "
        f"{about['cores']} cores of {about['processor']}, {threads} thread(s) per notebook; torch "
        f"{about['versions']['torch']}, Python {about['python']}; networks train in "
        f"{training.resolve_precision('auto', device)} unless their settings say otherwise. "
        f"{time.monotonic() - began:.0f} s in all, networks that were trained before were found again.",
        "",
        "| notebook | settings | seconds |",
        "|---|---|---|",
        *(
            f"| {job.notebook} | {job.settings or 'default'} | {seconds:.0f} |"
            for job, (seconds, _) in zip([*jobs, LAST], done, strict=True)
        ),
    ]
    (ROOT / "figures" / "made.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
