"""Whether an annotated box is around its mask, and what layout it may be of where it is not.

Boxes are x and y of two corners, in pixels; `told` are four numbers as a file holds them, which
should be x, y, width, height.
"""

import math
from collections.abc import Callable, Sequence

from results.errors import DataError

Box = tuple[float, float, float, float]

NEAR = 2.0  # pixels between edges that are the same: tools round, or count the last pixel or not
LEAST_IOU = 0.3  # of a box and that around the mask; boxes of what is hidden are larger than masks
LEAST_IOU_OF_ALIKE = 0.85  # where the numbers fit in another layout
FRACTIONS = "are coordinates from 0 to 1?"
LAYOUTS: dict[str, Callable[[float, float, float, float], Box]] = {  # other than COCO's, to corners
    "is it x0, y0, x1, y1?": lambda a, b, c, d: (a, b, c, d),
    "is it the centre, width and height?": lambda a, b, c, d: (
        *(a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    ),
    "is it y, x, height, width?": lambda a, b, c, d: (b, a, b + d, a + c),
    "is it y0, x0, y1, x1?": lambda a, b, c, d: (b, a, d, c),
}


def around_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int] | None) -> list[Box]:
    """Return the box around polygons and, of a picture of `size` (H, W), that of what it shows.

    Tools write either for an object that the picture's edge cuts.
    """
    boxes = [_around(polygons)]
    if size is not None:
        shown = [p for p in polygons if _meets(_around([p]), size)]
        if shown:
            x0, y0, x1, y1 = _around(shown)
            boxes.append((max(x0, 0.0), max(y0, 0.0), min(x1, size[1]), min(y1, size[0])))
    return boxes


def check_box(told: Sequence[float], around: Sequence[Box]) -> None:
    """Raise DataError unless a box is around its mask; the reason names the layout that fits.

    Args:
        told: the four numbers of the file.
        around: boxes around the mask, any of which will do.
    """
    x, y, width, height = told
    corners = (x, y, x + width, y + height)
    if any(_near(corners, box) for box in around):
        return
    best = max(_iou(corners, box) for box in around)
    layout = next(
        (name for name, read in LAYOUTS.items() if any(_near(read(*told), box) for box in around)),
        "",
    )
    if best >= (LEAST_IOU_OF_ALIKE if layout else LEAST_IOU):
        return
    if not layout and are_fractions(told) and any(told):
        layout = FRACTIONS
    x0, y0, x1, y1 = around[-1]
    raise DataError(
        f"bbox {list(told)} is not around its mask, which is at x {x0:g} to {x1:g} and y {y0:g} "
        f"to {y1:g}" + (f"; {layout}" if layout else "")
    )


def are_fractions(numbers: Sequence[float]) -> bool:
    """Return whether all numbers may be shares of a picture's sides instead of pixels."""
    return all(0 <= number <= 1 for number in numbers)


def may_be_empty(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> bool:
    """Return whether polygons may have no pixel of a picture of `size`, (H, W).

    Those that surely have some need not be drawn to tell: a circle of area / perimeter fits into
    a polygon, and one of 0.71 pixels has the centre of a pixel in it.
    """
    for polygon in polygons:
        x, y = polygon[::2], polygon[1::2]
        if min(x) >= 0 and min(y) >= 0 and max(x) <= size[1] and max(y) <= size[0]:
            sides = range(len(x))
            area = abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in sides)) / 2
            around = sum(math.hypot(x[i] - x[i - 1], y[i] - y[i - 1]) for i in sides)
            if area > 0.75 * around:
                return False
    return True


def _around(polygons: Sequence[Sequence[float]]) -> Box:
    return (
        min(min(polygon[::2]) for polygon in polygons),
        min(min(polygon[1::2]) for polygon in polygons),
        max(max(polygon[::2]) for polygon in polygons),
        max(max(polygon[1::2]) for polygon in polygons),
    )


def _meets(box: Box, size: tuple[int, int]) -> bool:
    return box[0] < size[1] and box[1] < size[0] and box[2] > 0 and box[3] > 0


def _near(one: Box, other: Box) -> bool:
    return all(abs(a - b) <= NEAR for a, b in zip(one, other, strict=True))


def _iou(one: Box, other: Box) -> float:
    areas = [max(0.0, x1 - x0) * max(0.0, y1 - y0) for x0, y0, x1, y1 in (one, other)]
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    return common / total if (total := sum(areas) - common) > 0 else 0.0
