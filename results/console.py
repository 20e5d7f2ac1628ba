"""The common frame of a command: flags from a dataclass, errors as one line, exit codes."""

import io
import os
import sys
from collections.abc import Sequence
from typing import Protocol, TypeVar

from results.errors import UserError

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
        parsed.run()
        sys.stdout.flush()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has gone; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that may not be read
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}")


def fail(message: str) -> None:
    """One line on stderr, exit code 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(EXIT_ERROR)
