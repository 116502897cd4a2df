"""Where the files of data sets come from: folders, downloads with their checksums, fingerprints, archives.

Reads files and unpacks none; writes downloads only. Imports no torch before a download. Called by the modules of
`ncbook.datasets`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import socket
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TypeVar

import filelock
import platformdirs

PROBE_SECONDS, STALL_SECONDS = 3, 60  # for the first answer; without a byte, once the download runs
LARGEST_FILE = 200 * 2**20  # bytes of a file of a folder or archive, or of a tar archive, unpacked
MOST_MEMBERS = 100  # of a tar archive
LONGEST = 120  # characters of a name or message within a message: a damaged zip has names of 60,000
UNUSABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # in names: lines, and bytes that are not UTF-8
HIDDEN = (".", "__MACOSX")  # beginnings of the names of files and folders that are passed over

Files = TypeVar("Files")
Readers = dict[str, Callable[[], bytes]]  # path within the source, with "/" -> what reads the file


# --- folders ---


def cache_folder() -> Path:
    """The environment variable NCBOOK_CACHE, else the user's cache folder for ncbook."""
    folder = os.environ.get("NCBOOK_CACHE") or platformdirs.user_cache_dir("ncbook")
    return Path(folder).expanduser().absolute()


def chosen_root(root: str | os.PathLike | None) -> Path | None:
    """The folder the user chose: ``root``, else the environment variable NCBOOK_DATA; None: neither is given."""
    chosen = root if root is not None else os.environ.get("NCBOOK_DATA") or None
    return None if chosen is None else Path(chosen).expanduser()


def data_folder(root: str | os.PathLike | None) -> Path:
    """The folder of the data: the one the user chose, else ``data`` in the cache folder."""
    return chosen_root(root) or cache_folder() / "data"


def find_path(path: str | os.PathLike | None, root: str | os.PathLike | None) -> Path:
    """A user's own folder or zip: as written, a relative path also below the folder of the data.

    Raises:
        ValueError: ``path`` is None, empty or no path.
        FileNotFoundError: it is in neither place; the message names both.
    """
    if not isinstance(path, str | os.PathLike) or path == "":  # which would be the working folder
        raise ValueError(f"path={path!r}; allowed: a folder or zip of class folders")
    path = Path(path).expanduser()
    candidates = list(dict.fromkeys([path.absolute(), (data_folder(root) / path).absolute()]))
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"path={str(path)!r} is not there; looked for {' and '.join(map(str, candidates))}")


def find_files(
    name: str,
    root: str | os.PathLike | None,
    find: Callable[[Path], Files | None],
    instructions: str,
    fetch: Callable[[Path], str] | None = None,
    download: bool | None = None,
) -> Files:
    """The files of a data set, downloaded if they are missing and may be downloaded.

    Args:
        name: the data set, for the message.
        root: as `data_folder` takes it.
        find: from the folder of the data to the files, or None if one is missing.
        instructions: sentences that say what to put where, for the message.
        fetch: downloads into the folder of the data and returns what happened; None: there is no download.
        download: whether to download what is missing; None: only if the user chose no folder.

    Raises:
        FileNotFoundError: the files are not there and were not downloaded.
    """
    folder = data_folder(root)
    files = find(folder)
    if files is not None:
        return files
    reason = "no download was tried: download=True tries one" if fetch else "it has no official download"
    if fetch and (download or (download is None and chosen_root(root) is None)):
        reason = fetch(folder)
        files = find(folder)
    if files is None:
        raise FileNotFoundError(
            f"{name} is not in {folder} ({reason}). {instructions} Or give the folder that has it as root or in the "
            "environment variable NCBOOK_DATA."
        )
    return files


# --- downloads ---


def download(address: str, checksums: Mapping[str, str], folder: Path) -> str:
    """Download files that are not in the folder yet. A file with another checksum is not kept.

    Args:
        address: what the files' addresses begin with.
        checksums: file name -> md5.
        folder: where the files go; made if need be.

    Returns:
        "downloaded", or what went wrong.
    """

    def fetch() -> None:
        from torchvision.datasets.utils import check_integrity, download_url  # seconds to import: only now

        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / "download.lock"):
            for name, md5 in checksums.items():
                if check_integrity(str(folder / name), md5):
                    continue
                part = folder / f"{name}.part"
                try:
                    download_url(f"{address}/{name}", str(folder), filename=part.name)
                    if not check_integrity(str(part), md5):
                        start = part.read_bytes()[:64].lstrip().lower()
                        page = b"<!doctype", b"<html"
                        kind = "a web page" if start.startswith(page) else "a file of other content"
                        raise RuntimeError(f"{name} is {kind}, its md5 is not {md5}")
                    os.replace(part, folder / name)
                finally:
                    part.unlink(missing_ok=True)

    return attempt(address, fetch, probe=f"{address}/{next(iter(checksums))}")


