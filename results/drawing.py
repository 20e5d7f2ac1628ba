"""Pictures as files, whatever display, notebook or settings a program finds around it.

Nothing of `matplotlib` or `plotly` is imported elsewhere but inside `drawing`.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from results.errors import PictureError, UserError, reason_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a notebook sets for programs of its own; an unknown value ends the import in an error.
VARIABLES = ("MPLBACKEND", "PLOTLY_RENDERER")


@contextmanager
def drawing(picture: str) -> Iterator[None]:
    """Draw with matplotlib's own defaults, without remarks of libraries on the terminal.

    Raises PictureError, which names `picture`, for whatever a library raises.
    """
    kept = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    logger = logging.getLogger("matplotlib")  # a folder that is not writable, a font
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a glyph that no font has; what is deprecated
            is_first = "matplotlib" not in sys.modules
            import matplotlib

            if is_first and "MPLBACKEND" in kept:  # as for whoever draws for a notebook after us
                _take_backend(kept["MPLBACKEND"])
            with matplotlib.rc_context():
                matplotlib.rcdefaults()
                yield
    except UserError:
        raise
    except Exception as error:  # of another package: it must not cost what is computed
        raise PictureError(f"{picture} cannot be drawn: {reason_of(error)}") from None
    finally:
        logger.setLevel(level)
        os.environ.update(kept)


def new_figure(width: float, height: float, dpi: int) -> "Figure":
    """Return an empty figure of `width` by `height` inches, inside `drawing`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file, inside `drawing`."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _take_backend(name: str) -> None:
    """Set what matplotlib would have taken from the environment, had it been there."""
    import matplotlib

    settings: Any = matplotlib.rcParams
    try:
        settings["backend"] = name
    except ValueError:  # of a package that is not installed here
        return
