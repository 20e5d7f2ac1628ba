"""Files that are whole or not there: written under a temporary name, then renamed."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from results.errors import RunError


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, atomically. Raises RunError where it cannot be written."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Replace `path` by `parts`, atomically. Raises RunError where it cannot be written."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's own mode is private
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def write_json(path: Path, data: Any) -> None:
    """Indented JSON; NaN and infinity are refused, as other programs cannot read them."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")
