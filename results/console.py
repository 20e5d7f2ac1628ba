"""The common frame of a command: flags from a dataclass, errors as one line, exit codes."""

import errno
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from results.errors import Interrupted, UserError, escaped, masked_word, one_line
from results.progress import give_up, remark

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Command(Protocol):
    def run(self) -> None:
        """Do what the flags say. Raises UserError."""


ELSEWHERE = ("python", "benchmark_model")  # flags that name a file of a target

C = TypeVar("C", bound=Command)
Options = TypeVar("Options")


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
        parsed = _parse(command, module, sys.argv[1:] if arguments is None else arguments)
        at_home(parsed).run()
        sys.stdout.flush()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt as stopped:
        go_on = f"; {one_line(str(stopped))}" if isinstance(stopped, Interrupted) else ""
        remark(f"interrupted{go_on}")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has gone; nothing is left to say
        give_up(sys.stdout)
    except OSError as error:  # a full disk, a folder that may not be read
        where = error.filename or _unnamed(error)
        fail(f"{where}{': ' * bool(where)}{error.strerror or error}")


def _parse(command: type[C], module: str, arguments: Sequence[str]) -> C:
    """Return the flags of a command line. Raises SystemExit, after the parser's own words.

    The parser shows what it does not understand, maybe a URL without its flag: what is shown is of
    words without passwords.
    """
    import tyro

    def parse(words: Sequence[str]) -> C:
        return tyro.cli(
            command,
            prog=f"python -m {module}",
            args=words,
            config=(
                tyro.conf.FlagCreatePairsOff,
                tyro.conf.UseAppendAction,
                tyro.conf.DisallowNone,
            ),
        )

    safe = [masked_word(word) for word in arguments]
    if safe == list(arguments):
        return parse(arguments)
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            return parse(arguments)
    except SystemExit as ended:
        parse(safe)
        raise ended from None


def options_of(command: object, kind: type[Options]) -> Options:
    """Return the fields of `command` that `kind` declares, as a `kind`.

    Both are dataclasses; `command` has every field of `kind`, and more, such as --quiet.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(command, name) for name in names})


def fail(message: str) -> None:
    """End the process with one line on stderr and exit code 2."""
    remark("error: " + one_line(message))
    sys.exit(EXIT_ERROR)


def _unnamed(error: OSError) -> str:
    """Return where an error was that names no file: mostly in what was printed."""
    try:
        sys.stdout.flush()
    except OSError:
        give_up(sys.stdout)  # else the interpreter tries once more, and fails after us
        return "standard output"
    return "standard output or a file" if error.errno in FULL else ""


def terminal(*, width: int | None = None, soft_wrap: bool = False) -> "Console":
    """Return what a command prints its results with: texts as they are, without colours for them.

    Control characters in them are shown as escapes, so that a title from a file that somebody
    sent cannot move the cursor or rename the window; no [word] in them is an instruction.

    Args:
        width: columns where the output is no terminal.
        soft_wrap: leave long lines to the terminal.
    """
    from rich.console import Console

    class Terminal(Console):
        def render_str(self, text: str, **options: Any) -> "Text":
            return super().render_str(escaped(text), **options)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich's own ends the process before its work is done

    console = Terminal(highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)
    if width is not None and not console.is_terminal:
        console.width = width
    return console


def note(message: str) -> None:
    """Say on stderr, in one line, what was assumed or chosen where a user did not say it."""
    remark("note: " + one_line(message))


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
    """Return a command with `~/` resolved in its paths, as a shell leaves it in `--out=~/x`.

    Raises UserError for a user that is not known, whose `~name` a shell leaves as well.
    """
    changed = {
        field.name: _expanded(value)
        for field in fields(command)  # type: ignore[arg-type]
        if field.name not in ELSEWHERE
        if (value := getattr(command, field.name)) != _expanded(value)
    }
    return replace(command, **changed) if changed else command  # type: ignore[type-var]


def _expanded(value: Any) -> Any:
    """Return a path, or a text that may be one, with the home folder for `~`; tuples likewise."""
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith("~/")):
        try:
            expanded = Path(value).expanduser()
        except RuntimeError:
            if not isinstance(value, Path) or value.exists():  # a name that begins with ~
                return value
            user = value.parts[0].removeprefix("~")
            whose = f"user {user!r} is not known here" if user else "no home folder is known"
            raise UserError(f"{value}: {whose}; give the whole path") from None
        return expanded if isinstance(value, Path) else str(expanded)
    return value
