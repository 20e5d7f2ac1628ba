"""How files of weights begin: what kind they are, and what safetensors hold beside the numbers.

Nothing of it takes PyTorch or safetensors, so that a network can be looked up in a file without.
"""

import math
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Any

import msgspec

from results.errors import UserError, WeightsError
from results.reading import Record, as_kind, parse_json

MOST_HEADER_BYTES = 2**25  # of safetensors; that of the largest supernet has 2**20
# How files begin that stand where weights should, and those of torch.save, zipped or not.
POINTER = re.compile(rb"version https://(git-lfs|hawser)\.github\.com/spec/")
WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--)", re.I)
PICKLED = (b"PK", b"\x80")
METADATA = "__metadata__"
Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Entry(Record, frozen=True):
    """A tensor in a safetensors file."""

    shape: list[Whole]
    data_offsets: tuple[Whole, Whole]


def read_beginning(
    path: Path, *, error: type[UserError] = WeightsError
) -> tuple[dict[str, str], int]:
    """Return the metadata of a safetensors file, and how many numbers its tensors have.

    Raises `error` where it is damaged: also where it ends before or after its tensors do.
    """
    size = regular_size(path, error)
    length = check_header(path, error)
    try:
        with path.open("rb") as file:
            text = file.read(8 + length)[8:].decode()
    except (OSError, UnicodeDecodeError) as reason:
        raise error(f"{path} is damaged: {reason}") from None
    where = f"{path} is damaged: its header"
    fields = parse_json(text, dict[str, Any], where, error=error)
    metadata = as_kind(fields.pop(METADATA, {}), dict[str, str], where, error=error)
    entries = as_kind(fields, dict[str, _Entry], where, error=error)
    end = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if 8 + length + end != size:
        raise error(f"{path} is damaged: it has {size:,} bytes, not {8 + length + end:,}")
    return metadata, sum(math.prod(entry.shape) for entry in entries.values())


def is_safetensors(path: Path, *, error: type[UserError] = WeightsError) -> bool:
    """Tell whether a file is safetensors, by its first bytes: eight of length, then JSON.

    Raises `error` for what is unreadable, or stands where weights should: a pointer of Git LFS, a
    web page, anything else that is named .safetensors.
    """
    regular_size(path, error)
    try:
        with path.open("rb") as file:
            begin = file.read(1024)
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror or reason}") from None
    if POINTER.match(begin):
        raise error(f"{path} is a pointer of Git LFS, not the weights; run git lfs pull")
    if WEB_PAGE.match(begin):
        raise error(f"{path} is a web page, not weights; download it again")
    is_json = begin[8:9] == b"{"
    if not is_json and path.suffix.lower() == ".safetensors":
        if begin.startswith(PICKLED):  # torch.load goes by the name
            raise error(f"{path} is no safetensors file but one of torch.save; name it .pt")
        raise error(f"{path} is damaged: it does not begin as a safetensors file")
    return is_json


def regular_size(path: Path, error: type[UserError]) -> int:
    """Return the bytes of a file. Raises `error` for a FIFO, say, which would never end."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as reason:  # ValueError: a name with a zero byte
        raise error(f"cannot read {path}: {getattr(reason, 'strerror', None) or reason}") from None
    if stat.S_ISDIR(status.st_mode):
        raise error(f"cannot read {path}: Is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise error(f"cannot read {path}: it is no regular file")
    return status.st_size


def check_header(path: Path, error: type[UserError]) -> int:
    """Return the bytes of a safetensors file's header. Raises `error` for an impossible length."""
    size = regular_size(path, error)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror or reason}") from None
    if length > min(size - 8, MOST_HEADER_BYTES):
        raise error(f"{path} is damaged: its header would have {length:,} bytes")
    return length
