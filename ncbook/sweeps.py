"""Many experiments over any `concurrent.futures.Executor`: this process, a process pool, a Dask cluster."""

import os
from collections.abc import Iterable
from concurrent.futures import Executor, as_completed

import pandas as pd
import torch

from ncbook import runs, training
from ncbook.experiment import Experiment
from ncbook.progress import Progress

__all__ = ["sweep"]
__dir__ = __all__.copy


def sweep(
    experiments: Iterable[Experiment],
    executor: Executor | None = None,
    *,
    runs_dir: str | os.PathLike | None = None,
    threads: int | None = None,
) -> pd.DataFrame:
    """Train or find every experiment, and put their histories under each other.

    An experiment that fails becomes one row with its error, the others go on. Run again, only what is missing is
    trained: a worker that dies costs what it did since its last checkpoint. All workers must see the same folder.

    Args:
        experiments: what to train; one that comes twice is trained once.
        executor: where; None: here, one after the other. A ``ProcessPoolExecutor``, or a Dask cluster's
            ``Client.get_executor()``.
        runs_dir: folder of all runs; None: NCBOOK_RUNS of each worker, else a folder in the user's cache.
        threads: of each worker while it trains; None: what the worker has. Bits depend on this number, and several
            workers on the same cores want 1.

    Returns:
        The histories with a column for every field of the experiments, the run's directory, and ``error``: missing
        but for experiments that failed. In the order of ``experiments``.

    Raises:
        TypeError: something else than an `Experiment`; before anything is trained.
        ValueError: no experiment at all, or less than one thread.
    """
    wanted = {}
    for experiment in experiments:
        if not isinstance(experiment, Experiment):
            raise TypeError(f"experiments holds a {type(experiment).__name__}; allowed: ncbook.Experiment")
        wanted[experiment] = None
    if not wanted:
        raise ValueError("experiments is empty; allowed: at least one ncbook.Experiment")
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads!r}; allowed: at least 1")
    folder = None if runs_dir is None else os.path.abspath(runs_dir)
    failed = 0
    with Progress(len(wanted), f"{len(wanted)} experiments") as bar:
        for experiment, (directory, error) in _finished(wanted, executor, folder, threads):
            wanted[experiment] = directory, error
            failed += error is not None
            bar.advance(1, f"{failed} failed" if failed else "")
    return pd.concat([_rows(experiment, *found) for experiment, found in wanted.items()], ignore_index=True)


def _finished(experiments, executor, folder, threads):
    """(experiment, (directory, error)) as they finish."""
    if executor is None:
        for experiment in experiments:
            yield experiment, _one(experiment, folder, threads)
        return
    futures = {executor.submit(_one, experiment, folder, threads): experiment for experiment in experiments}
    for future in as_completed(futures):
        try:
            yield futures[future], future.result()
        except Exception as error:  # the worker died, or could not be reached
            yield futures[future], (None, f"{type(error).__name__}: {error}")


def _one(experiment: Experiment, folder: str | None, threads: int | None) -> tuple[str | None, str | None]:
    """Train one, on a worker: (directory, None) or (None, what went wrong)."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        return str(training.train(experiment, runs_dir=folder).directory), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    finally:
        torch.set_num_threads(before)


def _rows(experiment: Experiment, directory: str | None, error: str | None) -> pd.DataFrame:
    if directory is None:
        history = pd.DataFrame([{"error": error}])
    else:
        history = runs.Run(directory).history.assign(error=None, directory=directory)
    fields = experiment.to_dict()
    return pd.concat([pd.DataFrame([fields] * len(history)).convert_dtypes(), history.convert_dtypes()], axis=1)
