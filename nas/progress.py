"""How far a search is: a live bar on a terminal, a line at each tenth elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int, *, silent: bool) -> Iterator[Callable[[int], None]]:
    """Gives what to call with the number of trials done. Writes to stderr."""
    if silent:
        yield lambda done: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task("searching", total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        started = time.monotonic()
        tenths = 0

        def line(done: int) -> None:
            nonlocal tenths
            if 10 * done // total > tenths:
                tenths = 10 * done // total
                seconds = time.monotonic() - started
                print(f"{done}/{total} trials, {seconds:.0f} s", file=sys.stderr, flush=True)

        yield line
