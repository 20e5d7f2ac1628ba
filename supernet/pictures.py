"""Pictures and masks from files: read, resized and normalised alike by all tasks.

H height, W width. What cannot be read raises DataError, which names the file.
"""

import math
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from results.errors import DataError

FORMATS = (  # Pillow's names; of others some run programs on what they read
    *("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP", "AVIF", "TIFF", "JPEG2000", "PPM", "GIF"),
)
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")  # of the formats
MOST_PIXELS = 200_000_000  # of a picture; Pillow holds up to 4 bytes of each
TOO_LARGE = (
    f"it has more than {MOST_PIXELS // 10**6} megapixels; scale it down, or cut it into tiles"
)
LARGE, REDUCED = 50_000_000, 16_000_000  # pixels; above the first, up to the second are kept
STRIP = 2**22  # pixels that are converted at a time
# Pillow's own bound, below ours, and it cannot be lifted for one file: it refuses twice this.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MOST_PIXELS // 2)
IGNORED = 255  # label of pixels that do not count
ORIENTATION = 0x0112  # the EXIF tag; 1, which is not listed below: as stored
SUBFILE, PREVIEW = 254, 0b101  # of a page of a TIFF: a smaller copy, or what is transparent
MOST_PAGES = 1000  # of a TIFF that are looked at
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UNREADABLE = (  # what Pillow raises for files that are not, or no longer, pictures
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
T = TypeVar("T")


class Normalisation(NamedTuple):
    """Mean and standard deviation of RGB in 0..1, see `normalise`."""

    mean: Sequence[float]
    std: Sequence[float]


def read_rgb(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Return a picture as RGB, 8 bits a channel, upright.

    16-bit greys are scaled, CMYK and palettes are converted, what is transparent is seen on
    white. A camera's orientation (EXIF) is applied. Without `size`, pictures of more than LARGE
    pixels are reduced by a whole factor, to the mean of each square, to REDUCED at most.

    Args:
        size: (H, W) of the labels. A picture of that size as it is stored, but not upright,
            stays as it is stored: its labels were made by a program that ignores EXIF.

    Raises:
        DataError: the file is damaged, no picture, too large, or not of `size` either way.
    """
    return read_turned(path, size, reduce=size is None)[0]


def read_turned(
    path: Path, size: tuple[int, int] | None = None, *, reduce: bool = False
) -> tuple[Image.Image, bool]:
    """Return what `read_rgb` does, and whether nothing tells that labels are of it upright.

    They may be of the stored picture too where the two are of one size, or no size is given.
    """

    def decode(file: Image.Image) -> tuple[Image.Image, Image.Transpose | None]:
        _check_pixels(file)
        factor = 1
        if reduce and file.width * file.height > LARGE:
            # JPEGs are decoded at half their size or less
            file.draft(file.mode, (file.width // 2, file.height // 2))
            factor = math.ceil(math.sqrt(file.width * file.height / REDUCED))
        file.load()
        turn = _turn(file)  # of PNGs behind the pixels
        return _to_rgb(file, factor), turn

    stored, turn = _opened(path, "picture", decode)
    if turn is None:
        upright = stored
    elif size is None or _turned(hw(stored), turn) == size:
        upright = stored.transpose(turn)
    else:
        upright = stored
    if size is None or hw(upright) == size:
        alike = size is None or hw(stored) == _turned(hw(stored), turn)
        unsure = turn is not None and alike
        return upright, unsure
    raise DataError(
        f"{path} is {_text(_turned(hw(stored), turn))} (height x width), its labels are "
        f"{_text(size)}"
    )


def read_indices(path: Path) -> NDArray[Any]:
    """Return a mask, (H, W): grey values or, of a palette picture, its indices.

    Of the least of uint8, uint16 and int32 that its kind of file needs. Values are those that are
    stored, also of fewer bits than 8, which Pillow spreads over 0 to 255.

    Raises:
        DataError: the file is damaged, no picture or too large, has colours instead of indices,
            is of a format that changes values, or has several pages.
    """

    def decode(file: Image.Image) -> NDArray[Any]:
        _check_pixels(file)
        if file.format in LOSSY:
            raise DataError(
                f"mask {path} is a {file.format}, which changes labels; make it a PNG from what "
                "it was made of"
            )
        mode = file.mode
        if mode not in ("1", "L", "P", "I") and not mode.startswith("I;16"):
            raise DataError(
                f"mask {path} holds colours (mode {mode}); a PNG of class indices, grey or with "
                "a palette, is expected"
            )
        if _has_pages(file):
            raise DataError(
                f"mask {path} has several pages, and one can be its labels; save that page alone"
            )
        tile = tuple(file.tile[0]) if file.tile else ("", None, 0, ())  # type: ignore[attr-defined]
        if tile[0] == "ppm":
            return _greys_of(file, tile)
        scale = _scale(file, tile)
        file.load()
        kind = np.int32 if mode == "I" else np.uint16 if mode.startswith("I") else np.uint8
        values = np.empty((file.height, file.width), kind)
        for top, strip in _strips(file, 1):
            part = np.asarray(strip)
            values[top : top + len(part)] = part if scale == 1 else np.rint(part / scale)
        return values

    return _opened(path, "mask", decode)


def _scale(file: Image.Image, tile: tuple[Any, ...]) -> float:
    """Return how many times the stored values of a grey picture Pillow's are, before it loads."""
    decoder, arguments = tile[0], tile[3]  # then where it goes, and where in the file it is
    if decoder == "ppm_plain" and isinstance(arguments, tuple):  # of a mode and the largest value
        return (65535 if file.mode == "I" else 255) / int(arguments[-1])
    stored = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return {"L;2": 85.0, "L;4": 17.0}.get(str(stored)[:3], 1.0)  # L;4I, L;4R as well


def _greys_of(file: Any, tile: tuple[Any, ...]) -> NDArray[Any]:
    """Return what a binary PGM stores, (H, W). Raises ValueError for more than its header says."""
    most = int(tile[3][-1])
    kind = np.dtype(np.uint8 if most < 256 else ">u2")
    size = file.height * file.width
    file.fp.seek(tile[2])
    data = file.fp.read(size * kind.itemsize)
    if len(data) < size * kind.itemsize:
        raise ValueError("image file is truncated")
    values = np.frombuffer(data, kind).reshape(file.height, file.width)
    if int(values.max(initial=0)) > most:
        raise ValueError(f"it holds {values.max()}, and its header says {most} at most")
    return values.astype(np.uint8 if most < 256 else np.int32)


def _has_pages(file: Any) -> bool:
    """Return whether a file has other pictures of its size: pages or frames, not previews."""
    if not getattr(file, "is_animated", False):
        return False
    if file.format != "TIFF":
        return True
    size, found = file.size, False
    with suppress(*UNREADABLE):  # after the last page
        for page in range(1, MOST_PAGES):
            file.seek(page)
            if file.size == size and not file.tag_v2.get(SUBFILE, 0) & PREVIEW:
                found = True
                break
    file.seek(0)
    return found


def _opened(path: Path, what: str, decode: Callable[[Image.Image], T]) -> T:
    """Return what `decode` makes of the file. Raises DataError, also for a pipe or device."""
    with warnings.catch_warnings():
        # about metadata and unusual files that are read all the same
        warnings.simplefilter("ignore")
        try:
            with _regular(path) as file, Image.open(file, formats=_formats()) as image:
                return decode(image)
        except DataError:
            raise
        except Image.DecompressionBombError:
            raise DataError(f"cannot read {what} {path}: {TOO_LARGE}") from None
        except UNREADABLE as error:
            raise DataError(f"cannot read {what} {path}: {_reason(error)}") from None


@contextmanager
def _regular(path: Path) -> Iterator[Any]:
    """Open a regular file. Raises OSError, also for pipes, which would never end."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        kind = os.fstat(handle).st_mode
        if not stat.S_ISREG(kind):
            raise OSError(0, "Is a directory" if stat.S_ISDIR(kind) else "it is no regular file")
        yield file


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_pixels(image: Image.Image) -> None:
    """Raise DecompressionBombError for too many pixels, before anything is decoded."""
    if image.width * image.height > MOST_PIXELS:
        raise Image.DecompressionBombError


def _turned(size: tuple[int, int], turn: Image.Transpose | None) -> tuple[int, int]:
    """Return (H, W) of a picture after a turn."""
    sideways = turn is not None and turn not in (
        *(Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM),
        Image.Transpose.ROTATE_180,
    )
    return (size[1], size[0]) if sideways else size


def read_size(path: Path) -> tuple[int, int]:
    """Return (H, W) of a picture upright, by its header. Raises DataError."""
    try:
        if path.is_file():
            with Image.open(path, formats=_formats()) as image:
                return _turned(hw(image), _turn(image))
    except Exception:  # whatever Pillow raises, read_rgb has words for it
        pass
    return hw(read_rgb(path))


def stored_size(path: Path) -> tuple[int, int]:
    """Return (H, W) of a picture as it is stored, by its header alone. Raises DataError."""

    def header(file: Image.Image) -> tuple[int, int]:
        _check_pixels(file)
        return hw(file)

    return _opened(path, "picture", header)


def other_size(path: Path, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return (H, W) of a picture that has not `size`, upright or as it is stored, else None.

    None also for one that cannot be read, which is not told of here.
    """
    try:
        stored = stored_size(path)
        # Where only a turned one fits: how it is turned may stand behind a PNG's pixels.
        fits = stored == size or (stored[::-1] == size and read_size(path) == size)
    except DataError:
        return None
    return None if fits else stored


def hw(image: Image.Image) -> tuple[int, int]:
    """Return (height, width); Pillow's own `size` is the other way round."""
    return image.height, image.width


def resize_and_crop(image: Image.Image, size: tuple[int, int], crop_pct: float) -> Image.Image:
    """Prepare a picture as is official for classifiers: the centre, `crop_pct` of the shorter side.

    Resized (bicubic, antialiased) such that ceil(size / crop_pct) just fits in, then cropped
    to `size`, (H, W). For squares the same as torchvision's Resize and CenterCrop.

    Source: https://github.com/mit-han-lab/efficientvit, applications/efficientvit_cls.
    """
    height, width = hw(image)
    tall, wide = (math.ceil(side / crop_pct) for side in size)
    if tall * width >= wide * height:  # the height is what limits
        wide = int(tall * width / height)
    else:
        tall = int(wide * height / width)
    if (tall, wide) != (height, width):
        image = image.resize((wide, tall), Image.Resampling.BICUBIC)
    top, left = round((tall - size[0]) / 2), round((wide - size[1]) / 2)
    return image.crop((left, top, left + size[1], top + size[0]))


def resize_bicubic(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) to `size`, without antialiasing: OpenCV's INTER_CUBIC, to one grey level.

    The official evaluation of segmentation prepares pictures so.
    """
    if pixels.shape[:2] == size:
        return pixels
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
    resized: NDArray[np.uint8] = x[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return resized


def to_tensor(pixels: Image.Image | NDArray[np.uint8]) -> Tensor:
    """Return a picture, (H, W, 3), as (3, H, W), uint8."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (pixels / 255 - mean) / std of each channel, float32, of (..., 3, H, W), uint8."""
    shape = (3, 1, 1)
    return (pixels.float() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def _to_rgb(image: Image.Image, factor: int) -> Image.Image:
    """Return 8-bit RGB, sides divided by `factor`, strip by strip: copies of all would add up."""
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode == "RGB" and factor == 1 and "transparency" not in image.info:
        return image.copy() if image.width * image.height <= STRIP else image
    scale = 1
    if image.mode.startswith("I"):  # 16 bits a pixel, or 32 of which 16 are used
        sixteen = image.mode.startswith("I;16") or (image.getextrema()[1] or 0) > 255  # type: ignore[operator]
        scale = 257 if sixteen else 1
    result = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top, strip in _strips(image, factor):
        part = _strip_to_rgb(strip, scale)
        result.paste(part.reduce(factor) if factor > 1 else part, (0, top // factor))
    return result


def _strips(image: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """Yield each strip with its top, its height a multiple of `factor` but for the last one's."""
    rows = max(1, STRIP // max(image.width * factor, 1)) * factor
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _strip_to_rgb(image: Image.Image, scale: int) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float32) / scale
        return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what turns the pixels of `image`, as they are stored, upright."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except UNREADABLE:  # damaged metadata of a sound picture
        return None


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "damaged, or too large for the memory that is left"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    return "not a picture, or damaged" if text.startswith("cannot identify") else text or "damaged"


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
