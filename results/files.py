"""Files that are whole or not there: written under a temporary name, then renamed."""

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from results.errors import RunError


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, atomically. Raises RunError where it cannot be written."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Replace `path` by `parts`, atomically; a file that was there keeps its mode.

    Raises RunError where it cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)  # mkstemp's own mode is private
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def _mode(path: Path) -> int:
    """Return the mode of a file, or the usual one of a new file.

    Raises RunError for a device or a FIFO.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder the system says more
        raise RunError(f"cannot write {path}: it is no regular file")
    return stat.S_IMODE(mode) & 0o777


def write_json(path: Path, data: Any, *, indent: int | None = 2) -> None:
    """Write `data` as JSON; `indent` None gives one line, in a tenth of the time where it is long.

    Raises ValueError for NaN and infinity, which are no JSON.
    """
    write_text(path, json.dumps(data, indent=indent, allow_nan=False) + "\n")
