"""The most common broken installation, torch and torchvision that do not match, refused in one sentence.

Reads package metadata only (no torch import); called by ``import ncbook``.
"""

from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

__all__ = ["InstallationError", "check_pair"]
__dir__ = __all__.copy


class InstallationError(ImportError):
    """A broken installation, said in one sentence (also in a notebook, where it prints no traceback)."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_pair() -> None:
    """Refuse a torchvision whose metadata asks for another torch, or that was built for another CUDA.

    Raises:
        InstallationError: one sentence with both versions and what to do.
    """
    torch, torchvision = _version("torch"), _version("torchvision")
    if torch is None or torchvision is None:
        return  # a missing package says so by itself when it is imported
    wanted = [Requirement(line) for line in metadata.requires("torchvision") or []]
    fits = all(r.specifier.contains(torch, prereleases=True) for r in wanted if r.name == "torch")
    builds = {Version(v).local for v in (torch, torchvision)} - {None}  # "cu132", "cpu"; None: not said
    if not fits or len(builds) > 1:
        raise InstallationError(
            f"torch {torch} and torchvision {torchvision} do not belong together: install the pair named in "
            "requirements.txt with `make env` or `pip install -r requirements.txt`."
        )
