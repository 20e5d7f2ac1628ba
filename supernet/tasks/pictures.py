"""Pictures and masks from files: found, read, resized and normalised alike by all tasks.

H height, W width. What cannot be read raises DataError, which names the file.
"""

import difflib
import math
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from results.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
IGNORED = 255  # label of pixels that do not count
ORIENTATION = 0x0112  # the EXIF tag; 1, which is not listed below: as stored
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


def check_folder(folder: Path) -> None:
    """Raise DataError, with the nearest name beside it, unless `folder` is a folder."""
    if folder.is_dir():
        return
    if folder.exists():
        raise DataError(f"{folder} is a file; --data takes a folder")
    beside = folder.absolute().parent
    names = sorted(path.name for path in beside.iterdir()) if beside.is_dir() else []
    close = difflib.get_close_matches(folder.name, names, n=1)
    raise DataError(f"no folder {folder}" + (f"; did you mean {close[0]!r}?" if close else ""))


def contents(folder: Path, most: int = 6) -> str:
    """`found a/, b.txt, …`, to end an error about a layout with."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    listed = ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
    return f"found {listed or 'nothing'}"


def list_folders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted by name; hidden ones are none."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and _is_visible(path.name))


def list_pictures(folder: Path) -> list[Path]:
    """All pictures in `folder` and below, sorted folder by folder; links are followed."""
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if _is_visible(name))
        found += [Path(where, name) for name in sorted(files) if is_picture(name)]
    return found


def is_picture(name: str) -> bool:
    return _is_visible(name) and name.lower().endswith(SUFFIXES)


def pair_masks(pictures: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Every picture below `pictures` with the PNG of its name at the same place below `masks`."""
    pairs = []
    for picture in list_pictures(pictures):
        mask = (masks / picture.relative_to(pictures)).with_suffix(".png")
        if not mask.is_file():
            raise DataError(f"{picture} has no mask: {mask} is missing")
        pairs.append((picture, mask))
    return pairs


def read_rgb(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture as RGB, 8 bits a channel, upright.

    16-bit greys are scaled, CMYK and palettes are converted, what is transparent is seen on
    white. A camera's orientation (EXIF) is applied.

    Args:
        size: (H, W) of the labels. A picture of that size as it is stored, but not upright,
            stays as it is stored: its labels were made by a program that ignores EXIF.

    Raises:
        DataError: the file is damaged, no picture, or not of `size` either way.
    """
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # about metadata and unusual files that are read all the same
        try:
            with Image.open(path) as file:
                stored = _to_rgb(file)
                turn = _turn(file)
        except UNREADABLE as error:
            raise DataError(f"cannot read picture {path}: {_reason(error)}") from None
    upright = stored if turn is None else stored.transpose(turn)
    if size is None or hw(upright) == size:
        return upright
    if hw(stored) == size:
        return stored
    raise DataError(
        f"{path} is {_text(hw(upright))} (height x width), its labels are {_text(size)}"
    )


def read_indices(path: Path) -> NDArray[np.int64]:
    """A mask, (H, W): grey values or, of a palette picture, its indices.

    Raises:
        DataError: the file is damaged or no picture, or has colours instead of indices.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as file:
                mode = file.mode
                values = np.array(file)
        except UNREADABLE as error:
            raise DataError(f"cannot read mask {path}: {_reason(error)}") from None
    if mode not in ("1", "L", "P", "I") and not mode.startswith("I;16"):
        raise DataError(
            f"mask {path} holds colours (mode {mode}); a PNG of class indices, grey or with a "
            "palette, is expected"
        )
    return values.astype(np.int64)


def hw(image: Image.Image) -> tuple[int, int]:
    """(height, width); Pillow's own `size` is the other way round."""
    return image.height, image.width


def resize_and_crop(image: Image.Image, size: tuple[int, int], crop_pct: float) -> Image.Image:
    """The official preparation for classifiers: the centre, `crop_pct` of the shorter side.

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
    """(H, W, 3) to `size`, without antialiasing: OpenCV's INTER_CUBIC, to one grey level.

    The official evaluation of segmentation prepares pictures so.
    """
    if pixels.shape[:2] == size:
        return pixels
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
    resized: NDArray[np.uint8] = x[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return resized


def to_tensor(pixels: Image.Image | NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) -> (3, H, W), uint8."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(..., 3, H, W), uint8 -> float32: (x / 255 - mean) / std for each channel."""
    shape = (3, 1, 1)
    return (pixels.float() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, or 32 of which 16 are used
        grey = np.array(image).astype(np.float64)
        scale = 257 if grey.max(initial=0) > 255 or image.mode.startswith("I;16") else 1
        return Image.fromarray((grey / scale).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns the pixels of `image`, as they are stored, upright."""
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


def _is_visible(name: str) -> bool:
    return not name.startswith(".")
