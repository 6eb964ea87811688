"""Writing files and folders so that a killed process or a full disk leaves the last good ones."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from zoo.errors import OutputExistsError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse to overwrite.

    Raises:
        OutputExistsError: The path exists and `force` is off.
    """
    if not force and (path.exists() or path.is_symlink()):
        raise OutputExistsError(f"{path} exists; choose another name or pass --force (force=True in Python)")


@contextlib.contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends without an error.

    The content is synced to disk first, gets the permissions that the umask gives, and replaces an
    older folder in one step; the older one is deleted last.

    Raises:
        OutputExistsError: The path exists and `force` is off.
    """
    refuse_existing(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()  # with the permissions that the umask gives, which tell those of what is put in it
    try:
        yield temporary
        _settle(temporary, temporary.stat().st_mode & 0o777)
        _put_in_place(temporary, path, force=force)
    except OSError as error:
        raise named(error, path) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path whose file takes the place of `path` when the block ends without an error.

    Raises:
        OutputExistsError: The path exists and `force` is off.
    """
    refuse_existing(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.touch(exist_ok=False)
    try:
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        temporary.chmod(mode)
        _sync(temporary)
        if force or not _link(temporary, path):
            temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise named(error, path) from None
    finally:
        temporary.unlink(missing_ok=True)


def is_full_disk(error: BaseException) -> TypeGuard[OSError]:
    """Whether an error says that there is no room for a file."""
    return isinstance(error, OSError) and error.errno in _NO_SPACE


def named(error: OSError, path: Path) -> OSError:
    """Have an error say what could not be written where it does not: that of a full disk does not."""
    if error.filename is None and error.errno is not None:
        error.filename = str(path)
    return error


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote `path` left beside it."""
    for pattern in (
        f".{path.name}.tmp-*",
        f".{path.stem}.tmp-*{path.suffix}",
        f".{path.name}.old-*",
    ):
        for leftover in path.parent.glob(pattern):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def read_regular(path: Path, *, most: int) -> bytes:
    """Read a file of strangers: a pipe would be waited for, and a device has no end.

    Raises:
        OSError: It is not there, or may not be read.
        ValueError: It is no regular file, or has more than `most` bytes.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("it is no regular file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def lies_in(folder: Path, path: Path) -> bool:
    """Whether a path lies in a folder, links followed.

    The cache of the Hugging Face Hub is the exception: there a snapshot links to the blobs beside it.

    Raises:
        OSError, RuntimeError, ValueError: It cannot be looked at.
    """
    home, target = folder.resolve(), path.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    return any(target.is_relative_to(place) for place in homes)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(path: Path) -> Path:
    """Return a name that nobody else uses, in the folder of a path and with its suffix."""
    return path.with_name(f".{path.stem[:100]}.tmp-{secrets.token_hex(6)}{path.suffix}")


def _link(temporary: Path, path: Path) -> bool:
    """Give a file its name unless somebody else has taken it since; say whether the disk has links.

    Raises:
        OutputExistsError: It is taken.
    """
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        refuse_existing(path, force=False)
        raise
    except OSError:
        return False
    return True


def _settle(folder: Path, mode: int) -> None:
    """Give what lies in a folder the permissions that go with the folder's own, and sync it to disk."""
    for item in sorted(folder.rglob("*")):
        item.chmod(mode if item.is_dir() else mode & 0o666)
        _sync(item)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put_in_place(temporary: Path, path: Path, *, force: bool) -> None:
    refuse_existing(path, force=force)
    if not path.exists():
        try:
            temporary.rename(path)
        except OSError:  # somebody else has made it since
            refuse_existing(path, force=False)
            raise
    elif not _exchange(temporary, path):
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-", dir=path.parent))
        path.rename(aside / "old")
        temporary.rename(path)
        shutil.rmtree(aside, ignore_errors=True)
    _sync(path.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths in one step where the system can (Linux); say whether it did."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(b))
