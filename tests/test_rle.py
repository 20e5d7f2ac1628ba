"""COCO run lengths against pycocotools' algorithm, transcribed, and against their definition."""

import json

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.errors import DataError
from supernet.rle import area, box, decode, encode
from supernet.tasks.annotated_pictures import box_of

masks = hnp.arrays(bool, st.tuples(st.integers(0, 20), st.integers(0, 20)))


def slow_counts(mask):
    """Pixel by pixel, down the columns."""
    counts, value = [0], False
    for pixel in mask.T.reshape(-1):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def slow_string(counts):
    """rleToString of maskApi.c."""
    text = ""
    for i, number in enumerate(counts):
        x = number - counts[i - 2] if i > 2 else number
        more = True
        while more:
            character = x & 0x1F
            x >>= 5
            more = x != -1 if character & 0x10 else x != 0
            text += chr((character | 0x20 if more else character) + 48)
    return text


@given(masks)
def test_decode_inverts_encode(mask):
    for compressed in (True, False):
        rle = json.loads(json.dumps(encode(mask, compressed=compressed)))
        assert np.array_equal(decode(rle), mask)
        assert decode(rle).shape == mask.shape
        assert area(rle) == mask.sum()


@given(masks)
def test_the_box_is_that_of_the_mask(mask):
    assert box(encode(mask)) == (box_of(mask) if mask.any() else None)


@given(masks)
def test_encode_equals_its_definition(mask):
    counts = slow_counts(mask)
    assert encode(mask, compressed=False) == {"size": list(mask.shape), "counts": counts}
    assert encode(mask)["counts"] == slow_string(counts)


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=12))
def test_long_runs_survive_the_string(counts):
    rle = {"size": [1, sum(counts)], "counts": slow_string(counts)}
    assert area(rle) == sum(counts[1::2])


def test_equals_pycocotools():
    # mask.encode of pycocotools 2.0.11
    y, x = np.mgrid[:50, :70]
    disc = (y - 20) ** 2 + (x - 30) ** 2 < 100
    counts = "ZQ19X12M4N0O2N2O0000000000000001N2N102L3N]^1"
    assert encode(disc) == {"size": [50, 70], "counts": counts}
    assert np.array_equal(decode({"size": [50, 70], "counts": counts}), disc)


def test_bytes_of_pycocotools_are_read():
    assert decode({"size": [2, 2], "counts": b"13"}).sum() == 3


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({}, "need 'size'"),
        ({"size": [2, 2]}, "need 'size'"),
        ({"size": [2], "counts": [4]}, "need 'size'"),
        ({"size": [2, -2], "counts": [4]}, "need 'size'"),
        ({"size": [2.0, 2], "counts": [4]}, "need 'size'"),
        ({"size": 4, "counts": [4]}, "need 'size'"),
        ([2, 2], "need 'size'"),
        ({"size": [2, 2], "counts": None}, "integers or a string"),
        ({"size": [2, 2], "counts": [1.0, 3]}, "integers or a string"),
        ({"size": [2, 2], "counts": [1, 2]}, "3 pixels for a mask of 2 x 2 = 4"),
        ({"size": [2, 2], "counts": []}, "0 pixels"),
        ({"size": [2, 2], "counts": [5]}, "negative or exceeds 4"),
        ({"size": [2, 2], "counts": [-1, 5]}, "negative or exceeds 4"),
        ({"size": [2, 2], "counts": [10**30, 4]}, "negative or exceeds 4"),
        ({"size": [2, 2], "counts": "12"}, "3 pixels for a mask"),
        ({"size": [2, 2], "counts": ""}, "0 pixels"),
        ({"size": [2, 2], "counts": "1P"}, "ends within a number"),
        ({"size": [2, 2], "counts": "1 3"}, "character ' ' at position 1"),
        ({"size": [2, 2], "counts": "1\N{DEGREE SIGN}"}, "not ASCII"),
        ({"size": [2, 2], "counts": "o" * 13 + "0"}, "more than 60 bits"),
        ({"size": [2, 2], "counts": "N3"}, "negative or exceeds 4"),
    ],
)
def test_damage_is_named(rle, message):
    for read in (decode, area):
        with pytest.raises(DataError, match=message):
            read(rle)


@given(st.text(), st.integers(0, 9), st.integers(0, 9))
def test_any_string_is_a_mask_or_an_error(text, height, width):
    try:
        mask = decode({"size": [height, width], "counts": text})
    except DataError:
        return
    assert mask.shape == (height, width)


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros(4, bool), np.zeros((1, 2, 2), bool)])
def test_only_masks_are_encoded(mask):
    with pytest.raises(DataError, match="must be boolean of shape"):
        encode(mask)
