"""Files that are whole or not there, and that notice damage: every one carries a checksum. Nothing is unpickled.

Written to a temporary file beside the target, flushed to disk, then put in place in one step; so a process killed at
any moment leaves the old file or the new one. Used wherever the package keeps something on disk.
"""

import contextlib
import errno
import hashlib
import json
import os
import uuid
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_STORAGE |= {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
_verified: set[tuple] = set()  # (path, inode, ctime, size) of tensors whose checksum was right


class DamagedFileError(ValueError):
    """A file does not hold what was once written to it."""


class StorageError(OSError):
    """A folder that cannot be written to: full, read-only or forbidden. What was in it before is still there."""


def replace(path: Path, write) -> None:
    """Let ``write(temporary)`` make a file, then put it in place of ``path`` in one step.

    Raises:
        StorageError: a full disk or a read-only folder; ``path`` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().int}")  # of no other process, thread or machine
    try:
        write(temporary)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise storage_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):  # a folder that became read-only: nothing more can be done here
            temporary.unlink(missing_ok=True)


def storage_error(error: Exception, path: Path) -> Exception:
    """The error as a `StorageError` that says what to do, where the folder is to blame."""
    code = getattr(error, "errno", None)
    text = str(error)
    if isinstance(error, SafetensorError):  # it hides the number in its text
        code = next((number for number in _STORAGE if f"os error {number}" in text), None)
    if code not in _STORAGE:
        return error
    return StorageError(
        code,
        f"{os.strerror(code)}: {path.name} could not be written in {path.parent}. What was there before is kept; make "
        "room, or choose another folder by runs_dir or NCBOOK_RUNS (of data sets: NCBOOK_CACHE)",
    )


def make_folder(path: Path) -> None:
    """Make a folder with its parents, or raise `StorageError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path) from error


def in_figures(name: str) -> Path | None:
    """A file in the folder NCBOOK_FIGURES, whose own folder is made; None where that is not set."""
    if not (folder := os.environ.get("NCBOOK_FIGURES")):
        return None
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_csv(path: Path, frame) -> None:
    """Write a pandas frame as CSV in one step; floats keep all their digits."""
    replace(path, lambda temporary: frame.to_csv(temporary, index=False))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, content: dict) -> None:
    """Write a JSON object with its checksum."""
    text = json.dumps(content)
    whole = {**json.loads(text), "checksum": _digest(text)}
    replace(path, lambda p: p.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8"))


def read_json(path: Path) -> dict:
    """Read what `write_json` wrote.

    Raises:
        DamagedFileError: cut short or altered.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged: {error!r}") from error
    if _digest(json.dumps(content)) != checksum:
        raise DamagedFileError(f"{path} was altered: its content does not have its checksum")
    return content


def _tensors_digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], **about) -> None:
    """Write named tensors and a few words about them (anything JSON holds) as one safetensors file."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about)
    metadata = {"about": text, "about_checksum": _digest(text), "checksum": _tensors_digest(held)}
    replace(path, lambda p: save_file(held, p, metadata))


def read_about(path: Path) -> dict:
    """What `write_tensors` was told about the tensors, without reading them.

    Raises:
        DamagedFileError: cut short or altered.
    """
    return _header(path)[0]


def tensors_checksum(path: Path) -> str:
    """What identifies the tensors of a file, without reading them; errors as `read_about`."""
    return _header(path)[1]


def _header(path: Path) -> tuple[dict, str]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        text = metadata["about"]
        if _digest(text) != metadata["about_checksum"]:
            raise DamagedFileError(f"{path} was altered: its description does not have its checksum")
        about = json.loads(text)
        if not isinstance(about, dict):
            raise TypeError(f"its description is of type {type(about).__name__}")
        return about, metadata["checksum"]
    except (FileNotFoundError, DamagedFileError):
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} is damaged: {error!r}") from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read and, once per process and file, verify named tensors.

    Raises:
        DamagedFileError: cut short or altered.
    """
    _, checksum = _header(path)
    status = path.stat()
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(f"{path} is damaged: {error!r}") from error
    known = (str(path), status.st_ino, status.st_ctime_ns, status.st_size)
    if known not in _verified:
        if _tensors_digest(tensors) != checksum:
            raise DamagedFileError(f"{path} was altered: its tensors do not have their checksum")
        _verified.add(known)
    return tensors
