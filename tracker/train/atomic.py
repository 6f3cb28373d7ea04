"""Files that are either wholly there or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tracker.errors import RGBXError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name ``path`` only once all of it is on the disk.

    Whatever interrupts the writing (an exception, Ctrl-C, a full disk) leaves the old file, and no debris.

    Raises:
        RGBXError: "disk full while writing ..."; another sentence where it cannot be written at all.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise write_error(error, path) from error
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise write_error(error, path) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_error(error: OSError, path: Path | str) -> RGBXError:
    """The sentence for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RGBXError(f"disk full while writing {path}; make room and start again")
    return RGBXError(f"cannot write {path}: {error.strerror or error}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