def attempt(address: str, fetch: Callable[[], object], probe: str | None = None) -> str:
    """Run a download that gives up within seconds when there is no network.

    Args:
        address: where it comes from, for the message.
        fetch: downloads; an OSError or RuntimeError is a failure.
        probe: address that must answer first; None: ``address``.

    Returns:
        "downloaded", or what went wrong.
    """
    previous_timeout = socket.getdefaulttimeout()
    try:
        # Without network, torchvision would wait for minutes: one short request comes first.
        request = urllib.request.Request(probe or address, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
        socket.setdefaulttimeout(STALL_SECONDS)
        fetch()
    except (OSError, RuntimeError) as error:
        return f"the download from {address} failed: {error}"
    finally:
        socket.setdefaulttimeout(previous_timeout)
    return "downloaded"


# --- fingerprints ---


def fingerprint(source: Path) -> str:
    """sha256 (hex) of what decides the content: of a file its bytes, of a folder names, sizes and times."""
    if source.is_file():
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(os.fsencode("\0".join(listing(source)))).hexdigest()


def listing(source: Path) -> list[str]:
    """Name, size and time of each file below a folder, or of the one file, sorted."""
    paths = [source] if source.is_file() else walk(source)
    return sorted(f"{p.relative_to(source)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in paths)


# --- archives and folders of files ---


def walk(folder: Path) -> Iterator[Path]:
    """Files below a folder; hidden ones are passed over and links are not followed."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(HIDDEN) or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from walk(Path(entry.path))
        elif entry.is_file():
            yield Path(entry.path)


@contextmanager
def opened(source: Path, suffixes: set[str]) -> Iterator[Readers]:
    """Files of a folder or zip with one of the suffixes, to be read inside the block.

    Hidden files are passed over, and so are links in a folder; one in a zip is a file that holds a path.

    Raises:
        ValueError: not a zip, a file in it twice, or a path that leads out of it or cannot be written as text.
    """
    with ExitStack() as stack:
        if source.is_dir():
            paths = [path for path in walk(source) if path.suffix.lower() in suffixes]
            files = {path.relative_to(source).as_posix(): partial(unpacked, path) for path in paths}
        else:
            with readable(source, "zip"):
                archive = stack.enter_context(zipfile.ZipFile(source))
            files = _entries(source, archive, suffixes)
        for wrong in filter(UNUSABLE.search, files):
            raise ValueError(f"{source} holds {wrong[:LONGEST]!r}; allowed: names in UTF-8 without control characters")
        yield files


def _entries(source: Path, archive: zipfile.ZipFile, suffixes: set[str]) -> Readers:
    files = {}
    for entry in archive.infolist():
        name = entry.orig_filename  # the whole name, also after a zero byte
        if not entry.flag_bits & 0x800:  # not marked as UTF-8, but it often is (macOS); else cp437
            with suppress(UnicodeError):
                name = name.encode("cp437").decode("utf-8")
        if b"PK\x01\x02" in entry.comment + entry.extra:  # a damaged length: an entry that swallows the next ones
            raise ValueError(f"{source} is damaged: the entry of {name[:LONGEST]!r} holds others; allowed: a whole zip")
        path = PurePosixPath(name)  # a//b and a/./b are a/b
        if "\\" in name:
            raise ValueError(f"{source} holds {name[:LONGEST]!r}; allowed: / between folders (pack it again)")
        if path.is_absolute() or ".." in path.parts:
            words = "a path that may lead out of it; allowed: paths without .. or a / in front"
            raise ValueError(f"{source} holds {name[:LONGEST]!r}, {words}")
        hidden = any(part.startswith(HIDDEN) for part in path.parts)
        if "\0" in name or not (entry.is_dir() or hidden or path.suffix.lower() not in suffixes):
            if str(path) in files:
                raise ValueError(f"{source} holds {str(path)[:LONGEST]!r} more than once; allowed: each file once")
            files[str(path)] = partial(_unpack, archive, entry)
        else:  # its name stands beside its content once more: a damaged one must not hide an image
            with readable(source, "zip"), suppress(RuntimeError):  # encrypted, or packed by an unknown method
                archive.open(entry).close()
    return files


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > LARGEST_FILE:
        raise ValueError(f"{entry.file_size} bytes unpacked; allowed: {LARGEST_FILE}")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # Python unpacks others without a limit
        raise ValueError(f"packed by method {entry.compress_type}; allowed: stored or deflated")
    with archive.open(entry) as file:
        return file.read(entry.file_size)  # without a size, all that is packed would be unpacked


def read_tar(path: Path, folder: str, names: list[str]) -> dict[str, memoryview]:
    """Read files of one folder of a tar.gz archive, in the order of their names.

    Raises:
        ValueError: not such an archive, or a file is missing, there twice or larger than allowed.
    """
    contents, unzipped = {}, unpacked(path)
    with readable(path, "archive"), tarfile.open(fileobj=io.BytesIO(unzipped), mode="r:") as archive:
        members = [member for member in islice(archive, MOST_MEMBERS) if member.isfile() and not member.issparse()]
    for member in members:
        name = member.name.removeprefix("./").removeprefix(folder + "/")
        if name in contents:
            raise ValueError(f"{path} holds {name} more than once; allowed: each file once")
        contents[name] = memoryview(unzipped)[member.offset_data : member.offset_data + member.size]
    missing = [name for name in names if name not in contents]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return {name: contents[name] for name in names}


def unpacked(path: Path, most: int = LARGEST_FILE) -> bytes:
    """Content of a file of at most ``most`` bytes; one that ends in .gz is unpacked, to its end, where its checksum is.

    Raises:
        ValueError: a damaged file, or more bytes.
    """
    packed, content = path.suffix == ".gz", io.BytesIO()
    with readable(path, "archive" if packed else "file"), (gzip.open if packed else open)(path, "rb") as file:
        while content.tell() <= most and content.write(file.read(2**20)):
            pass
    if content.tell() > most:
        raise ValueError(f"{path} holds more than {most} bytes; allowed: {most}")
    return content.getvalue()


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Turn the errors of damaged files into one that names the file and says what to do.

    Raises:
        ValueError: the block met a damaged file.
    """
    try:
        yield
    except Exception as error:  # zipfile, tarfile and gzip raise a dozen types for damaged bytes
        message = f"{path} is not a readable {kind} ({in_one_line(error)}); replace it by a new copy"
        raise ValueError(message) from error


def in_one_line(error: Exception) -> str:
    """What an error says, not too much of it; its type if that is nothing."""
    return " ".join(str(error).split())[:LONGEST] or type(error).__name__
