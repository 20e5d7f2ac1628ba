"""Run folders: one command's output, never mixed with another's."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from results.errors import RunError
from results.files import read_json
from results.record import now

RECORD = "run.json"
FRONT = "front.json"
LOCK = ".lock"


def create_run_folder(
    out: Path | None, name: str, flag: str = "--out", *, resumes: bool = True
) -> Path:
    """Make `out`, or results/runs/NAME-TIME under the current directory.

    Errors name the command's `flag` for the folder, and --resume where it `resumes`. Raises
    RunError if the folder exists and is not empty, or cannot be written.
    """
    folder = out
    if folder is None:
        base = Path("results") / "runs" / f"{name}-{now():%Y%m%d-%H%M%S}"
        folder = base
        count = 1
        while folder.exists():
            count += 1
            folder = base.with_name(f"{base.name}-{count}")
    try:
        if folder.exists() and (not folder.is_dir() or _holds_anything(folder)):
            if folder.is_dir() and (folder / RECORD).exists():
                cure = f", or go on with it by --resume {folder}" if resumes else ""
                held = "holds another run"
            else:
                held, cure = "is not an empty folder", ""
            raise RunError(f"{folder} {held}; nothing was written. Choose another {flag}{cure}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
    except OSError as error:
        raise RunError(
            f"cannot write to {folder}: {error.strerror or error}; choose another {flag}"
        ) from None
    return folder


def _holds_anything(folder: Path) -> bool:
    """Beside what a command leaves that was killed before its record was there."""
    unfinished = f".{RECORD}."
    return any(
        path.name != LOCK and not path.name.startswith(unfinished) for path in folder.iterdir()
    )


def read_record(folder: Path) -> dict[str, Any]:
    """run.json of a run. Raises RunError if `folder` is no run."""
    if not (folder / RECORD).is_file():
        raise RunError(f"{folder} is no run folder: it has no {RECORD}")
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        raise RunError(f"{folder / RECORD} is damaged: it has no settings")
    return record


def torchrun_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """Of the torchrun that started this process, the same where it starts it again; else None."""
    name = environment.get("TORCHELASTIC_RUN_ID")
    # what torchrun calls all its runs that no --rdzv-id names
    return f"process {os.getppid()}" if name == "none" else name


def read_front_data(folder: Path) -> Any:
    """What front.json of a search's run holds. Raises RunError if there is none."""
    if not folder.is_dir():
        raise RunError(f"no run folder {folder}")
    path = folder / FRONT
    if not path.exists() and not (folder / RECORD).exists():
        raise RunError(f"{folder} is no run folder: it has no {RECORD}")
    if not path.exists():
        raise RunError(f"{folder} holds no front yet; go on with `--resume {folder}`")
    return read_json(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder. Raises RunError if another process holds it; freed even by kill -9."""
    try:
        file = (folder / LOCK).open("a")
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use by another process; wait for it") from None
        yield
