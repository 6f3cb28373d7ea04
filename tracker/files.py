"""Files and folders that are either wholly there or not at all, and the sentences for a disk that refuses them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tracker.errors import RGBXError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that takes the name ``path`` only once all of it is on the disk.

    Whatever interrupts the writing (an exception, Ctrl-C, a full disk) leaves the old file as it was, and no debris.

    Raises:
        RGBXError: "disk full while writing ..."; another sentence where the file cannot be written at all.
    """
    with atomic_path(path) as part, open(part, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, of the same suffix, which is renamed to ``path`` at the end.

    This is for libraries that want a name and not an open file. Otherwise it is as :func:`atomic_file`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".part{path.suffix}", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise write_error(error, path) from error
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise write_error(error, path) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; errors are those of :func:`atomic_file`."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder that takes the name ``path`` at the end, in place of a folder that is there.

    The folder is made beside ``path`` under a hidden name. Whatever interrupts the work leaves the old folder as it
    was, and no debris. Errors of the disk remain OSErrors, because they mostly name a file inside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir()
        yield staging
        if path.exists():
            old = path.with_name(f".{path.name}.old-{os.getpid()}")
            path.replace(old)
            staging.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            staging.replace(path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def write_error(error: OSError, path: Path | str) -> RGBXError:
    """Return the error with the sentence for a failed write of ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RGBXError(f"disk full while writing {path}; make room and start again")
    return RGBXError(f"cannot write {path}: {error.strerror or error}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
