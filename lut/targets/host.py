"""Where models are timed: what every machine can do for it, and how it fails.

A host runs commands under supervision (`process`), takes files, and tells what it is. All its
trouble is a TargetError; `transient` tells what may pass (a lost connection, silence) from what
will not (no such host, no permission, a full disk).
"""

import contextlib
import re
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lut.targets.facts import (
    FACTS,
    TEMPERATURES,
    parse_facts,
    parse_temperature_c,
    parse_thermal_status,
)
from lut.targets.process import OutputError, SilenceError, Supervised
from results.errors import TargetError, shown

Result = TypeVar("Result")

ATTEMPTS = 3
BACKOFF_S = 0.5  # before the second attempt; doubled before each further one
SLOWEST_TRANSFER = 250e3  # bytes per second: a copy may take this long, plus COPY_S
COPY_S = 60.0
MOST_OUTPUT = 64 * 2**20  # characters of a command's output that is waited for

# The last is GNU tar's way to say it.
_FULL = re.compile(
    r"no space left|disk quota exceeded|file too large|wrote only \d+ of", re.IGNORECASE
)


class Host(Protocol):
    """Where models are timed: this machine, one behind ssh, or a phone behind adb."""

    name: str  # "local", "ssh://host", "adb:SERIAL"
    python: str  # the interpreter that runs scripts there

    def facts(self) -> dict[str, Any]:
        """Return system, processor and clocks for a table's provenance; the unknown is left out."""
        ...

    def folder(self) -> AbstractContextManager[str]:
        """Give a fresh folder there, removed in the end as well as can be."""
        ...

    def push(self, local: Path, remote: str) -> None:
        """Copy a file to the path `remote`, or a folder's contents into the folder `remote`."""
        ...

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: str | None = None) -> str:
        """Return a command's standard output. Raises TargetError unless it ends well, in time.

        A command whose connection was lost is run again: it must bear that.
        """
        ...

    def stream(self, argv: Sequence[str], *, idle_timeout_s: float) -> Iterator[str]:
        """Yield lines of standard output as they come. Raises TargetError as `run` does.

        Never repeated. The command ends when the generator is closed, when this process ends,
        or when nothing comes for `idle_timeout_s`.
        """
        ...

    def temperature_c(self) -> float | None:
        """Return the warmest processor sensor's; None where there is none to be read."""
        ...


class CommandHost(ABC):
    """A host that is reached by starting a local client program."""

    def __init__(self, name: str, *, python: str, temporary: str) -> None:
        self.name = name
        self.python = python
        self._temporary = temporary

    @abstractmethod
    def push(self, local: Path, remote: str) -> None:
        """Copy as Host.push says."""

    @abstractmethod
    def _client(self, argv: Sequence[str]) -> list[str]:
        """Return the arguments of the local client that runs `argv` there."""

    @abstractmethod
    def _lost(self, stderr: list[str], *, started: bool) -> TargetError:
        """Return why a command could not be started there, or did not come to its end.

        Once it is started, `stderr` holds its words too, which must not be taken for the client's.
        """

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: str | None = None) -> str:
        """Run as Host.run says."""
        return retried(lambda: self._run(argv, timeout_s, stdin), unless=OverdueError)

    def stream(self, argv: Sequence[str], *, idle_timeout_s: float) -> Iterator[str]:
        """Run as Host.stream says."""
        with self._start(argv) as command:
            try:
                yield from command.lines(idle_timeout_s=idle_timeout_s)
            except SilenceError:
                raise self._overdue(argv, idle_timeout_s, command) from None
            except OutputError as error:
                raise self._too_much(argv, error) from None
            self._check(argv, command)

    @contextlib.contextmanager
    def folder(self) -> Iterator[str]:
        """Give what Host.folder says."""
        template = f"{self._temporary.rstrip('/')}/efficientvit-nas-XXXXXX"
        path = self.run(["mktemp", "-d", template], timeout_s=30).strip()
        try:
            yield path
        finally:
            with contextlib.suppress(TargetError):
                self._run(["rm", "-rf", path], 30, None)

    def facts(self) -> dict[str, Any]:
        """Return what Host.facts says."""
        return parse_facts(self.run(["sh", "-c", FACTS], timeout_s=60))

    def temperature_c(self) -> float | None:
        """Return what Host.temperature_c says."""
        return parse_temperature_c(self._temperatures())

    def thermal_status(self) -> int | None:
        """Return Android's verdict, 0 where nothing is throttled; None where it does not tell."""
        return parse_thermal_status(self._temperatures())

    def _temperatures(self) -> str:
        try:
            return self.run(["sh", "-c", TEMPERATURES], timeout_s=20)
        except TargetError:
            return ""

    def _start(self, argv: Sequence[str], stdin: str | None = None) -> Supervised:
        command = Supervised(argv, stdin)
        client = self._client(command.argv)
        try:
            return command.start(client)
        except OSError as error:
            raise TargetError(f"{self.name}: cannot start {client[0]}: {error.strerror}") from None

    def _run(self, argv: Sequence[str], timeout_s: float, stdin: str | None) -> str:
        with self._start(argv, stdin) as command:
            lines = []
            size = 0
            try:
                for line in command.lines(idle_timeout_s=timeout_s, timeout_s=timeout_s):
                    lines.append(line)
                    size += len(line) + 50  # as much as an object takes
                    if size > MOST_OUTPUT:
                        raise OutputError(f"more than {MOST_OUTPUT >> 20} MB")
            except SilenceError:
                raise self._overdue(argv, timeout_s, command) from None
            except OutputError as error:
                raise self._too_much(argv, error) from None
            self._check(argv, command)
        return "".join(f"{line}\n" for line in lines)

    def _too_much(self, argv: Sequence[str], error: OutputError) -> TargetError:
        return TargetError(f"{self.name}: {Path(argv[0]).name} printed {error}")

    def _check(self, argv: Sequence[str], command: Supervised) -> None:
        if command.status == 0:
            return
        stderr = command.stderr(ended=True)
        if command.status is None:
            raise self._lost(stderr, started=command.started)
        raise failure(self.name, argv[0], command.status, stderr)

    def _overdue(self, argv: Sequence[str], timeout_s: float, command: Supervised) -> TargetError:
        stderr = command.stderr(ended=False)
        return OverdueError(
            f"{self.name}: nothing from {Path(argv[0]).name} for {timeout_s:g} s"
            + (f"; its last words: {stderr[-1]}" if stderr else ""),
            transient=True,
        )


