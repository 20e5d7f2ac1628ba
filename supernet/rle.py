"""Masks as COCO run lengths, `{"size": [height, width], "counts": ...}`, for JSON.

Pixels are read down the columns; `counts` are the lengths of runs of 0 and 1 in turn, 0 first,
as a list of integers or as COCO's string of 5-bit groups.

Source: Lin et al., Microsoft COCO, 2014, https://arxiv.org/abs/1405.0312, and its
maskApi.c, https://github.com/cocodataset/cocoapi
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from results.errors import DataError, shown

BITS = 5  # of a number in each character
MORE = 1 << BITS  # set in every character but a number's last one
FIRST_CHARACTER = ord("0")  # stands for 0
MAX_GROUPS = 12  # of 5 bits in an int64
MOST_PIXELS = 2**28  # of a mask that is decoded


class Rle(TypedDict):
    """One mask, as JSON holds it."""

    size: list[int]  # height, width
    counts: list[int] | str


def encode(mask: NDArray[np.bool_], *, compressed: bool = True) -> Rle:
    """Return the run lengths of `mask`, (height, width); `compressed`: as a string.

    Raises DataError unless `mask` is two-dimensional and boolean.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise DataError(
            f"a mask must be boolean of shape (height, width), got {mask.dtype} of {mask.shape}"
        )
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    starts_with_one = pixels[:1].any()
    ends = np.concatenate([[0] if starts_with_one else [], changes, [pixels.size]])
    counts = np.diff(ends, prepend=0).astype(np.int64)
    height, width = mask.shape
    return {
        "size": [height, width],
        "counts": _to_string(counts) if compressed else counts.tolist(),
    }


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the mask, (height, width), of an `Rle`, or of one with bytes as pycocotools gives it.

    Raises DataError, telling what is damaged.
    """
    height, width = _size(rle)
    if height * width > MOST_PIXELS:
        raise DataError(f"a mask of {height} x {width} pixels is larger than any picture read here")
    counts = _counts(rle, height * width)
    values = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def area(rle: Mapping[str, Any]) -> int:
    """Return the number of pixels in the mask, without decoding it.

    Raises DataError, telling what is damaged.
    """
    height, width = _size(rle)
    return int(_counts(rle, height * width)[1::2].sum())


def box(rle: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """Return x and y of the corners of the box around the mask, without decoding it.

    Two edges lie past the last pixel. None for a mask without a pixel. Raises DataError.
    """
    height, width = _size(rle)
    counts = _counts(rle, height * width)
    stops = counts.cumsum()[1::2]
    starts = stops - counts[1::2]
    some = stops > starts
    if not some.any():
        return None
    starts, lasts = starts[some], stops[some] - 1
    whole = bool((starts // height != lasts // height).any())  # a run goes on in the next column
    top = 0 if whole else int((starts % height).min())
    bottom = height if whole else int((lasts % height).max()) + 1
    return float(starts[0] // height), float(top), float(lasts[-1] // height + 1), float(bottom)


def _size(rle: Mapping[str, Any]) -> tuple[int, int]:
    try:
        height, width = rle["size"]
        valid = all(type(side) is int and side >= 0 for side in (height, width))
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid or "counts" not in rle:
        raise DataError(f"run lengths need 'size': [height, width] and 'counts', got {shown(rle)}")
    return height, width


def _counts(rle: Mapping[str, Any], num_pixels: int) -> NDArray[np.int64]:
    """Return the counts, none of which is negative, and which fill the mask. Raises DataError."""
    raw = rle["counts"]
    if isinstance(raw, str | bytes):
        counts = _from_string(raw)
    elif isinstance(raw, list | tuple) and all(type(count) is int for count in raw):
        too_long = max(raw, default=0) > num_pixels  # may not even fit an int64
        counts = np.array([-1] if too_long or min(raw, default=0) < 0 else raw, dtype=np.int64)
    else:
        raise DataError(f"counts must be integers or a string, got {shown(raw)}")
    if ((counts < 0) | (counts > num_pixels)).any():
        raise DataError(f"damaged run lengths: a run is negative or exceeds {num_pixels} pixels")
    if counts.sum() != num_pixels:
        height, width = rle["size"]
        raise DataError(
            f"damaged run lengths: {counts.sum()} pixels for a mask of "
            f"{height} x {width} = {num_pixels}"
        )
    return counts


def _to_string(counts: NDArray[np.int64]) -> str:
    """Write each count less the one before last (from the fourth on), lowest 5 bits first."""
    numbers = counts.copy()
    numbers[3:] -= counts[1:-2]
    rest = numbers[:, None] >> (BITS * np.arange(MAX_GROUPS))
    groups = rest & (MORE - 1)
    # a number ends where all higher bits repeat the sign bit of its last group
    sign = -(groups >> (BITS - 1))
    ends = (rest >> BITS) == sign
    length = ends.argmax(axis=1)[:, None]
    position = np.arange(MAX_GROUPS)
    characters = groups + MORE * (position < length) + FIRST_CHARACTER
    return bytes(characters[position <= length].astype(np.uint8)).decode("ascii")


def _from_string(text: str | bytes) -> NDArray[np.int64]:
    """Undo `_to_string`. Raises DataError for what it cannot have written."""
    try:
        raw = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise DataError("damaged run lengths: a character that is not ASCII") from None
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - FIRST_CHARACTER
    wrong = np.flatnonzero((codes < 0) | (codes >= 2 * MORE))
    if wrong.size:
        place = int(wrong[0])
        raise DataError(f"damaged run lengths: character {chr(raw[place])!r} at position {place}")
    last = codes < MORE
    if not codes.size:
        return codes
    if not last[-1]:
        raise DataError("damaged run lengths: the string ends within a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MAX_GROUPS:
        raise DataError("damaged run lengths: a number of more than 60 bits")
    position = np.arange(codes.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & (MORE - 1)) << (BITS * position), starts)
    negative = (codes[ends] & (MORE >> 1)) != 0
    numbers -= np.where(negative, 1 << (BITS * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
