"""How far long work is: a live bar on a terminal, a line at each tenth elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO


def remark(text: str) -> None:
    """Print a line on stderr. Where that is full or closed nobody is told, and work goes on."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def give_up(stream: TextIO) -> None:
    """Send what is printed to `stream`, and what its buffer holds, nowhere from here on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Show(Protocol):
    def __call__(self, done: float, note: str = "", /) -> None:
        """Show the amount done, and a short note beside it."""
        ...


@contextmanager
def progress(total: float, *, silent: bool, label: str, unit: str) -> Iterator[Show]:
    """Yield a function that shows the amount done, 0 to `total`, on stderr."""
    total = max(total, 1e-9)
    if silent:
        yield lambda done, note="": None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total)

            def move(done: float, note: str = "", /) -> None:
                text = f"{label}, {note}" if note else label
                bar.update(task, completed=min(done, total), description=escape(text))

            yield move
    else:
        started = time.monotonic()
        tenths = 0

        def line(done: float, note: str = "", /) -> None:
            nonlocal tenths
            done = min(done, total)
            if int(10 * done / total) > tenths:
                tenths = int(10 * done / total)
                seconds = time.monotonic() - started
                text = f"{done:.0f}/{total:.0f} {unit}, {seconds:.0f} s"
                remark(f"{text}, {note}" if note else text)

        yield line
