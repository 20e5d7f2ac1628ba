"""The common frame of a command: flags from a dataclass, errors as one line, exit codes."""

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Protocol, TypeVar

from results.errors import Interrupted, UserError, one_line

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


class Command(Protocol):
    def run(self) -> None: ...


C = TypeVar("C", bound=Command)


def main(command: type[C], module: str, arguments: Sequence[str] | None = None) -> None:
    """Parse the command line into `command` and run it.

    Exits with 2 after a UserError (one line on stderr) or a usage error, with 130 after
    Ctrl-C. `module` is what follows `python -m`.
    """
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not know every sign
    try:
        import tyro

        parsed = tyro.cli(
            command,
            prog=f"python -m {module}",
            args=arguments,
            config=(
                tyro.conf.FlagCreatePairsOff,
                tyro.conf.UseAppendAction,
                tyro.conf.DisallowNone,
            ),
        )
        at_home(parsed).run()
        sys.stdout.flush()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt as stopped:
        go_on = f"; {one_line(str(stopped))}" if isinstance(stopped, Interrupted) else ""
        print(f"interrupted{go_on}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has gone; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that may not be read
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}")


def fail(message: str) -> None:
    """One line on stderr, exit code 2."""
    print("error: " + one_line(message), file=sys.stderr)
    sys.exit(EXIT_ERROR)


def note(message: str) -> None:
    """Say on stderr, in one line, what was assumed or chosen where a user did not say it."""
    print("note: " + one_line(message), file=sys.stderr)


def open_standard_streams() -> None:
    """Give stdin, stdout and stderr somewhere to go where a command is started without them.

    A descriptor that is closed would be the number of the next file that is opened, and what
    libraries and other processes print would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def at_home(command: C) -> C:
    """Return a command with `~` resolved in its paths, as a shell leaves it in `--out=~/x`."""
    paths = {
        field.name: _expanded(value)
        for field in fields(command)  # type: ignore[arg-type]
        if isinstance(value := getattr(command, field.name), Path)
    }
    return replace(command, **paths) if paths else command  # type: ignore[type-var]


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # no such user, or no home
        return path
