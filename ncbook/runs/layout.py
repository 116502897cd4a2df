"""Where a run lies on disk, and which files it is made of. No numbers are read or written here.

<runs folder>/ncbook-runs.txt   marks a folder of runs
<runs folder>/<experiment key>-<fingerprint of the pixels>/
    config.json               the experiment, what "auto" became, versions, hardware
    epoch-000012.safetensors  of each measured epoch: weights of f and of its head, and all that was measured
    features-novel-000012.safetensors  features and labels of a split, of the last epoch and where asked for
    history.csv               what was measured, for people: tidy, epoch, step, split, metric, value
    resume.safetensors        the last checkpoint, anywhere in an epoch; gone when finished
    resume-previous.safetensors  the one before it, in case that is damaged
    log.csv                   epoch, seconds: what a seed does not determine
    finished.json             written last
<the same>.lock, .holder      held while a process trains it, and who that is
<the same>.damaged            a run in which damage was found, set aside
"""

import contextlib
import os
import re
import stat
from pathlib import Path

import platformdirs

from ncbook import datasets
from ncbook.datasets import ImageClasses
from ncbook.experiment import Experiment

CONFIG, FINISHED, HISTORY, LOG = "config.json", "finished.json", "history.csv", "log.csv"
CHECKPOINTS = ("resume.safetensors", "resume-previous.safetensors")  # the newest first
MARK = "ncbook-runs.txt"
_RUN = re.compile(r"[0-9a-f]{16}-[0-9a-f]{12}(\.damaged(-\d+)?)?")
_NUMBER = r"([0-9]{6}|[1-9][0-9]{6,})"  # as `weights_path` writes it, and in no other way
_FILE = re.compile(
    r"(config|finished)\.json|(history|log)\.csv|resume(-previous)?\.safetensors"
    rf"|epoch-{_NUMBER}\.safetensors|features-[a-z_]+-{_NUMBER}\.safetensors"
)
_EPOCH = re.compile(rf"epoch-{_NUMBER}\.safetensors")
_HALF_WRITTEN = re.compile(rf"\.({_FILE.pattern})\.[0-9]+|\.tmp[A-Za-z0-9]{{6}}")  # ours, and safetensors' own


def default_runs_dir() -> Path:
    """NCBOOK_RUNS when it is set, else a folder in the user's cache."""
    chosen = os.environ.get("NCBOOK_RUNS")
    return check_folder("NCBOOK_RUNS", chosen) if chosen else Path(platformdirs.user_cache_dir("ncbook")) / "runs"


def resolve_runs_dir(runs_dir: str | os.PathLike | None) -> Path:
    """The folder of all runs as an absolute path; None: the default."""
    return default_runs_dir() if runs_dir is None else check_folder("runs_dir", runs_dir)


def check_folder(name: str, folder: object) -> Path:
    """Accept the path of a folder, there or not yet, and make it absolute."""
    allowed = "allowed: the path of a folder, there or not yet, as str or pathlib.Path"
    if not isinstance(folder, str | os.PathLike) or isinstance(os.fspath(folder), bytes):
        raise TypeError(f"{name}={folder!r} is of type {type(folder).__name__}; {allowed}")
    try:
        path = Path(folder).expanduser().absolute()
        with contextlib.suppress(FileNotFoundError):
            if not os.fspath(folder) or not stat.S_ISDIR(path.stat().st_mode):
                raise ValueError("no folder")
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, below a file, a user who is not there
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{name}={str(folder)[:100]!r} cannot be used ({why}); {allowed}") from error
    return path


def locate(
    experiment: Experiment, runs_dir: str | os.PathLike | None = None, images: ImageClasses | None = None
) -> Path:
    """The folder of an experiment's run, whether it is there or not; ``images`` in place of its data set."""
    images = datasets.load_for(experiment) if images is None else images
    return resolve_runs_dir(runs_dir) / f"{experiment.key}-{images.fingerprint[:12]}"


def is_run_folder(directory: Path) -> bool:
    """Whether a folder is one of the package's own layout by its name, and no link."""
    return bool(_RUN.fullmatch(directory.name)) and directory.is_dir() and not directory.is_symlink()


def _is_file(entry: os.DirEntry, *patterns: re.Pattern) -> bool:
    """Whether an entry is a file, and no link, with a name of one of the patterns."""
    return entry.is_file(follow_symlinks=False) and any(pattern.fullmatch(entry.name) for pattern in patterns)


def half_written(directory: Path) -> list[Path]:
    """Files that a process was writing when it was killed."""
    return [Path(entry.path) for entry in os.scandir(directory) if _is_file(entry, _HALF_WRITTEN)]


def foreign_entries(directory: Path) -> list[str]:
    """Names in a run's folder that the package did not write, in order."""
    return sorted(entry.name for entry in os.scandir(directory) if not _is_file(entry, _FILE, _HALF_WRITTEN))


def own_entries(directory: Path) -> list[Path]:
    """What lies in a run's folder under a name that the package uses, files or not."""
    return sorted(Path(entry.path) for entry in os.scandir(directory) if _FILE.fullmatch(entry.name))


def weights_path(directory: Path, epoch: int) -> Path:
    """The file of an epoch's weights and measurements."""
    return directory / f"epoch-{epoch:06d}.safetensors"


def features_path(directory: Path, split: str, epoch: int) -> Path:
    """The file of a split's features after an epoch."""
    return directory / f"features-{split}-{epoch:06d}.safetensors"


def saved_epochs(directory: Path) -> list[int]:
    """Epochs whose weights are on disk, in ascending order."""
    names = [_EPOCH.fullmatch(path.name) for path in directory.glob("epoch-*.safetensors")]
    return sorted(int(name[1]) for name in names if name)


def identity(config: dict) -> str:
    """Name of the run that a config describes; every file with numbers says which run it belongs to."""
    return f"{Experiment(**config['experiment']).key}-{config['fingerprint'][:12]}"