class OverdueError(TargetError):
    """Silence for longer than was granted."""


def failure(name: str, program: str, status: int, stderr: Sequence[str]) -> TargetError:
    """Return what a command's exit status and last words mean."""
    program = Path(program).name
    if full := [line for line in stderr if _FULL.search(line)]:
        return disk_full(name, full[-1])
    if status == 127:
        return TargetError(f"{name}: there is no program {program}; install it there")
    if status > 128:
        return TargetError(f"{name}: {program} was ended by signal {status - 128}{_last(stderr)}")
    return TargetError(f"{name}: {program} failed with exit status {status}{_last(stderr)}")


def _last(stderr: Sequence[str]) -> str:
    return f": {stderr[-1].strip()}" if stderr else ""


def disk_full(name: str, reason: str) -> TargetError:
    """Return what to raise where files do not fit there."""
    return TargetError(f"{name}: no space for the models ({reason.strip()}); free some there")


def retried(
    action: Callable[[], Result],
    *,
    unless: type[TargetError] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Return the result of `action`, tried again while its trouble may pass, but `unless`."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except TargetError as error:
            final = attempt == ATTEMPTS - 1 or not error.transient
            if final or (unless is not None and isinstance(error, unless)):
                raise
        sleep(BACKOFF_S * 2**attempt)
    raise AssertionError("unreachable")


def copy_limit_s(local: Path) -> float:
    """Return how many seconds a copy of a file or folder may take."""
    files = [local] if local.is_file() else [p for p in local.rglob("*") if p.is_file()]
    return COPY_S + sum(path.stat().st_size for path in files) / SLOWEST_TRANSFER


def check_local(local: Path) -> None:
    """Raise TargetError where there is nothing to copy."""
    if not local.exists():
        raise TargetError(f"there is no {local} to be copied")


def find_program(name: str, cure: str) -> str:
    """Return the path of a local client program. Raises TargetError with the cure."""
    path = shutil.which(name)
    if path is None:
        raise TargetError(f"there is no program {name} on this machine; {cure}")
    return path


def run_client(argv: Sequence[str], timeout_s: float) -> "subprocess.CompletedProcess[str]":
    """Run a short command of a local client. Raises subprocess.TimeoutExpired."""
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


def run_merged(host: Host, argv: Sequence[str], *, timeout_s: float) -> tuple[int, str]:
    """Return a command's exit status, and both its outputs as one text, however it ends.

    For tools that write their results to standard error in one version and to standard output
    in the next.
    """
    script = '"$@" 2>&1; printf "\\n%d\\n" "$?"'
    output, _, status = (
        host.run(["sh", "-c", script, "sh", *argv], timeout_s=timeout_s)
        .rstrip("\n")
        .rpartition("\n")
    )
    if not (status.isdecimal() and len(status) < 4):
        raise TargetError(f"{host.name}: {argv[0]} ended in {shown(status)}, which is no status")
    return int(status), output


def wait_until_cool(
    host: Host,
    *,
    below_c: float,
    limit_s: float = 300.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> str | None:
    """Wait until the host is cool, `limit_s` at most; a note where it stayed warm.

    None where it is cool, or has no sensor. On Android its own verdict counts too.
    """
    end = clock() + limit_s
    while True:
        celsius = host.temperature_c()
        status = host.thermal_status() if isinstance(host, CommandHost) else None
        hot = celsius is not None and celsius >= below_c
        if not hot and not status:
            return None
        if clock() >= end:
            state = f"{celsius:.0f} °C" if celsius is not None else "throttled"
            verdict = f", thermal status {status}" if status else ""
            return f"still {state}{verdict} after waiting {limit_s:g} s for {below_c:g} °C"
        sleep(min(5.0, limit_s))
