"""A look over the files of a folder before hours of work: damage, and the pictures' sizes.

H height, W width.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TypeVar

from supernet.pictures import read_rgb, read_size, stored_size
from supernet.tasks.loop import MAX_WORKERS, num_cores

DECODED = 2**29  # pixels of pictures that are decoded to find damage: some seconds
HEADERS = 200_000  # of pictures to train on that are read: about a minute
SIZED = 200  # pictures whose sizes stand for those of all
STEP, LEAST, MOST = 32, 64, 1024  # of sides that are trained at, pixels
SHARES = (0.5, 0.75, 1.0)  # of the pictures' own size

S = TypeVar("S")
T = TypeVar("T")


def check_headers(paths: Sequence[Path]) -> tuple[str, ...]:
    """Read the headers of pictures to train on, of very many some, evenly spread.

    Returns a line where some were not read. Raises DataError for one that cannot be read.
    """
    chosen = paths[:: max(1, -(-len(paths) // HEADERS))]
    for _ in in_threads(stored_size, chosen):
        pass
    if len(chosen) == len(paths):
        return ()
    return (f"of {len(paths)} pictures to train on, the headers of {len(chosen)} were read",)


def check_pictures(paths: Sequence[Path]) -> tuple[str, ...]:
    """Read the headers of all pictures, and decode as many, evenly spread, as take seconds.

    Returns a line where some were not decoded. Raises DataError for one that cannot be read.
    """
    if not paths:
        return ()
    areas = [height * width for height, width in in_threads(stored_size, paths)]
    step = -(-sum(areas) // DECODED)
    chosen = paths[::step]
    for _ in in_threads(_decode, chosen):
        pass
    if step == 1:
        return ()
    return (
        f"of {len(paths)} held-out pictures, whose headers are sound, {len(chosen)} were decoded",
    )


def typical_size(paths: Sequence[Path]) -> tuple[int, int]:
    """Return the medians of (H, W) over some of at least one picture. Raises DataError."""
    sizes = list(in_threads(read_size, paths[:: -(-len(paths) // SIZED)]))
    heights, widths = zip(*sizes, strict=True)
    return round(median(heights)), round(median(widths))


def sides_for(size: tuple[int, int]) -> tuple[int, ...]:
    """Return the sides of the squares to train at on pictures of `size`, ascending.

    Multiples of 32 up to the shorter side, from 64 to 1024.

    >>> sides_for((200, 300)), sides_for((3000, 4000)), sides_for((20, 30))
    ((96, 160, 192), (512, 768, 1024), (64,))
    """
    side = min(min(size), MOST)
    sides = {max(LEAST, int(share * side / STEP + 0.5) * STEP) for share in SHARES}
    return tuple(sorted(sides))


def _decode(path: Path) -> None:
    read_rgb(path)


def in_threads(function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Yield results in order, by one thread a core. Raises what `function` raises, at once."""
    # Not thread by thread: what one thread restores another may have changed.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = ThreadPoolExecutor(min(num_cores(), MAX_WORKERS))
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)
