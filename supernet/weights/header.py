"""The names of a network's classes, in their order, in the metadata of its weights."""

import json
from collections.abc import Sequence
from pathlib import Path

from results.errors import WeightsError
from results.reading import parse_json
from supernet.weights.files import metadata_in

CLASSES = "classes"  # name in the metadata: a JSON list
OURS = {"arch", "space"}  # one of them is in the metadata of every file that was written here


def classes_text(names: Sequence[str]) -> dict[str, str]:
    """Return names as metadata; nothing where they are unknown."""
    return {CLASSES: json.dumps([as_text(name) for name in names])} if names else {}


def classes_in(path: Path | str) -> tuple[str, ...]:
    """Return what a weights file of ours calls its classes; () where it does not say.

    Raises WeightsError for a file that is damaged.
    """
    metadata = metadata_in(Path(path))
    if CLASSES not in metadata or not OURS & metadata.keys():
        return ()
    where = f"{path} is damaged: its {CLASSES}"
    names = tuple(parse_json(metadata[CLASSES], list[str], where, error=WeightsError))
    if len(set(names)) != len(names):
        raise WeightsError(f"{where} name one twice")
    return names


def as_text(name: str) -> str:
    """A folder's name as text: bytes of it that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
