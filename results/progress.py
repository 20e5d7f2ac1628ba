"""How far long work is: a live bar on a terminal, a line at each tenth elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(
    total: float, *, silent: bool, label: str, unit: str
) -> Iterator[Callable[[float], None]]:
    """Gives what to call with the amount done, from 0 to `total`. Writes to stderr."""
    total = max(total, 1e-9)
    if silent:
        yield lambda done: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done: bar.update(task, completed=min(done, total))
    else:
        started = time.monotonic()
        tenths = 0

        def line(done: float) -> None:
            nonlocal tenths
            done = min(done, total)
            if int(10 * done / total) > tenths:
                tenths = int(10 * done / total)
                seconds = time.monotonic() - started
                text = f"{done:.0f}/{total:.0f} {unit}, {seconds:.0f} s"
                print(text, file=sys.stderr, flush=True)

        yield line
