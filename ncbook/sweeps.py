"""Many experiments: over any `concurrent.futures.Executor`, or side by side on the cores of this machine."""

import multiprocessing
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed

import pandas as pd
import torch

from ncbook import runs, training
from ncbook._checks import check_whole, named_arguments
from ncbook.datasets import ImageClasses
from ncbook.experiment import Experiment
from ncbook.features import resolve_device
from ncbook.progress import Progress, numbered

__all__ = ["sweep", "trained"]
__dir__ = __all__.copy


@named_arguments
def sweep(
    experiments: Iterable[Experiment],
    executor: Executor | None = None,
    *,
    runs_dir: str | os.PathLike | None = None,
    threads: int | None = None,
    device: str | torch.device = "auto",
) -> pd.DataFrame:
    """Train or find every experiment, and put their histories under each other.

    An experiment that fails becomes one row with its error, the others go on. Run again, only what is missing is
    trained: a worker that dies costs what it did since its last checkpoint. All workers must see the same folder.

    Args:
        experiments: what to train; one that comes twice is trained once.
        executor: where; None: here, one after the other. A ``ProcessPoolExecutor``, or a Dask cluster's
            ``Client.get_executor()``. Threads of one process take turns: random numbers are the process's.
        runs_dir: folder of all runs; None: NCBOOK_RUNS of each worker, else a folder in the user's cache.
        threads: of each worker while it trains; None: what the worker has. Bits depend on this number, and several
            workers on the same cores want 1.
        device: where each worker trains, as `ncbook.train` takes it; "auto": with several GPUs, the processes of a pool
            take one each.

    Returns:
        The histories with a column for every field of the experiments, the run's directory, and ``error``: missing
        but for experiments that failed. In the order of ``experiments``.

    Raises:
        TypeError: something else than an `Experiment` or an executor; before anything is trained.
        ValueError: no experiment at all, less than one thread, or a pool that forks where there is CUDA.
    """
    if not isinstance(experiments, Iterable):
        raise TypeError(f"experiments is of type {type(experiments).__name__}; allowed: a list of ncbook.Experiment")
    wanted = {}
    for experiment in experiments:
        if not isinstance(experiment, Experiment):
            raise TypeError(f"experiments holds a {type(experiment).__name__}; allowed: ncbook.Experiment")
        wanted[experiment] = None
    if not wanted:
        raise ValueError("experiments is empty; allowed: at least one ncbook.Experiment")
    if threads is not None:
        check_whole("threads", threads, 1, training.MOST_THREADS)
    _check_executor(executor, device)
    if executor is None:  # a worker may have what this machine has not
        resolve_device(device)
    folder = None if runs_dir is None else str(runs.layout.resolve_runs_dir(runs_dir))
    failed = 0
    with Progress(len(wanted), f"{len(wanted)} experiments") as bar:
        for experiment, (directory, error) in _finished(wanted, executor, folder, threads, device):
            wanted[experiment] = directory, error
            failed += error is not None
            bar.advance(1, f"{failed} failed" if failed else "")
    return pd.concat([_rows(experiment, *found) for experiment, found in wanted.items()], ignore_index=True)


