"""Tensors in files: safetensors, which ours are, and what torch.save writes.

Only tensors, numbers and texts are read; nothing else is unpickled. How much is allocated is
bounded by the size of the file.
"""

import hashlib
import json
import re
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from results.errors import UserError, WeightsError, reason_of
from results.files import write_bytes
from supernet.weights.beginning import MOST_HEADER_BYTES, check_header, regular_size

State = dict[str, Tensor]
MOST_INFLATED = 8  # times the bytes of a file that its compressed parts may have
CHUNK = 2**20  # bytes


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all; its bytes depend on the contents alone.

    A file that has these contents already stays as it is: results are marked with its hash.
    Raises RunError where `path` cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(plain, metadata=dict(metadata))
    header, begins = _sorted_header(data)
    body = memoryview(data)[begins:]
    if not _holds(path, header, body):
        write_bytes(path, header, body)


def read_tensors(
    path: Path, *, error: type[UserError] = WeightsError
) -> tuple[State, dict[str, str]]:
    """Return the tensors of a safetensors file, on the CPU, and its metadata.

    The tensors are parts of the file that are read as they are used. Raises `error`.
    """
    check_header(path, error)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except Exception as reason:  # a dtype that PyTorch does not have gives a KeyError, and so on
        raise error(f"{path} is damaged: {reason_of(reason)}") from None


def sha256_of(path: Path) -> str:
    """Return the hash of a file, in hexadecimal; results are marked with it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_pickled(path: Path) -> Any:
    """Return what torch.save wrote: tensors, numbers and texts in dicts and lists, and flags.

    Flags are an argparse.Namespace, which timm and others keep beside the weights.

    Raises WeightsError for anything else, and for a file that claims to hold more than it can.
    """
    size = regular_size(path, WeightsError)
    try:
        inflated, mapped = 0, False
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                parts = archive.infolist()
            inflated = sum(part.file_size for part in parts)
            mapped = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
        if inflated > (size if mapped else MOST_INFLATED * size):
            raise WeightsError(
                f"{path} has {size:,} bytes and claims to hold {inflated:,}; save the "
                "state_dict() of the model with torch.save, uncompressed"
            )
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except WeightsError:
        raise
    except Exception as reason:  # torch.load raises whatever its readers raise
        more = "Unsupported" in str(reason) or "weights_only" in str(reason)
        kind = re.search(r"GLOBAL ([\w.]+)", str(reason))
        what = f"holds more than tensors ({kind[1]})" if kind else "holds more than tensors"
        what = what if more else "is damaged, or no checkpoint of PyTorch"
        raise WeightsError(
            f"{path} {what}; save the state_dict() of the model with torch.save"
        ) from None


def _sorted_header(data: bytes) -> tuple[bytes, int]:
    """Return the length and header of a safetensors file, and where its tensors begin.

    Its metadata are put in order, which the library writes in any.
    """
    begins = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begins])
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text, begins


def _holds(path: Path, header: bytes, body: memoryview) -> bool:
    """Tell whether a file has these contents, its metadata in whatever order."""
    try:
        most = len(header) + len(body) + MOST_HEADER_BYTES
        if not path.is_file() or path.stat().st_size > most:
            return False
        with path.open("rb") as file:
            length = file.read(8)
            there = int.from_bytes(length, "little")
            if there > MOST_HEADER_BYTES:
                return False
            present, _ = _sorted_header(length + file.read(there))
            same = present == header
            for start in range(0, len(body), CHUNK):
                same = same and file.read(CHUNK) == bytes(body[start : start + CHUNK])
            return same and not file.read(1)
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
