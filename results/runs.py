"""Run folders: one command's output, never mixed with another's."""

import fcntl
import itertools
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.errors import Interrupted, RunError
from results.files import write_json
from results.reading import read_json
from results.record import RunRecord, command_line, now

RECORD = "run.json"
LOCK = ".lock"
SEARCH = "nas.search"  # whose runs hold fronts
RESUMABLE = (SEARCH, "lut.build", "supernet.train")


def create_run_folder(
    out: Path | None, name: str, flag: str = "--out", *, resumes: bool = True
) -> Path:
    """Make `out`, or results/runs/NAME-TIME under the current directory.

    Errors name the command's `flag` for the folder, and --resume where it `resumes`. Raises
    RunError if the folder exists and is not empty, or cannot be written.
    """
    folder = out or Path("results") / "runs" / f"{name}-{now():%Y%m%d-%H%M%S}"
    try:
        if out is None:
            folder = _new_folder(folder)
        elif folder.exists() and (not folder.is_dir() or _holds_anything(folder)):
            if folder.is_dir() and (folder / RECORD).exists():
                cure = f", or go on with it by --resume {folder}" if resumes else ""
                held = "holds another run"
            else:
                held, cure = "is not an empty folder", ""
            raise RunError(f"{folder} {held}; nothing was written. Choose another {flag}{cure}")
        folder.mkdir(parents=True, exist_ok=True)
        own_path(folder, LOCK).touch()
    except OSError as error:
        raise RunError(
            f"cannot write to {folder}: {error.strerror or error}; choose another {flag}"
        ) from None
    return folder


def _new_folder(base: Path) -> Path:
    """Make `base`, or `base`-2 and so on: one that nobody else made, as jobs start together."""
    base.parent.mkdir(parents=True, exist_ok=True)
    for count in itertools.count(1):
        folder = base if count == 1 else base.with_name(f"{base.name}-{count}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("there is always a next number")


def own_path(folder: Path, name: str) -> Path:
    """Return the path of a file or folder of a run that is written to, cut or deleted.

    Raises RunError where a link leads out of the run: the folder may be somebody else's, and what
    it points at is not part of it.
    """
    path = folder / name
    try:
        root, there = folder.resolve(), path.resolve()
    except (OSError, RuntimeError):  # links in a circle
        root, there = folder, Path("/")
    if not there.is_relative_to(root):
        raise RunError(f"{path} is a link out of the run folder; remove it, and resume a copy")
    return path


def _holds_anything(folder: Path) -> bool:
    """Tell whether a folder has more than a command leaves that was killed before its record."""
    unfinished = f".{RECORD}."
    return any(
        path.name != LOCK and not path.name.startswith(unfinished) for path in folder.iterdir()
    )


def read_record(folder: Path, command: str | None = None) -> dict[str, Any]:
    """Return run.json of a run.

    Raises RunError if `folder` is no run, or one of another command than `command`.
    """
    if not (folder / RECORD).is_file():
        raise RunError(f"{folder} is no run folder: it has no {RECORD}")
    record = read_json(folder / RECORD, dict[str, Any])
    if not isinstance(record.get("settings"), dict):
        raise RunError(f"{folder / RECORD} is damaged: it has no settings")
    begun_by = command_of(record)
    if command is not None and begun_by is not None and begun_by != command:
        again = f"; go on with it by `python -m {begun_by} --resume {shlex.quote(str(folder))}`"
        cure = again if begun_by in RESUMABLE else ""
        raise RunError(f"{folder} is a run of {begun_by}, not of {command}{cure}")
    return record


def command_of(record: Mapping[str, Any]) -> str | None:
    """Return the module whose command a run.json is of, such as "nas.search", if it tells."""
    match = _COMMAND.match(str(record.get("command", ""))[:200])
    return match[1] if match else None


# a module's name, or a whole command line
_COMMAND = re.compile(r"(?:python -m )?((?:lut|nas|predictors|supernet)\.\w+)(?:\s|$)")


def torchrun_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """Name the torchrun that started this process, the same where it starts it again; else None."""
    name = environment.get("TORCHELASTIC_RUN_ID")
    # what torchrun calls all its runs that no --rdzv-id names
    return f"process {os.getppid()}" if name == "none" else name


@contextmanager
def locked(folder: Path, go_on: str = "") -> Iterator[None]:
    """Hold a run folder; freed even by kill -9.

    `go_on`: what to do after Ctrl-C, for the last line of a command that was interrupted.
    Raises RunError if another process holds it.
    """
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        flags |= os.O_NONBLOCK  # a FIFO of that name would wait for a reader
        handle = os.open(own_path(folder, LOCK), flags, 0o666)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from None
    with open(handle, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder} is in use by another process; wait for it") from None
        try:
            yield
        except KeyboardInterrupt:
            if go_on:
                raise Interrupted(go_on) from None
            raise


@dataclass(frozen=True)
class Run:
    """A run folder that this process holds, new or gone on with."""

    command: str  # the module, such as "nas.search"
    folder: Path
    is_new: bool

    @property
    def again(self) -> str:
        """Return the command line that goes on with the run."""
        return f"python -m {self.command} --resume {shlex.quote(str(self.folder))}"

    def path(self, name: str) -> Path:
        """Return the path of a file of the run; see `own_path`, and the errors there."""
        return own_path(self.folder, name)

    def record(
        self,
        settings: dict[str, Any],
        sources: dict[str, Any],
        seed: int,
        **more: Any,
    ) -> None:
        """Write run.json: from here on the run can be resumed.

        Of a run that goes on, how it was begun stays: its command line, date, commit, versions and
        sources. Its settings and `more`, which are further fields, are written anew.

        Raises OSError, or RunError where the old record is damaged.
        """
        path = self.folder / RECORD
        if path.exists():
            first = read_record(self.folder, self.command)
            # older runs of nas.search have their command line as the command
            started_by = {"command_line": first["command"]} if "command_line" not in first else {}
            begun = first | started_by | {"command": self.command}
            write_json(path, begun | {"settings": settings} | more)
            return
        record = RunRecord(self.command, settings, sources, seed).to_dict()
        write_json(path, record | {"command_line": command_line(self.command)} | more)


@contextmanager
def open_run(
    command: str,
    out: Path | None,
    name: str,
    *,
    resume: Path | None = None,
    flag: str = "--out",
    interrupted: str = "",
) -> Iterator[Run]:
    """Make a run folder, or take the one to `resume`, and hold it; freed even by kill -9.

    Args:
        command: the module, such as "nas.search".
        out: the new folder; None: results/runs/NAME-TIME.
        name: of the new folder, where `out` is None.
        resume: the run to go on with; `read_record` tells whether it is one of `command`.
        flag: of the command, for `out`.
        interrupted: what to say after Ctrl-C; by default how to go on with the run.

    Raises RunError where the folder is not empty, cannot be written, or is held by another process;
    Interrupted, which tells how to go on, where Ctrl-C ends the work.
    """
    resumes = command in RESUMABLE
    folder = resume or create_run_folder(out, name, flag, resumes=resumes)
    run = Run(command, folder, is_new=resume is None)
    with locked(folder, interrupted or f"go on: {run.again}"):
        if run.is_new and (folder / RECORD).exists():
            raise RunError(f"{folder} was taken by another run; choose another {flag}")
        yield run
