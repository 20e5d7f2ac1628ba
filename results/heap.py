"""How memory is kept, for programs that make arrays over and over and many small objects."""

import ctypes
import gc
import sys

# Of glibc's malloc.h; sizes in bytes, the first the largest that it admits.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MOST_MAPPED, MOST_KEPT = 2**25, 2**27
OBJECTS = 100_000  # made since Python last looked for cycles


def keep_freed_memory() -> None:
    """Look for cycles seldom, and let arrays of up to 32 MB take memory that others left.

    By default Python goes through all objects several times while they become 200,000, a sixteenth
    of the time of a search. glibc gives arrays of a megabyte back to the system when they are
    freed, and the next one's pages are cleared when they are first touched: a third of the time of
    an archive search. With another C library that stays as it is.
    """
    gc.set_threshold(OBJECTS)
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # of another C library
        return
    mallopt(MMAP_THRESHOLD, MOST_MAPPED)
    mallopt(TRIM_THRESHOLD, MOST_KEPT)
