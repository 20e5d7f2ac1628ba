"""Values of masks as they are stored: fewer bits than 8, PGMs' largest values, pages."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from results.errors import DataError
from supernet.pictures import Normalisation, read_indices, read_rgb
from supernet.tasks.labelled_pictures import LabelledPictures
from tests.test_tasks import noise, save

HALVES = Normalisation((0.5,) * 3, (0.5,) * 3)


def packed(values, bits):
    """Rows of values, each row filled up to a whole byte."""
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in values.tolist()]
    rows = [row + "0" * (-len(row) % 8) for row in rows]
    return [int(row, 2).to_bytes(len(row) // 8, "big") for row in rows]


def png(values, bits, palette=b""):
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    height, width = values.shape
    pixels = b"".join(b"\0" + row for row in packed(values, bits))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 3 * bool(palette), 0, 0, 0))
        + (chunk(b"PLTE", palette) if palette else b"")
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


def tiff(values, bits):
    data = b"".join(packed(values, bits))
    data += b"\0" * (len(data) % 2)
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags[279] = len(data)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack("<I", 8 + len(data))
    return b"II*\0" + start + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def pgm(values, most, *, plain=False):
    height, width = values.shape
    head = f"P{2 if plain else 5}\n# made by hand\n{width} {height}\n{most}\n".encode()
    if plain:
        return head + " ".join(map(str, values.ravel().tolist())).encode() + b"\n"
    return head + values.astype(np.uint8 if most < 256 else ">u2").tobytes()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("make", [png, tiff])
def test_few_bits_hold_the_values_that_are_stored(tmp_path, make, bits):
    values = np.random.default_rng(bits).integers(0, 2**bits, (5, 7))
    path = tmp_path / "a.png"
    path.write_bytes(make(values, bits))
    found = read_indices(path)
    assert found.dtype == np.uint8
    assert (found == values).all()


def test_so_do_palettes_and_one_bit(tmp_path):
    path, values = tmp_path / "a.png", np.array([[0, 1, 2, 3]])
    path.write_bytes(png(values, 2, bytes(range(12))))
    assert (read_indices(path) == values).all()
    path.write_bytes(png(values % 2, 1))
    assert (read_indices(path) == values % 2).all()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("most", [1, 2, 3, 20, 100, 149, 254, 255, 256, 1000, 4095, 65534, 65535])
def test_pgms_hold_the_values_that_are_stored(tmp_path, most, plain):
    values = np.random.default_rng(most).integers(0, most + 1, (5, 7))
    values[0, :2] = 0, most
    path = tmp_path / "a.pgm"
    path.write_bytes(pgm(values, most, plain=plain))
    assert (read_indices(path) == values).all()


def test_pgms_that_hold_more_than_they_say_or_less_are_damaged(tmp_path):
    path = tmp_path / "a.pgm"
    path.write_bytes(pgm(np.array([[0, 1, 200]]), 3))
    with pytest.raises(DataError, match=r"a\.pgm: it holds 200, and its header says 3 at most"):
        read_indices(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a\.pgm: .*truncated"):
        read_indices(path)


def test_pictures_are_as_bright_as_before(tmp_path):
    (tmp_path / "a.pgm").write_bytes(pgm(np.array([[0, 1, 2, 3]]), 3))
    (tmp_path / "b.png").write_bytes(png(np.array([[0, 1, 2, 3]]), 2))
    for name in ("a.pgm", "b.png"):
        assert np.array(read_rgb(tmp_path / name))[0, :, 0].tolist() == [0, 85, 170, 255]


def test_an_evaluation_sees_their_classes(tmp_path):
    save(tmp_path / "images" / "a.png", noise(4, 4))
    (tmp_path / "masks").mkdir()
    values = np.arange(16).reshape(4, 4) % 4
    (tmp_path / "masks" / "a.png").write_bytes(png(values, 2))
    data = LabelledPictures(tmp_path, (32, 32), 150, HALVES)
    assert (data[0][1].numpy() == values).all()


def grey(*rows):
    return Image.fromarray(np.array(rows, np.uint8))


class TestPages:
    @pytest.mark.parametrize("suffix", ["tif", "gif", "png"])
    def test_several_are_refused(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        pages = [grey([0, 1], [1, 2]), grey([3, 1], [1, 0]), grey([2, 2], [1, 0])]
        pages[0].save(path, save_all=True, append_images=pages[1:])
        with pytest.raises(DataError, match=rf"a\.{suffix} has several pages, .*; save that page"):
            read_indices(path)
        pages[0].save(path, save_all=True)
        assert read_indices(path).tolist() == [[0, 1], [1, 2]]

    def test_previews_are_no_pages(self, tmp_path):
        path, small = tmp_path / "a.tif", grey([0])
        grey([0, 1], [1, 2]).save(path, save_all=True, append_images=[small, small])
        assert read_indices(path).tolist() == [[0, 1], [1, 2]]