def trained(
    experiments: Collection[Experiment],
    *,
    images: ImageClasses | Sequence[ImageClasses] | None = None,
    workers: int | None = None,
) -> Iterator[runs.Run]:
    """Yield the runs of the experiments in their order; what is missing is trained meanwhile, one thread per network.

    For small networks: two side by side take half the time of one after the other, where two threads on one network
    save little. A run has the same bits with any number of workers.

    Args:
        experiments: what to train.
        images: in place of the experiments' data set, as `ncbook.train` takes them; a list: of each experiment its own.
        workers: processes; None: one per core, four at most; 1 where there is a GPU. With one, or one network to
            train, everything happens in this process.

    Raises:
        ValueError: less than one worker, or a list of images that has not one entry per experiment.
        ncbook.training.DivergedError: a network that does not train; those before it are there.
    """
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = 1 if torch.cuda.is_available() else min(4, cores)
    check_whole("workers", workers, 1)
    experiments = list(experiments)
    images = list(images) if isinstance(images, Sequence) else [images] * len(experiments)
    if len(images) != len(experiments):
        raise ValueError(f"images has {len(images)} entries; allowed: {len(experiments)}, one per experiment")
    wanted = list(zip(experiments, images, strict=True))
    missing = [(e, own) for e, own in dict.fromkeys(wanted) if not runs.is_finished(e, images=own)]
    if workers == 1 or len(missing) < 2:
        for experiment, own in numbered(wanted):
            yield training.train(experiment, images=own, threads=1)
        return
    workers = min(workers, len(missing))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_the_parent) as pool:
        futures = {one: pool.submit(_silently, *one) for one in missing}
        with Progress(len(missing), f"{len(missing)} networks, {workers} at once") as bar:
            try:
                for experiment, own in wanted:
                    if (experiment, own) in futures:
                        futures.pop((experiment, own)).result()
                        bar.advance(1)
                    yield training.train(experiment, images=own, threads=1)
            finally:  # an error, or a reader who has seen enough: what has not begun is not begun
                pool.shutdown(cancel_futures=True)


def _end_with_the_parent() -> None:
    """On a worker: end when the notebook that started it is killed, rather than train on for nobody."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)  # as a kill would: what is on disk is whole, and a checkpoint is there to go on from

    threading.Thread(target=wait, daemon=True).start()


def _silently(experiment: Experiment, images: ImageClasses | None) -> None:
    """Train one on a worker, whose progress nobody sees."""
    os.environ["NCBOOK_PROGRESS"] = "off"
    training.train(experiment, images=images, threads=1)


def _check_executor(executor: object, device: str | torch.device) -> None:
    """Accept None or an executor whose processes can use the device."""
    if executor is not None and not isinstance(executor, Executor):
        allowed = "a concurrent.futures.Executor, such as client.get_executor() of Dask, or None"
        raise TypeError(f"executor is of type {type(executor).__name__}; allowed: {allowed}")
    context = getattr(executor, "_mp_context", None)  # of a ProcessPoolExecutor
    forks = context is not None and context.get_start_method() == "fork"
    if forks and str(device) != "cpu" and torch.cuda.is_available():
        allowed = "a ProcessPoolExecutor with mp_context=multiprocessing.get_context('spawn'), or device='cpu'"
        raise ValueError(f"executor forks this process, and a fork cannot use CUDA; allowed: {allowed}")


def _finished(experiments, executor, folder, threads, device):
    """(experiment, (directory, error)) as they finish."""
    if executor is None:
        for experiment in numbered([*experiments]):
            yield experiment, _one(experiment, folder, threads, device)
        return
    futures = {executor.submit(_one, experiment, folder, threads, device): experiment for experiment in experiments}
    for future in as_completed(futures):
        try:
            yield futures[future], future.result()
        except Exception as error:  # the worker died, or could not be reached
            yield futures[future], (None, f"{type(error).__name__}: {error}")


def _one(experiment: Experiment, folder: str | None, threads: int | None, device: str) -> tuple[str | None, str | None]:
    """Train one, on a worker: (directory, None) or (None, what went wrong)."""
    try:
        device = _own_gpu() if device == "auto" else device
        return str(training.train(experiment, runs_dir=folder, threads=threads, device=device).directory), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def _own_gpu() -> str:
    """Of several GPUs the one of this worker, by its number among the processes that its parent started."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # somebody has chosen, as dask-cuda does for each worker
        return "auto"
    number, count = getattr(multiprocessing.current_process(), "_identity", ()), torch.cuda.device_count()
    return f"cuda:{(number[-1] - 1) % count}" if number and count > 1 else "auto"


def _rows(experiment: Experiment, directory: str | None, error: str | None) -> pd.DataFrame:
    if directory is None:
        history = pd.DataFrame([{"error": error}])
    else:
        history = runs.Run(directory).history.assign(error=None, directory=directory)
    fields = experiment.to_dict()
    return pd.concat([pd.DataFrame([fields] * len(history)).convert_dtypes(), history.convert_dtypes()], axis=1)
